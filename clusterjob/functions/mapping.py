"""Calls for many arguments: reading ahead, and results in order or as they come."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from clusterjob.files import Count
from clusterjob.functions.calls import CallFuture

Value = TypeVar("Value")
Arguments = tuple[tuple[object, ...], dict[str, object]]
Submit = Callable[[Iterable[Arguments]], list[CallFuture[Any]]]
_log = logging.getLogger(__name__)
_BURST = 1000  # items that are read and submitted at a time


class Rows:
    """The arguments of the calls of one map; ``length`` is None where it is not known."""

    def __init__(self, rows: Iterable[Iterable[object]]) -> None:
        self.length = len(rows) if isinstance(rows, Sized) else None
        self._rows = iter(rows)

    @classmethod
    def zipped(cls, iterables: Sequence[Iterable[object]], name: str = "map") -> Rows:
        """Take an item of each iterable, as far as the shortest goes.

        Raises TypeError where there is none; ``name`` is the function that was given none.
        """
        if not iterables:
            raise TypeError(f"{name}() must have at least two arguments.")
        rows = cls(zip(*iterables, strict=False))
        if all(isinstance(items, Sized) for items in iterables):
            rows.length = min(len(items) for items in iterables)  # type: ignore[arg-type]
        return rows

    def take(self, count: int) -> Iterator[Arguments]:
        """Yield the next rows. Each is read when it is needed: the next may be the same object."""
        for row in islice(self._rows, count):
            yield tuple(row), {}


@dataclass(frozen=True)
class MapOptions:
    """How a map is made: see :meth:`ClusterExecutor.map`. Raises ValueError, TypeError."""

    timeout: float | None = None  # s
    chunksize: int | None = None
    buffersize: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("chunksize", "buffersize"):
            count = getattr(self, name)
            if count is None:
                continue
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(
                    f"{name} = {count!r}: expected a whole number, or None"
                )
            if count < 1:
                raise ValueError(f"{name} must be >= 1.")
        is_number = isinstance(self.timeout, (int, float))
        if self.timeout is not None and (
            not is_number or isinstance(self.timeout, bool)
        ):
            raise TypeError(f"timeout = {self.timeout!r}: expected seconds, or None")


class Mapped(Generic[Value]):
    """The calls of one map. They are submitted when it is made, as far as they are read ahead.

    ``ahead`` is how many rows that is; None for all.
    """

    def __init__(
        self,
        submit: Submit,
        rows: Rows,
        ahead: int | None,
        options: MapOptions,
    ) -> None:
        self._submit = submit
        self._rows = rows
        self._ahead = ahead
        timeout = options.timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._is_read = False
        self._futures: deque[CallFuture[Value]] = deque()
        self._count = Count("calls", rows.length) if options.progress else None
        self._told = 0
        self._read()

    def _read(self) -> None:
        """Submit more calls, where there is room for a good part of what may be read ahead."""
        while not self._is_read:
            room = _BURST
            if self._ahead is not None:
                room = min(room, self._ahead - len(self._futures))
                if room < max(1, min(_BURST, self._ahead // 4)):
                    return
            futures = self._submit(self._rows.take(room))
            self._is_read = len(futures) < room
            self._futures.extend(futures)
            self._watch(futures)

    def _has_more(self) -> bool:
        """Read ahead, and return whether there is anything to wait for."""
        self._read()
        return bool(self._futures)

    def _watch(self, futures: Sequence[CallFuture[Value]]) -> None:
        if self._count is not None:
            for future in futures:
                future.add_done_callback(self._count.add)

    def _left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def in_order(self, return_exceptions: bool) -> Iterator[Value]:
        """Yield the results in the order of the calls."""

        def outcomes() -> Iterator[Value]:
            while self._has_more():
                # without a name that would keep it
                yield _outcome(
                    self._futures.popleft(), self._left(), return_exceptions
                )

        return self._minded(outcomes())

    def as_they_come(self, return_exceptions: bool) -> Iterator[Value]:
        """Yield the results in the order in which they come."""

        def outcomes() -> Iterator[Value]:
            while self._has_more():
                done, _ = wait(list(self._futures), self._left(), FIRST_COMPLETED)
                if not done:
                    raise TimeoutError
                ended = [future for future in self._futures if future in done]
                self._futures = deque(f for f in self._futures if f not in done)
                done.clear()
                while ended:
                    yield _outcome(ended.pop(0), 0.0, return_exceptions)

        return self._minded(outcomes())

    def _minded(self, outcomes: Iterator[Value]) -> Iterator[Value]:
        """Yield them. Who gives up cancels what was not begun; who is interrupted does not."""
        is_interrupted = False
        try:
            while True:
                self._told += 1
                yield next(outcomes)
        except StopIteration:
            return
        except KeyboardInterrupt:
            is_interrupted = True
            left = sum(not future.done() for future in self._futures)
            _log.warning(
                "stopped waiting: %d results were told, some %d calls go on in their jobs. Run the "
                "same again to get the rest; 'clusterjob list' names the jobs, and 'clusterjob "
                "cancel ID' ends them",
                self._told - 1,
                left,
            )
            raise
        finally:
            if self._count is not None:
                self._count.end()
            if not is_interrupted:
                for future in self._futures:
                    future.cancel()


def _outcome(
    future: CallFuture[Value], timeout: float | None, return_exceptions: bool
) -> Any:
    """Return what came of a call, or what it raised."""
    try:
        return future.result(timeout)
    except Exception as error:
        if not return_exceptions or not future.done():
            raise
        return error
