"""Other submissions of jobs that have ended: which come along, and what they come after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clusterjob.engine import Engine
from clusterjob.keys import parent_of
from clusterjob.status import Reason, Status
from clusterjob.store import Record


def cancelled_for(engine: Engine, records: Sequence[Record]) -> list[Record]:
    """Return the jobs that were cancelled because one of these, or one of themselves, did not
    complete, and that have no other reason.
    """
    coming = {record.key for record in records if record.status > Status.COMPLETED}
    if not coming:
        return []
    waiting = [
        record
        for record in engine.store.select(statuses=[Status.CANCELLED])
        if record.task.reason is Reason.DEPENDENCY and record.key not in coming
    ]
    found: list[Record] = []
    while True:
        more = [record for record in waiting if parent_keys(record) & coming]
        if not more:
            return _without_orphans(engine, found, coming)
        found += more
        coming |= {record.key for record in more}
        waiting = [record for record in waiting if record.key not in coming]


def _without_orphans(
    engine: Engine, children: Sequence[Record], coming: set[str]
) -> list[Record]:
    """Leave out jobs that come after others too that did not complete and do not come back."""
    keys = {key for record in children for key in parent_keys(record)} - coming
    parents = engine.store.by_keys(list(keys)) if keys else {}
    dead = {
        key for key, parent in parents.items() if parent.status > Status.COMPLETED
    }
    left = list(children)
    while True:
        alive = [record for record in left if not parent_keys(record) & dead]
        if len(alive) == len(left):
            return alive
        dead |= {record.key for record in left} - {record.key for record in alive}
        left = alive


def parent_keys(record: Record) -> set[str]:
    """Return the keys of the jobs that a job comes after."""
    return {parent.key for parent in record.spec.after}


def comes_from_afar(record: Record, new: Mapping[str, Record]) -> bool:
    """Whether a job comes after one that was just submitted to another cluster."""
    parents = [new[key] for key in parent_keys(record) if key in new]
    return any(parent.cluster_id != record.cluster_id for parent in parents)


def renew(
    engine: Engine,
    records: Sequence[Record],
    folder: str,
    new: Mapping[str, Record],
    held: bool = False,
) -> list[Record]:
    """Return records for other submissions, after what their parents are now: ``new`` ones, by
    their keys, else those of the store. Those of a campaign are ``held``.
    """
    keys = {key for record in records for key in parent_keys(record) if key}
    now = {**engine.store.by_keys(sorted(keys - new.keys())), **new}
    found = []
    for record in records:
        spec = record.spec
        after = tuple(
            parent_of(now[parent.key], spec.cluster, parent.how, held)
            if parent.key in now
            else parent
            for parent in spec.after
        )
        spec = spec._replace(after=after) if after else spec
        found.append(record.renewed(folder, spec))
    return found
