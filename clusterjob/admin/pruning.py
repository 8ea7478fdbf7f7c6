"""Removing old jobs: records, and their scripts, logs and exit records on the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clusterjob.engine import Engine
from clusterjob.errors import ClusterJobError, SettingsError
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.store import OnceState, Record


@dataclass
class Pruned:
    """The records that were (or would be) removed, and what could not be done."""

    removed: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def prune(
    session: Session,
    older_than: float,
    statuses: Iterable[Status],
    dry_run: bool = False,
) -> Pruned:
    """Remove jobs that ended more than ``older_than`` seconds ago in one of ``statuses``.

    With ``dry_run`` nothing is removed. Jobs that have not ended are never touched, nor those that
    such a job comes after, nor those whose outputs or epilogue are still due. Logs with names of
    the user's own stay. Raises :class:`SettingsError`, :class:`StoreError`.
    """
    wanted = set(statuses)
    if any(not status.finished for status in wanted):
        raise SettingsError(
            "only jobs that have ended can be removed: completed, cancelled, failed"
        )
    everything = session.store.select(earlier=True)
    needed = _needed_exit_records(everything)
    before = time.time() - older_than
    keys = {
        record.key
        for record in session.store.select()
        if record.status in wanted
        and _ended(record) < before
        and _may_go(record, needed)
    }
    # with the earlier submissions of the same jobs
    gone = [record for record in everything if record.key in keys and record.finished]
    if dry_run:
        return Pruned(removed=gone)
    return _remove(session.engine, gone)


def _needed_exit_records(records: Iterable[Record]) -> set[str]:
    """Return the paths that jobs which have not ended look at before they begin."""
    return {
        path
        for record in records
        if not record.finished
        for parent in record.spec.waits_for
        for path in parent.records
    }


def _may_go(record: Record, needed: set[str]) -> bool:
    if record.epilogue.state in (OnceState.DUE, OnceState.STARTED):
        return False
    if record.outputs.state is OnceState.DUE:
        return False
    own = {
        f"{record.folder}/{record.exit_name(index)}.exit"
        for index in record.all_tasks()
    }
    return own.isdisjoint(needed)


def _remove(engine: Engine, gone: Sequence[Record]) -> Pruned:
    pruned = Pruned()
    clusters = {record.cluster_id: record.spec.cluster for record in gone}
    for cluster_id, reference in clusters.items():
        members = [record for record in gone if record.cluster_id == cluster_id]
        folders: dict[str, list[str]] = {}
        for record in members:
            folders.setdefault(record.folder, []).append(record.token)
        try:
            engine.scheduler(reference).remove(folders)
        except ClusterJobError as error:
            pruned.problems.append(
                f"{len(members)} jobs were kept, because their files could not be removed: {error}"
            )
            continue
        pruned.removed += engine.store.discard(members)
    return pruned


def _ended(record: Record) -> float:
    """Return when a job ended (s since the epoch), as far as is known."""
    if record.task.ended:
        return record.task.ended
    return record.task.history[-1].time if record.task.history else record.created
