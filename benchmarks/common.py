"""What the benchmarks share: a place to work in, a clock, and a line of result."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator


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
