"""How commands and files reach the machine where the scheduler's commands are."""

from __future__ import annotations

import atexit
import os
import threading

from clusterjob.errors import SettingsError, suggest
from clusterjob.transport.base import Completed, Transport, Upload
from clusterjob.transport.local import LocalTransport

__all__ = ["Completed", "LocalTransport", "Transport", "Upload", "close_all", "open_transport"]

KINDS = ("ssh", "openssh")
_open: dict[tuple[str, str, str], Transport] = {}
_lock = threading.Lock()


def open_transport(remote: str, kind: str = "", config: str = "", limit: int = 10) -> Transport:
    """Return the way to a host; ``""`` is this machine.

    A process has one for each host; nothing is connected yet.

    ``kind`` is ``ssh`` (paramiko, the default) or ``openssh``; ``$CLUSTERJOB_TRANSPORT`` goes
    before it. ``config`` replaces ``~/.ssh/config``; ``limit`` bounds the logins in a minute.
    Raises :class:`SettingsError`.
    """
    if not remote:
        return LocalTransport()
    source = "$CLUSTERJOB_TRANSPORT" if os.environ.get("CLUSTERJOB_TRANSPORT") else "transport"
    kind = os.environ.get("CLUSTERJOB_TRANSPORT") or kind or "ssh"
    if kind not in KINDS:
        raise SettingsError(f"{source} = {kind!r} is not known.{suggest(kind, KINDS)}")
    from clusterjob.transport.route import parse_remote

    parse_remote(remote)
    key = (remote, kind, config)
    with _lock:
        if key not in _open:
            if kind == "ssh":
                from clusterjob.transport.ssh import ParamikoTransport as Way
            else:
                from clusterjob.transport.openssh import OpenSshTransport as Way  # type: ignore[assignment]
            _open[key] = Way(remote, config, limit)
        return _open[key]


def close_all() -> None:
    """Close all connections of this process."""
    with _lock:
        for transport in _open.values():
            transport.close()
        _open.clear()


atexit.register(close_all)
