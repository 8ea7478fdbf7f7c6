"""Sessions, on the embedded scheduler: apart from each other, and used by many threads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import clusterjob
from clusterjob import (
    AsyncResult,
    JobNotFoundError,
    JobScript,
    Results,
    Session,
    SettingsError,
    Status,
    StoreError,
    SubmissionError,
    default_session,
    submit,
    sweep,
)

# as one who does not check types writes it
loose: Any = clusterjob


@pytest.fixture(autouse=True)
def _spool(spool: Path) -> None:
    pass


def job(body: str, name: str, **params: object) -> JobScript:
    made = JobScript(body, name, params=params)
    Path("quick.ini").write_text(
        "[Attributes]\nbackend = local\n[Limits]\nfirst_poll = 0.05\npoll_interval = 0.2\n"
    )
    made.read_settings("quick.ini")
    return made


def test_two_sessions_do_not_see_each_others_state() -> None:
    with Session("one") as one, Session("two") as two:
        first = one.submit([job("echo one >> ledger", "n")])
        assert len(two.results()) == 0
        second = two.submit([job("echo one >> ledger", "n")])
        assert first[0].key == second[0].key
        assert first[0].record.token != second[0].record.token
        assert first[0].cluster is not second[0].cluster
        assert first[0].cluster.scheduler is not second[0].cluster.scheduler
        assert one.connections is not two.connections
        assert one.store.url != two.store.url
        first.wait(30)
        second.wait(30)
    assert Path("ledger").read_text() == "one\none\n"
    assert not Path(".clusterjob").exists()


def test_two_sessions_of_one_store_share_its_records_alone() -> None:
    with Session("same") as one, Session("same") as two:
        first = one.submit([job("echo run >> ledger", "n")])[0]
        second = two.submit([job("echo run >> ledger", "n")])[0]
        assert first.record.token == second.record.token
        assert first.record is not second.record
        assert first.wait(30)
        assert second.wait(30)
        assert second.status == Status.COMPLETED
    assert Path("ledger").read_text() == "run\n"


def test_a_session_can_be_made_anew() -> None:
    with Session("kept") as session:
        token = session.submit([job("true", "n")])[0].record.token
    again = Session("kept")
    found = again.results("n")
    assert [result.record.token for result in found] == [token]
    assert found.wait(30).not_done == []
    again.close()
    assert again.results()[0].status == Status.COMPLETED  # it opens what it needs
    again.close()


def test_looking_makes_no_store() -> None:
    session = Session("never")
    assert session.plan([]).steps == ()
    assert not Path("never").exists() or not list(Path("never").glob("*.json"))
    with pytest.raises(StoreError, match="not known"):
        Session("redis://x")


def test_the_default_session_is_the_one_of_the_store_that_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert submit([job("true", "n")])[0].engine is default_session().engine
    here = default_session().engine
    monkeypatch.setenv("CLUSTERJOB_STORE", "elsewhere")
    assert default_session().engine is not here
    assert (
        default_session().connections is here.connections
    )  # a login is asked for once
    monkeypatch.setattr(JobScript, "cache_folder", ".clusterjob")
    assert default_session().engine is here


def test_jobs_are_found_by_what_they_are_called() -> None:
    results = submit([job("exit {{ n }}", f"n{n}", n=n) for n in range(3)])
    results.wait(30)
    session = default_session()
    assert [
        result.name for result in session.results("n1", str(results[0].job_id))
    ] == [
        "n1",
        "n0",
    ]
    assert [result.name for result in session.results(states=[Status.COMPLETED])] == [
        "n0"
    ]
    assert session.results("n1", states=[Status.COMPLETED]) == []
    with pytest.raises(JobNotFoundError, match="'nowhere'"):
        session.results("nowhere")


def test_results_are_a_list_that_knows_more() -> None:
    results = submit(
        [job("echo {{ n }}; exit {{ n % 2 }}", f"n{n}", n=n) for n in range(4)]
    )
    assert isinstance(results, Results)
    assert results == list(results)
    assert isinstance(results[1:], Results)
    assert isinstance(results + results[:1], Results)
    done, not_done = results.wait(30)
    assert (done, not_done) == (results, [])
    assert results.counts == {Status.COMPLETED: 2, Status.FAILED: 2}
    assert [result.name for result in results.failed] == ["n1", "n3"]
    rows = results.table()
    assert [row["name"] for row in rows] == ["n0", "n1", "n2", "n3"]
    assert rows[1]["reason"] == "exit"
    assert rows[1]["exit_code"] == 1
    assert rows[0]["elapsed"] is not None
    assert Path(rows[2]["stdout"]).read_text() == "2\n"
    retried = results.retry()
    assert [new is old for new, old in zip(retried, results, strict=True)] == [
        True,
        False,
        True,
        False,
    ]
    assert retried[1].record.token != results[1].record.token
    assert retried.wait(30).not_done == []
    assert "2 FAILED" in repr(retried)
    assert {result.name for result in retried.as_completed()} == {
        "n0",
        "n1",
        "n2",
        "n3",
    }
    waiting = submit([job(f"sleep 60 # {n}", f"long{n}") for n in range(2)])
    waiting.cancel()
    assert waiting.wait(30).not_done == []
    assert waiting.counts == {Status.CANCELLED: 2}


def test_waiting_without_a_timeout_yields_every_job() -> None:
    results = submit([job(f"sleep 0.{n}", f"n{n}") for n in range(3)])
    assert {result.name for result in results.as_completed()} == {"n0", "n1", "n2"}


def test_files_of_a_job_with_outputs_are_its_outputs() -> None:
    made = job("echo x > out.dat; echo y > other", "n")
    made.outputs, made.workdir = ["*.dat"], "w"
    result = made.submit()
    assert result.wait(30)
    assert [file.path for file in result.files()] == ["out.dat"]
    assert {file.path for file in result.files("*")} == {"out.dat", "other"}
    made = job("true", "none")
    made.workdir = "w"
    assert {file.path for file in made.submit().files()} == {"out.dat", "other"}


def test_eight_threads_over_one_session() -> None:
    """They submit, look, wait, cancel and ask for usage at once; each job runs once."""

    def work(number: int) -> list[tuple[str, Status]]:
        mine = session.submit(
            [
                job("echo {{ n }} >> ledger", f"own{number}", n=f"own{number}"),
                job("echo shared >> ledger", "shared"),
                job("sleep 60 # {{ n }}", f"long{number}", n=number),
            ]
        )
        mine[2].cancel()
        told = threading.Event()
        mine[0].add_done_callback(lambda result: told.set())
        for _ in range(5):
            _ = session.results().counts
            _ = session.plan([job("echo shared >> ledger", "shared")])
        assert mine.wait(120).not_done == []
        assert told.wait(60)
        mine.table()
        return [(result.name, result.status) for result in mine]

    with Session("threads") as session, ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(work, range(8)))
        records = session.results(earlier=True)
    for number, outcome in enumerate(outcomes):
        assert outcome == [
            (f"own{number}", Status.COMPLETED),
            ("shared", Status.COMPLETED),
            (f"long{number}", Status.CANCELLED),
        ]
    lines = Path("ledger").read_text().split()
    assert sorted(lines) == sorted(
        ["shared", *(f"own{number}" for number in range(8))]
    )
    assert len(records) == 17


def watchers() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread.name == "clusterjob-watcher"
    ]


def test_a_callback_is_called_once_from_the_one_watching_thread() -> None:
    called: list[tuple[str, str]] = []

    def note(result: AsyncResult) -> None:
        called.append((result.name, threading.current_thread().name))

    session = Session("watched")
    assert watchers() == []
    results = session.submit([job(f"sleep 0.3 # {n}", f"n{n}") for n in range(3)])
    for result in results:
        result.add_done_callback(note)
    assert len(watchers()) == 1
    deadline = time.monotonic() + 30
    while len(called) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sorted(called) == [(f"n{n}", "clusterjob-watcher") for n in range(3)]
    results[0].add_done_callback(note)  # it has ended: told all the same
    while len(called) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert called[3] == ("n0", "clusterjob-watcher")
    while (
        watchers() and time.monotonic() < deadline
    ):  # nobody wants to be told any more
        time.sleep(0.02)
    assert watchers() == []
    session.close()


def test_a_session_that_is_closed_calls_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []
    session = Session("closed")
    result = session.submit([job("sleep 60", "long")])[0]
    result.add_done_callback(lambda result: called.append(result.name))
    assert len(watchers()) == 1
    session.close()
    assert watchers() == []
    result.cancel()
    assert result.wait(30)
    time.sleep(0.2)
    assert called == []
    session.close()


def test_a_process_that_is_forked_waits_for_jobs_of_its_own() -> None:
    with Session("forked") as session:
        told = threading.Event()
        first = session.submit([job("sleep 1", "parent")])[0]
        first.add_done_callback(lambda result: told.set())
        for number in range(4):  # at any moment of the thread that watches
            time.sleep(0.03)
            child = os.fork()
            if child == 0:
                _work_in_child(session, number)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        assert told.wait(30)


def _work_in_child(session: Session, number: int) -> None:
    signal.alarm(30)  # a deadlock ends too
    called = threading.Event()
    result = session.submit([job(f"echo {number}", f"child{number}")])[0]
    result.add_done_callback(lambda result: called.set())
    done = result.wait(20) and called.wait(10)
    os._exit(0 if done else 1)


@pytest.mark.parametrize(
    "bad", [lambda _: 1 / 0, lambda _: sys.exit("division by zero")]
)
def test_a_callback_that_fails_keeps_no_other(
    bad: Callable[[AsyncResult], object], caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()
    with Session("failing") as session:
        result = session.submit([job("true", "n")])[0]
        result.add_done_callback(bad)
        result.add_done_callback(lambda result: called.set())
        assert called.wait(30)
    assert "division by zero" in caplog.text


def test_many_are_awaited_by_one_thread() -> None:
    async def main() -> list[str]:
        results = submit([job(f"sleep 0.2 # {n}", f"n{n}") for n in range(5)])
        waiting = [asyncio.ensure_future(_wait_for(result)) for result in results]
        await asyncio.sleep(0.05)
        assert len(watchers()) == 1
        return [result.name for result in await asyncio.gather(*waiting)]

    assert asyncio.run(main()) == [f"n{n}" for n in range(5)]


def test_who_awaits_a_job_is_told_when_the_session_is_closed() -> None:
    async def main(session: Session) -> None:
        result = session.submit([job("sleep 60", "long")])[0]
        waiting = asyncio.ensure_future(_wait_for(result))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(session.close)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 10)
        result.cancel()

    session = Session("closing")
    asyncio.run(main(session))
    session.close()


async def _wait_for(result: AsyncResult) -> AsyncResult:
    return await result


def test_what_failed_is_retried_once_however_often_that_is_asked() -> None:
    body = "echo run >> {{ folder }}/ledger; test -e {{ folder }}/ready"
    here = str(Path.cwd())
    old = submit([job(body, "n", folder=here), job("true", "other")])
    old.wait(30)
    assert [result.status for result in old] == [Status.FAILED, Status.COMPLETED]
    Path("ready").touch()
    new = old.retry()
    new.wait(30)
    again = old.retry()  # the old handles know nothing of it
    assert [result.job_id for result in again] == [result.job_id for result in new]
    assert [result.status for result in again] == [Status.COMPLETED] * 2
    assert Path("ledger").read_text() == "run\nrun\n"
    session = default_session()
    first = old[0].job_id or ""
    with pytest.raises(JobNotFoundError):
        session.results(first)
    assert [result.job_id for result in session.results(first, earlier=True)] == [
        first
    ]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda done: loose.submit(["echo"]), "'echo' is no job script"),
        (lambda done: loose.submit("echo"), "a list of job scripts, not 'echo'"),
        (lambda done: loose.plan(3), "a list of job scripts, not 3"),
        (
            lambda done: loose.submit([job("true", "b")], cache_ids=[]),
            "1 jobs and 0 cache_ids",
        ),
        (lambda done: loose.submit([job("true", "b")], after=[1]), "1 is no result"),
        (lambda done: loose.wait(["a"]), "'a' is no result"),
        (lambda done: loose.cancel("abc"), "'a' is no result"),
        (
            lambda done: loose.default_session().results(states=[3]),
            "3 is no state; expected",
        ),
        (
            lambda done: loose.default_session().results(["a"]),
            "names no job: expected",
        ),
        (lambda done: done.stdout(index=1), "'a' is no array: it has no element 1"),
        (lambda done: done.tail(-1), "-1 is no number of lines"),
        (lambda done: done.log_path("stdin"), "no stream 'stdin'; expected 'stdout'"),
        (
            lambda done: loose.JobScript("true", rootdri="/x"),
            "did you mean 'rootdir'",
        ),
    ],
)
def test_a_wrong_argument_is_answered_by_what_was_expected(
    call: Callable[[Any], object], words: str
) -> None:
    done = submit([job("true", "a")])[0]
    done.get(30)
    with pytest.raises(SettingsError) as caught:
        call(done)
    assert words.lower() in str(caught.value).lower()
    assert [result.name for result in default_session().results()] == ["a"]


def test_a_refused_batch_tells_what_was_accepted_as_results() -> None:
    good, bad = job("true", "good"), job("true", "bad")
    bad.array = "1-3"
    with pytest.raises(SubmissionError) as caught:
        submit([good, _refused(bad)])
    assert isinstance(caught.value.results, Results)
    assert [result.name for result in caught.value.results] == ["good"]


def _refused(script: JobScript) -> JobScript:
    script.ppn = 100000
    return script


def test_the_setup_of_a_profile_runs_before_every_body() -> None:
    Path("setup.ini").write_text(
        "[Attributes]\nbackend = local\ngreeting = hello\nsetup =\n"
        "    export GREETING='{{ greeting }} you'\n    told() { echo \"$GREETING $1\"; }\n"
    )
    for shell, body in (
        ("/bin/bash", "echo $GREETING"),
        (
            "/bin/sh",
            "#!/usr/bin/env python3\nimport os; print(os.environ['GREETING'])",
        ),
    ):
        made = JobScript(body, f"with {shell[5:]}", shell=shell)
        made.read_settings("setup.ini")
        result = made.submit()
        assert result.wait(20)
        assert (result.stdout(), result.stderr()) == ("hello you\n", "")
    Path("bad.ini").write_text(
        "[Attributes]\nbackend = local\nsetup = module load nothing\n"
    )
    made = JobScript("echo ran", "bad setup")
    made.read_settings("bad.ini")
    result = made.submit()
    assert result.wait(20)
    assert (result.status, result.exit_code) == (Status.FAILED, 127)
    assert "the setup of the profile failed" in result.stderr()
    assert result.stdout() == ""


def test_a_script_may_have_a_name_of_its_own() -> None:
    result = JobScript("echo named", "f", filename="mine.sh").submit()
    assert result.wait(20)
    assert result.stdout() == "named\n"
    assert os.access("mine.sh", os.X_OK)


def test_an_epilogue_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    result = JobScript("true", "e", epilogue="echo no disk; exit 3").submit()
    assert result.wait(20)
    assert "epilogue of 'e' ended with exit code 3:\nno disk" in caplog.text
    assert result.status == Status.COMPLETED


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: loose.submit([], retry=3),
            "retry = 3: expected True, False, or rules",
        ),
        (
            lambda: loose.submit([], force="no"),
            "force = 'no': expected True or False",
        ),
        (
            lambda: loose.submit([], bundle="no"),
            "bundle = 'no': expected True or False",
        ),
        (
            lambda: loose.submit([], cache_ids="ab"),
            "cache_ids = 'ab': expected a list",
        ),
        (lambda: loose.Campaign("c", stop_on_failure="no"), "expected True or False"),
        (
            lambda: loose.Campaign("c", retry=3),
            "retry = 3: expected rules",
        ),
        (lambda: loose.Campaign("c", session="x"), "expected a Session"),
        (
            lambda: loose.Campaign("c", on_state=3),
            "on_state = 3: expected a function",
        ),
        (
            lambda: loose.Campaign("c").add([], retry=True),
            "retry = True: expected rules",
        ),
        (lambda: loose.Campaign("c").step(loop=True), "say which, step"),
        (lambda: loose.Retry(exit_codes=[75]), "exit_codes = .75.; expected changes"),
        (lambda: loose.Retry(timeout={"array": "1-3"}), "array says which job it is"),
        (
            lambda: loose.Retry(timeout={"jobname": "x"}),
            "jobname says which job it is",
        ),
        (lambda: loose.JobScript(None), "a body is a text, not None"),
        (lambda: loose.JobScript(b"true"), "a body is a text, not b'true'"),
        (lambda: loose.JobScript("true", workdir=3), "workdir = 3: expected a text"),
    ],
)
def test_values_of_other_kinds_are_refused(
    call: Callable[[], object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        call()


def test_a_path_is_a_folder_too() -> None:
    result = JobScript("pwd", "there", workdir=Path("there")).submit()
    result.wait(30)
    assert result.stdout().strip() == f"{Path.cwd()}/there"


def test_numbers_are_quoted_as_texts_are() -> None:
    results = submit(sweep(JobScript("echo {{ v|sh }}", "v"), v=["a b", 5]))
    results.wait(30)
    assert [result.stdout() for result in results] == ["a b\n", "5\n"]
