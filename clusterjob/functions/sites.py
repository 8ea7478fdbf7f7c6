"""Where calls are made: a cluster, what its workers ask for, and the Python that they run."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import logging
import os
import posixpath
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clusterjob.backend import COMMON_RESOURCES, common_name
from clusterjob.errors import CommandError, SettingsError
from clusterjob.functions.archives import cloudpickle_archive, digest, pack_modules
from clusterjob.functions.book import PoolRow
from clusterjob.functions.places import LocalPlace, NewFile, Place
from clusterjob.functions.remote_place import RemotePlace
from clusterjob.functions.workers import runner_text
from clusterjob.profile import ATTRIBUTES
from clusterjob.runner import sign
from clusterjob.script import JobScript
from clusterjob.session import Session
from clusterjob.shell import quote
from clusterjob.store import ClusterReference
from clusterjob.transport import LocalTransport, RemoteTransport, Transport

if TYPE_CHECKING:
    from clusterjob.store import Record

# keywords of executors and of map, for who misspells one
_KEYWORDS = (
    *("profile", "profiles", "max_workers", "idle", "include", "cache", "version"),
    *(
        "retry",
        "session",
        "options",
        "timeout",
        "chunksize",
        "buffersize",
        "progress",
    ),
    "return_exceptions",
)
POOLS = ".clusterjob-calls"  # the folder of pools, in the workdir
# s for which a worker waits for calls, where nobody says so; the embedded scheduler has few cores,
# for which others wait, and starts workers at once
IDLE, IDLE_EMBEDDED = 60.0, 2.0
MOST_WORKERS = 32  # where nobody says how many, and the cluster is not this machine
_log = logging.getLogger(__name__)
_OLDEST = (3, 8)
_ASK = "import sys;print('clusterjob-python',sys.version_info[0],sys.version_info[1])"


@dataclass
class Site:
    """A cluster for calls. ``record`` is that of a worker's job, which is not submitted.

    ``name`` is what the user calls it: the path of a profile.
    """

    name: str
    session: Session
    job: JobScript
    record: Record
    archives: Sequence[bytes]
    idle: float
    is_checked: bool = False  # that its Python fits

    @property
    def reference(self) -> ClusterReference:
        return self.record.spec.cluster

    @property
    def transport(self) -> Transport:
        return self.session.engine.scheduler(self.reference).transport

    @property
    def python(self) -> str:
        return str(self.job.attributes["python"])

    @property
    def is_here(self) -> bool:
        """Whether workers run with the Python of this process."""
        return not self.reference.host and self.python == sys.executable

    def locate(self) -> None:
        """Find out where the workdir is, where that could not be asked. Raises
        :class:`CommandError`.
        """
        if not posixpath.isabs(self.record.workdir):
            self.transport.resolve("~")
            self.record = self.job.prepare(self.session.engine)

    @property
    def means(self) -> list[str]:
        """What makes results of this one its own: the cluster, and the Python that it runs."""
        spec = self.record.spec
        return [self.reference.cluster_id, self.python, spec.setup, spec.shell]

    @property
    def fingerprint(self) -> str:
        """What pools have in common that workers of one of them can serve."""
        spec = self.record.spec
        archives = sorted(map(digest, self.archives))
        resources = {name: str(value) for name, value in spec.resources.items()}
        words = [
            *self.means,
            self.record.workdir,
            self.idle,
            archives,
            resources,
            self._paths(),
        ]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def _paths(self) -> list[str]:
        """Return where modules are looked for; other hosts know nothing of them."""
        if self.reference.host:
            return []
        return [os.path.abspath(path) for path in sys.path]

    def default_workers(self) -> int:
        """Return how many workers there are at most, where nobody says so."""
        if self.reference.name == "local" and not self.reference.host:
            ask = int(self.record.spec.resources.get("threads") or 1)
            ask *= int(self.record.spec.resources.get("ppn") or 1)
            return max(1, len(os.sched_getaffinity(0)) // ask)
        return MOST_WORKERS

    @property
    def names(self) -> list[str]:
        """The digests of the modules that are sent along."""
        return [digest(data) for data in self.archives]

    # -- its pool ----------------------------------------------------------------------------------

    def new_row(self, owner: str) -> PoolRow:
        """Return a pool that is not there yet."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
        # a folder that several people write to keeps nobody's pool from being made
        folder = posixpath.join(self.record.workdir, f"{POOLS}", name)
        cluster = self.reference.to_json()
        key = secrets.token_bytes(32)
        return PoolRow(
            name, self.fingerprint, cluster, folder, key, owner, time.time()
        )

    def place_of(self, row: PoolRow) -> Place:
        return place_of(self.session, row)

    def files(self, row: PoolRow, workers: int) -> list[NewFile]:
        """Return what workers need before they begin."""
        archives: list[list[str]] = []
        settings: dict[str, object] = {
            "idle": self.idle,
            "workers": workers,
            "limit": self.record.spec.resources.get("time"),
            "path": self._paths(),
            "archives": archives,
            "log_level": _log_level(),
        }
        files = [NewFile("", "runner.py", [runner_text().encode()])]
        for data in filter(None, (cloudpickle_archive(), *self.archives)):
            name = f"{digest(data)[:16]}.zip"
            archives.append([name, digest(data)])
            files.append(NewFile("", name, [data]))
        signed = sign(
            row.secret,
            f"pool:{row.id}:pool",
            settings,
            (),
        )
        return [
            *files,
            NewFile("", "pool", signed),
            NewFile("", "key", [row.secret]),
        ]

    def changed(self, changes: Mapping[str, object]) -> Site:
        """Return the same with other resources, or by another profile: as retries say."""
        others = dict(changes)
        profile = others.pop("profile", None)
        job = self.job.with_profile(str(profile)) if profile else self.job.copy()
        for name, value in others.items():
            job.set_resource(name, value)
        record = job.prepare(self.session.engine)
        return dataclasses.replace(
            self,
            job=job,
            record=record,
            is_checked=False,
        )

    # -- its Python --------------------------------------------------------------------------------

    def check_python(self, has_code: bool) -> None:
        """See that the Python there can read what is sent. Raises :class:`SettingsError`,
        :class:`CommandError`.

        ``has_code``: functions travel as code, which only the same minor version can read.
        """
        if self.is_checked or self.is_here:
            return
        found = self._ask_python()
        own = sys.version_info[:2]
        words = "{}.{}".format(*found)
        where = self.reference.host or "this machine"
        if found < _OLDEST:
            raise SettingsError(
                f"{self.python!r} on {where} is Python {words}; functions need 3.8 or later: name "
                "another one in the profile (python = ..., setup = module load ...)"
            )
        if has_code and found != own:
            raise SettingsError(
                f"{self.python!r} on {where} is Python {words}, and this is {own[0]}.{own[1]}: a "
                "function that is sent as code (of a notebook, a program itself, a lambda) can be "
                f"read by the same minor version alone. Name a Python {own[0]}.{own[1]} there "
                "(python = ... in [Attributes], with setup = module load ... where it needs that), "
                "or put the function in a module that is there too"
            )
        self.is_checked = has_code

    def _ask_python(self) -> tuple[int, int]:
        spec = self.record.spec
        word = quote(self.python)
        if self.python.startswith("~/"):
            word = f'"$HOME"/{quote(self.python[2:])}'
        script = f"{spec.setup}\n{word} -c {quote(_ASK)}"
        done = self.transport.run(f"{quote(spec.shell)} -c {quote(script)}", 120.0)
        for line in done.stdout.splitlines():
            words = line.split()
            if words[:1] == ["clusterjob-python"] and len(words) == 3:
                return int(words[1]), int(words[2])
        raise CommandError(
            f"there is no Python {self.python!r} on {self.reference.host or 'this machine'}",
            exit_code=done.exit_code,
            stdout=done.stdout,
            stderr=done.stderr,
            hint="Name one in the profile: python = ... in [Attributes], and setup = ... with the "
            "lines that make it available (module load, conda activate).",
        )


def _log_level() -> int | None:
    """Return the level from which on records of functions are wanted, if any is set."""
    root = logging.getLogger()
    return root.level if root.handlers else None


def place_of(session: Session, row: PoolRow) -> Place:
    """Return the folder of a pool. Raises :class:`SettingsError`."""
    reference = ClusterReference.from_json(row.cluster)
    transport = session.engine.scheduler(reference).transport
    if isinstance(transport, RemoteTransport):
        return RemotePlace(transport, row.folder)
    assert isinstance(transport, LocalTransport)
    return LocalPlace(row.folder)


def _check_known(name: str) -> None:
    """Refuse a keyword that is none. Raises :class:`SettingsError`."""
    if name in ATTRIBUTES or common_name(name) in COMMON_RESOURCES:
        return
    known = [*ATTRIBUTES, *COMMON_RESOURCES, *_KEYWORDS]
    close = difflib.get_close_matches(
        name,
        known,
        n=1,
        cutoff=0.6,
    )
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise SettingsError(
        f"unknown keyword {name!r}.{hint} Options of the scheduler's own go into "
        f"options={{{name!r}: ...}}"
    )


def make_sites(
    session: Session,
    profile: str | os.PathLike[str] | None,
    profiles: Sequence[str | os.PathLike[str]],
    settings: Mapping[str, object],
    options: Mapping[str, object],
    include: Iterable[str | os.PathLike[str]],
    idle: float | None,
) -> list[Site]:
    """Return the sites of one profile or several. Raises :class:`SettingsError`, and
    :class:`CommandError` where the only one cannot be reached.
    """
    if isinstance(profiles, (str, os.PathLike)):
        raise SettingsError(f"profiles = {profiles!r}: expected a list of paths")
    if profile is not None and profiles:
        raise SettingsError("profile and profiles: expected one of them")
    sites = [
        make_site(
            session,
            path,
            settings,
            options,
            include,
            idle,
        )
        for path in profiles or (profile,)
    ]
    if len(sites) == 1:  # of several, others make the calls meanwhile
        sites[0].locate()
    return sites


def make_site(
    session: Session,
    profile: str | os.PathLike[str] | None,
    settings: Mapping[str, object],
    options: Mapping[str, object],
    include: Iterable[str | os.PathLike[str]],
    idle: float | None,
) -> Site:
    """Return the site of a profile, or of the defaults. Raises :class:`SettingsError`."""
    job = JobScript("true", "calls")
    if profile is not None:
        job.read_settings(profile)
    for name, value in settings.items():
        _check_known(name)
        if name in ("array", "filename", "stdout", "stderr"):
            raise SettingsError(
                f"{name} = {value!r}: calls have none. What a function prints is in "
                "future.stdout()"
            )
        if name in ATTRIBUTES:
            setattr(job, name, value)
        else:
            job.set_resource(name, value)
    for name, value in options.items():
        job.set_resource(name, value)
    for name in ("filename", "prologue", "epilogue"):
        job.attributes.pop(name, None)
    if not job.attributes.get("python"):
        job.python = "python3" if job.attributes.get("remote") else sys.executable
    record = job.prepare(session.engine)
    if idle is None:
        idle = IDLE_EMBEDDED if record.backend == "local" else IDLE
    return Site(
        "this machine" if profile is None else os.fspath(profile),
        session,
        job,
        record,
        pack_modules(include),
        idle,
    )
