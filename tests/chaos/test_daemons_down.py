"""Daemons of the real schedulers go away and come back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterjob import Reason, Status, submit, wait
from tests.conftest import LAB, LAB_SCRIPT, locked
from tests.contract.conftest import Flavour, on

from .conftest import everything_ran_once, start

MOM_PID = Path("/var/spool/pbs/mom_priv/mom.lock")


@contextlib.contextmanager
def nobody_starts_the_lab() -> Iterator[None]:
    """Keep the other processes of this test run from starting what is stopped on purpose
    (tests/conftest.py, ``lab``).
    """
    with locked(LAB / "lock"):
        yield


def daemon(command: str, name: str) -> None:
    done = subprocess.run(
        [str(LAB_SCRIPT), command, name], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def controller(cluster: Flavour) -> Iterator[Callable[[str], None]]:
    """Stops and starts the controller of the Slurm without accounting."""
    with nobody_starts_the_lab():
        yield lambda command: daemon(
            command, "noacct-ctld" if command == "stop" else "noacct"
        )
        daemon("up", "noacct")


@pytest.mark.alone
@on("noacct")
def test_the_controller_stops_while_jobs_are_submitted(
    cluster: Flavour, controller: Callable[[str], None]
) -> None:
    process = start(cluster, "down", 60)
    deadline = time.monotonic() + 30
    while not any(
        path.stat().st_size for path in Path().glob(".clusterjob-runs/*/receipts")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    controller("stop")
    time.sleep(2)
    controller("up")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, out + err
    again = start(cluster, "down", 60)
    again.communicate(timeout=120)
    # a launch that was lost with the controller is found when nodes are asked next, every 100
    # s, and Slurm waits two minutes before it begins such a job again
    everything_ran_once(60, 600)


@pytest.mark.alone
@on("noacct")
def test_the_controller_stops_while_jobs_are_watched(
    cluster: Flavour, controller: Callable[[str], None]
) -> None:
    results = cluster.batch(
        [cluster.job(f"sleep 20; echo {number}") for number in range(5)]
    )
    controller("stop")
    for _ in range(75):
        states = [result.status for result in results]
        assert set(states) <= {Status.PENDING, Status.RUNNING, Status.COMPLETED}
        if results[0].stale_since:
            break
        time.sleep(0.2)
    assert results[0].stale_since
    assert time.time() - results[0].stale_since < 60
    time.sleep(3)
    assert not any(result.status > Status.COMPLETED for result in results)
    controller("up")
    assert wait(results, 90)[1] == []
    assert [result.status for result in results] == [Status.COMPLETED] * 5
    assert results[0].stale_since is None


@pytest.mark.alone
@on("slurm")
def test_accounting_is_down_the_whole_time(cluster: Flavour) -> None:
    with nobody_starts_the_lab():
        daemon("stop", "slurmdbd")
        try:
            good = cluster.batch(
                [cluster.job(f"echo {number}") for number in range(5)]
            )
            bad = cluster.run("exit 7")
            assert wait([*good, bad], 60)[1] == []
            assert [result.status for result in good] == [Status.COMPLETED] * 5
            assert (bad.status, bad.exit_code) == (Status.FAILED, 7)
        finally:
            daemon("up", "slurm")


@pytest.mark.alone
@on("pbspro")
def test_a_node_is_lost(cluster: Flavour) -> None:
    """PBS gives up the job that must not run twice, and starts the other again."""
    body = "echo $$ >>{name}; sleep 3; [ $(wc -l <{name}) = 2 ] || exec sleep 100"
    jobs = [
        cluster.job(body.format(name=name), **{"-r": answer})
        for name, answer in (("once", "n"), ("twice", "y"))
    ]
    with nobody_starts_the_lab():
        once, twice = cluster.batch(jobs)
        pids = [wait_for_pid(name) for name in ("once", "twice")]
        os.kill(int(MOM_PID.read_text()), signal.SIGKILL)
        try:
            for pid in pids:
                kill_session(pid)
            assert once.wait(30)
        finally:
            daemon("up", "pbs")
    assert (once.status, once.reason) == (Status.FAILED, Reason.NODE_FAILURE)
    assert twice.wait(60)
    assert (twice.status, twice.record.task.runs) == (Status.COMPLETED, 2)
    assert len(Path("twice").read_text().split()) == 2


def wait_for_pid(name: str) -> int:
    deadline = time.monotonic() + 30
    while not (Path(name).exists() and Path(name).read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(Path(name).read_text())


def kill_session(pid: int) -> None:
    """Kill all processes of a job, as if its machine had lost power."""
    session = os.getsid(pid)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == session:
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.mark.alone
@on("noacct")
def test_polls_that_hang_say_nothing(
    cluster: Flavour, controller: Callable[[str], None]
) -> None:
    """Polls that hang until their time limit say nothing; the next good one does."""
    controller_pid = int(
        (Path(cluster.lab or ".") / "run/noacct-ctld.pid").read_text()
    )
    job = cluster.job("sleep 2")
    job.read_settings(_impatient(cluster))
    result = job.submit()
    subprocess.run(["kill", "-STOP", str(controller_pid)], check=True)
    timer = threading.Timer(
        6, lambda: subprocess.run(["kill", "-CONT", str(controller_pid)], check=False)
    )
    timer.start()
    try:
        seen = set()
        deadline = time.monotonic() + 60
        while not result.ready() and time.monotonic() < deadline:
            seen.add(bool(result.stale_since))
            time.sleep(0.1)
        assert result.status == Status.COMPLETED
        assert True in seen
    finally:
        timer.join()


def _impatient(cluster: Flavour) -> Path:
    profile = Path("impatient.ini")
    profile.write_text(cluster.profile.read_text() + "command_timeout = 1\n")
    return profile


@on("noacct")
def test_jobs_go_on_without_anybody(cluster: Flavour) -> None:
    """Nobody polls for longer than the scheduler remembers its jobs (MinJobAge is 10 s there): the
    exit records tell.
    """
    results = submit([cluster.job("exit 0"), cluster.job("exit 5")])
    time.sleep(25)
    assert wait(results, 60)[1] == []
    assert [(result.status, result.exit_code) for result in results] == [
        (Status.COMPLETED, 0),
        (Status.FAILED, 5),
    ]
