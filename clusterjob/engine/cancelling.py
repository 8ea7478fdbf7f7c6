"""Cancelling jobs: one command for all of a cluster's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from clusterjob.engine.assess import is_anothers
from clusterjob.engine.jobs import cancel_jobs
from clusterjob.engine.poller import Poller
from clusterjob.errors import CommandError
from clusterjob.status import Reason
from clusterjob.store import Phase, Record


def cancel(poller: Poller, records: Sequence[Record]) -> None:
    """Cancel the jobs that have not ended. Raises :class:`CommandError`.

    That somebody asked for it is written down first: it tells a cancelled job from a killed one.
    """
    with poller.lock:
        now = poller.clock()
        live = [record for record in records if not record.finished]
        poller.store.update(live, functools.partial(_request, now))
        submitted = [record for record in live if not record.finished]
        strangers = _strangers(poller, submitted)
        own = [record for record in submitted if record not in strangers]
        known = poller.jobs.known_live()
        try:
            cancel_jobs(poller.scheduler, own, known)
        except CommandError:
            poller.store.update(live, functools.partial(_withdraw, now))
            raise
        poller.pace.reset_backoff()
        if strangers:
            poller.store.update(strangers, functools.partial(_withdraw, now))
            names = ", ".join(f"{item.name!r} ({item.job_id})" for item in strangers)
            raise CommandError(
                f"not cancelled: {names}. The scheduler has another job of that id",
                hint="'clusterjob doctor' says what it knows; the id may be of another machine, or "
                "the record was changed.",
            )


def _strangers(poller: Poller, records: Sequence[Record]) -> list[Record]:
    """Return the records whose ids are those of other jobs now: ids come again, and get lost.

    The last list that was read tells; where there was none, one is asked for.
    """
    members = dict.fromkeys(record.member for record in records if record.job_id)
    if not members:
        return []
    listing = poller.last_listing
    if listing is None:
        listing = poller.scheduler.active(members)
    return [record for record in records if is_anothers(record, listing)]


def _request(now: float, record: Record) -> bool:
    """Note that a job is to be cancelled; one that its scheduler never had is cancelled by that."""
    if record.finished:
        return False
    record.cancel_requested = record.cancel_requested or now
    if record.phase in (Phase.DEFERRED, Phase.HELD):
        record.drop(Reason.CANCELLED)
    return True


def _withdraw(now: float, record: Record) -> bool:
    """Take the request back, unless it is somebody else's."""
    if record.finished or record.cancel_requested != now:
        return False
    record.cancel_requested = None
    return True
