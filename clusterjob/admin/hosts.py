"""Hosts: which are known, which can be reached, and logging in to one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clusterjob.errors import ClusterJobError, LoginError, TransportError
from clusterjob.plain_files import expand
from clusterjob.script import JobScript, default_session
from clusterjob.session import Session
from clusterjob.store import ClusterReference
from clusterjob.transport import KnownHost, RemoteTransport, Transport, list_hosts

_AT_ONCE = 8
_PATIENCE = 20.0  # s for a host to answer


@dataclass
class HostReport:
    """What is known of a host.

    ``state`` is ``reachable``, ``needs a login``, ``not reachable``, ``not usable`` or ``not
    tried``.
    """

    host: str
    transport: str
    route: str
    state: str
    detail: str
    connected: float | None  # s since the epoch: the last login from this machine
    jobs: int  # unfinished ones in the store


def transport_of(session: Session, target: str) -> Transport:
    """Return the way to the host that a profile's file, or a host's name, stands for.

    Raises :class:`SettingsError`.
    """
    if expand(target).is_file():
        job = JobScript("true")
        job.read_settings(target)
        return session.engine.scheduler(job.cluster_reference).transport
    return session.connections.open(target)


def connect(target: str, keep: str = "12h", session: Session | None = None) -> str:
    """Log in to the host of a profile (or a host by its name); return the route.

    What the host asks is put to the user. With ``transport = openssh`` the login serves all
    programs of this machine, and for ``keep`` after its last use (ssh_config(5), TIME FORMATS);
    with ``ssh`` it serves the ``session``, by default all default ones. Raises
    :class:`LoginError`, :class:`TransportError`, :class:`SettingsError`.
    """
    transport = transport_of(session or default_session(), target)
    if not isinstance(transport, RemoteTransport):
        return "this machine"
    transport.login(keep)
    transport.learn_home()
    return transport.route()


def survey(session: Session, offline: bool = False) -> list[HostReport]:
    """Return the hosts that were used from this machine and those of the store's jobs.

    Each is tried unless ``offline``; nobody is asked anything.
    """
    references: dict[str, ClusterReference] = {}
    jobs: dict[str, int] = {}
    for record in session.store.select():
        if record.host:
            jobs[record.host] = jobs.get(record.host, 0) + (not record.finished)
            references.setdefault(record.host, record.spec.cluster)
    # of several ways to a host the one that was used last counts
    logins = {
        item.host: item
        for item in sorted(list_hosts(), key=lambda item: item.connected or 0)
    }

    def look(host: str) -> HostReport:
        seen = logins.get(host, KnownHost(host))
        reference = references.get(host, ClusterReference())
        kind = reference.transport or seen.transport
        config = reference.ssh_config or seen.ssh_config
        report = HostReport(
            host=host,
            transport=kind or "ssh",
            route=seen.route,
            state="not tried",
            detail="",
            connected=seen.connected,
            jobs=jobs.get(host, 0),
        )
        if not offline:
            _try(session, report, kind, config)
        return report

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look, sorted({*references, *logins})))


def _try(session: Session, report: HostReport, kind: str, config: str) -> None:
    """See whether a host answers, and say so in its report."""
    try:
        transport = session.connections.open(report.host, kind, config)
        if isinstance(transport, RemoteTransport):
            report.route = transport.route()
        transport.run("true", _PATIENCE)
        report.state = "reachable"
    except LoginError as error:
        report.state, report.detail = "needs a login", str(error)
    except TransportError as error:
        report.state, report.detail = "not reachable", str(error)
    except ClusterJobError as error:
        report.state, report.detail = "not usable", str(error)
