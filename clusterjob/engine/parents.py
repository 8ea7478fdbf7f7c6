"""Jobs that wait for others that are tried again: their parents are known by key, not by job id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clusterjob.status import Dependency, Status
from clusterjob.store import Parent, Record, Store


@dataclass
class Resolved:
    """What became of the parents of jobs that are held, by the jobs' tokens."""

    # what they come after now; of jobs that can be submitted
    parents: dict[str, tuple[Parent, ...]] = field(default_factory=dict)
    # elements of arrays whose counterparts did not complete, though others did
    lost: dict[str, set[int]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    # jobs of which a parent did not come to what they wait for
    dead: set[str] = field(default_factory=set)


def resolve_parents(store: Store, held: Sequence[Record]) -> Resolved:
    """Look up what jobs come after now."""
    found = Resolved()
    having = [record for record in held if record.after]
    if not having:
        return found
    keys = {parent.key for record in having for parent in record.after if parent.key}
    newest = store.by_keys(list(keys))
    for record in having:
        _resolve(record, newest, found)
    return found


def _resolve(record: Record, newest: Mapping[str, Record], found: Resolved) -> None:
    parents = []
    lost: set[int] = set()
    for parent in record.after:
        now = newest.get(parent.key)
        if now is None:  # of an older version, or deleted: it stays what it was
            parents.append(parent)
        elif is_dead(now, parent):
            found.dead.add(record.token)
            return
        elif _must_end_first(now, parent, record):
            found.waiting.add(record.token)
        elif now.finished and parent.how is Dependency.AFTER_CORRESPONDING:
            lost |= _without_counterparts(record, now)
            parents.append(replace(now.as_parent(parent.how), done=True))
        else:
            parents.append(now.as_parent(parent.how))
    if record.token in found.waiting:
        return
    if lost and lost >= _open_elements(record):
        found.dead.add(record.token)
        return
    found.parents[record.token] = tuple(parents)
    found.lost[record.token] = lost


def _open_elements(record: Record) -> set[int]:
    tasks = record.tasks or {}
    return {index for index, task in tasks.items() if not task.status.finished}


def _without_counterparts(record: Record, now: Record) -> set[int]:
    """Return the elements whose counterparts in an array that has ended did not complete."""
    before = now.tasks or {}
    completed = {i for i, task in before.items() if task.status is Status.COMPLETED}
    return _open_elements(record) - completed


def _must_end_first(now: Record, parent: Parent, record: Record) -> bool:
    """Whether no scheduler sees to the order of a job and of what it comes after."""
    if now.finished:
        return False
    is_known = now.job_id and now.cluster_id == record.cluster_id
    was_dropped = record.attempt > 1  # it would be again
    return not is_known or was_dropped or now.as_parent(parent.how).late


def is_dead(now: Record, parent: Parent) -> bool:
    """Whether a parent has come to another end than is waited for, or is sure to."""
    return not now.can_meet(parent.how)


def find_dropped(
    store: Store, records: Iterable[Record], judge: Callable[[Record], object]
) -> set[str]:
    """Return the tokens of jobs that were dropped for a parent that is tried again.

    ``records`` are those that a poll changes, ``judge`` makes of one what the poll found out.
    """
    after = {}
    for record in records:
        after[record.key] = record.snapshot()
        judge(after[record.key])
    dropped = [record for record in after.values() if record.is_dropped]
    if not dropped:
        return set()
    keys = {
        parent.key for record in dropped for parent in record.after
    } - after.keys()
    known = {**store.by_keys(list(keys)), **after}
    coming = {record.key for record in dropped}
    while True:
        dead = {
            record.key
            for record in dropped
            if record.key in coming and _has_dead_parent(record, known, coming)
        }
        if not dead:
            return {record.token for record in dropped if record.key in coming}
        coming -= dead


def _has_dead_parent(
    record: Record, known: Mapping[str, Record], coming: set[str]
) -> bool:
    for parent in record.after:
        now = known.get(parent.key)
        if now is None or (parent.key not in coming and is_dead(now, parent)):
            return True
    return False
