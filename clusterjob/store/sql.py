"""What the stores in SQLite and PostgreSQL share."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from clusterjob.errors import StoreError
from clusterjob.status import Status
from clusterjob.store.base import (
    SHORTEST_KEY,
    Again,
    Begun,
    CampaignChange,
    Change,
    Damaged,
    Edits,
    End,
    Note,
    Report,
    Settle,
    Store,
    decide_claims,
    has_old_keys,
    read_campaign,
    take_over_one,
)
from clusterjob.store.listed import Listed, read_listed
from clusterjob.store.record import Record
from clusterjob.store.rows import (
    KEY,
    READ,
    READ_MISFILED,
    SELECT_ALL,
    SELECT_LISTED,
    TOKEN,
    Connection,
    delete,
    fill_columns,
    insert,
    is_storable,
    make_newest_current,
    misfiled,
    note_old_keys,
    portions,
    read_row,
    read_rows,
    sound_values,
    write,
    write_places,
)
from clusterjob.store.shape import is_note
from clusterjob.store.task import ONCE_DUE, ONCE_STARTED

# how a record begins
_OWN_KEY = re.compile(r'\{\s*"key"\s*:\s*"([^"]*)"')
_BEHIND_ALL = "\U0010ffff"  # sorts behind whatever a key or a name may go on with


class SqlStore(Store):
    """A store in tables; what differs between databases is in the methods at the end."""

    # the column by which a row is found again
    _place = "token"

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.RLock()
        self._connection: Any = None
        # of the process that opened it: connections do not survive a fork
        self._pid = 0

    # -- submitting --------------------------------------------------------------------------------

    def claim(
        self,
        records: Sequence[Record],
        again: Again,
        settle: Settle = lambda records: None,
    ) -> list[Record | None]:
        keys = [record.key for record in records]
        with self._transaction() as connection:
            held = dict(self._readings(connection, "current = 1 AND key", keys, KEY))
            held |= self._lost(connection, [key for key in keys if key not in held])
            claims = decide_claims(records, held, again)
            settle(claims.fresh)
            connection.executemany(
                "UPDATE records SET current = NULL WHERE key = ? AND current = 1",
                [(key,) for key in claims.replaced],
            )
            insert(connection, claims.fresh)
        return claims.winners

    def _lost(
        self, connection: Connection, keys: Sequence[str]
    ) -> dict[str, Record | Damaged]:
        """Return records of keys that no record seems to have, because columns were changed: those
        of which no submission counts, and those that stand under another key.
        """
        unheld: set[str] = set()
        for part, places in portions(keys):
            rows = connection.execute(
                f"SELECT key FROM records WHERE key IN ({places})", part
            )
            unheld.update(row[0] for row in rows)
        make_newest_current(connection, unheld)
        lost = dict(
            self._readings(connection, "current = 1 AND key", list(unheld), KEY)
        )
        wanted = set(keys)
        for row in connection.execute(READ_MISFILED).fetchall():
            reading, begin = read_row(row), _OWN_KEY.match(str(row[1]))
            if begin and begin[1] in wanted and isinstance(reading, Damaged):
                self.warn_of(reading)
                lost[begin[1]] = reading
        return lost

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
                write(connection, edits.changed)
                write_places(connection, edits.moved)
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
            stored = dict(self._readings(connection, "token", tokens, TOKEN))
            for record in records:
                found = stored.get(record.token)
                if isinstance(found, Record) and take_over_one(
                    found, record, owner, now
                ):
                    taken.append(record)
            write(connection, taken)
        return taken

    def begin(self, record: Record, what: Begun) -> bool:
        with self._transaction() as connection:
            readings = dict(
                self._readings(connection, "token", [record.token], TOKEN)
            )
            stored = readings.get(record.token)
            if (
                not isinstance(stored, Record)
                or getattr(stored, what) is not ONCE_DUE
            ):
                return False
            setattr(stored, what, ONCE_STARTED)
            stored.version += 1
            write(connection, [stored])
        record.update_from(stored)
        return True

    # -- looking -----------------------------------------------------------------------------------

    def by_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        with self._transaction(write=False) as connection:
            return self._good(
                self._readings(connection, "current = 1 AND key", keys, KEY)
            )

    def by_tokens(self, tokens: Iterable[str]) -> dict[str, Record]:
        with self._transaction(write=False) as connection:
            return self._good(
                self._readings(connection, "token", list(tokens), TOKEN)
            )

    def select(
        self,
        *,
        statuses: Iterable[int] | None = None,
        name: str | None = None,
        earlier: bool = False,
        unsent: bool = False,
        begun: bool = False,
        campaign: str | None = None,
    ) -> list[Record]:
        condition, values = _condition(statuses, earlier)
        if name is not None:
            condition += " AND name = ?"
            values.append(name)
        if campaign is not None:
            condition += " AND campaign = ?"
            values.append(campaign)
        if unsent:
            condition += " AND unsent = 1"
        if begun:
            condition += " AND data LIKE ?"
            values.append('%"epilogue":"started"%')
        found = self._select(condition, values)
        return [
            record for record in found if record.epilogue is ONCE_STARTED or not begun
        ]

    def live(self, cluster_id: str) -> list[str]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT token FROM records "
                "WHERE status < 0 AND held = 0 AND current = 1 AND place = ?",
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

    # -- campaigns ---------------------------------------------------------------------------------

    def campaigns(self) -> dict[str, dict[str, Any]]:
        with self._transaction(write=False) as connection:
            rows = connection.execute("SELECT name, data FROM campaigns").fetchall()
        return {name: read_campaign(data) for name, data in rows}

    def change_campaign(
        self, name: str, change: CampaignChange
    ) -> dict[str, Any] | None:
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT data FROM campaigns WHERE name = ?", (name,)
            ).fetchone()
            data = change(None if row is None else read_campaign(row[0]))
            connection.execute("DELETE FROM campaigns WHERE name = ?", (name,))
            if data is not None:
                connection.execute(
                    "INSERT INTO campaigns VALUES (?, ?)", (name, json.dumps(data))
                )
        return data

    def held(self, campaign: str) -> list[str]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT token FROM records WHERE campaign = ? AND held = 1 AND status < 0 "
                "AND current = 1 ORDER BY created, token",
                (campaign,),
            )
            return [row[0] for row in rows]

    def campaign_counts(self, campaign: str) -> dict[Status, int]:
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT status, COUNT(*) FROM records "
                "WHERE campaign = ? AND campaign <> '' AND current = 1 GROUP BY status",
                (campaign,),
            )
            found = {int(status): count for status, count in rows}
        return {status: found[status] for status in Status if status in found}

    def live_counts(self, campaign: str | None) -> dict[tuple[str, int], int]:
        which = "" if campaign is None else "AND campaign = ? "
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT place, status, COUNT(*) FROM records WHERE status < 0 AND held = 0 "
                f"AND current = 1 {which}GROUP BY place, status",
                () if campaign is None else (campaign,),
            )
            return {(place, status): count for place, status, count in rows}

    def ends(self, keys: Sequence[str]) -> dict[str, End]:
        found: dict[str, End] = {}
        with self._transaction(write=False) as connection:
            for part, places in portions(keys):
                rows = connection.execute(
                    "SELECT key, status, unsent, held, place FROM records "
                    f"WHERE current = 1 AND key IN ({places})",
                    part,
                )
                for key, status, unsent, held, place in rows:
                    found[key] = End(int(status), not (unsent or held), place)
        return found

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
            for portion in self._scan(SELECT_ALL, "1 = 1", []):
                count += len(portion)
                _examine_portion(portion, report)
            report.facts["records"] = str(count)
            with self._transaction(write=False) as connection:
                unheld = connection.execute(
                    "SELECT key FROM records GROUP BY key "
                    "HAVING COUNT(CASE WHEN current = 1 THEN 1 END) = 0"
                )
                report.unheld = [row[0] for row in unheld if is_storable(row[0])]
                connection.execute("SELECT COUNT(*) FROM notes").fetchone()
        except StoreError as error:
            report.broken, report.corrupt = str(error), error.is_corrupt
        return report

    def hold_again(self, keys: Sequence[str]) -> None:
        with self._transaction() as connection:
            make_newest_current(connection, keys)

    def refile(self, tokens: Sequence[str]) -> None:
        with self._transaction() as connection:
            fill_columns(connection, tokens)

    def import_records(self, records: Sequence[Record]) -> int:
        tokens = [record.token for record in records]
        with self._transaction() as connection:
            known = dict(self._readings(connection, "token", tokens, TOKEN))
            new = [record for record in records if record.token not in known]
            insert(connection, new, current=None)
            if has_old_keys(new):
                note_old_keys(connection)
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
                f"{READ} WHERE {condition} ORDER BY created, token", values
            ).fetchall()
        tokens = [row[TOKEN] for row in rows]
        readings = zip(tokens, read_rows(rows), strict=True)
        return list(self._good(readings).values())

    def listed(
        self, statuses: Iterable[int] | None = None, earlier: bool = False
    ) -> Iterator[Listed]:
        wanted = None if statuses is None else set(statuses)
        condition, values = _condition(wanted, earlier)
        for rows in self._scan(SELECT_LISTED, condition, values):
            # in another user's store a sum says nothing: anybody can make one
            found = [None] * len(rows) if self.owner else read_listed(rows)
            for listed, row in zip(found, rows, strict=True):
                if listed is None:
                    listed = self._listed_at(row)
                if listed and (wanted is None or listed.status in wanted):
                    yield listed

    def _listed_at(self, row: Sequence[Any]) -> Listed | None:
        """Return one out of its record; a damaged one is named in the log."""
        with self._transaction(write=False) as connection:
            found = connection.execute(
                f"{READ} WHERE {self._place} = ?", (row[-1],)
            ).fetchone()
        if found is None:  # it was deleted just now
            return None
        reading = read_row(found)
        if isinstance(reading, Record):
            return Listed.of(reading, is_current=row[6] is not None)
        self.warn_of(reading)
        return None

    def _scan(
        self, select: str, condition: str, values: Sequence[object]
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """Yield columns of the rows that a condition names, in portions; the last is their place.

        Each is a transaction: whoever looks at a long list keeps nobody from writing.
        """
        with self._transaction(write=False) as connection:
            found = connection.execute(
                f"SELECT token FROM records WHERE {condition} ORDER BY created, token",
                values,
            )
            tokens = [row[0] for row in found if is_storable(row[0])]
        for part, places in portions(tokens):
            order = {token: number for number, token in enumerate(part)}
            with self._transaction(write=False) as connection:
                rows = connection.execute(
                    f"{select}, token FROM records WHERE token IN ({places})",
                    part,
                ).fetchall()
            if rows:
                yield sorted(rows, key=lambda row: order[row[-1]])

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
        self,
        connection: Connection,
        column: str,
        values: Sequence[str],
        named: int,
    ) -> Iterator[tuple[str, Record | Damaged]]:
        """Yield the records in which a column has one of the values, by the ``named`` column."""
        for part, places in portions(values):
            rows = connection.execute(
                f"{READ} WHERE {column} IN ({places})", part
            ).fetchall()
            names = [row[named] for row in rows]
            yield from zip(names, read_rows(rows), strict=True)

    def _compare(
        self, connection: Connection, copies: Sequence[Record]
    ) -> tuple[set[str], dict[str, Record]]:
        """Return the tokens of the copies that are stored, and new readings of those that others
        have written; one that cannot be read is as good as gone.
        """
        versions: dict[str, int] = {}
        tokens = [record.token for record in copies]
        for part, places in portions(tokens):
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
        newer = self._good(self._readings(connection, "token", behind, TOKEN))
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


def _examine_portion(rows: Sequence[Sequence[Any]], report: Report) -> None:
    """Note what is wrong with rows of ``SELECT_ALL``."""
    values = sound_values(rows)
    if values is not None:
        report.misfiled += misfiled(values, rows)
        return
    for row in rows:
        reading = read_row(row[:6])
        if isinstance(reading, Damaged):
            report.damaged.append(reading)
        else:
            report.misfiled += misfiled(sound_values([row]) or [], [row])


def _condition(
    statuses: Iterable[int] | None, earlier: bool
) -> tuple[str, list[object]]:
    """Return a condition for records in these states, and its values."""
    condition = "1 = 1" if earlier else "current = 1"
    if statuses is None:
        return condition, []
    wanted: list[object] = [int(status) for status in statuses]
    return f"{condition} AND status IN ({','.join('?' * len(wanted))})", wanted
