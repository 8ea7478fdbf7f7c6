"""Very short jobs, many in one of the scheduler's."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clusterjob import (
    Campaign,
    JobScript,
    ResourcesNotSupportedError,
    SettingsError,
    Status,
    default_session,
    submit,
    sweep,
    wait,
)
from clusterjob.admin import prune


def short(count: int, **settings: Any) -> list[JobScript]:
    job = JobScript("echo {{ n }} >>ran; sleep 0.01", "short", **settings)
    return sweep(job, n=range(count))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (
            {"pack": 0},
            "pack = 0: expected how many jobs run in one of the scheduler's",
        ),
        ({"pack": True}, "pack = True: expected"),
        ({"pack": "50"}, "pack = '50': expected how many"),
        ({"pack": "soon"}, "pack = 'soon': expected"),
        ({"pack": 2, "pack_slots": 0}, "pack_slots = 0: expected"),
        ({"pack_slots": 2}, "pack_slots = 2: expected pack beside it"),
        ({"pack": 2, "bundle": False}, "pack and bundle=False"),
        ({"pack": "30m"}, "job 'one': a pack of 00:30:00 needs to know how long"),
    ],
)
def test_what_is_no_pack_is_refused(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        submit(JobScript("true", "one"), **terms)
    assert words in str(caught.value)
    assert default_session().results() == []


@pytest.mark.parametrize(
    ("settings", "terms", "words"),
    [
        ({"array": "1-3"}, {"pack": 2}, "cannot go in a pack: it is an array"),
        ({"filename": "my.sh"}, {"pack": 2}, "its script has a name of its own"),
        ({"bundle": "no"}, {"pack": 2}, "the profile says 'bundle = no'"),
        ({"nodes": 2}, {"pack": 2, "pack_slots": 2}, "asks for 2 nodes"),
        (
            {"time": "1h"},
            {"pack": "30m"},
            "asks for 01:00:00, and a pack has 00:30:00",
        ),
        ({"backend": "flux"}, {"pack": 2}, "backend 'flux' has no arrays for that"),
    ],
)
def test_what_cannot_go_in_a_pack_is_refused(
    settings: dict[str, Any], terms: dict[str, Any], words: str
) -> None:
    with pytest.raises((SettingsError, ResourcesNotSupportedError)) as caught:
        submit(JobScript("true", "one", **settings), **terms)
    assert words in str(caught.value)
    assert default_session().results() == []


def test_a_pack_asks_for_what_its_jobs_need_together() -> None:
    profile = Path("limits.ini")
    profile.write_text("[Attributes]\nbackend = local\n[Limits]\nmax_time = 20m\n")
    results = submit(short(5, time="2m", mem=10), pack="6m", pack_slots=2)
    ids = [str(result.job_id).partition("_")[2] for result in results]
    assert ids == [*(f"1/{place}" for place in range(1, 6))]
    script = next(Path(results[0].record.folder).glob("jobs-*.sh")).read_text()
    assert (
        "#CLUSTERJOB --time=420" in script
    )  # three rounds, and a minute for the start
    assert "#CLUSTERJOB --mem=20" in script
    assert "#CLUSTERJOB --cores=2" in script
    job = JobScript("true", "long", time="9m")
    job.read_settings(profile)
    with pytest.raises(ResourcesNotSupportedError, match="max_time is 00:20:00"):
        submit(job, pack=3)
    wait(results, 30)


def test_many_packs_run_each_job_once() -> None:
    results = submit(short(300), pack=60, pack_slots=2)
    assert len({str(result.job_id).partition("/")[0] for result in results}) == 5
    assert wait(results, 60).not_done == []
    assert {result.status for result in results} == {Status.COMPLETED}
    assert Counter(Path("ran").read_text().split()) == Counter(map(str, range(300)))
    assert not list(Path(results[0].record.folder).glob("*.slot*"))
    assert submit(short(300), pack=60)[7].reused
    # what a pack is made of is no part of a job
    assert all(result.reused for result in submit(short(300)))


def test_a_campaign_packs_its_jobs() -> None:
    campaign = Campaign("packed", max_pending=50)
    results = campaign.add(short(100), pack=10)
    assert campaign.run(timeout=60).is_complete
    # one that was left over goes alone
    assert sum("/" in str(result.job_id) for result in results) >= 90
    assert Counter(Path("ran").read_text().split()) == Counter(map(str, range(100)))


def test_polling_packs_costs_what_polling_jobs_does() -> None:
    results = submit(short(40, time="1m"), pack=20)
    cluster = results[0].cluster
    before = cluster.scheduler.trips
    polls = cluster.poller.polls
    assert wait(results, 60).not_done == []
    trips = cluster.scheduler.trips - before
    assert trips <= 2 * (cluster.poller.polls - polls)


def test_what_a_pack_may_look_at_again_is_not_pruned() -> None:
    bodies = ["true", "until [ -e go ]; do sleep 0.1; done"]
    results = submit(
        [JobScript(body, f"p{n}") for n, body in enumerate(bodies)], pack=2
    )
    while not results[0].ready():
        time.sleep(0.05)
    prune(default_session(), 0.0, [Status.COMPLETED])
    assert len(default_session().results()) == 2
    Path("go").touch()
    assert wait(results, 30).not_done == []
    prune(default_session(), -1.0, [Status.COMPLETED])
    assert default_session().results() == []


@pytest.mark.parametrize(
    "command", ["rm -rf .clusterjob-runs", "rm .clusterjob-runs/*/*.exit"]
)
def test_who_deletes_exit_records_has_nothing_run_twice(command: str) -> None:
    Path("limits.ini").write_text(
        "[Attributes]\nbackend = local\n[Limits]\nsettle = 1\n"
    )
    jobs = []
    for number in range(4):
        body = command if number == 2 else "true"
        jobs.append(JobScript(f"echo {number} >>ran; {body}", f"d{number}"))
        jobs[-1].read_settings("limits.ini")
    results = submit(jobs, pack=4)
    assert wait(results, 60).not_done == []
    ran = Path("ran").read_text().split()  # with its script the last one may be gone
    assert ran == ["0", "1", "2", "3"][: len(ran)]
    assert len(ran) >= 3
    assert results[0].status in (Status.FAILED, Status.COMPLETED)
    assert results[2].status == Status.FAILED


def test_one_that_hangs_before_its_body_is_ended() -> None:
    os.mkfifo("pipe")
    jobs = [JobScript("echo a", "a", stdout="pipe"), JobScript("echo b", "b")]
    results = submit(jobs, pack=2)
    time.sleep(1)
    results[0].cancel()
    assert wait(results, 60).not_done == []
    assert [str(result.status) for result in results] == ["CANCELLED", "COMPLETED"]
