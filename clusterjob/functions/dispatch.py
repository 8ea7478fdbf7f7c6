"""Which cluster gets which calls: one has them all at once, several as fast as they make them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from clusterjob.errors import CommandError, StoreError, TransportError
from clusterjob.functions.book import Book, PoolRow
from clusterjob.functions.calls import Call, Tell
from clusterjob.functions.chunks import Pace, first_ones, into_chunks
from clusterjob.functions.sites import Site
from clusterjob.functions.station import Station
from clusterjob.session import Session

_log = logging.getLogger(__name__)
_PAUSES = (
    1.0,
    30.0,
)  # s after a host could not be reached: the shortest, the longest
_LEARNING = 3.0  # s for which it is waited for the first calls of a function


class Dispatch:
    """Calls on their way to the clusters of an executor.

    Its methods are called from the executor's one thread, but for :meth:`withdraw`. ``most`` is how
    many workers each cluster may have.
    """

    def __init__(
        self,
        session: Session,
        book: Book,
        sites: Sequence[Site],
        most: int | None,
        pace: Pace,
        tell: Tell,
    ) -> None:
        self.session = session
        self.book = book
        self.pace = pace
        self._tell = tell
        self.stations = [
            Station(
                session,
                book,
                site,
                most,
                tell,
            )
            for site in sites
        ]
        # for calls that are tried again with more of something, by what that is
        self._others: dict[str, Station] = {}
        self._waiting: deque[Call] = deque()
        self._lock = threading.Lock()
        self._pause = _PAUSES[0]
        self._not_before = 0.0  # on the monotonic clock
        self._learning: tuple[str, float] = "", 0.0  # of what function, since when

    @property
    def all_stations(self) -> list[Station]:
        """The clusters, and those for calls that are tried again."""
        return [*self.stations, *self._others.values()]

    def add(self, calls: Iterable[Call]) -> None:
        """Take calls, to be sent when there is room."""
        with self._lock:
            self._waiting.extend(calls)

    def has_calls(self) -> bool:
        """Whether calls are to be sent."""
        return bool(self._waiting)

    def send(self) -> list[Call]:
        """Send what can be sent; return calls that other programs have sent meanwhile.

        A host that cannot be reached is tried again later. Raises what else goes wrong.
        """
        if time.monotonic() < self._not_before:
            return []
        taken: list[Call] = []
        self._take_from_idle()
        for station in self.all_stations:
            while some := self._next_for(station):
                try:
                    taken += self._send_to(station, some)
                except (TransportError, StoreError) as error:
                    self._put_back(some, error)
                    return taken
                self._pause = _PAUSES[0]
        return taken

    def _put_back(
        self, calls: Sequence[Call], error: TransportError | StoreError
    ) -> None:
        _log.warning("calls cannot be sent now, and will be later: %s", error)
        with self._lock:
            self._waiting.extendleft(reversed(calls))
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _PAUSES[1])

    def _next_for(self, station: Station) -> list[Call]:
        """Return calls for a cluster, as far as it has room."""
        with self._lock:
            own = [
                call for call in self._waiting if self._station_of(call) is station
            ]
            shared = [
                call for call in self._waiting if self._station_of(call) is None
            ]
            if station in self.stations and shared:
                count = min(
                    self._room(station, len(shared)), self._known(station, shared)
                )
                own += shared[:count]
            most = station.burst
            if own:
                most = max(most, own[0].chunksize or 0)
            some = own[:most]
            gone = set(some)
            self._waiting = deque(c for c in self._waiting if c not in gone)
        return some

    def _known(self, station: Station, calls: Sequence[Call]) -> int:
        """Return how many calls may go now: a few, until it is known how long they take, or it
        is clear that they take long.
        """
        count = first_ones(calls, station.most * len(self.stations), self.pace)
        if count >= len(calls):
            return len(calls)
        label, since = self._learning
        now = time.monotonic()
        if label != calls[0].label:
            self._learning = calls[0].label, now
            return count
        return len(calls) if now - since > _LEARNING else 0

    def _room(self, station: Station, count: int) -> int:
        """Return how many of the calls that any cluster may make one should have now."""
        if len(self.stations) == 1:
            return count
        if not station.has_room():
            return 0
        # a few chunks for each worker that may begin soon
        share = -(-count // (4 * len(self.stations)))
        return max(1, share)

    def _station_of(self, call: Call) -> Station | None:
        """Return the cluster that a call must go to, which may be new; None where any will do."""
        if not call.changes:
            return None
        words = json.dumps([call.site, call.changes], sort_keys=True)
        if words not in self._others:
            site = self.stations[call.site].site.changed(call.changes)
            most = self.stations[call.site].most
            self._others[words] = Station(
                self.session, self.book, site, most, self._tell
            )
        return self._others[words]

    def _send_to(self, station: Station, calls: Sequence[Call]) -> list[Call]:
        has_code = any(
            call.function.has_code or (call.arguments and call.arguments.has_code)
            for call in calls
        )
        station.open(has_code)
        station.look_after(len(calls))
        index = self.stations.index(station) if station in self.stations else None
        for call in calls:
            if index is not None:
                call.site = index
            call.station = station
        workers = station.most * len(self.stations)
        behind = len(self._waiting)
        chunks = list(into_chunks(calls, workers, self.pace, behind))
        return station.send(chunks)

    def _take_from_idle(self) -> None:
        """Take calls back from a cluster whose workers wait in its queue, for one whose work."""
        if len(self.stations) == 1 or self._waiting:
            return
        hungry = [
            item for item in self.stations if item.running() and item.has_room()
        ]
        if not hungry:
            return
        for station in self.stations:
            if (
                station.pool is not None
                and station.pool.todo
                and not station.running()
            ):
                calls = list(station.pool.calls.values())
                self.add(station.pool.withdraw(calls))
                return

    def look_after(self) -> None:
        """See that there are workers. Raises :class:`WorkersFailedError`."""
        for station in self.all_stations:
            try:
                station.look_after(0)
            except TransportError as error:
                _log.warning("workers cannot be submitted now: %s", error)

    def end_workers(self) -> None:
        """Cancel all workers, and submit no more."""
        for station in self.all_stations:
            try:
                station.end_workers()
            except CommandError as error:
                _log.warning("workers cannot be cancelled now: %s", error)

    def withdraw(self, calls: Collection[Call]) -> list[Call]:
        """Take calls back that no worker has, and return them."""
        wanted = set(calls)
        with self._lock:
            found = [call for call in self._waiting if call in wanted]
            self._waiting = deque(c for c in self._waiting if c not in wanted)
        rest = [call for call in calls if call not in set(found)]
        for station in self.all_stations:
            if rest and station.pool is not None:
                found += station.pool.withdraw(rest)
        return found

    def clear(self) -> None:
        """Send nothing of what waits."""
        with self._lock:
            self._waiting.clear()

    def rows(self) -> list[PoolRow]:
        """Return the pools that there are."""
        pools = [station.pool for station in self.all_stations]
        return [pool.row for pool in pools if pool is not None]

    def resize(self, most: int) -> None:
        """Have at most so many workers on each cluster from now on."""
        for station in self.all_stations:
            station.resize(most)
