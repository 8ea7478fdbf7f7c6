"""What a job used, where only accounting knows it: peak memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from clusterjob.engine.arrays import aggregate
from clusterjob.engine.assess import history_of
from clusterjob.engine.poller import Poller
from clusterjob.engine.replies import EndReport
from clusterjob.store import Record


class Accounting:
    """Asks accounting about jobs that have ended, about the same job not more often than polls."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._asked: dict[str, float] = {}  # when, by token
        self._complete: set[str] = (
            set()
        )  # tokens of jobs of which it will say no more

    def complete_usage(self, record: Record) -> None:
        """Ask for the peak memory of a job that has ended, and of all others that lack it.

        One command. It is asked again while accounting may lag behind or does not answer.
        """
        poller = self._poller
        with poller.lock:
            can_tell = poller.scheduler.accounting and not record.is_packed
            if not can_tell or not self._is_due(record):
                return
            others = poller.jobs.select(self._lacks_usage)
            records = list({item.token: item for item in (record, *others)}.values())
            now = poller.clock()
            self._asked.update((item.token, now) for item in records)
            tasks = [(item, index) for item in records for index in item.all_tasks()]
            report = poller.assessor.ask_ended(tasks)
            if report.history.asked:
                self._note_complete(records, now)
            poller.store.update(records, functools.partial(_note_usage, report))

    def _lacks_usage(self, record: Record) -> bool:
        return (
            record.finished
            and not record.is_packed  # it is told of all of a pack
            and "max_rss" not in record.task.usage
            and self._is_due(record)
        )

    def _is_due(self, record: Record) -> bool:
        if record.token in self._complete:
            return False
        since = self._poller.clock() - self._asked.get(record.token, 0.0)
        return since >= self._poller.scheduler.backend.limits.poll_interval

    def _note_complete(self, records: Sequence[Record], now: float) -> None:
        settle = self._poller.scheduler.backend.limits.settle
        for record in records:
            if now >= (record.task.ended or 0.0) + settle:
                self._complete.add(record.token)


def _note_usage(report: EndReport, record: Record) -> None:
    for index, task in record.all_tasks().items():
        history = history_of(report, record, index)
        if history is not None:
            task.usage.update(history.usage)
        own = report.records.get(record.exit_name(index))
        if own is not None and own.cpu is not None:
            task.usage.setdefault("cpu", own.cpu)
    aggregate(record)
