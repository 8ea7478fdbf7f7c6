"""Logging in as the user's own ssh does: keys, agents, passwords, codes, hops, host keys."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterjob import connect
from clusterjob.errors import (
    HostKeyError,
    LineBrokenError,
    LoginError,
    TransportError,
)
from clusterjob.script import default_session

from .conftest import Reach, open_transport

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEH"


def code() -> str:
    """A time-based one-time password: RFC 6238."""
    key = base64.b32decode(SECRET + "=" * (-len(SECRET) % 8))
    digest = hmac.new(
        key, int(time.time() // 30).to_bytes(8, "big"), hashlib.sha1
    ).digest()
    number = int.from_bytes(digest[digest[-1] & 15 :][:4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def config_of(tmp_path: Path, far: Path, text: str) -> Path:
    path = tmp_path / "config"
    path.write_text(f"{text}\nInclude {far}/config\n")
    return path


HOSTS = [
    "lab-plain",
    "labcsh@lab-plain",
    "labfish@lab-plain",
    "labcsh@lab-bare",
    "labfish@lab-bare",
    "lab-match",
    "lab@lab-plain:2205",
]


@pytest.mark.parametrize("host", HOSTS)
def test_any_login_shell(reach: Reach, host: str) -> None:
    way = reach(host)
    done = way.run("printf 'a\\nb'; echo problem >&2; (exit 7)")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "a\nb", "problem\n")
    assert way.run("exit 3").exit_code == 3
    assert (
        way.run("set -- 'a b' \"c'd\" '$x' '!y' '\\z'; printf '<%s>' \"$@\"").stdout
        == "<a b><c'd><$x><!y><\\z>"
    )
    assert way.run("cat").stdout == ""
    long = "x" * 300_000
    assert way.run(f"cat <<'E'\n{long}\nE").stdout == long + "\n"
    assert way.resolve("~/x").endswith(
        f"/home/{host.partition('@')[0] if '@' in host else 'lab'}/x"
    )
    assert way.connections == 1


@pytest.mark.parametrize("host", ["lab-inner", "lab-command"])
def test_hops(reach: Reach, far: Path, host: str) -> None:
    way = reach(host)
    assert way.run("echo $(hostname) $PWD").stdout.strip().endswith("/home/lab")
    assert "lab" in way.route()
    direct = reach("127.0.0.1:2222")
    with pytest.raises(TransportError, match="cannot be reached"):
        direct.run("true")


def test_an_agent_and_a_locked_key(
    far: Path, tmp_path: Path, answers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host *\n User lab\n HostName 127.0.0.1\n Port 2205\n IdentityFile {far}/locked\n "
        f"UserKnownHostsFile {far}/known_hosts\n"
    )
    way = open_transport("locked-key", "ssh", str(config), 100)
    answers += ["wrong", "open sesame"]
    assert way.run("echo in").stdout == "in\n"
    assert answers == []
    way.close()
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "agent").exists():
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", str(far / "key")], check=True, capture_output=True)
        way = open_transport("by-agent", "ssh", str(config), 100)
        assert way.run("echo in").stdout == "in\n"
        way.close()
        monkeypatch.delenv("SSH_AUTH_SOCK")
        config.write_text(
            f"Host *\n    IdentityAgent {tmp_path}/agent\n{config.read_text()}"
        )
        way = open_transport("by-named-agent", "ssh", str(config), 100)
        assert way.run("echo in").stdout == "in\n"
        way.close()
    finally:
        agent.terminate()
        agent.wait()


def test_a_password_is_asked_for_once_and_never_in_a_loop(
    far: Path, answers: list[str]
) -> None:
    way: Any = open_transport("password@lab-plain", "ssh", str(far / "config"), 1000)
    answers += ["no", "let me in"]
    assert way.run("id -un").stdout == "password\n"
    assert answers == []
    way._client.close()  # the line is lost
    with pytest.raises(LoginError, match=r"again.*connection was lost"):
        way.run("true")
    before = way.connections
    with pytest.raises(LoginError):
        way.run("true")
    assert "let me in" not in repr(vars(way))
    answers += ["let me in"]
    way.login()
    assert way.run("id -un").stdout == "password\n"
    assert way.connections - before <= 2
    way.close()


@pytest.mark.parametrize(
    ("user", "questions"),
    [("otp", ["Password", "Verification code"]), ("both", ["Verification code"])],
)
def test_one_time_codes(
    far: Path, user: str, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def prompt(question: str, echo: bool) -> str:
        asked.append(question)
        return "let me in" if "Password" in question else code()

    monkeypatch.setattr(default_session().connections.hooks, "prompt", prompt)
    way = open_transport(f"{user}@lab-plain", "ssh", str(far / "config"), 1000)
    assert way.run("id -un").stdout == f"{user}\n"
    assert [
        next(word for word in ("Password", "Verification code") if word in question)
        for question in asked
    ] == questions
    assert all(user in question for question in asked)
    way.close()


def test_nobody_to_ask_is_said_at_once(reach: Reach) -> None:
    way = reach("password@lab-plain")
    with pytest.raises(LoginError, match=r"Log in"):
        way.run("true")
    wrong = reach("nobody@lab-plain")
    with pytest.raises(LoginError, match=r"does not let us in"):
        wrong.run("true")
    logins = wrong.connections
    for _ in range(3):
        with pytest.raises(LoginError):
            wrong.run("true")
    if wrong.kind == "ssh":  # refused once: not tried again by itself
        assert len(json.loads(wrong.state.path.read_text())["logins"]) <= logins + 3


def test_connect_logs_in_once_for_all_programs(far: Path, tmp_path: Path) -> None:
    """A person at a terminal answers the questions; then a program that can ask nobody gets
    through.
    """
    profile = tmp_path / "p.ini"
    profile.write_text(
        f"[Attributes]\nremote = otp@lab-plain\ntransport = openssh\nssh_config = {far}/config\n"
    )
    said = terminal(
        [sys.executable, "-m", "clusterjob", "connect", str(profile)],
        {"Password": "let me in", "Verification code": code},
    )
    assert "logged in: otp@127.0.0.1:2205" in said, said
    assert "let me in" not in said
    program = (
        "import clusterjob.transport as t; print(t.Connections().open('otp@lab-plain', "
        f"'openssh', '{far}/config').run('id -un').stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.stdout.strip() == "otp", done.stderr
    found = subprocess.run(
        [sys.executable, "-m", "clusterjob", "hosts"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert re.search(r"otp@lab-plain +reachable +openssh", found.stdout), (
        found.stdout + found.stderr
    )
    ended = subprocess.run(
        [sys.executable, "-m", "clusterjob", "connect", "--close", str(profile)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "the login was ended" in ended.stdout
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert "clusterjob connect" in done.stderr
    found = subprocess.run(
        [sys.executable, "-m", "clusterjob", "hosts"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert re.search(r"otp@lab-plain +needs a login", found.stdout), found.stdout
    assert found.returncode == 1


def test_connect_with_paramiko_asks_in_the_terminal(
    far: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "p.ini"
    profile.write_text(
        f"[Attributes]\nremote = password@lab-plain\nssh_config = {far}/config\n"
    )
    said = terminal(
        [sys.executable, "-m", "clusterjob", "connect", str(profile)],
        {"Password of password": "let me in"},
    )
    assert "logged in: password@127.0.0.1:2205" in said, said
    assert "let me in" not in said
    assert (
        connect(
            str(tmp_path / "local.ini")
            if (tmp_path / "local.ini").write_text("[Attributes]\nbackend = local\n")
            else ""
        )
        == "this machine"
    )


def terminal(command: list[str], replies: dict[str, Any]) -> str:
    """Run a program on a terminal of its own, answer its questions, and return what the screen
    showed.
    """
    pid, line = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    said, answered = "", 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([line], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(line, 4096)
        except OSError:
            break
        if not data:
            break
        said += data.decode("utf-8", "replace")
        for question, reply in replies.items():
            if question in said[answered:]:
                answered = len(said)
                time.sleep(0.1)  # until the echo is off
                os.write(line, f"{reply() if callable(reply) else reply}\n".encode())
    os.close(line)
    os.waitpid(pid, 0)
    return said


# -- host keys -------------------------------------------------------------------------------------


def test_unknown_and_changed_host_keys_are_refused(
    reach: Reach, far: Path, tmp_path: Path
) -> None:
    known = tmp_path / "known"
    known.write_text("")
    config = config_of(tmp_path, far, f"Host *\n    UserKnownHostsFile {known}\n")
    way = reach("lab-plain", config)
    with pytest.raises(HostKeyError) as caught:
        way.run("true")
    assert "ssh" in str(caught.value).splitlines()[-1]
    assert known.read_text() == ""
    other = (far / "host_rsa.pub").read_text().split()
    if way.kind == "ssh":
        shown = subprocess.run(
            ["ssh-keygen", "-l", "-f", str(far / "host_ed25519.pub")],
            capture_output=True,
            text=True,
        ).stdout.split()[1]
        assert shown in str(caught.value)
        way.login = None  # a refusal is remembered
    key = tmp_path / "other"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True
    )
    known.write_text(
        f"[127.0.0.1]:2205 {' '.join((tmp_path / 'other.pub').read_text().split()[:2])}\n"
    )
    changed = reach("labcsh@lab-plain", config)
    with pytest.raises(HostKeyError) as caught:
        changed.run("true")
    if way.kind == "ssh":
        assert "CHANGED" in str(caught.value)
        assert f"ssh-keygen -R '[127.0.0.1]:2205' -f {known}" in str(caught.value)
    # a host that is known by its RSA key alone is asked for that one
    known.write_text(f"[127.0.0.1]:2205 {other[0]} {other[1]}\n")
    assert reach("labfish@lab-plain", config).run("echo in").stdout == "in\n"


def test_revoked_keys_and_patterns(far: Path, tmp_path: Path) -> None:
    key = " ".join((far / "host_ed25519.pub").read_text().split()[:2])
    known = tmp_path / "known"
    config = config_of(tmp_path, far, f"Host *\n    UserKnownHostsFile {known}\n")
    known.write_text(f"[127.0.0.*]:22?5,!other {key}\n")
    assert (
        open_transport("lab-plain", "ssh", str(config), 100).run("echo in").stdout
        == "in\n"
    )
    known.write_text(f"@revoked * {key}\n[127.0.0.1]:2205 {key}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        open_transport("lab@lab-plain", "ssh", str(config), 100).run("true")


# -- hosts that misbehave --------------------------------------------------------------------------


@pytest.fixture
def rude(far: Path) -> Iterator[tuple[int, list[float]]]:
    """A host that accepts, and then drops the line: before it says who it is, so many times as its
    list tells.
    """
    server = socket.create_server(("127.0.0.1", 0))
    seen: list[float] = []
    drops = [3]

    def serve() -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            seen.append(time.monotonic())
            if drops[0] > 0:
                drops[0] -= 1
                line.close()
                continue
            far_end = socket.create_connection(("127.0.0.1", 2205))
            for one, other in ((line, far_end), (far_end, line)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with contextlib.closing(server):
        yield server.getsockname()[1], seen


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def test_a_host_that_drops_before_its_banner(
    rude: tuple[int, list[float]], reach: Reach, far: Path, tmp_path: Path
) -> None:
    port, seen = rude
    config = config_of(
        tmp_path,
        far,
        f"Host rude\n    Port {port}\n    HostKeyAlias [127.0.0.1]:2205\n",
    )
    way = reach("rude", config)
    assert way.run("echo in").stdout == "in\n"
    assert len(seen) == 4


def test_hosts_that_cannot_be_reached(
    reach: Reach, far: Path, tmp_path: Path
) -> None:
    config = config_of(
        tmp_path,
        far,
        "Host closed\n    Port 1\nHost nameless\n    HostName no.such.host.invalid\n    "
        "ConnectTimeout 5\n",
    )
    for host in ("closed", "nameless"):
        way = reach(host, config)
        began = time.monotonic()
        with pytest.raises(LineBrokenError, match="cannot be reached") as caught:
            way.run("true")
        assert caught.value.transient
        assert time.monotonic() - began < 10
