"""Records in one SQLite file.

The columns beside ``data`` are copies for searching; the record itself is the JSON text. Every method is one transaction.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from clusterjob.errors import StoreError
from clusterjob.store.record import Record

VERSION = 1
_SCHEMA = """
CREATE TABLE records (
    token TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    current INTEGER,            -- 1 for the latest submission of a key, NULL for the ones before it
    name TEXT NOT NULL,
    job_id TEXT,
    status INTEGER NOT NULL,
    created REAL NOT NULL,
    data TEXT NOT NULL,
    spec TEXT NOT NULL
);
CREATE UNIQUE INDEX one_a_key ON records (key, current);
CREATE INDEX by_status ON records (status) WHERE current = 1;
CREATE INDEX by_name ON records (name, created);
CREATE INDEX by_job ON records (job_id);
"""
_CHUNK = 500  # keys of one SELECT ... IN


class SqliteStore:
    """The store of one folder. Safe to use from several threads and processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._version: int | None = None

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def claim(self, records: Sequence[Record], again: Callable[[Record], bool]) -> list[Record]:
        """Make each record the one of its key, unless the key has one already and ``again`` does not say to replace it.

        Returns for each record the one that holds its key now: itself where it was written, else the earlier one.
        """
        winners: list[Record] = []
        with self._transaction() as connection:
            held = self._by_keys(connection, [record.key for record in records])
            replaced = []
            fresh: list[Record] = []
            taken: set[str] = set()  # keys claimed just now: the second job of that key in the batch is the first
            for record in records:
                holder = held.get(record.key)
                if holder is None or (record.key not in taken and again(holder)):
                    if holder is not None:
                        replaced.append((record.key,))
                    fresh.append(record)
                    taken.add(record.key)
                    held[record.key] = holder = record
                winners.append(holder)
            connection.executemany("UPDATE records SET current = NULL WHERE key = ? AND current = 1", replaced)
            connection.executemany("INSERT INTO records VALUES (?,?,?,?,?,?,?,?,?)", map(_row, fresh))
        return winners

    def write(self, records: Iterable[Record]) -> None:
        """Write records that are in the store; one that is finished there keeps its state."""
        rows = [(record.job_id, record.status, record.to_json(), record.token, record.status) for record in records]
        if rows:
            with self._transaction() as connection:
                connection.executemany("UPDATE records SET job_id = ?, status = ?, data = ? WHERE token = ? AND (status < 0 OR status = ?)", rows)

    def discard(self, records: Iterable[Record]) -> None:
        """Delete records of submissions that never were; the one before of the same key counts again."""
        with self._transaction() as connection:
            for record in records:
                connection.execute("DELETE FROM records WHERE token = ?", (record.token,))
                connection.execute(
                    "UPDATE records SET current = 1 WHERE token = (SELECT token FROM records WHERE key = ? ORDER BY created DESC LIMIT 1)",
                    (record.key,),
                )

    def begin_epilogue(self, record: Record) -> bool:
        """Mark the epilogue of a record as started; False where somebody else, here or elsewhere, did so before."""
        with self._transaction() as connection:
            row = connection.execute("SELECT token, data, spec FROM records WHERE token = ?", (record.token,)).fetchone()
            if row is None or (stored := self._read(*row)).epilogue != "due":
                return False
            stored.epilogue = record.epilogue = "started"
            connection.execute("UPDATE records SET data = ? WHERE token = ?", (stored.to_json(), record.token))
            return True

    def by_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        """Return the current record of each key that has one."""
        with self._transaction(write=False) as connection:
            return self._by_keys(connection, keys)

    def by_tokens(self, tokens: Iterable[str]) -> dict[str, Record]:
        """Return the records of these submissions."""
        found: dict[str, Record] = {}
        wanted = list(tokens)
        with self._transaction(write=False) as connection:
            for start in range(0, len(wanted), _CHUNK):
                part = wanted[start : start + _CHUNK]
                marks = ",".join("?" * len(part))
                for token, data, spec in connection.execute(f"SELECT token, data, spec FROM records WHERE token IN ({marks})", part):
                    found[token] = self._read(token, data, spec)
        return found

    def select(self, *, statuses: Iterable[int] | None = None, name: str | None = None, earlier: bool = False) -> list[Record]:
        """Return records, the oldest first: the current ones, or with ``earlier`` also those that were replaced."""
        conditions, values = (["1"] if earlier else ["current = 1"]), []
        if statuses is not None:
            wanted = list(statuses)
            conditions.append(f"status IN ({','.join('?' * len(wanted))})")
            values += [*map(int, wanted)]
        if name is not None:
            conditions.append("name = ?")
            values.append(name)  # type: ignore[arg-type]
        return self._select(f"{' AND '.join(conditions)} ORDER BY created, token", values)

    def named(self, word: str) -> list[Record]:
        """Return the current records that a word names: a job id, a name, or the start of a key; the first kind that fits counts."""
        bare = word.partition(";")[0]
        for condition, value in (("job_id = ?", bare), ("name = ?", word), ("key GLOB ?", word + "*")):
            if word and (found := self._select(f"current = 1 AND {condition} ORDER BY created, token", [value])):
                return found
        return []

    def changed_elsewhere(self) -> bool:
        """Whether another connection has written since this was asked last (PRAGMA data_version)."""
        with self._lock:
            try:
                version = self._connect().execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error as error:
                raise self._explain(error) from error
            changed = self._version is not None and version != self._version
            self._version = version
            return changed

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _select(self, condition: str, values: Sequence[object]) -> list[Record]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(f"SELECT token, data, spec FROM records WHERE {condition}", values).fetchall()
        return [self._read(*row) for row in rows]

    def _by_keys(self, connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Record]:
        found = {}
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            for key, token, data, spec in connection.execute(
                f"SELECT key, token, data, spec FROM records WHERE current = 1 AND key IN ({marks})", part
            ):
                found[key] = self._read(token, data, spec)
        return found

    def _read(self, token: str, data: str, spec: str) -> Record:
        try:
            return Record.from_json(data, spec)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.path}: the record {token} is damaged ({type(error).__name__}: {error})") from error

    @contextlib.contextmanager
    def _transaction(self, write: bool = True) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._connect()
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.path.exists():
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StoreError(
                f"the store {self.path} cannot be made: {error.strerror}. Name another folder with JobScript.cache_folder or $CLUSTERJOB_STORE"
            ) from error
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")  # a claim is on disk before anything is submitted
        self._prepare(connection)
        self._connection, self._pid = connection, os.getpid()
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            connection.close()
            raise StoreError(
                f"the store {self.path} was written by a newer clusterjob (version {version} of the store, this one reads up to {VERSION}): "
                "upgrade clusterjob, or name another store with JobScript.cache_folder or $CLUSTERJOB_STORE"
            )
        if version < VERSION:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] < VERSION:  # another process may have been first
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")

    def _explain(self, error: sqlite3.Error) -> StoreError:
        words = str(error)
        if isinstance(error, sqlite3.OperationalError) and ("locked" in words or "busy" in words):
            return StoreError(f"the store {self.path} was locked by another process for a minute; try again when that one is done")
        if isinstance(error, sqlite3.OperationalError) and ("full" in words or "readonly" in words or "open" in words):
            return StoreError(f"the store {self.path} cannot be written: {words}. Make room or mend the permissions, and run again")
        return StoreError(
            f"the store {self.path} is damaged or no store ({words}). Nothing was changed. Move it away to begin a new one, or restore it "
            "from a backup; the jobs' own records are in the .clusterjob-runs folders of their working directories"
        )


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging, once; SQLite does not wait for other openers by itself here."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _row(record: Record) -> tuple[object, ...]:
    return (record.token, record.key, 1, record.name, record.job_id, int(record.status), record.created, record.to_json(), record.spec_json)
