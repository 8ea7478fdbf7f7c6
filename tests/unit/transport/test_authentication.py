"""Logging in with paramiko: a host that says no, and a line that breaks meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest

from clusterjob.errors import LoginError
from clusterjob.transport.authentication import authenticate
from clusterjob.transport.ssh_config import find_hop

Attempt = Callable[[paramiko.Transport], int]
Login = Callable[[Attempt, str], None]


def _ask(host: str, question: str, echo: bool) -> str:
    return "a guess"


class _Server(paramiko.ServerInterface):
    """A host that lets a function of the test judge every attempt."""

    def __init__(self, transport: paramiko.Transport, judge: Attempt) -> None:
        self.transport, self.judge = transport, judge

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self.judge(self.transport)

    def check_auth_password(self, username: str, password: str) -> int:
        return self.judge(self.transport)


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Login]:
    """Log in to a server of this process: what judges an attempt, and by which method."""
    key = paramiko.RSAKey.generate(2048)
    key.write_private_key_file(str(tmp_path / "key"))
    config = tmp_path / "config"
    config.write_text(
        f"Host *\n HostName far\n User me\n IdentityAgent none\n IdentityFile {tmp_path}/key\n"
    )
    opened: list[Any] = []

    def log_in(judge: Attempt, method: str) -> None:
        ours, theirs = socket.socketpair()
        client, server = paramiko.Transport(ours), paramiko.Transport(theirs)
        opened.extend([client, server])
        server.add_server_key(key)
        server.start_server(threading.Event(), _Server(server, judge))
        client.start_client(timeout=20)
        config.write_text(
            config.read_text() + f" PreferredAuthentications {method}\n"
        )
        authenticate(client, find_hop("far", str(config)), _ask)

    yield log_in
    for end in opened:
        end.close()


def _refuse(server: paramiko.Transport) -> int:
    return paramiko.AUTH_FAILED


def _cut(server: paramiko.Transport) -> int:
    server.sock.close()
    return paramiko.AUTH_FAILED


def _send_away(server: paramiko.Transport) -> int:
    message = paramiko.Message()
    message.add_byte(bytes([1]))  # SSH_MSG_DISCONNECT, RFC 4253, section 11.1
    message.add_int(2)
    message.add_string("Too many authentication failures")
    message.add_string("en")
    server._send_message(message)  # type: ignore[attr-defined]
    return paramiko.AUTH_FAILED


@pytest.mark.parametrize("method", ["publickey", "password"])
def test_a_host_that_says_no(login: Login, method: str) -> None:
    with pytest.raises(
        LoginError, match=r"does not let us in.*tried: .*(key|password)"
    ):
        login(_refuse, method)


@pytest.mark.parametrize("method", ["publickey", "password"])
def test_a_line_that_breaks_is_no_answer(login: Login, method: str) -> None:
    with pytest.raises((paramiko.SSHException, OSError, EOFError)):
        login(_cut, method)


@pytest.mark.parametrize("method", ["publickey", "password"])
def test_what_a_host_says_when_it_ends_the_connection(
    login: Login, method: str
) -> None:
    with pytest.raises(LoginError, match=r"Too many authentication failures"):
        login(_send_away, method)
