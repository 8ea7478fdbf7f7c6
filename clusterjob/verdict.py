"""What became of a job, from what is known. Pure, so that every case is a test.

Evidence counts in this order: the exit record that the job wrote, accounting, the queue. A word
that nobody has seen is reported and decides nothing; neither does a source that could not be asked.
Only a job that every source was asked about in vain is lost, and that not before ``lost_after``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from clusterjob.answers import Answer, ExitRecord
from clusterjob.backend import TIMEOUT_OR_MEMORY, Backend
from clusterjob.status import Reason, Status
from clusterjob.store.record import Record, Task


@dataclass
class Evidence:
    """What one poll found out about one task."""

    now: float
    listed: Answer | None = None
    listing_complete: bool = (
        False  # the list of active jobs was read whole: absence means something
    )
    exit_record: ExitRecord | None = None
    records_read: bool = False  # the folder of exit records could be read
    history: Answer | None = None
    history_asked: bool = False  # accounting answered, and all of it could be read
    history_exists: bool = False  # there is accounting, as far as is known


def judge(backend: Backend, record: Record, task: Task, evidence: Evidence) -> Task:
    """Return what the task is now; the same object where nothing changed.

    A final state never changes.
    """
    if task.status.finished:
        return task
    found = copy.copy(task)
    found.usage = dict(task.usage)
    listed, word = _listed(backend, record, found, evidence)
    if listed in (Status.PENDING, Status.RUNNING):
        found.status = Status(listed)
        found.missing_since = None
    elif word is None and not evidence.listing_complete:
        return _with_history(task, found, evidence)
    else:
        if found.missing_since is None:
            found.missing_since = evidence.now
        _decide(backend, record, found, evidence, word)
    _note_usage(found, evidence)
    return _with_history(task, found, evidence)


Word = tuple[Status | str, Reason | None, Answer]


def _listed(
    backend: Backend, record: Record, task: Task, evidence: Evidence
) -> tuple[Status | str | None, Word | None]:
    """Return the state of a job that is still listed, or the final word about it from the list or
    from accounting.
    """
    final: Word | None = None
    for answer in (evidence.listed, evidence.history):
        if answer is None:
            continue
        known = backend.classify(answer.state)
        task.words = (
            f"{answer.state} ({answer.why})"
            if answer.why and answer.why not in ("None", "(null)")
            else answer.state
        )
        if known is None:
            task.words += " (a word clusterjob does not know)"
            return (task.status if answer is evidence.listed else None), None
        status, reason = known
        if status not in (Status.PENDING, Status.RUNNING):
            final = (status, _which_limit(reason, record, answer), answer)
        elif answer is evidence.listed:
            return status, None
    return None, final


def _which_limit(reason: Reason | str | None, record: Record, answer: Answer) -> Reason | None:
    """Take apart a word that stands for two limits, by what was asked for and how long the job ran."""
    if reason != TIMEOUT_OR_MEMORY:
        return None if reason is None else Reason(reason)
    resources = record.spec.get("resources", {})
    limit, elapsed = resources.get("time"), answer.usage.get("elapsed", 0.0)
    in_time = limit is None or elapsed < limit - 1
    return Reason.OUT_OF_MEMORY if resources.get("mem") is not None and in_time else Reason.TIMEOUT


def _decide(
    backend: Backend, record: Record, task: Task, evidence: Evidence, word: Word | None
) -> None:
    """The job is no longer active: settle its end, or leave it as it is until more is known."""
    own = evidence.exit_record
    if own is not None and own.ended is not None:
        _from_record(backend, record, task, evidence, own, word)
    elif word is not None:
        _from_word(backend, record, task, evidence, word)
    else:
        _from_absence(backend, record, task, evidence)


def _waited(task: Task, evidence: Evidence, seconds: float) -> bool:
    return task.missing_since is not None and evidence.now - task.missing_since >= seconds


def _finish(
    task: Task,
    status: Status,
    reason: Reason | None = None,
    exit_code: int | None = None,
    signal: int | None = None,
) -> None:
    task.status, task.reason, task.exit_code, task.signal = status, reason, exit_code, signal
    if status is Status.CANCELLED:
        task.reason = Reason.CANCELLED


def _from_record(
    backend: Backend,
    record: Record,
    task: Task,
    evidence: Evidence,
    own: ExitRecord,
    word: Word | None,
) -> None:
    """The job wrote its end: its exit code is known, and the cause where the scheduler knows it
    better.
    """
    code = own.exit_code or 0
    signal = code - 128 if 128 < code <= 192 else None
    exit_code = code if signal is None else None
    if own.reason:
        return _finish(task, Status.FAILED, Reason(own.reason), code)
    done = (
        code == 0 and not own.warned and word is not None and word[1] == Reason.NODE_FAILURE
    )  # the node failed when the job was over
    if word is not None and word[0] == Status.FAILED and not done:
        return _finish(task, Status.FAILED, word[1] or Reason.EXIT, exit_code, signal)
    if word is not None and word[0] == Status.CANCELLED and (code or own.warned):
        return _finish(task, Status.CANCELLED, exit_code=exit_code, signal=signal)
    if code == 0:
        return _finish(task, Status.COMPLETED, exit_code=0)
    cause_unknown = word is None and (signal is not None or own.warned)
    if (
        cause_unknown
        and evidence.history_exists
        and not _waited(task, evidence, backend.limits["settle"])
    ):
        return None  # accounting lags behind; it may say why
    if record.cancel_requested and (signal or own.warned):
        return _finish(task, Status.CANCELLED, exit_code=exit_code, signal=signal)
    if own.limit and any(when - (own.started or 0) >= own.limit - 1 for _, when in own.warned):
        return _finish(task, Status.FAILED, Reason.TIMEOUT, exit_code, signal)
    return _finish(task, Status.FAILED, Reason.SIGNAL if signal else Reason.EXIT, exit_code, signal)


def _from_word(
    backend: Backend, record: Record, task: Task, evidence: Evidence, word: Word
) -> None:
    """The scheduler says it ended, and the job left no end of its own: it was killed, or never ran."""
    status, reason, answer = word
    own = evidence.exit_record
    if status == Status.FAILED:
        return _finish(task, Status.FAILED, reason, answer.exit_code, answer.signal)
    if status == Status.CANCELLED:
        if own is None and record.spec.get("after") and not record.cancel_requested:
            return _finish(task, Status.FAILED, Reason.DEPENDENCY)
        return _finish(task, Status.CANCELLED, signal=answer.signal)
    killed = own is not None and (
        answer.signal or answer.exit_code
    )  # it began: nothing more will be written
    if not killed and not (
        evidence.records_read and _waited(task, evidence, backend.limits["settle"])
    ):
        return None  # the exit record may show late on a shared file system
    if record.cancel_requested:
        return _finish(task, Status.CANCELLED, signal=answer.signal)
    if answer.signal:
        return _finish(task, Status.FAILED, Reason.SIGNAL, signal=answer.signal)
    if answer.exit_code:
        return _finish(task, Status.FAILED, Reason.EXIT, answer.exit_code)
    if (
        own is not None
    ):  # it ran, and could not write down its end (a full disk); the scheduler saw it end well
        return _finish(task, Status.COMPLETED, exit_code=0)
    task.words = f"{answer.state}, but the job left no exit record: it did not run"
    return _finish(task, Status.FAILED, Reason.LOST)


def _from_absence(backend: Backend, record: Record, task: Task, evidence: Evidence) -> None:
    """It is not listed, accounting says nothing, and there is no end in the exit record."""
    own = evidence.exit_record
    asked = evidence.records_read and (evidence.history_asked or not evidence.history_exists)
    settled = _waited(task, evidence, backend.limits["settle"])
    if not asked:
        return None
    if record.cancel_requested and (settled or (own is None and task.status == Status.PENDING)):
        return _finish(
            task, Status.CANCELLED
        )  # deleted in the queue: some schedulers keep no trace of it
    if own is not None and settled:
        if own.limit and own.warned and own.warned[-1][1] - (own.started or 0) >= own.limit - 1:
            return _finish(task, Status.FAILED, Reason.TIMEOUT)
        task.words = (
            f"it began on {own.host} and was gone without a word: killed by SIGKILL, or "
            "the node failed"
        )
        if _waited(task, evidence, backend.limits["lost_after"]) or not evidence.history_exists:
            return _finish(task, Status.FAILED, Reason.LOST)
    elif _waited(task, evidence, backend.limits["lost_after"]):
        still = (
            f"accounting still has it as {evidence.history.state}"
            if evidence.history
            else "not in accounting"
        )
        task.words = f"not in the queue, {still}, and it left no exit record"
        return _finish(task, Status.FAILED, Reason.LOST)
    return None


def _note_usage(task: Task, evidence: Evidence) -> None:
    own = evidence.exit_record
    for answer in (evidence.listed, evidence.history):
        if answer is not None:
            task.started = answer.started or task.started
            task.ended = answer.ended or task.ended
            task.usage.update(answer.usage)
    if own is not None:
        if own.runs > task.runs:
            task.runs = own.runs
            task.history = [
                *task.history,
                [own.started or evidence.now, Status.RUNNING.name, f"run {own.runs} on {own.host}"],
            ]
        task.host = own.host or task.host
        task.started = own.started or task.started
        task.ended = own.ended or task.ended
        if own.cpu is not None:
            task.usage.setdefault("cpu", own.cpu)
        if own.started and own.ended:
            task.usage.setdefault("elapsed", own.ended - own.started)


def _with_history(before: Task, found: Task, evidence: Evidence) -> Task:
    if found == before:
        return before
    if found.status != before.status:
        words = f"queued again: {found.words}" if found.status == Status.PENDING else found.words
        found.history = [*found.history, [round(evidence.now, 3), found.status.name, words]]
    return found
