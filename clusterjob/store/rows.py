"""Rows of records: what the tables of SQLite and PostgreSQL look like, and how they are brought up
to date.

The record itself is the JSON text in ``data``, and ``spec``; the other columns are copies for
searching. Statements are written with ``?`` for values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from clusterjob.store.base import OLD_KEYS, VERSION, VERSION_OF_KEYS, Damaged
from clusterjob.store.listed import Listed
from clusterjob.store.record import Record
from clusterjob.store.shape import check_records, check_specs, read_portion

# a record that does not begin with the key of its row
_MISFILED = """substr(data, 1, length(key) + 10) <> '{"key":"' || key || '",'"""
SCHEMA = f"""
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
    version INTEGER NOT NULL DEFAULT 0,
    listed TEXT NOT NULL DEFAULT '',  -- see clusterjob.store.listed
    campaign TEXT NOT NULL DEFAULT '',
    held INTEGER NOT NULL DEFAULT 0  -- 1 until its campaign lets it go
);
CREATE UNIQUE INDEX one_a_key ON records (key, current);
CREATE INDEX by_status ON records (status) WHERE current = 1;
CREATE INDEX by_name ON records (name, created);
CREATE INDEX by_job ON records (job_id);
CREATE INDEX by_place ON records (place) WHERE status < 0 AND held = 0;
CREATE INDEX open_ones ON records (created) WHERE unsent = 1;
CREATE INDEX by_campaign ON records (campaign, status) WHERE campaign <> '';
CREATE INDEX in_campaign ON records (campaign, held, status) WHERE status < 0;
CREATE TABLE campaigns (name TEXT PRIMARY KEY, data TEXT NOT NULL);
CREATE INDEX misfiled ON records (token) WHERE {_MISFILED};
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
_TO_4 = f"""
ALTER TABLE records ADD COLUMN listed TEXT NOT NULL DEFAULT '';
CREATE INDEX misfiled ON records (token) WHERE {_MISFILED}
"""
_TO_5 = """
ALTER TABLE records ADD COLUMN campaign TEXT NOT NULL DEFAULT '';
ALTER TABLE records ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
DROP INDEX by_place;
CREATE INDEX by_place ON records (place) WHERE status < 0 AND held = 0;
CREATE INDEX by_campaign ON records (campaign, status) WHERE campaign <> '';
CREATE INDEX in_campaign ON records (campaign, held, status) WHERE status < 0;
CREATE TABLE campaigns (name TEXT PRIMARY KEY, data TEXT NOT NULL)
"""
# from each version to the next; `fill_columns` does what SQL cannot
MIGRATIONS = {1: _TO_2, 2: _TO_3, 3: _TO_4, 4: _TO_5}
_VERSION_OF_COLUMNS = 5  # since then they are those of today
_HALVES = re.compile("[\ud800-\udfff]")
PORTION = 500  # keys of one SELECT ... IN
# columns of READ
TOKEN, KEY = 0, 3
READ = "SELECT token, data, spec, key, name, job_id FROM records"
READ_MISFILED = f"{READ} WHERE {_MISFILED}"
# more columns after those that `read_row` reads
SELECT_ALL = (
    "SELECT token, data, spec, key, name, job_id, status, unsent, version, place, created, "
    "campaign, held"
)
# what read_listed reads
SELECT_LISTED = "SELECT token, key, name, job_id, data, listed, current"
_WRITE = (
    "UPDATE records SET job_id = ?, status = ?, data = ?, unsent = ?, version = ?, "
    "listed = ?, held = ? WHERE token = ?"
)


class Connection(Protocol):
    """What is used of a DB-API connection."""

    def execute(self, statement: str, values: Sequence[object] = ..., /) -> Any: ...

    def executemany(
        self, statement: str, rows: Iterable[Sequence[object]], /
    ) -> Any: ...


def is_storable(text: object) -> bool:
    """Whether a value that was read is text that can be asked for."""
    return isinstance(text, str) and (text.isascii() or not _HALVES.search(text))


def read_rows(rows: Sequence[Sequence[Any]]) -> list[Record | Damaged]:
    """Read rows of ``READ``: together where all are sound, which takes half of the time."""
    found: list[Record | Damaged] = []
    for start in range(0, len(rows), PORTION):
        portion = rows[start : start + PORTION]
        values = sound_values(portion)
        if values is None:
            found += map(read_row, portion)
        else:
            pairs = zip(values, portion, strict=True)
            found += [Record.of(state, spec, row[2]) for (state, spec), row in pairs]
    return found


def sound_values(
    rows: Sequence[Sequence[Any]],
) -> list[tuple[dict[str, Any], dict[str, Any]]] | None:
    """Return state and spec of rows, as plain values; None where any is damaged."""
    states = read_portion([row[1] for row in rows])
    specs = read_portion([row[2] for row in rows])
    if states is None or specs is None:
        return None
    try:
        check_records(states)
        check_specs(specs)
    except ValueError:
        return None
    tokens, _, _, keys, names, job_ids, *_ = zip(*rows, strict=True)
    are_own = (
        tokens == tuple([state["token"] for state in states])
        and keys == tuple([state["key"] for state in states])
        and names == tuple([state["name"] for state in states])
        and job_ids == tuple([state.get("job_id") for state in states])
    )
    return list(zip(states, specs, strict=True)) if are_own else None


def read_row(row: Sequence[Any]) -> Record | Damaged:
    """Read a row of ``READ``."""
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
        return Damaged(
            texts["token"],
            str(error),
            texts["key"],
            texts["name"],
            texts["job_id"],
            raw,
        )
    return record


def misfiled(
    values: Sequence[tuple[dict[str, Any], dict[str, Any]]],
    rows: Sequence[Sequence[Any]],
) -> list[str]:
    """Return the tokens of rows of ``SELECT_ALL`` of which a column says something else than the
    record, whose values are given.
    """
    states = [state for state, _ in values]
    said = zip(
        [state["task"]["status"] for state in states],
        [int(_is_unsent(state)) for state in states],
        [state.get("version", 0) for state in states],
        [state.get("place", "") for state in states],
        [state.get("created", 0.0) for state in states],
        [state.get("campaign", "") for state in states],
        [int(_is_held(state)) for state in states],
        strict=True,
    )
    return [
        row[TOKEN]
        for row, wanted in zip(rows, said, strict=True)
        if row[6:13] != wanted
    ]


def _is_unsent(state: Mapping[str, Any]) -> bool:
    is_open = state["phase"] != "submitted" and state["task"]["status"] < 0
    return is_open and not _is_held(state)


def _is_held(state: Mapping[str, Any]) -> bool:
    is_waiting = state["phase"] == "held" and "retry_at" not in state
    return is_waiting and bool(state["task"]["status"] < 0)


def _state_row(record: Record) -> tuple[object, ...]:
    """Return the values of ``_WRITE``."""
    data = record.to_json()
    return (
        record.job_id,
        int(record.status),
        data,
        int(record.unsent),
        record.version,
        Listed.of(record).to_text(data),
        int(record.is_held),
        record.token,
    )


def write(connection: Connection, records: Iterable[Record]) -> None:
    """Write the state of records that are in the tables."""
    rows = [_state_row(record) for record in records]
    if rows:
        connection.executemany(_WRITE, rows)


def write_places(connection: Connection, records: Iterable[Record]) -> None:
    """Write what seldom changes of a record: key, campaign and cluster, and what is asked there."""
    rows = [
        (
            record.key,
            record.campaign,
            record.cluster_id,
            record.spec_json,
            record.token,
        )
        for record in records
    ]
    if rows:
        connection.executemany(
            "UPDATE records SET key = ?, campaign = ?, place = ?, spec = ? "
            "WHERE token = ?",
            rows,
        )


def portions(values: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Yield the values of SELECTs, each with its places in the statement."""
    for start in range(0, len(values), PORTION):
        part = values[start : start + PORTION]
        yield part, ",".join("?" * len(part))


def _new_row(record: Record, current: int | None) -> tuple[object, ...]:
    """Return the values of all columns.

    What is about to be submitted is listed out of ``data``: it is written again at once.
    """
    data = record.to_json()
    listed = "" if record.unsent else Listed.of(record).to_text(data)
    return (
        record.token,
        record.key,
        current,
        record.name,
        record.job_id,
        int(record.status),
        record.created,
        data,
        record.spec_json,
        record.cluster_id,
        int(record.unsent),
        record.version,
        listed,
        record.campaign,
        int(record.is_held),
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
    for earlier in range(version, VERSION):
        for statement in filter(None, MIGRATIONS[earlier].split(";")):
            connection.execute(statement)
    if version < _VERSION_OF_COLUMNS:
        tokens = [row[0] for row in connection.execute("SELECT token FROM records")]
        fill_columns(connection, list(filter(is_storable, tokens)))
    if version < VERSION_OF_KEYS:
        note_old_keys(connection)


def note_old_keys(connection: Connection) -> None:
    connection.execute("DELETE FROM notes WHERE name = ?", (OLD_KEYS,))
    connection.execute("INSERT INTO notes VALUES (?, 0, NULL)", (OLD_KEYS,))


def fill_columns(connection: Connection, tokens: Sequence[str]) -> None:
    """Compute the columns that are copies out of ``data`` and ``spec``.

    A damaged record keeps what it has.
    """
    for part, places in portions(tokens):
        rows = connection.execute(
            f"{READ} WHERE token IN ({places})", part
        ).fetchall()
        records = [item for item in read_rows(rows) if isinstance(item, Record)]
        for record in records:
            record.cluster_id = record.cluster_id or record.spec.cluster.cluster_id
        connection.executemany(
            "UPDATE records SET place = ?, created = ?, campaign = ? WHERE token = ?",
            [
                (record.cluster_id, record.created, record.campaign, record.token)
                for record in records
            ],
        )
        write(connection, records)
