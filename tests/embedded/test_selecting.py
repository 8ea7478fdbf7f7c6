"""Many jobs, and which of them are meant: at a terminal and from Python."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterjob import (
    Campaign,
    JobScript,
    SettingsError,
    Status,
    default_session,
    submit,
)
from tests.embedded.test_cli import run


@pytest.fixture(autouse=True)
def _jobs() -> None:
    jobs = [JobScript(f"exit {code}", f"sim-{code}") for code in (0, 1, 2)]
    submit(jobs, tags=["first", "second"]).wait(30)
    submit(JobScript("sleep 30", "slow", time="1s"), tags=["second"]).wait(30)
    campaign = Campaign("camp")
    campaign.add(JobScript("true", "in-camp"), tags="third")
    campaign.run(timeout=30)


def names(*options: str) -> list[str]:
    return [item["name"] for item in json.loads(run("list", "--json", *options))]


def test_lists_and_sessions_take_the_same_words() -> None:
    session = default_session()
    cases = [
        (["--tag", "first"], {"tags": ["first"]}, ["sim-0", "sim-1", "sim-2"]),
        (["--campaign", "camp"], {"campaign": "camp"}, ["in-camp"]),
        (["--reason", "timeout"], {"reasons": ["timeout"]}, ["slow"]),
        (["--name", "s*", "-s", "completed"], {"names": "s*"}, ["sim-0"]),
        (["--user", "nobody-else"], {"user": "nobody-else"}, []),
        (["--since", "1h", "--tag", "third"], {"since": 0.0}, ["in-camp"]),
        (["--until", "2020-01-01"], {"until": 1.0}, []),
    ]
    for options, words, expected in cases:
        assert names(*options) == expected, options
        found = session.results(**words)  # type: ignore[arg-type]
        assert set(expected) <= {result.name for result in found}, words
    failed = session.results(states=[Status.FAILED], tags="second", names="sim-?")
    assert [result.name for result in failed] == ["sim-1", "sim-2"]
    with pytest.raises(SettingsError, match="'late' is no reason"):
        session.results(reasons="late")
    assert "how long ago" in run("list", "--since", "yesterday", code=1)


def test_lists_can_be_piped() -> None:
    ids = run("list", "--ids", "-s", "failed", "--name", "sim-*")
    assert len(ids.split()) == 2
    done = subprocess.run(
        [sys.executable, "-m", "clusterjob", "resubmit", "-"],
        input=ids,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
    assert set(done.stdout.split()).isdisjoint(ids.split())
    rows = list(
        csv.DictReader(io.StringIO(run("list", "--csv", "--campaign", "camp")))
    )
    assert [row["name"] for row in rows] == ["in-camp"]
    assert rows[0]["campaign"] == "camp"
    assert float(rows[0]["max_rss"]) > 0


def test_cancelling_by_what_jobs_are() -> None:
    submit([JobScript("sleep 100", f"long-{n}") for n in range(3)], tags=["long"])
    assert "say which jobs" in run("cancel", code=1)
    for option in ("--campaign", "--tag", "--name", "--user"):
        assert f"{option} is empty" in run("cancel", option, "", code=1)
    assert "expected how long ago" in run("list", "--until", "14:40", code=1)
    assert run("cancel", "--tag", "lnog") == "no job is meant by that\n"
    assert "options mean" in run("cancel", "long-0", "--name", "long-1", code=4)
    assert run("list", "--tag", "lnog").startswith("no such jobs in")
    told = run("cancel", "--tag", "long", "--name", "long-[01]")
    assert told.count("is being cancelled") == 2
    run("wait", "long-0", "long-1", code=1)
    told = run("status", "--tag", "long", code=1)
    assert "1 running, 2 cancelled" in told or "1 pending, 2 cancelled" in told
    run("cancel", "long-2")


def test_resubmitting_is_all_or_nothing() -> None:
    submit(JobScript("sleep 100", "live"), tags=["mixed"])
    assert "'live'" in run("resubmit", "live", "sim-1", code=1)
    assert "no job has the id" in run("resubmit", "sim-1", "nosuch", code=4)
    assert len(default_session().results("sim-1", earlier=True)) == 1
    run("cancel", "live")


def test_tags_are_given_at_a_terminal() -> None:
    Path("body.sh").write_text("echo {{ x }}\n")
    run("submit", "body.sh", "-n", "one", "-d", "x=0", "--tag", "may", "--tag", "a b")
    run("sweep", "body.sh", "-n", "many", "-d", "x=1,2", "--tag", "may")
    assert len(names("--tag", "may")) == 3
    assert names("--tag", "a b") == ["one"]


def test_what_failed_alone_is_tried_again() -> None:
    job = JobScript("echo $n >>runs; test $n != 2 || test -e mended", "parts")
    array = job.submit_array([{"n": n} for n in (1, 2, 3)])
    array.wait(30)
    Path("mended").touch()
    (new,) = run("retry", "parts", "sim-0").splitlines()[:1]
    run("wait", new)
    assert sorted(Path("runs").read_text().split()) == ["1", "2", "2", "3"]
    assert "sim-0: it is COMPLETED" in run("retry", "sim-0")
    assert "no job has the id" in run("retry", "nosuch", code=4)
    again = run("retry", "--name", "sim-*", "--reason", "exit").splitlines()
    assert len(again) == 2


def test_one_time_line_of_all() -> None:
    lines = run("history").splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        line.split()[0] for line in lines
    )
    events = json.loads(run("history", "--json", "--campaign", "camp"))
    assert [event["state"] for event in events][-1] == "COMPLETED"
    assert {event["name"] for event in events} == {"in-camp"}
    assert events[0]["time"] <= time.time()


def test_the_time_line_of_a_job_begins_with_its_first_submission() -> None:
    first = default_session().results("sim-1")[0].job_id
    second = run("resubmit", "sim-1").strip()
    run("wait", second, code=1)
    for named in (first, second, "sim-1"):
        events = json.loads(run("history", str(named), "--json"))
        ends = [event["job_id"] for event in events if event["state"] == "FAILED"]
        assert ends == [first, second]
    # the first submission is found by its id still
    (shown,) = json.loads(run("show", str(first), "--json"))
    assert (shown["job_id"], shown["status"]) == (first, "FAILED")
    assert {event["job_id"] for event in json.loads(run("history", "--json"))} >= {
        first,
        second,
    }


def test_waiting_can_be_piped() -> None:
    submit([JobScript("true", f"quick-{n}") for n in range(2)])
    done = subprocess.run(
        [sys.executable, "-m", "clusterjob", "wait", "-"],
        input=run("list", "--ids", "--name", "quick-*"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("COMPLETED") == 2


def test_the_status_of_a_selection_is_of_that_alone() -> None:
    submit([JobScript("true", "good")], tags=["june"]).wait(30)
    submit([JobScript("exit 3", "bad")], tags=["july"]).wait(30)
    assert run("status", "--tag", "june").endswith("\n1 completed\n")
    told = run("status", "--state", "failed", "--tag", "july", code=1)
    assert told.endswith("\n1 failed\n")
    assert "no such jobs in" in run("status", "--campaign", "nope", code=4)
    assert "good" in run("wait", "--tag", "june", "--timeout", "0")
    assert "say which jobs" in run("wait", code=1)
    assert "one or the other" in run("list", "--ids", "--json", code=2)
