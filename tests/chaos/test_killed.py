"""The submitting process is killed: at every step of the protocol, and at random moments. Each job runs once all the same."""

from __future__ import annotations

import random
import signal
import time

from tests.contract.conftest import Flavour, on

from .conftest import LONG, everything_ran_once, run, start
from .killing import POINTS, kill_below

MOMENTS = 200 if LONG else 10
COUNT = 4


def test_killed_at_every_step(cluster: Flavour) -> None:
    steps = [f"{point}{suffix}" for point in POINTS for suffix in ("", "+all")]
    for number, step in enumerate(steps):
        assert run(cluster, f"s{number}", COUNT, step) == -signal.SIGKILL, step
        run(cluster, f"s{number}", COUNT)
    everything_ran_once(len(steps) * COUNT)


@on("local", "slurm", "sge")
def test_killed_at_random_moments(cluster: Flavour) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    killed = 0
    spans = [submit_whole(cluster, f"whole{number}") for number in range(3)]
    for number in range(MOMENTS):
        process = start(cluster, f"r{number}", COUNT)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, max(spans)))
        killed += process.poll() is None
        if moments.random() < 0.5:
            kill_below(process.pid)
        process.kill()
        process.communicate()
        run(cluster, f"r{number}", COUNT)
    print(f"{killed} of {MOMENTS} were killed before they were done")
    assert killed > MOMENTS / 5
    everything_ran_once((MOMENTS + 3) * COUNT, 600 if LONG else 120)


def submit_whole(cluster: Flavour, name: str) -> float:
    """Return the seconds that a submission takes."""
    process = start(cluster, name, COUNT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.communicate(timeout=60)
    return time.monotonic() - began
