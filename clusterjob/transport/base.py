"""The surface of a transport: run, stream, resolve, close."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from clusterjob.errors import TransportError

Sink = Callable[[bytes], object]
# bytes that are kept of one answer: the list of a million jobs is shorter
MOST_OUTPUT, MOST_ERRORS = 256 << 20, 16 << 20
IDLE = 1800.0  # s without a word, where no other time is said: sums of large files take some


@dataclass(frozen=True)
class Completed:
    """What a command line answered: its exit code and both streams.

    They are text; bytes that cannot be decoded are replaced.
    """

    exit_code: int
    stdout: str
    stderr: str


def check_bounds(who: str, said: bytearray, most: int) -> None:
    """Raise :class:`TransportError` for an answer of more than ``most`` bytes."""
    if len(said) > most:
        start = bytes(said[:200]).decode("utf-8", "replace")
        raise TransportError(
            f"{who} prints more than {most >> 20} MB for an answer, which begins: {start!r}"
        )


class Patience:
    """How long an answer is waited for: seconds in all, or (``resets``) since it went on."""

    def __init__(self, seconds: float, resets: bool = False) -> None:
        self.seconds = seconds
        self._resets = resets
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError where there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def went_on(self) -> None:
        """Note that a part of the answer came, or that more was asked."""
        if self._resets:
            self._until = time.monotonic() + self.seconds


@dataclass
class Hooks:
    """What a program may put in the place of the terminal and of the notebook.

    ``prompt`` gets a question, and whether the answer may be shown; it returns the answer.
    ``on_progress`` gets a host, the bytes that went over, and the bytes in all.
    """

    prompt: Callable[[str, bool], str] | None = None
    on_progress: Callable[[str, int, int], None] | None = None


class Transport(Protocol):
    """A way to a host. Its methods may be called from several threads."""

    host: str  # "" for this machine; else as the user wrote it
    hooks: Hooks

    def run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a POSIX shell script of any length; its standard input is empty.

        A script may be run once more when the line broke while it ran: give it scripts that may be
        repeated. Raises :class:`TransportError` where the host cannot be reached or the script does
        not end within ``timeout`` seconds, or prints more than ``MOST_OUTPUT`` or ``MOST_ERRORS``
        bytes. A script that fails is no error here: its exit code says so.
        """

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        """Run a script and hand its output to ``sink`` as it comes, as bytes.

        It may last as long as it goes on: ``timeout`` is in seconds without a word. It is not run
        again when the line breaks. Raises what :meth:`run` does, and :class:`LineBrokenError`.
        """

    def resolve(self, path: str) -> str:
        """Return the absolute form of a path over there.

        ``~`` is the user's home, relative paths start where commands do.
        """

    def close(self) -> None:
        """Let go of the connection; the next call opens it again."""
