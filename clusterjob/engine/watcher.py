"""Telling people that jobs have ended: one thread, while somebody wants to be told."""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from clusterjob.engine.cluster import Cluster
from clusterjob.errors import ClusterJobError
from clusterjob.store import Record

_log = logging.getLogger(__name__)
_SHORTEST, _LONGEST = 0.02, 5.0  # s between two looks
_PATIENCE = 10.0  # s that stopping waits for a look that goes on
_OUTPUTS = 0.2  # s between two looks at jobs whose outputs are to come


@dataclass(frozen=True, eq=False)
class _Wish:
    """Somebody wants to be told when a job has ended."""

    record: Record
    cluster: Cluster
    callback: Callable[[], object]
    forgotten: Callable[[], object] | None  # called where the watching ends before


class Watcher:
    """Watches jobs, and calls back once each has ended and its outputs have come.

    The thread begins with the first wish, and ends with the last one or with :meth:`stop`.
    """

    def __init__(self) -> None:
        self._wishes: list[_Wish] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self.looking = threading.RLock()  # held while it asks: no moment for a fork
        with _registry:
            _watchers.add(self)

    def forget_parent(self) -> None:
        """In a process that was forked: the thread and the wishes are the parent's."""
        self._wishes, self._thread = [], None
        self._changed = threading.Condition()
        self.looking = threading.RLock()

    def add(
        self,
        record: Record,
        cluster: Cluster,
        callback: Callable[[], object],
        forgotten: Callable[[], object] | None = None,
    ) -> None:
        """Call ``callback`` from the watching thread when the job has ended.

        ``forgotten`` is called in its place where :meth:`stop` comes first.
        """
        with self._changed:
            self._stopped = False
            self._wishes.append(_Wish(record, cluster, callback, forgotten))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name="clusterjob-watcher"
                )
                self._thread.start()
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread; wishes that were not fulfilled are forgotten."""
        with self._changed:
            thread = self._thread
            self._stopped = True
            forgotten, self._wishes = self._wishes, []
            self._changed.notify_all()
        for wish in forgotten:
            if wish.forgotten is not None:
                wish.forgotten()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped or not self._wishes:
                    self._thread = None
                    return
                wishes = list(self._wishes)
            self._look(wishes)
            with self._changed:
                if self._wishes and not self._stopped:
                    self._changed.wait(self._pause())

    def _look(self, wishes: list[_Wish]) -> None:
        """Ask about all jobs, and call back for those that have ended."""
        with self.looking:
            for cluster in dict.fromkeys(wish.cluster for wish in wishes):
                _attempt(cluster.refresh)
            for wish in wishes:
                _attempt(functools.partial(wish.cluster.finish, wish.record))
        ended = [wish for wish in wishes if wish.record.settled]
        told = set(map(id, ended))
        with self._changed:
            if self._stopped:
                return
            self._wishes = [wish for wish in self._wishes if id(wish) not in told]
        for wish in ended:
            try:
                wish.callback()
            except BaseException:  # sys.exit() too: others wait for theirs
                _log.exception("a callback of job %r failed", wish.record.name)

    def _pause(self) -> float:
        pauses = [
            _OUTPUTS if wish.record.finished else wish.cluster.pace.wait_time()
            for wish in self._wishes
        ]
        return min(_LONGEST, max(_SHORTEST, min(pauses)))


def _attempt(step: Callable[[], object]) -> None:
    """Take a step that is tried again with the next look."""
    try:
        step()
    except ClusterJobError as error:
        _log.warning("%s", str(error).partition("\n")[0])


# -- fork ------------------------------------------------------------------------------------------
# A fork (multiprocessing on Linux before Python 3.14) copies locks as they are, but not the threads
# that would open them. So it waits until no watcher of this process is in the middle of a look.

_watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()
_registry = threading.RLock()
_held: list[Watcher] = []


def _before_fork() -> None:
    _registry.acquire()
    _held[:] = list(_watchers)
    for watcher in _held:
        watcher.looking.acquire()


def _after_fork_in_parent() -> None:
    for watcher in _held:
        watcher.looking.release()
    _held.clear()
    _registry.release()


def _after_fork_in_child() -> None:
    for watcher in _held:
        watcher.forget_parent()
    _held.clear()
    _registry.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
