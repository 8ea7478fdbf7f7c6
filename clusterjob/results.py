"""Sequences of handles: what a submission returns, and waiting for many jobs."""

from __future__ import annotations

import csv
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex, overload

from clusterjob.elements import ArrayElement, elements_of
from clusterjob.engine import Engine
from clusterjob.errors import (
    SettingsError,
    SubmissionError,
    WaitTimeoutError,
    first_of,
)
from clusterjob.plain_files import expand
from clusterjob.result import AsyncResult, resubmit
from clusterjob.status import Status
from clusterjob.store import Again, Record
from clusterjob.waiting import rounds

# resources that each job has for its own, or that stand in other columns
_OWN = ("jobname", "array", "stdout", "stderr")


class WaitOutcome(NamedTuple):
    """The jobs that have ended, and the ones that have not."""

    done: Results
    not_done: Results


class Results(list[AsyncResult]):
    """The handles of several jobs, in order: what a submission returns.

    It is a list, and does what is wanted of all of them at once.
    """

    @overload
    def __getitem__(self, position: SupportsIndex) -> AsyncResult: ...

    @overload
    def __getitem__(self, position: slice) -> Results: ...

    def __getitem__(self, position: SupportsIndex | slice) -> AsyncResult | Results:
        if isinstance(position, slice):
            return Results(super().__getitem__(position))
        return super().__getitem__(position)

    def __add__(self, other: list[AsyncResult]) -> Results:  # type: ignore[override]
        return Results([*self, *other])

    def __repr__(self) -> str:
        counted = ", ".join(
            f"{count} {status}" for status, count in self._count().items()
        )
        return f"<Results of {len(self)} jobs{': ' if counted else ''}{counted}>"

    @property
    def counts(self) -> dict[Status, int]:
        """How many jobs are in each state, as new as their clusters may be asked."""
        for result in self:
            result.refresh()
        return self._count()

    def _count(self) -> dict[Status, int]:
        states = [result.record.status for result in self]
        return {status: states.count(status) for status in Status if status in states}

    @property
    def failed(self) -> Results:
        """The jobs that are FAILED, as new as their clusters may be asked."""
        return Results(result for result in self if result.status == Status.FAILED)

    def wait(self, timeout: float | None = None) -> WaitOutcome:
        """Wait until all have ended, for ``timeout`` seconds at most.

        Returns the ones that have and the ones that have not.
        """
        return wait(self, timeout)

    def as_completed(self, timeout: float | None = None) -> Iterator[AsyncResult]:
        """Yield each when it has ended. Raises :class:`WaitTimeoutError`."""
        return as_completed(self, timeout)

    def table(
        self, read: Callable[[Any], object] | None = None
    ) -> list[dict[str, object]]:
        """Return a row a job, as plain values: for a data frame, or for a file. An array that has
        parameters has a row an element.

        Its columns are the job's parameters, the resources that are not the same for all (``time``
        in s, ``mem`` in MB), then those of :class:`JobRow`; a parameter of the name of another
        column is ``param_NAME``. ``read`` is called with the handle of each job that completed, or
        with the :class:`ArrayElement`, and returns what its outputs say: a mapping of columns, or a
        value for the column ``result``. In the rows of other jobs these are None; where none
        completed, there are none. What it raises ends the table.

        ::

            pandas.DataFrame(results.table(lambda r: json.loads(r.stdout())))
        """
        for result in self:
            _ = result.usage  # peak memory is asked for, once for all
        return self.rows(read)

    def rows(
        self, read: Callable[[Any], object] | None = None
    ) -> list[dict[str, object]]:
        """Return what :meth:`table` does by what is known: no cluster is asked."""
        rows: list[dict[str, object]] = []
        params: dict[str, None] = {}
        varied = _varied([result.record.resources for result in self])
        for result in self:
            resources = result.record.resources
            parts: Sequence[AsyncResult | ArrayElement] = elements_of(result)
            for part in parts or [result]:
                row = {name: resources.get(name) for name in varied}
                row.update(part.row())
                found: object = {}
                if read is not None and row["status"] == Status.COMPLETED.name:
                    found = read(part)
                rows.append(_with_columns(part.name, part.params, row, found))
                params.update(dict.fromkeys(list(rows[-1])[: len(part.params)]))
        others = dict.fromkeys(name for row in rows for name in row)
        columns = params | others
        return [{name: row.get(name) for name in columns} for row in rows]

    def to_csv(
        self,
        path: str | os.PathLike[str],
        read: Callable[[Any], object] | None = None,
    ) -> None:
        """Write :meth:`table` to a CSV file with a header; None is empty."""
        rows = self.table(read)
        with open(expand(path), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)

    def cancel(self) -> None:
        """Cancel all that have not ended: one command a cluster. Raises :class:`CommandError`."""
        cancel(self)

    def resubmit(self) -> Results:
        """Submit the jobs again, as they were; all of them must have ended.

        One batch a session. Returns the new handles. Raises :class:`SubmissionError`.
        """
        live = [result for result in self if not result.ready()]
        if live:
            names = first_of([f"{item.name!r} ({item.job_id})" for item in live], 3)
            raise SubmissionError(f"not ended yet: {names}; cancel them first")
        return self._again(list(range(len(self))), lambda old, new: old.finished)

    def retry(self) -> Results:
        """Submit the jobs again, as they were, that have ended and did not complete.

        One batch a session. Returns all the jobs, with the new handles in their places; these
        handles stay what they are. A job that was submitted anew meanwhile, and completed or is on
        its way, is not submitted once more: its newer handle is returned. Raises
        :class:`SubmissionError`.
        """
        failed = [
            position
            for position, result in enumerate(self)
            if result.status > Status.COMPLETED
        ]
        return self._again(failed, functools.partial(Record.yields_to, retry=True))

    def _again(self, wanted: Sequence[int], again: Again) -> Results:
        """Submit the jobs at these positions once more; return all, with the new handles."""
        positions: dict[Engine, list[int]] = {}
        for position in wanted:
            positions.setdefault(self[position].engine, []).append(position)
        everyone = list(self)
        for engine, members in positions.items():
            records = [everyone[position].record for position in members]
            retried = resubmit(
                engine,
                records,
                again,
            )
            for position, result in zip(members, retried, strict=True):
                everyone[position] = result
        return Results(everyone)


def _varied(asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the resources that differ, but for those that a job has for its own."""
    names = dict.fromkeys(name for resources in asked for name in resources)
    return [
        name
        for name in names
        if name not in _OWN and len({item.get(name) for item in asked}) > 1
    ]


def _with_columns(
    job: str, given: Mapping[str, object], row: dict[str, object], found: object
) -> dict[str, object]:
    """Return a row with parameters before it, and what was read of the job's outputs behind."""
    params = {
        f"param_{name}" if name in row else name: value
        for name, value in given.items()
    }
    columns = (
        {str(key): value for key, value in found.items()}
        if isinstance(found, Mapping)
        else {"result": found}
    )
    twice = sorted(columns.keys() & (params.keys() | row.keys()))
    if twice:
        raise SettingsError(
            f"what was read of job {job!r} has the column {twice[0]!r}, which the table "
            "has already; call it something else"
        )
    return {**params, **row, **columns}


def _end_of(result: AsyncResult) -> float:
    """Return when a job ended, as far as is known (s since the epoch)."""
    return result.record.task.ended or math.inf


def check_handles(results: object) -> list[AsyncResult]:
    """Return the handles that are given; one alone stands for itself, None for none.

    Raises :class:`SettingsError` for anything else.
    """
    if isinstance(results, AsyncResult):
        return [results]
    if results is None:
        return []
    found: list[AsyncResult] = []
    for result in results if isinstance(results, Iterable) else [results]:
        if not isinstance(result, AsyncResult):
            raise SettingsError(
                f"{result!r} is no result of a submission; expected what submit(...) or "
                "results(...) returned"
            )
        found.append(result)
    return found


def cancel(results: Iterable[AsyncResult]) -> None:
    """Cancel jobs: one command a cluster. Ones that have ended stay what they were.

    Raises :class:`CommandError` where a cluster could not be asked, after all the others were.
    """
    groups: dict[Engine, list[Record]] = {}
    for result in check_handles(results):
        _ = result.cluster  # its record is the one that is watched
        groups.setdefault(result.engine, []).append(result.record)
    for engine, records in groups.items():
        engine.cancel(records)


def wait(results: Iterable[AsyncResult], timeout: float | None = None) -> WaitOutcome:
    """Wait until all jobs have ended, for ``timeout`` seconds at most.

    Returns the ones that have and the ones that have not.
    """
    everyone = check_handles(results)
    for _ in rounds(everyone, timeout):
        pass
    done = [result for result in everyone if result.record.settled]
    not_done = [result for result in everyone if not result.record.settled]
    return WaitOutcome(Results(done), Results(not_done))


def as_completed(
    results: Iterable[AsyncResult], timeout: float | None = None
) -> Iterator[AsyncResult]:
    """Yield each result when its job has ended.

    Raises :class:`WaitTimeoutError` after ``timeout`` seconds with jobs left.
    """
    everyone = list(dict.fromkeys(check_handles(results)))
    left = len(everyone)
    for ended in rounds(everyone, timeout):
        # of those that were found to have ended together, who ended first
        yield from sorted(ended, key=_end_of)
        left -= len(ended)
    if left:
        raise WaitTimeoutError(
            f"{left} of {len(everyone)} jobs have not ended after {timeout:g} s; they go on"
        )
