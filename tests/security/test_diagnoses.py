"""Jobs that never began, and names that only look like line breaks: what is said of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import clusterjob
from clusterjob import (
    CommandError,
    JobScript,
    Reason,
    Session,
    Status,
    SubmissionError,
    submit,
)
from clusterjob.admin import examine
from clusterjob.store import Phase

pytestmark = pytest.mark.usefixtures("spool")


def test_the_folder_of_a_log_is_made() -> None:
    jobs = [
        JobScript("echo here", "rel", stdout="no/dir/x.out"),
        JobScript("echo there", "abs", stdout=str(Path("far/off/x.out").absolute())),
        JobScript("echo both >&2", "err", stderr="errors/x.err"),
    ]
    results = submit(jobs)
    results.wait(30)
    assert {result.status for result in results} == {Status.COMPLETED}
    assert Path("no/dir/x.out").read_text() == results[0].stdout() == "here\n"
    assert Path("far/off/x.out").read_text() == results[1].stdout() == "there\n"
    assert results[2].stderr() == "both\n"


@pytest.mark.parametrize("path", ["file/x.out", "folder", "/proc/nosuch/x.out"])
def test_a_log_that_cannot_be_written_is_told(path: str) -> None:
    Path("file").touch()
    Path("folder").mkdir()
    result = submit(JobScript("touch ran", "odd", stdout=path))[0]
    assert result.wait(30)
    assert (result.status, result.reason) == (Status.FAILED, Reason.SUBMISSION)
    assert "could not be started" in result.words
    assert path.split("/")[0] in result.words
    assert "could not be started" in result.explain()
    assert not Path("ran").exists()


def test_a_log_that_is_a_pipe_of_nobodys_does_not_outlive_its_time() -> None:
    os.mkfifo("pipe")
    result = submit(JobScript("true", "stuck", stdout="pipe", time="2s"))[0]
    assert result.wait(30)
    assert result.status is Status.FAILED


@pytest.mark.parametrize("name", ["a\u2028b", "a\u0085b", "a\x0bb", "a\x0cb"])
def test_what_is_no_line_break_to_a_shell_is_none(name: str) -> None:
    body = f"#!/bin/sh\n# {name} #CLUSTERJOB --time=1\necho '{name}'\n"
    result = submit(JobScript(body, "lines", params={}))[0]
    result.wait(30)
    assert result.status is Status.COMPLETED
    assert result.stdout() == f"{name}\n"
    if not name.isprintable() and name[1] < " ":
        return  # no name of a job
    named = submit(JobScript(f"echo {name!r}", name))[0]
    named.wait(30)
    assert (named.name, named.status) == (name, Status.COMPLETED)


def test_jobs_start_in_the_order_of_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLUSTERJOB_SPOOL", str(Path("queue").absolute()))
    monkeypatch.setenv("CLUSTERJOB_SPOOL_CORES", "1")
    jobs = []
    for number in range(30):
        folder = Path(f"place{number % 3}")
        folder.mkdir(exist_ok=True)
        line = f"echo {number} >>{Path('order').absolute()}"
        jobs.append(JobScript(line, f"n{number}", workdir=str(folder)))
    submit(jobs).wait(60)
    assert Path("order").read_text().split() == [str(number) for number in range(30)]


def test_a_child_that_hid_does_not_survive_its_killed_shepherd() -> None:
    body = (
        "env -i setsid sh -c 'echo $$ >child; exec sleep 100' &\n"
        "until [ -s child ]; do sleep 0.1; done\n"
        "cut -d ' ' -f 4 /proc/$PPID/stat >shepherd; sleep 100\n"
    )
    result = submit(JobScript(body, "hidden"))[0]
    deadline = time.monotonic() + 20
    while not Path("shepherd").exists() or not Path("shepherd").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child = int(Path("child").read_text())
    os.kill(int(Path("shepherd").read_text()), signal.SIGKILL)
    assert result.wait(30)
    assert result.reason is Reason.NODE_FAILURE
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.1)


def test_a_queue_that_cannot_be_used_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("file").touch()
    monkeypatch.setenv("CLUSTERJOB_SPOOL", str(Path("file/queue").absolute()))
    with pytest.raises(
        SubmissionError, match=r"the queue in .*file/queue cannot be used"
    ):
        submit(JobScript("true", "one"))
    monkeypatch.setenv("CLUSTERJOB_SPOOL", str(Path("queue").absolute()))
    result = submit(JobScript("true", "one"))[0]
    assert result.wait(30)
    assert result.status is Status.COMPLETED


@pytest.mark.parametrize(
    "trick", ["mkfifo $e", "ln -s /dev/zero $e", "truncate -s 3G $e"]
)
def test_what_a_job_makes_of_its_exit_record_harms_only_itself(trick: str) -> None:
    body = f"e=${{0%.body}}.exit; rm $e; {trick}; kill -9 $PPID"
    odd, fine = submit([JobScript(body, "odd"), JobScript("echo fine", "fine")])
    assert fine.wait(20)
    assert fine.status is Status.COMPLETED
    assert odd.wait(30)
    assert odd.status is Status.FAILED


def test_jobs_of_others_in_the_queue_keep_no_submission_open() -> None:
    Path("hand.sh").write_text("#!/bin/sh\ntrue\n")
    spool = Path(clusterjob.__file__).with_name("spool.py")
    subprocess.run([sys.executable, str(spool), "submit", "hand.sh"], check=True)
    first = submit(JobScript("true", "one"))[0]
    assert first.wait(30)
    store = first.store
    fresh = first.record.renewed("other", first.record.spec)
    fresh.owner, fresh.leased = "gone", 1.0
    store.claim([fresh], lambda old, new: True)
    Session(store).recover()
    [found] = store.by_tokens([fresh.token]).values()
    assert found.job_id, found.task.words


def test_jobs_have_the_umask_of_who_submitted_them() -> None:
    results = []
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            results += submit(
                JobScript("umask; touch made", f"mask{mask}", stdout=f"{mask}.out")
            )
        finally:
            os.umask(before)
    for result, mask in zip(results, ("0022", "0077", "0002"), strict=True):
        assert result.wait(30)
        assert result.stdout() == f"{mask}\n"


def test_a_job_whose_id_is_anothers_is_not_cancelled_by_it() -> None:
    """A record of another machine, or one that was changed: the id is that of another job now."""
    body = "until [ -e go ]; do sleep 0.1; done"
    other = submit(JobScript(body, "other"))[0]
    stranger = other.record.renewed("elsewhere", other.record.spec)
    stranger.key, stranger.name = "f" * 64, "stranger"
    stranger.phase, stranger.job_id = Phase.SUBMITTED, other.job_id
    other.store.claim([stranger], lambda old, new: True)
    with Session(other.store) as session:
        [found] = session.results("stranger")
        with pytest.raises(CommandError, match="not cancelled: 'stranger'"):
            found.cancel()
    Path("go").touch()
    assert other.wait(30)
    assert other.status is Status.COMPLETED


def test_the_doctor_names_jobs_of_other_stores_in_one_line() -> None:
    body = "until [ -e go ]; do sleep 0.1; done"
    with Session("one") as one, Session("two") as two:
        ours = one.submit([JobScript(body, "ours")])
        theirs = two.submit(
            [JobScript(f"{body} # {n}", f"job{n}") for n in range(7)], bundle=False
        )
        findings = [
            finding for finding in examine(one) if finding.what == "strangers"
        ]
        Path("go").touch()
        assert ours.wait(30)
        assert theirs.wait(30)
    [finding] = findings
    assert finding.ok
    # those of other tests may be among them
    assert finding.detail.count(" (token ") == 5
    assert re.search(r" and \d+ more$", finding.detail)
    assert f" {ours[0].job_id} (token" not in finding.detail
