"""From a list of active jobs to new states."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from clusterjob import Reason, Retry, Status
from clusterjob.backend import Answer, ExitRecord, load_backend
from clusterjob.engine.arrays import aggregate
from clusterjob.engine.assess import Assessment, Assessor
from clusterjob.engine.pace import BatchSize
from clusterjob.engine.replies import EndReport, Listing
from clusterjob.store import JobSpec, Phase, Record, Task


class Scheduler:
    """Remembers what it was asked about jobs that have ended, and knows that they did."""

    def __init__(self) -> None:
        self.backend = load_backend("slurm")
        self.accounting = True
        self.asked: list[str] = []
        self.end = ExitRecord("1", 1, "n", exit_code=0, ended=5.0)

    def ended(
        self,
        runs: Mapping[str, Sequence[str]],
        ids: object,
        age: float,
        going: Collection[str] = (),
    ) -> EndReport:
        names = [name for members in runs.values() for name in members]
        self.asked += names
        return EndReport(
            dict.fromkeys(names, self.end), history=Listing(complete=True, asked=True)
        )


def record(token: str, job_id: str, **values: Any) -> Record:
    return Record(
        token,
        token,
        token,
        "slurm",
        "/w",
        "/w/runs",
        phase=Phase.SUBMITTED,
        job_id=job_id,
        _spec=JobSpec(),
        created=1.0,
        task=Task(Status.RUNNING),
        **values,
    )


def apply(found: Assessment) -> None:
    for changed in found.changed:
        found.judge(changed)


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()


@pytest.fixture
def assessor(scheduler: Scheduler) -> Assessor:
    return Assessor(scheduler, BatchSize(), lambda: 100.0)  # type: ignore[arg-type]


def test_absence_from_an_incomplete_list_means_nothing(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    missing = record("a", "1")
    assert (
        assessor.assess([missing], Listing(asked=True, complete=False)).changed == []
    )
    assert scheduler.asked == []
    assert missing.task.missing_since is None


def test_absence_from_a_complete_list_is_asked_about(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    missing = record("a", "1")
    found = assessor.assess([missing], Listing(asked=True, complete=True))
    assert scheduler.asked == ["a"]
    assert found.changed == [missing]
    apply(found)
    assert missing.status == Status.COMPLETED


def test_a_listed_end_is_asked_about_also_where_the_list_is_incomplete(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    ended, runs = record("a", "1"), record("b", "2")
    answers = {
        ("1", None): [Answer("1", state="COMPLETED", token="a")],
        ("2", None): [Answer("2", state="RUNNING", token="b")],
    }
    apply(
        assessor.assess([ended, runs], Listing(answers, complete=False, asked=True))
    )
    assert scheduler.asked == ["a"]
    assert (ended.status, runs.status) == (Status.COMPLETED, Status.RUNNING)


def test_a_word_that_nobody_knows_decides_nothing(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    odd = record("a", "1")
    answers = {("1", None): [Answer("1", state="HIBERNATING", token="a")]}
    apply(assessor.assess([odd], Listing(answers, complete=True, asked=True)))
    assert scheduler.asked == []
    assert odd.status == Status.RUNNING
    assert "does not know" in odd.task.words


def test_more_than_the_line_bears_is_asked_about_in_turns(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    assessor.batch_size.most = 20
    records = [record(f"t{number}", str(number)) for number in range(30)]
    assessor.assess(records, Listing(asked=True, complete=True))
    assert len(scheduler.asked) == 20
    assert assessor.batch_size.most == 25  # it bore that: next time a few more


def test_an_array_is_what_its_elements_are() -> None:
    whole = record("a", "1[]")
    whole.tasks = {
        1: Task(Status.COMPLETED, started=3.0, ended=9.0),
        2: Task(Status.FAILED, Reason.EXIT, 4, started=2.0, ended=7.0),
    }
    whole.tasks[1].usage = {"elapsed": 6.0, "max_rss": 30.0}
    whole.tasks[2].usage = {"elapsed": 5.0, "max_rss": 80.0, "cpu": 1.0}
    aggregate(whole)
    assert (whole.status, whole.task.reason, whole.task.exit_code) == (
        Status.FAILED,
        Reason.EXIT,
        4,
    )
    assert (whole.task.started, whole.task.ended) == (2.0, 9.0)
    assert whole.task.usage == {"elapsed": 11.0, "cpu": 1.0, "max_rss": 80.0}


def test_an_array_runs_until_all_have_ended() -> None:
    whole = record("a", "1[]")
    whole.tasks = {1: Task(Status.COMPLETED, ended=9.0), 2: Task(Status.PENDING)}
    aggregate(whole)
    assert (whole.status, whole.task.ended) == (Status.RUNNING, None)
    assert "max_rss" not in whole.task.usage
    whole.tasks = {1: Task(), 2: Task()}
    aggregate(whole)
    assert whole.status == Status.PENDING


def test_evidence_is_judged_by_what_the_record_says_when_it_is_written(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    killed = record("a", "1")
    scheduler.end = ExitRecord("1", 1, "n", exit_code=143, ended=5.0)
    scheduler.accounting = False
    found = assessor.assess([killed], Listing(asked=True, complete=True))
    killed.cancel_requested = 50.0  # another process asked for it meanwhile
    killed.version += 1
    apply(found)
    assert killed.status == Status.CANCELLED


def test_the_end_of_an_attempt_is_not_that_of_the_next(
    scheduler: Scheduler, assessor: Assessor
) -> None:
    """Two processes see it; the first one begins the next attempt, and it is running."""
    scheduler.end = ExitRecord("1", 1, "n", exit_code=75, ended=5.0)
    rules = Retry(times=3, exit_codes={75: {}}).rules()
    stored = record("a", "1")
    stored._spec = JobSpec(retry=rules)
    nothing = Listing(asked=True, complete=True)
    seen = [assessor.assess([stored.snapshot()], nothing) for _ in range(2)]
    assert seen[0].judge(stored)
    assert (stored.attempt, stored.status) == (2, Status.PENDING)
    stored.phase, stored.job_id = Phase.SUBMITTED, "2"
    stored.task = Task(Status.RUNNING)
    before = stored.to_json()
    assert not seen[1].judge(stored)
    assert stored.to_json() == before
