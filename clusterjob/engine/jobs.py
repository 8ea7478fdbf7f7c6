"""The records of one cluster that this process holds: one object for each."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from clusterjob.engine.bundles import pack_id
from clusterjob.engine.scheduler import Scheduler
from clusterjob.store import Phase, Record, Store


class TrackedJobs:
    """The jobs of a store on one cluster.

    Those that somebody holds a handle on, and all others that have not ended: whoever asks a
    cluster does so for all of them.
    """

    def __init__(self, store: Store, cluster_id: str) -> None:
        self.store = store
        self.cluster_id = cluster_id
        self._lock = threading.Lock()
        self._records: weakref.WeakValueDictionary[str, Record] = (
            weakref.WeakValueDictionary()
        )
        # live jobs of the store that nobody in this process holds a handle on
        self._others: list[Record] = []
        self._seen_held = 0
        self._seen = 0  # changes of the store, when copies were compared last

    def track(self, record: Record) -> Record:
        """Return the one object that stands for a record in this process."""
        with self._lock:
            held = self._records.setdefault(record.token, record)
        if held.version < record.version:
            held.update_from(record)
        return held

    def select(self, is_meant: Callable[[Record], bool]) -> list[Record]:
        """Return the tracked records that are meant."""
        with self._lock:
            records = list(self._records.values())
        return [record for record in records if is_meant(record)]

    def live(self) -> list[Record]:
        """Return the tracked jobs that have not ended, but for those that are held."""
        return self.select(
            lambda record: (
                not record.finished
                and not record.is_held
                and record.cluster_id == self.cluster_id
            )
        )

    def known_live(self) -> list[Record]:
        """Return all live jobs of the store on this cluster, as of the last question."""
        found = {record.token: record for record in (*self.live(), *self._others)}
        return [record for record in found.values() if not record.finished]

    def everyone(self, live: Sequence[Record]) -> list[Record]:
        """Return ``live`` and all other live jobs that the store has on this cluster."""
        known = {record.token for record in live}
        before = {record.token: record for record in self._others}
        tokens = [
            token for token in self.store.live(self.cluster_id) if token not in known
        ]
        new = self.store.by_tokens(token for token in tokens if token not in before)
        others = []
        for token in tokens:
            if token in before:
                others.append(before[token])
            elif token in new:
                others.append(self.track(new[token]))
        self._others = [record for record in others if not record.finished]
        return [*live, *self._others]

    def reload_held(self) -> None:
        """Take over what became of jobs that their campaigns held."""
        held = self.select(lambda record: record.is_held)
        changes = self.store.changes() if held else 0
        if changes != self._seen_held:
            self.store.refresh(held)
            self._seen_held = changes

    def reload(self, live: Iterable[Record]) -> None:
        """Take over what other processes found out meanwhile."""
        changes = self.store.changes()
        if changes != self._seen:
            self.store.refresh([*live, *self._others])
            self._seen = changes


def ids_to_ask(records: Iterable[Record]) -> dict[str | None, list[str]]:
    """Return the ids by which accounting is asked about jobs, by the cluster of a multi-cluster
    scheduler that has them; an array of single jobs has one.
    """
    return _by_member((record, record.submitted_id) for record in records)


def cancel_jobs(
    scheduler: Scheduler, records: Iterable[Record], live: Iterable[Record] = ()
) -> None:
    """Cancel jobs with one command, if there are any to cancel. Raises :class:`CommandError`.

    An array of single jobs has one id where those of its jobs that are ``live`` are all to be
    cancelled, and so has a pack; a job whose pack goes on has none.
    """
    wanted = list(records)
    spared = _Spared.of(wanted, live)
    chosen = {record.token: spared.id_to_cancel(record) for record in wanted}
    ids = _by_member((record, chosen[record.token]) for record in wanted)
    packed = [
        (record.files_of(None), record.job_id)
        for record in wanted
        if record.is_packed and record.job_id and chosen[record.token] is None
    ]
    if ids or packed:
        scheduler.cancel(ids, packed)


@dataclass
class _Spared:
    """The arrays and packs that go on though jobs in them are cancelled; the tokens of the jobs of
    which that is known.
    """

    arrays: set[tuple[str, str]]
    packs: set[tuple[tuple[str, str], str]]
    known: set[str]

    @classmethod
    def of(cls, wanted: Iterable[Record], live: Iterable[Record]) -> _Spared:
        unwanted = {record.token for record in wanted}
        others = [record for record in live if record.token not in unwanted]
        return cls(
            {record.submission for record in others},
            {(record.submission, pack_id(record.job_id)) for record in others},
            {record.token for record in live},
        )

    def id_to_cancel(self, record: Record) -> str | None:
        """Return the id of the most that ends with a job, and of nothing else."""
        is_known = record.token in self.known
        if is_known and record.submission not in self.arrays:
            return record.submitted_id
        if not record.is_packed:
            return record.job_id
        own = pack_id(record.job_id)
        return (
            own if is_known and (record.submission, own) not in self.packs else None
        )


def _by_member(
    jobs: Iterable[tuple[Record, str | None]],
) -> dict[str | None, list[str]]:
    ids: dict[str | None, dict[str, None]] = {}
    for record, job_id in jobs:
        if record.phase is Phase.SUBMITTED and job_id:
            ids.setdefault(record.member, {})[job_id] = None
    return {member: list(found) for member, found in ids.items()}
