"""Cancelling jobs: one command for all of a cluster's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from clusterjob.engine.jobs import by_member
from clusterjob.engine.poller import Poller
from clusterjob.errors import CommandError
from clusterjob.status import Reason, Status
from clusterjob.store import Phase, Record


def cancel(poller: Poller, records: Sequence[Record]) -> None:
    """Cancel the jobs that have not ended. Raises :class:`CommandError`.

    That somebody asked for it is written down first: it tells a cancelled job from a killed one.
    """
    with poller.lock:
        now = poller.clock()
        live = [record for record in records if not record.finished]
        poller.store.update(live, functools.partial(_request, now))
        ids = by_member(record for record in live if not record.finished)
        if ids:
            try:
                poller.scheduler.cancel(ids)
            except CommandError:
                poller.store.update(live, functools.partial(_withdraw, now))
                raise
        poller.pace.reset_backoff()


def _request(now: float, record: Record) -> bool:
    """Note that a job is to be cancelled; one that its scheduler never had is cancelled by that."""
    if record.finished:
        return False
    record.cancel_requested = record.cancel_requested or now
    if record.phase is Phase.DEFERRED:
        record.task.status, record.task.reason = Status.CANCELLED, Reason.CANCELLED
    return True


def _withdraw(now: float, record: Record) -> bool:
    """Take the request back, unless it is somebody else's."""
    if record.finished or record.cancel_requested != now:
        return False
    record.cancel_requested = None
    return True
