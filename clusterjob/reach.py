"""Hosts: which are known, which can be reached, and logging in to one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterjob.errors import ClusterJobError, LoginError, TransportError
from clusterjob.monitor import scheduler_for
from clusterjob.script import JobScript
from clusterjob.store import Store
from clusterjob.transport import LocalTransport, Transport, open_transport
from clusterjob.transport.hosts import known_hosts

_AT_ONCE = 8


@dataclass
class Reached:
    """What is known of a host.

    ``state`` is ``reachable``, ``needs a login``, ``not reachable``, or ``not tried``.
    """

    host: str
    transport: str
    route: str
    state: str
    detail: str
    connected: float | None  # s since the epoch: the last login from this machine
    jobs: int  # unfinished ones in the store


def transport_of(target: str) -> Transport:
    """Return the way to the host that a profile's file, or a host's name, stands for.

    Raises :class:`SettingsError`.
    """
    if Path(target).expanduser().is_file():
        job = JobScript("true")
        job.read_settings(target)
        return scheduler_for(job.backend_reference).transport
    return open_transport(target)


def connect(target: str, keep: str = "12h") -> str:
    """Log in to the host of a profile (or a host by its name), with what it asks put to the user;
    return the route.

    With ``transport = openssh`` the login serves all programs of this machine, and for ``keep``
    after its last use (ssh_config(5), TIME FORMATS); with ``ssh`` it serves this process. Raises
    :class:`LoginError`, :class:`TransportError`, :class:`SettingsError`.
    """
    way: Any = transport_of(target)
    if isinstance(way, LocalTransport):
        return "this machine"
    way.login(keep)
    way.learn_home()
    return str(way.route())


def survey(store: Store, offline: bool = False) -> list[Reached]:
    """Return the hosts that were used from this machine and those of the store's jobs, and try each
    unless ``offline``; nobody is asked anything.
    """
    references: dict[str, dict[str, Any]] = {}
    jobs: dict[str, int] = {}
    for record in store.select():
        if record.host:
            jobs[record.host] = jobs.get(record.host, 0) + (not record.finished)
            references.setdefault(record.host, record.spec["backend"])
    logins = {
        str(item["host"]): item
        for item in sorted(known_hosts(), key=lambda item: item.get("connected") or 0)
    }

    def look(host: str) -> Reached:
        seen = logins.get(host, {})
        reference = references.get(host, {})
        kind, config = (
            reference.get("transport") or seen.get("transport", ""),
            reference.get("ssh_config") or seen.get("ssh_config", ""),
        )
        found = Reached(
            host,
            kind or "ssh",
            str(seen.get("route", "")),
            "not tried",
            "",
            seen.get("connected"),
            jobs.get(host, 0),
        )
        if not offline:
            _try(found, kind, config)
        return found

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look, sorted({*references, *logins})))


def _try(found: Reached, kind: str, config: str) -> None:
    try:
        way: Any = open_transport(found.host, kind, config)
        found.route = str(way.route())
        way.run("true", 20)
        found.state = "reachable"
    except LoginError as error:
        found.state, found.detail = "needs a login", str(error)
    except TransportError as error:
        found.state, found.detail = "not reachable", str(error)
    except ClusterJobError as error:
        found.state, found.detail = "not usable", str(error)
