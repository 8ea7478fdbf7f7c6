"""Known host keys: the file format of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT, with hashed names,
patterns and @revoked.
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
from clusterjob.transport.route import Hop

if TYPE_CHECKING:
    import paramiko


@dataclass(frozen=True)
class Known:
    """One line of a file."""

    kind: str
    key: bytes
    revoked: bool
    place: str  # file:line


def known_keys(hop: Hop) -> list[Known]:
    """Return the keys that the user's files have for a host; files that are not there are empty."""
    name = hop.key_alias or hop.hostname
    names = (
        {name.lower(), f"[{name.lower()}]:{hop.port}"}
        if hop.port == 22
        else {f"[{name.lower()}]:{hop.port}"}
    )
    if hop.key_alias:
        names.add(name.lower())
    return [known for path in hop.known_hosts for known in _read(path, names)]


def _read(path: str, names: Iterable[str]) -> Iterator[Known]:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if (
            len(fields) < 3 or fields[0].startswith("#") or marker == "@cert-authority"
        ):  # certificates of hosts: paramiko cannot check them
            continue
        if any(_matches(fields[0], name) for name in names):
            try:
                yield Known(
                    fields[1],
                    base64.b64decode(fields[2], validate=True),
                    marker == "@revoked",
                    f"{path}:{number}",
                )
            except binascii.Error:
                continue


def _matches(field: str, name: str) -> bool:
    if field.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part) for part in field[3:].split("|"))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    found = False
    for pattern in field.lower().split(","):
        wanted = pattern.removeprefix("!").replace("[", "[[]")  # brackets stand for themselves here
        if fnmatch.fnmatchcase(name, wanted):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def fingerprint(key: bytes) -> str:
    """Return a key's fingerprint as ssh-keygen(1) prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def check(hop: Hop, key: paramiko.PKey) -> None:
    """Raise :class:`HostKeyError` unless the key is one that the user knows the host by."""
    blob = key.asbytes()
    known = known_keys(hop)
    kind = key.get_name().upper().removeprefix("SSH-")
    name = hop.key_alias or hop.hostname
    word = name if hop.port == 22 or hop.key_alias else f"'[{name}]:{hop.port}'"
    file = hop.known_hosts[0] if hop.known_hosts else "~/.ssh/known_hosts"
    revoked = next((item for item in known if item.revoked and item.key == blob), None)
    if revoked is not None:
        raise HostKeyError(
            f"{hop}: its key {fingerprint(blob)} is marked as revoked in {revoked.place}.",
            hint="Do not connect; ask whoever runs the host.",
        )
    valid = [item for item in known if not item.revoked]
    if any(item.key == blob for item in valid):
        return
    if valid:
        raise HostKeyError(
            f"{hop}: the host key has CHANGED. It is now {fingerprint(blob)} ({kind}); known is "
            f"{fingerprint(valid[0].key)} ({valid[0].place}).",
            hint="Either the host was installed anew, or somebody stands between you and it. "
            "Compare the fingerprint with the one that your centre "
            f"publishes. If it is right:\n  ssh-keygen -R {word} -f {file}\n  {_visit(hop)}",
        )
    raise HostKeyError(
        f"{hop}: the host is not known. Its key is {fingerprint(blob)} ({kind}).",
        hint="Compare it with the fingerprint that your centre publishes; then log in once and "
        f"answer 'yes':\n  {_visit(hop)}",
    )


def _visit(hop: Hop) -> str:
    port = f"-p {hop.port} " if hop.port != 22 else ""
    return (
        f"ssh {port}{hop.name}"
        if "@" not in hop.name and ":" not in hop.name
        else f"ssh {port}{hop.user}@{hop.hostname}"
    )
