"""What this machine remembers of each host: its home folder, the last login, and the logins of the
last minute, by all processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterjob.errors import TransportError

_MINUTE = 60.0


def folder() -> Path:
    """Return the folder of the hosts' files: ``$XDG_STATE_HOME/clusterjob/hosts``."""
    return (
        Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
        / "clusterjob"
        / "hosts"
    )


def make_folder() -> Path:
    """Make the folder, for its owner only."""
    path = folder()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.mkdir(exist_ok=True, mode=0o700)
    return path


class Host:
    """One host's file.

    Where it cannot be written everything works but for what it is for, between processes.
    """

    def __init__(self, name: str, limit: int = 10, config: str = "") -> None:
        self.name, self.limit = name, limit
        word = (
            f"{name}\0{config}" if config else name
        )  # another configuration may mean another host by the name
        self.path = (
            folder()
            / f"{hashlib.sha256(word.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.json"
        )
        self._own: list[float] = []
        self._home: str | None = None

    @property
    def home(self) -> str | None:
        """The user's home folder over there, where it is known."""
        if self._home is None:
            home = self.read().get("home")
            self._home = home if isinstance(home, str) else None
        return self._home

    def read(self) -> dict[str, Any]:
        """Return what is known: ``host``, ``home``, ``connected`` (s since the epoch), ``route``,
        ``logins``.
        """
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def note(self, **values: Any) -> None:
        """Write values down."""
        self._home = values.get("home", self._home)
        with self._changed() as data:
            data.update(values)

    def admit(self, patience: float = 60.0) -> None:
        """Wait until one more login is allowed: ``limit`` a minute, counted over all processes of
        this machine's user.

        Centres ban users who log in again and again (aiida-core 995, 4288). Raises
        :class:`TransportError` where the wait would be longer than ``patience`` seconds.
        """
        deadline = time.time() + patience
        while True:
            with self._changed() as data:
                now = time.time()
                logins = [
                    when for when in data.get("logins", self._own) if now - _MINUTE < when <= now
                ]
                if len(logins) < self.limit:
                    data["logins"] = self._own = [*logins, now]
                    return
                wait = logins[-self.limit] + _MINUTE - now
            if now + wait > deadline:
                raise TransportError(
                    f"{self.name}: {len(logins)} logins in the last minute, as many as [Limits] "
                    f"connections allows; try again in {wait:.0f} s"
                )
            time.sleep(min(wait, 1.0) + 0.01)

    @contextlib.contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        try:
            make_folder()
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            yield {"logins": self._own}
            return
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                data = json.loads(file.read() or "{}")
            except ValueError:
                data = {}
            yield data
            data["host"] = self.name
            file.seek(0)
            file.truncate()
            json.dump(data, file)


def known_hosts() -> list[dict[str, Any]]:
    """Return what is known of every host that was used, by name."""
    found = []
    for path in folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return sorted(
        (item for item in found if isinstance(item, dict) and item.get("host")),
        key=lambda item: str(item["host"]),
    )
