"""The surface of a transport: run, stream, put, resolve, close."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Completed:
    """What a command line answered: its exit code and both streams, as text (undecodable bytes are
    replaced).
    """

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Upload:
    """One file for the other side: its absolute path there, and its content, or the local file that
    has it.
    """

    path: str
    content: str | Path
    executable: bool = False
    replace: bool = False  # whole or not at all, over a file that may be there
    digest: str = (
        ""  # the sha256 of its content, where it is known: a file that is there already is not sent
    )


class Transport(Protocol):
    """A way to a host.

    One object serves a whole process; its methods may be called from several threads.
    """

    host: str  # "" for this machine; else as the user wrote it

    def run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a POSIX shell script of any length; its standard input is empty.

        A script may be run once more when the line broke while it ran: give it scripts that may be
        repeated. Raises :class:`TransportError` where the host cannot be reached or the script does
        not end within ``timeout`` seconds. A script that fails is no error here: its exit code says
        so.
        """

    def stream(
        self, script: str, sink: Callable[[bytes], object], timeout: float | None = None
    ) -> Completed:
        """Run a script and hand its output to ``sink`` as it comes, as bytes; it is not run again
        when the line breaks.

        Raises what :meth:`run` does, and :class:`LineBrokenError`.
        """

    def put(self, files: Sequence[Upload]) -> None:
        """Write files, in one stream; missing folders are made for their owner only.

        Raises :class:`CommandError`.
        """

    def resolve(self, path: str) -> str:
        """Return the absolute form of a path over there; ``~`` is the user's home, relative paths
        start where commands do.
        """

    def close(self) -> None:
        """Let go of the connection; the next call opens it again."""
