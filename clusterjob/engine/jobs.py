"""The records of one cluster that this process holds: one object for each."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

from clusterjob.store import Phase, Record, Store


class TrackedJobs:
    """The jobs of a store on one cluster.

    Those that somebody holds a handle on, and all others that have not ended: whoever asks a
    cluster does so for all of them.
    """

    def __init__(self, store: Store, cluster_id: str) -> None:
        self.store, self.cluster_id = store, cluster_id
        self._lock = threading.Lock()
        self._records: weakref.WeakValueDictionary[str, Record] = (
            weakref.WeakValueDictionary()
        )
        # live jobs of the store that nobody in this process holds a handle on
        self._others: list[Record] = []
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
        """Return the tracked jobs that have not ended."""
        return self.select(lambda record: not record.finished)

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

    def reload(self, live: Iterable[Record]) -> None:
        """Take over what other processes found out meanwhile."""
        changes = self.store.changes()
        if changes != self._seen:
            self.store.refresh([*live, *self._others])
            self._seen = changes


def by_member(records: Iterable[Record]) -> dict[str | None, list[str]]:
    """Return the ids of jobs by the cluster of a multi-cluster scheduler that has them."""
    ids: dict[str | None, dict[str, None]] = {}
    for record in records:
        if record.phase is Phase.SUBMITTED and record.job_id:
            ids.setdefault(record.member, {})[record.job_id] = None
    return {member: list(found) for member, found in ids.items()}
