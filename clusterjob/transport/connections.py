"""The ways to hosts that are open: one each, made when it is first used."""

from __future__ import annotations

import os
import threading

from clusterjob.errors import SettingsError, suggest
from clusterjob.transport.base import Hooks, Transport
from clusterjob.transport.local import LocalTransport
from clusterjob.transport.remote import RemoteTransport

KINDS = ("ssh", "openssh")


class Connections:
    """The open connections of a session, or of several that share them."""

    def __init__(self, hooks: Hooks | None = None) -> None:
        self.hooks = hooks or Hooks()
        self._open: dict[tuple[str, str, str], RemoteTransport] = {}
        self._lock = threading.Lock()

    def open(
        self,
        remote: str,
        kind: str = "",
        config: str = "",
        limit: int = 10,
    ) -> Transport:
        """Return the way to a host; ``""`` is this machine. Nothing is connected yet.

        ``kind`` is ``ssh`` (paramiko, the default) or ``openssh``; ``$CLUSTERJOB_TRANSPORT`` goes
        before it. ``config`` replaces ``~/.ssh/config``; ``limit`` bounds the logins in a minute.
        Raises :class:`SettingsError`.
        """
        if not remote:
            return LocalTransport(self.hooks)
        from clusterjob.transport.ssh_config import parse_remote

        kind = _choose_kind(kind)
        parse_remote(remote)
        key = (remote, kind, config)
        with self._lock:
            if key not in self._open:
                self._open[key] = _make(kind, remote, config, limit, self.hooks)
            return self._open[key]

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for transport in self._open.values():
                transport.close()
            self._open.clear()


def _choose_kind(named: str) -> str:
    asked = os.environ.get("CLUSTERJOB_TRANSPORT")
    kind = asked or named or "ssh"
    if kind not in KINDS:
        source = "$CLUSTERJOB_TRANSPORT" if asked else "transport"
        raise SettingsError(
            f"{source} = {kind!r} is not known.{suggest(kind, KINDS)}"
        )
    return kind


def _make(
    kind: str,
    remote: str,
    config: str,
    limit: int,
    hooks: Hooks,
) -> RemoteTransport:
    """Make a transport; its module, and what that needs, is loaded now."""
    if kind == "ssh":
        from clusterjob.transport.paramiko_ssh import ParamikoTransport

        return ParamikoTransport(remote, config, limit, hooks)
    from clusterjob.transport.openssh import OpenSshTransport

    return OpenSshTransport(remote, config, limit, hooks)
