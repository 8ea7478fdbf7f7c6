"""What can be submitted, and when it may start: what ``after`` of :func:`clusterjob.submit` takes
besides handles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from clusterjob.engine import Engine
from clusterjob.result import AsyncResult
from clusterjob.status import Dependency
from clusterjob.store import Record
from clusterjob.terms import Terms


class Job(Protocol):
    """What can be submitted: a :class:`JobScript`."""

    def prepare(
        self,
        engine: Engine,
        *,
        cache_id: str | None = None,
        parents: Sequence[tuple[Record, Dependency]] = (),
        batch: str = "",
        terms: Terms = Terms(),  # noqa: B008  # it never changes
    ) -> Record:
        """Return the record of a submission, not stored anywhere yet.

        Without ``batch`` it is for looking at only: no host need be reached.
        """


@dataclass(frozen=True)
class AfterJobs:
    """Jobs, and what they must have come to before another one starts."""

    jobs: tuple[AsyncResult | Job, ...]
    how: Dependency


def afterok(*jobs: AsyncResult | Job) -> AfterJobs:
    """Start when all of these completed; what a handle alone means in ``after``."""
    return AfterJobs(jobs, Dependency.AFTER_OK)


def afterany(*jobs: AsyncResult | Job) -> AfterJobs:
    """Start when all of these ended, however that was."""
    return AfterJobs(jobs, Dependency.AFTER_ANY)


def afternotok(*jobs: AsyncResult | Job) -> AfterJobs:
    """Start when all of these failed or were cancelled: to clean up, or to try something else."""
    return AfterJobs(jobs, Dependency.AFTER_NOT_OK)


def aftercorr(*arrays: AsyncResult | Job) -> AfterJobs:
    """Start each element of an array when those of the same index in these arrays completed."""
    return AfterJobs(arrays, Dependency.AFTER_CORRESPONDING)


def is_job(thing: object) -> TypeGuard[Job]:
    """Whether something can be submitted."""
    return hasattr(thing, "prepare")


def exchange(after: object, swap: Callable[[object], object]) -> Any:
    """Return what jobs come after, with what ``swap`` gives in the place of each that is named."""
    if isinstance(after, AfterJobs):
        return AfterJobs(tuple(exchange(after.jobs, swap)), after.how)
    if isinstance(after, Mapping):
        return {swap(job): exchange(parents, swap) for job, parents in after.items()}
    if (
        isinstance(after, Iterable)
        and not is_job(after)
        and not isinstance(after, str)
    ):
        return [exchange(item, swap) for item in after]
    return swap(after)
