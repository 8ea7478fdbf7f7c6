"""The way through the system's ssh.

For Kerberos, hardware keys, and hosts where a person logs in once with two factors.

One ssh process, the master, holds the connection, and commands go through its socket
(ssh_config(5), ControlMaster). It is the user's own master where one runs, else one of ours, which
outlives this process for a while and serves all others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import selectors
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from clusterjob.errors import (
    HostKeyError,
    LineBrokenError,
    LoginError,
    TransportError,
)
from clusterjob.transport.base import Hooks, Patience, Sink
from clusterjob.transport.prompt import somebody_is_there
from clusterjob.transport.remote import RemoteTransport
from clusterjob.transport.ssh_config import parse_remote, ssh_options

_KEEP = "10m"  # after the last command
_NO_LOGIN = re.compile(
    r"Permission denied|Too many authentication failures|authentication methods|"
    r"keyboard-interactive",
    re.IGNORECASE,
)


class OpenSshTransport(RemoteTransport):
    """A host that is reached with the ``ssh`` program."""

    kind = "openssh"
    outlives_process = True

    def __init__(
        self,
        host: str,
        config: str = "",
        limit: int = 10,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(host, config, limit, hooks)
        self._options = ssh_options(host, config)
        self._target = ["--", parse_remote(host)[1]]
        self._own = socket_path(f"{host}\0{config}")
        self._socket: list[str] | None = None  # options that lead to a living master

    def route(self) -> str:
        over = ", over a master of the user" if self._socket == [] else ""
        return f"{self._hop()} by ssh{over}"

    def connected(self) -> bool:
        return self._socket is not None

    def login(self, keep: str = "12h") -> None:
        """Start a master that stays, with ssh's own questions in the terminal.

        Raises :class:`TransportError`.
        """
        with self._opening:
            if not self._find():
                self.state.admit()
                self.connections += 1
                self._start(keep, interactive=somebody_is_there())
                self._socket = ["-S", self._own]
                self._logged_in()

    def _open(self) -> None:
        self._start(_KEEP, interactive=False)
        self._socket = ["-S", self._own]

    def _find(self) -> bool:
        self._socket = self._living()
        self._was_connected = self._was_connected or self._socket is not None
        return self._socket is not None

    def _answers(self) -> bool:
        # the master itself sees whether the host does
        return self._living() == self._socket

    def _living(self) -> list[str] | None:
        """Return the options that lead to a living master: ours, else the user's."""
        candidates: list[list[str]] = []
        if os.path.exists(self._own):
            candidates.append(["-S", self._own])
        if self._hop().masters:
            candidates.append([])
        for options in candidates:
            done = self._ssh([*options, "-O", "check"], timeout=10)
            if done is not None and done.returncode == 0:
                return options
        return None

    def _ssh(
        self, options: list[str], timeout: float
    ) -> subprocess.CompletedProcess[str] | None:
        command = ["ssh", *self._options, *options, *self._target]
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return None
        except OSError as error:
            raise self._no_program(error) from error

    def _no_program(self, error: OSError) -> LoginError:
        return LoginError(
            f"{self.host}: the ssh program cannot be run: {error}",
            hint="Install it, or take 'transport = ssh'.",
        )

    def _start(self, keep: str, interactive: bool) -> None:
        """Start a master of our own; it goes to the background once it is logged in."""
        with contextlib.suppress(OSError):
            os.unlink(self._own)  # of a master that is gone
        hop = self._hop()
        settings = {
            "ControlMaster": "yes",
            "ControlPersist": keep,
            "ForwardX11": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "RequestTTY": "no",
            "ServerAliveInterval": int(hop.alive),
            "ServerAliveCountMax": 3,
            "ConnectTimeout": int(hop.connect_timeout),
        }
        if not interactive:
            settings |= {"BatchMode": "yes", "StrictHostKeyChecking": "yes"}
        options = ["-S", self._own, "-N", "-f", "-T", "-a", "-x", *_written(settings)]
        with tempfile.TemporaryFile() as said:
            try:
                process = subprocess.Popen(
                    ["ssh", *self._options, *options, *self._target],
                    stdin=None if interactive else subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=None if interactive else said,
                    start_new_session=not interactive,
                )
                code = process.wait(
                    None if interactive else 3 * hop.connect_timeout + 30
                )
            except OSError as error:
                raise self._no_program(error) from error
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise LineBrokenError(
                    f"{self.host}: ssh did not get through"
                ) from None
            said.seek(0)
            words = said.read().decode("utf-8", "replace").strip()
        if code != 0:
            raise self._failure(words)

    def _failure(self, words: str) -> TransportError:
        """Say what a master that did not start means, by what ssh said."""
        last = words.splitlines()[-1].strip() if words else "see above"
        by_hand = " ".join(["ssh", *self._options, *self._target[1:]])
        if "host key" in words.lower() or "HOST IDENTIFICATION HAS CHANGED" in words:
            return HostKeyError(
                f"{self.host}: its host key is not the one that is known, or it is not known: "
                f"{last}",
                stderr=words,
                hint=f"Log in once with ssh, which has the steps that settle it:\n  {by_hand}",
            )
        if _NO_LOGIN.search(words):
            return LoginError(
                f"{self.host} does not let us in without questions: {last}",
                hint="Log in once for all programs, in a terminal: clusterjob connect PROFILE "
                "(or: clusterjob connect HOST).",
            )
        broken = LineBrokenError(f"{self.host} cannot be reached: {last}")
        # dropped before the banner: sshd_config(5), MaxStartups
        broken.passing = "kex_exchange_identification" in words
        return broken

    def _drop(self) -> None:
        """Forget the master; the next use looks whether it lives.

        Others may be using it: it is left to end by itself.
        """
        self._socket = None

    def disconnect(self) -> None:
        """End our master."""
        self._ssh(["-S", self._own, "-O", "exit"], timeout=10)
        self._socket = None

    # -- commands ----------------------------------------------------------------------------------

    def _exchange(
        self,
        command: str,
        feed: Iterable[bytes],
        out: Sink,
        err: Sink,
        patience: Patience,
    ) -> None:
        if self._socket is None:
            raise LineBrokenError(f"{self.host}: the connection was closed")
        # without its master ssh would make a connection of its own: this proxy lets it fail
        settings = {
            "ControlMaster": "no",
            "BatchMode": "yes",
            "ProxyCommand": "false",
        }
        options = [*self._socket, *_written(settings), "-T", "-a", "-x"]
        seen: list[bytes] = []

        def heard(data: bytes) -> None:
            seen.append(data)
            err(data)

        code = self._pipe(
            ["ssh", *self._options, *options, *self._target, command],
            feed,
            out,
            heard,
            patience,
        )
        if code == 255:  # also where the host takes no more sessions just now
            words = b"".join(seen).decode("utf-8", "replace").strip()
            last = words.splitlines()[-1] if words else "ssh ended"
            raise LineBrokenError(f"{self.host}: the connection was lost: {last}")

    def _pipe(
        self,
        command: list[str],
        feed: Iterable[bytes],
        out: Sink,
        err: Sink,
        patience: Patience,
    ) -> int:
        """Run a program, feed it, pass on what it prints, and return its exit code."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise self._no_program(error) from error
        errors: list[BaseException] = []
        sender = threading.Thread(
            target=_send, args=(process, feed, errors), daemon=True
        )
        sender.start()
        try:
            _receive(process, out, err, patience)
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            code = 255
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        sender.join(1)
        if errors and not isinstance(errors[0], OSError):
            raise errors[0]
        return code


def _written(settings: Mapping[str, object]) -> Iterator[str]:
    """Yield settings of ssh_config(5) as options of the ssh program."""
    for name, value in settings.items():
        yield "-o"
        yield f"{name}={value}"


def _send(
    process: subprocess.Popen[bytes],
    feed: Iterable[bytes],
    errors: list[BaseException],
) -> None:
    """Write the input; what goes wrong is kept, and raised where the answer is waited for."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            for data in feed:
                pipe.write(data)
    except BaseException as error:
        errors.append(error)
        if not isinstance(error, OSError):
            process.kill()


def _receive(
    process: subprocess.Popen[bytes], out: Sink, err: Sink, patience: Patience
) -> None:
    """Take both streams in until they end; raises TimeoutError."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, out)  # type: ignore[arg-type]
        selector.register(process.stderr, selectors.EVENT_READ, err)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select(patience.left()):
                data = os.read(key.fd, 1 << 18)
                if data:
                    key.data(data)
                else:
                    selector.unregister(key.fileobj)


def socket_path(name: str) -> str:
    """Return the path of our master's socket for a host.

    It is short, as sockets want it, in a folder of the user's alone. Raises :class:`LoginError`.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not os.path.isdir(runtime):  # a job has that of the login node
        runtime = None
    if runtime:
        folder = Path(runtime, "clusterjob")
    else:
        folder = Path(tempfile.gettempdir(), f"clusterjob-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise LoginError(
            f"{folder}: no folder for ssh's socket: {error.strerror}"
        ) from error
    if (
        status.st_uid != os.getuid()
        or not stat.S_ISDIR(status.st_mode)
        or status.st_mode & 0o077
    ):
        raise LoginError(
            f"{folder} is not a folder of yours alone: ssh's socket cannot stand there. Set "
            "XDG_RUNTIME_DIR to one that is"
        )
    return str(
        folder
        / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    )
