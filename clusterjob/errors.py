"""Everything clusterjob raises on purpose.

::

    ClusterJobError
    ├── SettingsError                 a profile or a backend file is wrong, or a value in it
    │   ├── BackendNotFoundError      no backend of that name on the lookup path
    │   └── ResourcesNotSupportedError  the backend cannot express a resource
    ├── RenderError                   a body, prologue, epilogue or auxiliary script cannot be
        rendered
    ├── CommandError                  a command on the scheduler's host failed or could not be run
    │   └── TransportError            ... because the host could not be reached or did not answer in
        time
    │       ├── LineBrokenError       ... or the connection broke; what can be repeated was
    │       └── LoginError            ... or it did not let us in
    │           └── HostKeyError      ... or it is not known to be the right host
    ├── SubmissionError               the scheduler refused jobs, or their folder cannot be written
    ├── StoreError                    the store of records cannot be used
    ├── JobNotFoundError              nothing in the store has that id, name or key
    ├── JobFailedError                get() of a job that did not complete
    ├── CallError                     a call of a function came to no result
    ├── WorkersFailedError            (also BrokenExecutor) no worker gets on
    └── WaitTimeoutError              (also TimeoutError) a wait was longer than its timeout

``transient`` says whether the same call may succeed later without anything being changed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any

_TOLD = 200  # characters of a text that was not what was expected
_SHOWN = 1000  # characters of each end of what a command said


# C0 but tabs and line ends, C1; marks and overrides of direction (Unicode annex 9), line and
# paragraph separators, tags; halves of characters, which cannot be written at all
_STEERS = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)|"
    "[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff]"
)


def show(text: str) -> str:
    """Return a text as it is told to a person: in quotes, what no terminal prints escaped, cut."""
    return repr(text) if len(text) <= _TOLD else f"{text[:_TOLD]!r}..."


def printable(text: str) -> str:
    """Return a text that does to a terminal what it says: what would move its cursor, change its
    colours or turn the direction of writing is escaped.
    """
    return _STEERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def suggest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, else the known ones or nothing."""
    words = sorted(set(known))
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known are: {', '.join(words)}." if words else ""


def shorten(text: str) -> str:
    """Leave out the middle of a long text: how it begins and ends says what it is."""
    left_out = len(text) - 2 * _SHOWN
    if left_out <= 100:  # nothing is gained, and what was shortened stays as it is
        return text
    return f"{text[:_SHOWN]} [... {left_out:,} characters ...] {text[-_SHOWN:]}"


def first_of(names: Sequence[str], most: int) -> str:
    """Name the first of some things, and say how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


class ClusterJobError(Exception):
    """Base of all errors of this package.

    Its text is :func:`printable`, and long lines are shortened.
    """

    transient = False

    def __init__(self, message: str = "") -> None:
        super().__init__(
            "\n".join(shorten(line) for line in printable(message).split("\n"))
        )


class SettingsError(ClusterJobError):
    """A setting is wrong: where it stands, what it is, and what was expected."""

    def __init__(
        self,
        message: str,
        *,
        file: object = None,
        section: str | None = None,
        key: str | None = None,
    ) -> None:
        self.file = file
        self.section = section
        self.key = key
        place = [str(file)] if file is not None else []
        if section is not None:
            place.append(f"[{section}]")
        if key is not None:
            place.append(key)
        super().__init__(f"{' '.join(place)}: {message}" if place else message)


class BackendNotFoundError(SettingsError):
    """No backend of that name is on the lookup path."""


class ResourcesNotSupportedError(SettingsError):
    """The backend has no way to express a resource that a job asks for."""


class RenderError(ClusterJobError):
    """A template cannot be rendered: the message has the variable, the line and the known names."""


class CommandError(ClusterJobError):
    """A command failed: what was run, its exit code, and what came back on both streams."""

    def __init__(
        self,
        what: str,
        *,
        command: str = "",
        exit_code: int | None = None,
        stdout: str = "",
        stderr: str = "",
        hint: str = "",
    ) -> None:
        self.command = command
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr
        lines = [what]
        if command:
            lines.append(f"  command: {shorten(command.strip())}")
        if exit_code is not None:
            lines.append(f"  exit code: {exit_code}")
        lines += [
            f"  {name}: {shorten(text.strip())}"
            for name, text in (("stdout", stdout), ("stderr", stderr))
            if text.strip()
        ]
        if hint:
            lines.append(hint)
        super().__init__("\n".join(lines))


class TransportError(CommandError):
    """The host could not be reached, or a command did not end in time: nothing is known about what
    it did.
    """

    transient = True


class LineBrokenError(TransportError):
    """The connection broke, or could not be made.

    ``passing``: the host is there, and only had too much to do.
    """

    passing = False


class LoginError(TransportError):
    """The host did not let us in; asking again would not help, and may lock the account."""

    transient = False


class HostKeyError(LoginError):
    """The host's key is unknown, or not the one that is known: the message has the steps that
    settle it.
    """


class SubmissionError(ClusterJobError):
    """Jobs were not accepted.

    ``results`` are the handles of the jobs of the batch that were, in their order: the
    :class:`Results` of a submission.
    """

    def __init__(self, message: str, results: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.results: list[Any] = list(results)


class StoreError(ClusterJobError):
    """The store cannot be read or written, or another version of clusterjob wrote it.

    ``is_corrupt``: it is proven to be broken, and can only be made anew.
    """

    is_corrupt = False


class JobNotFoundError(ClusterJobError):
    """No record has that job id, name or key."""


class JobFailedError(ClusterJobError):
    """A job did not complete; ``result`` is its handle."""

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result


class CallError(ClusterJobError):
    """A call of a function came to no result: its worker is gone, or what it returned, raised or
    was given cannot travel. What the function itself raises is raised as it is.

    ``reason`` is one of :class:`Reason`, where its process or its job ended badly; ``exit_code`` is
    that of its process, or minus the number of the signal that ended it.
    """

    def __init__(
        self, message: str, reason: Any = None, exit_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.exit_code = exit_code


class WorkersFailedError(ClusterJobError, BrokenExecutor):
    """The workers of an executor end before they call anything, so no call will be made."""


class WaitTimeoutError(ClusterJobError, TimeoutError):
    """The jobs did not finish within the timeout; they go on."""

    transient = True
