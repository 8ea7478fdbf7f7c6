"""One call of a function, and its future."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from clusterjob.functions.payload import Payload

if TYPE_CHECKING:
    from clusterjob.status import Reason

Value = TypeVar("Value")
_LARGE = 10**18
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40


class Keeper(Protocol):
    """Who knows where a call is: its executor."""

    def withdraw(self, calls: Iterable[Call]) -> list[Call]: ...

    def read_log(self, call: Call, stream: str) -> str: ...


class CallFuture(Future[Value], Generic[Value]):
    """The result of a call that is to come: a :class:`concurrent.futures.Future`, and more.

    ``stdout()`` and ``stderr()`` are what the function printed.
    """

    def __init__(self, call: Call, keeper: Keeper) -> None:
        super().__init__()
        self._call = call
        self._keeper = keeper

    @property
    def key(self) -> str:
        """What makes two calls the same; empty where they are not remembered."""
        return self._call.key

    @property
    def reused(self) -> bool:
        """Whether the result was there before."""
        return self._call.is_reused

    @property
    def job_id(self) -> str | None:
        """The scheduler's id of the job that made the call; None as long as none is known to."""
        return self._call.job_id or None

    @property
    def host(self) -> str:
        """The node where it was made; empty as long as it is not known."""
        return self._call.host

    @property
    def seconds(self) -> float | None:
        """How long the function took; None before it ended."""
        return self._call.seconds

    def cancel(self) -> bool:
        """Cancel the call, unless a worker has it; return whether it is cancelled.

        The other side is asked: where it is another host, that is a round trip.
        """
        if self.cancelled():
            return True
        if self.done() or self.running():
            return False
        if not self._keeper.withdraw([self._call]):
            return False
        return self.note_cancelled()

    def note_cancelled(self) -> bool:
        """Take in that the call was withdrawn; return whether that makes it cancelled."""
        is_cancelled = super().cancel()
        if is_cancelled:
            self.set_running_or_notify_cancel()
        self._call.let_go()
        return is_cancelled

    def stdout(self) -> str:
        """Return what the function has printed; what other calls print is not in it.

        Raises :class:`CommandError` where it is to be fetched and cannot be.
        """
        return self._keeper.read_log(self._call, "out")

    def stderr(self) -> str:
        """Return what it has printed to standard error: warnings and logging records, too."""
        return self._keeper.read_log(self._call, "err")

    def __repr__(self) -> str:
        return f"<{self._call.title} {super().__repr__()[1:-1]}>"


@dataclass(eq=False)
class Call:
    """A call on its way: what it is, where it is, and what became of it."""

    function: Payload
    name: str  # of the function
    arguments: Payload | None  # None where they cannot be pickled
    short: str  # the arguments, in short
    key: str = ""  # empty where it is not remembered
    chunksize: int | None = None
    future: CallFuture[Any] = field(init=False)
    number: int = -1  # in its pool
    attempt: int = 1
    changes: dict[str, Any] = field(
        default_factory=dict
    )  # of what its worker asks for
    site: int = 0  # the cluster that it went to
    station: Any = None  # ... and what stands for that
    reasons: list[Reason] = field(default_factory=list)  # of earlier attempts
    is_reused: bool = False
    is_attached: bool = False  # an earlier program has sent it
    job_id: str = ""
    host: str = ""
    worker: str = ""
    started: float | None = None  # s since the epoch, over there
    seconds: float | None = None
    # what it printed, by stream: where that begins and ends in the worker's log, and the text
    logs: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def let_go(self) -> None:
        """Forget what is not needed any more: a future may be kept for long, and hold a result."""
        self.arguments = None
        self.__dict__.pop("future", None)

    @property
    def is_told(self) -> bool:
        """Whether somebody was told what became of it."""
        return "future" not in self.__dict__

    @property
    def title(self) -> str:
        """The call as a person would write it."""
        return f"{self.name}({self.short})"

    @property
    def label(self) -> str:
        """What goes by one guess of how long it takes."""
        return self.function.digest


class Told(NamedTuple):
    """What became of a call: its value, or its error, and why it failed in the words of jobs."""

    call: Call
    value: object = None
    error: BaseException | None = None
    reason: Reason | None = None


Tell = Callable[[Sequence[Told]], None]


def short_arguments(args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """Return arguments in a line; what they are comes out, however large they are."""
    try:
        words = [_in_short(arg) for arg in args]
        words += [f"{name}={_in_short(value)}" for name, value in kwargs.items()]
    except Exception:  # a __repr__ of the user's
        return "..."
    text = ", ".join(words)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _in_short(value: object) -> str:
    if type(value) is float or (type(value) is int and -_LARGE < value < _LARGE):
        return repr(value)
    return _short.repr(value)


def name_of(function: Callable[..., object]) -> str:
    """Return what a function is called."""
    while hasattr(function, "func") and not hasattr(function, "__qualname__"):
        function = function.func  # a partial
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]
