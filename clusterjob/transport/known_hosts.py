"""Known host keys: the file format of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.

Hashed names, patterns and @revoked are understood.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clusterjob.errors import HostKeyError
from clusterjob.transport.ssh_config import Hop

if TYPE_CHECKING:
    import paramiko


@dataclass(frozen=True)
class KnownKey:
    """One line of a file."""

    kind: str
    key: bytes
    revoked: bool
    source: str  # file:line


def known_keys(hop: Hop) -> list[KnownKey]:
    """Return the keys that the user's files have for a host; files that are not there are empty."""
    name = (hop.key_alias or hop.hostname).lower()
    names = {f"[{name}]:{hop.port}"}
    if hop.port == 22 or hop.key_alias:
        names.add(name)
    return [known for path in hop.known_hosts for known in _read(path, names)]


def _read(path: str, names: Iterable[str]) -> Iterator[KnownKey]:
    """Yield the keys of a file that belong to one of the names."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        # certificates of hosts: paramiko cannot check them
        if marker == "@cert-authority":
            continue
        if not any(_matches(fields[0], name) for name in names):
            continue
        try:
            key = base64.b64decode(fields[2], validate=True)
        except binascii.Error:
            continue
        yield KnownKey(fields[1], key, marker == "@revoked", f"{path}:{number}")


def _matches(field: str, name: str) -> bool:
    """Whether the names of a line, which may be hashed, patterns or negated, mean this one."""
    if field.startswith("|1|"):
        return _matches_hash(field, name)
    found = False
    for pattern in field.lower().split(","):
        # brackets stand for themselves here
        wanted = pattern.removeprefix("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name, wanted):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _matches_hash(field: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in field[3:].split("|"))
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(
        hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest
    )


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint as ssh-keygen(1) prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip(
        "="
    )


def check_host_key(hop: Hop, key: paramiko.PKey) -> None:
    """Raise :class:`HostKeyError` unless the key is one that the user knows the host by."""
    blob = key.asbytes()
    known = known_keys(hop)
    for item in known:
        if item.revoked and item.key == blob:
            raise HostKeyError(
                f"{hop}: its key {fingerprint(blob)} is marked as revoked in {item.source}.",
                hint="Do not connect; ask whoever runs the host.",
            )
    valid = [item for item in known if not item.revoked]
    if any(item.key == blob for item in valid):
        return
    kind = key.get_name().upper().removeprefix("SSH-")
    if valid:
        raise _changed_key(hop, blob, kind, valid[0])
    raise HostKeyError(
        f"{hop}: the host is not known. Its key is {fingerprint(blob)} ({kind}).",
        hint="Compare it with the fingerprint that your centre publishes; then log in once and "
        f"answer 'yes':\n  {_first_login(hop)}",
    )


def _changed_key(hop: Hop, blob: bytes, kind: str, known: KnownKey) -> HostKeyError:
    name = hop.key_alias or hop.hostname
    word = name if hop.port == 22 or hop.key_alias else f"'[{name}]:{hop.port}'"
    file = hop.known_hosts[0] if hop.known_hosts else "~/.ssh/known_hosts"
    return HostKeyError(
        f"{hop}: the host key has CHANGED. It is now {fingerprint(blob)} ({kind}); known is "
        f"{fingerprint(known.key)} ({known.source}).",
        hint="Either the host was installed anew, or somebody stands between you and it. "
        "Compare the fingerprint with the one that your centre publishes. If it is right:\n"
        f"  ssh-keygen -R {word} -f {file}\n  {_first_login(hop)}",
    )


def _first_login(hop: Hop) -> str:
    """Return the command by which a person logs in to the host."""
    port = f"-p {hop.port} " if hop.port != 22 else ""
    is_plain = "@" not in hop.name and ":" not in hop.name
    return f"ssh {port}{hop.name if is_plain else f'{hop.user}@{hop.hostname}'}"
