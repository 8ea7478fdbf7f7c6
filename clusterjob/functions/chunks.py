"""How many calls go together: so many that finding them costs little beside making them."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clusterjob.functions.calls import Call

_TARGET = 1.0  # s that a chunk should take
_LEAST = 0.1  # ... at least
_REMEMBERED = 16  # calls of a function
_SLICE = 0.25  # s of calls that may be begun before anything is written
_MOST = 1000  # calls of a chunk
_BLIND = 32  # ... where nothing is known of how long they take
_FIRST = 2  # chunks for each worker, from which that is learnt
_BYTES = 4 << 20  # of arguments, from which on a chunk is full
_A_WORKER = 4  # chunks that there should be for each


class Chunk(NamedTuple):
    """Calls that go together; ``granted`` of them may be begun before anything is written."""

    granted: int
    calls: Sequence[Call]


class Pace:
    """How long calls of each function take, as far as is known."""

    def __init__(self) -> None:
        self._seconds: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def note(self, label: str, seconds: float) -> bool:
        """Take in how long a call took. True where it is the first of its function."""
        with self._lock:
            is_first = label not in self._seconds
            self._seconds.setdefault(label, deque(maxlen=_REMEMBERED)).append(seconds)
        return is_first

    def get(self, label: str) -> float | None:
        """Return the s that a call takes; None where none has ended.

        A quarter of the last ones took less: what something else held up says nothing, and workers
        give back what takes long.
        """
        with self._lock:
            if label not in self._seconds:
                return None
            known = sorted(self._seconds[label])
        return known[len(known) // 4]


def first_ones(calls: Sequence[Call], workers: int, pace: Pace) -> int:
    """Return how many of the calls go first, so that the others can go in chunks of a good size:
    all, where it is known how long such calls take.
    """
    first = calls[0]
    if pace.get(first.label) is not None:
        return len(calls)
    return _FIRST * workers * (first.chunksize or 1)


def into_chunks(
    calls: Sequence[Call], workers: int, pace: Pace, behind: int = 0
) -> Iterator[Chunk]:
    """Yield chunks of calls.

    ``workers`` is how many there may be, of all that take from these calls; ``behind`` is how many
    more calls are to come.
    """
    start = 0
    is_first = len(calls) <= _FIRST * workers
    while start < len(calls):
        first = calls[start]
        seconds = pace.get(first.label)
        left = len(calls) - start + behind
        size = _size(left, workers, seconds, first.chunksize)
        if is_first and seconds is None:
            size = first.chunksize or 1
        members = list(_fitting(calls[start : start + size], first))
        start += len(members)
        granted = 1 if seconds is None else math.ceil(_SLICE / max(seconds, 1e-6))
        yield Chunk(max(1, min(granted, len(members))), members)


def _size(left: int, workers: int, seconds: float | None, wanted: int | None) -> int:
    """Return how many calls go together; not fewer than are ``wanted``, where the user says so."""
    share = math.ceil(left / (workers * _A_WORKER))
    if seconds is None:
        return wanted or max(1, min(share // 2, _BLIND))
    # fewer are not worth a file; workers give back what takes them too long
    least = min(int(_LEAST / max(seconds, 1e-6)), _MOST)
    if wanted:
        return max(wanted, min(share, least))
    most = min(int(_TARGET / max(seconds, 1e-6)), _MOST)
    return max(1, min(max(share, least), most))


def _fitting(calls: Sequence[Call], first: Call) -> Iterator[Call]:
    """Yield calls of one function and kind, as long as their arguments fit in one file."""
    size = 0
    for call in calls:
        assert call.arguments
        is_other = call.label != first.label or call.chunksize != first.chunksize
        size += call.arguments.size
        if call is not first and (is_other or size > _BYTES):
            return
        yield call
