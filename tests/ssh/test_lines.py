"""One connection, few channels, few logins; lines that break, stall, or end in the middle of a
word.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clusterjob import JobScript, Status, cancel, submit
from clusterjob.errors import CommandError, LineBrokenError, TransportError
from clusterjob.files import Upload, upload
from clusterjob.files.outgoing import blocks_of
from clusterjob.script import default_session
from clusterjob.transport import remote
from clusterjob.transport.base import Patience
from tests.lines import far_line

from .conftest import Reach, open_transport


def test_one_connection_and_no_more_channels_than_sshd_takes(reach: Reach) -> None:
    """Three times as many threads as sshd's MaxSessions; one that has taken sessions already."""
    way = reach("lab-plain")
    began = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        answers = list(
            pool.map(
                lambda number: way.run(f"sleep 0.2; echo {number}").stdout, range(30)
            )
        )
    assert answers == [f"{number}\n" for number in range(30)]
    assert way.connections == 1
    assert time.monotonic() - began < 10


def test_a_host_that_takes_fewer_sessions_is_waited_for(
    reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = reach("lab-plain")
    way._slots = threading.BoundedSemaphore(20)  # sshd refuses the eleventh
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(
                lambda number: way.run(f"sleep 0.3; echo {number}").stdout, range(20)
            )
        )
    assert answers == [f"{number}\n" for number in range(20)]
    assert way.connections == 1


def test_a_process_shares_its_connection_and_a_forked_one_makes_its_own(
    far: Path,
) -> None:
    config = str(far / "config")
    connections = default_session().connections
    way: Any = connections.open("lab-plain", "ssh", config, 1000)
    assert connections.open("lab-plain", "ssh", config) is way
    assert way.run("echo parent").stdout == "parent\n"
    answers = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: answers.put(way.run("echo child").stdout)
    )
    child.start()
    assert answers.get(timeout=30) == "child\n"
    child.join()
    assert way.run("echo parent").stdout == "parent\n"


def test_logins_are_limited_across_processes(far: Path, tmp_path: Path) -> None:
    program = """
import sys
from clusterjob.transport import Connections, host_state
host_state._MINUTE = 3.0
way = Connections().open("lab-plain", "ssh", sys.argv[1], 4)
for _ in range(4):
    way.run("true"); way.close()
"""
    began = time.time()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(far / "config")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        assert run.communicate(timeout=60)[1] == ""
        assert run.returncode == 0
    assert time.time() - began > 3
    state = json.loads(
        next(
            (tmp_path / "home/.local/state/clusterjob/hosts").glob("*.json")
        ).read_text()
    )
    assert len([when for when in state["logins"] if when > began]) <= 8
    assert (
        max(
            sum(1 for other in state["logins"] if 0 <= other - when < 3)
            for when in state["logins"]
        )
        <= 4
    )
    assert (
        state["home"] if "home" in state else state["route"] == "lab@127.0.0.1:2205"
    )


def test_too_many_logins_are_refused_with_the_reason(reach: Reach) -> None:
    way = reach("labfish@lab-plain", limit=2)
    now = time.time()
    with way.state._changed() as data:
        # of other processes, which waited: the next turn is more than a minute away
        data["logins"] = [now, now, now]
        way.state.limit = 1
    with pytest.raises(
        TransportError,
        match=r"3 logins in the last minute, as many as \[Limits\] connections allows; "
        r"try again in \d+ s",
    ):
        way.state.admit(patience=5)
    with way.state._changed() as data:
        data["logins"] = [now + 3600]  # of a clock that was ahead
    assert way.run("echo in").stdout == "in\n"


def test_a_truncated_script_is_not_run(reach: Reach, tmp_path: Path) -> None:
    """The line ends in the middle of `rm -rf folder/part`: nothing of it may be run."""
    way = reach("lab-plain")
    way.connect()
    for command, text in (
        (remote._RUN_ALL, f"touch {tmp_path}/ran\nrm -rf {tmp_path}/some"),
        (remote._RUN_FIRST_PART, f"touch {tmp_path}/ran\nrm -rf {tmp_path}/some"),
        (remote._RUN_FIRST_PART, f"touch {tmp_path}/ran\nrm -rf {tmp_path}/some\n"),
    ):
        way._exchange(
            command,
            [text.encode()],
            lambda data: None,
            lambda data: None,
            Patience(20),
        )
    assert not (tmp_path / "ran").exists()
    assert way.run("true").exit_code == 0


def test_a_truncated_upload_leaves_nothing_of_its_name(
    reach: Reach, tmp_path: Path
) -> None:
    way = reach("lab-plain")
    for size in (100_000, 6 << 20):
        source = tmp_path / f"source{size}"
        source.write_bytes(os.urandom(size))
        target = tmp_path / "there" / f"name{size}"

        class Unread(Exception):
            pass

        with pytest.MonkeyPatch.context() as patch:

            def broken(content: Any, offset: int = 0) -> Any:
                for number, block in enumerate(blocks_of(content, offset)):
                    yield block[:50_000]
                    if number or len(block) < 1 << 20:
                        raise CommandError("the disk is broken")

            for module in ("archive", "send"):
                patch.setattr(f"clusterjob.files.{module}.blocks_of", broken)
            with pytest.raises(CommandError, match="disk is broken"):
                upload(
                    way, [Upload(str(target), source, replace=True, digest="0" * 64)]
                )
        time.sleep(0.3)
        assert not target.exists()
        upload(way, [Upload(str(target), source, replace=True)])
        assert target.read_bytes() == source.read_bytes()


def test_what_changes_while_it_is_sent_does_not_get_its_name(
    reach: Reach, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = reach("lab-plain")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(6 << 20))
    target = tmp_path / "there" / "name"

    def meddling(content: Any, offset: int = 0) -> Any:
        for number, block in enumerate(blocks_of(content, offset)):
            if number == 4:
                os.utime(source, (1, 1))
            yield block

    monkeypatch.setattr("clusterjob.files.send.blocks_of", meddling)
    with pytest.raises(CommandError, match="changed while it was sent"):
        upload(way, [Upload(str(target), source, replace=True, digest="1" * 64)])
    time.sleep(0.3)
    assert not target.exists()


def test_a_line_that_falls_silent_is_given_up(
    reach: Reach, lab: Path, tmp_path: Path
) -> None:
    """The proxy is stopped, not killed: bytes are taken, and none come back."""
    with far_line(lab, "local", tmp_path) as config:
        config.write_text(
            f"Host far\n    ServerAliveInterval 1\n{config.read_text()}"
        )
        way = reach("far", config)
        proxy = max(
            int(pid)
            for pid in subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "proxy.py"],
                capture_output=True,
                text=True,
            ).stdout.split()
        )
        assert way.run("echo in").stdout == "in\n"
        os.kill(proxy, signal.SIGSTOP)
        threading.Timer(8, lambda: os.kill(proxy, signal.SIGCONT)).start()
        began = time.monotonic()
        # it was silent for longer than is waited
        with contextlib.suppress(LineBrokenError):
            assert way.run("sleep 0.1; echo again").stdout == "again\n"
        assert time.monotonic() - began < 60
        time.sleep(max(0.0, began + 9 - time.monotonic()))
        assert way.run("echo back").stdout == "back\n"


def test_a_command_that_hangs_is_an_error_and_harms_no_other(reach: Reach) -> None:
    way = reach("lab-plain")
    assert way.run("echo in").stdout == "in\n"
    with pytest.raises(TransportError, match="no answer within 1 s"):
        way.run("sleep 20", timeout=1)
    assert way.run("echo on").stdout == "on\n"
    assert way.connections == 1


def test_a_master_of_the_user_is_used(far: Path, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host *\n    ControlPath {tmp_path}/user-%h\nInclude {far}/config\n"
    )
    subprocess.run(
        [
            "ssh",
            "-F",
            str(config),
            "-f",
            "-N",
            "-o",
            "ControlMaster=yes",
            "-o",
            "ControlPersist=60",
            "lab-plain",
        ],
        check=True,
        timeout=30,
    )
    try:
        way: Any = open_transport("lab-plain", "openssh", str(config), 1000)
        assert way.run("echo in").stdout == "in\n"
        assert way.connections == 0
        assert "master of the user" in way.route()
    finally:
        subprocess.run(
            ["ssh", "-F", str(config), "-O", "exit", "lab-plain"], capture_output=True
        )
    assert way.run("echo on").stdout == "on\n"  # with a master of ours
    assert way.connections == 1
    way.disconnect()


def profile(
    far: Path, kind: str, config: Path | None = None, host: str = "lab-slurm"
) -> str:
    path = Path("far.ini").absolute()
    path.write_text(
        f"[Attributes]\nbackend = slurm\nremote = {host}\ntransport = {kind}\nssh_config = "
        f"{config or far / 'config'}\nrootdir = {Path.cwd()}\n"
        "[Limits]\nconnections = 1000\nfirst_poll = 0.2\npoll_interval = 1\n"
    )
    return str(path)


def held(count: int, path: str, label: str) -> list[JobScript]:
    jobs = []
    for number in range(count):
        job = JobScript(f"true {label} {number}", f"held{number}", mem=10, hold=True)
        job.read_settings(path)
        jobs.append(job)
    return jobs


def test_five_jobs_cost_the_round_trips_of_five_hundred(far: Path, kind: str) -> None:
    path = profile(far, kind)
    counts: list[int] = []
    everything: list[Any] = []
    try:
        for size in (5, 500, 500):
            everything += submit(held(1, path, f"first{size}{len(everything)}"))
            way: Any = everything[0].cluster.scheduler.transport
            before = way.trips
            everything += submit(held(size, path, f"batch{len(everything)}"))
            counts.append(way.trips - before)
        assert counts == [2, 2, 2]
        before = way.trips
        everything[0].cluster.refresh(force=True)
        assert way.trips - before <= 2
        assert {result.record.status for result in everything} == {Status.PENDING}
        before = way.trips
        cancel(everything)
        assert way.trips - before <= 3  # a poll comes first
        assert way.connections == 1 or kind == "openssh"
    finally:
        ids = [result.job_id for result in everything]
        subprocess.run(
            ["scancel", *ids],
            env={**os.environ, "SLURM_CONF": f"{far.parent}/slurm/slurm.conf"},
        )


@pytest.mark.parametrize("kind", ["ssh", "openssh"])
def test_wait_goes_on_when_the_network_is_back(
    far: Path, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy dies while a job runs, so that nothing can be reached; another takes its place
    after the job has ended.
    """
    with far_line(far.parent, "slurm", tmp_path) as config:
        job = JobScript(
            "sleep 2; echo done > out", "waited", outputs=["out"], workdir="w"
        )
        job.read_settings(profile(far, kind, config, "far"))
        result = job.submit()
        assert result.status in (Status.PENDING, Status.RUNNING)
    assert not result.wait(6)
    assert result.stale_since is not None
    assert result.status in (Status.PENDING, Status.RUNNING)
    with far_line(far.parent, "slurm", tmp_path) as other:
        config.write_text(other.read_text())
        assert result.wait(60)
        assert result.get() == Status.COMPLETED
    assert Path("w/out").read_text() == "done\n"


def test_a_notebook_whose_jobs_have_ended_needs_no_network(
    far: Path, tmp_path: Path
) -> None:
    """Run in processes of their own, the second one when the host cannot be reached; the workdir is
    in the home folder over there.
    """
    program = """
import sys
from clusterjob import JobScript, submit, wait
jobs = []
for number in range(3):
    folder = f"offline/{number}"
    jobs.append(JobScript(f"echo {number} > out", f"n{number}", outputs=["out"], workdir=folder))
    jobs[-1].read_settings("far.ini")
results = submit(jobs)
states = [result.get(60).name for result in results]
print(states, [open(f"offline/{number}/out").read() for number in range(3)])
print(results[0].cluster.scheduler.transport.connections)
"""
    with far_line(far.parent, "slurm", tmp_path) as config:
        path = Path(profile(far, "ssh", config, "far"))
        path.write_text(path.read_text().replace(f"rootdir = {Path.cwd()}\n", ""))
        first = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert first.returncode == 0, first.stderr
        assert first.stdout.endswith("\n1\n")
    second = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=90
    )
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout.replace("\n1\n", "\n0\n")
