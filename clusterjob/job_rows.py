"""What is known of a job, as plain values: a row of a table."""

from __future__ import annotations

from typing import TypedDict

from clusterjob.store import Task


class TaskRow(TypedDict):
    """What became of a job, or of an element of an array.

    Times are in s since the epoch, ``elapsed`` and ``cpu`` in s, ``max_rss`` in MB.
    """

    status: str
    reason: str | None
    exit_code: int | None
    signal: int | None
    words: str
    started: float | None
    ended: float | None
    elapsed: float | None
    cpu: float | None
    max_rss: float | None


class JobRow(TaskRow):
    """What is known of a job: a row of :meth:`Results.table`, besides its parameters.

    ``submitted`` is in s since the epoch, ``tags`` are joined by commas.
    """

    name: str
    job_id: str | None
    key: str
    backend: str
    host: str
    workdir: str
    submitted: float
    campaign: str
    tags: str
    stdout: str
    stderr: str


def task_columns(task: Task) -> TaskRow:
    """Return what became of a task."""
    return TaskRow(
        status=task.status.name,
        reason=task.reason.value if task.reason else None,
        exit_code=task.exit_code,
        signal=task.signal,
        words=task.words,
        started=task.started,
        ended=task.ended,
        elapsed=task.usage.get("elapsed"),
        cpu=task.usage.get("cpu"),
        max_rss=task.usage.get("max_rss"),
    )
