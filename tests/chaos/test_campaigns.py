"""A campaign over a real Slurm and a real Grid Engine at once, killed again and again; and one that
nobody drives after the submission.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterjob import Campaign, JobScript, Status
from clusterjob.script import default_session
from tests.conftest import locked, namespace
from tests.contract.conftest import _PROFILES, Flavour, _environment, on

from .conftest import LONG

COUNT, KILLS = (2000, 10) if LONG else (120, 4)
CHILD = Path(__file__).parent / "campaign_child.py"


@pytest.fixture
def two_clusters(
    lab: Path, monkeypatch: pytest.MonkeyPatch, spool: Path
) -> Iterator[list[str]]:
    """The profiles of a Slurm and a Grid Engine that are both there."""
    with contextlib.ExitStack() as stack:
        for name in ("slurm", "sge"):
            Path(f"{name}.ini").write_text(_PROFILES[name])
            _environment(name, lab, monkeypatch)
            stack.enter_context(locked(lab / f"{name}.lock", fcntl.LOCK_SH))
        stack.enter_context(namespace(lab))
        yield ["slurm.ini", "sge.ini"]


def test_on_two_clusters_killed_at_random_moments(two_clusters: list[str]) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    command = [sys.executable, str(CHILD), "ledger", str(COUNT), *two_clusters]
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(moments.uniform(0.5, 4.0))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed
    counted = Counter(Path("ledger").read_text().split())
    assert counted == Counter([*map(str, range(COUNT)), "last"])
    results = default_session().results(campaign="two")
    used = Counter(result.record.backend for result in results)
    assert set(used) == {"slurm", "sge"}, used
    assert {result.record.status for result in results} == {Status.COMPLETED}


@on("slurm", "sge", "pbspro", "local", "slurm@ssh")
def test_a_pipeline_runs_to_its_end_while_nobody_looks(cluster: Flavour) -> None:
    """The driver is gone after the submission; the schedulers do the rest."""
    campaign = Campaign("alone")
    first = campaign.add(
        [cluster.job(f"sleep 1; echo {n} > one-{n}") for n in (1, 2)]
    )
    second = campaign.add(cluster.job("cat one-1 one-2 > two"), after=first)
    third = campaign.add(cluster.job("wc -l < two > three"), after=second)
    cluster.made += [*first, *second, *third]
    outcome = campaign.step()
    assert outcome.held == 0, outcome
    deadline = time.monotonic() + 90
    while not Path("three").exists() or not Path("three").read_text().strip():
        assert time.monotonic() < deadline, "the last step did not run"
        time.sleep(0.2)
    again = Campaign("alone")
    assert again.run(timeout=60).is_complete
    assert Path("three").read_text().strip() == "2"


@on("slurm")
def test_work_moves_from_a_cluster_that_stops_answering(
    cluster: Flavour, spool: Path
) -> None:
    """What was submitted there waits; what was not goes to the other one."""
    stopped, other = Path("stopped.ini"), Path("other.ini")
    text = cluster.profile.read_text()
    commands = cluster.job("true").get_backend().commands
    stopped.write_text(
        text + "max_jobs = 4\n[Commands]\n"
        f"active = test ! -e down && {commands.active}\n"
        f"submit = test ! -e {Path.cwd()}/down && {commands.submit}\n"
    )
    other.write_text("[Attributes]\nbackend = local\n[Limits]\nfirst_poll = 0.05\n")
    campaign = Campaign("moves", profiles={stopped: 100, other: 1})
    body = "until [ -e go ]; do sleep 0.1; done; echo {{ n }} >> ledger"
    jobs = [JobScript(body, f"m{n}", params={"n": n}) for n in range(4)]
    stuck = campaign.add(jobs)
    campaign.step()
    assert {result.record.backend for result in campaign.results} == {"slurm"}
    Path("down").touch()
    quick = [
        JobScript("echo {{ n }} >> ledger", f"q{n}", params={"n": f"q{n}"})
        for n in range(4)
    ]
    moved = campaign.add(quick)
    deadline = time.monotonic() + 60
    while not all(result.status == Status.COMPLETED for result in moved):
        assert time.monotonic() < deadline
        campaign.step()
        time.sleep(0.2)
    assert {result.record.backend for result in moved} == {"local"}
    assert not any(result.record.finished for result in stuck)
    Path("down").unlink()
    Path("go").touch()
    assert campaign.run(timeout=90).is_complete
    counted = Counter(Path("ledger").read_text().split())
    assert counted == Counter([*"0123", "q0", "q1", "q2", "q3"])
