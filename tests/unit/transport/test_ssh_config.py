"""What the user's ssh configuration says; known hosts; what this machine remembers of a host."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import stat
from pathlib import Path

import pytest

from clusterjob import JobScript
from clusterjob.errors import SettingsError
from clusterjob.script import default_session
from clusterjob.transport import Connections, list_hosts, ssh_config
from clusterjob.transport.host_state import HostState
from clusterjob.transport.known_hosts import fingerprint, known_keys
from clusterjob.transport.openssh import socket_path
from clusterjob.transport.ssh_config import Hop, find_hop, parse_remote

CONFIG = """Include more/*.conf
Host *.edu login
    User me
    Port 2200
    IdentityFile ~/.ssh/special
    ConnectTimeout 7
Match host behind.lab
    ProxyJump login,second@hop:23
Host byname
    HostName 10.0.0.1
    ProxyCommand nc -X %% %h %p %r
"""


@pytest.fixture(params=["ssh", "paramiko"])
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    if request.param == "paramiko":
        monkeypatch.setattr(ssh_config.shutil, "which", lambda name: None)
    elif not shutil.which("ssh"):
        pytest.skip("no ssh program")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/one.conf").write_text(
        "Host included\n    HostName real.name\n    ServerAliveInterval 33\n    HostKeyAlias "
        "alias\n"
    )
    path = tmp_path / "config"
    path.write_text(CONFIG.replace("more/", f"{tmp_path}/more/"))
    return str(path)


def test_the_configuration_is_followed(config: str) -> None:
    hop = find_hop("login", config)
    assert (hop.hostname, hop.port, hop.user, hop.connect_timeout) == (
        "login",
        2200,
        "me",
        7,
    )
    assert str(Path.home() / ".ssh/special") in hop.identity_files or any(
        path.endswith(".ssh/special") for path in hop.identity_files
    )
    assert find_hop("other@login:99", config).user == "other"
    assert find_hop("other@login:99", config).port == 99
    assert find_hop("ssh://x.edu:44/", config).port == 44
    assert find_hop("behind.lab", config).jumps == ("login", "second@hop:23")
    hop = find_hop("byname", config)
    assert hop.command == f"nc -X % 10.0.0.1 22 {hop.user}"
    assert hop.jumps == ()
    hop = find_hop("included", config)
    assert (hop.hostname, hop.alive, hop.key_alias) == ("real.name", 33, "alias")
    assert hop.known_hosts


@pytest.mark.parametrize(
    "remote",
    [
        "-oProxyCommand=touch pwned",
        "-x@host",
        "a b",
        "host:0",
        "host:99999",
        "user@@host",
        "ho\nst",
        "a/b",
        "",
        "host:x",
    ],
)
def test_what_is_no_host_is_refused(remote: str) -> None:
    with pytest.raises(SettingsError, match="is not a host"):
        parse_remote(remote)


def test_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SettingsError,
        match=r"transport = 'openssl' is not known. Did you mean 'openssh'",
    ):
        Connections().open("host", "openssl")
    monkeypatch.setenv("CLUSTERJOB_TRANSPORT", "openssh")
    assert type(Connections().open("host", "ssh")).__name__ == "OpenSshTransport"
    assert Connections().open("").host == ""


def test_the_way_makes_no_difference_to_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = [
        JobScript("true", remote="host", rootdir="/there", backend="slurm", **more)
        for more in ({}, {"transport": "openssh"}, {"ssh_config": "x"})
    ]
    records = [job.prepare(default_session().engine) for job in jobs]
    assert len({record.key for record in records}) == 1
    assert len({record.cluster_id for record in records}) == 1


def test_a_dry_run_needs_no_host() -> None:
    job = JobScript(
        "true", remote="no.such.host.invalid", workdir="run", backend="slurm"
    )
    assert "\ncj_runs=" in str(job)


def test_known_hosts(tmp_path: Path) -> None:
    key = base64.b64encode(b"key").decode()
    salt = b"12345678901234567890"
    hashed = base64.b64encode(
        hmac.new(salt, b"[host]:2200", hashlib.sha1).digest()
    ).decode()
    path = tmp_path / "known"
    lines = [
        f"|1|{base64.b64encode(salt).decode()}|{hashed} ssh-ed25519 {key}",
        "# comment",
        "",
        "garbage",
        f"@cert-authority * ssh-rsa {key}",
        f"*.edu,!bad.edu ssh-rsa {key} comment",
        "[host]:2200 ssh-rsa not-base-64",
        f"HOST,10.0.0.? ecdsa {key}",
        "|1|bad|x ssh-rsa AAAA",
    ]
    path.write_text("\n".join(lines))

    def kinds(name: str, port: int = 22, alias: str = "") -> list[str]:
        return [
            known.kind
            for known in known_keys(
                Hop(
                    name,
                    port,
                    "me",
                    known_hosts=(str(path), str(tmp_path / "missing")),
                    key_alias=alias,
                )
            )
        ]

    assert kinds("host", 2200) == ["ssh-ed25519"]
    assert kinds("host") == ["ecdsa"]
    assert kinds("10.0.0.7") == ["ecdsa"]
    assert kinds("x.edu") == ["ssh-rsa"]
    assert kinds("bad.edu") == []
    assert kinds("x.edu", 2200) == []
    assert kinds("anything", 99, "x.edu") == ["ssh-rsa"]
    assert fingerprint(b"key") == "SHA256:" + base64.b64encode(
        hashlib.sha256(b"key").digest()
    ).decode().rstrip("=")


def test_what_is_remembered_of_a_host(tmp_path: Path) -> None:
    host = HostState("me@host", 2)
    assert host.home is None
    host.note(home="/home/me", route="way")
    assert HostState("me@host").home == "/home/me"
    assert HostState("other").home is None
    host.admit()
    host.admit()
    assert len(json.loads(host.path.read_text())["logins"]) == 2
    assert [item.host for item in list_hosts()] == ["me@host"]
    for path in (host.path, host.path.parent, host.path.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == (
            0o600 if path == host.path else 0o700
        )
    host.path.write_text("garbage")
    assert list_hosts() == []
    host.note(home="/again")
    assert json.loads(host.path.read_text()) == {"home": "/again", "host": "me@host"}


def test_a_state_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    host = HostState("host", 1)
    host.note(home="/x")
    assert host.home == "/x"
    host.admit()


def test_the_folder_of_sockets_where_the_session_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job on a node has XDG_RUNTIME_DIR of the login node."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/not-there")
    assert socket_path("host").startswith(f"{tmp_path}/clusterjob-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert socket_path("host").startswith(f"{tmp_path}/clusterjob/")
