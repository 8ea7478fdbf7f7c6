"""The poller and the submission, on commands that answer what real schedulers answered, or fail as
they do.

The profiles here replace a scheduler's commands by `cat` of a file: what is tested is what is made
of the answers.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, JobScript, Reason, Status, cancel, submit, wait
from clusterjob.backend import load_backend
from clusterjob.engine import Cluster
from clusterjob.engine.scripts import Ticket, submission_script
from clusterjob.errors import (
    CommandError,
    LineBrokenError,
    SubmissionError,
    TransportError,
)
from clusterjob.script import default_session
from clusterjob.store import (
    ONCE_DONE,
    ONCE_DUE,
    ONCE_STARTED,
    Change,
    Phase,
    Record,
)
from clusterjob.transport import LocalTransport


def profile(*, lost_after: float = 0.5, **commands: str) -> str:
    lines = {
        "submit": "cat answer",
        "active": "cat active",
        "finished": "cat finished",
        "cancel": "cat cancelled",
        "find": "cat found",
    } | commands
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\nbundle = no\n"
        "[Limits]\nfirst_poll = 0\npoll_interval = 0\nsettle = 0.2\nretry_wait = 0.05\n"
        f"lost_after = {lost_after}\n[Commands]\n"
        + "".join(f"{name} = {text}\n" for name, text in lines.items())
    )
    Path("answer").write_text("41\n")
    for name in ("active", "finished", "cancelled", "found"):
        Path(name).write_text("")
    return "p.ini"


def job(
    name: str = "n", body: str = "true", *, lost_after: float = 0.5, **commands: str
) -> JobScript:
    made = JobScript(f"{body} # {name}", name)
    made.read_settings(profile(lost_after=lost_after, **commands))
    return made


def listed(*lines: str) -> None:
    Path("active").write_text("".join(f"{line}\n" for line in lines))


def now() -> int:
    return int(time.time())


def line(
    result: AsyncResult, state: str, *, token: str | None = None, number: str = "41"
) -> str:
    return (
        f"{number}|{state}|{now()}|0|clusterjob:{token or result.record.token}|None|"
    )


def ended(result: AsyncResult, code: int, ago: int = -1) -> None:
    text = f"job=41\nhost=h\nstart={now() - ago - 1}\nlimit=\nexit={code}\nend={now() - ago}\n"
    Path(result.record.folder, f"{result.record.token}.exit").write_text(text)


def test_states_follow_the_list() -> None:
    result = job().submit()
    assert result.job_id == "41"
    listed(line(result, "PENDING"))
    assert result.status == Status.PENDING
    listed(line(result, "RUNNING"))
    assert result.status == Status.RUNNING
    ended(result, 0)
    listed(line(result, "COMPLETED"))
    assert result.status == Status.COMPLETED
    assert [state for _, state, _ in result.history] == [
        "PENDING",
        "RUNNING",
        "COMPLETED",
    ]


def test_a_command_that_fails_says_nothing_about_a_job() -> None:
    result = job(active="cat active; exit $(cat code)").submit()
    Path("code").write_text("0")
    listed(line(result, "RUNNING"))
    assert result.status == Status.RUNNING
    assert result.stale_since is None
    Path("code").write_text("1")
    listed()
    time.sleep(0.5)
    for _ in range(4):
        assert result.status == Status.RUNNING
        time.sleep(0.05)
    assert result.stale_since is not None
    Path("code").write_text("0")
    listed(line(result, "RUNNING"))
    assert result.status == Status.RUNNING
    assert result.stale_since is None


def test_a_command_that_hangs_says_nothing_about_a_job() -> None:
    made = job(active="sleep 30")
    Path("p.ini").write_text(
        Path("p.ini")
        .read_text()
        .replace("[Commands]", "command_timeout = 0.3\n[Commands]")
    )
    made.read_settings("p.ini")
    result = made.submit()
    before = time.monotonic()
    assert result.status == Status.PENDING
    assert time.monotonic() - before < 5
    assert result.stale_since is not None
    assert "no answer within" in result.cluster.poller.error


def test_a_line_that_cannot_be_read_makes_absence_prove_nothing() -> None:
    result = job().submit()
    listed("*** the file system will be down on Monday ***")
    for _ in range(4):
        assert result.status == Status.PENDING
        time.sleep(0.17)  # in all longer than lost_after
    assert "could not be read" in result.cluster.poller.error


def test_vanished_is_lost_and_not_before_its_time() -> None:
    result = job().submit()
    began = time.monotonic()
    while result.status == Status.PENDING:
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    assert time.monotonic() - began > 0.5
    assert (result.status, result.reason) == (Status.FAILED, Reason.LOST)


def test_a_job_that_left_before_the_first_poll() -> None:
    result = job().submit()
    ended(result, 0)
    assert result.status == Status.COMPLETED


def test_a_job_id_used_again_is_somebody_else_s() -> None:
    result = job(lost_after=300).submit()
    listed(line(result, "COMPLETED", token="feedfeedfeedfeed"))
    Path("finished").write_text(
        f"41|COMPLETED|0:0|{now()}|{now()}|{now()}|5|00:01|5M|clusterjob:feedfeedfeedfeed\n"
    )
    assert result.status == Status.PENDING
    listed(f"41|COMPLETED|{now() - 5000}|0|(null)|None|")
    Path("finished").write_text(
        f"41|FAILED|1:0|{now() + 5000}|{now()}|{now()}|5|00:01|5M|\n"
    )
    assert result.status == Status.PENDING
    assert "max_rss" not in result.record.task.usage
    listed(f"41|RUNNING|{now() + 1}|0|(null)|None|")
    assert result.status == Status.RUNNING


def test_accounting_that_is_down_does_not_stop_the_poller() -> None:
    result = job(
        finished="echo 'slurm_persist_conn_open: something is wrong' >&2; false"
    ).submit()
    assert result.status == Status.PENDING
    ended(result, 3)
    assert (result.status, result.exit_code) == (Status.FAILED, 3)


def test_accounting_that_does_not_exist_is_asked_once() -> None:
    results = submit(
        [
            job(
                name,
                finished="echo asked >> asked; echo 'Slurm accounting storage is disabled' >&2; "
                "false",
            )
            for name in "ab"
        ]
    )
    Path("answer").write_text("41\n")
    for result in results:
        ended(result, 0)
    assert [result.status for result in results] == [Status.COMPLETED] * 2
    assert results[0].cluster.scheduler.accounting is False
    late = job(
        "c",
        finished="echo asked >> asked; echo 'Slurm accounting storage is disabled' >&2; false",
    ).submit()
    ended(late, 0)
    assert late.status == Status.COMPLETED
    assert Path("asked").read_text().count("asked") == 1


def test_usage_that_nobody_knows_is_asked_once_for_all() -> None:
    results = submit(
        [job(str(number), finished="echo asked >> asked") for number in range(5)]
    )
    for result in results:
        ended(result, 0, ago=60)  # accounting lags behind no longer
    assert wait(results, 5)[1] == []
    Path("asked").unlink()
    for result in results * 2:
        assert "max_rss" not in result.usage
    assert Path("asked").read_text().count("asked") == 1


def test_accounting_that_is_down_is_asked_again() -> None:
    down = (
        "echo asked >> asked; [ -e up ] && cat finished && exit; echo 'sacct: Problem talking "
        "to the database: Connection refused' >&2; false"
    )
    result = job(finished=down).submit()
    deadline = time.monotonic() + 0.7  # longer than lost_after
    while time.monotonic() < deadline:
        # not listed, no exit record: only accounting can tell
        assert result.status == Status.PENDING
        time.sleep(0.05)
    assert "Connection refused" in result.cluster.poller.error
    Path("finished").write_text(
        f"41|NODE_FAIL|0:0|{now()}|{now()}|{now()}|5|00:01|5M|clusterjob:{result.record.token}\n"
    )
    Path("up").touch()
    assert (result.status, result.reason) == (Status.FAILED, Reason.NODE_FAILURE)


def test_accounting_that_says_with_exit_code_0_that_there_is_none() -> None:
    result = job(
        finished="echo asked >> asked; echo 'Slurm accounting storage is disabled' >&2"
    ).submit()
    ended(result, 0)
    assert result.status == Status.COMPLETED
    assert result.cluster.scheduler.accounting is False


def test_a_thousand_handles_cost_one_command() -> None:
    made = JobScript("x")
    Path("count.sh").write_text("cj_n=$((cj_n + 1)); echo $cj_n$cj_me\n")
    made.read_settings(profile(submit=". ./count.sh {script}"))
    jobs = []
    for number in range(1, 1001):
        jobs.append(JobScript(f"true {number}", str(number)))
        jobs[-1].__dict__["_profiles"] = made._profiles
        jobs[-1].__dict__["attributes"] = dict(made.attributes)
    results = submit(jobs)
    listed(
        *(line(result, "RUNNING", number=str(result.job_id)) for result in results)
    )
    scheduler = results[0].cluster.scheduler
    results[0].cluster.pace.interval = 60.0
    before = (scheduler.commands, scheduler.trips)
    assert {result.status for result in results} == {Status.RUNNING}
    assert (scheduler.commands - before[0], scheduler.trips - before[1]) == (1, 1)


def test_the_poller_widens_its_interval_and_never_asks_more_often() -> None:
    result = job().submit()
    clock = [1000.0]
    backend = result.cluster.scheduler.backend
    limits = replace(backend.limits, first_poll=1.0, poll_interval=8.0)
    object.__setattr__(backend, "limits", limits)
    cluster = Cluster(
        result.store,
        result.cluster.scheduler,
        result.record.cluster_id,
        clock=lambda: clock[0],
    )
    cluster.track(result.record)
    asked = []
    for _ in range(4000):
        before = cluster.poller.polls
        cluster.refresh()
        if cluster.poller.polls > before:
            asked.append(clock[0])
        clock[0] += 0.01
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[0] >= 1.0
    # who asks alone does not take its own last answer for another's
    for gap, wanted in zip(gaps, (1.0, 1.5, 2.25, 3.375), strict=False):
        assert wanted - 0.02 <= gap <= wanted * 1.1 + 0.02, gaps
    assert gaps == sorted(gaps) or max(gaps) <= 8.0 * 1.1 + 0.02
    assert all(gap <= 8.9 for gap in gaps)
    assert len(asked) <= 12


def test_later_is_a_wait_and_not_a_failure() -> None:
    made = job(
        submit="if [ -e open ]; then echo 41; else echo 'sbatch: error: Slurm temporarily unable "
        "to accept job, sleeping and retrying' >&2; false; fi"
    )
    result = made.submit()
    assert result.record.phase is Phase.DEFERRED
    assert result.status == Status.PENDING
    assert "temporarily unable" in result.words
    time.sleep(0.1)
    assert result.status == Status.PENDING
    assert made.submit().record.token == result.record.token
    Path("open").touch()
    time.sleep(0.1)
    listed(line(result, "RUNNING"))
    assert result.status in (Status.PENDING, Status.RUNNING)
    assert result.job_id == "41"


def test_a_submit_limit_is_drained_as_jobs_end() -> None:
    limited = (
        "[ $(cat count 2>/dev/null || echo 0) -lt 2 ] || { echo 'AssocMaxSubmitJobLimit' "
        ">&2; exit 1; }; echo x >> lines; wc -l < lines | tee count"
    )
    jobs = [job(str(number), submit=limited) for number in range(4)]
    Path("p.ini").write_text(
        Path("p.ini")
        .read_text()
        .replace("[Commands]", "submit_parallel = 1\n[Commands]")
    )
    for made in jobs:
        made.read_settings("p.ini")
    results = submit(jobs)
    assert (
        sorted(result.record.phase.value for result in results).count("deferred") >= 2
    )
    assert all(result.record.status == Status.PENDING for result in results)
    waiting = [result for result in results if result.record.phase is Phase.DEFERRED]
    waiting[0].cancel()
    assert waiting[0].status == Status.CANCELLED


def test_a_refusal_shows_the_scheduler_s_words_and_leaves_nothing() -> None:
    with pytest.raises(
        SubmissionError, match="invalid partition specified: nope"
    ) as caught:
        job(
            submit="echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1"
        ).submit()
    assert "'n'" in str(caught.value)
    assert len(job().submit().store.select(earlier=True)) == 1


def test_after_some_equal_refusals_no_more_jobs_are_offered() -> None:
    with pytest.raises(SubmissionError) as caught:
        submit(
            [
                job(str(number), submit="echo tried >> tried; echo no >&2; exit 1")
                for number in range(60)
            ]
        )
    assert "57 more" in str(caught.value)
    assert Path("tried").read_text().count("tried") <= 12


def test_an_answer_that_is_no_id_is_found_out_by_token() -> None:
    result = job(submit="echo submitted, thank you").submit()
    assert result.record.phase is Phase.SUBMITTING
    assert "could not be read" in result.words
    Path("found").write_text(f"77|clusterjob:{result.record.token}|\n")
    listed(line(result, "RUNNING", number="77"))
    assert result.status in (Status.PENDING, Status.RUNNING)
    assert result.job_id == "77"


def test_a_doubtful_submission_is_looked_up_before_it_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = job(submit="echo tried >> tried; cat answer")
    run = LocalTransport.run

    def cut(self: LocalTransport, script: str, timeout: float | None = None) -> Any:
        done = run(self, script, timeout)
        if "cj_submit" in script:
            raise TransportError("the line dropped")
        return done

    monkeypatch.setattr(LocalTransport, "run", cut)
    result = made.submit()
    monkeypatch.setattr(LocalTransport, "run", run)
    assert result.record.phase is Phase.SUBMITTING
    listed(line(result, "RUNNING"))
    assert result.status in (Status.PENDING, Status.RUNNING)
    assert result.job_id == "41"
    assert Path("tried").read_text() == "tried\n"


def test_what_is_wrong_with_one_open_submission_keeps_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Path.cwd()

    def made(name: str, **settings: Any) -> JobScript:
        script = job(name, submit="echo 41")
        for setting, value in settings.items():
            setattr(script, setting, value)
        return script

    scripts = [
        made("good", prologue="true"),
        made("input", inputs=["in"], workdir="w"),
        made("fails", prologue=f"test -e {here}/ready"),
    ]
    scripts.append(made("homeless", prologue="true", workdir=str(here)))
    for name in ("in", "ready"):
        Path(name).touch()
    Path("elsewhere").mkdir()
    run = LocalTransport.run

    def broken(
        self: LocalTransport, script: str, timeout: float | None = None
    ) -> Any:
        if "cj_submit" in script:
            raise TransportError("the line dropped")
        return run(self, script, timeout)

    monkeypatch.setattr(LocalTransport, "run", broken)
    good, lacking, failing = submit(scripts[:3])
    monkeypatch.chdir("elsewhere")
    homeless = scripts[3].submit()
    monkeypatch.chdir(here)
    monkeypatch.setattr(LocalTransport, "run", run)
    shutil.rmtree("elsewhere")
    for name in ("in", "ready"):
        Path(name).unlink()
    for result in (good, failing, homeless):
        # the process died in it
        result.store.update(
            [result.record], lambda record: setattr(record, "prologue", ONCE_STARTED)
        )
    good.cluster.refresh(force=True)
    assert (good.record.phase, good.job_id) == (Phase.SUBMITTED, "41")
    assert (failing.record.status, failing.record.task.reason) == (
        Status.FAILED,
        Reason.SUBMISSION,
    )
    assert "exit code 1" in failing.words
    for result, words in (
        (lacking, f"{here}/in cannot be read"),
        (homeless, "not on this machine"),
    ):
        assert (result.record.phase, result.record.status) == (
            Phase.SUBMITTING,
            Status.PENDING,
        )
        assert words in result.words
    Path("in").touch()
    lacking.cluster.refresh(force=True)
    assert lacking.record.phase is Phase.SUBMITTED


def test_open_submissions_of_a_host_that_is_down_cost_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = submit([job(str(number), submit="echo no id") for number in range(20)])
    assert {result.record.phase for result in results} == {Phase.SUBMITTING}
    store, written = results[0].store, []
    update = store.update

    def count(records: Sequence[Record], change: Change) -> None:
        written.append(len(records))
        update(records, change)

    monkeypatch.setattr(store, "update", count)

    def down(self: LocalTransport, script: str, timeout: float | None = None) -> Any:
        raise TransportError("the host is down")

    monkeypatch.setattr(LocalTransport, "run", down)
    results[0].cluster.refresh(force=True)
    assert {result.words for result in results} == {"the host is down"}
    assert written == [20]


def test_nothing_is_recorded_where_something_fails_before_submission() -> None:
    Path("closed").touch()
    made = job()
    made.workdir = "closed/below"
    with pytest.raises(CommandError, match="cannot be written"):
        made.submit()
    broken = job()
    broken.prologue = "echo sorry; exit 3"
    with pytest.raises(
        SubmissionError, match="prologue of 'n' ended with exit code 3:\nsorry"
    ):
        broken.submit()
    good = job().submit()
    assert [record.token for record in good.store.select(earlier=True)] == [
        good.record.token
    ]


def test_multi_cluster_ids() -> None:
    made = job(
        active="echo $0 {clusters} >> asked; cat active",
        cancel="echo {clusters} {ids} > cancelled",
    )
    Path("answer").write_text("41;gpu\n")
    result = made.submit()
    assert result.job_id == "41;gpu"
    listed("CLUSTER: gpu", line(result, "RUNNING"))
    assert result.status == Status.RUNNING
    assert "--clusters=gpu" in Path("asked").read_text()
    result.cancel()
    assert Path("cancelled").read_text() == "--clusters=gpu 41\n"


def test_a_cluster_that_cannot_cancel_keeps_no_other() -> None:
    first = job("first", cancel="echo down >&2; false").submit()
    second = job("second", cancel="echo {ids} > cancelled").submit()
    listed(line(first, "RUNNING"), line(second, "RUNNING"))
    with pytest.raises(CommandError, match="down"):
        cancel([first, second])
    assert Path("cancelled").read_text() == "41\n"


def test_another_threads_poll_leaves_a_submission_alone_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also between the claim and all that follows: it is this process that submits."""
    commands = {"submit": "echo tried >> tried; cat answer"}
    first = job("first", **commands).submit()
    claim = first.store.claim

    def claim_then_poll(*arguments: Any) -> Any:
        held = claim(*arguments)
        thread = threading.Thread(target=first.cluster.poller.finish_submissions)
        thread.start()
        thread.join()
        return held

    monkeypatch.setattr(first.store, "claim", claim_then_poll)
    second = job("second", **commands).submit()
    assert second.job_id == "41"
    assert Path("tried").read_text() == "tried\n" * 2
    assert first.store.by_tokens([second.record.token])


def test_cancel_that_fails_is_an_error() -> None:
    result = job(cancel="echo 'Access/permission denied' >&2; false").submit()
    listed(line(result, "RUNNING"))
    with pytest.raises(CommandError, match="Access/permission denied"):
        result.cancel()
    assert result.status == Status.RUNNING


def test_who_does_not_list_the_jobs_gets_no_ids_to_cancel() -> None:
    refusing = "echo 'qstat: illegal option -E' >&2; false"
    result = job(active=refusing, cancel="touch done").submit()
    with pytest.raises(
        CommandError, match=r"so nothing was cancelled: .*illegal option"
    ):
        result.cancel()
    assert not Path("done").exists()
    assert result.record.cancel_requested is None


def test_force_on_a_job_that_has_not_ended_is_refused() -> None:
    result = job().submit()
    with pytest.raises(SubmissionError, match="has not ended: cancel it"):
        job().submit(force=True)
    with pytest.raises(SubmissionError, match="cancel it first"):
        result.resubmit()


def test_order_of_cells_does_not_matter() -> None:
    first = {
        result.name: result.job_id for result in submit([job(name) for name in "abc"])
    }
    assert {
        result.name: result.job_id for result in submit([job(name) for name in "cab"])
    } == first
    assert wait([job("a").submit()], timeout=0.05)[1]
    assert job("b", body="other").submit().record.token


def test_a_cache_id_is_that_of_a_name() -> None:
    first = job("x").submit(cache_id="mine")
    assert (
        job("x", body="false").submit(cache_id="mine").record.token
        == first.record.token
    )
    assert job("y").submit(cache_id="mine").record.token != first.record.token


def test_more_time_is_the_same_job() -> None:
    first = job()
    first.time = "5m"
    second = job()
    second.time = "10m"
    second.mem = "4G"
    assert first.submit().record.token == second.submit().record.token


def test_a_job_can_be_looked_at_without_its_backend() -> None:
    folder = Path("backends/gone")
    folder.mkdir(parents=True)
    (folder / "backend.ini").write_text(
        "[Backend]\nextends = local\n[Commands]\nsubmit = echo 5\n"
    )
    Path("gone.ini").write_text("[Attributes]\nbackend = gone\n")
    made = JobScript("true", "n")
    made.read_settings("gone.ini")
    record = made.submit().record
    (folder / "backend.ini").unlink()
    result = AsyncResult(record, default_session().engine)
    assert result.log_path().endswith(".out")
    assert "5" in repr(result)
    assert result.stale_since is None


def test_a_doubtful_submission_that_was_cancelled_is_not_repeated() -> None:
    result = job(submit="echo submitted >> tried").submit()
    assert result.record.phase is Phase.SUBMITTING
    result.cluster.cancel([result.record])
    assert (result.status, result.reason) == (Status.CANCELLED, Reason.CANCELLED)
    assert Path("tried").read_text() == "submitted\n"


def test_a_runs_folder_that_was_deleted_does_not_keep_a_job_alive() -> None:
    result = job().submit()
    assert result.status == Status.PENDING
    shutil.rmtree(".clusterjob-runs")
    assert result.wait(5)
    assert result.reason == Reason.LOST


def test_the_job_that_ran_counts_where_a_duplicate_slipped_through() -> None:
    result = job().submit()
    # the fence ended job 41; 40, of the same token, ran, and its exit record shows late
    listed(line(result, "FAILED"))
    Path(result.record.folder, f"{result.record.token}.exit").write_text(
        f"job=40\nhost=h\nstart={now()}\nlimit=\n"
    )
    assert result.status == Status.PENDING
    assert result.job_id == "40"
    assert "41 is a duplicate that ended; 40 ran" in str(result.history)
    listed(line(result, "RUNNING", number="40"), line(result, "FAILED"))
    assert result.status == Status.RUNNING
    listed(line(result, "COMPLETED", number="40"), line(result, "FAILED"))
    Path(result.record.folder, f"{result.record.token}.exit").write_text(
        f"job=40\nhost=h\nstart={now()}\nlimit=\nexit=0\nend={now()}\n"
    )
    assert result.status == Status.COMPLETED


def test_handles_of_other_processes_are_asked_about_too() -> None:
    """One poll is for all jobs of the store on that cluster; the other process reads the answer and
    asks nobody.
    """
    jobs = [job("mine"), job("his")]
    jobs[1]._profiles = jobs[0]._profiles
    mine, his = submit([jobs[0]])[0], submit([jobs[1]])[0]
    cluster_id = mine.record.cluster_id
    other = Cluster(mine.store, his.cluster.scheduler, cluster_id)
    stored = other.store.by_tokens([his.record.token])[his.record.token]
    other.track(stored)
    listed(line(mine, "RUNNING"), line(his, "RUNNING"))
    mine.cluster.refresh(force=True)
    assert (
        mine.store.by_tokens([his.record.token])[his.record.token].status
        == Status.RUNNING
    )
    before = other.scheduler.commands
    other.pace.interval = other.pace.waited = 100.0
    other.refresh()
    assert other.scheduler.commands == before
    assert other.poller.polls == 0


def test_staleness_is_shared() -> None:
    result = job(active="false").submit()
    result.cluster.refresh(force=True)
    since = result.stale_since
    assert since is not None
    other = Cluster(result.store, result.cluster.scheduler, result.record.cluster_id)
    his = other.track(
        result.store.by_tokens([result.record.token])[result.record.token]
    )
    other.pace.interval = other.pace.waited = 100.0
    other.refresh()
    assert other.poller.stale_since == since
    assert his.status == Status.PENDING


def test_a_line_that_bears_only_short_answers_is_asked_for_those(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty jobs have ended; what asks about more than twenty-four breaks."""
    results = submit([job(str(number), submit="echo $$") for number in range(40)])
    for result in results:
        ended(result, 0)
    listed()
    run = LocalTransport.run
    asked: list[int] = []

    def weak(self: LocalTransport, script: str, timeout: float | None = None) -> Any:
        count = len(re.findall(r"[0-9a-f]{16}\.exit", script))
        asked.append(count)
        if count > 24:
            raise TransportError("the line dropped")
        return run(self, script, timeout)

    monkeypatch.setattr(LocalTransport, "run", weak)
    cluster = results[0].cluster
    for _ in range(12):
        cluster.refresh(force=True)
    assert {result.record.status for result in results} == {Status.COMPLETED}
    assert asked[:2] == [0, 40]
    assert len([count for count in asked if count > 24]) < 6


def test_outputs_that_could_not_come_are_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = job("o", "echo x > out; cat out", submit="echo 41")
    made.outputs = ["far/out"]
    made.workdir = "there"
    made.rootdir = str(Path.cwd() / "root")
    Path("root/there/far").mkdir(parents=True)
    Path("root/there/far/out").write_text("x")
    result = made.submit()
    Path(result.record.folder).mkdir(parents=True, exist_ok=True)
    ended(result, 0)
    listed()
    stream = LocalTransport.stream
    monkeypatch.setattr(sys.modules["clusterjob.files.downloading"], "_WAITS", ())

    def broken(
        self: LocalTransport, script: str, sink: Any, timeout: float | None = None
    ) -> Any:
        raise LineBrokenError("the line dropped")

    monkeypatch.setattr(LocalTransport, "stream", broken)
    assert not result.wait(0.5)
    assert result.status == Status.COMPLETED
    assert result.record.outputs is ONCE_DUE
    assert not Path("there").exists()
    monkeypatch.setattr(LocalTransport, "stream", stream)
    assert result.wait(5)
    assert result.get() == Status.COMPLETED
    assert Path("there/far/out").read_text() == "x"


def test_outputs_that_could_not_be_written_come_with_the_next_submission() -> None:
    made = job("o", "true", submit="echo 41")
    made.outputs, made.workdir, made.rootdir = (
        ["far/out"],
        "there",
        str(Path.cwd() / "root"),
    )
    Path("root/there/far").mkdir(parents=True)
    Path("root/there/far/out").write_text("x")
    result = made.submit()
    Path(result.record.folder).mkdir(parents=True, exist_ok=True)
    ended(result, 0)
    Path("there").touch()  # a file where the folder should be
    assert result.wait(5)
    assert "cannot be written" in result.record.outputs.error
    Path("there").unlink()
    assert made.submit().wait(5)
    assert (Path("there/far/out").read_text(), result.record.outputs) == (
        "x",
        ONCE_DONE,
    )


def test_a_submission_whose_listener_is_gone_tidies_up(tmp_path: Path) -> None:
    backend = load_backend("slurm")
    runs = tmp_path / "runs"
    runs.mkdir(mode=0o700)  # also where the umask lets a group write
    script = submission_script(
        backend,
        "sleep 0.2; echo 7",
        [Ticket("token", str(tmp_path), str(runs), "x")],
        "mark",
    )
    (tmp_path / "tmp").mkdir()
    script = script.replace(
        "/dev/shm/clusterjob.XXXXXX", f"{tmp_path}/tmp/clusterjob.XXXXXX"
    )
    process = subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is under way
    process.stdout.close()
    process.wait(20)
    assert (runs / "receipts").read_text().startswith("=token 0 7")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [path.name for path in runs.iterdir()] == ["receipts"]
