"""Asking a cluster: one question for all jobs, not one a job.

Processes that share a store share the answers too: whoever asks does so for all jobs of the store
on that cluster, and the others read what was written down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from clusterjob.engine.assess import Assessor
from clusterjob.engine.jobs import TrackedJobs
from clusterjob.engine.pace import Pace
from clusterjob.engine.parents import find_dropped
from clusterjob.engine.recovery import finish_submissions
from clusterjob.engine.replies import Listing
from clusterjob.engine.scheduler import Scheduler
from clusterjob.status import Status
from clusterjob.store import Note, Phase, Record, Store

_log = logging.getLogger(__name__)
# what is called with a job, and the states that it left and came to
Hook = Callable[[Record, Status, Status], object]


class Poller:
    """Asks what became of the jobs of one store on one cluster, when that is due.

    ``polls`` counts the questions. ``stale_since`` is when the last good answer was (s since the
    epoch), None where that is the last answer of all.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: TrackedJobs,
        assessor: Assessor,
        pace: Pace,
    ) -> None:
        self.scheduler = scheduler
        self.jobs = jobs
        self.assessor = assessor
        self.pace = pace
        self.store: Store = jobs.store
        self.clock: Callable[[], float] = pace.clock
        self.lock = threading.RLock()
        self.polls = 0
        self.hooks: list[Hook] = []
        self._seen: dict[str, Status] = {}  # by token, where there are hooks
        self._changes: list[tuple[Record, Status, Status]] = []  # not told yet
        self.finishes = True  # the open submissions of processes that are gone
        self.stale_since: float | None = None
        self.last_listing: Listing | None = None
        self._last_answer = 0.0
        self._error = ""

    @property
    def error(self) -> str:
        """What the scheduler's commands complained about last; empty where all is well."""
        return self._error

    def refresh(self, force: bool = False, everyone: bool = False) -> None:
        """Ask the cluster, if that is due (or with ``force``), and write down what changed.

        With ``everyone`` also where nobody in this process holds a handle on a job of it. A failed
        question changes nothing. Raises only :class:`StoreError`.
        """
        if not force and not self.pace.is_due():
            return
        try:
            self._refresh(force, everyone)
        finally:
            changes, self._changes = self._changes, []
            for change in changes:
                self._tell(*change)

    def _refresh(self, force: bool, everyone: bool) -> None:
        with self.lock:
            if not force and not self.pace.is_due():
                return  # another thread has asked meanwhile
            live = self.jobs.live()
            if not live and not everyone:
                return
            now = self.clock()
            # an answer of this process's own is older than what it has waited for
            youngest = 0.0 if force else self.pace.waited
            interval = self.pace.begin_poll()
            asked = self.store.begin_poll(self.jobs.cluster_id, youngest, now)
            if asked is not None:
                self._take_answer(asked, interval, live)
                return
            stale = self.stale_since
            try:
                self._poll(live)
            finally:
                self.pace.asked_here(interval)
                if self.stale_since != stale:
                    note = Note(now, self.stale_since)
                    self.store.note(f"poll:{self.jobs.cluster_id}", note)

    def _note_changes(self, records: Iterable[Record]) -> None:
        """Note what changed since states were seen last, for those who want to be told."""
        if not self.hooks:
            return
        for record in records:
            before = self._seen.setdefault(record.token, record.status)
            if before != record.status:
                self._changes.append((record, before, record.status))
                self._seen[record.token] = record.status
            if record.finished:
                self._seen.pop(record.token, None)

    def _tell(self, record: Record, before: Status, after: Status) -> None:
        for hook in self.hooks:
            try:
                hook(record, before, after)
            except Exception:
                _log.exception(
                    "what is called when a state changes failed for job %r",
                    record.name,
                )

    def _take_answer(
        self, asked: Note, interval: float, live: Sequence[Record]
    ) -> None:
        """Another process has asked: what it found is in the store."""
        self.pace.asked_elsewhere(asked.at, interval)
        self._last_answer, self.stale_since = asked.at, asked.value
        known = self.jobs.known_live()
        self.jobs.reload(live)
        self._note_changes(known)

    def release(self, records: Sequence[Record], alone: Collection[str] = ()) -> None:
        """Submit jobs that their campaign lets go; what cannot be now is left for later polls.

        Raises :class:`StoreError`.
        """
        with self.lock:
            was_idle = not self.jobs.known_live()
            finish_submissions(self.store, self.scheduler, records, True, alone)
            if was_idle:
                self.pace.reset_backoff()

    def finish_submissions(self) -> None:
        """Finish the open submissions of processes that are gone. Raises :class:`StoreError`."""
        with self.lock:
            self._finish_open(self.jobs.everyone([]))

    def _finish_open(self, records: Sequence[Record]) -> None:
        unsent = [record for record in records if record.unsent]
        finish_submissions(self.store, self.scheduler, unsent)

    def _poll(self, live: Sequence[Record]) -> None:
        self.polls += 1
        self.jobs.reload(live)
        everyone = self.jobs.everyone(live)
        self._note_changes(everyone)
        if self.finishes:
            self._finish_open(everyone)
        submitted = [
            record
            for record in everyone
            if record.phase is Phase.SUBMITTED and not record.finished
        ]
        if not submitted:
            return
        listing = self.scheduler.active(record.member for record in submitted)
        self._note_answer(listing)
        self.last_listing = listing
        if not listing.asked:
            return
        found = self.assessor.assess(submitted, listing)
        if found.error:
            self._note_error(found.error)
        found.dropped = find_dropped(self.store, found.changed, found.judge)
        self.store.update(found.changed, found.judge)
        self._note_changes(everyone)

    def _note_answer(self, listing: Listing) -> None:
        now = self.clock()
        if listing.asked:
            self._last_answer = now
            self.stale_since = None
        else:
            self.stale_since = self.stale_since or self._last_answer or now
        self._note_error(listing.error)

    def _note_error(self, words: str) -> None:
        """Keep what went wrong; in the log it stands once."""
        first = words.partition("\n")[0]
        is_new = first != self._error.partition("\n")[0]
        if first and is_new and self.scheduler.accounting:
            _log.warning("%s: %s", self.scheduler.backend.title, first)
        self._error = words
