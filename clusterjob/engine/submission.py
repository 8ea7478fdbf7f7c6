"""Claim, upload, submit, record: how a batch of jobs gets to its scheduler, each of them once.

A record is written before anything is sent; its token names the job in its folder, in the receipts
and to the scheduler. What a process that died left behind is finished by
:mod:`clusterjob.engine.recovery`, with the same tokens.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterjob.backend import ErrorKind
from clusterjob.engine.conflicts import check_conflicts
from clusterjob.engine.job_files import (
    program_paths,
    relative_script_path,
    uploads_of,
)
from clusterjob.engine.jobs import by_member
from clusterjob.engine.lease import Lease, process_name
from clusterjob.engine.local_scripts import run_prologue
from clusterjob.engine.replies import Receipt
from clusterjob.engine.scheduler import Scheduler
from clusterjob.engine.scripts import Ticket
from clusterjob.errors import (
    CommandError,
    StoreError,
    SubmissionError,
    TransportError,
    first_of,
)
from clusterjob.files import log_folders, upload
from clusterjob.status import Status
from clusterjob.store import Again, Phase, Record, Store

_DAMAGED = "a record in the store is damaged, and is or may be this job's: see 'clusterjob doctor'"
_log = logging.getLogger(__name__)
_NAMES = 3  # of refused jobs, in an error


@dataclass(frozen=True, eq=False)
class Refusal:
    """A job that was not accepted, and why."""

    record: Record
    words: str


@dataclass(frozen=True, eq=False)
class Submitted:
    """What became of a batch: the record of each key, in order, and the refusals."""

    winners: list[Record]
    refused: list[Refusal]


def submit_records(
    store: Store,
    scheduler: Scheduler,
    records: Sequence[Record],
    again: Again,
) -> Submitted:
    """Submit the records whose keys are free, or whose holders ``again`` says to replace.

    Whatever goes wrong before the scheduler is asked leaves nothing in the store. Where it is not
    known what the scheduler did, the records stay as they are, and are finished later.
    """
    check_conflicts(store, records)
    now, me = time.time(), process_name()
    for record in records:
        record.owner, record.leased = me, now
    # the lease comes before the claim: another thread's poll would take the jobs for abandoned
    with Lease(store, records):
        held = store.claim(records, again)
        winners: list[Record] = []
        refused: list[Refusal] = []
        fresh: dict[str, Record] = {}
        mine = {id(record) for record in records}
        for record, holder in zip(records, held, strict=True):
            winners.append(record if holder is None else holder)
            if holder is None:
                refused.append(Refusal(record, _DAMAGED))
            elif id(holder) in mine:
                fresh[holder.token] = holder
        if fresh:
            refused += _send(store, scheduler, list(fresh.values()))
    return Submitted(winners, refused)


def _send(
    store: Store, scheduler: Scheduler, fresh: Sequence[Record]
) -> list[Refusal]:
    """Bring claimed jobs to the scheduler; refused ones are taken out of the store again."""
    try:
        for record in fresh:
            run_prologue(store, record)
        upload(scheduler.transport, uploads_of(scheduler, fresh))
    except BaseException:
        # the store may be what failed; then they are resumed like those of a dead process
        with contextlib.suppress(StoreError):
            store.discard(fresh)
        raise
    refused = offer(store, scheduler, fresh)
    store.discard([refusal.record for refusal in refused])
    return refused


def offer(
    store: Store, scheduler: Scheduler, records: Sequence[Record]
) -> list[Refusal]:
    """Hand jobs whose scripts are in place to the scheduler, note what it said.

    Returns the refusals. Where it is not known what the scheduler did, the records stay open.
    """
    tickets = [
        Ticket(
            record.token,
            record.workdir,
            record.folder,
            relative_script_path(scheduler, record),
            log_folders(record),
        )
        for record in records
    ]
    programs = {record.token: program_paths(record) for record in records}
    paths = list(dict.fromkeys(path for found in programs.values() for path in found))
    try:
        submission = scheduler.submit(tickets, paths)
    except TransportError as error:
        words = (
            f"it is not known whether it was submitted: {str(error).splitlines()[0]}"
        )
        store.update(records, functools.partial(_note_words, words))
        return []
    except CommandError as error:
        return [Refusal(record, str(error)) for record in records]
    refused = []

    def note(record: Record) -> None:
        record.submitted = record.submitted or (submission.began, submission.ended)
        sums = submission.digests
        known = [path for path in programs[record.token] if path in sums]
        record.programs = tuple((path, sums[path]) for path in known)
        words = _note_answer(scheduler, record, submission.receipts.get(record.token))
        if words is not None:
            refused.append(Refusal(record, words))

    store.update(records, note)
    _cancel_unwanted(store, scheduler, records)
    return refused


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
    ids = by_member(unwanted)
    if not ids:
        return
    try:
        scheduler.cancel(ids)
    except CommandError as error:
        words = (
            f"it was to be cancelled, and could not be: {str(error).splitlines()[0]}"
        )
        _log.warning("%s", words)

        def tell(record: Record) -> None:
            record.cancel_requested = None
            record.task.note_event(time.time(), record.status.name, words)

        store.update(unwanted, tell)


def _note_answer(
    scheduler: Scheduler, record: Record, receipt: Receipt | None
) -> str | None:
    """Note what the scheduler said to one job; return its words where it was refused."""
    if record.phase is Phase.SUBMITTED:
        return None  # whoever took it over meanwhile was told
    if receipt is None:
        record.task.words = "the scheduler's answer is missing"
    elif receipt.job_id:
        accept(record, receipt)
    elif receipt.exit_code == 0:
        record.task.words = (
            f"the scheduler's answer could not be read: {receipt.said!r}"
        )
    elif _means_later(scheduler, receipt):
        record.phase = Phase.DEFERRED
        record.retry_at = time.time() + scheduler.backend.limits.retry_wait
        record.task.words = receipt.words
    else:
        return receipt.words
    return None


def _means_later(scheduler: Scheduler, receipt: Receipt) -> bool:
    kinds = (ErrorKind.RETRY, ErrorKind.LIMIT)
    return any(scheduler.backend.matches(kind, receipt.words) for kind in kinds)


def accept(record: Record, receipt: Receipt) -> None:
    """Note the job id that the scheduler gave."""
    record.phase, record.job_id, record.member = (
        Phase.SUBMITTED,
        receipt.job_id,
        receipt.member,
    )
    record.retry_at, record.owner = None, ""
    record.task.words = ""
    record.task.note_event(
        time.time(), Status.PENDING.name, f"submitted as {receipt.job_id}"
    )


def refusal_error(
    scheduler: Scheduler, refused: Sequence[Refusal], results: Iterable[object]
) -> SubmissionError:
    """Return the error that says which jobs were refused, in the scheduler's own words.

    ``results`` are the handles of the jobs that were accepted.
    """
    names_by_words: dict[str, list[str]] = {}
    for refusal in refused:
        names_by_words.setdefault(refusal.words, []).append(repr(refusal.record.name))
    lines = []
    for words, names in names_by_words.items():
        indented = words.replace("\n", "\n  ")
        who = "The store" if words == _DAMAGED else scheduler.backend.title
        lines.append(f"{who} refused {first_of(names, _NAMES)}:\n  {indented}")
    what = "the resources or the profile"
    if names_by_words.keys() == {_DAMAGED}:
        what = "the store"
    lines.append(
        f"Nothing was recorded for refused jobs; mend {what} and submit again."
    )
    return SubmissionError("\n".join(lines), results)
