"""Records in tables: what the stores in SQLite and PostgreSQL share.

The columns beside ``data`` are copies for searching; the record itself is the JSON text. Statements
are written with ``?`` for values.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from clusterjob.errors import StoreError
from clusterjob.status import Status
from clusterjob.store.base import (
    OLD_KEYS,
    SHORTEST_KEY,
    VERSION,
    Again,
    Begun,
    Change,
    Damaged,
    Edits,
    Listed,
    Note,
    Report,
    Store,
    decide_claims,
    has_old_keys,
    may_name_logs,
    take_over_one,
)
from clusterjob.store.record import ONCE_DUE, ONCE_STARTED, Record
from clusterjob.store.shape import (
    check_record,
    check_spec,
    is_note,
    read_portion,
)

SCHEMA = """
CREATE TABLE records (
    token TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    current INTEGER,            -- 1 for the latest submission of a key, NULL for the ones before it
    name TEXT NOT NULL,
    job_id TEXT,
    status INTEGER NOT NULL,
    created DOUBLE PRECISION NOT NULL,
    data TEXT NOT NULL,
    spec TEXT NOT NULL,
    place TEXT NOT NULL DEFAULT '',
    unsent INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX one_a_key ON records (key, current);
CREATE INDEX by_status ON records (status) WHERE current = 1;
CREATE INDEX by_name ON records (name, created);
CREATE INDEX by_job ON records (job_id);
CREATE INDEX by_place ON records (place) WHERE status < 0;
CREATE INDEX open_ones ON records (created) WHERE unsent = 1;
CREATE TABLE notes (name TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, value DOUBLE PRECISION)
"""
_TO_2 = """
ALTER TABLE records ADD COLUMN place TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN unsent INTEGER NOT NULL DEFAULT 0;
CREATE INDEX by_place ON records (place) WHERE status < 0;
CREATE INDEX open_ones ON records (created) WHERE unsent = 1;
CREATE TABLE notes (name TEXT PRIMARY KEY, at DOUBLE PRECISION NOT NULL, value DOUBLE PRECISION)
"""
_TO_3 = "ALTER TABLE records ADD COLUMN version INTEGER NOT NULL DEFAULT 0"
# from each version to the next; `_fill_columns` does what SQL cannot
MIGRATIONS = {1: _TO_2, 2: _TO_3}
_HALVES = re.compile("[\ud800-\udfff]")
PORTION = 500  # keys of one SELECT ... IN
_BEHIND_ALL = "\U0010ffff"  # sorts behind whatever a key or a name may go on with
# columns of _READ
_TOKEN, _KEY, _CURRENT = 0, 3, 6
READ_CURRENT = "SELECT token, data, spec, key, name, job_id, current FROM records"
_READ = "SELECT token, data, spec, key, name, job_id FROM records"
_WRITE = (
    "UPDATE records SET key = ?, job_id = ?, status = ?, data = ?, unsent = ?, version = ? "
    "WHERE token = ?"
)


class Connection(Protocol):
    """What is used of a DB-API connection."""

    def execute(self, statement: str, values: Sequence[object] = ..., /) -> Any: ...

    def executemany(
        self, statement: str, rows: Iterable[Sequence[object]], /
    ) -> Any: ...


class SqlStore(Store):
    """A store in tables; what differs between databases is in the methods at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._connection: Any = None
        # of the process that opened it: connections do not survive a fork
        self._pid = 0

    # -- submitting --------------------------------------------------------------------------------

    def claim(self, records: Sequence[Record], again: Again) -> list[Record | None]:
        keys = [record.key for record in records]
        with self._transaction() as connection:
            held = dict(self._readings(connection, "current = 1 AND key", keys, _KEY))
            claims = decide_claims(records, held, again)
            connection.executemany(
                "UPDATE records SET current = NULL WHERE key = ? AND current = 1",
                [(key,) for key in claims.replaced],
            )
            insert(connection, claims.fresh)
        return claims.winners

    def update(self, records: Iterable[Record], change: Change) -> None:
        copies = list(records)
        if not copies:
            return
        edits = Edits(change)
        try:
            with self._transaction() as connection:
                stored, newer = self._compare(connection, copies)
                for record in copies:
                    if record.token in stored:
                        edits.apply(record, newer.get(record.token))
                _write(connection, edits.changed)
        except BaseException:
            edits.take_back()
            raise

    def refresh(self, records: Iterable[Record]) -> None:
        copies = list(records)
        with self._transaction(write=False) as connection:
            _, newer = self._compare(connection, copies)
        for record in copies:
            if record.token in newer:
                record.update_from(newer[record.token])

    def discard(self, records: Iterable[Record]) -> list[Record]:
        copies = list(records)
        if not copies:
            return []
        with self._transaction() as connection:
            _, newer = self._compare(connection, copies)
            gone = [record for record in copies if record.token not in newer]
            delete(connection, [(record.token, record.key) for record in gone])
        for record in copies:
            if record.token in newer:
                record.update_from(newer[record.token])
        return gone

    def take_over(
        self, records: Sequence[Record], owner: str, now: float
    ) -> list[Record]:
        taken = []
        tokens = [record.token for record in records]
        with self._transaction() as connection:
            stored = dict(self._readings(connection, "token", tokens, _TOKEN))
            for record in records:
                found = stored.get(record.token)
                if isinstance(found, Record) and take_over_one(
                    found, record, owner, now
                ):
                    taken.append(record)
            _write(connection, taken)
        return taken

    def begin(self, record: Record, what: Begun) -> bool:
        with self._transaction() as connection:
            readings = dict(
                self._readings(connection, "token", [record.token], _TOKEN)
            )
            stored = readings.get(record.token)
            if (
                not isinstance(stored, Record)
                or getattr(stored, what) is not ONCE_DUE
            ):
                return False
            setattr(stored, what, ONCE_STARTED)
            stored.version += 1
            _write(connection, [stored])
        record.update_from(stored)
        return True

    # -- looking -----------------------------------------------------------------------------------

    def by_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        with self._transaction(write=False) as connection:
            return self._good(
                self._readings(connection, "current = 1 AND key", keys, _KEY)
            )

    def by_tokens(self, tokens: Iterable[str]) -> dict[str, Record]:
        with self._transaction(write=False) as connection:
            return self._good(
                self._readings(connection, "token", list(tokens), _TOKEN)
            )

    def select(
        self,
        *,
        statuses: Iterable[int] | None = None,
        name: str | None = None,
        earlier: bool = False,
        unsent: bool = False,
        begun: bool = False,
    ) -> list[Record]:
        condition, values = _condition(statuses, earlier)
        if name is not None:
            condition += " AND name = ?"
            values.append(name)
        if unsent:
            condition += " AND unsent = 1"
        if begun:
            condition += " AND data LIKE ?"
            values.append('%"epilogue":"started"%')
        found = self._select(condition, values)
        return [
            record for record in found if record.epilogue is ONCE_STARTED or not begun
        ]

    def newest(self, names: Iterable[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        with self._transaction(write=False) as connection:
            for part, places in _portions(list(names)):
                statement = (
                    "SELECT name, MAX(created) FROM records "
                    f"WHERE name IN ({places}) GROUP BY name"
                )
                found.update(map(tuple, connection.execute(statement, part)))
        return found

    def live(self, cluster_id: str) -> list[str]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT token FROM records WHERE status < 0 AND current = 1 AND place = ?",
                (cluster_id,),
            )
            return [row[0] for row in rows]

    def named(self, word: str, earlier: bool = False) -> list[Record]:
        if not word or not is_storable(word):
            return []
        current = "1 = 1" if earlier else "current = 1"
        bare = word.partition(";")[0]
        kinds = [("job_id = ?", [bare]), ("name = ?", [word])]
        if len(word) >= SHORTEST_KEY:
            kinds.append(("key >= ? AND key < ?", [word, word + _BEHIND_ALL]))
        for condition, values in kinds:
            found = self._select(f"{current} AND {condition}", values)
            if found:
                return found
        return []

    # -- notes -------------------------------------------------------------------------------------

    def notes(self, prefix: str) -> dict[str, Note]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT name, at, value FROM notes WHERE name >= ? AND name < ?",
                (prefix, prefix + _BEHIND_ALL),
            )
            return {
                name: Note(at, value)
                for name, at, value in rows
                if is_note([at, value])
            }

    def note(self, name: str, note: Note | None) -> None:
        with self._transaction() as connection:
            connection.execute("DELETE FROM notes WHERE name = ?", (name,))
            if note is not None:
                connection.execute(
                    "INSERT INTO notes VALUES (?, ?, ?)", (name, note.at, note.value)
                )

    def begin_poll(self, cluster_id: str, interval: float, now: float) -> Note | None:
        name = f"poll:{cluster_id}"
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT at, value FROM notes WHERE name = ?", (name,)
            ).fetchone()
            if row is not None and not is_note(list(row)):
                row = None
            if row is not None and row[0] <= now < row[0] + interval:
                return Note(*row)
            connection.execute("DELETE FROM notes WHERE name = ?", (name,))
            connection.execute(
                "INSERT INTO notes VALUES (?, ?, ?)",
                (name, now, row[1] if row else None),
            )
            return None

    # -- care --------------------------------------------------------------------------------------

    def examine(self) -> Report:
        report = Report(facts={"store": self.url})
        try:
            with self._transaction(write=False) as connection:
                report.facts |= self._facts(connection)
                count = 0
                rows = connection.execute(_READ)
                while portion := rows.fetchmany(PORTION):
                    count += len(portion)
                    if not _are_sound(portion):
                        readings = map(read_row, portion)
                        report.damaged += [
                            reading
                            for reading in readings
                            if isinstance(reading, Damaged)
                        ]
                report.facts["records"] = str(count)
                unheld = connection.execute(
                    "SELECT key FROM records GROUP BY key HAVING COUNT(current) = 0"
                )
                report.unheld = [row[0] for row in unheld if is_storable(row[0])]
                report.broken = self._broken(connection)
                report.corrupt = bool(report.broken)
        except StoreError as error:
            report.broken, report.corrupt = str(error), error.is_corrupt
        return report

    def hold_again(self, keys: Sequence[str]) -> None:
        with self._transaction() as connection:
            make_newest_current(connection, keys)

    def import_records(self, records: Sequence[Record]) -> int:
        tokens = [record.token for record in records]
        with self._transaction() as connection:
            known = dict(self._readings(connection, "token", tokens, _TOKEN))
            new = [record for record in records if record.token not in known]
            insert(connection, new, current=None)
            if has_old_keys(new):
                _note_old_keys(connection)
            make_newest_current(connection, {record.key for record in new})
        return len(new)

    def close(self) -> None:
        with self._lock:
            if self._is_open():
                self._connection.close()
            self._connection = None

    def _is_open(self) -> bool:
        return self._connection is not None and self._pid == os.getpid()

    # -- helpers -----------------------------------------------------------------------------------

    def _select(self, condition: str, values: Sequence[object]) -> list[Record]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                f"{_READ} WHERE {condition} ORDER BY created, token", values
            )
            return list(self._good((row[0], read_row(row)) for row in rows).values())

    def listed(
        self, statuses: Iterable[int] | None = None, earlier: bool = False
    ) -> Iterator[Listed]:
        condition, values = _condition(statuses, earlier)
        for rows in self._scan(condition, values):
            states = read_portion([row[1] for row in rows], check_record)
            if states is None or not _are_own(states, rows):
                states = [self._state_of(row) for row in rows]
            for state, row in zip(states, rows, strict=True):
                if state is not None:
                    yield Listed(
                        state, row[_CURRENT] is not None, may_name_logs(row[2])
                    )

    def _state_of(self, row: Sequence[Any]) -> Any:
        """Return the state of a record; None of a damaged one, which is named in the log."""
        reading = read_row(row[:_CURRENT])
        if isinstance(reading, Record):
            return json.loads(row[1])
        self.warn_of(reading)
        return None

    def _scan(
        self, condition: str, values: Sequence[object]
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """Yield the rows of ``READ_CURRENT`` that a condition names, in portions.

        Each is a transaction: whoever looks at a long list keeps nobody from writing.
        """
        with self._transaction(write=False) as connection:
            found = connection.execute(
                f"SELECT token FROM records WHERE {condition} ORDER BY created, token",
                values,
            )
            tokens = [row[0] for row in found if is_storable(row[0])]
        for part, places in _portions(tokens):
            place_of = {token: place for place, token in enumerate(part)}
            with self._transaction(write=False) as connection:
                rows = connection.execute(
                    f"{READ_CURRENT} WHERE token IN ({places})", part
                ).fetchall()
            yield sorted(rows, key=lambda row: place_of[row[_TOKEN]])

    def counts(self) -> dict[Status, int]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT status, COUNT(*) FROM records WHERE current = 1 GROUP BY status"
            )
            found = {Status(status): count for status, count in rows}
        return {status: found.get(status, 0) for status in Status}

    def _good(
        self, readings: Iterable[tuple[str, Record | Damaged]]
    ) -> dict[str, Record]:
        found = {}
        for name, reading in readings:
            if isinstance(reading, Damaged):
                self.warn_of(reading)
            else:
                found[name] = reading
        return found

    def _readings(
        self, connection: Connection, column: str, values: Sequence[str], named: int
    ) -> Iterator[tuple[str, Record | Damaged]]:
        """Yield the records in which a column has one of the values, by the ``named`` column."""
        for part, places in _portions(values):
            rows = connection.execute(
                f"{_READ} WHERE {column} IN ({places})", part
            ).fetchall()
            for row in rows:
                yield row[named], read_row(row)

    def _compare(
        self, connection: Connection, copies: Sequence[Record]
    ) -> tuple[set[str], dict[str, Record]]:
        """Return the tokens of the copies that are stored, and new readings of those that others
        have written; one that cannot be read is as good as gone.
        """
        versions: dict[str, int] = {}
        tokens = [record.token for record in copies]
        for part, places in _portions(tokens):
            versions.update(
                connection.execute(
                    f"SELECT token, version FROM records WHERE token IN ({places})",
                    part,
                )
            )
        behind = [
            record.token
            for record in copies
            if versions.get(record.token, record.version) != record.version
        ]
        newer = self._good(self._readings(connection, "token", behind, _TOKEN))
        unreadable = set(behind).difference(newer)
        return versions.keys() - unreadable, newer

    # -- what a database does in its own way -------------------------------------------------------

    @abstractmethod
    def _transaction(
        self, write: bool = True
    ) -> contextlib.AbstractContextManager[Connection]:
        """A transaction; one that writes keeps other writers out from its beginning."""

    @abstractmethod
    def _facts(self, connection: Connection) -> dict[str, str]:
        """Return what a person may want to know about the database."""

    @abstractmethod
    def _broken(self, connection: Connection) -> str:
        """Return what the database says is wrong with itself."""


def is_storable(text: object) -> bool:
    """Whether a value that was read is text that can be asked for."""
    return isinstance(text, str) and (text.isascii() or not _HALVES.search(text))


def _condition(
    statuses: Iterable[int] | None, earlier: bool
) -> tuple[str, list[object]]:
    """Return a condition for records in these states, and its values."""
    condition = "1 = 1" if earlier else "current = 1"
    if statuses is None:
        return condition, []
    wanted: list[object] = [int(status) for status in statuses]
    return f"{condition} AND status IN ({','.join('?' * len(wanted))})", wanted


def _are_sound(rows: Sequence[Sequence[Any]]) -> bool:
    """Whether :func:`read_row` would read all of these, found out together, which is faster."""
    states = read_portion([row[1] for row in rows], check_record)
    specs = read_portion([row[2] for row in rows], check_spec)
    if states is None or specs is None:
        return False
    return _are_own(states, rows)


def _are_own(states: Sequence[Any], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether each of the states is that of its row."""
    pairs = zip(states, rows, strict=True)
    return all(
        state["token"] == token
        and state["key"] == key
        and state["name"] == name
        and state.get("job_id") == job_id
        for state, (token, _, _, key, name, job_id, *_) in pairs
    )


def read_row(row: Sequence[Any]) -> Record | Damaged:
    """Read a row of ``_READ``."""
    token, data, spec, key, name, job_id = row
    try:
        record = Record.from_json(data, spec)
        said = (record.token, record.key, record.name, record.job_id)
        if said != (token, key, name, job_id):
            raise ValueError("it is the record of another job than its row says")
    except ValueError as error:
        known = {"token": token, "key": key, "name": name, "job_id": job_id}
        texts = {name: str(value) for name, value in known.items()}
        raw = json.dumps({**texts, "data": str(data), "spec": str(spec)})
        return Damaged(**texts, why=str(error), raw=raw)
    return record


def _state_row(record: Record) -> tuple[object, ...]:
    """Return the values of ``_WRITE``."""
    return (
        record.key,
        record.job_id,
        int(record.status),
        record.to_json(),
        int(record.unsent),
        record.version,
        record.token,
    )


def _write(connection: Connection, records: Iterable[Record]) -> None:
    """Write the state of records that are in the tables."""
    rows = [_state_row(record) for record in records]
    if rows:
        connection.executemany(_WRITE, rows)


def _portions(values: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Yield the values of SELECTs, each with its places in the statement."""
    for start in range(0, len(values), PORTION):
        part = values[start : start + PORTION]
        yield part, ",".join("?" * len(part))


def _new_row(record: Record, current: int | None) -> tuple[object, ...]:
    """Return the values of all columns."""
    return (
        record.token,
        record.key,
        current,
        record.name,
        record.job_id,
        int(record.status),
        record.created,
        record.to_json(),
        record.spec_json,
        record.cluster_id,
        int(record.unsent),
        record.version,
    )


def insert(
    connection: Connection, records: Iterable[Record], current: int | None = 1
) -> None:
    """Insert records; with ``current`` as the ones of their keys."""
    rows = [_new_row(record, current) for record in records]
    if rows:
        places = ",".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO records VALUES ({places})", rows)


def delete(connection: Connection, gone: Sequence[tuple[str, str]]) -> None:
    """Delete records, given as ``(token, key)``."""
    connection.executemany(
        "DELETE FROM records WHERE token = ?", [(token,) for token, _ in gone]
    )
    make_newest_current(connection, {key for _, key in gone})


def make_newest_current(connection: Connection, keys: Iterable[str]) -> None:
    """Make the newest submission of each key the one that counts."""
    wanted = [(key,) for key in keys]
    connection.executemany("UPDATE records SET current = NULL WHERE key = ?", wanted)
    newest = "SELECT token FROM records WHERE key = ? ORDER BY created DESC, token DESC LIMIT 1"
    connection.executemany(
        f"UPDATE records SET current = 1 WHERE token = ({newest})", wanted
    )


def migrate(connection: Connection, version: int) -> None:
    """Bring tables of an older version up to date.

    In the transaction of the caller, who has made a backup.
    """
    while version < VERSION:
        for statement in MIGRATIONS[version].split(";"):
            connection.execute(statement)
        version += 1
    _fill_columns(connection)
    _note_old_keys(connection)


def _note_old_keys(connection: Connection) -> None:
    connection.execute("DELETE FROM notes WHERE name = ?", (OLD_KEYS,))
    connection.execute("INSERT INTO notes VALUES (?, 0, NULL)", (OLD_KEYS,))


def _fill_columns(connection: Connection) -> None:
    """Compute the columns that are copies out of ``data`` and ``spec``.

    A damaged record keeps what it has.
    """
    rows = []
    for row in connection.execute(_READ).fetchall():
        reading = read_row(row)
        if isinstance(reading, Record):
            reading.cluster_id = reading.cluster_id or reading.spec.cluster.cluster_id
            rows.append(
                (
                    reading.cluster_id,
                    int(reading.unsent),
                    reading.to_json(),
                    reading.token,
                )
            )
    connection.executemany(
        "UPDATE records SET place = ?, unsent = ?, data = ? WHERE token = ?", rows
    )
