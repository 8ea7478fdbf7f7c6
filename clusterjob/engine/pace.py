"""When to ask: quickly at first, then less and less often; and about how many jobs at once."""

from __future__ import annotations

import random
from collections.abc import Callable

from clusterjob.backend import Limits

_GROWTH = 1.5
_JITTER = 0.1
_MOST, _LEAST = 100_000, 20


class Pace:
    """The times at which one cluster may be asked. ``clock`` gives s since the epoch."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.interval = limits.first_poll
        # s that were waited for the poll that is due: an answer that is younger is young enough
        self.waited = limits.first_poll
        self._limits = limits
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether the cluster may be asked now."""
        return self.clock() >= self._due

    def wait_time(self) -> float:
        """Return the seconds until the cluster may be asked again."""
        return max(0.0, self._due - self.clock())

    def begin_poll(self) -> float:
        """Return the interval that this poll stands for; the next one is longer."""
        interval = self.interval
        self.interval = min(self._limits.poll_interval, interval * _GROWTH)
        return interval

    def asked_here(self, interval: float) -> None:
        """The cluster was asked by this process, a moment ago."""
        self.waited = interval
        jitter = 1 + _JITTER * random.random()
        self._due = max(self._due, self.clock() + interval * jitter)

    def asked_elsewhere(self, when: float, interval: float) -> None:
        """The cluster was asked by another process."""
        self.waited = interval
        self._due = when + interval

    def reset_backoff(self) -> None:
        """Begin with short intervals again: jobs were submitted or cancelled."""
        self.interval = self.waited = self._limits.first_poll
        self._due = min(self._due, self.clock() + self.interval)


class BatchSize:
    """How many jobs are asked about, or fetched from, at once: fewer where the line bears fewer."""

    def __init__(self) -> None:
        self.most = _MOST

    def adapt(self, count: int, worked: bool) -> None:
        """Learn from an exchange about ``count`` jobs."""
        if not worked:
            self.most = max(_LEAST, count // 2)
        elif count >= self.most:
            self.most = min(_MOST, self.most + self.most // 4)
