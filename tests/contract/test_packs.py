"""Jobs that run one after another in one of the scheduler's stay jobs of their own."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, Reason, Results, Retry, Status, submit, wait

from .conftest import SECOND, SOME, Flavour, on
from .test_requeue import requeue, rerunnable

# each kind of scheduler once
KINDS = (
    ("local", "slurm24", "htcondor")
    if SECOND
    else ("local", "slurm", "sge", "pbspro")
)
# sends a signal to the shell that runs the pack: body, its job's shell, the pack's
PACK = "$(ps -o ppid= -p $PPID)"


@pytest.fixture(autouse=True)
def _overtime_first(overtime: Callable[[], AsyncResult]) -> None:
    """Have the slow job on its way before anything else."""


def packed(cluster: Flavour, bodies: list[str], name: str, **terms: Any) -> Results:
    """Submit jobs in packs."""
    names = ("time", "requeue", "r")
    resources = {key: terms.pop(key) for key in names if key in terms}
    jobs = [
        cluster.job(body, f"{name}{n}", **{"time": "1m", **resources})
        for n, body in enumerate(bodies)
    ]
    results = submit(jobs, **terms)
    cluster.made += results
    return results


def until(condition: Callable[[], Any], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def states(results: Results) -> list[str]:
    return [str(result.status) for result in results]


@on(*SOME)
def test_they_run_in_turn_and_each_is_a_job(cluster: Flavour) -> None:
    body = (
        "echo {i} $CLUSTERJOB_ID [$CLUSTERJOB_ARRAY_INDEX] >>turns-$(({i} / 3)); echo out {i}\n"
        "! [ -e busy-$(({i} / 3)) ] || exit 9; touch busy-$(({i} / 3)); sleep 0.2\n"
        "rm busy-$(({i} / 3)); test {i} -ne 1"
    )
    bodies = [body.replace("{i}", str(i)) for i in range(5)]
    results = packed(cluster, bodies, "turn", pack=3)
    ids = [str(result.job_id) for result in results]
    assert [job_id.partition("/")[2] for job_id in ids] == ["1", "2", "3", "1", "2"]
    assert len({job_id.partition("/")[0] for job_id in ids}) == 2
    assert wait(results, 120).not_done == []
    assert states(results) == ["COMPLETED", "FAILED", *["COMPLETED"] * 3]
    assert (results[1].exit_code, results[1].reason) == (1, Reason.EXIT)
    for number, result in enumerate(results):
        assert result.stdout() == f"out {number}\n", result.explain()
        assert result.record.task.usage["elapsed"] <= 5
    seen = "".join(Path(f"turns-{pack}").read_text() for pack in (0, 1))
    expected = "".join(f"{n} {job_id} []\n" for n, job_id in enumerate(ids))
    assert seen == expected
    # the one that failed runs again, alone
    again = packed(cluster, bodies, "turn", pack=3)
    assert [
        old.job_id != new.job_id for old, new in zip(results, again, strict=True)
    ] == [
        False,
        True,
        *[False] * 3,
    ]
    assert "/" not in str(again[1].job_id)


@on(*KINDS)
def test_several_at_a_time(cluster: Flavour) -> None:
    """The first two wait for each other; what comes then goes where there is room."""
    meet = "touch here-{}; until [ -e here-{} ]; do sleep 0.1; done; echo {} >>ran"
    bodies = [
        meet.format(0, 1, 0),
        meet.format(1, 0, 1),
        *(f"echo {n} >>ran" for n in range(2, 6)),
    ]
    results = packed(cluster, bodies, "beside", pack=6, pack_slots=2)
    assert wait(results, 120).not_done == []
    assert states(results) == ["COMPLETED"] * 6
    assert Counter(Path("ran").read_text().split()) == Counter("012345")


@on(*KINDS)
def test_one_is_cancelled_and_one_has_had_its_time(cluster: Flavour) -> None:
    bodies = ["touch a; sleep 300", "touch b", "sleep 300; touch c", "touch d"]
    results = packed(cluster, bodies, "end", pack=4, time="12s")
    until(lambda: Path("a").exists())
    Results([results[0], results[1]]).cancel()
    assert wait(results, 150).not_done == []
    assert states(results) == ["CANCELLED", "CANCELLED", "FAILED", "COMPLETED"]
    assert results[2].reason == Reason.TIMEOUT
    there = [name for name in "abcd" if Path(name).exists()]
    assert there == ["a", "d"]


@on(*KINDS)
def test_all_of_a_pack_are_cancelled(cluster: Flavour) -> None:
    results = packed(cluster, ["touch a; sleep 300", "touch b"], "all", pack=2)
    until(lambda: Path("a").exists())
    results.cancel()
    assert wait(results, 120).not_done == []
    assert states(results) == ["CANCELLED", "CANCELLED"]
    assert not Path("b").exists()


@on(*KINDS)
def test_what_had_no_turn_is_submitted_again(cluster: Flavour) -> None:
    # where the scheduler signals the script alone, the job hears of it too
    bodies = [f"trap : TERM; echo 0 >>ran; kill -TERM {PACK}; sleep 1; sleep 1"]
    bodies += [f"echo {n} >>ran" for n in range(1, 4)]
    results = packed(cluster, bodies, "again", pack=4)
    assert wait(results, 150).not_done == []
    assert states(results) == ["COMPLETED"] * 4
    assert Path("ran").read_text().split() == ["0", "1", "2", "3"]
    assert [result.record.attempt for result in results] == [1, 2, 2, 2]
    assert results[1].attempts[0].task.reason is None


@on(*KINDS)
def test_a_pack_that_is_killed(cluster: Flavour) -> None:
    """Nobody writes down then which of its jobs had no turn: the scheduler says that it ended."""
    bodies = [
        f"echo 0 >>ran; kill -KILL {PACK} $PPID $$",
        "echo 1 >>ran",
        "echo 2 >>ran",
    ]
    results = packed(cluster, bodies, "killed", pack=3)
    assert wait(results, 200).not_done == []
    assert states(results) == ["FAILED", "COMPLETED", "COMPLETED"]
    assert Path("ran").read_text().split() == ["0", "1", "2"]


@on(*KINDS)
def test_jobs_after_them_and_retries(cluster: Flavour) -> None:
    flaky = "echo . >>tries; test $(wc -l <tries) -gt 1"
    first, other = cluster.job(flaky, "flaky"), cluster.job("touch other", "other")
    child = cluster.job("test -e other && test $(wc -l <tries) -gt 1", "child")
    jobs = [first, other, child]
    for job in jobs:
        job.time = "1m"
    results = submit(
        jobs, after={child: [first, other]}, pack=2, retry=Retry(1, exit={})
    )
    cluster.made += results
    assert "/" in str(results[1].job_id)
    assert wait(results, 200).not_done == []
    assert states(results) == ["COMPLETED"] * 3, results[2].explain()


# HTCondor under load was seen to leave a job that was vacated in the queue for minutes
@on(*(name for name in KINDS if name not in ("local", "htcondor")))
def test_a_pack_that_is_started_over_repeats_nothing(cluster: Flavour) -> None:
    bodies = [
        "echo 0 >>ran",
        "echo 1 >>ran; [ $(grep -c 1 ran) -gt 1 ] || sleep 600",
        "echo 2 >>ran",
    ]
    again = {
        name: value for name, value in rerunnable(cluster).items() if name != "r"
    }
    if cluster.family == "sge":
        again = rerunnable(cluster)
    results = packed(cluster, bodies, "over", pack=3, **again)
    until(lambda: results[1].refresh() or results[1].status == Status.RUNNING)
    pack = str(results[1].job_id).partition("/")[0]
    requeue(cluster, pack)

    def has_run_again() -> bool:
        results[0].refresh()
        if cluster.family == "slurm" and results[1].status == Status.PENDING:
            time.sleep(2.5)  # started within the same second, it loses its credential
            command = ["scontrol", "update", f"jobid={pack}", "starttime=now"]
            subprocess.run(command, capture_output=True)
        return Path("ran").read_text().count("1") == 2

    until(has_run_again, 150)
    assert wait(results, 120).not_done == []
    assert states(results) == ["COMPLETED"] * 3
    assert sorted(Path("ran").read_text().split()) == ["0", "1", "1", "2"]
    # one whose turn had not come may have been told before the pack was started over
    assert [result.record.attempt for result in results[:2]] == [1, 1]
