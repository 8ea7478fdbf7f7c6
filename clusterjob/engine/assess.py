"""From a list of active jobs to new states: what is not listed is asked about, then judged."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from clusterjob.backend import Answer, Backend, ExitRecord
from clusterjob.engine.arrays import aggregate
from clusterjob.engine.attempts import begin_again, try_again, wait_for_parents
from clusterjob.engine.bundles import array_name, bundle_of, element_id
from clusterjob.engine.jobs import ids_to_ask
from clusterjob.engine.judge import Evidence, judge
from clusterjob.engine.pace import BatchSize
from clusterjob.engine.replies import EndReport, Listing
from clusterjob.engine.scheduler import Scheduler
from clusterjob.status import Status
from clusterjob.store import Bundle, Record, Task

# s by which the clocks of the scheduler and its login node may differ
_CLOCK_SLACK = 120.0
_NOT_OVER = (Status.PENDING, Status.RUNNING, Status.CANCELLED)
_WINDOW = 3600.0  # s that accounting is asked for before the oldest submission


class _Finding(NamedTuple):
    """Evidence about a task, and what it made of that of an attempt, in a version of its record."""

    evidence: Evidence
    attempt: int
    version: int
    seen: Task
    now: Task


@dataclass(eq=False)
class Assessment:
    """What was found out about jobs: the records that it changes, and what the scheduler complained
    about.

    Nothing is changed before :meth:`judge` is called for a record; another process may have written
    it meanwhile.
    """

    backend: Backend
    changed: list[Record] = field(default_factory=list)
    error: str = ""
    # tokens of jobs whose scheduler dropped them, though their parents are tried again
    dropped: set[str] = field(default_factory=set)
    # by token and index
    _findings: dict[str, dict[int | None, _Finding]] = field(default_factory=dict)

    def note(
        self,
        record: Record,
        index: int | None,
        task: Task,
        evidence: Evidence,
    ) -> None:
        """Note evidence that changes a task, or whose job it is."""
        is_duplicate = other_id(record, evidence.exit_record) is not None
        now = judge(self.backend, record, task, evidence)
        if is_duplicate or evidence.never_began or now is not task:
            if record.token not in self._findings:
                self.changed.append(record)
            finding = _Finding(evidence, record.attempt, record.version, task, now)
            self._findings.setdefault(record.token, {})[index] = finding

    def judge(self, record: Record) -> bool:
        """Make of a record what the evidence says; return whether that is about it as it is now.

        Where another process saw the end of the attempt too, and the next one has begun, it is not.
        """
        findings = self._findings[record.token]
        if any(finding.attempt != record.attempt for finding in findings.values()):
            return False
        for index, finding in findings.items():
            job_id = other_id(record, finding.evidence.exit_record)
            if job_id is not None:
                _adopt_id(self.backend, record, job_id)
                continue
            if index is None or record.tasks is None:
                record.task = self._judge_task(record, record.task, finding)
            else:
                task = record.tasks[index]
                record.tasks[index] = self._judge_task(record, task, finding)
        aggregate(record)
        if any(finding.evidence.never_began for finding in findings.values()):
            begin_again(record, time.time())
        elif record.token in self.dropped and record.is_dropped:
            wait_for_parents(record, time.time())
        else:
            try_again(record, time.time())
        return True

    def _judge_task(self, record: Record, task: Task, finding: _Finding) -> Task:
        if task is finding.seen and record.version == finding.version:
            return finding.now  # nobody wrote it since
        return judge(self.backend, record, task, finding.evidence)


@dataclass(frozen=True, eq=False)
class _OpenTask:
    """A task that is not active any more, and has no end yet."""

    record: Record
    index: int | None
    task: Task
    listed: Answer | None
    # it is in a pack, which runs: that says nothing of the job itself
    is_in_running_pack: bool = False


class Assessor:
    """Judges the jobs of one cluster. ``clock`` gives s since the epoch."""

    def __init__(
        self, scheduler: Scheduler, batch_size: BatchSize, clock: Callable[[], float]
    ) -> None:
        self.scheduler = scheduler
        self.batch_size = batch_size
        self.clock = clock

    def assess(self, records: Iterable[Record], listing: Listing) -> Assessment:
        """Judge every task of the records by a list of active jobs."""
        found = Assessment(self.scheduler.backend)
        open_tasks: list[_OpenTask] = []
        for record in records:
            for index, task in record.all_tasks().items():
                if task.status.finished:
                    continue
                answer = own_answer(
                    record, listing.answers.get(_listing_key(record, index), ())
                )
                if answer is not None and self._must_look(record, answer):
                    open_tasks.append(_OpenTask(record, index, task, answer, True))
                elif answer is not None and not self._has_ended(answer):
                    evidence = Evidence(self.clock(), answer, listing.complete)
                    found.note(record, index, task, evidence)
                elif answer is not None or listing.complete:
                    open_tasks.append(_OpenTask(record, index, task, answer))
        if open_tasks:
            self._settle(open_tasks, listing, found)
        return found

    def _has_ended(self, answer: Answer) -> bool:
        """Whether the list shows a job that has ended; an unknown word says nothing."""
        meaning = self.scheduler.backend.classify(answer.state)
        return meaning is not None and meaning.status not in (
            Status.PENDING,
            Status.RUNNING,
        )

    def _must_look(self, record: Record, answer: Answer) -> bool:
        """Whether only the exit record tells how far a job in a pack is."""
        if not record.is_packed or self._has_ended(answer):
            return False
        meaning = self.scheduler.backend.classify(answer.state)
        is_running = meaning is not None and meaning.status is Status.RUNNING
        return is_running or record.cancel_requested is not None

    def _settle(
        self, open_tasks: Sequence[_OpenTask], listing: Listing, found: Assessment
    ) -> None:
        """Ask what became of tasks that are not active, as many at once as the line bears."""
        most = self.batch_size.most
        if len(open_tasks) > most:  # any of them: some may stay open for long
            chosen = random.sample(range(len(open_tasks)), most)
            open_tasks = [open_tasks[number] for number in sorted(chosen)]
        running = [item.record for item in open_tasks if item.is_in_running_pack]
        report = self.ask_ended(
            [(item.record, item.index) for item in open_tasks], running
        )
        folders = {item.record.folder for item in open_tasks}
        self.batch_size.adapt(
            len(open_tasks), not report.unreadable.issuperset(folders)
        )
        found.error = report.history.error
        for item in open_tasks:
            own = report.records.get(item.record.exit_name(item.index))
            if item.is_in_running_pack:
                self._note_packed(item, own, listing, found)
                continue
            evidence = Evidence(
                self.clock(),
                item.listed,
                listing.complete,
                exit_record=own,
                records_read=item.record.folder not in report.unreadable,
                history=history_of(report, item.record, item.index),
                history_asked=report.history.complete,
                history_exists=self.scheduler.accounting,
                host_answered=report.answered,
            )
            if item.record.is_packed:
                turns = report.records.get(turns_name(item.record))
                evidence = of_packed(
                    self.scheduler.backend, item.record, item.task, evidence, turns
                )
            found.note(item.record, item.index, item.task, evidence)

    def _note_packed(
        self,
        item: _OpenTask,
        own: ExitRecord | None,
        listing: Listing,
        found: Assessment,
    ) -> None:
        """Judge a job whose pack runs by what it wrote itself."""
        if own is None:
            return  # its turn has not come
        if own.ended is None:
            listed = item.listed and _of_another(item.listed)
            evidence = Evidence(self.clock(), listed, listing.complete, own, True)
        elif own.warned and own.reason is None:
            return  # the pack may have been started over, and this one's turn come again
        else:
            never_began = own.never_began
            evidence = Evidence(
                self.clock(), None, True, own, True, never_began=never_began
            )
        found.note(item.record, item.index, item.task, evidence)

    def ask_ended(
        self,
        tasks: Sequence[tuple[Record, int | None]],
        running: Sequence[Record] = (),
    ) -> EndReport:
        """Read the exit records of tasks, and ask accounting about their jobs; one round trip.

        About those that are ``running`` accounting is not asked, and what they need stays.
        """
        runs: dict[str, list[str]] = {}
        for record, index in tasks:
            names = runs.setdefault(record.folder, [])
            names.append(record.exit_name(index))
        going = {record.run_token for record in running}
        for record, _ in tasks:
            if record.is_packed and record.run_token not in going:
                names = runs.setdefault(bundle_of(record).folder, [])
                if turns_name(record) not in names:
                    names.append(turns_name(record))
        records = [record for record, _ in tasks]
        ids = ids_to_ask(
            record for record in records if record.run_token not in going
        )
        oldest = min(record.created for record in records)
        age = self.clock() - oldest + _WINDOW
        return self.scheduler.ended(runs, ids, age, going)


def _listing_key(record: Record, index: int | None) -> tuple[str, int | None]:
    """Return the key of a task in a listing; PBS writes the id of an array as ``12[]``."""
    if record.bundle is not None:
        index = record.bundle.element
    return (record.submitted_id or "").removesuffix("[]"), index


def own_answer(record: Record, answers: Sequence[Answer]) -> Answer | None:
    """Return the answer, of those to one job id, that is about this submission."""
    own = [answer for answer in answers if _is_own(record, answer)]
    return own[-1] if own else None


def _is_own(record: Record, answer: Answer) -> bool:
    """Whether an answer is about this submission.

    Clusters of one scheduler have equal ids, and ids come back after a scheduler was installed
    anew: the token decides, else the time.
    """
    if record.member and answer.member and record.member != answer.member:
        return False
    _, token = record.submission
    if answer.token and token:
        return answer.token == token
    if answer.submitted and record.submitted:
        first, last = record.submitted
        return first - _CLOCK_SLACK <= answer.submitted <= last + _CLOCK_SLACK
    return True


def is_anothers(record: Record, listing: Listing) -> bool:
    """Whether the list has jobs of this record's id, and all of them are somebody else's."""
    keys = [_listing_key(record, index) for index in record.all_tasks()]
    answers = [answer for key in keys for answer in listing.answers.get(key, ())]
    return bool(answers) and not any(_is_own(record, answer) for answer in answers)


def of_packed(
    backend: Backend,
    record: Record,
    task: Task,
    evidence: Evidence,
    turns: ExitRecord | None,
) -> Evidence:
    """Return the evidence about a job whose pack has ended: what the scheduler says of that is true
    of those of its jobs alone that it ended with. ``turns`` is what the pack wrote down.
    """
    own = evidence.exit_record
    history = evidence.history and _of_another(evidence.history)
    listed = evidence.listed and _of_another(evidence.listed)
    evidence = replace(evidence, listed=listed, history=history)
    if own is not None and own.ended is not None:
        was_hit = bool(own.warned) or (own.exit_code or 0) > 128
        if not was_hit:
            evidence = replace(evidence, history=None, history_exists=False)
        return replace(evidence, never_began=own.never_began)
    answer = history or listed
    said = backend.classify(answer.state) if answer is not None else None
    has_ended = said is not None and said.status not in _NOT_OVER
    # where the first did not begin it is the pack that failed; what is not known decides nothing
    had_turn = turns is None or not 0 < turns.turn < bundle_of(record).position
    if own is not None or not has_ended or had_turn:
        return evidence
    since = task.missing_since
    has_settled = since is not None and evidence.now - since >= backend.limits.settle
    if has_settled and evidence.records_read:
        return replace(evidence, never_began=True)
    # its exit record may show late
    return replace(evidence, listed=None, history=None, history_asked=False)


def _of_another(answer: Answer) -> Answer:
    """Return what the scheduler says of a pack, without what it used."""
    return replace(answer, started=None, ended=None, usage={})


def turns_name(record: Record) -> str:
    """Return what the file is called, without ``.exit``, in which a pack writes down whose turn it
    was.
    """
    found = bundle_of(record)
    return f"{array_name(found.token)}.{found.element}"


def history_of(report: EndReport, record: Record, index: int | None) -> Answer | None:
    """Return what accounting says about a task of this submission."""
    return own_answer(
        record, report.history.answers.get(_listing_key(record, index), ())
    )


def other_id(record: Record, own: ExitRecord | None) -> str | None:
    """Return the id of the job that ran, where the record has another's.

    Of two jobs with one token the fence lets the first run.
    """
    if own is None:
        return None
    ran = re.match(r"\d+", own.job_id)
    noted = re.match(r"\d+", record.job_id or "")
    if ran is None or noted is None or ran[0] == noted[0]:
        return None
    is_plain = re.fullmatch(r"\d+([_.]\d+|\[\d*\])?(/\d+)?", own.job_id)
    return own.job_id if is_plain else ran[0]


def _adopt_id(backend: Backend, record: Record, job_id: str) -> None:
    """Take over the id of the job that ran; the record has that of a duplicate."""
    words = f"{record.job_id} is a duplicate that ended; {job_id} ran"
    record.task.note_event(time.time(), record.status.name, words)
    record.job_id = job_id
    record.bundle = _bundle_of(backend, record, job_id)


def _bundle_of(backend: Backend, record: Record, job_id: str) -> Bundle | None:
    """Return the array that a job ran in, by the id that it wrote down; its token is not known."""
    match = re.fullmatch(r"(\d+)(?:[_.](\d+)|\[(\d+)\])(?:/(\d+))?", job_id)
    if match is None or record.tasks is not None:
        return None
    number, index = match[1], int(match[2] or match[3])
    array_id = backend.bundles.array.replace("{id}", number)
    for guess in (index, index + 1):  # some count from 0
        found = Bundle("", record.folder, guess, array_id, int(match[4] or 0))
        if element_id(backend, found) == job_id:
            return found
    return None
