"""Waiting for many jobs: rounds of looking, as often as their clusters may be asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from clusterjob.engine import Cluster
from clusterjob.errors import first_of
from clusterjob.store import Record

_log = logging.getLogger(__name__)
_SHORTEST_PAUSE = 0.005  # s between two rounds
_OUTPUTS = 0.2  # s between two looks at jobs whose outputs are to come


class Handle(Protocol):
    """What is waited for."""

    @property
    def record(self) -> Record: ...

    @property
    def cluster(self) -> Cluster: ...

    def refresh(self) -> None: ...


AnyHandle = TypeVar("AnyHandle", bound=Handle)


def rounds(
    handles: Sequence[AnyHandle], timeout: float | None
) -> Iterator[list[AnyHandle]]:
    """Yield the handles whose jobs have ended since the last round.

    Until none is left or ``timeout`` seconds are over; None for as long as it takes.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    left = list(handles)
    _warn_of_held(left)
    while left:
        for cluster in dict.fromkeys(handle.cluster for handle in left):
            cluster.refresh()
            cluster.look_at_held()
        for handle in left:
            if handle.record.finished:
                handle.refresh()
        ended = [handle for handle in left if handle.record.settled]
        if ended:
            left = [handle for handle in left if not handle.record.settled]
            yield ended
        if not left:
            return
        pause = min(map(_pause_of, left))
        if deadline is not None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            pause = min(pause, remaining)
        time.sleep(max(_SHORTEST_PAUSE, pause))


def _warn_of_held(handles: Sequence[Handle]) -> None:
    """Say so where all that is left to wait for is let go by campaigns alone."""
    held = [handle.record for handle in handles if handle.record.is_held]
    if held and len(held) == len(handles):
        campaigns = list(dict.fromkeys(repr(record.campaign) for record in held))
        _log.warning(
            "all %d jobs are held: they begin when the campaign %s is driven (run(), or "
            "'clusterjob campaign continue')",
            len(held),
            first_of(campaigns, 3),
        )


def _pause_of(handle: Handle) -> float:
    """Return the seconds until it is worth looking again."""
    shortest = _OUTPUTS if handle.record.finished else 0.0
    return max(handle.cluster.pace.wait_time(), shortest)
