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
    began = time.monotonic()
    run(cluster, "whole", COUNT)
    whole = time.monotonic() - began
    killed = 0
    for number in range(MOMENTS):
        process = start(cluster, f"r{number}", COUNT)
        time.sleep(moments.uniform(0.3, 1.0) * whole)
        killed += process.poll() is None
        if moments.random() < 0.5:
            kill_below(process.pid)
        process.kill()
        process.communicate()
        run(cluster, f"r{number}", COUNT)
    assert killed > MOMENTS / 3
    everything_ran_once((MOMENTS + 1) * COUNT, 600 if LONG else 120)
