"""Handing jobs whose scripts are in place to their scheduler, and noting what it said."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clusterjob.backend import ErrorKind
from clusterjob.engine.bundles import Unit, bundle, note_id, units_of
from clusterjob.engine.job_files import program_paths, submitted_path, uploads_of
from clusterjob.engine.jobs import cancel_jobs
from clusterjob.engine.replies import Receipt, Submission
from clusterjob.engine.scheduler import Scheduler
from clusterjob.engine.scripts import Ticket
from clusterjob.errors import CommandError, TransportError, shorten
from clusterjob.files import log_folders, upload
from clusterjob.status import Status
from clusterjob.store import Phase, Record, Store

_log = logging.getLogger(__name__)
_NO_COMMAND = (126, 127)  # exit codes of a shell: not executable, not found
_SMALLER = 8  # an array that was refused is offered again in as many parts


@dataclass(frozen=True, eq=False)
class Refusal:
    """A job that was not accepted, and why."""

    record: Record
    words: str


@dataclass(eq=False)
class _Round:
    """What came of one offer: refusals, and the jobs of arrays that were refused as such."""

    refused: list[Refusal] = field(default_factory=list)
    split: list[Record] = field(default_factory=list)
    words: str = ""  # that an array was refused with, where it was not for a limit
    has_accepted: bool = False


def offer(
    store: Store, scheduler: Scheduler, records: Sequence[Record]
) -> list[Refusal]:
    """Hand jobs whose scripts are in place to the scheduler, note what it said.

    Arrays that it refuses are offered again as smaller ones, down to single jobs. Returns the
    refusals. Where it is not known what the scheduler did, the records stay open.
    """
    found = _offer_once(store, scheduler, records)
    refused = list(found.refused)
    largest = _largest(records)
    while found.split:
        words, before = found.words, _largest(found.split)
        scheduler.array_size = max(1, before // _SMALLER)
        try:
            bundle_anew(store, scheduler, found.split)
            upload(
                scheduler.transport, uploads_of(scheduler, found.split, again=True)
            )
        except CommandError as error:
            _leave_open(store, found.split, error)
            return refused
        found = _offer_once(store, scheduler, found.split)
        refused += found.refused
        if found.has_accepted and words:
            _log.warning(
                "%s refused an array of %d, and took smaller ones: %s. 'array_size = %d' in "
                "[Limits] of the profile (or 'bundle = no' in [Attributes]) asks for them at once",
                scheduler.backend.title,
                before,
                shorten(words.replace("\n", " ")),
                scheduler.array_size,
            )
    if largest >= scheduler.array_size:
        most = scheduler.backend.limits.array_size
        scheduler.array_size = min(most, 2 * scheduler.array_size)
    return refused


def _largest(records: Iterable[Record]) -> int:
    return max((unit.size for unit in units_of(records)), default=0)


def bundle_anew(
    store: Store,
    scheduler: Scheduler,
    records: Sequence[Record],
    alone: Collection[str] = (),
) -> None:
    """Put jobs together that are offered next, and write down which go with which."""
    bundle(scheduler.backend, records, scheduler.array_size, alone)
    bundles = {record.token: record.bundle for record in records}

    def note(record: Record) -> None:
        record.bundle = bundles[record.token]

    store.update(records, note)


def _offer_once(
    store: Store, scheduler: Scheduler, records: Sequence[Record]
) -> _Round:
    units = units_of(records)
    programs = {record.token: program_paths(record) for record in records}
    paths = list(dict.fromkeys(path for found in programs.values() for path in found))
    found = _Round()
    try:
        submission = scheduler.submit(
            [_ticket(scheduler, unit) for unit in units], paths
        )
    except TransportError as error:
        _leave_open(store, records, error)
        return found
    except CommandError as error:
        found.refused = [Refusal(record, str(error)) for record in records]
        return found
    notes = _Notes(scheduler, submission, programs, units)

    def note(record: Record) -> None:
        notes.note(record, found)

    store.update(records, note)
    found.has_accepted = notes.has_accepted
    _cancel_unwanted(store, scheduler, records)
    return found


def _ticket(scheduler: Scheduler, unit: Unit) -> Ticket:
    """Return what the submission of a job, or of an array of jobs, needs."""
    workdir = unit.workdir
    logs = {
        folder if record.workdir == workdir else os.path.join(record.workdir, folder)
        for record in unit.members
        for folder in log_folders(record)
    }
    others = {record.folder for record in unit.members} - {unit.folder}
    return Ticket(
        unit.token,
        workdir,
        unit.folder,
        submitted_path(scheduler, unit),
        tuple(sorted(logs)),
        tuple(sorted(others)),
    )


class _Notes:
    """Notes the scheduler's answers in the records of the jobs that were offered."""

    def __init__(
        self,
        scheduler: Scheduler,
        submission: Submission,
        programs: Mapping[str, Sequence[str]],
        units: Sequence[Unit],
    ) -> None:
        self.scheduler = scheduler
        self.submission = submission
        self.programs = programs
        self.sizes = {unit.token: unit.size for unit in units}
        self.limited = ""  # the token of the first array that was refused for a limit
        receipts = submission.receipts.values()
        self.has_accepted = any(receipt.job_id for receipt in receipts)

    def note(self, record: Record, found: _Round) -> None:
        """Note the answer to one job; what was refused is added to ``found``."""
        record.submitted = record.submitted or (
            self.submission.began,
            self.submission.ended,
        )
        sums = self.submission.digests
        known = [path for path in self.programs[record.token] if path in sums]
        record.programs = tuple((path, sums[path]) for path in known)
        if record.phase is Phase.SUBMITTED:
            return  # whoever took it over meanwhile was told
        _, token = record.submission
        receipt = self.submission.receipts.get(token)
        if receipt is None:
            record.task.words = "the scheduler's answer is missing"
        elif receipt.job_id:
            accept(self.scheduler, record, receipt)
        elif receipt.exit_code == 0:
            record.task.words = (
                f"the scheduler's answer could not be read: {receipt.said!r}"
            )
            _tell_unread(self.scheduler.backend.title, shorten(repr(receipt.said)))
        else:
            self._note_refusal(record, receipt, found)

    def _note_refusal(self, record: Record, receipt: Receipt, found: _Round) -> None:
        backend = self.scheduler.backend
        is_limit = backend.matches(ErrorKind.LIMIT, receipt.words)
        is_later = is_limit or backend.matches(ErrorKind.RETRY, receipt.words)
        # a job that was accepted before, or waited for its turn, is not lost for a shell that has
        # not the scheduler's commands
        has_waited = record.attempt > 1 or bool(record.campaign)
        if has_waited and receipt.exit_code in _NO_COMMAND:
            is_later = True
        _, token = record.submission
        is_array = self.sizes.get(token, 1) > 1
        if is_limit and is_array and not self.has_accepted:
            # either a limit is reached, or the array is more than it ever allows: try with one
            self.limited = self.limited or token
        if is_array and (not is_later or self.limited == token):
            found.split.append(record)
            found.words = "" if is_limit else receipt.words
        elif is_later:
            record.phase = Phase.DEFERRED
            record.retry_at = time.time() + backend.limits.retry_wait
            record.task.words = receipt.words
            _tell_deferred(backend.title, shorten(receipt.words.replace("\n", " ")))
        else:
            found.refused.append(Refusal(record, receipt.words))


@functools.lru_cache
def _tell_unread(title: str, said: str) -> None:
    """Say in the log, once a process, that it is not known what a scheduler did."""
    _log.warning(
        "the answer to a submission could not be read, so it is not known which job that is: %s. "
        "Is the command that of %s? 'clusterjob cancel' gives such jobs up, 'retry' submits them "
        "anew",
        said,
        title,
    )


@functools.lru_cache
def _tell_deferred(title: str, words: str) -> None:
    """Say in the log, once a process, that jobs wait because a scheduler took none now."""
    _log.warning("%s took no job now, and is asked again: %s", title, words)


def accept(scheduler: Scheduler, record: Record, receipt: Receipt) -> None:
    """Note the job id that the scheduler gave."""
    record.phase, record.member = Phase.SUBMITTED, receipt.member
    note_id(scheduler.backend, record, receipt.job_id or "")
    record.retry_at, record.owner = None, ""
    record.task.words = ""
    record.task.note_event(
        time.time(), Status.PENDING.name, f"submitted as {record.job_id}"
    )


def _leave_open(store: Store, records: Sequence[Record], error: CommandError) -> None:
    words = f"it is not known whether it was submitted: {str(error).splitlines()[0]}"
    store.update(records, functools.partial(_note_words, words))


def _note_words(words: str, record: Record) -> bool:
    if record.phase is not Phase.SUBMITTING:
        return False
    record.task.words = words
    return True


def _cancel_unwanted(
    store: Store, scheduler: Scheduler, records: Sequence[Record]
) -> None:
    """Cancel what somebody else wanted cancelled while it was on its way."""
    unwanted = [record for record in records if record.cancel_requested]
    try:
        cancel_jobs(scheduler, unwanted, records)
    except CommandError as error:
        words = (
            f"it was to be cancelled, and could not be: {str(error).splitlines()[0]}"
        )
        _log.warning("%s", words)

        def tell(record: Record) -> None:
            record.cancel_requested = None
            record.task.note_event(time.time(), record.status.name, words)

        store.update(unwanted, tell)
