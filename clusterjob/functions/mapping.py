"""Calls for many arguments: reading ahead, and results in order or as they come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import islice
from typing import Any, Generic, TypeVar

from clusterjob.functions.calls import CallFuture

Value = TypeVar("Value")
Arguments = tuple[tuple[object, ...], dict[str, object]]
Submit = Callable[[list[Arguments]], list[CallFuture[Any]]]
_BURST = 1000  # items that are read and submitted at a time


class Mapped(Generic[Value]):
    """The calls of one map. They are submitted when it is made, as far as they are read ahead."""

    def __init__(
        self,
        submit: Submit,
        rows: Iterable[Arguments],
        ahead: int | None,
        timeout: float | None,
    ) -> None:
        self._submit, self._rows, self._ahead = submit, iter(rows), ahead
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._is_read = False
        self.futures: deque[CallFuture[Value]] = deque()
        self._read()

    def _read(self) -> None:
        """Submit more calls, where there is room for a good part of what may be read ahead."""
        while not self._is_read:
            room = _BURST
            if self._ahead is not None:
                room = min(room, self._ahead - len(self.futures))
                if room < max(1, min(_BURST, self._ahead // 4)):
                    return
            some = list(islice(self._rows, room))
            self._is_read = len(some) < room
            if some:
                self.futures.extend(self._submit(some))

    def _left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def in_order(self, return_exceptions: bool) -> Iterator[Value]:
        """Yield the results in the order of the calls."""
        try:
            while self.futures:
                future = self.futures.popleft()
                self._read()
                yield _outcome(future, self._left(), return_exceptions)
        finally:
            self._cancel()

    def as_they_come(self, return_exceptions: bool) -> Iterator[Value]:
        """Yield the results in the order in which they come."""
        try:
            while self.futures:
                done, _ = wait(self.futures, self._left(), FIRST_COMPLETED)
                if not done:
                    raise TimeoutError
                self.futures = deque(f for f in self.futures if f not in done)
                self._read()
                for future in done:
                    yield _outcome(future, 0.0, return_exceptions)
        finally:
            self._cancel()

    def _cancel(self) -> None:
        for future in self.futures:
            future.cancel()


def _outcome(
    future: CallFuture[Value], timeout: float | None, return_exceptions: bool
) -> Any:
    """Return what came of a call, without keeping it alive."""
    try:
        return future.result(timeout)
    except Exception as error:
        if not return_exceptions or not future.done():
            raise
        return error
