"""The shared poller: one question a cluster, not one a job.

All handles of a process on one cluster share a :class:`Monitor`. It asks quickly at first, then
less and less often down to the backend's ``poll_interval``, and never more often: a loop over ten
thousand handles costs one command. Processes that share a store share the answers too: whoever asks
does so for all jobs of the store on that cluster, and the others read what he wrote down.
"""

from __future__ import annotations

import json
import logging
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clusterjob.answers import Answer, ExitRecord
from clusterjob.backend import load_backend
from clusterjob.errors import CommandError
from clusterjob.scheduler import Findings, Listing, Scheduler
from clusterjob.status import Reason, Status
from clusterjob.store import Note, Phase, Record, Store, Task, place_of
from clusterjob.transport import Transport, open_transport
from clusterjob.verdict import Evidence, judge

_log = logging.getLogger(__name__)
_SLACK = 120.0  # s by which the clocks of the scheduler and its login node may differ
_GROWTH = 1.5
_MANY, _FEW = 100_000, 20
_WINDOW = 3600.0  # s that accounting is asked for before the oldest submission


Resume = Callable[[Store, Scheduler, Sequence[Record]], object]


class Monitor:
    """Knows what became of the jobs of one store on one cluster."""

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        resume: Resume,
        place: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.scheduler, self.resume, self.place, self.clock = (
            store,
            scheduler,
            resume,
            place,
            clock,
        )
        self.records: weakref.WeakValueDictionary[str, Record] = weakref.WeakValueDictionary()
        self._others: list[
            Record
        ] = []  # live jobs of the store that nobody in this process holds a handle on
        self.stale_since: float | None = (
            None  # the last good answer was then; None: the last answer was good
        )
        self._error = ""
        self._usage_asked: dict[
            str, float
        ] = {}  # when accounting was asked for the usage of jobs that have ended
        self._usage_known: set[str] = set()  # jobs of which it will say no more
        self.polls = 0
        self._last = 0.0
        self._due = 0.0
        self.fetch_at = 0.0  # outputs are not fetched before: the line was broken
        self.fetch_error = ""
        # ended jobs that are asked about, or fetched from, at once: fewer where that takes longer
        # than the line holds
        self.most = _MANY
        self._interval = scheduler.backend.limits["first_poll"]
        self._lock = threading.RLock()

    def track(self, record: Record) -> Record:
        """Return the one object that stands for a record in this process, and begin to watch it."""
        with self._lock:
            known = self.records.get(record.token)
            if known is not None:
                return known
            self.records[record.token] = record
            return record

    def hurry(self) -> None:
        """Begin with short intervals again: jobs were submitted or cancelled."""
        with self._lock:
            self._interval = self.scheduler.backend.limits["first_poll"]
            self._due = min(self._due, self.clock() + self._interval)

    def wait_time(self) -> float:
        """Return the seconds until the cluster may be asked again."""
        return max(0.0, self._due - self.clock())

    def refresh(self, force: bool = False) -> None:
        """Ask the cluster, if that is due (or with ``force``), and write down what changed.

        A failed question changes nothing.
        """
        if not force and self.clock() < self._due:
            return
        with self._lock:
            if not force and self.clock() < self._due:
                return
            live = [record for record in list(self.records.values()) if not record.finished]
            if not live:
                return
            now, interval = self.clock(), self._interval
            limit = self.scheduler.backend.limits["poll_interval"]
            self._interval = min(limit, interval * _GROWTH)
            asked = self.store.begin_poll(self.place, 0.0 if force else interval, now)
            if asked is not None:  # by another process: what it found is in the store
                self._due = asked.at + interval
                self._last, self.stale_since = asked.at, asked.value
                self._reload(live)
                return
            self._due = now + interval * (1 + 0.1 * random.random())
            stale = self.stale_since
            try:
                self._poll(live)
            finally:
                self._due = max(self._due, self.clock() + interval)
                if self.stale_since != stale:
                    self.store.note(f"poll:{self.place}", Note(now, self.stale_since))

    def finish_submissions(self) -> None:
        """Finish the open submissions of processes that are gone.

        Raises only :class:`StoreError`.
        """
        with self._lock:
            self.resume(
                self.store,
                self.scheduler,
                [record for record in self._everyone([]) if record.unsent],
            )

    def _poll(self, live: list[Record]) -> None:
        self.polls += 1
        self._reload(live)
        everyone = self._everyone(live)
        self.resume(self.store, self.scheduler, [record for record in everyone if record.unsent])
        submitted = [
            record for record in everyone if record.phase is Phase.SUBMITTED and not record.finished
        ]
        if not submitted:
            return
        listing = self.scheduler.active(record.cluster for record in submitted)
        self._note_staleness(listing)
        if not listing.asked:
            return
        self.store.write(self.evaluate(submitted, listing))

    def _everyone(self, live: Sequence[Record]) -> list[Record]:
        """Return ``live`` and all other live jobs that the store has on this cluster."""
        known = {record.token for record in live}
        before = {record.token: record for record in self._others}
        missing = {
            token: before.get(token) for token in self.store.live(self.place) if token not in known
        }
        new = self.store.by_tokens(token for token, record in missing.items() if record is None)
        others = [
            record or (self.track(new[token]) if token in new else None)
            for token, record in missing.items()
        ]
        self._others = [record for record in others if record is not None and not record.finished]
        return [*live, *self._others]

    def _reload(self, live: Sequence[Record]) -> None:
        """Take over what other processes found out meanwhile."""
        if self.store.changed_elsewhere():
            live = [*live, *self._others]
            stored = self.store.by_tokens(record.token for record in live)
            for record in live:
                if record.token in stored:
                    record.update_from(stored[record.token])

    @property
    def error(self) -> str:
        """What the scheduler's commands complained about last; empty where all is well."""
        return self._error

    @error.setter
    def error(self, words: str) -> None:
        first = words.partition("\n")[0]
        if first and first != self._error.partition("\n")[0] and self.scheduler.accounting:
            _log.warning("%s: %s", self.scheduler.backend.title, first)
        self._error = words

    def _note_staleness(self, listing: Listing) -> None:
        now = self.clock()
        if listing.asked:
            self._last, self.stale_since = now, None
            self.error = listing.error
        else:
            self.stale_since = self.stale_since or self._last or now
            self.error = listing.error

    def evaluate(self, records: Sequence[Record], listing: Listing) -> list[Record]:
        """Judge every task of the records by a list of active jobs; ask about the ones that are no
        longer active. Return what changed.
        """
        backend = self.scheduler.backend
        changed: list[Record] = []
        open_tasks: list[tuple[Record, int | None, Task, Answer | None]] = []
        for record in records:
            for index, task in record.all_tasks().items():
                if task.status.finished:
                    continue
                answer = _own(record, listing.answers.get(_place(record, index)))
                known = backend.classify(answer.state) if answer else None
                if answer is not None and (
                    known is None or known[0] in (Status.PENDING, Status.RUNNING)
                ):
                    evidence = Evidence(self.clock(), answer, listing.complete)
                    _replace(record, index, judge(backend, record, task, evidence), changed)
                elif answer is not None or listing.complete:
                    open_tasks.append((record, index, task, answer))
        if open_tasks:
            self._settle(open_tasks, listing, changed)
        for record in changed:
            _aggregate(record)
        return changed

    def _settle(
        self,
        open_tasks: Sequence[tuple[Record, int | None, Task, Answer | None]],
        listing: Listing,
        changed: list[Record],
    ) -> None:
        if len(open_tasks) > self.most:  # any of them: some may stay open for long
            open_tasks = [
                open_tasks[number]
                for number in sorted(random.sample(range(len(open_tasks)), self.most))
            ]
        findings = self._ask_ended([(record, index) for record, index, _, _ in open_tasks])
        self.went_well(
            len(open_tasks),
            not findings.unreadable.issuperset(record.runs for record, _, _, _ in open_tasks),
        )
        if findings.history.error:
            self.error = findings.history.error
        for record, index, task, answer in open_tasks:
            own, history, readable = _found(findings, record, index)
            if own is not None and _adopt(record, own):
                if not changed or changed[-1] is not record:
                    changed.append(record)
                continue
            evidence = Evidence(
                self.clock(),
                answer,
                listing.complete,
                exit_record=own,
                records_read=readable,
                history=history,
                history_asked=findings.history.complete,
                history_exists=self.scheduler.accounting,
            )
            _replace(record, index, judge(self.scheduler.backend, record, task, evidence), changed)

    def went_well(self, count: int, well: bool) -> None:
        """Learn from an exchange about ``count`` jobs how many the line bears at once."""
        if not well:
            self.most = max(_FEW, count // 2)
        elif count >= self.most:
            self.most = min(_MANY, self.most + self.most // 4)

    def _ask_ended(self, places: Sequence[tuple[Record, int | None]]) -> Findings:
        runs: dict[str, list[str]] = {}
        ids: dict[str | None, dict[str, None]] = {}
        for record, index in places:
            runs.setdefault(record.runs, []).append(record.exit_name(index))
            if record.job_id:
                ids.setdefault(record.cluster, {})[record.job_id] = None
        age = self.clock() - min(record.created for record, _ in places) + _WINDOW
        return self.scheduler.ended(
            runs, {cluster: list(members) for cluster, members in ids.items()}, age
        )

    def account(self, record: Record) -> None:
        """Ask accounting for the peak memory of a job that has ended, and of all others that lack
        it: one command.

        It is asked again while it may lag behind or does not answer, about the same job not more
        often than polls are.
        """
        with self._lock:
            if not self.scheduler.accounting or not self._usage_due(record):
                return
            others = [
                other
                for other in self.records.values()
                if other.finished and "max_rss" not in other.task.usage and self._usage_due(other)
            ]
            records = list({item.token: item for item in (record, *others)}.values())
            now, settle = self.clock(), self.scheduler.backend.limits["settle"]
            self._usage_asked.update((item.token, now) for item in records)
            findings = self._ask_ended(
                [(item, index) for item in records for index in item.all_tasks()]
            )
            if findings.history.asked:
                self._usage_known.update(
                    item.token for item in records if now >= (item.task.ended or 0.0) + settle
                )
            for record in records:
                for index, task in record.all_tasks().items():
                    own, history, _ = _found(findings, record, index)
                    for name, value in (history.usage if history else {}).items():
                        task.usage[name] = value
                    if own is not None and own.cpu is not None:
                        task.usage.setdefault("cpu", own.cpu)
                _aggregate(record)
            self.store.write(records)

    def _usage_due(self, record: Record) -> bool:
        asked = self._usage_asked.get(record.token, 0.0)
        return (
            record.token not in self._usage_known
            and self.clock() - asked >= self.scheduler.backend.limits["poll_interval"]
        )

    def cancel(self, records: Sequence[Record]) -> None:
        """Cancel the jobs that have not ended; one command for all of them.

        Raises :class:`CommandError`.
        """
        with self._lock:
            live = [record for record in records if not record.finished]
            ids: dict[str | None, list[str]] = {}
            for record in live:
                record.cancel_requested = self.clock()
                if record.phase is Phase.SUBMITTED and record.job_id:
                    ids.setdefault(record.cluster, []).append(record.job_id)
                elif record.phase is Phase.DEFERRED:  # the scheduler never had it
                    record.task.status, record.task.reason = Status.CANCELLED, Reason.CANCELLED
            self.store.write(live)
            if ids:
                try:
                    self.scheduler.cancel(ids)
                except CommandError:
                    for record in live:
                        record.cancel_requested = None
                    self.store.write(live)
                    raise
            self.hurry()


def _place(record: Record, index: int | None) -> tuple[str, int | None]:
    """Return the key of a task in a listing; PBS writes the id of an array as ``12[]``."""
    return (record.job_id or "").removesuffix("[]"), index


def _own(record: Record, answer: Answer | None) -> Answer | None:
    """Return the answer where it is about this submission: job ids come back after a scheduler was
    installed anew.
    """
    if answer is None or answer.token:
        return answer if answer is None or answer.token == record.token else None
    if (
        answer.submitted
        and record.submitted
        and not record.submitted[0] - _SLACK <= answer.submitted <= record.submitted[1] + _SLACK
    ):
        return None
    return answer


def _found(
    findings: Findings, record: Record, index: int | None
) -> tuple[ExitRecord | None, Answer | None, bool]:
    own = findings.records.get(record.exit_name(index))
    history = _own(record, findings.history.answers.get(_place(record, index)))
    return own, history, record.runs not in findings.unreadable


def _adopt(record: Record, own: ExitRecord) -> bool:
    """Take the job id of the job that ran where the record has another's: of two jobs with one
    token the fence lets the first run.
    """
    true, noted = (re.match(r"\d+", text or "") for text in (own.job_id, record.job_id))
    if true is None or noted is None or true[0] == noted[0]:
        return False
    record.task.history = [
        *record.task.history,
        [
            time.time(),
            record.status.name,
            f"{record.job_id} is a duplicate that ended; {true[0]} ran",
        ],
    ]
    record.job_id = own.job_id if re.fullmatch(r"\d+(\[\])?", own.job_id) else true[0]
    return True


def _replace(record: Record, index: int | None, task: Task, changed: list[Record]) -> None:
    before = record.task if index is None or record.tasks is None else record.tasks[index]
    if task is before:
        return
    if index is None or record.tasks is None:
        record.task = task
    else:
        record.tasks[index] = task
    if not changed or changed[-1] is not record:
        changed.append(record)


def _aggregate(record: Record) -> None:
    """Set the state of an array from those of its elements."""
    if record.tasks is None:
        return
    tasks = list(record.tasks.values())
    whole = record.task
    if all(task.status.finished for task in tasks):
        worst = max(tasks, key=lambda task: task.status)
        status, whole.reason, whole.exit_code, whole.signal = (
            worst.status,
            worst.reason,
            worst.exit_code,
            worst.signal,
        )
    else:
        status = (
            Status.PENDING
            if all(task.status == Status.PENDING for task in tasks)
            else Status.RUNNING
        )
    if status != whole.status:
        whole.status = status
        whole.history = [*whole.history, [time.time(), status.name, ""]]
    starts = [task.started for task in tasks if task.started]
    ends = [task.ended for task in tasks if task.ended]
    whole.started = min(starts) if starts else None
    whole.ended = max(ends) if ends and status.finished else None
    whole.usage = {
        name: sum(task.usage.get(name, 0.0) for task in tasks)
        for name in ("elapsed", "cpu")
        if any(name in t.usage for t in tasks)
    }
    peaks = [task.usage["max_rss"] for task in tasks if "max_rss" in task.usage]
    if peaks:
        whole.usage["max_rss"] = max(peaks)


_schedulers: dict[str, Scheduler] = {}
_monitors: dict[tuple[str, str], Monitor] = {}
_registry = threading.Lock()


def scheduler_for(reference: dict[str, Any], transport: Transport | None = None) -> Scheduler:
    """Return the scheduler that a record's ``spec["backend"]`` names: backend, overrides, lookup
    folders, host; one a process.
    """
    identity = json.dumps(reference, sort_keys=True)
    with _registry:
        scheduler = _schedulers.get(identity)
        if scheduler is None:
            backend = load_backend(
                reference["name"],
                reference.get("overrides"),
                map(Path, reference.get("beside", ())),
                reference.get("source"),
            )
            if transport is None:
                host, kind, config = (
                    reference.get(name, "") for name in ("host", "transport", "ssh_config")
                )
                transport = open_transport(host, kind, config, int(backend.limits["connections"]))
            scheduler = _schedulers[identity] = Scheduler(backend, transport)
        return scheduler


def monitor_at(store: Store, place: str) -> Monitor | None:
    """Return the monitor of a store's jobs at a place, where this process has one already."""
    return _monitors.get((store.url, place))


def monitor_for(
    store: Store, reference: dict[str, Any], resume: Resume, latest: bool = False
) -> Monitor:
    """Return the monitor of a store's jobs on the scheduler that ``reference`` names; one a
    process. ``resume`` finishes open submissions.

    With ``latest`` it goes the way that ``reference`` has to its host from now on.
    """
    scheduler = scheduler_for(reference)
    place = place_of(reference)
    with _registry:
        monitor = _monitors.get((store.url, place))
        if monitor is None:
            monitor = _monitors[store.url, place] = Monitor(store, scheduler, resume, place)
        if latest:
            monitor.scheduler = scheduler
        return monitor
