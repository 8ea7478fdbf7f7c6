"""An executor whose calls are made by workers on a cluster."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from clusterjob.engine import BEAT
from clusterjob.errors import (
    CallError,
    ClusterJobError,
    SettingsError,
    StoreError,
    WorkersFailedError,
)
from clusterjob.functions.attempts import begin_next_attempt, delay_of
from clusterjob.functions.backoff import Backoff
from clusterjob.functions.book import book_of
from clusterjob.functions.calls import Call, CallFuture, Told
from clusterjob.functions.chunks import Pace
from clusterjob.functions.dispatch import Dispatch
from clusterjob.functions.identity import Identities
from clusterjob.functions.leftovers import remove_empty_pools
from clusterjob.functions.making import Prepared, Preparer
from clusterjob.functions.mapping import Arguments, MapOptions, Mapped, Rows
from clusterjob.functions.reuse import Reuse
from clusterjob.functions.sites import make_sites
from clusterjob.retry import Retry
from clusterjob.script import default_session
from clusterjob.session import Session

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from clusterjob.script import JobSettings

Argument = ParamSpec("Argument")
Value = TypeVar("Value")
_log = logging.getLogger(__name__)
_ROUND = 0.5  # s between two looks at what is to be done, where nothing is asked for
_SOON = 0.1  # ... where calls wait to be sent
_BURST = 10_000  # calls that are sent at a time
_GATHER = 0.005  # s in which more calls may come before the first are sent
# items that are read ahead: at least, for each worker
_LEAST_AHEAD, _AHEAD = 1000, 100
# s after the store could not be used: the shortest, the longest
_PAUSES = (0.5, 30.0)
_PATIENCE = 300.0  # s for which a store may be unusable before all calls fail
_LAST = 10.0  # s that may go by at the end of a program, to send what was submitted
_alive: weakref.WeakSet[ClusterExecutor] = weakref.WeakSet()


class ClusterExecutor(Executor):
    """Calls functions in jobs: a :class:`concurrent.futures.Executor`.

    ``profile`` is an INI file that says where, or ``profiles`` several, which share the calls;
    without one calls are made on this machine. Other keywords are those of :class:`JobSettings`,
    and ``options`` those of the scheduler's own: what *one worker* asks for. Workers are elements
    of job arrays, at most ``max_workers`` at a time (by default the cores of this machine, or 32),
    which take calls until none has come for ``idle`` seconds (60; 2 where the embedded scheduler
    has the cores).

    A call that was made before, with the same function, arguments and cluster, gives its result of
    then, unless ``cache`` is False; ``version`` is a text or number that makes calls others.
    ``retry`` says which failures are tried again: see :class:`Retry`. ``include`` are modules of
    your own that are sent along, by name or path.

    Futures are :class:`CallFuture`. Use it in ``with``, which waits for all calls; after Ctrl-C it
    does not, and workers go on: the same program picks the results up. Raises
    :class:`SettingsError`; what goes wrong later is raised by the futures.

    ::

        with ClusterExecutor("cluster.ini", max_workers=50, mem="2G", time="1h") as executor:
            futures = [executor.submit(simulate, T, steps=1000) for T in range(10, 100)]
            print([future.result() for future in futures])
    """

    _by_key: weakref.WeakValueDictionary[str, Call]
    _is_ending = False  # workers are cancelled
    _is_shut_down = False
    _is_over = False
    _thread: threading.Thread | None = None
    _closer: threading.Thread | None = None  # after shutdown(wait=False)

    def __init__(
        self,
        profile: str | os.PathLike[str] | None = None,
        *,
        profiles: Sequence[str | os.PathLike[str]] = (),
        max_workers: int | None = None,
        idle: float | None = None,
        include: Iterable[str | os.PathLike[str]] = (),
        cache: bool = True,
        version: str | int | None = None,
        retry: Retry | None = None,
        session: Session | None = None,
        options: dict[str, object] | None = None,
        **settings: Unpack[JobSettings],
    ) -> None:
        _check(max_workers, idle, retry)
        self._session = session or default_session()
        self._book = book_of(self._session.store)
        sites = make_sites(
            self._session,
            profile,
            profiles,
            settings,
            options or {},
            include,
            idle,
        )
        self._pace = Pace()
        self._state = threading.Condition()
        self._sending = threading.RLock()
        self._dispatch = Dispatch(
            self._session, self._book, sites, max_workers, self._pace, self._tell
        )
        self._cache = cache
        self._retry = retry
        identities = Identities.at(sites, version)
        self._preparer = Preparer(identities if cache else None)
        self._reuse = Reuse(
            self._session, self._book, self._dispatch.stations, self._tell
        )
        self._pending: deque[Call] = deque()
        self._later: list[tuple[float, Call]] = []  # when to be tried again, what
        self._open: set[Call] = set()
        self._by_key = weakref.WeakValueDictionary()
        self._broken: BaseException | None = None
        self._created = time.time()
        self._leased = time.monotonic()
        self._process = os.getpid()
        _alive.add(self)

    @property
    def is_usable(self) -> bool:
        """Whether it takes calls from this process."""
        is_open = not self._is_shut_down and self._broken is None
        return is_open and os.getpid() == self._process

    def start_over(self) -> None:
        """Count equal calls from one again: those of before are found."""
        self._preparer.start_over()

    @property
    def max_workers(self) -> int:
        """How many workers there may be at a time on each cluster; it may be changed."""
        return self._dispatch.stations[0].most

    @max_workers.setter
    def max_workers(self, most: int) -> None:
        """Have more of them, or fewer: those that are too many end when they have told."""
        _check(most, None, None)
        self._dispatch.resize(most)
        self._wake()

    # -- calls -------------------------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[Argument, Value],
        /,
        *args: Argument.args,
        **kwargs: Argument.kwargs,
    ) -> CallFuture[Value]:
        """Have ``fn(*args, **kwargs)`` called, and return its future.

        What cannot be pickled is raised by the future. Raises :class:`SettingsError` for what is no
        function, or cannot travel, and RuntimeError after :meth:`shutdown`.
        """
        (future,) = self.submit_all(fn, [(args, kwargs)])
        return future

    def submit_all(
        self,
        fn: Callable[..., Value],
        arguments: Iterable[Arguments],
        chunksize: int | None = None,
    ) -> list[CallFuture[Value]]:
        """Have a function called once for each pair of arguments; return the futures in order.

        The function is taken as it is now. ``chunksize`` is how many calls a worker takes at a
        time, at least; by default that follows from how long the first ones take.
        """
        return self._submit_prepared(self._prepared(fn), arguments, chunksize)

    def _prepared(self, fn: Callable[..., object]) -> Prepared:
        self._check_open()
        if self._thread is None:
            # the first calls: a store that cannot be used is an error at once
            self._session.store.notes("calls")
            self._book.check()
        return self._preparer.function(fn)

    def _submit_prepared(
        self,
        prepared: Prepared,
        arguments: Iterable[Arguments],
        chunksize: int | None = None,
    ) -> list[CallFuture[Any]]:
        self._check_open()
        calls = self._preparer.calls(prepared, arguments, self)
        for call in calls:
            call.chunksize = chunksize
        self._enqueue([call for call in calls if call.arguments is not None])
        return [call.future for call in calls]

    def _check_open(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(
                "this executor is of the process that was forked: make one in this process"
            )
        if self._broken is not None:
            raise self._broken
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _enqueue(self, calls: Sequence[Call]) -> None:
        with self._state:
            fresh = [call for call in calls if not self._is_twin(call)]
            self._open.update(fresh)
            self._pending.extend(fresh)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name="clusterjob-executor"
                )
                self._thread.start()
            self._state.notify_all()

    def _is_twin(self, call: Call) -> bool:
        """Whether the same call is on its way, by another map; then its result is both's."""
        first = self._by_key.setdefault(call.key, call) if call.key else call
        if first is call or first.is_told:
            self._by_key[call.key] = call
            return False
        call.is_reused = True
        first.future.add_done_callback(lambda future: _copy(future, call))
        return True

    def map(
        self,
        fn: Callable[..., Value],
        /,
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: bool = False,
    ) -> Iterator[Value]:
        """Call a function with an item of each iterable, as far as the shortest goes; yield the
        results in order.

        What has a length is read at once; of other iterables at most ``buffersize`` items are read
        ahead, by default some hundred for each worker. A worker takes at least ``chunksize`` calls
        at a time, and more where they are short. After ``timeout`` seconds the iterator raises
        TimeoutError. With ``return_exceptions`` it yields what a call raised in its place,
        and goes on. An iterator that is given up cancels what was not begun.
        """
        rows = Rows.zipped(iterables)
        options = MapOptions(timeout, chunksize, buffersize, progress)
        return self.map_rows(fn, rows, options).in_order(return_exceptions)

    def map_rows(
        self, fn: Callable[..., Value], rows: Rows, options: MapOptions
    ) -> Mapped[Value]:
        """Have a function called for each row of arguments: see :meth:`map`."""
        ahead = options.buffersize
        if ahead is None and rows.length is None:
            ahead = max(_LEAST_AHEAD, _AHEAD * self.max_workers)
        prepared = self._prepared(fn)
        submit = functools.partial(
            self._submit_prepared, prepared, chunksize=options.chunksize
        )
        return Mapped(submit, rows, ahead, options)

    # -- the thread that sends ---------------------------------------------------------------------

    def _wake(self) -> None:
        with self._state:
            self._state.notify_all()

    def _run(self) -> None:
        """Send calls, and see to workers, until all is over."""
        backoff = Backoff(*_PAUSES)
        while True:
            with self._state:
                if not self._pending and not self._is_over:
                    self._state.wait(self._patience())
                if self._is_over:
                    return
            try:
                with self._sending:
                    self._round()
                backoff.succeed()
            except StoreError as error:
                if backoff.failing() > _PATIENCE:
                    self._fail(error)
                    continue
                _log.warning("calls wait for the store: %s", error)
                time.sleep(backoff.fail())
            except Exception as error:  # nobody would hear of it otherwise
                self._fail(error)

    def _patience(self) -> float | None:
        """Return the s until it is worth looking again; None for as long as nothing is asked."""
        if self._dispatch.has_calls():
            return _SOON
        return _ROUND if self._open else None

    def _round(self) -> None:
        if self._is_ending:
            self._end_all()
        self._take_due()
        time.sleep(_GATHER)
        while calls := self._next_burst():
            self._dispatch.add(self._look_up(calls))
            self._send()
        self._dispatch.add(self._reuse.look_again())
        if self._open:
            self._dispatch.add(self._reuse.look_after())
            self._send()
            self._dispatch.look_after()
        self._lease()

    def _end_all(self) -> None:
        """Cancel calls that nobody has begun, and workers."""
        self._cancel(list(self._open))
        self._dispatch.end_workers()

    def _look_up(self, calls: Sequence[Call]) -> list[Call]:
        """Return the calls that are to be sent. Raises :class:`StoreError`; then all wait."""
        try:
            return self._reuse.look_up(calls)
        except StoreError:
            with self._state:
                self._pending.extendleft(reversed(calls))
            raise

    def _send(self) -> None:
        """Send calls; those that another program has sent meanwhile are its."""
        while taken := self._dispatch.send():
            self._dispatch.add(self._look_up(taken))

    def _next_burst(self) -> list[Call]:
        with self._state:
            count = min(len(self._pending), _BURST)
            return [self._pending.popleft() for _ in range(count)]

    def _take_due(self) -> None:
        """Take what is to be tried again now."""
        with self._state:
            now = time.monotonic()
            due = [call for when, call in self._later if when <= now]
            self._later = [item for item in self._later if item[0] > now]
            self._pending.extend(due)

    def _lease(self) -> None:
        """Say that the owner of the pools is there."""
        if time.monotonic() - self._leased < BEAT:
            return
        self._leased = time.monotonic()
        rows = [*self._dispatch.rows(), *self._reuse.pools()]
        self._book.lease(rows, time.time())

    def _fail(self, error: Exception) -> None:
        """Tell all calls that they cannot be made, and leave none of them to workers."""
        if isinstance(error, WorkersFailedError):
            self._broken = error
        with self._state:
            calls = list(self._open)
            self._pending.clear()
            self._later.clear()
        self._dispatch.clear()
        try:
            self._dispatch.withdraw(calls)
        except ClusterJobError as trouble:
            _log.warning("calls that failed may be made later: %s", trouble)
        for call in calls:
            call.is_attached = False  # what has failed is no attempt of before
        self._tell([Told(call, None, error) for call in calls])

    # -- what becomes of calls ---------------------------------------------------------------------

    def _tell(self, told: Sequence[Told]) -> None:
        """Take in what became of calls. It is called from the threads that collect."""
        is_news = False
        for call, _, error, _ in told:
            if error is None and not call.is_reused:
                is_news |= self._pace.note(call.label, call.seconds or 0.0)
        if is_news:
            self._wake()
        ended = [item for item in told if not self._is_tried_again(item)]
        with self._state:
            own = [item for item in ended if item.call in self._open]
            self._open.difference_update(item.call for item in own)
        for call, value, error, _ in own:
            if call.is_told:  # two results came, of which the first counts
                continue
            future = call.future
            if not future.running() and not future.set_running_or_notify_cancel():
                continue
            call.let_go()
            try:
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)
            except BaseException:  # a callback's, which must not end this thread
                _log.exception("a callback of %r failed", future)
        with self._state:
            if not self._open:
                self._state.notify_all()

    def _is_tried_again(self, told: Told) -> bool:
        """Put a call that failed where it waits for its next attempt, if there is to be one."""
        call, _, error, _ = told
        if error is None or call.arguments is None or call.is_told:
            return False
        if call.is_attached and self._is_of_before(call):
            call.is_attached = False
            with self._state:
                self._pending.append(call)
                self._state.notify_all()
            return True
        own = self._dispatch.stations[call.site].site.record.spec.resources
        if self._retry is None or not begin_next_attempt(self._retry, told, own):
            return False
        when = time.monotonic() + delay_of(self._retry)
        with self._state:
            self._later.append((when, call))
            self._state.notify_all()
        return True

    def _is_of_before(self, call: Call) -> bool:
        """Whether a call failed before this executor was there, or was not even sent."""
        if call.started is None or call.seconds is None:
            return True
        return call.started + call.seconds < self._created

    def withdraw(self, calls: Iterable[Call]) -> list[Call]:
        """Take calls back that nobody has begun, and return them; see :meth:`CallFuture.cancel`."""
        wanted = list(calls)
        with self._state:
            waiting = {*self._pending, *(call for _, call in self._later)}
            found = [call for call in wanted if call in waiting]
            gone = set(found)
            self._pending = deque(c for c in self._pending if c not in gone)
            self._later = [item for item in self._later if item[1] not in gone]
        rest = [call for call in wanted if call not in gone]
        if rest:
            found += self._dispatch.withdraw(rest)
            found += self._reuse.withdraw(rest)
        with self._state:
            self._open.difference_update(found)
            if not self._open:
                self._state.notify_all()
        return found

    def read_log(self, call: Call, stream: str) -> str:
        """Return what a call has printed: see :meth:`CallFuture.stdout`."""
        start, end, text = call.logs.get(stream, (0, 0, ""))
        if call.seconds is not None and end - start <= len(text.encode()):
            return text
        pool = None if call.station is None else call.station.pool
        if pool is None or not call.worker:
            return text
        name = f"{call.worker}.{stream}"
        last = end if call.seconds is not None else None
        found = pool.place.read_log(name, start, last)
        return found.decode("utf-8", "replace") or text

    # -- the end -----------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with ``wait``, until all have come to an end, and end the workers.

        Without it the calls that were submitted are made all the same. ``cancel_futures`` cancels
        those that no worker has.
        """
        with self._state:
            self._is_shut_down = True
            calls = list(self._open)
        if cancel_futures:
            self._cancel(calls)
            with self._sending:  # what was being sent is there now
                self._cancel(calls)
        if wait:
            with self._state:
                self._state.wait_for(lambda: not self._open)
            self._close()
            return
        self._closer = threading.Thread(
            target=self.shutdown, daemon=True, name="clusterjob-shutdown"
        )
        self._closer.start()

    def _cancel(self, calls: Iterable[Call]) -> None:
        for call in self.withdraw(calls):
            call.future.note_cancelled()

    def _close(self) -> None:
        """End the threads and the workers."""
        with self._state:
            if self._is_over:
                return
            self._is_over = True
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join()
        for station in self._dispatch.all_stations:
            station.close()
        self._reuse.close()
        for station in self._dispatch.stations:
            # another host is not asked for this alone
            if station.pool is not None or not station.site.reference.host:
                fingerprint = station.site.fingerprint
                remove_empty_pools(self._session, self._book, fingerprint)
        self._book.close()

    def end_workers(self) -> None:
        """Cancel the jobs of all workers: what they are at fails, and nothing else is begun."""
        self._is_ending = True
        self._wake()

    def close(self) -> None:
        """End the workers, where no call is on its way; else leave them to go on."""
        if os.getpid() != self._process:
            return
        if self._closer is not None and not self._open:
            self._closer.join(_LAST)
        if self._is_over:
            return
        if self._open:
            self.leave()
            return
        self._is_shut_down = True
        self._close()

    def leave(self) -> None:
        """Wait for nothing more: workers go on with the calls that were sent.

        The same program picks the results up when it is run again.
        """
        with self._state:
            self._is_shut_down = True
            self._state.notify_all()
            self._state.wait_for(lambda: not self._pending, _LAST)
            self._is_over = True
            count = len(self._open)
            self._state.notify_all()
        if self._thread is not None:
            self._thread.join(_LAST)
        for station in self._dispatch.all_stations:
            station.leave()
        if count and self._cache:
            _log.warning(
                "%d calls have not ended: what was sent is made by workers that go on. Run the "
                "same again to get the results",
                count,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit)):
            self.leave()
            return
        self.shutdown(wait=True)


def _copy(future: Future[Any], call: Call) -> None:
    """Give a call what became of the same one."""
    if not call.future.set_running_or_notify_cancel():
        return
    error = None if future.cancelled() else future.exception()
    if future.cancelled():
        call.future.set_exception(CallError(f"{call.title} was cancelled elsewhere"))
    elif error is not None:
        call.future.set_exception(error)
    else:
        call.future.set_result(future.result())


def _check(max_workers: int | None, idle: float | None, retry: Retry | None) -> None:
    if max_workers is not None and (
        isinstance(max_workers, bool)
        or not isinstance(max_workers, int)
        or max_workers < 1
    ):
        raise ValueError(
            f"max_workers must be greater than 0, and a whole number; it is {max_workers!r}"
        )
    is_number = isinstance(idle, (int, float)) and not isinstance(idle, bool)
    if idle is not None and not (is_number and idle >= 0):
        raise SettingsError(f"idle = {idle!r}: expected seconds")
    if retry is not None and not isinstance(retry, Retry):
        raise SettingsError(f"retry = {retry!r}: expected a Retry, or None")


@atexit.register
def _leave_all() -> None:
    """Leave the calls that are on their way to workers, at the end of the program."""
    for executor in list(_alive):
        executor.close()
