"""What takes long says how far it is: on a terminal and in a notebook one line that is written
over, else the log.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_QUIET = 2.0  # s before anything is said
_EVERY = 0.2

report: Callable[[str, int, int], None] | None = None
"""Replaces the line where it is set: gets a host, the bytes that went over, and the bytes in all."""


class Progress:
    """Counts bytes. Use it in ``with``: the line is wiped at the end."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._began = time.monotonic()
        self._said = self._began + _QUIET - _EVERY
        self._line = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line:
            sys.stderr.write("\r" + " " * len(self._line) + "\r")
            sys.stderr.flush()

    def restart(self, total: int) -> None:
        """Begin to count anew: what is to be sent was found out."""
        self.total, self.done = total, 0

    def add(self, count: int) -> None:
        """Note that so many bytes went over."""
        self.done += count
        now = time.monotonic()
        if now - self._said < _EVERY:
            return
        if report is not None:
            self._said = now
            report(self.what, self.done, self.total)
        elif sys.stderr is not None and (
            sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules
        ):
            self._said = now
            rate = self.done / max(now - self._began, 0.001)
            line = (
                f"{self.what}: {self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB, "
                f"{rate / 1e6:.1f} MB/s"
            )
            sys.stderr.write("\r" + line.ljust(len(self._line)))
            sys.stderr.flush()
            self._line = line
        elif now - self._said > 10:
            self._said = now
            _log.info("%s: %.1f of %.1f MB", self.what, self.done / 1e6, self.total / 1e6)
