"""Cancelling jobs: one command for all of a cluster's."""

from __future__ import annotations

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
        live = [record for record in records if not record.finished]
        for record in live:
            record.cancel_requested = poller.clock()
            if record.phase is Phase.DEFERRED:  # the scheduler never had it
                record.task.status, record.task.reason = (
                    Status.CANCELLED,
                    Reason.CANCELLED,
                )
        poller.store.write(live)
        ids = by_member(live)
        if ids:
            try:
                poller.scheduler.cancel(ids)
            except CommandError:
                for record in live:
                    record.cancel_requested = None
                poller.store.write(live)
                raise
        poller.pace.reset_backoff()
