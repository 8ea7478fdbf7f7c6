"""Commands that take ids are tried with none, one, two and more than one command line holds; times
and ids of several clusters.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterjob import JobScript, SettingsError, Status
from clusterjob.backend import list_backends, load_backend, read_output
from clusterjob.engine import Scheduler
from clusterjob.errors import CommandError, SubmissionError
from clusterjob.transport import LocalTransport

RECORDINGS = Path(__file__).parents[2] / "recordings"

COUNTS = [1, 2, 2500]
# what each command line holds for the ids 1, 2, ...
JOINED = {
    "slurm": {"finished": "--jobs=1,2 ", "cancel": "scancel  1 2"},
    "sge": {"finished": "ids=1,2 ", "cancel": "qdel 1 2"},
    "pbspro": {"finished": "qstat -x -t -f -E 1 2", "cancel": "in 1 2"},
    "torque": {"cancel": "qdel 1 2"},
    "lpbs": {"cancel": "lqdel 1 2"},
    "lsf": {"finished": 'job_description" 1 2', "cancel": "bkill 1 2"},
    "htcondor": {"finished": "condor_history 1 2 ", "cancel": "condor_rm 1 2"},
    "flux": {"finished": "{name}' 1 2", "cancel": "flux cancel 1 2"},
    "local": {"finished": "finished 1 2", "cancel": "cancel 1 2"},
}


class Counting(LocalTransport):
    """Keeps the scripts that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []

    def run(self, script: str, timeout: float | None = None):  # type: ignore[no-untyped-def]
        self.scripts.append(script)
        return super().run("exit 3", timeout)


def test_every_backend_is_here() -> None:
    assert JOINED.keys() == list_backends().keys()


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("count", COUNTS)
def test_ids_are_joined_as_the_command_takes_them(name: str, count: int) -> None:
    transport = Counting()
    scheduler = Scheduler(load_backend(name), transport)
    ids = [str(number) for number in range(1, count + 1)]
    scheduler.ended({"/w/r": ["t"]}, {None: ids}, 60.0)
    with pytest.raises(CommandError):
        scheduler.cancel({None: ids})
    ended, cancelled = transport.scripts
    for kind, script in (("finished", ended), ("cancel", cancelled)):
        expected = JOINED[name].get(kind)
        if expected is None:
            continue
        commands = script.count(f"cj_begin {kind}")
        assert commands == -(-count // 1000)
        if count == 2:
            assert expected in script
        for job_id in (ids[0], ids[-1]):
            assert re.search(rf"[ ,=']{job_id}[ ,;'\n]", script)


def test_a_list_of_ids_that_is_written_as_before_is_refused() -> None:
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Commands]\nfinished = sacct --jobs={ids}\n"
    )
    with pytest.raises(
        SettingsError, match=r"p\.ini \[Commands\] finished.*\{id_list\}"
    ):
        JobScript("true").read_settings("p.ini")


@pytest.fixture(params=["Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def zone(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Python runs in this time zone."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("month", ["Jan", "Mar", "Jul", "Oct"])
def test_times_do_not_depend_on_where_python_runs(zone: str, month: str) -> None:
    text = (RECORDINGS / "sge-8.1.9" / "qacct-timeout.txt").read_text()
    line = next(line for line in text.splitlines() if "qsub_time" in line)
    dated = text.replace(line, f"qsub_time    Sun {month} 29 02:30:00 2026")
    output = load_backend("sge").outputs.finished
    number = {"Jan": 1, "Mar": 3, "Jul": 7, "Oct": 10}[month]
    expected = f"2026-{number:02d}-29T02:30:00"
    submitted = read_output(output, dated).answers[0].submitted
    assert submitted is not None
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(submitted)) == expected


def test_commands_that_print_dates_print_them_in_one_zone(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Commands]\n"
        "submit = echo 41; date > submitted\nactive = date > active\nfind =\n"
    )
    job = JobScript("true", "z")
    job.read_settings("p.ini")
    result = job.submit()
    assert result.status == Status.PENDING
    assert "UTC" in Path("active").read_text()
    # what jobs inherit is not changed
    assert "UTC" not in Path("submitted").read_text()


def test_equal_ids_on_two_clusters_are_two_jobs() -> None:
    """No token tells them apart: the command says which cluster answered."""
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Backend]\nclusters = active-{cluster}\n"
        "[Limits]\nfirst_poll = 0\npoll_interval = 0\n[Commands]\nsubmit = cat answer\n"
        "active = cat {clusters}\nfinished =\nfind =\ncancel = echo {clusters} {ids} >> cancelled\n"
    )
    results = []
    for name in ("one", "two"):
        Path("answer").write_text(f"41;{name}\n")
        made = JobScript(f"true # {name}", name)
        made.read_settings("p.ini")
        results.append(made.submit())
    for name, state in (("one", "RUNNING"), ("two", "PENDING")):
        Path(f"active-{name}").write_text(
            f"41|{state}|{int(time.time())}|0|(null)|None|\n"
        )
    assert [result.status for result in results] == [Status.RUNNING, Status.PENDING]
    results[1].cancel()
    assert Path("cancelled").read_text() == "active-two 41\n"


def test_a_scheduler_that_lacks_something_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """LSF 9 knows no -json."""
    folder = Path("bin")
    folder.mkdir()
    for name, text in (
        ("bjobs", "echo 'json: Illegal option' >&2; exit 255"),
        ("bsub", "echo 'Platform LSF 9.1.3.0'; echo called >> called"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder.absolute()}:{os.environ['PATH']}")
    with pytest.raises(
        SubmissionError, match=r"needs LSF 10\.1 or later.*LSF 9\.1\.3"
    ):
        JobScript("true", "x", backend="lsf").submit()
    assert Path("called").read_text() == "called\n"  # to ask for its version alone


def test_an_array_that_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(SettingsError, match="takes 1"):
        str(JobScript("true", "x", backend="lpbs", array="1-3"))


def test_quoted_ids_stay_words() -> None:
    scheduler = Scheduler(load_backend("pbspro"), Counting())
    command = scheduler._fill("qstat {ids}", ids=["1[]", "2"])
    assert shlex.split(command) == ["qstat", "1[]", "2"]
