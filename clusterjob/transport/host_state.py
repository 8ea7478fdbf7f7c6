"""What this machine remembers of each host, for all processes of its user.

That is its home folder, the last login, and the logins of the last minute.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterjob.errors import TransportError
from clusterjob.plain_files import read_text

_MINUTE = 60.0
_MOST_BYTES = 1 << 20  # of a file


@dataclass(frozen=True)
class KnownHost:
    """What is written down about a host that was used."""

    host: str
    home: str | None = None
    connected: float | None = None  # s since the epoch: the last login
    route: str = ""
    transport: str = ""
    ssh_config: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> KnownHost:
        """Make one of what a file says; what cannot be so is as good as not there."""
        connected = data.get("connected")
        texts = {
            name: value
            for name in ("host", "home", "route", "transport", "ssh_config")
            if isinstance(value := data.get(name), str) and value.isprintable()
        }
        return cls(
            host=texts.get("host", ""),
            home=texts.get("home"),
            connected=connected if _is_time(connected) else None,
            route=texts.get("route", ""),
            transport=texts.get("transport", ""),
            ssh_config=texts.get("ssh_config", ""),
        )


def _is_time(value: object) -> bool:
    """Whether a value is a time that a date can be made of."""
    return type(value) in (int, float) and 0 <= value < 2.5e11  # type: ignore[operator]


def _folder() -> Path:
    """Return the folder of the hosts' files: ``$XDG_STATE_HOME/clusterjob/hosts``."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return state / "clusterjob" / "hosts"


def make_state_folder() -> Path:
    """Make the folder of what is remembered, for its owner only, and return it."""
    path = _folder()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.mkdir(exist_ok=True, mode=0o700)
    return path


class HostState:
    """One host's file.

    Where it cannot be written everything works but for what it is for, between processes.
    """

    def __init__(self, name: str, limit: int = 10, config: str = "") -> None:
        self.name = name
        self.limit = limit
        # another configuration may mean another host by the name
        word = f"{name}\0{config}" if config else name
        digest = hashlib.sha256(word.encode("utf-8", "surrogateescape")).hexdigest()
        self.path = _folder() / f"{digest[:16]}.json"
        self._own_logins: list[float] = []
        self._home: str | None = None

    @property
    def home(self) -> str | None:
        """The user's home folder over there, where it is known."""
        if self._home is None:
            self._home = self.read().home
        return self._home

    def read(self) -> KnownHost:
        """Return what is known; nothing, where the file is missing or damaged."""
        return _read(self.path) or KnownHost(self.name)

    def note(self, **values: object) -> None:
        """Write values down, by the names of :class:`KnownHost`."""
        home = values.get("home")
        if isinstance(home, str):
            self._home = home
        with self._changed() as data:
            data.update(values)

    def admit(self, patience: float = 60.0) -> None:
        """Wait until one more login is allowed.

        There are ``limit`` a minute, counted over all processes of this machine's user: centres ban
        users who log in again and again (aiida-core 995, 4288). Raises :class:`TransportError`
        where the wait would be longer than ``patience`` seconds.
        """
        deadline = time.time() + patience
        while True:
            with self._changed() as data:
                now = time.time()
                known = data.get("logins", self._own_logins)
                times = filter(_is_time, known if isinstance(known, list) else [])
                logins = [when for when in times if now - _MINUTE < when <= now]
                if len(logins) < self.limit:
                    data["logins"] = self._own_logins = [*logins, now]
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
        """Give the contents of the file, and write them back; others wait meanwhile."""
        try:
            make_state_folder()
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
            descriptor = os.open(self.path, flags, 0o600)
        except OSError:
            yield {"logins": self._own_logins}
            return
        with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                data = json.loads(file.read(_MOST_BYTES))
            except (OSError, ValueError, RecursionError):
                data = {}
            if not isinstance(data, dict):
                data = {}
            yield data
            data["host"] = self.name
            file.seek(0)
            file.truncate()
            json.dump(data, file)


def list_hosts() -> list[KnownHost]:
    """Return what is known of every host that was used, by name."""
    readings = [_read(path) for path in _folder().glob("*.json")]
    found = [host for host in readings if host is not None and host.host]
    return sorted(found, key=lambda item: item.host)


def _read(path: Path) -> KnownHost | None:
    try:
        data = json.loads(read_text(path, most=_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return KnownHost.from_json(data) if isinstance(data, dict) else None
