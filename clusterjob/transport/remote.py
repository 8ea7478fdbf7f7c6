"""What the ways to other hosts share: scripts through any login shell, marked replies, lines that
break, channels that are few.

A command that sshd starts goes through the user's login shell first, which may be csh or fish and
may print what it likes. So the command is one fixed line that all of them understand and that
starts ``/bin/sh``; everything else travels on its standard input. Replies stand between marks. A
script is run only when its last line has arrived.
"""

from __future__ import annotations

import logging
import posixpath
import random
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clusterjob.errors import CommandError, LineBrokenError, TransportError
from clusterjob.shell import load_shell
from clusterjob.transport.base import (
    IDLE,
    MOST_ERRORS,
    MOST_OUTPUT,
    Completed,
    Hooks,
    Patience,
    Sink,
    check_bounds,
)
from clusterjob.transport.host_state import HostState

if TYPE_CHECKING:
    from clusterjob.transport.ssh_config import Hop

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

# at once; OpenSSH's sshd allows 10 a connection (sshd_config(5), MaxSessions)
CHANNELS = 8
_MOST_BEFORE = 1 << 20  # bytes that a login shell may print before its command runs
_WAITS = (0.2, 1.0, 4.0)  # s before a broken line is tried again
_FRAME = Path(__file__).parent / "frame.sh"
_LAST = "#clusterjob-end"
_EXIT_CODE = re.compile("[0-9]{1,3}")
# The two fixed lines: no exclamation mark, no line break, no backslash before a quote, because csh
# and fish read single quotes in their own ways. Exit code 99: the script was cut off.
_RUN_ALL = (
    f"exec /bin/sh -c 's=$(cat); case $s in *{_LAST}) "
    """eval "$s" </dev/null ;; *) exit 99 ;; esac'"""
)
# reads the script line by line up to a lone dot: what follows is the script's input
_RUN_FIRST_PART = (
    """exec /bin/sh -c 'n=$(printf "\\nx"); n=${n%x}; c=; """
    """while IFS= read -r l; do case $l in .) break ;; esac; c=$c$l$n; done; """
    """case $l in .) eval "$c" ;; *) exit 99 ;; esac'"""
)


class RemoteTransport(ABC):
    """A host that is reached over one connection.

    ``trips`` counts the commands that were sent, ``connections`` the logins. ``config`` is a file
    in place of ``~/.ssh/config``, ``limit`` the logins in a minute.
    """

    kind = ""  # as profiles write it
    outlives_process = False  # whether a login serves other programs too

    def __init__(
        self,
        host: str,
        config: str = "",
        limit: int = 10,
        hooks: Hooks | None = None,
    ) -> None:
        self.host = host
        self.config = config
        self.hooks = hooks or Hooks()
        self.state = HostState(host, limit, config)
        self.trips = self.connections = 0
        self._slots = threading.BoundedSemaphore(CHANNELS)
        self._opening = threading.RLock()
        self._suspect = False  # a command did not answer: the line may be dead
        self._known_hop: Hop | None = None
        # there was a connection once: what cannot be reached now is a broken line
        self._was_connected = False

    # -- what a way to a host provides -------------------------------------------------------------

    @abstractmethod
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known without asking."""

    @abstractmethod
    def route(self) -> str:
        """Describe the way: user, host, port, and what is between."""

    @abstractmethod
    def login(self, keep: str = "12h") -> None:
        """Log in, with what the host asks put to the user. Raises :class:`TransportError`.

        ``keep`` is how long the login stays after its last use, where it outlives this process.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """End a login that outlives this process, where this way has such."""

    @abstractmethod
    def _open(self) -> None:
        """Make the connection. Raises :class:`LineBrokenError`, :class:`LoginError`."""

    def _hop(self) -> Hop:
        """What the user's ssh configuration says about the host; read anew for each login."""
        from clusterjob.transport.ssh_config import find_hop

        if self._known_hop is None:
            self._known_hop = find_hop(self.host, self.config)
        return self._known_hop

    def _find(self) -> bool:
        """Look for a connection that somebody else made; it costs no login."""
        return False

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the host still answers over the connection."""

    @abstractmethod
    def _exchange(
        self,
        command: str,
        feed: Iterable[bytes],
        out: Sink,
        err: Sink,
        patience: Patience,
    ) -> None:
        """Start a command, send it ``feed`` and then the end of input, and pass on what it prints.

        Returns when it ends or the line does. Raises :class:`LineBrokenError`, and
        :class:`TransportError` where the patience is over.
        """

    @abstractmethod
    def _drop(self) -> None:
        """Let go of the connection."""

    # -- what callers use --------------------------------------------------------------------------

    def run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a shell script, once more where the line broke meanwhile."""
        text = self._framed(script, _LAST)

        def talk() -> Completed:
            patience = Patience(timeout or IDLE, resets=timeout is None)
            return self._talk(_RUN_ALL, text, (), None, patience)

        return self.patiently(talk)

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        """Run a shell script, and pass its output on as it comes."""
        text = self._framed(script, _LAST)
        patience = Patience(timeout or IDLE, resets=True)
        return self._talk(_RUN_ALL, text, (), sink, patience)

    def feed(self, script: str, data: Iterable[bytes]) -> Completed:
        """Run a shell script with ``data`` as its standard input.

        The script is short: it is read byte by byte. Raises :class:`CommandError` for one with a
        line that is a lone dot, which only the odd name of a folder can bring in.
        """
        if "\n.\n" in script:
            raise CommandError(
                f"the name of a folder cannot be used on {self.host}: {script!r}"
            )
        text = self._framed(script, ".\n")
        return self._talk(
            _RUN_FIRST_PART, text, data, None, Patience(IDLE, resets=True)
        )

    def resolve(self, path: str) -> str:
        """Return the absolute path; the home folder is asked for once, and remembered here."""
        path = posixpath.normpath(path or ".")
        if path.startswith("~") and path[1:2] not in ("", "/"):
            return self._resolve_other_home(path)
        if posixpath.isabs(path):
            return path
        below = path.removeprefix("~").lstrip("/")
        return posixpath.normpath(posixpath.join(self._home(), below))

    def _resolve_other_home(self, path: str) -> str:
        name, _, below = path.partition("/")
        home = self.run(f"printf '%s\\n' {name}").stdout.strip()
        if not home.startswith("/"):
            raise CommandError(f"{path!r}: there is no such user on {self.host}")
        return posixpath.normpath(f"{home}/{below}")

    def connect(self) -> None:
        """Make sure that there is a connection that works. Raises :class:`TransportError`."""
        with self._opening:
            if self._suspect and self.connected() and not self._answers():
                self._drop()
            self._suspect = False
            if not self.connected() and not self._find():
                self.state.admit()
                self.connections += 1
                self._known_hop = None
                self._open()
                self._logged_in()

    def _logged_in(self) -> None:
        self._was_connected = True
        self.state.note(
            connected=time.time(),
            route=self.route(),
            transport=self.kind,
            ssh_config=self.config,
        )

    def close(self) -> None:
        """Let go of the connection; the next call opens it again."""
        with self._opening:
            self._drop()

    def patiently(self, step: Callable[[], Result]) -> Result:
        """Take a step that may be repeated, again after a line that broke.

        The pauses grow, and after some tries there is no more.
        """
        waits = iter(_WAITS)
        while True:
            try:
                return step()
            except LineBrokenError as error:
                may_come_back = self._was_connected or error.passing
                wait = next(waits, None) if may_come_back else None
                if wait is None:
                    raise
                _log.debug("%s: %s; tried again in %.1f s", self.host, error, wait)
                time.sleep(wait * (0.5 + random.random()))

    # -- inside ------------------------------------------------------------------------------------

    def learn_home(self) -> None:
        """Ask for the home folder, also where it is known.

        Raises :class:`TransportError`, :class:`CommandError`.
        """
        self._home(anew=True)

    def _home(self, anew: bool = False) -> str:
        if anew or self.state.home is None:
            home = self.run('printf "%s\\n" "$HOME"').stdout.strip()
            if not home.startswith("/"):
                raise CommandError(
                    f"{self.host} does not say where the home folder is", stdout=home
                )
            self.state.note(home=home)
        return self.state.home or "/"

    def _framed(self, script: str, last: str) -> tuple[str, str, bytes]:
        """Return a script, the mark of its reply, and the bytes that are sent for it."""
        mark = f"clusterjob-{secrets.token_hex(8)}"
        frame = load_shell(_FRAME)
        frame = frame.replace("@MARK_BEGIN@", mark[:10]).replace(
            "@MARK_END@", mark[10:]
        )
        text = frame.replace("@SCRIPT@", script) + last
        return script, mark, text.encode("utf-8", "surrogateescape")

    def _talk(
        self,
        command: str,
        framed: tuple[str, str, bytes],
        data: Iterable[bytes],
        sink: Sink | None,
        patience: Patience,
    ) -> Completed:
        """Send a script, and take its reply apart."""
        script, mark, text = framed
        reply = _Reply(self.host, mark, sink, patience)
        self.connect()
        with self._slots:
            self.trips += 1
            try:
                feed = _feed(text, data, patience)
                self._exchange(command, feed, reply.out, reply.err, patience)
            except TimeoutError:
                self._suspect = True
                raise TransportError(
                    f"{self.host}: no answer within {patience.seconds:g} s",
                    command=script[:500],
                ) from None
            except LineBrokenError:
                if not reply.ended:
                    # others may be using the connection: it is let go once it was tried
                    self._suspect = True
                    raise
            except TransportError:
                self._suspect = True
                raise
        return reply.completed(script)


def _feed(first: bytes, rest: Iterable[bytes], patience: Patience) -> Iterable[bytes]:
    """Yield what is sent; as long as it is taken, the other side goes on."""
    yield first
    for data in rest:
        patience.went_on()
        yield data
    patience.went_on()


class _Reply:
    """Takes both streams of a command apart: what a login shell prints before the marks is left
    out.
    """

    def __init__(
        self,
        host: str,
        mark: str,
        sink: Sink | None,
        patience: Patience,
    ) -> None:
        self.host = host
        self.patience = patience
        self.mark = f"\n{mark}\n".encode()
        self.tail = f"\n{mark} ".encode()
        self.sink = sink
        self.began = False
        self.stdout, self.stderr = bytearray(), bytearray()

    def out(self, data: bytes) -> None:
        """Take in standard output; what follows the mark goes to the sink, where there is one.

        Raises :class:`TransportError` for more than anybody has to say.
        """
        if self.began:  # before it did, what comes is no part of the answer
            self.patience.went_on()
        if self.began and self.sink is not None:
            self.sink(data)
            return
        self.stdout += data
        if self.began:
            check_bounds(self.host, self.stdout, MOST_OUTPUT)
            return
        at = self.stdout.find(self.mark)
        if at < 0:
            check_bounds(self.host, self.stdout, _MOST_BEFORE)
            return
        self.began = True
        del self.stdout[: at + len(self.mark)]
        if self.sink is not None and self.stdout:
            rest, self.stdout = bytes(self.stdout), bytearray()
            self.sink(rest)

    def err(self, data: bytes) -> None:
        """Take in standard error, where the exit code comes last."""
        self.stderr += data
        check_bounds(self.host, self.stderr, MOST_ERRORS)

    @property
    def ended(self) -> bool:
        """Whether the line with the exit code has come whole."""
        at = self.stderr.rfind(self.tail)
        return (
            self.began and at >= 0 and self.stderr.rfind(b"\n") >= at + len(self.tail)
        )

    def completed(self, script: str) -> Completed:
        """Return the reply. Raises :class:`TransportError`, :class:`LineBrokenError`."""
        out, err = (
            self.stdout.decode("utf-8", "replace"),
            self.stderr.decode("utf-8", "replace"),
        )
        if not self.began:
            said = (out + err).strip()
            words = f", but said:\n{said[:2000]}" if said else ""
            raise TransportError(f"{self.host} did not run the command{words}")
        if not self.ended:
            raise LineBrokenError(
                f"{self.host}: the connection was lost while a command ran",
                command=script[:500],
                stderr=err,
            )
        body, _, code = err.rpartition(self.tail.decode())
        word = code.partition("\n")[0]
        if not _EXIT_CODE.fullmatch(word):
            raise TransportError(f"{self.host} gives {word[:200]!r} for an exit code")
        return Completed(int(word), out, body.partition(self.mark.decode())[2])
