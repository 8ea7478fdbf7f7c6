"""Single jobs that go as one array stay jobs of their own, on every live scheduler."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, JobScript, Reason, Status, cancel, submit, wait

from .conftest import SOME, Flavour, on

ELEMENT = {"pbspro": r"\d+\[{}\]", "sge": r"\d+\.{}", "htcondor": r"\d+\.{}"}
# where the first element is not 1
FIRST = {"htcondor": 0}
UNTIL_GO = "until [ -e {go} ]; do sleep 0.1; done"


@pytest.fixture(autouse=True)
def _overtime_first(overtime: Callable[[], AsyncResult]) -> None:
    """Have the slow job on its way before anything else."""


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def are_elements(cluster: Flavour, results: list[AsyncResult]) -> bool:
    first = FIRST.get(cluster.family, 1)
    form = ELEMENT.get(cluster.family, r"\d+_{}")
    patterns = [form.replace("{}", str(number)) for number in range(first, 100)]
    arrays = {re.match(r"\d+", str(result.job_id))[0] for result in results}  # type: ignore[index]
    pairs = zip(patterns, results, strict=False)
    return len(arrays) == 1 and all(
        re.fullmatch(pattern, str(result.job_id)) for pattern, result in pairs
    )


@on(*SOME)
def test_each_is_a_job_of_its_own(cluster: Flavour) -> None:
    body = (
        "echo $CLUSTERJOB_NAME $CLUSTERJOB_ID [$CLUSTERJOB_ARRAY_INDEX] $(pwd); "
        "echo complaint >&2; env >env; exit {{ code }}"
    )
    jobs = []
    for number, code in enumerate((0, 3, 0)):
        made = cluster.job(body, f"one{number}", params={"code": code})
        made.workdir = f"run {number}"
        Path(f"run {number}").mkdir()
        jobs.append(made)
    jobs[2].stdout, jobs[2].stderr = "logs/mine.txt", "err.txt"
    results = cluster.batch(jobs)
    scheduler = results[0].cluster.scheduler
    assert are_elements(cluster, results)
    assert wait(results, 120).not_done == []
    for number, result in enumerate(results):
        state = Status.FAILED if number == 1 else Status.COMPLETED
        assert (result.status, result.exit_code) == (state, [0, 3, 0][number])
        here = Path(f"run {number}").absolute()
        printed = f"one{number} {result.job_id} [] {here}\n"
        assert result.stdout() == printed, result.explain()
        assert "complaint\n" in result.stderr()
        assert result.record.task.started
        seen = Path(f"run {number}", "env").read_text().splitlines()
        for name, value in scheduler.backend.bundles.unset:
            given = [line for line in seen if line.startswith(f"{name}=")]
            assert given == ([] if value is None else [f"{name}={value}"])
    assert Path("run 2/logs/mine.txt").exists()
    assert Path("run 2/err.txt").exists()
    # the failed one alone runs again, alone
    again = submit(jobs)
    cluster.made += again
    changed = [old != new for old, new in zip(results, again, strict=True)]
    assert changed == [False, True, False]
    assert str(again[1].job_id).isdigit() or again[1].record.bundle is None
    assert again[1].wait(60)


@on(*SOME)
def test_one_command_submits_and_one_cancels_all(cluster: Flavour) -> None:
    jobs = [cluster.job(f"sleep 100; echo {number}") for number in range(4)]
    first = cluster.batch([cluster.job("true")])[0]
    scheduler = first.cluster.scheduler
    before = scheduler.commands
    results = cluster.batch(jobs)
    assert scheduler.commands - before == 1
    assert are_elements(cluster, results)
    until(lambda: results[0].status == Status.RUNNING)
    results[0].cancel()
    assert results[0].wait(150)
    assert (results[0].status, results[0].reason) == (
        Status.CANCELLED,
        Reason.CANCELLED,
    )
    assert not any(result.ready() for result in results[1:])
    asked: list[object] = []
    cancel_ids = scheduler.cancel

    def count(ids: Any, packed: Any = ()) -> None:
        asked.extend(ids.values())
        cancel_ids(ids, packed)

    scheduler.cancel = count  # type: ignore[method-assign]
    results[1:].cancel()  # type: ignore[attr-defined]
    del scheduler.cancel
    assert asked == [[results[1].record.submitted_id]]
    assert wait(results, 150).not_done == []
    assert {result.status for result in results} == {Status.CANCELLED}


@on(*SOME)
def test_arrays_elements_and_jobs_are_cancelled_together(cluster: Flavour) -> None:
    body = "sleep 600; echo {{ number }}"
    names = ("one", "two", "three")
    bundled = cluster.batch(
        [cluster.job(body, name, params={"number": name}) for name in names]
    )
    array = cluster.run(body, array="1-3", params={"number": "array"})
    single = cluster.run(body, params={"number": "single"})
    wanted = [bundled[0], array, single, bundled[1]]
    some = wanted[:1] if cluster.family == "local" else wanted  # it has two cores
    until(lambda: all(item.status == Status.RUNNING for item in some))
    cancel(wanted)
    assert wait(wanted, 150).not_done == []
    found = {(result.status, result.reason) for result in wanted}
    assert found == {(Status.CANCELLED, Reason.CANCELLED)}
    bundled[2].refresh(force=True)
    assert not bundled[2].status.finished
    bundled[2].cancel()


@on(*SOME)
def test_alone_where_that_is_wanted(cluster: Flavour) -> None:
    alone = [cluster.job("true", f"alone{number}") for number in range(2)]
    alone[1].bundle = "no"
    mixed = [*alone, cluster.job("true", "other", time="7m")]
    results = cluster.batch(mixed)
    assert all(result.record.bundle is None for result in results)
    apart = submit(
        [cluster.job("true", f"apart{number}") for number in range(2)], bundle=False
    )
    cluster.made += apart
    assert all(result.record.bundle is None for result in apart)
    assert wait([*results, *apart], 60).not_done == []


@on(*SOME)
def test_what_comes_after_one_of_them_waits_for_that_one(cluster: Flavour) -> None:
    """Also where the scheduler knows no such thing: then parents go alone."""
    quick = [
        cluster.job(f"{UNTIL_GO.format(go='go0')}; exit {code}", f"quick{code}")
        for code in (0, 1)
    ]
    children = [cluster.job(f"touch child{number}") for number in range(2)]
    after = {children[0]: quick[0], children[1]: quick[1]}
    results = submit([*quick, *children], after=after)
    cluster.made += results
    can_wait = results[0].cluster.scheduler.backend.bundles.after
    assert (results[0].record.bundle is not None) == can_wait
    Path("go0").touch()
    assert wait(results, 120).not_done == []
    assert results[2].status == Status.COMPLETED, results[2].explain()
    assert (results[3].status, results[3].reason) == (
        Status.CANCELLED,
        Reason.DEPENDENCY,
    )
    assert Path("child0").exists()
    assert not Path("child1").exists()


@on(*SOME)
def test_what_comes_later_after_one_of_them(cluster: Flavour) -> None:
    first = cluster.batch(
        [
            cluster.job(f"{UNTIL_GO.format(go='go')}; exit {code}", f"p{code}")
            for code in (0, 1)
        ]
    )
    assert are_elements(cluster, first)
    children = [cluster.job(f"touch later{number}") for number in range(2)]
    later = [
        child.submit(after=[parent])
        for child, parent in zip(children, first, strict=True)
    ]
    cluster.made += later
    Path("go").touch()
    assert wait([*first, *later], 120).not_done == []
    assert later[0].status == Status.COMPLETED, later[0].explain()
    assert (later[1].status, later[1].reason) == (Status.CANCELLED, Reason.DEPENDENCY)
    assert not Path("later1").exists()


@on("slurm", "sge", "pbspro", "local")
def test_a_refused_array_goes_in_smaller_ones(
    cluster: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    """Here the submit command refuses arrays of more than two elements."""
    profile = Path("small.ini")
    backend = cluster.job("true").get_backend()
    option = {"slurm": "--array=1-", "sge": "-t 1-", "pbspro": "-J 1-"}
    pattern = option.get(cluster.family, "--array=1-") + "[3-9]"
    submit_one = backend.commands.submit
    profile.write_text(
        cluster.profile.read_text()
        + f"[Commands]\nsubmit = if grep -q -e '{pattern}' {{script}}; then "
        f"echo array too large >&2; false; else {submit_one}; fi\n"
    )
    jobs: list[JobScript] = []
    for number in range(6):
        made = cluster.job(f"echo {number}", f"small{number}")
        made.read_settings(profile)
        jobs.append(made)
    results = cluster.batch(jobs)
    assert "array too large" in caplog.text
    assert "array_size" in caplog.text
    assert wait(results, 120).not_done == []
    assert [result.stdout() for result in results] == [f"{n}\n" for n in range(6)]
