"""Run folders that somebody else made, or may write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clusterjob import JobScript, Status, SubmissionError, submit

STRANGER = 60_001
pytestmark = pytest.mark.usefixtures("spool")


def test_our_own_folder_is_private() -> None:
    before = os.umask(0o002)
    try:
        submit(JobScript("true", "one")).wait(30)
    finally:
        os.umask(before)
    for folder in (Path(".clusterjob-runs"), *Path(".clusterjob-runs").iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707])
def test_a_folder_that_others_may_write_to_is_refused(mode: int) -> None:
    Path(".clusterjob-runs").mkdir()
    Path(".clusterjob-runs").chmod(mode)
    with pytest.raises(SubmissionError, match=r"others may write to .*chmod go-w"):
        submit(JobScript("touch ran", "one"))
    assert not Path("ran").exists()
    Path(".clusterjob-runs").chmod(0o755)
    submit(JobScript("touch ran", "one")).wait(30)
    assert Path("ran").exists()


def test_a_strangers_folder_is_refused() -> None:
    Path(".clusterjob-runs").mkdir(mode=0o755)
    try:
        os.chown(".clusterjob-runs", STRANGER, -1)
    except OSError:
        pytest.skip("only root can make files of somebody else's")
    with pytest.raises(SubmissionError, match="belongs to somebody else"):
        submit(JobScript("touch ran", "one"))
    assert not Path("ran").exists()


def test_no_file_is_written_through_a_link_that_can_be_foreseen() -> None:
    Path("victim").write_text("precious")
    Path("run.sh.part" + str(os.getpid())).symlink_to("victim")
    submit(JobScript("true", "one", filename="run.sh")).wait(30)
    assert Path("victim").read_text() == "precious"
    assert Path("run.sh").is_file()


def test_the_embedded_scheduler_runs_what_was_submitted() -> None:
    submit(JobScript("until [ -e go ]; do sleep 0.1; done", "first", threads=1))
    parent = submit(JobScript("until [ -e go ]; do sleep 0.1; done", "parent"))[0]
    child = submit(JobScript("touch ran", "child"), after=[parent])[0]
    script = Path(child.record.folder, f"{child.record.token}.sh")
    script.write_text("#!/bin/sh\ntouch swapped\n")
    Path("go").touch()
    assert child.wait(30)
    assert child.status is Status.FAILED
    assert "was changed after the job was submitted" in child.words
    assert not Path("ran").exists()
    assert not Path("swapped").exists()
