"""``map`` and its like, and functions whose calls are futures."""

from __future__ import annotations

import builtins
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from clusterjob.errors import SettingsError
from clusterjob.functions.archives import digest, pack_modules
from clusterjob.functions.calls import CallFuture
from clusterjob.functions.executor import ClusterExecutor
from clusterjob.functions.mapping import MapOptions, Rows
from clusterjob.plain_files import expand, read_text
from clusterjob.retry import Retry
from clusterjob.script import JobScript, JobSettings, default_session
from clusterjob.session import Session

if TYPE_CHECKING:
    from typing_extensions import Unpack

Argument = ParamSpec("Argument")
Value = TypeVar("Value")


class CallSettings(JobSettings, total=False):
    """Where calls are made, and how: the keywords of :class:`ClusterExecutor`."""

    profile: str | os.PathLike[str] | None
    profiles: Sequence[str | os.PathLike[str]]
    max_workers: int | None
    idle: float | None
    include: Iterable[str | os.PathLike[str]]
    cache: bool
    version: str | int | None
    retry: Retry | None
    session: Session | None
    options: dict[str, object] | None


def map(
    function: Callable[..., Value],
    /,
    *iterables: Iterable[object],
    timeout: float | None = None,
    chunksize: int | None = None,
    buffersize: int | None = None,
    return_exceptions: bool = False,
    progress: bool = False,
    **settings: Unpack[CallSettings],
) -> Iterator[Value]:
    """Call a function with an item of each iterable, in jobs, and yield the results in order.

    It is :meth:`ClusterExecutor.map` of an executor with the other keywords, which is kept, with
    its workers, for the next such call. With ``progress`` it says how far it is. After Ctrl-C the
    calls go on, and the same program picks their results up.

    ::

        for energy in clusterjob.map(simulate, range(10, 100), profile="cluster.ini", time="1h"):
            print(energy)
    """
    rows = Rows.zipped(iterables)
    options = MapOptions(timeout, chunksize, buffersize, progress)
    mapped = _kept_executor(settings).map_rows(function, rows, options)
    return mapped.in_order(return_exceptions)


def starmap(
    function: Callable[..., Value],
    rows: Iterable[Iterable[object]],
    /,
    *,
    timeout: float | None = None,
    chunksize: int | None = None,
    buffersize: int | None = None,
    return_exceptions: bool = False,
    progress: bool = False,
    **settings: Unpack[CallSettings],
) -> Iterator[Value]:
    """Call a function with the items of each row as its arguments: see :func:`map`."""
    options = MapOptions(timeout, chunksize, buffersize, progress)
    mapped = _kept_executor(settings).map_rows(function, Rows(rows), options)
    return mapped.in_order(return_exceptions)


def map_unordered(
    function: Callable[..., Value],
    /,
    *iterables: Iterable[object],
    timeout: float | None = None,
    chunksize: int | None = None,
    buffersize: int | None = None,
    return_exceptions: bool = False,
    progress: bool = False,
    **settings: Unpack[CallSettings],
) -> Iterator[Value]:
    """Yield results as they come, in any order: see :func:`map`."""
    rows = Rows.zipped(iterables, "map_unordered")
    options = MapOptions(timeout, chunksize, buffersize, progress)
    mapped = _kept_executor(settings).map_rows(function, rows, options)
    return mapped.as_they_come(return_exceptions)


class RemoteFunction(Generic[Argument, Value]):
    """A function whose calls are made in jobs: each gives a :class:`CallFuture`.

    ``function`` is the one that was decorated.
    """

    def __init__(
        self, function: Callable[Argument, Value], settings: CallSettings
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._settings = settings

    def __call__(
        self, *args: Argument.args, **kwargs: Argument.kwargs
    ) -> CallFuture[Value]:
        """Have the function called in a job."""
        executor = _kept_executor(self._settings, starts_over=False)
        return executor.submit(self.function, *args, **kwargs)

    def map(
        self, *iterables: Iterable[object], chunksize: int | None = None
    ) -> Iterator[Value]:
        """Yield the results for an item of each iterable, in order: see :func:`map`."""
        executor = _kept_executor(self._settings)
        return executor.map(self.function, *iterables, chunksize=chunksize)


def remote(
    *functions: Callable[..., object], **settings: Unpack[CallSettings]
) -> Callable[[Callable[Argument, Value]], RemoteFunction[Argument, Value]]:
    """Make calls of a function futures: they are made in jobs. See :class:`ClusterExecutor`.

    ::

        @clusterjob.remote(profile="cluster.ini", time="1h", mem="4G")
        def simulate(T): ...

        futures = [simulate(T) for T in (10, 20, 30)]
        energies = [future.result() for future in futures]
    """

    if functions:
        raise SettingsError(
            "remote is called before it decorates: @clusterjob.remote(), with its settings"
        )

    def decorate(
        function: Callable[Argument, Value],
    ) -> RemoteFunction[Argument, Value]:
        return RemoteFunction(function, settings)

    return decorate


def _kept_executor(
    settings: CallSettings, starts_over: bool = True
) -> ClusterExecutor:
    """Return the executor that has these settings, made anew where there is none.

    It lives as long as its session; workers of it are kept for the next call. Equal calls are
    counted from one again where it ``starts_over``.
    """
    session = settings.get("session") or default_session()
    companions = session.engine.companions
    key = _key_of(settings)
    executor = companions.get(key)
    if not isinstance(executor, ClusterExecutor) or not executor.is_usable:
        if isinstance(executor, ClusterExecutor):
            executor.close()
        given = settings.copy()
        given["session"] = session
        executor = ClusterExecutor(**given)
        companions[key] = executor
    if starts_over:
        executor.start_over()
    return executor


def _key_of(settings: CallSettings) -> str:
    """Return what the settings come to: with what profiles, defaults and modules say now."""
    words = {
        name: str(value) for name, value in settings.items() if name != "session"
    }
    if settings.get("include"):
        words["include"] = " ".join(
            builtins.map(digest, pack_modules(settings["include"]))
        )
    job = JobScript("true")  # has the defaults
    profiles = [settings.get("profile"), *(settings.get("profiles") or ())]
    means = [
        *(os.getcwd(), sys.path, job.attributes, job.resources, words),
        *builtins.map(_text_of, profiles),
    ]
    text = repr(means).encode("utf-8", "surrogatepass")
    return f"functions {hashlib.sha256(text).hexdigest()}"


def _text_of(profile: str | os.PathLike[str] | None) -> str:
    """Return what a profile says now; nothing where that cannot be read, which is told later, or
    only once (a pipe).
    """
    try:
        path = expand(profile or "")
        return read_text(path) if path.is_file() else ""
    except (OSError, ValueError, SettingsError):
        return ""
