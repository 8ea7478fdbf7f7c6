"""One cluster of an executor: its pool, its workers, and the thread that collects results."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Sequence

from clusterjob.engine import is_gone, process_name
from clusterjob.errors import CallError, ClusterJobError, CommandError, StoreError
from clusterjob.functions.backoff import Backoff
from clusterjob.functions.book import Book, PoolRow
from clusterjob.functions.calls import Call, Tell, Told
from clusterjob.functions.chunks import Chunk
from clusterjob.functions.places import NewFile
from clusterjob.functions.pool import Pool
from clusterjob.functions.sites import Site
from clusterjob.functions.workers import Workers
from clusterjob.session import Session

_log = logging.getLogger(__name__)
_PATIENCE_HERE, _PATIENCE_THERE = 0.25, 5.0  # s that one look for results may take
_PAUSES = (0.5, 10.0)  # s after a look that failed: the shortest, the longest
_SENDING = (1.0, 30.0)  # ... and after calls could not be sent
_BETWEEN = 1.0  # s between two submissions of workers
_ASK = 5.0  # s between two looks at the workers, where results come
# s for which what a worker wrote may be seen later than its end, on a file system of a cluster
_SETTLE = 5.0
_SETTLE_HERE = 0.5
# calls that are sent at a time: a way there costs a round trip, and here the first can begin
_BURST_HERE, _BURST_THERE = 1_000, 10_000
_FAREWELL = 5.0  # s for which workers that were told to end are waited for


def owner_name() -> str:
    """Return a name for a new owner of pools in this process."""
    return f"{process_name()}#{secrets.token_hex(4)}"


def is_free(row: PoolRow) -> bool:
    """Whether the owner of a pool is gone."""
    process, _, _ = row.owner.partition("#")
    return is_gone(process, row.leased, time.time())


class Collector:
    """Looks for results of a pool, in a thread of its own, as long as there are calls."""

    def __init__(self, pool: Pool, patience: float, fail: Tell) -> None:
        self.pool = pool
        self._patience = patience
        self._fail = fail
        self._wanted = threading.Event()
        self._is_over = False
        self._thread: threading.Thread | None = None
        self.last = time.monotonic()  # when something came
        self.error = ""  # why the last look failed

    def wake(self) -> None:
        """Look for results from now on."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, daemon=True, name="clusterjob-calls"
            )
            self._thread.start()
        self._wanted.set()

    def end(self) -> None:
        """Look no more; a look that goes on is waited for, for a moment."""
        self._is_over = True
        self._wanted.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * _PATIENCE_HERE)

    def _run(self) -> None:
        backoff = Backoff(*_PAUSES)
        while not self._is_over:
            if not self.pool.has_open():
                self._wanted.wait()
                self._wanted.clear()
                continue
            try:
                if self.pool.collect(self._patience):
                    self.last = time.monotonic()
                self.error = ""
                backoff.succeed()
            except (CommandError, StoreError) as error:
                if self._is_gone():
                    self._fail_all(_gone_error(self.pool.place.folder))
                    continue
                if not self.error and not self._is_over:
                    _log.warning("results cannot be fetched now: %s", error)
                self.error = str(error)
                time.sleep(backoff.fail())
            except Exception as error:  # nobody would hear of it otherwise
                self._fail_all(error)

    def _is_gone(self) -> bool:
        """Whether somebody deleted the folder."""
        try:
            return not self.pool.place.exists()
        except CommandError:
            return False

    def _fail_all(self, error: Exception) -> None:
        with self.pool.lock:
            calls = list(self.pool.calls.values())
            self.pool.calls.clear()
        self._fail([Told(call, None, error) for call in calls])


def _gone_error(folder: str) -> CallError:
    return CallError(
        f"the folder of the calls was deleted, or a part of it: {folder}. What was remembered of "
        "calls that ended is kept; the same again makes the others"
    )


class Station:
    """One cluster of an executor. It has no pool before the first call.

    Its methods are called from the executor's one thread, but for :meth:`withdraw`.
    """

    def __init__(
        self,
        session: Session,
        book: Book,
        site: Site,
        most: int | None,
        tell: Tell,
    ) -> None:
        self.session = session
        self.book = book
        self.site = site
        self._tell = tell
        self.most = most or site.default_workers()
        self.burst = _BURST_THERE if site.reference.host else _BURST_HERE
        self.owner = owner_name()
        self.pool: Pool | None = None
        self.workers: Workers | None = None
        self.collector: Collector | None = None
        self.sending = Backoff(*_SENDING)
        self.sent = 0.0  # when calls were, on the monotonic clock
        self._submitted = self._asked = 0.0
        self._is_ending = False
        self._settle = _SETTLE

    # -- its pool ----------------------------------------------------------------------------------

    def open(self, has_code: bool) -> Pool:
        """Return the pool: one that an earlier program left, with its workers, or a new one.

        Raises :class:`ClusterJobError`.
        """
        self.site.locate()
        self.site.check_python(has_code)
        if self.pool is None:
            rows = self.book.pools(fingerprint=self.site.fingerprint)
            if not any(map(self.take_over, rows)):
                self.pool = self._make()
        assert self.pool
        return self.pool

    def _make(self) -> Pool:
        row = self.site.new_row(self.owner)
        self.book.add_pool(row)
        place = self.site.place_of(row)
        place.make(self.site.files(row, self.most))
        return self._start(row)

    def take_over(self, row: PoolRow) -> bool:
        """Make an earlier program's pool this one's, where that can be; return whether it is."""
        is_ours = self.pool is None and row.fingerprint == self.site.fingerprint
        if not is_ours or not is_free(row):
            return False
        if not self.book.take_pool(row, self.owner, time.time()):
            return False
        pool = self._start(row)
        if not pool.adopt():
            self.book.forget_pool(row)
            return False
        pool.place.make(self.site.files(row, self.most))
        assert self.workers
        self.workers.restore()
        self.pool = pool
        return True

    def _start(self, row: PoolRow) -> Pool:
        is_here = not self.site.reference.host
        scheduler = self.session.engine.scheduler(self.site.reference)
        self._settle = min(scheduler.backend.limits.settle, _SETTLE)
        if is_here and self.site.reference.name == "local":
            self._settle = _SETTLE_HERE
        pool = Pool(
            row,
            self.site.place_of(row),
            self.book,
            self._tell,
            self._settle,
        )
        self.workers = Workers(
            self.session,
            self.site.job,
            row,
            self.book,
        )
        pool.workers = self.workers
        patience = _PATIENCE_HERE if is_here else _PATIENCE_THERE
        self.collector = Collector(pool, patience, self._tell)
        return pool

    # -- calls -------------------------------------------------------------------------------------

    def send(self, chunks: Sequence[Chunk]) -> list[Call]:
        """Send chunks: see :meth:`Pool.send`."""
        assert self.pool
        assert self.collector
        taken = self.pool.send(chunks)
        self.pool.todo += len(chunks)
        self.sent = time.monotonic()
        self.collector.wake()
        return taken

    def look_after(self, waiting: int, may_submit: bool = True) -> None:
        """See that there are workers for the calls that are sent, and ``waiting`` more.

        Without ``may_submit`` those that there are are looked after.
        Raises :class:`WorkersFailedError`, and whatever a submission does.
        """
        if self.pool is None or self.workers is None or self.collector is None:
            return
        now = time.monotonic()
        is_quiet = now - self.collector.last > _ASK / 5
        between = _ASK / 5 if is_quiet else _ASK
        if self.pool.calls and now - self._asked > between:
            self._asked = now
            self.workers.refresh()
            if may_submit and not self._is_ending:
                self.workers.check(self.pool.listed, self._settle)
        wanted = min(self.most, len(self.pool.calls) + waiting)
        lacking = wanted - self.workers.alive()
        may_submit &= not (self._is_ending or self.workers.is_in_doubt())
        if lacking > 0 and may_submit and now - self._submitted > _BETWEEN:
            self.workers.submit(lacking)
            self._submitted = time.monotonic()

    def resize(self, most: int) -> None:
        """Have at most so many workers from now on; those that are too many end between calls."""
        self.most = most
        if self.pool is not None and self.workers is not None:
            surplus = self.workers.surplus(most)
            if surplus:
                self.pool.place.put(
                    [NewFile("", f"stop-{name}", []) for name in surplus]
                )

    def end_workers(self) -> None:
        """Cancel the workers, and submit no more. Raises :class:`CommandError`."""
        self._is_ending = True
        if self.workers is not None and self.workers.alive():
            self.workers.cancel()

    def running(self) -> int:
        """Return how many workers run, as far as is known."""
        return 0 if self.workers is None else self.workers.running()

    def has_run(self) -> bool:
        """Whether any worker has said that it runs."""
        return self.workers is not None and self.workers.have_run()

    def is_waiting(self) -> bool:
        """Whether calls wait for workers of which none runs."""
        return self.pool is not None and bool(self.pool.todo) and not self.running()

    def has_room(self) -> bool:
        """Whether its workers soon have nothing to do."""
        if self.pool is None or not self.pool.calls:
            return True
        # where none runs yet, a little waits for those that begin
        running = self.running()
        return bool(running) and self.pool.todo < 2 * running

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the workers, and delete the folder, unless calls are on their way."""
        if self.pool is None or self.workers is None or self.collector is None:
            return
        self.collector.end()
        if self.pool.has_open():
            self.book.leave_pool(self.pool.row)
            return
        try:
            if not self.pool.place.exists():
                self.book.forget_pool(self.pool.row)
                return
            self.pool.place.stop()
            self._await_workers()
            if self.workers.alive():
                self.workers.cancel()
            self.pool.place.remove()
            self.book.forget_pool(self.pool.row)
        except ClusterJobError as error:
            _log.warning("a folder of calls is left behind: %s", error)

    def _await_workers(self) -> None:
        """Wait a moment until the workers that run have ended in order."""
        assert self.pool
        assert self.workers
        deadline = time.monotonic() + _FAREWELL
        pause = 0.01
        while time.monotonic() < deadline:
            names = self.pool.place.listing()["workers"]
            self.workers.note(names)
            if not self.workers.are_running(names):
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def leave(self) -> None:
        """Leave the pool, with its calls and workers, to whoever comes next."""
        if self.collector is not None:
            self.collector.end()
        if self.pool is not None:
            with contextlib.suppress(StoreError):
                self.book.leave_pool(self.pool.row)
