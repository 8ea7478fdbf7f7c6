"""How commands and files reach the machine where the scheduler's commands are."""

from __future__ import annotations

from clusterjob.errors import SettingsError
from clusterjob.transport.base import Completed, Transport, Upload
from clusterjob.transport.local import LocalTransport

__all__ = ["Completed", "LocalTransport", "Transport", "Upload", "open_transport"]


def open_transport(remote: str) -> Transport:
    """Return the way to a host; ``""`` is this machine. Raises :class:`SettingsError` for a host it cannot reach yet."""
    if remote:
        raise SettingsError(f"remote = {remote!r}: this version of clusterjob submits on this machine only; run it on {remote} itself")
    return LocalTransport()
