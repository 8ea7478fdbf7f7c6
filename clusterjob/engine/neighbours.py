"""Jobs that share a workdir: which of them write each other's files."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator
from typing import NamedTuple

from clusterjob.engine.conflicts import files_written
from clusterjob.shell import in_portions
from clusterjob.store import Listed, Record, Store

_LOADED = 500  # records that are read at once


class Neighbour(NamedTuple):
    """A job that was submitted, as far as others in its workdir are concerned; times are in s since
    the epoch.
    """

    token: str
    key: str
    name: str
    job_id: str
    status: int
    created: float
    ended: float | None


class _Facts(NamedTuple):
    """What never changes of a record, and is of use here."""

    base: str
    files: frozenset[str]  # names, and patterns of names
    parents: frozenset[str]  # keys
    content: int  # equal for equal jobs of one batch


def sweeps_apart(records: Iterable[Record]) -> set[str]:
    """Return the names of the sweeps among jobs of which each row has a workdir of its own: there
    another row of an earlier version is one that has changed.

    Of one row alone its workdir tells that, where it is named after the row.
    """
    workdirs: dict[str, list[tuple[str, str]]] = {}
    named = set()
    for record in records:
        base = record.spec.base
        if base:
            workdirs.setdefault(base, []).append((record.host, record.workdir))
        if record.spec.apart:
            named.add(base)
    return {
        base
        for base, places in workdirs.items()
        if (len(places) > 1 or base in named) and max(Counter(places).values()) == 1
    }


def places_of(record: Record, apart: Container[str]) -> set[tuple[str, ...]]:
    """Return the places that a job takes; two jobs that have one in common stand in each other's.

    That is its workdir with its name; and as a row of a sweep the workdir with each file that it
    writes, or alone where rows have a workdir each (the sweep is one of those ``apart``).
    """
    where = record.host, record.workdir
    base = record.spec.base
    found: set[tuple[str, ...]] = {(*where, record.name)}
    if base:
        found.update((*where, base, file) for file in files_written(record))
    if base in apart:
        found.add((*where, base, ""))
    return found


class Neighbours:
    """The jobs of a store that were submitted, by their workdirs, as :meth:`update` found them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._changes: int | None = None
        self._of_workdir: dict[tuple[str, str], list[Neighbour]] = {}
        self._of_name: dict[tuple[str, str, str], list[Neighbour]] = {}
        self._of_file: dict[
            tuple[str, str], dict[tuple[str, str], list[Neighbour]]
        ] = {}
        self._facts: dict[str, _Facts] = {}

    def forget(self) -> None:
        """Have the next update read them again."""
        self._changes = None

    def update(self) -> None:
        """Read them, unless they are known and no other process has written since."""
        with self._lock:
            changes = self._store.changes() if self._store.exists() else None
            if changes is None or changes == self._changes:
                return
            self._of_workdir, self._of_name, self._of_file = {}, {}, {}
            for listed in self._store.listed(earlier=True):
                if listed.job_id is not None:  # else it writes nothing
                    self._add(listed, listed.job_id)
            self._changes = changes

    def _add(self, listed: Listed, job_id: str) -> None:
        place = listed.host, listed.workdir
        found = Neighbour(
            listed.token,
            listed.key,
            listed.name,
            job_id,
            listed.status,
            listed.created,
            listed.ended,
        )
        self._of_workdir.setdefault(place, []).append(found)
        self._of_name.setdefault((*place, listed.name), []).append(found)

    def versions(
        self, record: Record, apart: Container[str] = ()
    ) -> list[tuple[Neighbour, bool]]:
        """Return other jobs in whose place a job is, and whether both write the same files.

        They are of its workdir and name; or rows of its sweep, of other values, where these write a
        file of the same name, or have a workdir each (the sweep is one of those ``apart``).
        """
        with self._lock:
            return list(self._versions(record, apart))

    def _versions(
        self, record: Record, apart: Container[str]
    ) -> Iterator[tuple[Neighbour, bool]]:
        place = record.host, record.workdir
        found = {
            item.token: item for item in self._of_name.get((*place, record.name), ())
        }
        own = self._facts_of(record)
        if own.base:
            of_file = self._by_file(place)
            for file in own.files:
                rows = of_file.get((own.base, file), ())
                found.update((item.token, item) for item in rows)
            if own.base in apart:
                there = self._of_workdir.get(place, ())
                self._load(there)
                rows = [
                    item for item in there if self._facts[item.token].base == own.base
                ]
                found.update((item.token, item) for item in rows)
        self._load(found.values())
        for token, item in found.items():
            facts = self._facts[token]
            is_other = item.key != record.key and facts.content != own.content
            if is_other and record.key not in facts.parents:
                yield item, not own.files.isdisjoint(facts.files)

    def _by_file(
        self, place: tuple[str, str]
    ) -> dict[tuple[str, str], list[Neighbour]]:
        """Return the rows of sweeps in a workdir, by sweep and the files that they write."""
        if place not in self._of_file:
            there = self._of_workdir.get(place, ())
            self._load(there)
            found: dict[tuple[str, str], list[Neighbour]] = {}
            for item in there:
                facts = self._facts[item.token]
                for file in facts.files if facts.base else ():
                    found.setdefault((facts.base, file), []).append(item)
            self._of_file[place] = found
        return self._of_file[place]

    def _load(self, items: Collection[Neighbour]) -> None:
        missing = [item.token for item in items if item.token not in self._facts]
        for portion in in_portions(missing, _LOADED):
            records = self._store.by_tokens(portion)
            # one that is damaged, or was deleted, writes nothing
            for token in portion:
                self._facts[token] = (
                    _facts(records[token]) if token in records else _NOTHING
                )

    def _facts_of(self, record: Record) -> _Facts:
        if record.token not in self._facts:
            self._facts[record.token] = _facts(record)
        return self._facts[record.token]


_NOTHING = _Facts("", frozenset(), frozenset(), 0)


def _facts(record: Record) -> _Facts:
    spec = record.spec
    return _Facts(
        spec.base,
        frozenset([*files_written(record), *(item.pattern for item in spec.outputs)]),
        frozenset(parent.key for parent in spec.after),
        hash(record.spec_json),
    )
