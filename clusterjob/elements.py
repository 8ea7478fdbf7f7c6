"""The elements of an array that has parameters, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterjob.job_rows import task_columns
from clusterjob.result import AsyncResult
from clusterjob.status import Status
from clusterjob.store import Task


@dataclass(frozen=True)
class ArrayElement:
    """One element of an array as :meth:`Results.table` passes it on: its parameters, state and
    logs.
    """

    array: AsyncResult
    index: int
    params: Mapping[str, object]  # those of the array too
    task: Task

    @property
    def name(self) -> str:
        """The name of the array."""
        return self.array.name

    @property
    def status(self) -> Status:
        """The state of this element."""
        return self.task.status

    def stdout(self) -> str:
        """Return what it has written to its standard output. Raises :class:`CommandError`."""
        return self.array.stdout(self.index)

    def stderr(self) -> str:
        """Return what it has written to its standard error. Raises :class:`CommandError`."""
        return self.array.stderr(self.index)

    def row(self) -> dict[str, object]:
        """Return what is known of it, as plain values."""
        return {
            **self.array.row(),
            **task_columns(self.task),
            # one that completed in an earlier submission was of that
            "job_id": None if self.task.files else self.array.job_id,
            "array_index": self.index,
            "stdout": self.array.log_path("stdout", self.index),
            "stderr": self.array.log_path("stderr", self.index),
        }


def elements_of(result: AsyncResult) -> list[ArrayElement]:
    """Return the elements of an array that has parameters; none of another job."""
    tasks, rows = result.record.tasks, result.record.spec.rows
    if not rows or tasks is None:
        return []
    pairs = zip(tasks.items(), rows, strict=True)
    return [
        ArrayElement(result, index, {**result.params, **values}, task)
        for (index, task), values in pairs
    ]
