"""The flavours of the contract suite: every live scheduler, each with a profile of its own."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, JobScript, submit
from tests.conftest import namespace

FLAVOURS = ("local", "slurm", "noacct", "sge")
# poll_interval also tells the two Slurms apart: a cluster is known by its backend and overrides
_PROFILES = {
    "local": "[Attributes]\nbackend = local\n[Limits]\nfirst_poll = 0.05\npoll_interval = 0.25\n",
    "slurm": "[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.1\npoll_interval = 0.5\nsettle = 8\n",
    "noacct": "[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.1\npoll_interval = 0.51\nsettle = 3\n",
    "sge": "[Attributes]\nbackend = sge\nparallel_environment = smp\n[Limits]\nfirst_poll = 0.2\npoll_interval = 0.5\nsettle = 5\n",
}
_numbers = itertools.count()


@dataclass
class Flavour:
    """One live scheduler, and a way to make jobs for it."""

    name: str
    profile: Path
    lab: Path | None
    made: list[AsyncResult] = field(default_factory=list)

    @property
    def family(self) -> str:
        return "slurm" if self.name == "noacct" else self.name

    def job(self, body: str, jobname: str = "", **settings: Any) -> JobScript:
        job = JobScript(body, jobname or f"contract{next(_numbers)}")
        job.read_settings(self.profile)
        for name, value in settings.items():
            if name in ("aux_scripts", "inputs", "params", "verbatim"):
                job.__dict__[name] = value
            elif name in ("workdir", "rootdir", "shell", "prologue", "epilogue", "filename"):
                setattr(job, name, value)
            else:
                job._set_resource(name, value)
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


def _environment(name: str, lab: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ("slurm", "noacct"):
        monkeypatch.setenv("SLURM_CONF", str(lab / name / "slurm.conf"))
    elif name == "sge":
        monkeypatch.setenv("SGE_ROOT", "/var/lib/gridengine")
        monkeypatch.setenv("SGE_CELL", "default")
        # Debian's wrappers cost 55 ms a call; the programs themselves are beside them
        monkeypatch.setenv("PATH", "/usr/lib/gridengine", prepend=":")


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these flavours only."""
    return pytest.mark.parametrize("place", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names], indirect=True)


# one process runs all tests of a flavour: they share its slow job
@pytest.fixture(scope="session", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in FLAVOURS])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path | None, Path]:
    name = request.param
    lab = None if name == "local" else request.getfixturevalue("lab")
    profile = tmp_path_factory.mktemp(name) / f"{name}.ini"
    profile.write_text(_PROFILES[name])
    return name, lab, profile


@pytest.fixture
def cluster(request: pytest.FixtureRequest, place: tuple[str, Path | None, Path], spool: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flavour]:
    name, lab, profile = place
    _environment(name, lab, monkeypatch)
    with _in_use(name, lab, alone=request.node.get_closest_marker("alone") is not None), namespace(lab):
        yield Flavour(name, profile, lab)


@contextlib.contextmanager
def _in_use(name: str, lab: Path | None, alone: bool) -> Iterator[None]:
    """Keep a scheduler whose daemons a test stops (mark ``alone``) from the tests of other processes."""
    if lab is None:
        yield
        return
    with (lab / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture(scope="session")
def overtime(place: tuple[str, Path | None, Path], spool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AsyncResult]:
    """A job that runs into its time limit, submitted when the flavour's first test begins: Slurm takes a minute and more."""
    name, lab, profile = place
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp(f"overtime-{name}")
    patch.setenv("CLUSTERJOB_SPOOL", str(spool_folder))
    patch.setenv("CLUSTERJOB_SPOOL_CORES", "4")
    patch.setattr(JobScript, "cache_folder", folder)
    _environment(name, lab, patch)
    flavour = Flavour(name, profile, lab)
    time = {"local": "2s", "sge": "5s"}.get(name, "1m")
    node = {"nodelist": "node1"} if flavour.family == "slurm" else {}  # node2 is the one that a test breaks
    with namespace(lab):
        result = flavour.run(
            "trap 'echo warned; exit 9' TERM\nfor i in $(seq 300); do sleep 1; done", jobname="overtime", time=time, workdir=str(folder), **node
        )
    result.dump(folder / "dumped.json")
    patch.undo()
    return lambda: AsyncResult.load(folder / "dumped.json")
