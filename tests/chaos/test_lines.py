"""The line to the host is cut at random moments.

Each job runs once all the same, and nothing is lost.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, submit
from clusterjob.errors import LoginError, TransportError
from tests.contract.conftest import Flavour, on
from tests.lines import far_line

from .conftest import LONG, everything_ran_once

SUBMISSIONS, JOBS = (100, 20) if LONG else (6, 8)


@on("slurm@ssh", "slurm@openssh", "sge@ssh", "pbspro@ssh", "local@openssh")
def test_lines_that_are_cut(cluster: Flavour, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    assert cluster.lab is not None
    with far_line(
        cluster.lab, cluster.name, tmp_path, "--cut", 0.1, 1.5, "--seed", seed
    ) as config:
        text = (
            cluster.profile.read_text()
            .replace(f"{cluster.lab}/ssh/config", str(config))
            .replace("connections = 1000", "connections = 100000")
        )
        cluster.profile.write_text(
            text.replace(text.split("remote = ")[1].split("\n")[0], "far")
        )
        failed, transport = 0, None
        for number in range(SUBMISSIONS):
            Path("input").write_text(f"{number}\n" * 1000)
            bodies = [
                f"echo {number}-{job} >> {Path('ledger').absolute()}; tail -n 1 input > out"
                for job in range(JOBS)
            ]
            files: dict[str, Any] = {"inputs": ["input"], "outputs": ["out"]}
            jobs = [
                cluster.job(body, workdir=f"w{number}-{job}", **files)
                for job, body in enumerate(bodies)
            ]
            while True:
                try:
                    results: list[AsyncResult] = submit(jobs)
                    break
                except LoginError:
                    raise
                except TransportError:
                    failed += 1
            transport = results[0].cluster.scheduler.transport
        everything_ran_once(SUBMISSIONS * JOBS, 900 if LONG else 180)
        print(
            f"{getattr(transport, 'connections', 0)} connections, {failed} submissions raised an "
            "error and were made again"
        )
        assert getattr(transport, "connections", 0) > SUBMISSIONS / 4
    for number in range(SUBMISSIONS):
        assert [Path(f"w{number}-{job}/out").read_text() for job in range(JOBS)] == [
            f"{number}\n"
        ] * JOBS


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("ERROR")
