"""Many processes at once, and a disk that is full."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterjob import submit, wait
from clusterjob.errors import ClusterJobError
from clusterjob.script import default_session
from tests.contract.conftest import Flavour, on

from .conftest import LONG, everything_ran_once, start

JOBS = 200 if LONG else 50


def eight_at_once(cluster: Flavour) -> None:
    processes = [start(cluster, "same", JOBS) for _ in range(8)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    everything_ran_once(JOBS, 300)


@on("slurm", "local", "pbspro")
def test_eight_processes_submit_the_same_jobs(cluster: Flavour) -> None:
    eight_at_once(cluster)


@on("slurm")
def test_eight_processes_share_postgresql(
    cluster: Flavour, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("database")
    monkeypatch.setenv("CLUSTERJOB_STORE", url)
    eight_at_once(cluster)
    default_session().store.close()


@on("local")
def test_eight_processes_share_a_store_of_files(
    cluster: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERJOB_STORE", f"file://{tmp_path}/files")
    eight_at_once(cluster)


@on("noacct")
def test_twenty_notebooks_ask_once_an_interval(
    cluster: Flavour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a job of its own; the commands that the scheduler gets are counted by a wrapper
    around them.
    """
    count, interval = (20, 2.0) if LONG else (8, 1.0)
    squeue = shutil.which("squeue")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "squeue"
    wrapper.write_text(
        f'#!/bin/sh\necho asked >> {shlex.quote(str(tmp_path))}/asked\nexec {squeue} "$@"\n'
    )
    wrapper.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    profile = tmp_path / "slow.ini"
    profile.write_text(
        f"[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = {interval}\npoll_interval = "
        f"{interval}\n"
    )
    code = (
        "import sys, time; from clusterjob import JobScript\n"
        "job = JobScript('sleep 8; echo ' + sys.argv[2], sys.argv[2]); "
        "job.read_settings(sys.argv[1]); result = job.submit()\n"
        "assert result.wait(60); print(result.status.name)\n"
    )
    began = time.monotonic()
    books = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(profile), f"book{number}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for book in books:
        out, err = book.communicate(timeout=120)
        assert out == "COMPLETED\n", out + err
    asked = (tmp_path / "asked").read_text().count("asked")
    assert asked <= (time.monotonic() - began) / interval + 3
    assert asked >= 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=1m,nr_inodes=200",
                "none",
                str(disk),
            ],
            check=False,
        ).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@on("local", "noacct")
def test_a_full_disk_at_every_write(
    cluster: Flavour,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(small_disk)
    ledger = tmp_path / "ledger"
    ledger.touch()
    said: list[str] = []
    steps = range(0, 140, 4 if LONG else 12)
    for free in steps:
        shutil.rmtree(small_disk / ".clusterjob-runs", ignore_errors=True)
        default_session().store.close()
        shutil.rmtree(small_disk / ".clusterjob", ignore_errors=True)
        jobs = [
            cluster.job(f"echo {free}-{number} >> {ledger}", f"full-{free}-{number}")
            for number in range(3)
        ]
        fill(small_disk, free)
        try:
            wait(submit(jobs), 20)
        except ClusterJobError as error:
            said.append(str(error))
        (small_disk / "filler").unlink()
        results = submit(jobs)
        assert wait(results, 30)[1] == [], free
        results = submit(jobs)  # what failed for want of room is submitted again
        assert wait(results, 30)[1] == [], free
        assert [result.status.name for result in results] == ["COMPLETED"] * 3, [
            result.explain() for result in results
        ]
        for result in results:
            result.cluster.jobs._records.clear()
    lines = ledger.read_text().split()
    assert sorted(lines) == sorted(
        f"{free}-{number}" for free in steps for number in range(3)
    )
    assert len(said) > 2
    for words in said:
        assert any(
            word in words
            for word in ("full", "No space", "no space", "disk I/O", "cannot be")
        ), words


def fill(disk: Path, free: int) -> None:
    """Fill a disk until ``free`` kB are left."""
    with (disk / "filler").open("wb") as filler:
        room = os.statvfs(disk)
        filler.write(b"x" * max(0, room.f_bavail * room.f_frsize - free * 1024))
