"""The state of an array, from those of its elements."""

from __future__ import annotations

import time
from collections.abc import Sequence

from clusterjob.status import Status
from clusterjob.store import Record, Task


def aggregate(record: Record) -> None:
    """Set state, times and usage of an array from its elements; nothing for any other job."""
    if record.tasks is None:
        return
    tasks = list(record.tasks.values())
    whole = record.task
    status = _status_of(tasks)
    if status.finished:
        worst = max(tasks, key=lambda task: task.status)
        whole.reason, whole.exit_code, whole.signal = (
            worst.reason,
            worst.exit_code,
            worst.signal,
        )
    if status != whole.status:
        whole.status = status
        whole.note_event(time.time(), status.name, "")
    starts = [task.started for task in tasks if task.started]
    ends = [task.ended for task in tasks if task.ended]
    whole.started = min(starts, default=None)
    whole.ended = max(ends, default=None) if status.finished else None
    whole.usage = _usage_of(tasks)


def _status_of(tasks: Sequence[Task]) -> Status:
    """The worst end of all, once all have ended; before that what they are doing."""
    if all(task.status.finished for task in tasks):
        return max(task.status for task in tasks)
    is_waiting = all(task.status == Status.PENDING for task in tasks)
    return Status.PENDING if is_waiting else Status.RUNNING


def _usage_of(tasks: Sequence[Task]) -> dict[str, float]:
    """Times add up; of peaks the largest counts."""
    usage = {}
    for name, combine in (("elapsed", sum), ("cpu", sum), ("max_rss", max)):
        values = [task.usage[name] for task in tasks if name in task.usage]
        if values:
            usage[name] = combine(values)
    return usage
