"""Logging in with paramiko.

Keys of the agent and of files, keyboard-interactive, password, in the order the host and the user
want.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterjob.errors import LoginError
from clusterjob.transport.ssh_config import Hop

if TYPE_CHECKING:
    import paramiko

Ask = Callable[
    [str, str, bool], str
]  # host, question, whether the answer may be shown
_FACTORS = 4  # as many as there may be


def authenticate(client: paramiko.Transport, hop: Hop, ask: Ask) -> None:
    """Log in over a connection whose host key was checked.

    Raises :class:`LoginError` with what was tried, where the host says no, and paramiko's error
    where the line broke meanwhile: that is no answer.
    """
    import paramiko

    farewell = _hear_farewell(client)
    takes = "nothing"
    tried: list[str] = []
    try:
        allowed = _find_ways(client, hop)
        if allowed is None:
            return
        for _ in range(_FACTORS):
            takes = ", ".join(allowed) or "nothing"
            left = _take_step(client, hop, ask, allowed, tried)
            if left is None:
                break
            if not left:
                return
            allowed = left
            tried.append("accepted so far; the host wants more")
    except (paramiko.SSHException, OSError, EOFError):
        if not farewell:
            raise
        tried.append(f"then it ended the connection: {farewell[0]}")
    seen = ", ".join(tried) or "nothing"
    raise LoginError(
        f"{hop}: the host does not let us in. It takes {takes}; tried: {seen}.",
        hint=f"Does 'ssh {hop.name}' log in? Key files, user and agent come from ~/.ssh/config; "
        "'transport = openssh' uses ssh itself.",
    )


def _hear_farewell(client: paramiko.Transport) -> list[str]:
    """Return a list that gets what the host says when it ends the connection.

    paramiko raises the same for that as for a line that broke.
    """
    said: list[str] = []

    def hear(message: paramiko.Message) -> None:
        message.get_int()
        said.append(message.get_text())

    client._parse_disconnect = hear  # type: ignore[attr-defined]
    return said


def _find_ways(client: paramiko.Transport, hop: Hop) -> list[str] | None:
    """Ask which ways the host takes; None where it has let us in already."""
    import paramiko

    try:
        client.auth_none(hop.user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    return None


def _take_step(
    client: paramiko.Transport,
    hop: Hop,
    ask: Ask,
    allowed: list[str],
    tried: list[str],
) -> list[str] | None:
    """Try the ways that the host allows; return what it wants besides, None where none did."""
    for method in hop.methods:
        if method in allowed:
            left = _STEPS[method](client, hop, ask, tried)
            if left is not None:
                return left
    return None


def _by_key(
    client: paramiko.Transport, hop: Hop, ask: Ask, tried: list[str]
) -> list[str] | None:
    import paramiko

    for name, key in _keys(hop, ask, tried):
        try:
            return list(client.auth_publickey(hop.user, key))
        # the host's no, a key that the agent does not sign with, or a line that broke
        except paramiko.SSHException as error:
            is_no = isinstance(error, paramiko.AuthenticationException)
            tried.append(f"key {name}" if is_no else f"key {name} ({error})")
            if not client.is_active():
                raise
    return None


def _keys(hop: Hop, ask: Ask, tried: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield keys with their names.

    First those of the agent that the configuration names, then its other ones, then those of files.
    """
    import paramiko

    wanted = {blob: path for path in hop.identity_files if (blob := _public(path))}
    agent = _agent_keys(hop)
    for key in sorted(agent, key=lambda key: key.asbytes() not in wanted):
        if key.asbytes() in wanted or not hop.identities_only:
            name = getattr(key, "comment", "") or key.get_name()
            yield f"{name} of the agent", key
    held = {key.asbytes() for key in agent}
    for path in hop.identity_files:
        if not os.path.exists(path) or _public(path) in held:
            continue
        try:
            yield path, _load(hop, path, ask)
        except (paramiko.SSHException, ValueError, OSError, TypeError) as error:
            tried.append(f"key {path} (cannot be read: {error})")


def _load(hop: Hop, path: str, ask: Ask) -> Any:
    """Read a private key, and ask for its passphrase where it has one."""
    import paramiko

    passphrase = None
    for attempt in range(hop.prompts + 1):
        try:
            # the annotation says str, cryptography takes bytes
            return paramiko.PKey.from_path(path, passphrase)  # type: ignore[arg-type]
        # encrypted, and there was no passphrase
        except (TypeError, paramiko.PasswordRequiredException):
            if passphrase is not None:
                raise
        except (ValueError, paramiko.SSHException):
            if passphrase is None or attempt == hop.prompts:
                raise
        passphrase = ask(str(hop), f"Passphrase of the key {path}:", False).encode()
    raise LoginError(f"{hop}: no passphrase for {path}")


def _public(path: str) -> bytes:
    """Return the public half of a key file, where it lies beside it."""
    import base64

    try:
        fields = (
            Path(f"{path}.pub").read_text(encoding="utf-8", errors="replace").split()
        )
        return base64.b64decode(fields[1])
    except (OSError, IndexError, ValueError):
        return b""


def _agent_keys(hop: Hop) -> list[Any]:
    import paramiko
    from paramiko.agent import AgentSSH

    if hop.agent == "none":
        return []
    path = hop.agent or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        return []
    agent = AgentSSH()
    try:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(60)  # one that asks its user to confirm takes a while
        line.connect(path)
        agent._connect(line)  # type: ignore[attr-defined]
    except (OSError, paramiko.SSHException):
        return []
    return list(agent.get_keys())


def _by_questions(
    client: paramiko.Transport, hop: Hop, ask: Ask, tried: list[str]
) -> list[str] | None:
    import paramiko

    def answer(
        title: str, instructions: str, questions: list[tuple[str, bool]]
    ) -> list[str]:
        head = " ".join(
            part.strip() for part in (title, instructions) if part.strip()
        )
        return [
            ask(str(hop), f"{head} {question}".strip(), echo)
            for question, echo in questions
        ]

    for _ in range(1 if hop.batch else hop.prompts):
        try:
            if hop.batch:
                raise LoginError(
                    f"{hop} asks questions, and the configuration says BatchMode yes"
                )
            return list(client.auth_interactive(hop.user, answer))
        except paramiko.AuthenticationException:
            tried.append("keyboard-interactive")
            if not client.is_active():
                raise
    return None


def _by_password(
    client: paramiko.Transport, hop: Hop, ask: Ask, tried: list[str]
) -> list[str] | None:
    import paramiko

    for _ in range(0 if hop.batch else hop.prompts):
        try:
            password = ask(str(hop), f"Password of {hop.user}:", False)
            return list(client.auth_password(hop.user, password, fallback=False))
        except paramiko.AuthenticationException:
            tried.append("password")
            if not client.is_active():
                raise
    return None


_STEPS: dict[str, Callable[[Any, Hop, Ask, list[str]], list[str] | None]] = {
    "publickey": _by_key,
    "keyboard-interactive": _by_questions,
    "password": _by_password,
}
