"""What the benchmarks share: a place to work in, a clock, and a line of result."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence

from clusterjob import JobScript, submit


@contextlib.contextmanager
def workplace(where: str | None = None) -> Iterator[str]:
    """Work in a new folder (in ``where``) with a store of its own."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="clusterjob-bench-", dir=where) as folder:
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


@contextlib.contextmanager
def stopwatch() -> Iterator[list[float]]:
    """Give a list that holds the elapsed seconds afterwards."""
    result: list[float] = []
    began = time.perf_counter()
    yield result
    result.append(time.perf_counter() - began)


def report(what: str, value: float, unit: str, target: str) -> None:
    """Print one line of result."""
    print(f"{what:58} {value:10.2f} {unit:8} target: {target}")


def held_jobs(label: str, count: int) -> list[JobScript]:
    """Return jobs for Slurm that are accepted and do not start."""
    return [
        JobScript(
            f"true {label} {number}",
            f"bench{number}",
            backend="slurm",
            mem=10,
            hold=True,
        )
        for number in range(count)
    ]


def submission_time(jobs: Sequence[JobScript], bundle: bool = True) -> float:
    """Return the seconds that it takes to submit a batch, all of it."""
    with stopwatch() as watch:
        results = submit(jobs, bundle=bundle)
    assert all(result.job_id for result in results)
    return watch[0]
