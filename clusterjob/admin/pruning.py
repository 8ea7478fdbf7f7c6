"""Removing old jobs: records, and their scripts, logs and exit records on the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clusterjob.engine import Engine
from clusterjob.errors import ClusterJobError, SettingsError
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.store import ONCE_DUE, ONCE_STARTED, Once, Record, last_change


class Removed(NamedTuple):
    """A submission that was (or would be) removed; ``created`` in s since the epoch."""

    token: str
    key: str
    name: str
    job_id: str | None
    status: Status
    created: float

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Removed:
        """Make one of the state of a record, as plain values."""
        return cls(
            state["token"],
            state["key"],
            state["name"],
            state.get("job_id"),
            Status(state["task"]["status"]),
            state.get("created", 0.0),
        )


@dataclass
class Pruned:
    """What was (or would be) removed, and what could not be done."""

    removed: list[Removed] = field(default_factory=list)
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
    live = session.store.select(
        statuses=[Status.PENDING, Status.RUNNING], earlier=True
    )
    needed = _needed_exit_records(live)
    before = time.time() - older_than
    ended = [status for status in Status if status.finished]
    keys, found = set(), []
    for listed in session.store.listed(ended, earlier=True):
        found.append(Removed.of(listed.state))
        is_meant = listed.is_current and found[-1].status in wanted
        if (
            is_meant
            and _ended(listed.state) < before
            and _may_go(listed.state, needed)
        ):
            keys.add(found[-1].key)
    # with the earlier submissions of the same jobs
    gone = [item for item in found if item.key in keys]
    return Pruned(removed=gone) if dry_run else _remove(session.engine, gone)


def _needed_exit_records(records: Iterable[Record]) -> set[str]:
    """Return the paths that jobs which have not ended look at before they begin."""
    return {
        path
        for record in records
        if not record.finished
        for parent in record.spec.waits_for
        for path in parent.records
    }


def _may_go(state: Mapping[str, Any], needed: set[str]) -> bool:
    if Once.from_json(state.get("epilogue", "")) in (ONCE_DUE, ONCE_STARTED):
        return False
    if Once.from_json(state.get("outputs", "")) is ONCE_DUE:
        return False
    start = f"{state['runs']}/{state['token']}"
    if "tasks" not in state:
        return f"{start}.exit" not in needed
    return needed.isdisjoint(f"{start}.{index}.exit" for index in state["tasks"])


def _remove(engine: Engine, gone: Sequence[Removed]) -> Pruned:
    pruned = Pruned()
    records = list(engine.store.by_tokens(item.token for item in gone).values())
    clusters = {record.cluster_id: record.spec.cluster for record in records}
    for cluster_id, reference in clusters.items():
        members = [record for record in records if record.cluster_id == cluster_id]
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
        removed = {record.token for record in engine.store.discard(members)}
        pruned.removed += [item for item in gone if item.token in removed]
    return pruned


def _ended(state: Mapping[str, Any]) -> float:
    """Return when a job ended (s since the epoch), as far as is known."""
    task = state["task"]
    return task.get("ended") or last_change(task) or state.get("created", 0.0)
