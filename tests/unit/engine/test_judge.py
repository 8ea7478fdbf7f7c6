"""Every case of what became of a job."""

from __future__ import annotations

from typing import Any

import pytest

from clusterjob.backend import Answer, ExitRecord, load_backend
from clusterjob.engine.judge import Evidence, end_in_words, judge
from clusterjob.status import Reason, Status
from clusterjob.store import JobSpec, Parent, Record, Task

NOW = 10_000.0
SLURM = load_backend("slurm")


def decide(
    state: str | None = None,
    own: ExitRecord | None = None,
    *,
    history: str | None = None,
    complete: bool = True,
    waited: float = 0.0,
    asked: bool = True,
    exists: bool = True,
    readable: bool = True,
    task: Task | None = None,
    cancelled: bool = False,
    after: bool = False,
    **values: Any,
) -> Task:
    record = Record(
        key="k",
        token="t",
        name="n",
        backend="slurm",
        workdir="/w",
        folder="/w/r",
        job_id="12",
    )
    record._spec = JobSpec(after=(Parent("p", "1", ()),) if after else ())
    record.cancel_requested = NOW - 5 if cancelled else None
    before = task or Task(Status.RUNNING)
    before.missing_since = NOW - waited if waited else None
    evidence = Evidence(
        NOW,
        None if state is None else Answer("12", state=state, **values),
        complete,
        own,
        readable,
        None if history is None else Answer("12", state=history, **values),
        asked,
        exists,
    )
    return judge(SLURM, record, before, evidence)


def ended(
    code: int,
    *,
    warned: float | None = None,
    limit: int | None = None,
    reason: str = "",
) -> ExitRecord:
    return ExitRecord(
        "12",
        1,
        "n1",
        100.0,
        200.0,
        limit,
        code,
        reason,
        [] if warned is None else [("TERM", warned)],
    )


BEGUN = ExitRecord("12", 1, "n1", 100.0)


def outcome(task: Task) -> tuple[Status, Reason | None]:
    return task.status, task.reason


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (decide("PENDING", task=Task()), (Status.PENDING, None)),
        (decide("RUNNING", task=Task()), (Status.RUNNING, None)),
        (decide("PENDING"), (Status.PENDING, None)),  # requeued
        (decide("COMPLETED", ended(0)), (Status.COMPLETED, None)),
        (decide(None, ended(0)), (Status.COMPLETED, None)),
        (decide("FAILED", ended(3)), (Status.FAILED, Reason.EXIT)),
        (decide(None, ended(3)), (Status.FAILED, Reason.EXIT)),
        (decide("TIMEOUT", ended(143, warned=160)), (Status.FAILED, Reason.TIMEOUT)),
        (decide("TIMEOUT", ended(0, warned=160)), (Status.FAILED, Reason.TIMEOUT)),
        (decide("OUT_OF_MEMORY", ended(137)), (Status.FAILED, Reason.OUT_OF_MEMORY)),
        (decide("OUT_OF_MEMORY", BEGUN), (Status.FAILED, Reason.OUT_OF_MEMORY)),
        (decide("NODE_FAIL", BEGUN), (Status.FAILED, Reason.NODE_FAILURE)),
        # the node failed when the job was over
        (decide("NODE_FAIL", ended(0)), (Status.COMPLETED, None)),
        (
            decide("NODE_FAIL", ended(0, warned=150)),
            (Status.FAILED, Reason.NODE_FAILURE),
        ),
        (decide("PREEMPTED", BEGUN), (Status.FAILED, Reason.PREEMPTED)),
        (decide("CANCELLED", BEGUN), (Status.CANCELLED, Reason.CANCELLED)),
        (
            decide("CANCELLED by 1000", ended(143, warned=150)),
            (Status.CANCELLED, Reason.CANCELLED),
        ),
        # `sleep 100; true`: the sleep had the signal first, and the rest ran to its end
        (decide("CANCELLED", ended(0)), (Status.CANCELLED, Reason.CANCELLED)),
        (decide("CANCELLED", after=True), (Status.CANCELLED, Reason.DEPENDENCY)),
        (
            decide("CANCELLED", after=True, cancelled=True),
            (Status.CANCELLED, Reason.CANCELLED),
        ),
        (
            decide(None, ended(1, reason="dependency")),
            (Status.CANCELLED, Reason.DEPENDENCY),
        ),
        (
            decide(None, ended(1, reason="submission")),
            (Status.FAILED, Reason.SUBMISSION),
        ),
    ],
)
def test_clear_cases(task: Task, expected: tuple[Status, Reason | None]) -> None:
    assert outcome(task) == expected


def test_exit_codes_and_signals() -> None:
    assert decide("FAILED", ended(3)).exit_code == 3
    killed = decide("FAILED", ended(139))
    assert (killed.reason, killed.signal, killed.exit_code) == (
        Reason.SIGNAL,
        11,
        None,
    )
    assert decide("FAILED", BEGUN, signal=9).signal == 9


def test_a_signal_waits_for_accounting_to_say_why() -> None:
    assert decide(None, ended(137)).status == Status.RUNNING
    assert outcome(decide(None, ended(137), waited=60)) == (
        Status.FAILED,
        Reason.SIGNAL,
    )
    assert outcome(decide(None, ended(137), exists=False)) == (
        Status.FAILED,
        Reason.SIGNAL,
    )
    assert outcome(decide(None, ended(137), history="OUT_OF_MEMORY")) == (
        Status.FAILED,
        Reason.OUT_OF_MEMORY,
    )


def test_without_accounting_the_exit_record_tells_timeouts_and_cancels() -> None:
    assert outcome(decide(None, ended(143, warned=160, limit=60), exists=False)) == (
        Status.FAILED,
        Reason.TIMEOUT,
    )
    assert outcome(decide(None, ended(143, warned=120, limit=60), exists=False)) == (
        Status.FAILED,
        Reason.SIGNAL,
    )
    for code in (143, 9, 0):
        cancelled = decide(
            None, ended(code, warned=120), exists=False, cancelled=True
        )
        assert outcome(cancelled) == (Status.CANCELLED, Reason.CANCELLED)
        at_limit = decide(None, ended(code, warned=160, limit=60), exists=False)
        assert outcome(at_limit) == (Status.FAILED, Reason.TIMEOUT)
    before_limit = decide(None, ended(0, warned=120, limit=60), exists=False)
    assert outcome(before_limit) == (Status.COMPLETED, None)


def test_what_ended_at_its_limit_without_a_signal_that_was_seen() -> None:
    """The script can end by its own trap before the signal comes to what writes the record."""
    trapped = decide(None, ended(9, limit=99), exists=False)
    assert outcome(trapped) == (Status.FAILED, Reason.TIMEOUT)
    assert decide(None, ended(9, limit=99)).status == Status.RUNNING
    assert outcome(decide(None, ended(0, limit=99))) == (Status.COMPLETED, None)
    early = decide(None, ended(9, limit=200), exists=False)
    assert outcome(early) == (Status.FAILED, Reason.EXIT)


def test_completed_without_an_exit_record_is_not_believed() -> None:
    assert decide("COMPLETED").status == Status.RUNNING  # the record may show late
    late = decide("COMPLETED", waited=60)
    assert outcome(late) == (Status.FAILED, Reason.LOST)
    assert "no exit record" in late.words
    # the folder could not be read
    assert decide("COMPLETED", waited=60, readable=False).status == Status.RUNNING
    # Grid Engine says 0 of what qdel -f took away; a full disk looks the same
    begun = decide("COMPLETED", ExitRecord("1", 1, "n"), waited=60)
    assert outcome(begun) == (Status.FAILED, Reason.LOST)
    assert "wrote no end" in begun.words


def test_a_job_whose_folder_is_gone_can_be_given_up() -> None:
    for state in ("COMPLETED", None):
        left = decide(state, waited=400, readable=False)
        assert left.status == Status.RUNNING
        assert "/w/r, where its exit record stood, is gone" in left.words
        early = decide(state, waited=60, readable=False, cancelled=True)
        assert early.status == Status.RUNNING
        given_up = decide(state, waited=400, readable=False, cancelled=True)
        assert outcome(given_up) == (Status.FAILED, Reason.LOST)
        assert given_up.words == left.words


def test_vanished_is_never_done() -> None:
    assert decide(None).status == Status.RUNNING
    assert decide(None, waited=100).status == Status.RUNNING
    assert outcome(decide(None, waited=400)) == (Status.FAILED, Reason.LOST)
    # accounting could not be asked
    assert decide(None, waited=400, asked=False).status == Status.RUNNING
    assert outcome(decide(None, waited=400, asked=False, exists=False)) == (
        Status.FAILED,
        Reason.LOST,
    )
    assert decide(None, waited=400, readable=False).status == Status.RUNNING
    assert decide(None, waited=400, complete=False).status == Status.RUNNING


def test_deleted_in_the_queue_leaves_no_trace() -> None:
    assert outcome(decide(None, task=Task(), cancelled=True)) == (
        Status.CANCELLED,
        Reason.CANCELLED,
    )
    assert decide(None, cancelled=True).status == Status.RUNNING
    assert outcome(decide(None, cancelled=True, waited=60)) == (
        Status.CANCELLED,
        Reason.CANCELLED,
    )


def test_begun_and_gone() -> None:
    assert decide(None, BEGUN, waited=60).status == Status.RUNNING
    gone = decide(None, BEGUN, waited=400)
    assert outcome(gone) == (Status.FAILED, Reason.LOST)
    assert "n1" in gone.words


def test_an_unknown_word_is_reported_and_decides_nothing() -> None:
    task = decide("BRANDNEW")
    assert task.status == Status.RUNNING
    assert "BRANDNEW" in task.words
    assert "does not know" in task.words


def test_a_final_state_never_changes() -> None:
    for status in (Status.COMPLETED, Status.CANCELLED, Status.FAILED):
        before = Task(status)
        assert decide("RUNNING", task=before) is before
        assert decide(None, ended(0), task=before) is before


def test_history_and_usage_are_kept() -> None:
    task = decide("COMPLETED", ended(0), usage={"max_rss": 5.0})
    assert task.history == [(NOW, "COMPLETED", "COMPLETED")]
    assert task.usage == {"max_rss": 5.0, "elapsed": 100.0}
    assert (task.started, task.ended, task.host) == (100.0, 200.0, "n1")


def test_one_word_for_two_limits() -> None:
    def of(mem: int | None, limit: int | None, elapsed: float) -> Reason | None:
        record = Record(
            key="k",
            token="t",
            name="n",
            backend="sge",
            workdir="/w",
            folder="/w/r",
            job_id="12",
        )
        record._spec = JobSpec(resources={"mem": mem, "time": limit})
        answer = Answer(
            "12",
            state="37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
            usage={"elapsed": elapsed},
        )
        return judge(
            load_backend("sge"),
            record,
            Task(Status.RUNNING),
            Evidence(NOW, None, True, BEGUN, True, answer, True, True),
        ).reason

    assert of(100, 60, 61) is Reason.TIMEOUT
    assert of(100, 60, 5) is Reason.OUT_OF_MEMORY
    assert of(None, 60, 5) is Reason.TIMEOUT
    assert of(100, None, 500) is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task(Status.COMPLETED, words="COMPLETED"), "COMPLETED"),
        (Task(Status.COMPLETED, words="0"), ""),
        (
            Task(Status.FAILED, Reason.EXIT, 9, words="0"),
            "exit code 9, the scheduler says '0'",
        ),
        (Task(Status.FAILED, Reason.SIGNAL, signal=9, words="FAILED"), "signal 9"),
        (Task(Status.FAILED, Reason.TIMEOUT, words="TIMEOUT"), "timeout, TIMEOUT"),
        (Task(Status.CANCELLED, words="CANCELLED"), ""),
    ],
)
def test_the_history_says_how_a_job_ended(task: Task, words: str) -> None:
    assert end_in_words(task) == words
