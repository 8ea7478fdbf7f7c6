"""Jobs that are tried again by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterjob import (
    JobScript,
    Reason,
    Retry,
    SettingsError,
    Status,
    SubmissionError,
    afterany,
    aftercorr,
    afternotok,
    submit,
    wait,
)
from tests.processes import outputs_of_three

HOG = "python3 -c 'import time; x = bytearray({{ mb }} << 20); time.sleep(0.5)'"


def test_out_of_memory_succeeds_with_doubled_memory() -> None:
    job = JobScript(HOG, "hog", params={"mb": 150}, mem=100)
    result = job.submit(retry=Retry(2, out_of_memory={"mem": 2}))
    assert result.wait(30)
    assert result.status == Status.COMPLETED, result.explain()
    first, second = result.attempts
    assert (first.number, first.task.reason) == (1, Reason.OUT_OF_MEMORY)
    assert first.job_id != second.job_id == result.job_id
    assert (first.resources["mem"], second.resources["mem"]) == (100, 200)
    assert Path(first.stdout).exists()
    assert Path(second.stdout).exists()
    assert first.stdout != second.stdout == result.log_path()
    assert "attempt 1 failed (out_of_memory)" in str(result.history)
    assert "tried again with mem=200M" in str(result.history)
    again = job.submit()
    assert again == result
    assert again.reused


def test_each_reason_has_its_own_rule_and_times_are_counted() -> None:
    body = "n=$(cat n{{ i }} 2>/dev/null || echo 0); echo $((n + 1)) > n{{ i }}; exit {{ i }}"
    jobs = [JobScript(body, f"j{i}", params={"i": i}) for i in (75, 76)]
    results = submit(jobs, retry=Retry(times=2, exit_codes={75: {}}, delay=0.1))
    results.wait(30)
    assert [result.record.attempt for result in results] == [3, 1]
    assert {result.status for result in results} == {Status.FAILED}
    assert Path("n75").read_text() == "3\n"
    assert results[0].exit_code == 75


def test_only_the_elements_that_failed_run_again() -> None:
    body = (
        "echo $CLUSTERJOB_ARRAY_INDEX >> ran; "
        "[ $CLUSTERJOB_ARRAY_INDEX != 2 ] || [ $(grep -c 2 ran) -gt 1 ]"
    )
    result = JobScript(body, "array", array="1-3").submit(retry=Retry(2))
    assert result.wait(30)
    assert result.status == Status.COMPLETED, result.explain()
    assert sorted(Path("ran").read_text().split()) == ["1", "2", "2", "3"]
    first = result.attempts[0]
    assert first.tasks is not None
    assert list(first.tasks) == [2]
    assert result.stdout(2) == ""
    assert "/" + result.record.token + "_2.2.out" in result.log_path(index=2)
    assert "/" + result.record.token + ".3.out" in result.log_path(index=3)


def test_what_is_cancelled_is_not_tried_again() -> None:
    result = JobScript("exit 1", "c").submit(retry=Retry(5, delay=60))
    while result.record.attempt == 1:
        result.refresh(force=True)
    assert result.status == Status.PENDING
    assert "tried again" in result.words
    result.cancel()
    assert result.wait(10)
    assert (result.status, result.reason) == (Status.CANCELLED, Reason.CANCELLED)


def test_whoever_comes_next_goes_on() -> None:
    """The process that submitted is gone; another one that looks tries again."""
    program = (
        "from clusterjob import JobScript, Retry\n"
        "JobScript('test -e ok || { touch ok; exit 1; }', 'g').submit(retry=Retry(1))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    for _ in range(100):
        done = subprocess.run(
            [sys.executable, "-m", "clusterjob", "wait", "g", "--timeout", "10s"],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_profile_says_it_too() -> None:
    Path("p.ini").write_text(
        "[Attributes]\nbackend = local\n[Retry]\ntimes = 1\nexit 3 = time*1.5\ndelay = 1s\n"
    )
    job = JobScript("test -e ok || { touch ok; exit 3; }", "p", time="10m")
    job.read_settings("p.ini")
    result = job.submit()
    assert result.wait(30)
    assert result.status == Status.COMPLETED
    assert [item.resources["time"] for item in result.attempts] == [600, 900]
    assert "tried again with time=00:15:00" in str(result.history)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tmies = 3", r"\[Retry\] tmies: unknown key. Did you mean 'times'"),
        ("times = many", r"\[Retry\] times: times = 'many'"),
        ("timeout = time*fast", "'fast' is no factor"),
        ("timeout = longer", "'longer' is no change"),
        ("exit 300 = ", "from 1 to 255"),
        ("delay = 10", "expected seconds, or '30s'"),
        ("most = nodes=4", "expected time or mem"),
        ("out_of_memory = mem*0.5", "a factor from 1 on"),
    ],
)
def test_mistakes_in_a_profile(text: str, words: str) -> None:
    Path("p.ini").write_text(f"[Retry]\n{text}\n")
    with pytest.raises(SettingsError, match=words):
        JobScript("true").read_settings("p.ini")


def test_what_cannot_be_is_refused_before_anything_runs() -> None:
    with pytest.raises(SettingsError, match="asks for no mem"):
        JobScript("true").submit(retry=Retry(out_of_memory={"mem": 2}))
    with pytest.raises(SettingsError, match="cannot leave nodes out"):
        JobScript("true").submit(retry=Retry(node_failure={"exclude": True}))
    with pytest.raises(SettingsError, match="times"):
        Retry(times=-1)
    assert not os.path.exists(".clusterjob")


def test_children_of_a_job_that_is_tried_again_wait_for_it() -> None:
    body = "test -e ok-{{ i }} || { touch ok-{{ i }}; exit 1; }"
    parent = JobScript(body, "parent", params={"i": 1})
    child = JobScript("touch child", "child")
    grandchild = JobScript("test -e child", "grandchild")
    other = JobScript("exit 1", "other")
    orphan = JobScript("touch orphan", "orphan")
    results = submit(
        [parent, child, grandchild, other, orphan],
        after={child: parent, grandchild: child, orphan: [parent, other]},
        retry=Retry(1),
    )
    results.wait(30)
    states = {result.name: result.status for result in results}
    assert states == {
        "parent": Status.COMPLETED,
        "child": Status.COMPLETED,
        "grandchild": Status.COMPLETED,
        "other": Status.FAILED,
        "orphan": Status.CANCELLED,
    }
    assert results[4].reason is Reason.DEPENDENCY
    assert not Path("orphan").exists()


def two_profiles() -> None:
    for name, poll in (("a", "0.21"), ("b", "0.22")):
        Path(f"{name}.ini").write_text(
            f"[Attributes]\nbackend = local\nplace = {name}\nworkdir = in_{name}\n"
            f"[Limits]\nfirst_poll = 0.05\npoll_interval = {poll}\n"
        )


def test_another_cluster() -> None:
    """What failed at one goes to the other, and what comes after it waits for that."""
    two_profiles()
    job = JobScript("echo at {{ place }}; test {{ place }} = b", "moves")
    job.read_settings("a.ini")
    child = JobScript("echo after", "child")
    child.read_settings("a.ini")
    rules = Retry(2, exit={"profile": "b.ini"})
    results = submit([job, child], after={child: job}, retry=rules)
    first = results[0].record.cluster_id
    results.wait(60)
    assert [result.status for result in results] == [Status.COMPLETED] * 2
    assert results[0].record.cluster_id != first
    assert results[0].stdout() == "at b\n"
    assert "/in_b/" in results[0].log_path()
    old, new = results[0].attempts
    assert Path(old.stdout).read_text() == "at a\n"
    assert (new.number, new.stdout) == (2, results[0].log_path())
    again = job.submit(retry=rules)
    assert again.reused
    assert again == results[0]


def test_another_cluster_also_fails_and_is_not_left() -> None:
    two_profiles()
    job = JobScript("echo {{ place }} >> ../ran; exit 1", "fails")
    job.read_settings("a.ini")
    result = job.submit(retry=Retry(3, exit={"profile": "b.ini"}))
    assert result.wait(60)
    assert (result.status, result.record.attempt) == (Status.FAILED, 4)
    assert Path("ran").read_text().split() == ["a", "b", "b", "b"]


def test_a_profile_names_another_one_beside_it() -> None:
    Path("deep").mkdir()
    two_profiles()
    Path("b.ini").rename("deep/b.ini")
    Path("deep/a.ini").write_text(
        Path("a.ini").read_text() + "[Retry]\nexit 7 = profile=b.ini\n"
    )
    job = JobScript("test {{ place }} = b || exit 7", "named")
    job.read_settings("deep/a.ini")
    result = job.submit()
    assert result.wait(60)
    assert result.status == Status.COMPLETED, result.explain()


def test_where_it_could_not_go_is_said_at_once() -> None:
    job = JobScript("true", "nowhere")
    with pytest.raises(SettingsError, match=r"nosuch\.ini"):
        job.submit(retry=Retry(1, exit={"profile": "nosuch.ini"}))
    two_profiles()
    with pytest.raises(SettingsError, match="cannot go to another profile"):
        JobScript("true", "many", array="1-3").submit(
            retry=Retry(1, exit={"profile": "b.ini"})
        )
    with pytest.raises(SettingsError, match="expected the path of a profile"):
        Retry(1, exit={"profile": 3})


def test_a_job_after_one_that_waits_for_its_next_attempt() -> None:
    job = JobScript("echo . >>ran; test $(wc -l <ran) -gt 1", "first")
    parent = job.submit(retry=Retry(1, exit={}, delay=2))
    while parent.record.attempt == 1:
        parent.refresh(force=True)
    assert parent.job_id is None
    child = JobScript("wc -l <ran", "second").submit(after=parent)
    assert child.job_id is None
    assert child.status == Status.PENDING
    assert "it waits for 'first'" in child.words
    assert child.wait(30)
    assert (child.status, child.stdout()) == (Status.COMPLETED, "2\n"), (
        child.explain()
    )


@pytest.mark.parametrize("pack", [None, 3])
def test_what_comes_after_an_end_waits_for_the_last_attempt(pack: int | None) -> None:
    """And the same script runs again once all is well."""
    job = JobScript("sleep 0.5; test -e m || { touch m; exit 75; }; touch done", "p")
    alarm, clean = (
        JobScript("touch alarm", "alarm"),
        JobScript("test -e done", "clean"),
    )
    jobs = [job, alarm, clean]
    after = {alarm: afternotok(job), clean: afterany(job)}
    for number in range(2):
        results = submit(jobs, after=after, retry=Retry(2, delay=0.5), pack=pack)
        assert wait(results, 60).not_done == []
        states = [str(result.status) for result in results]
        assert states == ["COMPLETED", "CANCELLED", "COMPLETED"]
        assert results[1].reason == Reason.DEPENDENCY
        assert [result.reused for result in results] == [number == 1] * 3
    assert not Path("alarm").exists()


def test_elements_wait_for_the_last_attempt_of_theirs() -> None:
    first = JobScript(
        "sleep 0.3; [ $n != 2 ] || [ -e m ] || { touch m; exit 9; }", "first"
    )
    parent = first.submit_array([{"n": n} for n in (1, 2, 3)], retry=Retry(2))
    child = JobScript("echo $n", "child").submit_array(
        [{"n": n} for n in (1, 2, 3)], after=aftercorr(parent)
    )
    assert wait([parent, child], 60).not_done == []
    assert child.status == Status.COMPLETED, child.explain()
    failed = parent.attempts[0].task
    assert (failed.status, failed.exit_code) == (Status.FAILED, 9)


def test_nothing_comes_after_an_array_of_which_an_element_has_failed_for_good() -> (
    None
):
    body = (
        "until [ -e begin ]; do sleep 0.1; done; case $CLUSTERJOB_ARRAY_INDEX in "
        "2) [ ! -e m ] || { until [ -e go ]; do sleep 0.1; done; exit 0; }; touch m; exit 75 ;; "
        "3) exit 9 ;; esac"
    )
    parent = JobScript(body, "parent", array="1-4").submit(
        retry=Retry(2, exit_codes={75: {}})
    )
    early = JobScript("touch early", "early").submit(after=parent)
    alarm = JobScript("touch alarm", "alarm").submit(after=afternotok(parent))
    Path("begin").touch()
    while len(parent.attempts) < 2 or not parent.job_id:
        parent.refresh(force=True)
        time.sleep(0.1)
    # what the scheduler runs now is element 2 alone
    with pytest.raises(SubmissionError, match="elements of it have failed for good"):
        JobScript("touch late", "late").submit(after=parent)
    Path("go").touch()
    assert wait([parent, early, alarm], 60).not_done == []
    assert parent.tasks[2].status == Status.COMPLETED
    assert parent.status == Status.FAILED
    assert (early.status, early.reason) == (Status.CANCELLED, Reason.DEPENDENCY)
    assert alarm.status == Status.COMPLETED
    assert not Path("early").exists()


def test_processes_that_see_the_same_failure_begin_one_attempt() -> None:
    program = (
        "from clusterjob import JobScript, Retry, submit, sweep\n"
        "body = 'echo r >> led-{{ i }}; [ $(wc -l < led-{{ i }}) -ge 2 ] || exit 75'\n"
        "jobs = list(sweep(JobScript(body, 'a'), i=range(10)))\n"
        "results = submit(jobs, retry=Retry(times=1, exit_codes={75: {}}))\n"
        "results.wait(100)\n"
        "print(results.counts)\n"
    )
    assert set(outputs_of_three(program)) == {f"{ {Status.COMPLETED: 10} }\n"}
    runs = [len(path.read_text().split()) for path in Path().glob("led-*")]
    assert runs == [2] * 10


def test_a_job_that_has_had_the_most_says_so() -> None:
    rules = Retry(3, exit_codes={75: {"time": 3}}, most={"time": "20m"})
    result = JobScript("exit 75", "most", time="10m").submit(retry=rules)
    assert result.wait(60)
    assert [attempt.number for attempt in result.attempts] == [1, 2]
    assert "it has had the most that its rules allow" in result.explain()
