"""What takes long says how far it is.

On a terminal and in a notebook that is one line that is written over, else the log.
"""

from __future__ import annotations

import logging
import sys
import threading
import time

from clusterjob.transport import Hooks

_log = logging.getLogger(__name__)
_QUIET = 2.0  # s before anything is said
_EVERY = 0.2  # s between two words on a screen
_EVERY_IN_LOG = 10.0


class Progress:
    """Counts bytes on their way from or to a host.

    Use it in ``with``: the line is wiped at the end. The ``hooks`` may have a function in its
    place.
    """

    def __init__(self, host: str, total: int, hooks: Hooks) -> None:
        self.host = host
        self.total = total
        self.done = 0
        self._report = hooks.on_progress
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
        self.total = total
        self.done = 0

    def add(self, count: int) -> None:
        """Note that so many bytes went over."""
        self.done += count
        now = time.monotonic()
        silence = now - self._said
        if silence < _EVERY:
            return
        if self._report is not None:
            self._said = now
            self._report(self.host, self.done, self.total)
        elif _somebody_looks():
            self._said = now
            self._write_line(self.done / max(now - self._began, 0.001))
        elif silence > _EVERY_IN_LOG:
            self._said = now
            _log.info(
                "%s: %.1f of %.1f MB", self.host, self.done / 1e6, self.total / 1e6
            )

    def _write_line(self, rate: float) -> None:
        done, total, speed = self.done / 1e6, self.total / 1e6, rate / 1e6
        line = f"{self.host}: {done:.1f} of {total:.1f} MB, {speed:.1f} MB/s"
        sys.stderr.write("\r" + line.ljust(len(self._line)))
        sys.stderr.flush()
        self._line = line


class Count:
    """Counts things that are done, on a line that is written over; where nobody looks, on a new one
    every ten seconds.

    ``total`` is None where it is not known.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._said = 0.0
        self._line = ""
        self._began = time.monotonic()

    def add(self, *_: object) -> None:
        """Note that one more is done."""
        with self._lock:
            self._done += 1
            now = time.monotonic()
            is_last = self._done == self._total
            if not is_last and now - self._said < _EVERY:
                return
            if _somebody_looks():
                self._said = now
                self._write(self._words())
            elif is_last or now - self._said > _EVERY_IN_LOG:
                self._said = now
                print(self._words(), file=sys.stderr, flush=True)

    def _words(self) -> str:
        total = "" if self._total is None else f" of {self._total:,}"
        rate = self._done / max(0.001, time.monotonic() - self._began)
        return f"{self._done:,}{total} {self._what}, {rate:,.1f} a second"

    def _write(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(len(self._line)))
        sys.stderr.flush()
        self._line = line

    def end(self) -> None:
        """End the line."""
        with self._lock:
            if self._line:
                sys.stderr.write("\n")
                sys.stderr.flush()
                self._line = ""


def _somebody_looks() -> bool:
    """Whether standard error is a screen: a terminal's or a notebook's."""
    if sys.stderr is None:
        return False
    return sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules
