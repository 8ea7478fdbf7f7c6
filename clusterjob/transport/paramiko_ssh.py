"""The way through paramiko: one connection, as many channels as sshd allows."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from clusterjob.errors import LineBrokenError, LoginError
from clusterjob.transport.authentication import authenticate
from clusterjob.transport.base import Hooks, Patience, Sink
from clusterjob.transport.known_hosts import check_host_key, known_keys
from clusterjob.transport.prompt import ask
from clusterjob.transport.remote import RemoteTransport
from clusterjob.transport.ssh_config import Hop, find_hop

if TYPE_CHECKING:
    import paramiko

# what goes wrong is raised; paramiko would print it besides
# what goes wrong is raised; paramiko would print it besides
logging.getLogger("paramiko").addHandler(logging.NullHandler())
# twice as fast as the others in Python
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_OPEN = 30.0  # s for a channel to open
_TRIES = 8  # for a channel
# Bytes between two exchanges of keys, each of which stops the stream: paramiko's own bound is half
# a GB, OpenSSH's is 64 GB.
_REKEY = 1 << 34


class ParamikoTransport(RemoteTransport):
    """A host that is reached with paramiko, as the user's own ssh would reach it."""

    kind = "ssh"

    def __init__(
        self,
        host: str,
        config: str = "",
        limit: int = 10,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(host, config, limit, hooks)
        self._client: paramiko.Transport | None = None
        # what the connection stands on: sockets, hops, proxies; the first is the nearest
        self._lines: list[Any] = []
        self._process = os.getpid()
        self._alive = 15.0
        self._asked = False  # the user was asked for this host, ever
        self._asked_before = False  # ... before the login that goes on
        self._refused: LoginError | None = None

    def route(self) -> str:
        hop = self._hop()
        if hop.command:
            return f"{hop} by ProxyCommand {hop.command}"
        return " -> ".join(
            [*(str(find_hop(jump, self.config)) for jump in hop.jumps), str(hop)]
        )

    def connected(self) -> bool:
        if self._process != os.getpid():  # a fork's connection is its parent's
            self._client, self._lines, self._process = None, [], os.getpid()
        return self._client is not None and self._client.is_active()

    def login(self, keep: str = "") -> None:
        """Connect, and ask the user what the host asks, also where that was done before."""
        self._asked = False
        self._refused = None
        self.connect()

    def disconnect(self) -> None:
        """Let go of the connection; none outlives this process."""
        self.close()

    def _open(self) -> None:
        if self._refused is not None:
            raise self._refused
        self._drop()
        try:
            self._client = self._reach(self._hop())
        except LoginError as error:
            # asked again by login() alone: hosts lock out who knocks too often
            self._refused = error
            self._drop()
            raise
        except BaseException:
            self._drop()
            raise

    def _ask(self, host: str, question: str, echo: bool) -> str:
        if self._asked_before:
            raise LoginError(
                f"{host} asks {question.strip()!r} again, because the connection was lost.",
                hint="Call clusterjob.connect(profile) to log in again; jobs go on meanwhile.",
            )
        self._asked = True
        return ask(self.hooks, host, question, echo)

    def _reach(self, hop: Hop) -> paramiko.Transport:
        """Return a connection to a host, over the hops that its configuration names."""
        self._asked_before = self._asked
        line: Any = None
        if hop.jumps:
            hops = [find_hop(jump, self.config) for jump in hop.jumps]
            before: paramiko.Transport | None = None
            for number, jump in enumerate(hops):
                # the first may have a way of its own; later ones are reached from the one before
                if number == 0:
                    before = self._reach(jump)
                else:
                    before = self._login(jump, self._channel(before, jump))
            line = self._channel(before, hop)
        elif hop.command:
            line = self._proxy(hop)
        return self._login(hop, line)

    def _channel(self, before: Any, hop: Hop) -> Any:
        import paramiko

        try:
            return before.open_channel(
                "direct-tcpip",
                (hop.hostname, hop.port),
                ("127.0.0.1", 0),
                timeout=hop.connect_timeout,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise LineBrokenError(
                f"{self.host}: the hop before {hop} cannot reach it: {error}"
            ) from error

    def _proxy(self, hop: Hop) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            end = theirs.fileno()
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {hop.command}"],
                stdin=end,
                stdout=end,
                start_new_session=True,
            )
        self._lines.append(_Proxy(process, ours))
        return ours

    def _login(self, hop: Hop, line: Any) -> paramiko.Transport:
        import paramiko

        line = line if line is not None else self._dial(hop)
        client = paramiko.Transport(line)
        self._lines += [line, client]
        self._prefer(client, hop)
        try:
            client.start_client(timeout=hop.connect_timeout)
        except (paramiko.SSHException, OSError, EOFError) as error:
            broken = LineBrokenError(
                f"{hop}: no SSH connection: {error or type(error).__name__}"
            )
            # a host under load drops connections before it says who it is: sshd_config(5),
            # MaxStartups
            broken.passing = "banner" in str(error) or isinstance(
                error, (OSError, EOFError)
            )
            raise broken from error
        check_host_key(hop, client.get_remote_server_key())
        try:
            authenticate(client, hop, self._ask)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if (
                isinstance(error, paramiko.AuthenticationException)
                and client.is_active()
            ):
                raise LoginError(f"{hop}: {error}") from error
            raise LineBrokenError(
                f"{hop}: the connection was lost during the login: {error or type(error).__name__}"
            ) from error
        client.set_keepalive(int(hop.alive))
        self._alive = hop.alive
        return client

    def _prefer(self, client: Any, hop: Hop) -> None:
        """Put fast ciphers first, and the kinds of host key that the user knows."""
        options = client.get_security_options()
        options.ciphers = tuple(
            sorted(options.ciphers, key=lambda name: name not in _CIPHERS)
        )
        kinds = {item.kind for item in known_keys(hop)}
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"} if "ssh-rsa" in kinds else set()
        options.key_types = tuple(
            sorted(options.key_types, key=lambda name: name not in kinds)
        )
        client.packetizer.REKEY_BYTES = client.packetizer.REKEY_BYTES_OVERFLOW_MAX = (
            _REKEY
        )
        client.banner_timeout = hop.connect_timeout

    def _dial(self, hop: Hop) -> socket.socket:
        try:
            line = socket.create_connection(
                (hop.hostname, hop.port), timeout=hop.connect_timeout
            )
        except OSError as error:
            why = (
                "its name is not known"
                if isinstance(error, socket.gaierror)
                else str(error)
            )
            raise LineBrokenError(f"{hop} cannot be reached: {why}") from error
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # a line on which nothing arrives any more is dead after three missed signs of life
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            line.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(3000 * hop.alive)
            )
        return line

    def _drop(self) -> None:
        self._client = None
        lines, self._lines = self._lines, []
        for line in reversed(lines):
            with contextlib.suppress(Exception):
                line.close()

    # -- commands ----------------------------------------------------------------------------------

    def _exchange(
        self,
        command: str,
        feed: Iterable[bytes],
        out: Sink,
        err: Sink,
        patience: Patience,
    ) -> None:
        import paramiko

        try:
            channel = self._session()
            with contextlib.closing(channel):
                channel.exec_command(command)
                errors: list[BaseException] = []
                sender = threading.Thread(
                    target=_send, args=(channel, feed, errors), daemon=True
                )
                sender.start()
                _receive(channel, out, err, patience, self._probe, 3 * self._alive)
                sender.join(1)
                if errors and not isinstance(
                    errors[0], (OSError, paramiko.SSHException)
                ):
                    raise errors[0]
                # as a connection that is lost leaves it
                gone = channel.exit_status < 0 and not channel.eof_received
                if gone or (not errors and not channel.status_event.wait(5)):
                    raise EOFError("the channel was closed")
        except TimeoutError:
            raise
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise LineBrokenError(
                f"{self.host}: the connection was lost: {error or type(error).__name__}"
            ) from error

    def _answers(self) -> bool:
        import paramiko

        try:
            self._probe()
        except (paramiko.SSHException, OSError, EOFError):
            return False
        return True

    def _probe(self) -> None:
        """See that the host still answers. Raises paramiko.SSHException."""
        import paramiko

        client = self._client
        if client is None:
            raise EOFError("the connection was closed")
        try:
            client.open_session(timeout=2 * self._alive).close()
        except paramiko.SSHException as error:
            # that it takes no more channels just now is an answer
            if not _refused(error):
                raise

    def _session(self) -> Any:
        """Open a channel; where sshd allows fewer than we take it to, wait for one to end."""
        import paramiko

        for number in range(_TRIES):
            client = self._client
            if client is None:
                raise LineBrokenError(f"{self.host}: the connection was closed")
            try:
                return client.open_session(window_size=1 << 24, timeout=_OPEN)
            except paramiko.SSHException as error:
                if not _refused(error) or number == _TRIES - 1:
                    raise
                time.sleep(0.1 * 2**number)
        raise LineBrokenError(f"{self.host}: no channel")


class _Proxy:
    """A ProxyCommand's process."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self.process = process
        self.line = line

    def close(self) -> None:
        self.line.close()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2)


def _refused(error: paramiko.SSHException) -> bool:
    """Whether the host took no more channels.

    The codes are: prohibited, failed, short of resources (RFC 4254, 5.1). paramiko keeps one reason
    a connection: of two threads that are refused at once, one gets the other's, and the other these
    words.
    """
    return (
        getattr(error, "code", 0) in (1, 2, 4)
        or str(error) == "Unable to open channel."
    )


def _send(channel: Any, feed: Iterable[bytes], errors: list[BaseException]) -> None:
    """Write the input; what goes wrong is kept, and raised where the answer is waited for."""
    try:
        for data in feed:
            channel.sendall(data)
        channel.shutdown_write()
    except BaseException as error:
        errors.append(error)
        with contextlib.suppress(Exception):
            if isinstance(error, (OSError, EOFError)):
                channel.shutdown_write()
            else:
                channel.close()


def _receive(
    channel: Any,
    out: Sink,
    err: Sink,
    patience: Patience,
    probe: Callable[[], object],
    wait: float,
) -> None:
    """Take both streams in until the other side closes them; raises TimeoutError.

    After ``wait`` seconds without a word ``probe`` sees whether the other side still is there.
    """
    last_word = time.monotonic()
    wake = threading.Event()
    channel.in_buffer.set_event(wake)
    channel.in_stderr_buffer.set_event(wake)
    while True:
        wake.clear()
        left = patience.left()
        if _drain(channel, out, err):
            last_word = time.monotonic()
            continue
        if channel.eof_received or channel.closed:
            if not channel.recv_ready() and not channel.recv_stderr_ready():
                return
            continue
        if time.monotonic() - last_word > wait:
            probe()
            last_word = time.monotonic()
        wake.wait(min(left, 1.0))


def _drain(channel: Any, out: Sink, err: Sink) -> bool:
    """Pass on some of what has come; return whether anything had."""
    some = False
    if channel.recv_ready():
        out(channel.recv(1 << 20))
        some = True
    if channel.recv_stderr_ready():
        err(channel.recv_stderr(1 << 20))
        some = True
    return some
