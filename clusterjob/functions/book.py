"""What is remembered of calls, beside the store: their results, or where they are.

One SQLite file, and a folder of large results, which are signed. The key of the signatures is in
the file, which is its owner's alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterjob.errors import StoreError
from clusterjob.runner import (
    Blob,
    Said,
    Signed,
    Untrusted,
    open_signed,
    read_signed,
    sign,
    write_signed,
)
from clusterjob.store import Store
from clusterjob.transport import make_state_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (value BLOB);
CREATE TABLE IF NOT EXISTS pools (
    id TEXT PRIMARY KEY, fingerprint TEXT, cluster TEXT, folder TEXT, secret BLOB,
    owner TEXT, leased REAL, generation INTEGER, number INTEGER, created REAL
);
CREATE TABLE IF NOT EXISTS workers (
    pool TEXT, generation INTEGER, elements INTEGER, token TEXT, PRIMARY KEY (pool, generation)
);
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, pool TEXT, number INTEGER, title TEXT, done REAL, said TEXT, value BLOB
);
CREATE INDEX IF NOT EXISTS by_pool ON calls (pool, number);
"""
_INSIDE = 1 << 18  # bytes of a result that stands in the file itself
_MANY = 500  # of one statement
BUSY = 30.0  # s for which another process may write


@dataclass
class PoolRow:
    """What is remembered of a pool.

    ``generation`` and ``number`` are the last ones that workers and calls of it were given.
    """

    id: str
    fingerprint: str
    cluster: dict[str, Any]
    folder: str
    secret: bytes
    owner: str
    leased: float  # s since the epoch: the last sign of the owner
    generation: int = 0
    number: int = 0


@dataclass
class CallRow:
    """What is remembered of a call: where it is, or what came of it."""

    key: str
    pool: str
    number: int
    done: float | None
    said: Said | None
    value: bytes | None


class Book:
    """The calls of one store. Its methods may be called from several threads.

    They raise :class:`StoreError`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._secret = b""

    def exists(self) -> bool:
        """Whether any call was remembered."""
        return (self.folder / "calls.sqlite").exists()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                connection = self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                except BaseException:
                    with contextlib.suppress(
                        sqlite3.Error
                    ):  # it was rolled back already
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: object) -> StoreError:
        hint = ""
        is_database = isinstance(error, sqlite3.DatabaseError)
        if is_database and not isinstance(error, sqlite3.OperationalError):
            hint = ". Move that folder away to begin anew; results of calls are forgotten then"
        return StoreError(
            f"{self.folder}: what is remembered of calls cannot be read or written: {error}{hint}"
        )

    def check(self) -> None:
        """See that it can be used."""
        self.pools(id="")

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        path = self.folder / "calls.sqlite"
        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            (self.folder / "results").mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            os.close(os.open(path, flags, 0o600))
            is_own = path.stat().st_uid == self.folder.stat().st_uid == os.geteuid()
        except OSError as error:
            raise self._unusable(error.strerror) from error
        if not is_own or self.folder.stat().st_mode & 0o022:
            raise self._unusable("it is another user's, or others may write to it")
        connection = sqlite3.connect(
            path, timeout=BUSY, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.executescript(_SCHEMA)
        connection.execute(
            "INSERT INTO secret SELECT ? WHERE NOT EXISTS (SELECT 1 FROM secret)",
            [secrets.token_bytes(32)],
        )
        self._secret = connection.execute("SELECT value FROM secret").fetchone()[0]
        self._connection = connection
        return connection

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- pools -------------------------------------------------------------------------------------

    def add_pool(self, row: PoolRow) -> None:
        """Remember a pool, before its folder is made."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO pools VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    *(row.id, row.fingerprint, json.dumps(row.cluster)),
                    json.dumps(row.folder),  # its name may be no text
                    *(row.secret, row.owner, row.leased),
                    *(row.generation, row.number, time.time()),
                ],
            )

    def pools(self, **fields: str) -> list[PoolRow]:
        """Return pools whose ``id`` or ``fingerprint`` is so, the newest first."""
        condition = " AND ".join(f"{name} = ?" for name in fields) or "1"
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id, fingerprint, cluster, folder, secret, owner, leased, generation, "
                f"number FROM pools WHERE {condition} ORDER BY created DESC",
                list(fields.values()),
            ).fetchall()
        return [_pool_row(row) for row in rows]

    def take_pool(self, row: PoolRow, owner: str, now: float) -> bool:
        """Make a pool somebody's, if it is still as it was seen; of two takers one gets it."""
        with self._transaction() as connection:
            done = connection.execute(
                "UPDATE pools SET owner = ?, leased = ? "
                "WHERE id = ? AND owner = ? AND leased = ?",
                [owner, now, row.id, row.owner, row.leased],
            )
            if not done.rowcount:
                return False
        row.owner, row.leased = owner, now
        return True

    def lease(self, pools: Iterable[PoolRow], now: float) -> None:
        """Say that the owner of pools is there."""
        with self._transaction() as connection:
            for row in pools:
                connection.execute(
                    "UPDATE pools SET leased = ? WHERE id = ?", [now, row.id]
                )
                row.leased = now

    def leave_pool(self, row: PoolRow) -> None:
        """Leave a pool to whoever comes next."""
        with self._transaction() as connection:
            connection.execute("UPDATE pools SET owner = '' WHERE id = ?", [row.id])

    def forget_pool(self, row: PoolRow) -> None:
        """Forget a pool whose folder is gone, and calls that are lost with it."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM pools WHERE id = ?", [row.id])
            connection.execute("DELETE FROM workers WHERE pool = ?", [row.id])
            connection.execute(
                "DELETE FROM calls WHERE pool = ? AND done IS NULL", [row.id]
            )

    def add_workers(self, row: PoolRow, elements: int) -> int:
        """Remember that workers are submitted; return the number of their generation."""
        with self._transaction() as connection:
            row.generation += 1
            connection.execute(
                "UPDATE pools SET generation = ? WHERE id = ?",
                [row.generation, row.id],
            )
            connection.execute(
                "INSERT INTO workers VALUES (?, ?, ?, '')",
                [row.id, row.generation, elements],
            )
        return row.generation

    def note_workers(self, row: PoolRow, generation: int, token: str) -> None:
        """Remember which job some workers are."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE workers SET token = ? WHERE pool = ? AND generation = ?",
                [token, row.id, generation],
            )

    def workers(self, row: PoolRow) -> list[tuple[int, int, str]]:
        """Return the workers of a pool: generation, how many, the token of their job."""
        with self._transaction() as connection:
            return connection.execute(
                "SELECT generation, elements, token FROM workers WHERE pool = ?",
                [row.id],
            ).fetchall()

    # -- calls -------------------------------------------------------------------------------------

    def calls(self, keys: Sequence[str]) -> dict[str, CallRow]:
        """Return what is remembered of calls."""
        found = {}
        with self._transaction() as connection:
            for start in range(0, len(keys), _MANY):
                some = keys[start : start + _MANY]
                marks = ", ".join("?" * len(some))
                for row in connection.execute(
                    "SELECT key, pool, number, done, said, value FROM calls "
                    f"WHERE key IN ({marks})",
                    some,
                ):
                    key, pool, number, done, said, value = row
                    words = json.loads(said) if said else None
                    found[key] = CallRow(
                        key,
                        pool,
                        number,
                        done,
                        words,
                        value,
                    )
        return found

    def on_their_way(self, row: PoolRow) -> dict[int, str]:
        """Return the keys of a pool's calls that have no result, by their numbers."""
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT number, key FROM calls WHERE pool = ? AND done IS NULL",
                [row.id],
            )
            return dict(found.fetchall())

    def send(
        self, row: PoolRow, calls: Iterable[tuple[str, int, str]], again: bool = False
    ) -> set[str]:
        """Remember calls that are about to be sent: key, number, title.

        Returns the keys of those that somebody else has sent, which are left alone; with ``again``
        they are the caller's.
        """
        clause = (
            "UPDATE SET pool = excluded.pool, number = excluded.number"
            if again
            else "NOTHING"
        )
        taken = set()
        with self._transaction() as connection:
            for key, number, title in calls:
                done = connection.execute(
                    "INSERT INTO calls VALUES (?, ?, ?, ?, NULL, NULL, NULL) "
                    f"ON CONFLICT (key) DO {clause}",
                    [key, row.id, number, title],
                )
                if not done.rowcount:
                    taken.add(key)
            connection.execute(
                "UPDATE pools SET number = ? WHERE id = ?", [row.number, row.id]
            )
        return taken

    def finish(
        self, results: Mapping[str, tuple[dict[str, Any], Sequence[Blob]]]
    ) -> None:
        """Keep results, by the keys of their calls: what is said of each, and its bytes."""
        rows: list[list[object]] = []
        with self._lock:
            self._open()
        for key, (said, blobs) in results.items():
            label = f"result:{key}"
            value = None
            if sum(map(len, blobs)) <= _INSIDE:
                value = b"".join(
                    sign(
                        self._secret,
                        label,
                        said["v"],
                        blobs,
                    )
                )
            else:
                self._write_large(
                    key,
                    label,
                    said["v"],
                    blobs,
                )
            words = json.dumps(said)
            rows.append([time.time(), words, value, key])
        with self._transaction() as connection:
            connection.executemany(
                "UPDATE calls SET done = ?, said = ?, value = ? WHERE key = ?", rows
            )

    def _write_large(
        self,
        key: str,
        label: str,
        said: Said,
        blobs: Sequence[Blob],
    ) -> None:
        path = self._path(key)
        part = f"{path}.{secrets.token_hex(4)}"
        try:
            write_signed(
                part,
                self._secret,
                label,
                said,
                blobs,
            )
            os.replace(part, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise self._unusable(error.strerror) from error

    def _path(self, key: str) -> str:
        return str(self.folder / "results" / key)

    def value(self, row: CallRow) -> Signed | None:
        """Return what is said of a result, and its bytes; None where it is not there any more.

        Raises :class:`StoreError` for one that was changed.
        """
        label = f"result:{row.key}"
        try:
            if row.value is not None:
                return open_signed(
                    row.value,
                    self._secret,
                    label,
                    f"call {row.key}",
                )
            return read_signed(self._path(row.key), self._secret, label)
        except FileNotFoundError:
            return None
        except (OSError, Untrusted) as error:
            raise StoreError(
                f"the result of a call that was remembered is not used: {error}. "
                "cache=False makes the call anew"
            ) from error

    def forget(self, keys: Iterable[str]) -> None:
        """Forget calls, so that they are made anew where somebody asks for them."""
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM calls WHERE key = ?", [(key,) for key in keys]
            )


def _pool_row(row: tuple[Any, ...]) -> PoolRow:
    name, fingerprint, cluster, folder, *rest = row
    return PoolRow(name, fingerprint, json.loads(cluster), json.loads(folder), *rest)


def book_of(store: Store) -> Book:
    """Return the book that goes with a store: beside its file or folder, or in this machine's own
    folder for stores that are elsewhere.
    """
    kind, _, rest = store.url.partition("://")
    path = Path(rest.removeprefix("/") if rest.startswith("//") else rest)
    if kind in ("sqlite", "file"):
        return Book(path.with_name(f"{path.stem}-calls"))
    digest = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    return Book(make_state_folder() / "calls" / digest)
