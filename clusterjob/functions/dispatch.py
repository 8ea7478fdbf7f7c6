"""Which cluster gets which calls: one has them all at once, several as fast as they make them."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from clusterjob.errors import (
    ClusterJobError,
    CommandError,
    StoreError,
    TransportError,
)
from clusterjob.functions.book import Book, PoolRow
from clusterjob.functions.calls import Call, Tell
from clusterjob.functions.chunks import Pace, first_ones, into_chunks
from clusterjob.functions.sites import Site
from clusterjob.functions.station import Station
from clusterjob.session import Session

_log = logging.getLogger(__name__)
_LEARNING = 3.0  # s for which it is waited for the first calls of a function
_HUNGRY, _UNTRIED, _OTHER = range(3)  # clusters, in the order in which they get calls


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
        self._passed_over: list[Station] = []  # of several, those that made an error
        self._waiting: deque[Call] = deque()
        self._lock = threading.Lock()
        self._learning: tuple[str, float] = "", 0.0  # of what function, since when

    @property
    def all_stations(self) -> list[Station]:
        """The clusters, and those for calls that are tried again."""
        return [*self.stations, *self._others.values()]

    @property
    def live_stations(self) -> list[Station]:
        """The clusters that any call may go to."""
        return [item for item in self.stations if item not in self._passed_over]

    def add(self, calls: Iterable[Call]) -> None:
        """Take calls, to be sent when there is room."""
        with self._lock:
            self._waiting.extend(calls)

    def has_calls(self) -> bool:
        """Whether calls are to be sent."""
        return bool(self._waiting)

    def send(self) -> list[Call]:
        """Send what can be sent; return calls that other programs have sent meanwhile.

        A host that cannot be reached is tried again later. Raises :class:`StoreError`, and what
        else goes wrong where there is no other cluster.
        """
        taken: list[Call] = []
        self._take_from_idle()
        live = sorted(self.live_stations, key=_eagerness)
        for station in [*live, *self._others.values()]:
            taken += self._send_some(station)
        return taken

    def _send_some(self, station: Station) -> list[Call]:
        """Send what there is for a cluster; return calls that other programs have sent."""
        taken: list[Call] = []
        while station.sending.is_over() and (some := self._next_for(station)):
            try:
                taken += self._send_to(station, some)
                station.sending.succeed()
            except StoreError:
                self._put_back([*taken, *some])
                raise
            except TransportError as error:
                words = "calls cannot be sent to %s now, and will be later: %s"
                _log.warning(words, station.site.name, error)
                self._put_back(some)
                station.sending.fail()
            except ClusterJobError as error:
                self._put_back(some)
                self._pass_over(station, error)
                break
        return taken

    def _put_back(self, calls: Sequence[Call]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(calls))

    def _pass_over(self, station: Station, error: ClusterJobError) -> None:
        """Send nothing more to a cluster. Raises the error where there is no other one."""
        others = [item for item in self.live_stations if item is not station]
        if station not in self.stations or not others:
            raise error
        _log.warning(
            "%s gets no more calls, which go to the other clusters: %s",
            station.site.name,
            error,
        )
        self._passed_over.append(station)
        if station.pool is not None:
            with contextlib.suppress(CommandError):  # it is tried again
                self.add(station.pool.withdraw(list(station.pool.calls.values())))

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
        count = first_ones(calls, station.most * len(self.live_stations), self.pace)
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
        if len(self.live_stations) == 1:
            return count
        if not station.has_room():
            return 0
        # a few chunks for each worker that may begin soon
        share = -(-count // (4 * len(self.live_stations)))
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
        workers = station.most * len(self.live_stations)
        behind = len(self._waiting)
        chunks = list(into_chunks(calls, workers, self.pace, behind))
        return station.send(chunks)

    def _take_from_idle(self) -> None:
        """Take calls back from a cluster whose workers wait in its queue, for one whose work, or
        that was not tried.
        """
        if len(self.stations) == 1 or self._waiting:
            return
        kinds = set(map(_eagerness, self.live_stations))
        for station in self.stations:
            has_waited = time.monotonic() - station.sent > _LEARNING
            is_wanted = _HUNGRY in kinds or (has_waited and _UNTRIED in kinds)
            if is_wanted and station.is_waiting() and station.pool is not None:
                calls = list(station.pool.calls.values())
                self.add(station.pool.withdraw(calls))
                return

    def look_after(self) -> None:
        """See that there are workers. Raises :class:`ClusterJobError` where they cannot be, and
        there is no other cluster.
        """
        for station in self.all_stations:
            try:
                station.look_after(0, may_submit=station not in self._passed_over)
            except TransportError as error:
                _log.warning("workers cannot be submitted now: %s", error)
            except StoreError:
                raise
            except ClusterJobError as error:
                self._pass_over(station, error)

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


def _eagerness(station: Station) -> int:
    """Return how soon a cluster will make a call, as far as is known."""
    if station.pool is None:
        return _UNTRIED
    return _HUNGRY if station.has_run() and station.has_room() else _OTHER
