"""The attempts of a job that is tried again by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from clusterjob.files import attempt_log_path
from clusterjob.store import Record, Task


class Attempt(NamedTuple):
    """One of several attempts of a job: see :class:`Retry`.

    ``tasks`` are the elements of an array, of an attempt that is over those that failed; else None.
    ``resources`` are those that it asked for, ``stdout`` and ``stderr`` the paths of its logs (a
    log that the user named is written anew by each attempt).
    """

    number: int
    job_id: str | None
    task: Task
    tasks: dict[int, Task] | None
    resources: dict[str, object]
    stdout: str
    stderr: str


def present_attempt(record: Record, stdout: str, stderr: str) -> Attempt:
    """Return the attempt that a job is in; the paths are those of its logs."""
    tasks = None if record.tasks is None else dict(record.tasks)
    return Attempt(
        record.attempt,
        record.full_job_id,
        record.task,
        tasks,
        {**record.spec.resources, **record.changed},
        stdout,
        stderr,
    )


def past_attempts(record: Record) -> list[Attempt]:
    """Return the attempts of a job that are over, as its record has them."""
    return [_past(record, entry) for entry in record.past]


def _past(record: Record, entry: Mapping[str, Any]) -> Attempt:
    number, folder = int(entry["attempt"]), str(entry.get("folder", ""))
    tasks = {
        int(index): Task.from_json({**task})
        for index, task in entry.get("tasks", {}).items()
    }
    first = next(iter(tasks.values()), Task())  # of an array: of those that failed
    return Attempt(
        number,
        entry["job_id"],
        Task.from_json({**entry["task"]}) if "task" in entry else first,
        tasks or None,
        {**record.spec.resources, **entry["changed"]},
        attempt_log_path(record, "stdout", number, folder),
        attempt_log_path(record, "stderr", number, folder),
    )
