"""The jobs of one store on one cluster, and all that is done with them."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Collection, Sequence

from clusterjob.engine.accounting import Accounting
from clusterjob.engine.assess import Assessor
from clusterjob.engine.cancelling import cancel
from clusterjob.engine.endings import Endings
from clusterjob.engine.jobs import TrackedJobs
from clusterjob.engine.pace import BatchSize, Pace
from clusterjob.engine.poller import Poller
from clusterjob.engine.scheduler import Scheduler
from clusterjob.store import Record, Store

_log = logging.getLogger(__name__)


class Cluster:
    """Puts together what asks, judges, cancels, accounts and ends jobs.

    All handles of a session on one cluster share it. ``clock`` gives s since the epoch.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        cluster_id: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        batch_size = BatchSize()
        self.pace = Pace(scheduler.backend.limits, clock)
        self.jobs = TrackedJobs(store, cluster_id)
        self._assessor = Assessor(scheduler, batch_size, clock)
        self.poller = Poller(scheduler, self.jobs, self._assessor, self.pace)
        self._accounting = Accounting(self.poller)
        self._endings = Endings(self.poller, batch_size)
        self._asked: tuple[float, bool] | None = None  # when, and whether it answered

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler, by the way to its host that was used last."""
        return self.poller.scheduler

    def use(self, scheduler: Scheduler) -> None:
        """Go another way to the host from now on."""
        self.poller.scheduler = self._assessor.scheduler = scheduler

    def track(self, record: Record) -> Record:
        """Return the one object that stands for a record in this process, and watch it."""
        return self.jobs.track(record)

    def refresh(self, force: bool = False, everyone: bool = False) -> None:
        """Ask what became of all jobs, if that is due. Raises only :class:`StoreError`."""
        self.poller.refresh(force, everyone)

    def answers(self) -> bool:
        """Whether the scheduler can be asked now; it is asked anew after a while."""
        now = self.poller.clock()
        since = self.scheduler.backend.limits.poll_interval
        if self._asked is None or now - self._asked[0] >= since:
            listing = self.scheduler.active()
            self._asked = now, listing.asked
            if not listing.asked:
                _tell_silent(self.scheduler.backend.title, listing.error)
        return self._asked[1] and self.poller.stale_since is None

    def look_at_held(self) -> None:
        """Take over what the campaigns of jobs did, which other processes may drive."""
        self.jobs.reload_held()

    def release(self, records: Sequence[Record], alone: Collection[str] = ()) -> None:
        """Submit jobs that their campaign lets go; none with a token of ``alone`` in an array."""
        self.poller.release(records, alone)

    def finish(self, record: Record) -> None:
        """Do what is due after the end of a job: fetch its outputs, run its epilogue."""
        self._endings.finish(record)

    def want_outputs(self, record: Record, later: Record) -> None:
        """Take over the outputs that a later submission of the same job names."""
        self._endings.want_outputs(record, later)

    def complete_usage(self, record: Record) -> None:
        """Ask accounting for what is not known of a job that has ended."""
        self._accounting.complete_usage(record)

    def cancel(self, records: Sequence[Record]) -> None:
        """Cancel jobs that have not ended. Raises :class:`CommandError`."""
        cancel(self.poller, records)


@functools.lru_cache
def _tell_silent(title: str, words: str) -> None:
    """Say in the log, once a process, that a cluster is passed over."""
    why = words.partition("\n")[0]
    _log.warning("%s does not answer, and is passed over: %s", title, why)
