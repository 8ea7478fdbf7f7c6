"""The submitting process is killed: at every step of the protocol, and at random moments.

Each job runs once all the same.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from clusterjob import Status
from clusterjob.engine import lease
from clusterjob.script import default_session
from tests.contract.conftest import PLACES, Flavour, on

from .conftest import LONG, WAYS, everything_ran_once, run, start
from .killing import POINTS, kill_below

MOMENTS = 200 if LONG else 6
COUNT = 4


@on(*(PLACES if LONG else ("local", "slurm", "sge", "pbspro", "slurm@ssh")))
def test_killed_at_every_step(cluster: Flavour) -> None:
    """Of jobs that go in an array, in packs, and alone."""
    cases = [
        (point + suffix, way)
        for point in POINTS
        for way in WAYS
        for suffix in ("", "+all")
    ]
    if not LONG:  # of each step an array, or one of the other two
        cases = [*cases[1::6], *cases[2::12], *cases[10::12]]
    for number, (step, way) in enumerate(cases):
        ended = run(cluster, f"s{number}", COUNT, step, way)
        assert ended == -signal.SIGKILL, (step, way)
        run(cluster, f"s{number}", COUNT, way=way)
    everything_ran_once(len(cases) * COUNT)


@on(
    *(
        ("local", "slurm", "sge", "pbspro", "slurm@ssh", "pbspro@openssh")
        if LONG
        else ("local", "slurm", "pbspro@openssh")
    )
)
def test_killed_at_random_moments(cluster: Flavour) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    killed = 0
    span = submit_whole(cluster, "whole")
    number = 0
    while number < MOMENTS or killed < MOMENTS / 4:
        assert number < 4 * MOMENTS, (
            f"only {killed} of {number} were killed before they were done"
        )
        way = moments.choice(WAYS)
        process = start(cluster, f"r{number}", COUNT, way=way)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, span))
        in_time = process.poll() is None
        killed += in_time
        span *= 1.1 if in_time else 0.8  # how long it takes changes with the load
        if moments.random() < 0.5:
            kill_below(process.pid)
        process.kill()
        process.communicate()
        run(cluster, f"r{number}", COUNT, way=way)
        number += 1
    print(f"{killed} of {number} were killed before they were done")
    everything_ran_once((number + 1) * COUNT, 600 if LONG else 120)


def submit_whole(cluster: Flavour, name: str) -> float:
    """Return the seconds that a submission takes."""
    process = start(cluster, name, COUNT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.communicate(timeout=60)
    return time.monotonic() - began


def _other_machine() -> list[str]:
    """Return a command that runs another where host name and process ids are its own."""
    command = ["unshare", "--uts", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0:
        command[1:1] = ["--user", "--map-root-user"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no name spaces for this user: {tried.stderr.strip()}")
    return command


@on("local")
def test_a_submission_that_died_on_another_machine_is_finished_here(
    cluster: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other machine has a name and process ids of its own; nobody here can see that it is dead,
    until its lease is over.
    """
    process = start(
        cluster,
        "far",
        COUNT,
        "after-claim",
        prefix=[*_other_machine(), "sh", "-c", 'hostname far; "$@"', "-"],
    )
    process.communicate(timeout=60)
    store = default_session().store
    records = store.select(unsent=True)
    assert len(records) == COUNT
    assert all(record.owner.startswith("far:") for record in records)
    results = default_session().results()
    results[0].cluster.refresh(force=True)
    assert [result.job_id for result in results] == [None] * COUNT
    assert {result.status for result in results} == {Status.PENDING}
    monkeypatch.setattr(lease, "LEASE", 1.0)
    time.sleep(1)
    everything_ran_once(COUNT)
