"""What the user's ssh configuration says about a host: names, keys, hops.

``ssh -G`` is asked, which knows all of ssh_config(5). Where there is no ``ssh`` program, paramiko's
reading of the file stands in, with ``Include`` added.
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
from dataclasses import dataclass, replace
from pathlib import Path

from clusterjob.errors import SettingsError, TransportError
from clusterjob.plain_files import expand, read_text

_REMOTE = re.compile(
    r"(?:(?P<user>[^@\s/:]+)@)?(?P<host>[^@\s/:\[\]]+|\[[0-9a-fA-F:.%\w]+\])(?::(?P<port>\d{1,5}))?"
)
_METHODS = {
    "publickey": "pubkeyauthentication",
    "keyboard-interactive": "kbdinteractiveauthentication",
    "password": "passwordauthentication",
}
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
        return f"{self.user}@{self.hostname}" + (
            f":{self.port}" if self.port != 22 else ""
        )


def parse_remote(remote: str) -> tuple[str | None, str, int | None]:
    """Take ``[user@]host[:port]`` or ``ssh://[user@]host[:port]`` apart.

    Raises :class:`SettingsError` for anything else.
    """
    match = _REMOTE.fullmatch(remote.removeprefix("ssh://").rstrip("/"))
    if match is not None:
        user, host, port = match["user"], match["host"], int(match["port"] or 22)
        looks_like_option = host.startswith("-") or (user or "").startswith("-")
        if not looks_like_option and 0 < port < 65536:
            return user, host.strip("[]"), port if match["port"] else None
    raise SettingsError(
        f"remote = {remote!r} is not a host: expected 'login.cluster.edu', "
        "'me@login.cluster.edu:22' or a Host of ~/.ssh/config"
    )


def find_hop(remote: str, config: str = "") -> Hop:
    """Return what the user's configuration says about a host.

    That is ``config``, else ``~/.ssh/config``. Raises :class:`SettingsError`,
    :class:`TransportError`.
    """
    user, host, port = parse_remote(remote)
    has_ssh = shutil.which("ssh") is not None
    options = (
        _ssh_options(remote, config) if has_ssh else _paramiko_options(host, config)
    )
    first = {name: values[-1] for name, values in options.items()}
    hop = Hop(
        hostname=first.get("hostname", host),
        port=port or int(first.get("port", 22)),
        user=user or first.get("user") or getpass.getuser(),
        name=remote,
    )
    command = _proxy_command(first, hop, host)
    jumps = (
        () if command else tuple(filter(None, _given(first, "proxyjump").split(",")))
    )
    return replace(
        hop,
        batch=first.get("batchmode") == "yes",
        prompts=int(first.get("numberofpasswordprompts") or 3),
        identity_files=tuple(
            map(os.path.expanduser, options.get("identityfile", ()))
        ),
        identities_only=first.get("identitiesonly") == "yes",
        agent=_agent(first.get("identityagent", "")),
        known_hosts=_known_hosts_files(options),
        key_alias=_given(first, "hostkeyalias"),
        methods=_methods(first),
        connect_timeout=float(_given(first, "connecttimeout") or 20),
        alive=float(first.get("serveraliveinterval") or 0) or 15.0,
        masters=bool(_given(first, "controlpath")),
        command=command,
        jumps=jumps,
    )


def _given(options: Mapping[str, str], name: str) -> str:
    value = options.get(name, "")
    return "" if value == "none" else value


def _proxy_command(options: Mapping[str, str], hop: Hop, host: str) -> str:
    """Return ``ProxyCommand`` with its tokens filled in (ssh_config(5), TOKENS)."""
    tokens = {
        "%h": hop.hostname,
        "%p": str(hop.port),
        "%r": hop.user,
        "%n": host,
        "%%": "%",
    }
    command = _given(options, "proxycommand")
    return re.sub(r"%[hprn%]", lambda match: tokens[match[0]], command)


def _methods(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the ways to log in that are allowed, in the order that the user prefers."""
    allowed = [
        method
        for method, key in _METHODS.items()
        if options.get(key, "yes") in ("yes", "true", "unbound", "host-bound")
    ]
    wished = options.get("preferredauthentications", "").split(",")
    preferred = [word for word in wished if word in allowed]
    return tuple(preferred or allowed)


def _known_hosts_files(options: Mapping[str, list[str]]) -> tuple[str, ...]:
    files = [
        *options.get("userknownhostsfile", []),
        *options.get("globalknownhostsfile", []),
    ]
    named = " ".join(files) or _KNOWN_HOSTS
    return tuple(os.path.expanduser(path) for path in named.split() if path != "none")


def _agent(value: str) -> str:
    """Return the socket that ``IdentityAgent`` names: empty for the usual one, or ``none``."""
    if value == "none":
        return "none"
    if value in ("", "SSH_AUTH_SOCK"):
        return ""
    return os.path.expanduser(
        os.environ.get(value[1:], "none") if value.startswith("$") else value
    )


def ssh_options(remote: str, config: str) -> list[str]:
    """Return the options of the ssh program that a host as the user wrote it stands for."""
    user, _, port = parse_remote(remote)
    options = ["-F", os.path.expanduser(config)] if config else []
    options += ["-l", user] if user else []
    options += ["-p", str(port)] if port else []
    return options


def _ssh_options(remote: str, config: str) -> dict[str, list[str]]:
    command = [
        "ssh",
        "-G",
        *ssh_options(remote, config),
        "--",
        parse_remote(remote)[1],
    ]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(
            f"{remote}: the ssh configuration cannot be read: {error}"
        ) from error
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

    path = expand(config or "~/.ssh/config")
    lines = _included(path, path.parent)
    found = paramiko.SSHConfig.from_text("\n".join(lines)).lookup(host)
    usual = [f"~/.ssh/id_{kind}" for kind in ("ed25519", "ecdsa", "rsa")]
    files = list(found.pop("identityfile", usual))
    options = {
        name: [value] for name, value in found.items() if isinstance(value, str)
    }
    return {"identityfile": files, **options}


def _included(path: Path, folder: Path, depth: int = 0) -> list[str]:
    """Return the lines of a configuration file, with those of the files it includes.

    A missing file is empty.
    """
    try:
        text = read_text(path, errors="surrogateescape")
    except (OSError, ValueError):
        return []
    lines = []
    for line in text.splitlines():
        match = re.match(r"\s*include[\s=]+(.*)", line, re.IGNORECASE)
        if match and depth < 16:  # as many as ssh_config(5) takes
            for pattern in shlex.split(match[1]):
                for name in sorted(glob.glob(str(folder / expand(pattern)))):
                    lines += _included(Path(name), folder, depth + 1)
        else:
            lines.append(line)
    return lines
