"""What became of a job, from what is known. Pure, so that every case is a test.

Evidence counts in this order: the exit record that the job wrote, accounting, the queue. A word
that nobody has seen is reported and decides nothing; neither does a source that could not be asked.
Only a job that every source was asked about in vain is lost, and that not before ``lost_after``.
"""

from __future__ import annotations

from dataclasses import dataclass

from clusterjob.backend import TIMEOUT_OR_MEMORY, Answer, Backend, ExitRecord
from clusterjob.status import Reason, Status
from clusterjob.store import Record, Task

# what schedulers print where there is nothing to say
_NO_REASON = ("", "None", "(null)")


@dataclass(eq=False)
class Evidence:
    """What one poll found out about one task."""

    now: float  # s since the epoch
    listed: Answer | None = None
    # the list of active jobs was read whole: absence means something
    listing_complete: bool = False
    exit_record: ExitRecord | None = None
    records_read: bool = False  # the folder of exit records could be read
    history: Answer | None = None
    history_asked: bool = False  # accounting answered, and all of it could be read
    history_exists: bool = False  # there is accounting, as far as is known
    host_answered: bool = True  # who was asked for exit records said something
    # the pack that the job was in has ended before its turn
    never_began: bool = False


@dataclass(frozen=True, eq=False)
class _FinalWord:
    """The scheduler says that a job has ended: the state, its cause, and where it says so."""

    status: Status | str  # or EXITED
    reason: Reason | None
    answer: Answer


def judge(backend: Backend, record: Record, task: Task, evidence: Evidence) -> Task:
    """Return what the task is now; the same object where nothing changed.

    A final state never changes.
    """
    if task.status.finished:
        return task
    found = task.copy()
    found.usage = dict(task.usage)
    _Case(backend, record, found, evidence).decide()
    return _with_history(task, found, evidence)


class _Case:
    """One task, and what is known about it. The task is changed in place."""

    def __init__(
        self,
        backend: Backend,
        record: Record,
        task: Task,
        evidence: Evidence,
    ) -> None:
        self.limits = backend.limits
        self.backend = backend
        self.record = record
        self.task = task
        self.evidence = evidence
        self.own = evidence.exit_record

    def decide(self) -> None:
        active, word = self._listed()
        if active is not None:
            self.task.status = active
            self.task.missing_since = None
        elif word is None and not self.evidence.listing_complete:
            return  # nothing is known
        else:
            if self.task.missing_since is None:
                self.task.missing_since = self.evidence.now
            self._decide_end(word)
        self._tell_unread()
        self._note_usage()

    def _tell_unread(self) -> None:
        """Say what could not be read of what there is about the job."""
        said = [] if self.own is None else self.own.unread
        for answer in (self.evidence.listed, self.evidence.history):
            said = [*said, *(answer.unread if answer is not None else ())]
        if said:
            words = f"cannot be read: {', '.join(dict.fromkeys(said))}"
            if words not in self.task.words:
                self.task.words = f"{self.task.words}; {words}".removeprefix("; ")

    # -- what the scheduler says -------------------------------------------------------------------

    def _listed(self) -> tuple[Status | None, _FinalWord | None]:
        """Return the state of a job that is still listed, or the final word about it.

        That comes from the list or from accounting; the latter knows better.
        """
        final: _FinalWord | None = None
        for answer in (self.evidence.listed, self.evidence.history):
            if answer is None:
                continue
            is_listed = answer is self.evidence.listed
            self.task.words = answer.state
            if answer.why not in _NO_REASON:
                self.task.words += f" ({answer.why})"
            meaning = self.backend.classify(answer.state)
            if meaning is None:
                self.task.words += " (a word clusterjob does not know)"
                return (self.task.status if is_listed else None), None
            if isinstance(meaning.status, Status) and not meaning.status.finished:
                if is_listed:
                    return meaning.status, None
                continue
            final = _FinalWord(
                meaning.status, self._cause(meaning.reason, answer), answer
            )
        return None, final

    def _cause(self, reason: Reason | str | None, answer: Answer) -> Reason | None:
        """Take apart a word that stands for two limits.

        What was asked for and how long the job ran tell which it is.
        """
        if reason != TIMEOUT_OR_MEMORY:
            return None if reason is None else Reason(reason)
        resources = self.record.resources
        limit, elapsed = resources.get("time"), answer.usage.get("elapsed", 0.0)
        is_in_time = limit is None or elapsed < limit - 1
        if resources.get("mem") is not None and is_in_time:
            return Reason.OUT_OF_MEMORY
        return Reason.TIMEOUT

    # -- the end -----------------------------------------------------------------------------------

    def _decide_end(self, word: _FinalWord | None) -> None:
        """The job is no longer active: settle its end, or leave it until more is known."""
        if self.own is not None and self.own.ended is not None:
            if word is None:
                self.task.words = ""  # what was said of it before is over
            self._from_record(self.own, word)
        elif word is not None:
            self._from_word(word)
        else:
            self._from_absence()

    def _has_waited(self, seconds: float) -> bool:
        since = self.task.missing_since
        return since is not None and self.evidence.now - since >= seconds

    def _finish(
        self,
        status: Status,
        reason: Reason | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
    ) -> None:
        if reason == Reason.DEPENDENCY:  # it never ran, and is not to blame
            status, exit_code = Status.CANCELLED, None
        elif status is Status.CANCELLED:
            reason = Reason.CANCELLED
        self.task.status, self.task.reason = status, reason
        self.task.exit_code, self.task.signal = exit_code, signal

    def _from_record(self, own: ExitRecord, word: _FinalWord | None) -> None:
        """The job wrote its end: its exit code is known, and the scheduler may know the cause."""
        code = own.exit_code or 0
        signal = code - 128 if 128 < code <= 192 else None
        exit_code = code if signal is None else None
        if own.reason is Reason.CANCELLED:
            return self._finish(Status.CANCELLED)
        if own.reason:
            return self._finish(Status.FAILED, own.reason, exit_code, signal)
        # the node failed when the job was over
        was_over = code == 0 and not own.warned
        was_over = (
            was_over and word is not None and word.reason == Reason.NODE_FAILURE
        )
        if word is not None and word.status == Status.FAILED and not was_over:
            return self._finish(
                Status.FAILED, word.reason or Reason.EXIT, exit_code, signal
            )
        # in a pack the word is about the pack, and this job may have been over
        was_in_time = self.record.is_packed and code == 0 and not own.warned
        if word is not None and word.status == Status.CANCELLED and not was_in_time:
            return self._finish(Status.CANCELLED, exit_code=exit_code, signal=signal)
        if word is None:
            return self._from_record_alone(own, exit_code, signal)
        return self._finish_by_code(exit_code, signal)

    def _from_record_alone(
        self, own: ExitRecord, exit_code: int | None, signal: int | None
    ) -> None:
        """Nobody else says anything. A part of the job may have died of a signal, and the rest
        have gone on to an exit code of 0: what was asked for and when the signal came tell more.
        """
        has_failed = exit_code != 0
        was_hit = signal is not None or bool(own.warned)
        times = [when for name, when in own.warned if has_failed or name == "TERM"]
        if has_failed and not own.warned and own.ended is not None:
            times.append(own.ended)
        is_at_limit = any(_is_at_limit(own, when) for when in times)
        if (was_hit or is_at_limit) and self._history_may_come():
            return None
        was_told_to_end = any(name == "TERM" for name, _ in own.warned)
        was_ended = was_told_to_end or (has_failed and was_hit)
        if self.record.cancel_requested and was_ended:
            return self._finish(Status.CANCELLED, exit_code=exit_code, signal=signal)
        if is_at_limit:
            return self._finish(Status.FAILED, Reason.TIMEOUT, exit_code, signal)
        return self._finish_by_code(exit_code, signal)

    def _finish_by_code(self, exit_code: int | None, signal: int | None) -> None:
        if exit_code == 0:
            return self._finish(Status.COMPLETED, exit_code=0)
        reason = Reason.SIGNAL if signal else Reason.EXIT
        return self._finish(Status.FAILED, reason, exit_code, signal)

    def _history_may_come(self) -> bool:
        """Whether accounting lags behind, and may say why yet."""
        return self.evidence.history_exists and not self._has_waited(
            self.limits.settle
        )

    def _from_word(self, word: _FinalWord) -> None:
        """The scheduler says it ended, and the job left no end: it was killed, or never ran."""
        answer = word.answer
        if word.status == Status.FAILED:
            return self._finish(
                Status.FAILED, word.reason, answer.exit_code, answer.signal
            )
        if word.status == Status.CANCELLED:
            if (
                self.own is None
                and self.record.waits_for
                and not self.record.cancel_requested
            ):
                return self._finish(Status.FAILED, Reason.DEPENDENCY)
            return self._finish(Status.CANCELLED, signal=answer.signal)
        # it began: nothing more will be written
        was_killed = self.own is not None and bool(answer.signal or answer.exit_code)
        if not was_killed and self._lacks_folder(answer.state):
            return None
        has_settled = self.evidence.records_read and self._has_waited(
            self.limits.settle
        )
        if not was_killed and not has_settled:
            return None  # the exit record may show late on a shared file system
        if self.record.cancel_requested:
            return self._finish(Status.CANCELLED, signal=answer.signal)
        if self.own is None and (answer.signal or answer.exit_code):
            return self._never_began(answer)
        if answer.signal:
            return self._finish(Status.FAILED, Reason.SIGNAL, signal=answer.signal)
        if answer.exit_code:
            return self._finish(Status.FAILED, Reason.EXIT, answer.exit_code)
        # Grid Engine says 0 of a job that qdel -f took away
        self.task.words = (
            f"{answer.state}, but the job left no exit record: it did not run, or that was deleted"
            if self.own is None
            else f"{answer.state}, but the job wrote no end: it was killed, or its disk was full"
        )
        return self._finish(Status.FAILED, Reason.LOST)

    def _never_began(self, answer: Answer) -> None:
        """It ended badly before its script could make an exit record, the first thing it does."""
        resources = self.record.resources
        logs = [
            resources[name] for name in ("stdout", "stderr") if resources.get(name)
        ]
        words = (
            "it left no exit record: its script never began, its disk was full, or something took "
            "that away"
        )
        if logs:
            named = " and ".join(map(repr, logs))
            words += f"; can {named} be written, and are their folders there?"
        self.task.words = f"{self.task.words}; {words}".removeprefix("; ")
        self._finish(
            Status.FAILED, Reason.SUBMISSION, answer.exit_code, answer.signal
        )

    def _from_absence(self) -> None:
        """It is not listed, accounting says nothing, and the exit record has no end."""
        evidence, own = self.evidence, self.own
        accounting_asked = evidence.history_asked or not evidence.history_exists
        if accounting_asked and self._lacks_folder("not in the queue"):
            return None
        if not evidence.records_read or not accounting_asked:
            return None
        has_settled = self._has_waited(self.limits.settle)
        never_began = own is None and self.task.status == Status.PENDING
        if self.record.cancel_requested and (has_settled or never_began):
            # deleted in the queue: some schedulers keep no trace of it
            return self._finish(Status.CANCELLED)
        if own is not None and has_settled:
            return self._gone_without_a_word(own)
        if self._has_waited(self.limits.lost_after):
            known = "not in accounting"
            if evidence.history:
                known = f"accounting still has it as {evidence.history.state}"
            self.task.words = f"not in the queue, {known}, and it left no exit record"
            return self._finish(Status.FAILED, Reason.LOST)
        return None

    def _lacks_folder(self, said: str) -> bool:
        """Whether the folder of exit records is gone: a file system that is away, or deleted.

        It may come back, so nothing is decided; a person who cancels the job gives it up. That
        too not before ``lost_after``: the cancel may be older than the trouble.
        """
        evidence = self.evidence
        if evidence.records_read or not evidence.host_answered:
            return False
        folder = self.record.folder
        self.task.words = (
            f"{said}, but {folder}, where its exit record stood, is gone"
        )
        if self.record.cancel_requested and self._has_waited(self.limits.lost_after):
            self._finish(Status.FAILED, Reason.LOST)
        return True

    def _gone_without_a_word(self, own: ExitRecord) -> None:
        """It began, and nobody knows how it ended."""
        if own.warned and _is_at_limit(own, own.warned[-1][1]):
            return self._finish(Status.FAILED, Reason.TIMEOUT)
        self.task.words = (
            f"it began on {own.host} and was gone without a word: "
            "killed by SIGKILL, or the node failed"
        )
        if (
            self._has_waited(self.limits.lost_after)
            or not self.evidence.history_exists
        ):
            return self._finish(Status.FAILED, Reason.LOST)
        return None

    # -- what it used ------------------------------------------------------------------------------

    def _note_usage(self) -> None:
        task = self.task
        for answer in (self.evidence.listed, self.evidence.history):
            if answer is not None:
                task.started = answer.started or task.started
                task.ended = answer.ended or task.ended
                task.usage.update(answer.usage)
        own = self.own
        if own is None:
            return
        if own.runs > task.runs:
            task.runs = own.runs
            when = own.started or self.evidence.now
            task.note_event(
                when, Status.RUNNING.name, f"run {own.runs} on {own.host}"
            )
        task.host = own.host or task.host
        task.started = own.started or task.started
        task.ended = own.ended or task.ended
        if own.cpu is not None:
            task.usage.setdefault("cpu", own.cpu)
        if own.started and own.ended:
            task.usage.setdefault("elapsed", own.ended - own.started)


def _is_at_limit(own: ExitRecord, when: float) -> bool:
    """Whether a warning came when the time limit was reached."""
    return bool(own.limit) and when - (own.started or 0) >= (own.limit or 0) - 1


def end_in_words(task: Task) -> str:
    """Say for the history how a task ended; a scheduler's word alone may be a mere ``0``."""
    if task.status is Status.COMPLETED:
        return "" if task.words.isdecimal() else task.words
    parts = []
    if task.reason and task.reason not in (Reason.EXIT, Reason.SIGNAL):
        parts.append(str(task.reason))
    if task.exit_code:
        parts.append(f"exit code {task.exit_code}")
    if task.signal:
        parts.append(f"signal {task.signal}")
    if task.words.isdecimal():
        parts.append(f"the scheduler says {task.words!r}")
    elif task.words and task.words != task.status.name:
        parts.append(task.words)
    return ", ".join(parts)


def _with_history(before: Task, found: Task, evidence: Evidence) -> Task:
    if found == before:
        return before
    if found.status != before.status:
        words = found.words
        if found.status == Status.PENDING:
            words = f"queued again: {words}"
        elif found.status.finished:
            words = end_in_words(found)
        found.note_event(round(evidence.now, 3), found.status.name, words)
    return found
