"""Calls that were made before, or are being made: by this program, an earlier one, or another."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from clusterjob.errors import StoreError
from clusterjob.functions.book import Book, CallRow, PoolRow
from clusterjob.functions.calls import Call, Tell, Told
from clusterjob.functions.outcomes import take_in, value_of
from clusterjob.functions.pool import Pool, end_pool
from clusterjob.functions.sites import place_of
from clusterjob.functions.station import Collector, Station, is_free, owner_name
from clusterjob.functions.workers import Workers
from clusterjob.runner import parts_of
from clusterjob.session import Session

_log = logging.getLogger(__name__)
_LOOK = 1.0  # s between two looks at calls that another program waits for


class Reuse:
    """Finds calls in the book, and waits for those that are on their way."""

    def __init__(
        self,
        session: Session,
        book: Book,
        stations: Sequence[Station],
        tell: Tell,
    ) -> None:
        self.session = session
        self.book = book
        self.owner = owner_name()
        self._stations = stations
        self._tell = tell
        self._adopted: dict[
            str, Collector
        ] = {}  # of earlier programs, by their pools
        # calls of other programs that are there, in order
        self._followed: dict[Call, None] = {}
        self._looked = 0.0

    def look_up(self, calls: Sequence[Call]) -> list[Call]:
        """Return the calls that are to be sent; what is known of the others is told."""
        keys = [call.key for call in calls if call.key]
        rows = self.book.calls(keys) if keys else {}
        fresh = []
        count = 0
        for call in calls:
            row = rows.get(call.key)
            if row is None or not self._use(call, row):
                fresh.append(call)
            elif call.is_reused:
                count += 1
        if count:
            _log.info(
                "%d of %d calls were made before; their results are used. cache=False makes "
                "them anew",
                count,
                len(calls),
            )
        return fresh

    def _use(self, call: Call, row: CallRow) -> bool:
        """Use what is known of a call; return False where it is to be made."""
        if row.done is not None:
            return self._use_result(call, row)
        collector = self._collector_of(row.pool)
        if collector is not None:
            if call.key in collector.pool.unremembered:
                self.book.forget([call.key])
                collector.pool.unremembered.discard(call.key)
                return False
            return self._attach(collector, call, row)
        pools = self.book.pools(id=row.pool)
        if not pools:
            self.book.forget([call.key])
            return False
        if not is_free(pools[0]):
            self._followed[call] = None
            return True
        for station in self._stations:
            if station.take_over(pools[0]) and station.collector is not None:
                return self._attach(station.collector, call, row)
        return self._adopt(pools[0], call, row)

    def _collector_of(self, pool: str) -> Collector | None:
        """Return who looks for the results of a pool; None where nobody here does."""
        for station in self._stations:
            if station.pool is not None and station.pool.row.id == pool:
                return station.collector
        return self._adopted.get(pool)

    def _use_result(self, call: Call, row: CallRow) -> bool:
        assert row.said
        try:
            found = self.book.value(row)
        except StoreError as error:
            self._tell([Told(call, None, error)])
            return True
        if found is None:
            self.book.forget([call.key])
            return False
        header, body = found
        parts, _ = parts_of(header, body)
        call.is_reused = True
        take_in(call, row.said)
        said = {**row.said, "v": header}
        try:
            told = Told(call, value_of(said, parts, call))
        except Exception as error:  # what it needs cannot be imported here
            told = Told(call, None, error)
        self._tell([told])
        return True

    def _attach(self, collector: Collector, call: Call, row: CallRow) -> bool:
        call.is_attached = True
        if collector.pool.attach(call, row.number):
            collector.wake()
            return True
        # its result has come since it was looked up
        self._followed[call] = None
        self._looked = 0.0
        return True

    def _adopt(self, found: PoolRow, call: Call, row: CallRow) -> bool:
        """Take over the pool of a program that is gone, to collect what comes of its calls."""
        if not self.book.take_pool(found, self.owner, time.time()):
            self._followed[call] = None
            return True
        place = place_of(self.session, found)
        pool = Pool(found, place, self.book, self._tell)
        if not pool.adopt():
            self.book.forget_pool(found)
            return False
        workers = Workers(self.session, None, found, self.book)
        workers.restore()
        pool.workers = workers
        collector = Collector(pool, 1.0, self._tell)
        self._adopted[found.id] = collector
        return self._attach(collector, call, row)

    # -- later -------------------------------------------------------------------------------------

    def look_again(self) -> list[Call]:
        """Look at calls of other programs, where that is due; return those that are to be sent."""
        if not self._followed or time.monotonic() - self._looked < _LOOK:
            return []
        self._looked = time.monotonic()
        calls = list(self._followed)
        self._followed.clear()
        try:
            return self.look_up(calls)
        except StoreError:
            self._followed.update(dict.fromkeys(calls))
            raise

    def look_after(self) -> list[Call]:
        """See to pools of earlier programs: return calls that nobody there will make."""
        idle = []
        for collector in self._adopted.values():
            pool = collector.pool
            assert pool.workers
            if pool.calls:
                pool.workers.refresh()
            if pool.calls and not pool.workers.alive():
                with pool.lock:
                    calls = list(pool.calls.values())
                idle += pool.withdraw(calls)
        return idle

    def pools(self) -> list[PoolRow]:
        """Return the pools that were taken over."""
        return [collector.pool.row for collector in self._adopted.values()]

    def withdraw(self, calls: Sequence[Call]) -> list[Call]:
        """Take calls back that no worker of an earlier program has taken."""
        found = [call for call in calls if call in self._followed]
        for call in found:
            del self._followed[call]
        for collector in self._adopted.values():
            found += collector.pool.withdraw(calls)
        return found

    def close(self) -> None:
        """Leave pools of earlier programs, or end those that have no more calls."""
        for collector in self._adopted.values():
            collector.end()
            if collector.pool.has_open():
                self.book.leave_pool(collector.pool.row)
                continue
            end_pool(collector.pool.place, self.book, collector.pool.row)
