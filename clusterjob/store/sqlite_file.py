"""A SQLite file as such: how it begins, its texts, and what can still be read of a broken one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clusterjob.store.record import Record
from clusterjob.store.rows import read_row

BEGINNING = b"SQLite format 3\0"  # sqlite.org/fileformat.html
_LEAST_ROW = 200  # bytes


def as_text(data: bytes) -> str:
    """Return text; bytes that are no UTF-8 harm their own record alone, where it is read."""
    return data.decode("utf-8", "surrogateescape")


def salvage(path: Path) -> Iterator[Record]:
    """Yield what can be read of a broken file, from both ends of what cannot.

    A copy is read, whose beginning and length were put right: SQLite reads nothing of a file
    without its first words, or that is shorter than it says.
    """
    seen = set()
    with tempfile.TemporaryDirectory(prefix="clusterjob-") as folder:
        copy = Path(folder, path.name)
        for suffix in ("", "-wal"):
            with contextlib.suppress(OSError):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        _put_right(copy)
        for order, beyond in (("ASC", ">"), ("DESC", "<")):
            connection = sqlite3.connect(copy)
            connection.text_factory = as_text
            with contextlib.suppress(sqlite3.Error), contextlib.closing(connection):
                most = copy.stat().st_size // _LEAST_ROW
                for record in _readable(connection, order, beyond, most):
                    if record.token not in seen:
                        seen.add(record.token)
                        yield record


def _put_right(path: Path) -> None:
    """Give a file the first words and the length of a database (sqlite.org/fileformat.html)."""
    with contextlib.suppress(OSError), path.open("r+b") as file:
        head = file.read(100)
        if len(head) < 100:
            return
        file.seek(0)
        file.write(BEGINNING)
        size = int.from_bytes(head[16:18], "big")
        pages = int.from_bytes(head[28:32], "big")
        there = file.seek(0, os.SEEK_END)
        file.truncate(max(there, (65536 if size == 1 else size) * pages))


def count_rows(path: Path) -> int | None:
    """Return how many records a broken file had, where that can still be told."""
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        with contextlib.closing(connection):
            found: int = connection.execute(
                "SELECT COUNT(*) FROM records"
            ).fetchone()[0]
            return found
    return None


def _readable(
    connection: sqlite3.Connection, order: str, beyond: str, most: int
) -> Iterator[Record]:
    """Yield records row by row, until there are no more or one cannot be read.

    Of a broken file rows may come in circles, or without end: not more than ``most`` are read.
    """
    last: int | None = None
    for _ in range(most):
        where = "" if last is None else f"WHERE rowid {beyond} {last}"
        row = connection.execute(
            "SELECT rowid, token, data, spec, key, name, job_id FROM records NOT INDEXED "
            f"{where} ORDER BY rowid {order} LIMIT 1"
        ).fetchone()
        if row is None:
            return
        last = row[0]
        reading = read_row(row[1:])
        if isinstance(reading, Record):
            yield reading
