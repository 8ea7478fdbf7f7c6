"""The names under which chunks of calls go through a pool's folders."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """The name of a part of a chunk: calls from ``first`` on, before ``end``, as they are numbered
    in their pool; ``granted`` of them may be begun before anything is written.
    """

    name: str
    chunk: str
    base: int
    first: int
    end: int
    granted: int
    worker: str

    @classmethod
    def parse(cls, name: str) -> Claim | None:
        """Return None for a name of anybody else's."""
        body, _, worker = name.partition("@")
        chunk, _, ends = body.partition("_")
        first, _, end = ends.partition("_")
        base, _, granted = chunk.partition("-")
        if not all(word.isdigit() for word in (first, end, base, granted)):
            return None
        at = int(base)
        low, high = at + int(first), at + int(end)
        may_begin = min(high, low + int(granted))
        return cls(name, chunk, at, low, high, may_begin, worker)

    def part(self, first: int, end: int) -> str:
        """Return the name of some of its calls."""
        return f"{self.chunk}_{first - self.base}_{end - self.base}"

    def covers(self, number: int) -> bool:
        return self.first <= number < self.end


def parsed(names: Iterable[str]) -> list[Claim]:
    """Return what names stand for, without those of anybody else's."""
    claims = [Claim.parse(name) for name in names]
    return [claim for claim in claims if claim is not None]


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the runs of numbers that follow each other: from, and before what."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = runs[-1][0], number + 1
        else:
            runs.append((number, number + 1))
    return runs


def newest_turns(workers: Iterable[str]) -> dict[str, int]:
    """Return how often each worker was started over."""
    newest: dict[str, int] = {}
    for name in workers:
        base, _, turn = name.removesuffix(".ended").partition(".")
        if turn.isdigit():
            newest[base] = max(newest.get(base, 0), int(turn))
    return newest


def ended_workers(workers: Collection[str]) -> set[str]:
    """Return the workers that said that they ended, and were not started over since."""
    newest = newest_turns(workers)
    return {base for base in newest if f"{base}.{newest[base]}.ended" in workers}
