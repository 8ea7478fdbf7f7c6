"""What the user's ssh configuration says about a host: names, keys, hops.

``ssh -G`` is asked, which knows all of ssh_config(5).

Where there is no ``ssh`` program, paramiko's reading of the file stands in, with ``Include`` added.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clusterjob.errors import SettingsError, TransportError

_REMOTE = re.compile(
    r"(?:(?P<user>[^@\s/:]+)@)?(?P<host>[^@\s/:\[\]]+|\[[0-9a-fA-F:.%\w]+\])(?::(?P<port>\d{1,5}))?"
)
_KNOWN_HOSTS = "~/.ssh/known_hosts /etc/ssh/ssh_known_hosts"


@dataclass(frozen=True)
class Hop:
    """One login on the way to a host."""

    hostname: str
    port: int
    user: str
    name: str = ""  # as the user wrote it
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    agent: str = ""  # a socket; "" for $SSH_AUTH_SOCK, "none"
    known_hosts: tuple[str, ...] = ()
    key_alias: str = ""
    methods: tuple[str, ...] = ("publickey", "keyboard-interactive", "password")
    batch: bool = False  # asks the user nothing
    prompts: int = 3
    connect_timeout: float = 20.0  # s
    alive: float = 15.0  # s between signs of life
    masters: bool = False  # the user shares connections to it: ControlPath
    command: str = ""  # ProxyCommand, filled in
    jumps: tuple[str, ...] = ()  # the hosts on the way, the nearest first

    def __str__(self) -> str:
        return f"{self.user}@{self.hostname}" + (f":{self.port}" if self.port != 22 else "")


def parse_remote(remote: str) -> tuple[str | None, str, int | None]:
    """Take ``[user@]host[:port]`` or ``ssh://[user@]host[:port]`` apart.

    Raises :class:`SettingsError` for anything else.
    """
    match = _REMOTE.fullmatch(remote.removeprefix("ssh://").rstrip("/"))
    if (
        match is None
        or match["host"].startswith("-")
        or (match["user"] or "").startswith("-")
        or not 0 < int(match["port"] or 22) < 65536
    ):
        raise SettingsError(
            f"remote = {remote!r} is not a host: expected 'login.cluster.edu', "
            "'me@login.cluster.edu:22' or a Host of ~/.ssh/config"
        )
    return match["user"], match["host"].strip("[]"), int(match["port"]) if match["port"] else None


def find_hop(remote: str, config: str = "") -> Hop:
    """Return what the user's configuration (``config``, else ``~/.ssh/config``) says about a host."""
    user, host, port = parse_remote(remote)
    options = (
        _ssh_options(remote, config) if shutil.which("ssh") else _paramiko_options(host, config)
    )
    first = {name: values[-1] for name, values in options.items()}
    hostname, number = first.get("hostname", host), port or int(first.get("port", 22))
    name = user or first.get("user") or getpass.getuser()
    tokens = {"%h": hostname, "%p": str(number), "%r": name, "%n": host, "%%": "%"}
    command = re.sub(r"%[hprn%]", lambda match: tokens[match[0]], _given(first, "proxycommand"))
    methods = [
        method
        for method, key in _METHODS.items()
        if first.get(key, "yes") in ("yes", "true", "unbound", "host-bound")
    ]
    preferred = [
        word for word in first.get("preferredauthentications", "").split(",") if word in methods
    ]
    alive = float(first.get("serveraliveinterval") or 0)
    timeout = _given(first, "connecttimeout")
    known = (
        " ".join([*options.get("userknownhostsfile", []), *options.get("globalknownhostsfile", [])])
        or _KNOWN_HOSTS
    )
    return Hop(
        hostname,
        number,
        name,
        name=remote,
        batch=first.get("batchmode") == "yes",
        prompts=int(first.get("numberofpasswordprompts") or 3),
        identity_files=tuple(os.path.expanduser(path) for path in options.get("identityfile", ())),
        identities_only=first.get("identitiesonly") == "yes",
        agent=_agent(first.get("identityagent", "")),
        known_hosts=tuple(os.path.expanduser(path) for path in known.split() if path != "none"),
        key_alias=_given(first, "hostkeyalias"),
        methods=tuple(preferred or methods),
        connect_timeout=float(timeout or 20),
        alive=alive or 15.0,
        masters=bool(_given(first, "controlpath")),
        command=command,
        jumps=() if command else tuple(filter(None, _given(first, "proxyjump").split(","))),
    )


_METHODS = {
    "publickey": "pubkeyauthentication",
    "keyboard-interactive": "kbdinteractiveauthentication",
    "password": "passwordauthentication",
}


def _given(options: Mapping[str, str], name: str) -> str:
    value = options.get(name, "")
    return "" if value == "none" else value


def _agent(value: str) -> str:
    if value in ("", "SSH_AUTH_SOCK", "none"):
        return "none" if value == "none" else ""
    return os.path.expanduser(os.environ.get(value[1:], "none") if value.startswith("$") else value)


def ssh_options(remote: str, config: str) -> list[str]:
    """Return the options of the ssh program that say what stands before and behind the name of a
    host.
    """
    user, _, port = parse_remote(remote)
    return [
        *(["-F", os.path.expanduser(config)] if config else []),
        *(["-l", user] if user else []),
        *(["-p", str(port)] if port else []),
    ]


def _ssh_options(remote: str, config: str) -> dict[str, list[str]]:
    command = ["ssh", "-G", *ssh_options(remote, config), "--", parse_remote(remote)[1]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(f"{remote}: the ssh configuration cannot be read: {error}") from error
    if done.returncode != 0:
        raise SettingsError(
            f"remote = {remote!r}: the ssh configuration cannot be read: {done.stderr.strip()}"
        )
    options: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name, []).append(value)
    return options


def _paramiko_options(host: str, config: str) -> dict[str, list[str]]:
    import paramiko

    path = Path(config or "~/.ssh/config").expanduser()
    lines = _included(path, path.parent)
    found = paramiko.SSHConfig.from_text("\n".join(lines)).lookup(host)
    files = (
        [found.pop("identityfile")]
        if "identityfile" in found
        else [[f"~/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]]
    )
    return {
        "identityfile": list(files[0]),
        **{name: [value] for name, value in found.items() if isinstance(value, str)},
    }


def _included(path: Path, folder: Path, depth: int = 0) -> list[str]:
    """Return the lines of a configuration file with those of the files it includes in their places;
    a missing file is empty.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        match = re.match(r"\s*include[\s=]+(.*)", line, re.IGNORECASE)
        if match and depth < 16:  # as many as ssh_config(5) takes
            for pattern in shlex.split(match[1]):
                for name in sorted(glob.glob(str(folder / Path(pattern).expanduser()))):
                    lines += _included(Path(name), folder, depth + 1)
        else:
            lines.append(line)
    return lines
