"""The flavours of the contract suite: every live scheduler, each with a profile of its own."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, JobScript, submit
from tests.conftest import locked, namespace

# what tests/lab/second.sh runs is another machine, with releases of its own
SECOND = os.environ.get("CLUSTERJOB_MACHINE") == "second"
FLAVOURS = (
    ("local", "slurm24", "htcondor")
    if SECOND
    else ("local", "slurm", "noacct", "sge", "pbspro")
)
# accounting is the same from afar
FAR = () if SECOND else ("local", "slurm", "sge", "pbspro")
PLACES = (*FLAVOURS, *(name + way for way in ("@ssh", "@openssh") for name in FAR))
# every scheduler, and from afar one by each way: for what does not depend on the way
SOME = (*FLAVOURS, *(name for name in PLACES if name in ("slurm@ssh", "sge@openssh")))
# poll_interval also tells the two Slurms apart: a cluster is known by its backend and overrides
_PROFILES = {
    "local": "[Attributes]\nbackend = local\n[Limits]\nfirst_poll = 0.05\npoll_interval = 0.25\n",
    "slurm": "[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.1\npoll_interval = 0.5\n"
    "settle = 8\n",
    "noacct": "[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.1\npoll_interval = 0.51\n"
    "settle = 3\n",
    "sge": "[Attributes]\nbackend = sge\nparallel_environment = smp\n[Limits]\nfirst_poll = 0.2\n"
    "poll_interval = 0.5\nsettle = 5\n",
    "slurm24": "[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.1\npoll_interval = 0.5\n"
    "settle = 3\n",
    "htcondor": "[Attributes]\nbackend = htcondor\n[Limits]\nfirst_poll = 0.2\n"
    "poll_interval = 0.5\nsettle = 15\n",
    "pbspro": "[Attributes]\nbackend = pbspro\n[Limits]\nfirst_poll = 0.2\npoll_interval = 0.5\n"
    "settle = 15\n",
}
_FAMILIES = {"noacct": "slurm", "slurm24": "slurm"}
_HOSTS = {
    "local": "lab-plain",
    "slurm": "lab-slurm",
    "noacct": "lab-noacct",
    "sge": "lab-sge",
    "pbspro": "lab-pbs",
}
PBS = Path(os.environ.get("CLUSTERJOB_PBS") or "/opt/pbs")
_USERS = {"ssh": "lab", "openssh": "labcsh"}  # bash and csh, both with a banner
_numbers = itertools.count()


@dataclass
class Flavour:
    """One live scheduler, and a way to make jobs for it."""

    name: str
    profile: Path
    lab: Path | None
    way: str = ""  # the transport; "" for this machine
    made: list[AsyncResult] = field(default_factory=list)

    @property
    def family(self) -> str:
        return _FAMILIES.get(self.name, self.name)

    @property
    def accounting(self) -> bool:
        return self.name not in _FAMILIES

    def job(self, body: str, jobname: str = "", **settings: Any) -> JobScript:
        job = JobScript(body, jobname or f"contract{next(_numbers)}")
        job.read_settings(self.profile)
        for name, value in settings.items():
            if name in ("aux_scripts", "inputs", "outputs", "params", "verbatim"):
                job.__dict__[name] = value
            elif name in (
                "workdir",
                "rootdir",
                "shell",
                "prologue",
                "epilogue",
                "filename",
            ):
                setattr(job, name, value)
            else:
                job.set_resource(name, value)
        return job

    def run(self, body: str, **settings: Any) -> AsyncResult:
        result: AsyncResult = self.job(body, **settings).submit()
        self.made.append(result)
        return result

    def batch(self, jobs: Sequence[JobScript]) -> list[AsyncResult]:
        results: list[AsyncResult] = submit(jobs)
        self.made += results
        return results

    def finish(self, body: str, timeout: float = 60, **settings: Any) -> AsyncResult:
        result = self.run(body, **settings)
        assert result.wait(timeout), result.explain()
        return result


def _environment(
    name: str, lab: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("slurm", "noacct"):
        monkeypatch.setenv("SLURM_CONF", str(lab / name / "slurm.conf"))
    elif name == "sge":
        monkeypatch.setenv("SGE_ROOT", "/var/lib/gridengine")
        monkeypatch.setenv("SGE_CELL", "default")
        # Debian's wrappers cost 55 ms a call; the programs themselves are beside them
        monkeypatch.setenv("PATH", "/usr/lib/gridengine", prepend=":")
    elif name == "pbspro":
        if not (PBS / "bin" / "qsub").exists():
            missing = f"no OpenPBS in {PBS}: CONTRIBUTING.md says how to build one"
            if os.environ.get("CLUSTERJOB_REQUIRE_LAB"):
                pytest.fail(missing)
            pytest.skip(missing)
        monkeypatch.setenv("PATH", str(PBS / "bin"), prepend=":")


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these flavours only."""
    return pytest.mark.parametrize("place", names, indirect=True)


@pytest.fixture(scope="session", params=PLACES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path | None, Path]:
    name = request.param
    here = name == "local" or (SECOND and name in FLAVOURS)
    lab = None if here else request.getfixturevalue("lab")
    profile = tmp_path_factory.mktemp(name) / f"{name}.ini"
    profile.write_text(_profile(name, lab))
    return name, lab, profile


def _profile(place: str, lab: Path | None, rootdir: Path | None = None) -> str:
    """Return the profile of a scheduler, and of the way to it: what is behind the ``@``."""
    name, _, way = place.partition("@")
    if not way:
        return _PROFILES[name]
    assert lab is not None
    remote = f"{_USERS[way]}@{_HOSTS[name]}"
    where = f"remote = {remote}\ntransport = {way}\nssh_config = {lab}/ssh/config\n"
    where += f"rootdir = {rootdir}\n" if rootdir else ""
    return (
        _PROFILES[name]
        .replace("[Limits]\n", "[Limits]\nconnections = 1000\n")
        .replace("[Attributes]\n", "[Attributes]\n" + where)
    )


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest,
    place: tuple[str, Path | None, Path],
    spool: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Flavour]:
    full, lab, profile = place
    name, _, way = full.partition("@")
    if way:  # the same folders over there: relative paths mean the same as here
        profile = Path("remote.ini").absolute()
        profile.write_text(_profile(full, lab, Path.cwd()))
    _environment(name, lab, monkeypatch)
    with (
        _in_use(
            name, lab, alone=request.node.get_closest_marker("alone") is not None
        ),
        namespace(lab),
    ):
        yield Flavour(name, profile, lab, way)


@contextlib.contextmanager
def _in_use(name: str, lab: Path | None, alone: bool) -> Iterator[None]:
    """Keep a scheduler whose daemons a test stops (mark ``alone``) from the tests of other
    processes.
    """
    if lab is None or name == "local":
        yield
        return
    with locked(lab / f"{name}.lock", fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        yield


@pytest.fixture(scope="session")
def overtime(
    place: tuple[str, Path | None, Path],
    spool_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[], AsyncResult]:
    """A job that runs into its time limit, submitted when the flavour's first test begins: Slurm
    takes a minute and more. The way to it makes no difference: from afar there is none.
    """
    full, lab, profile = place
    name, _, way = full.partition("@")
    if way:
        return lambda: pytest.fail(
            "there is no job that runs into its limit from afar"
        )
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp(f"overtime-{name}")
    patch.setenv("HOME", str(folder))  # not the user's
    patch.delenv("XDG_STATE_HOME", raising=False)
    patch.setenv("CLUSTERJOB_SPOOL", str(spool_folder))
    patch.setenv("CLUSTERJOB_SPOOL_CORES", "4")
    patch.setattr(JobScript, "cache_folder", folder)
    _environment(name, lab, patch)
    flavour = Flavour(name, profile, lab, way)
    time = {"local": "2s", "sge": "5s", "pbspro": "5s"}.get(name, "1m")
    with namespace(lab):
        body = (
            "trap 'echo warned; exit 9' TERM\nfor i in $(seq 300); do sleep 1; done"
        )
        result = flavour.run(body, jobname="overtime", time=time, workdir=str(folder))
    result.dump(folder / "dumped.json")
    patch.undo()
    return lambda: AsyncResult.load(folder / "dumped.json")
