"""A process on a cluster, with the interface of :class:`multiprocessing.Process`."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clusterjob.errors import CallError, ClusterJobError, SettingsError
from clusterjob.functions.calls import CallFuture
from clusterjob.functions.executor import ClusterExecutor
from clusterjob.functions.outcomes import RemoteTraceback
from clusterjob.runner import ProcessBase
from clusterjob.session import Session
from clusterjob.status import Reason

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from clusterjob.script import JobSettings

_numbers = itertools.count(1)


class Process(ProcessBase):
    """A call of ``target`` in a job of its own: :class:`multiprocessing.Process` on a cluster.

    ``profile`` says where; other keywords are those of :class:`JobSettings`: what the job asks for.
    A derived class may have a ``run`` of its own; its attributes travel, and what it changes in
    them there is not seen here. What it returns is :meth:`result`. Raises :class:`SettingsError`.

    ::

        process = Process(target=simulate, args=(20,), profile="cluster.ini", time="1h")
        process.start()
        process.join()
        print(process.exitcode, process.result())
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[object] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        daemon: bool | None = None,
        profile: str | os.PathLike[str] | None = None,
        include: Iterable[str | os.PathLike[str]] = (),
        session: Session | None = None,
        options: dict[str, object] | None = None,
        **settings: Unpack[JobSettings],
    ) -> None:
        if group is not None:
            raise SettingsError("group: expected None, as multiprocessing does")
        super().__init__(
            target,
            name or f"Process-{next(_numbers)}",
            args,
            kwargs,
        )
        self.daemon = bool(daemon)
        self._here = _Here()
        self._given: dict[str, Any] = {
            **settings,
            "profile": profile,
            "include": include,
            "session": session,
            "options": options,
        }

    def __getstate__(self) -> dict[str, object]:
        """Return what travels: not how the process is run."""
        own = dict(self.__dict__)
        del own["_here"], own["_given"]
        return own

    def start(self) -> None:
        """Submit the job. May be called once; raises AssertionError the second time."""
        assert self._here.future is None, "cannot start a process twice"
        executor = ClusterExecutor(
            max_workers=1, idle=0.0, cache=False, **self._given
        )
        self._here.executor = executor
        if type(self).run is Process.run and self._target is not None:
            future = executor.submit(self._target, *self._args, **self._kwargs)
        else:
            future = executor.submit(type(self).run, self)
        executor.shutdown(wait=False)
        if future.done() and not isinstance(future.exception(), ClusterJobError):
            future.result()  # it cannot be pickled
        self._here.future = future

    def _check_open(self) -> None:
        if self._here.is_closed:
            raise ValueError("process object is closed")

    def _started(self) -> CallFuture[Any]:
        self._check_open()
        if self._here.future is None:
            raise AssertionError("can only be used on a process that was started")
        return self._here.future

    def join(self, timeout: float | None = None) -> None:
        """Wait until the function has ended, for so many seconds at most."""
        concurrent.futures.wait([self._started()], timeout)

    def is_alive(self) -> bool:
        """Return whether it was started, and has not ended."""
        self._check_open()
        return self._here.future is not None and not self._here.future.done()

    @property
    def exitcode(self) -> int | None:
        """0 where the function returned, 1 where it raised, what it gave ``sys.exit``, minus the
        number of the signal that ended it; None before the end.
        """
        self._check_open()
        future = self._here.future
        if future is None or not future.done():
            return None
        if future.cancelled():
            return -signal.SIGTERM
        error = future.exception()
        if error is None:
            return 0
        if isinstance(error, CallError):
            if error.exit_code is not None:
                return error.exit_code
            if error.reason in (Reason.CANCELLED, Reason.TIMEOUT):
                return -signal.SIGTERM
            if error.reason in (Reason.OUT_OF_MEMORY, Reason.SIGNAL):
                return -signal.SIGKILL
        return 1

    def result(self, timeout: float | None = None) -> object:
        """Wait, and return what the function returned, or raise what it raised."""
        return self._started().result(timeout)

    def stdout(self) -> str:
        """Return what it has printed."""
        return self._started().stdout()

    def stderr(self) -> str:
        """Return what it has printed to standard error, and the traceback where it raised."""
        future = self._started()
        error = None
        if future.done() and not future.cancelled():
            error = future.exception()
        cause = error.__cause__ if error is not None else None
        trace = cause.trace if isinstance(cause, RemoteTraceback) else ""
        return future.stderr() + trace

    def terminate(self) -> None:
        """End it: its job is cancelled. Raises :class:`CommandError`."""
        if self._started().done() or self._started().cancel():
            return
        assert self._here.executor
        self._here.executor.end_workers()

    kill = terminate

    def close(self) -> None:
        """Do nothing more with it. Raises ValueError while it runs, as multiprocessing does."""
        if self.is_alive():
            raise ValueError("cannot close a process that runs: join or terminate it")
        self._here.is_closed = True

    @property
    def pid(self) -> None:
        """None: what runs is elsewhere. See :attr:`job_id`."""
        return

    ident = pid

    @property
    def job_id(self) -> str | None:
        """The scheduler's id of its job, as soon as it runs."""
        return None if self._here.future is None else self._here.future.job_id

    @property
    def sentinel(self) -> int:
        """There is none. Raises :class:`ClusterJobError`."""
        raise ClusterJobError(
            "a process on a cluster has no sentinel to wait for: use join(timeout), or "
            "concurrent.futures.wait([process.future for process in processes])"
        )

    @property
    def future(self) -> CallFuture[object]:
        """The future of its call."""
        return self._started()

    def __repr__(self) -> str:
        state = "closed" if self._here.is_closed else "initial"
        if not self._here.is_closed and self._here.future is not None:
            state = "started" if self.is_alive() else f"stopped {self.exitcode}"
        return f"<{type(self).__name__} {self.name!r} {state}>"


class _Here:
    """What of a process stays here."""

    future: CallFuture[Any] | None = None
    executor: ClusterExecutor | None = None
    is_closed = False
