"""Removing old jobs: records, and their scripts, logs and exit records on the cluster."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from clusterjob.engine import Engine, pack_id
from clusterjob.errors import ClusterJobError, SettingsError
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.store import Listed, Record, full_job_id

# the end of the name of an exit record: of an attempt, of an element of an array
_EXIT_RECORD = re.compile(r"(_\d+)?(\.\d+)?\.exit$")


class Removed(NamedTuple):
    """A submission that was (or would be) removed; ``created`` in s since the epoch."""

    token: str
    key: str
    name: str
    job_id: str | None
    status: Status
    created: float

    @classmethod
    def of(cls, listed: Listed) -> Removed:
        """Make one of what lists need of a record."""
        return cls(
            listed.token,
            listed.key,
            listed.name,
            full_job_id(listed.job_id, listed.member),
            Status(listed.status),
            listed.created,
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
    such a job comes after or is in a pack with, nor those whose outputs or epilogue are still due.
    Logs with names of the user's own stay. Raises :class:`SettingsError`, :class:`StoreError`.
    """
    wanted = set(statuses)
    if any(not status.finished for status in wanted):
        raise SettingsError(
            "only jobs that have ended can be removed: completed, cancelled, failed"
        )
    live = session.store.select(
        statuses=[Status.PENDING, Status.RUNNING], earlier=True
    )
    needed = _needed_jobs(live)
    # started over, a pack looks at what its jobs left
    packs = {(item.folder, pack_id(item.job_id)) for item in live if item.is_packed}
    before = time.time() - older_than
    ended = [status for status in Status if status.finished]
    keys, found = set(), []
    for listed in session.store.listed(ended, earlier=True):
        found.append(Removed.of(listed))
        if (
            listed.is_current
            and listed.status in wanted
            and listed.since < before
            and not listed.is_due
            and f"{listed.folder}/{listed.token}" not in needed
            and (listed.folder, pack_id(listed.job_id)) not in packs
        ):
            keys.add(listed.key)
    # with the earlier submissions of the same jobs
    gone = [item for item in found if item.key in keys]
    # the scripts of arrays in which jobs went that have not ended
    folders = {record.submission[0] for record in live}
    return Pruned(removed=gone) if dry_run else _remove(session.engine, gone, folders)


def _needed_jobs(records: Iterable[Record]) -> set[str]:
    """Return the jobs, each as ``folder/token``, whose exit records those that have not ended look
    at before they begin.
    """
    return {
        _EXIT_RECORD.sub("", path)
        for record in records
        if not record.finished
        for parent in record.waits_for
        for path in parent.records
    }


def _remove(
    engine: Engine, gone: Sequence[Removed], needed: Collection[str]
) -> Pruned:
    pruned = Pruned()
    records = list(engine.store.by_tokens(item.token for item in gone).values())
    clusters = {record.cluster_id: record.spec.cluster for record in records}
    for cluster_id, reference in clusters.items():
        members = [record for record in records if record.cluster_id == cluster_id]
        folders: dict[str, list[str]] = {}
        for record in members:
            folders.setdefault(record.folder, []).append(record.token)
        try:
            engine.scheduler(reference).remove(folders, needed)
        except ClusterJobError as error:
            pruned.problems.append(
                f"{len(members)} jobs were kept, because their files could not be removed: {error}"
            )
            continue
        removed = {record.token for record in engine.store.discard(members)}
        pruned.removed += [item for item in gone if item.token in removed]
    return pruned
