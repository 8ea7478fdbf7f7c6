"""A record in a file of its own: what stands there, and what tells one state of it from another."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from clusterjob.plain_files import read_text
from clusterjob.store.base import Damaged
from clusterjob.store.record import Record
from clusterjob.store.shape import read_values

Stamp = tuple[int, int, int]
_MOST_BYTES = 1 << 28  # of a record
# how the file of a record begins: see contents_of
_KEY = re.compile(r'\{"key": "([^"\\]+)"')


def contents_of(record: Record) -> str:
    """Return what the file of a record says."""
    contents = {
        "key": record.key,
        "name": record.name,
        "state": json.loads(record.to_json()),
        "spec": json.loads(record.spec_json),
    }
    return json.dumps(contents)


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what tells one state of a file from another."""
    return status.st_mtime_ns, status.st_size, status.st_ino


def stamp_of_entry(entry: os.DirEntry[str]) -> Stamp:
    """Return the stamp of a file; that of a link, where it leads nowhere."""
    try:
        return stamp_of(entry.stat())
    except FileNotFoundError:
        raise
    except OSError:  # reading it says why
        return stamp_of(entry.stat(follow_symlinks=False))


def read_record_file(path: Path) -> Record | Damaged | None:
    """Read a record; None where there is no file any more."""
    key = name = text = own_key = ""
    try:
        text = read_small(path)
        data = read_values(text)
        key, name = str(data["key"]), str(data["name"])
        record = Record.from_json(json.dumps(data["state"]), json.dumps(data["spec"]))
        if record.token != path.stem or record.key != key:
            own_key = record.key
            raise ValueError("it is the record of another job")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        written = _KEY.match(text)  # the beginning may tell whose record it was
        return Damaged(
            path.stem,
            f"{type(error).__name__}: {error}",
            key or (written[1] if written else ""),
            name,
            None,
            text,
            isinstance(error, OSError),
            own_key,
        )
    return record


def read_small(path: Path) -> str:
    """Read a file of the store, none of which is large."""
    return read_text(path, errors="surrogateescape", most=_MOST_BYTES)


def age_of(reading: Record | Damaged) -> tuple[float, str]:
    """Return what readings are sorted by, the newest last."""
    return (reading.created if isinstance(reading, Record) else 0.0, reading.token)


def copy_of(record: Record) -> Record:
    """Return a record of its own, so that nobody changes what is kept here."""
    return Record.from_json(record.to_json(), record.spec_json)
