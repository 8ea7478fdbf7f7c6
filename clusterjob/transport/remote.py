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
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from clusterjob.errors import CommandError, LineBrokenError, TransportError
from clusterjob.transport.base import Completed, Upload
from clusterjob.transport.hosts import Host
from clusterjob.transport.route import Hop, find_hop

_log = logging.getLogger(__name__)
T = TypeVar("T")

CHANNELS = 8  # at once; OpenSSH's sshd allows 10 a connection (sshd_config(5), MaxSessions)
_WAITS = (0.2, 1.0, 4.0)  # s before a broken line is tried again
_LAST = "#clusterjob-end"
# no exclamation mark, no line break, no backslash before a quote: csh and fish read single quotes
# in their own ways
_RUN = f"""exec /bin/sh -c 's=$(cat); case $s in *{_LAST}) eval "$s" </dev/null ;; *) exit 99 ;; esac'"""
_FEED = (
    """exec /bin/sh -c 'n=$(printf "\\nx"); n=${n%x}; c=; while IFS= read -r l; do case $l in .) break ;; esac; c=$c$l$n; done; """
    """case $l in .) eval "$c" ;; *) exit 99 ;; esac'"""
)


class RemoteTransport(ABC):
    """A host that is reached over one connection.

    ``trips`` counts the commands that were sent, ``connections`` the logins.
    """

    kind = ""  # as profiles write it

    def __init__(self, host: str, config: str = "", limit: int = 10) -> None:
        self.host, self.config = (
            host,
            config,
        )  # as the user wrote it; a file in place of ~/.ssh/config
        self.state = Host(host, limit, config)
        self.trips = self.connections = 0
        self._slots = threading.BoundedSemaphore(CHANNELS)
        self._opening = threading.RLock()
        self._suspect = False  # a command did not answer: the line may be dead
        self._found: Hop | None = None
        self._ever = (
            False  # there was a connection once: what cannot be reached now is a broken line
        )

    # -- what a way to a host provides -------------------------------------------------------------

    @abstractmethod
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known without asking."""

    @abstractmethod
    def route(self) -> str:
        """Describe the way: user, host, port, and what is between."""

    @abstractmethod
    def _open(self) -> None:
        """Make the connection. Raises :class:`LineBrokenError`, :class:`LoginError`."""

    def _hop(self) -> Hop:
        """What the user's ssh configuration says about the host; read anew for each login."""
        if self._found is None:
            self._found = find_hop(self.host, self.config)
        return self._found

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
        out: Callable[[bytes], object],
        err: Callable[[bytes], object],
        timeout: float | None,
    ) -> None:
        """Start a command, send it ``feed`` and then the end of input, pass on what it prints,
        until it ends or the line does.

        Raises :class:`LineBrokenError`, and :class:`TransportError` after ``timeout`` seconds.
        """

    @abstractmethod
    def _drop(self) -> None:
        """Let go of the connection."""

    # -- what callers use --------------------------------------------------------------------------

    def run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a shell script, once more where the line broke meanwhile."""
        return self.patiently(lambda: self._talk(_RUN, script, (), None, timeout))

    def stream(
        self, script: str, sink: Callable[[bytes], object], timeout: float | None = None
    ) -> Completed:
        """Run a shell script, and pass its output on as it comes."""
        return self._talk(_RUN, script, (), sink, timeout)

    def feed(self, script: str, data: Iterable[bytes], timeout: float | None = None) -> Completed:
        """Run a shell script with ``data`` as its standard input.

        The script is short: it is read byte by byte.
        """
        return self._talk(_FEED, script, data, None, timeout)

    def put(self, files: Sequence[Upload]) -> None:
        """Write files in one compressed stream; see :mod:`clusterjob.transport.upload`."""
        from clusterjob.transport.upload import put

        put(self, files)

    def resolve(self, path: str) -> str:
        """Return the absolute path; the home folder is asked for once, and remembered on this
        machine.
        """
        path = posixpath.normpath(path or ".")
        if path.startswith("~") and path[1:2] not in ("", "/"):
            done = self.run(f"printf '%s\\n' {path.partition('/')[0]}")
            home = done.stdout.strip()
            if not home.startswith("/"):
                raise CommandError(f"{path!r}: there is no such user on {self.host}")
            return posixpath.normpath(home + "/" + path.partition("/")[2])
        if posixpath.isabs(path):
            return path
        return posixpath.normpath(posixpath.join(self._home(), path.removeprefix("~").lstrip("/")))

    def connect(self) -> None:
        """Make sure that there is a connection that works. Raises :class:`TransportError`."""
        with self._opening:
            if self._suspect and self.connected() and not self._answers():
                self._drop()
            self._suspect = False
            if not self.connected() and not self._find():
                self.state.admit()
                self.connections += 1
                self._found = None
                self._open()
                self._logged_in()

    def _logged_in(self) -> None:
        self._ever = True
        self.state.note(
            connected=time.time(), route=self.route(), transport=self.kind, ssh_config=self.config
        )

    def close(self) -> None:
        """Let go of the connection; the next call opens it again."""
        with self._opening:
            self._drop()

    def patiently(self, step: Callable[[], T]) -> T:
        """Take a step that may be repeated, again after a line that broke: with longer and longer
        pauses, then no more.
        """
        waits = iter(_WAITS)
        while True:
            try:
                return step()
            except LineBrokenError as error:
                wait = next(waits, None) if self._ever or error.passing else None
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

    def _talk(
        self,
        command: str,
        script: str,
        data: Iterable[bytes],
        sink: Callable[[bytes], object] | None,
        timeout: float | None,
    ) -> Completed:
        mark = f"clusterjob-{secrets.token_hex(8)}"
        # the words of the mark are apart in the command: a shell that echoes what it runs prints no
        # mark. A job that inherits SSH_CLIENT has its bash read .bashrc, as a login has (bash(1),
        # INVOCATION)
        lines = [
            "unset SSH_CLIENT SSH2_CLIENT SSH_CONNECTION SSH_TTY",
            f"cj_mark={mark[:10]}''{mark[10:]}; printf '\\n%s\\n' $cj_mark; printf '\\n%s\\n' "
            "$cj_mark >&2",
            f"( {script}\n)",
            f"printf '\\n%s %s\\n' {mark[:10]}''{mark[10:]} $? >&2",
        ]
        text = "\n".join(
            [*lines, _LAST if command is _RUN else ".", *([] if command is _RUN else [""])]
        ).encode("utf-8", "surrogateescape")
        if command is not _RUN and b"\n.\n" in text[:-3]:
            raise ValueError("a line of a fed script is a lone dot")
        reply = _Reply(mark, sink)
        self.connect()
        with self._slots:
            self.trips += 1
            try:
                self._exchange(command, _chain(text, data), reply.out, reply.err, timeout)
            except LineBrokenError:
                if not reply.ended:
                    self._suspect = (
                        True  # others may be using the connection: it is let go once it was tried
                    )
                    raise
            except TransportError:
                self._suspect = True
                raise
        return reply.completed(self.host, script)


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterable[bytes]:
    yield first
    yield from rest


class _Reply:
    """Takes both streams of a command apart: what a login shell prints before the marks is left
    out.
    """

    def __init__(self, mark: str, sink: Callable[[bytes], object] | None) -> None:
        self.mark = f"\n{mark}\n".encode()
        self.tail = f"\n{mark} ".encode()
        self.sink = sink
        self.began = False
        self.stdout, self.stderr = bytearray(), bytearray()

    def out(self, data: bytes) -> None:
        if self.began and self.sink is not None:
            self.sink(data)
            return
        self.stdout += data
        if not self.began and (at := self.stdout.find(self.mark)) >= 0:
            self.began = True
            del self.stdout[: at + len(self.mark)]
            if self.sink is not None and self.stdout:
                rest, self.stdout = bytes(self.stdout), bytearray()
                self.sink(rest)

    def err(self, data: bytes) -> None:
        self.stderr += data

    @property
    def ended(self) -> bool:
        return (
            self.began
            and self.stderr.rfind(b"\n", self.stderr.rfind(self.tail) + len(self.tail)) > 0
            and self.tail in self.stderr
        )

    def completed(self, host: str, script: str) -> Completed:
        out, err = self.stdout.decode("utf-8", "replace"), self.stderr.decode("utf-8", "replace")
        if not self.began:
            said = (out + err).strip()
            raise TransportError(
                f"{host} did not run the command" + (f", but said:\n{said[:2000]}" if said else "")
            )
        if not self.ended:
            raise LineBrokenError(
                f"{host}: the connection was lost while a command ran",
                command=script[:500],
                stderr=err,
            )
        body, _, code = err.rpartition(self.tail.decode())
        return Completed(int(code.split()[0]), out, body.partition(self.mark.decode())[2])
