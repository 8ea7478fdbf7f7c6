"""How long to leave alone what failed."""

from __future__ import annotations

import time


class Backoff:
    """Pauses after failures in a row, each twice as long as the one before, up to a longest.

    ``shortest`` and ``longest`` are in s.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = self._next = shortest
        self._longest = longest
        self._not_before = 0.0  # on the monotonic clock
        self._since: float | None = None  # the first failure, on the monotonic clock

    def fail(self) -> float:
        """Note a failure; return for how many s there should be no other attempt."""
        pause, now = self._next, time.monotonic()
        self._since = now if self._since is None else self._since
        self._not_before = now + pause
        self._next = min(2 * pause, self._longest)
        return pause

    def succeed(self) -> None:
        """Note that it works."""
        self._next, self._since = self._shortest, None

    def failing(self) -> float:
        """Return for how many s nothing has worked."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def is_over(self) -> bool:
        """Whether the time for another attempt has come."""
        return time.monotonic() >= self._not_before
