"""What one call of submit or plan was given, checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from clusterjob.dependencies import AfterJobs, Job
from clusterjob.errors import SettingsError
from clusterjob.result import AsyncResult
from clusterjob.results import check_handles
from clusterjob.status import Dependency
from clusterjob.store import Record

# jobs that come first: of all jobs of a batch, or of each
Parents = AsyncResult | AfterJobs | Iterable[AsyncResult | AfterJobs]
After = (
    Parents
    | Mapping[
        Job, "AsyncResult | Job | AfterJobs | Iterable[AsyncResult | Job | AfterJobs]"
    ]
)
# one of them: its number in the batch, or its handle; and what it must come to
Parent = tuple[int | AsyncResult, Dependency]


class Batch:
    """The jobs of a call, by their numbers; what each comes after, and the handles so far."""

    def __init__(
        self,
        jobs: list[Job],
        cache_ids: list[str | None],
        parents: list[list[Parent]],
    ) -> None:
        self.jobs = jobs
        self.cache_ids = cache_ids
        self._parents = parents
        self.generations = list(self._generations())
        self._followed = {
            parent
            for found in parents
            for parent, _ in found
            if isinstance(parent, int)
        }
        self.results: dict[int, AsyncResult] = {}
        self._counts: Counter[str] = Counter()

    @classmethod
    def of(
        cls,
        jobs: Job | Iterable[Job],
        cache_ids: Iterable[str | None] | None,
        after: After,
    ) -> Batch:
        """Raises :class:`SettingsError`."""
        members = _check_jobs(jobs)
        ids: list[str | None] = [None] * len(members)
        if cache_ids is not None:
            if isinstance(cache_ids, str):
                raise SettingsError(
                    f"cache_ids = {cache_ids!r}: expected a list, an id or None for each job"
                )
            ids = list(cache_ids)
        if len(ids) != len(members):
            raise SettingsError(
                f"there are {len(members)} jobs and {len(ids)} cache_ids"
            )
        if not isinstance(after, Mapping):
            common = _parents(after, {})
            return cls(members, ids, [common] * len(members))
        numbers = {id(job): number for number, job in enumerate(members)}
        for job in after:
            if id(job) not in numbers:
                raise SettingsError(
                    f"after[{job!r}]: this job is not in the batch; expected one of its jobs"
                )
        parents = [_parents(after.get(job, ()), numbers) for job in members]
        return cls(members, ids, parents)

    def earlier_parents(self) -> list[AsyncResult]:
        """Return the parents that were submitted before this batch."""
        found = (parent for parents in self._parents for parent, _ in parents)
        return list(
            dict.fromkeys(item for item in found if not isinstance(item, int))
        )

    def parents_of(self, number: int) -> list[tuple[AsyncResult, Dependency]]:
        """Return the handles of what a job comes after, once they are there."""
        return [
            (self.results[parent] if isinstance(parent, int) else parent, how)
            for parent, how in self._parents[number]
        ]

    def parents_among(
        self, numbers: Sequence[int], records: Sequence[Record]
    ) -> set[str]:
        """Return the tokens of those of the jobs with these numbers that others come after."""
        return {
            record.token
            for number, record in zip(numbers, records, strict=True)
            if number in self._followed
        }

    def _generations(self) -> Iterator[list[int]]:
        """Yield the numbers of jobs whose parents in this batch were yielded before.

        Raises :class:`SettingsError` where jobs come after each other in a circle.
        """
        left = list(range(len(self.jobs)))
        done: set[int] = set()
        while left:
            ready = [number for number in left if self._mates(number) <= done]
            if not ready:
                raise SettingsError(
                    f"{self.jobs[left[0]]!r} comes, over others of the batch, after itself"
                )
            yield ready
            done.update(ready)
            left = [number for number in left if number not in done]

    def _mates(self, number: int) -> set[int]:
        return {
            parent for parent, _ in self._parents[number] if isinstance(parent, int)
        }

    def count(self, key: str) -> int:
        """Return how many jobs of this key came before, and count one more."""
        self._counts[key] += 1
        return self._counts[key] - 1


def _parents(
    given: object,
    numbers: Mapping[int, int],
    how: Dependency = Dependency.AFTER_OK,
) -> list[Parent]:
    """Return parents as numbers of jobs of the batch, or handles."""
    items = (
        given
        if isinstance(given, Iterable) and not hasattr(given, "prepare")
        else [given]
    )
    found: list[Parent] = []
    for item in items:
        if isinstance(item, AfterJobs):
            found += _parents(item.jobs, numbers, item.how)
        elif id(item) in numbers:
            found.append((numbers[id(item)], how))
        elif isinstance(item, Iterable) and how is not Dependency.AFTER_OK:
            found += _parents(item, numbers, how)
        else:
            found += [(handle, how) for handle in check_handles(item)]
    return found


def _check_jobs(jobs: object) -> list[Job]:
    """Return the jobs of a batch; one alone stands for itself.

    Raises :class:`SettingsError` for what is none.
    """
    if hasattr(jobs, "prepare"):
        jobs = [jobs]
    if not isinstance(jobs, Iterable) or isinstance(jobs, str):
        raise SettingsError(f"a batch is a list of job scripts, not {jobs!r}")
    found = list(jobs)
    for job in found:
        if not hasattr(job, "prepare"):
            raise SettingsError(
                f"{job!r} is no job script: make one with JobScript(...)"
            )
    return found
