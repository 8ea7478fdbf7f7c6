"""Submissions that are open are finished by whoever finds them: after a crash, or when the
scheduler could not take a job before.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from clusterjob.engine.job_files import array_uploads, job_uploads
from clusterjob.engine.jobs import cancel_jobs
from clusterjob.engine.lease import Lease, heartbeats, is_abandoned, process_name
from clusterjob.engine.local_scripts import WrongMachineError, run_prologue
from clusterjob.engine.offering import Refusal, accept, bundle_anew, offer
from clusterjob.engine.parents import Resolved, resolve_parents
from clusterjob.engine.replies import Receipt
from clusterjob.engine.scheduler import Scheduler
from clusterjob.errors import (
    ClusterJobError,
    StoreError,
    SubmissionError,
    TransportError,
)
from clusterjob.files import upload
from clusterjob.status import Reason, Status
from clusterjob.store import Phase, Record, Store


def finish_submissions(
    store: Store,
    scheduler: Scheduler,
    records: Sequence[Record],
    released: bool = False,
    alone: Collection[str] = (),
) -> None:
    """Finish submissions that are open and whose owner is gone, whoever that was; or with
    ``released`` begin those that their campaign lets go. Jobs with the tokens ``alone`` do not go
    with others in an array.

    That is deferred ones that are due, and doubtful ones. Each is taken over first, so that of many
    processes one does it. The scheduler is asked by token before a doubtful one is offered again.
    What cannot be done now is left for later, with the reason in the record's words; only the
    store's errors are raised.
    """
    now = time.time()
    is_any_doubtful = any(record.phase is Phase.SUBMITTING for record in records)
    beats = heartbeats(store) if is_any_doubtful else {}
    phases = {record.token: record.phase for record in records}
    free = [
        record
        for record in records
        if (record.is_held if released else is_abandoned(record, beats, now))
    ]
    held = [record for record in free if record.phase is Phase.HELD]
    resolved = resolve_parents(store, held)
    free = [record for record in free if record.token not in resolved.waiting]
    if not free:
        return
    taken = store.take_over(free, process_name(), now)
    if not taken:
        return
    with Lease(store, taken):
        try:
            _Recovery(store, scheduler, phases, resolved, alone).finish(taken)
        except StoreError:
            raise
        except ClusterJobError as error:
            _leave_open(store, taken, error)


class _Recovery:
    """The submissions that one process has taken over; ``phases`` are those in which they were, by
    token.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        phases: Mapping[str, Phase],
        resolved: Resolved,
        alone: Collection[str],
    ) -> None:
        self.store = store
        self.scheduler = scheduler
        self.phases = phases
        self.resolved = resolved
        self.alone = alone

    def finish(self, taken: Sequence[Record]) -> None:
        """Look for the doubtful ones, then submit what the scheduler does not have."""
        self._look_for(self._that_were(Phase.SUBMITTING, taken))
        left = self._without_dead(self._without_cancelled(taken))
        ready = self._that_were(Phase.DEFERRED, left)
        fresh = self._that_were(Phase.HELD, left)
        self._bundle(fresh)
        doubtful = self._that_were(Phase.SUBMITTING, left)
        able, refused = self._run_prologues([*fresh, *doubtful])
        ready += self._send_files(able)
        self._take_apart(left, ready)
        if ready:
            arrays = list(array_uploads(self.scheduler, ready, again=True))
            upload(self.scheduler.transport, arrays)
            refused += offer(self.store, self.scheduler, ready)
        words = {refusal.record.token: refusal.words for refusal in refused}

        def fail(record: Record) -> bool:
            if not record.unsent:
                return False
            task = record.task
            task.status, task.reason = Status.FAILED, Reason.SUBMISSION
            task.words = words[record.token]
            return True

        self.store.update([refusal.record for refusal in refused], fail)

    def _that_were(self, phase: Phase, records: Sequence[Record]) -> list[Record]:
        return [record for record in records if self.phases[record.token] is phase]

    def _bundle(self, fresh: Sequence[Record]) -> None:
        """Put jobs together that have not been offered in this attempt."""
        parents, lost = self.resolved.parents, self.resolved.lost

        def note(record: Record) -> bool:
            found = parents.get(record.token)
            record.parents = found or record.parents
            if lost.get(record.token):
                record.drop_elements(lost[record.token])
            return found is not None

        self.store.update(fresh, note)
        bundle_anew(self.store, self.scheduler, fresh, self.alone)

    def _without_dead(self, records: Sequence[Record]) -> list[Record]:
        """Return the records to submit; a parent of the others came to another end."""
        dead = [item for item in records if item.token in self.resolved.dead]

        def drop(record: Record) -> bool:
            if not record.unsent:
                return False
            record.drop(Reason.DEPENDENCY)
            return True

        self.store.update(dead, drop)
        return [item for item in records if item.token not in self.resolved.dead]

    def _look_for(self, doubtful: Sequence[Record]) -> None:
        """Ask whether the scheduler has jobs whose answer was lost, and note their ids."""
        if not doubtful:
            return
        found = find_submissions(self.scheduler, doubtful)

        def note(record: Record) -> None:
            record.submitted = record.submitted or (record.created, time.time())
            if record.phase is not Phase.SUBMITTED:
                accept(self.scheduler, record, found[record.submission[1]])

        there = [record for record in doubtful if record.submission[1] in found]
        self.store.update(there, note)

    def _take_apart(self, records: Sequence[Record], ready: Sequence[Record]) -> None:
        """Take those that are not ready yet out of the arrays that go without them."""
        going = {record.token for record in ready}
        staying = [record for record in records if record.token not in going]

        def go_alone(record: Record) -> bool:
            if record.bundle is None or not record.unsent:
                return False
            record.bundle = None
            return True

        self.store.update(staying, go_alone)

    def _without_cancelled(self, records: Sequence[Record]) -> list[Record]:
        """Return the records to submit.

        What was cancelled meanwhile is cancelled now, or was never submitted.
        """

        def give_up(record: Record) -> bool:
            if not record.unsent:
                return False
            record.drop(Reason.CANCELLED)
            return True

        cancelled = [record for record in records if record.cancel_requested]
        cancel_jobs(self.scheduler, cancelled)
        self.store.update(cancelled, give_up)
        return [
            record
            for record in records
            if record.phase is Phase.SUBMITTING and not record.cancel_requested
        ]

    def _run_prologues(
        self, records: Sequence[Record]
    ) -> tuple[list[Record], list[Refusal]]:
        """Run what is left of prologues.

        Returns the jobs to go on with, and those whose prologue failed. One that belongs elsewhere
        stays open.
        """
        able, refused = [], []
        for record in records:
            try:
                run_prologue(self.store, record)
                able.append(record)
            except WrongMachineError as error:
                _leave_open(self.store, [record], error)
            except SubmissionError as error:
                refused.append(Refusal(record, str(error).rstrip()))
        return able, refused

    def _send_files(self, records: Sequence[Record]) -> list[Record]:
        """Send files again; return the jobs that have theirs.

        One whose files cannot be sent stays open. Raises :class:`TransportError`.
        """
        if not records:
            return []
        try:
            upload(
                self.scheduler.transport,
                job_uploads(self.scheduler, records, again=True),
            )
            return list(records)
        except TransportError:
            raise
        except ClusterJobError as error:
            if len(records) > 1:  # find out which it is
                return [
                    record for one in records for record in self._send_files([one])
                ]
            _leave_open(self.store, records, error)
            return []


def find_submissions(
    scheduler: Scheduler, records: Sequence[Record], strangers: bool = False
) -> dict[str, Receipt]:
    """Return what is known of the submissions of jobs, by their tokens: see
    :meth:`Scheduler.find`.
    """
    tokens: dict[str, dict[str, None]] = {}
    elements: dict[str, dict[str, str]] = {}
    for record in records:
        folder, token = record.submission
        tokens.setdefault(folder, {})[token] = None
        if record.bundle is not None:
            elements.setdefault(record.folder, {})[record.run_token] = token
    names = {folder: list(found) for folder, found in tokens.items()}
    return scheduler.find(names, elements, strangers)


def _leave_open(
    store: Store, records: Sequence[Record], error: ClusterJobError
) -> None:
    """Leave submissions to nobody, with the reason: they are tried again at the next poll."""

    def leave(record: Record) -> bool:
        if not record.unsent:
            return False
        record.owner = ""
        record.task.words = str(error).splitlines()[0]
        return True

    store.update(records, leave)
