"""doctor, prune and store copy, as a person uses them, on the embedded scheduler."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clusterjob import JobScript, Status, plan, submit, sweep, wait
from clusterjob.script import default_session
from clusterjob.store import ONCE_DUE

from .test_cli import run

CHILD = """
import os, signal
from clusterjob import JobScript, submit
from clusterjob.engine import submission
if {point!r} == "upload":
    submission.upload = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
else:
    from clusterjob.engine import Scheduler
    real = Scheduler.submit
    Scheduler.submit = lambda *arguments: (real(*arguments), os.kill(os.getpid(), signal.SIGKILL))
submit([JobScript("echo ran >> ledger", "left-open", prologue="echo prologue >> prologues")])
"""


@pytest.fixture(autouse=True)
def _spool(spool: Path) -> None:
    pass


def leave_open(point: str) -> None:
    """Have a process die in the middle of a submission."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(point=point)],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == -9


def test_doctor_says_that_all_is_well() -> None:
    wait(submit([JobScript("true", "good")]), 30)
    text = run("doctor")
    assert "journal wal" in text
    assert "records 1" in text
    assert "BAD" not in text
    assert json.loads(run("doctor", "--json"))[0]["ok"] is True


@pytest.mark.parametrize(
    ("point", "prologues"), [("upload", "prologue\n"), ("submit", "prologue\n")]
)
def test_doctor_finishes_what_a_dead_process_left_open(
    point: str, prologues: str
) -> None:
    leave_open(point)
    text = run("doctor", code=1)
    assert "'left-open'" in text
    assert "was not finished" in text
    assert "would be mended (--fix): finish it" in text
    assert "SUBMITTING" not in run("list")
    assert "it is PENDING, with job id" in run("doctor", "--fix")
    assert run("wait", "left-open", "--timeout", "30s")
    assert Path("ledger").read_text() == "ran\n"
    assert Path("prologues").read_text() == prologues
    assert "BAD" not in run("doctor")


def test_whoever_opens_the_store_next_finishes_it() -> None:
    leave_open("upload")
    submit([JobScript("echo other >> ledger", "another")])
    deadline = time.monotonic() + 20
    while not Path("ledger").exists() or len(Path("ledger").read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run("wait", "left-open", "another")
    assert sorted(Path("ledger").read_text().split()) == ["other", "ran"]


def test_doctor_puts_damaged_records_aside() -> None:
    wait(submit([JobScript("true", "good"), JobScript("true # 2", "bad")]), 30)
    store = default_session().store
    store.close()
    with sqlite3.connect(".clusterjob/store.sqlite") as connection:
        connection.execute("UPDATE records SET data = '{\"half' WHERE name = 'bad'")
    connection.close()
    assert "good" in run("list")
    assert "of job 'bad'" in run("doctor", code=1)
    assert "it is in" in run("doctor", "--fix")
    assert len(list(Path(".clusterjob/damaged").iterdir())) == 1
    assert "BAD" not in run("doctor")


def test_doctor_makes_a_broken_store_anew() -> None:
    wait(
        submit(
            [JobScript(f"true # {number}", f"job{number}") for number in range(3)]
        ),
        30,
    )
    default_session().store.close()
    path = Path(".clusterjob/store.sqlite")
    os.truncate(path, path.stat().st_size - 4096)
    assert "BAD" in run("doctor", code=1)
    text = run("doctor", "--fix", code=1)
    assert "the broken one is" in text
    assert "records may be lost" in text
    assert "or they will run twice" in text
    assert list(Path(".clusterjob").glob("store.sqlite.broken-*"))
    run("list")


def test_doctor_makes_a_store_anew_that_lost_its_notes() -> None:
    submit(JobScript("true", "kept")).wait(30)
    default_session().store.close()
    with contextlib.closing(sqlite3.connect(".clusterjob/store.sqlite")) as database:
        database.execute("DROP TABLE notes")
        database.commit()
    assert "BAD" in run("doctor", code=1)
    assert "1 records were saved, 0 were lost" in run("doctor", "--fix")
    assert "COMPLETED" in run("list")
    run("doctor")


def test_states_that_columns_tell_otherwise_are_mended() -> None:
    submit([JobScript("true", "good"), JobScript("exit 2", "bad")]).wait(30)
    default_session().store.close()
    with contextlib.closing(sqlite3.connect(".clusterjob/store.sqlite")) as database:
        database.execute("UPDATE records SET status = 99 WHERE name = 'good'")
        database.execute("UPDATE records SET status = -1 WHERE name = 'bad'")
        database.commit()
    assert run("status").splitlines()[-1] == "1 completed, 1 failed"
    assert "2 records are searched by another state" in run("doctor", code=1)
    assert "done record" in run("doctor", "--fix")
    run("doctor")
    assert run("list", "-s", "failed").count("bad") == 1
    assert run("list", "-s", "completed").count("good") == 1


def test_doctor_looks_at_a_profile() -> None:
    Path("bad.ini").write_text("[Attributes]\nbackend = slrum\n")
    assert "Did you mean 'slurm'" in run("doctor", "-p", "bad.ini", code=1)
    Path("good.ini").write_text("[Attributes]\nbackend = local\n")
    assert "clusterjob spool" in run("doctor", "-p", "good.ini")


def make_old(*names: str) -> None:
    """Date the ends of jobs back by a hundred days."""
    store = default_session().store
    records = [record for name in names for record in store.select(name=name)]
    ended = time.time() - 100 * 86400
    store.update(records, lambda record: setattr(record.task, "ended", ended))
    store.close()


def test_prune_removes_old_jobs_and_their_files_and_nothing_else() -> None:
    results = submit(
        [
            JobScript("echo 1", "old"),
            JobScript("exit 3", "failed"),
            JobScript("echo 2", "young"),
            JobScript("sleep 60", "live"),
        ]
    )
    wait(results[:3], 30)
    make_old("old", "failed")
    folder = Path(results[0].record.folder)
    dry = json.loads(run("prune", "--older-than", "30d", "--dry-run", "--json"))
    assert [item["name"] for item in dry["removed"]] == ["old"]
    assert "old" in run("list")
    assert "1 submissions were removed" in run("prune", "--older-than", "30d")
    left = {path.name.split(".")[0] for path in folder.iterdir()}
    tokens = {result.record.token for result in results[1:]}
    of_array = f"jobs-{results[0].record.submission[1]}"
    assert {name for name in left if not name.startswith(of_array)} == {
        *tokens,
        "receipts",
    }
    assert "failed" in run(
        "prune", "--older-than", "30d", "--state", "failed", "--state", "cancelled"
    )
    assert "live" in run("list")
    run("cancel", "live")
    run("wait", "live", code=1)
    make_old("young", "live")
    run("prune", "--older-than", "1d", "-s", "completed", "-s", "cancelled")
    assert not folder.exists()
    assert "no jobs" in run("list")


def test_prune_keeps_what_a_waiting_job_looks_at() -> None:
    first = JobScript("sleep 1", "first").submit()
    second = JobScript("sleep 60", "second").submit(after=[first])
    first.wait(30)
    make_old("first")
    assert "0 submissions" in run("prune", "--older-than", "1d")
    second.cancel()
    second.wait(30)
    assert "1 submissions" in run("prune", "--older-than", "1d")


def test_prune_takes_jobs_of_one_cluster_whatever_profile_they_came_from() -> None:
    results = []
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "p.ini").write_text(
            "[Attributes]\nbackend = local\n[Limits]\nfirst_poll = 0.05\n"
        )
        job = JobScript(f"true # {name}", name)
        job.read_settings(f"{name}/p.ini")
        results.append(job.submit())
    assert results[0].cluster is results[1].cluster
    assert wait(results, 30)[1] == []
    make_old("one", "two")
    assert "2 submissions" in run("prune", "--older-than", "1d")
    assert list(Path(".clusterjob-runs").glob("*/*.exit")) == []
    assert default_session().store.select() == []


def test_prune_keeps_jobs_whose_outputs_have_not_come() -> None:
    result = JobScript("echo x > out", "slow-line", outputs=["out"]).submit()
    assert result.wait(30)
    # as it is while the line is broken
    result.store.update([result.record], lambda it: setattr(it, "outputs", ONCE_DUE))
    make_old("slow-line")
    assert "0 submissions" in run("prune", "--older-than", "1d")
    assert [record.name for record in default_session().store.select()] == [
        "slow-line"
    ]


def test_doctor_names_a_backend_that_is_gone() -> None:
    folder = Path("backends/own")
    folder.mkdir(parents=True)
    (folder / "backend.ini").write_text(
        "[Backend]\nextends = local\ntitle = Our own\n"
    )
    Path("p.ini").write_text("[Attributes]\nbackend = own\n")
    job = JobScript("sleep 60", "orphan")
    job.read_settings("p.ini")
    result = job.submit()
    (folder / "backend.ini").rename("aside")
    try:
        text = run("doctor", code=1)
        assert "BAD  scheduler   own: " in text
        assert "to do: see to it that its backend is found" in text
    finally:
        result.cancel()


def test_prune_wants_a_unit() -> None:
    assert "30d" in run("prune", "--older-than", "30", code=2)


@pytest.mark.xdist_group("postgresql")
def test_a_store_is_copied_into_other_kinds(database: str, tmp_path: Path) -> None:
    wait(submit([JobScript("true", "one"), JobScript("exit 3", "two")]), 30)
    JobScript("exit 3", "two").submit().wait(
        30
    )  # a retry: two submissions of one key
    before = [
        record.to_json() for record in default_session().store.select(earlier=True)
    ]
    places = [
        f"file://{tmp_path}/files",
        database,
        f"sqlite:///{tmp_path}/again.sqlite",
    ]
    source = ".clusterjob"
    for target in places:
        assert "3 records" in run("store", "copy", source, target)
        assert "0 of them new" in run("store", "copy", source, target)
        assert "two" in run("--store", target, "list")
        source = target
    from clusterjob.store import open_store

    last = open_store(places[-1])
    assert [record.to_json() for record in last.select(earlier=True)] == before
    JobScript.cache_folder = places[-1]
    assert submit([JobScript("true", "one")])[0].status == Status.COMPLETED
    assert "there is no store" in run("store", "copy", "nowhere", places[0], code=1)


def test_what_jobs_write_over_each_other_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = JobScript("echo {{ T }} > area.dat", "area", outputs=["area.dat"])
    with caplog.at_level("WARNING"):
        plan(sweep(job, T=[1, 2, 3, 4, 5]))
    (line,) = caplog.messages
    assert line.startswith("5 jobs write 'area.dat' in ")
    assert "'area_T1', 'area_T2', 'area_T3' and 2 more" in line
    caplog.clear()
    named = [JobScript("true", name, stdout="log.txt") for name in ("a", "b")]
    elements = JobScript("true", "elements", array="1-4", stderr="errors.txt")
    with caplog.at_level("WARNING"):
        plan([*named, elements])
    first, second = caplog.messages
    assert first.startswith("2 jobs write 'log.txt' in ")
    assert second.startswith("4 jobs write 'errors.txt' in ")


def test_what_jobs_write_one_after_the_other_or_apart_is_their_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = JobScript("true", "x", workdir="run_{{ T }}", outputs=["x", "*.dat"])
    first, then = (JobScript("true", name, outputs=["x"]) for name in ("a", "b"))
    quiet = JobScript("true", "quiet", array="1-4", stdout="/dev/null", stderr="e.%a")
    with caplog.at_level("WARNING"):
        plan(sweep(job, T=[1, 2]))
        plan([first, then], after={then: first})
        plan(
            [quiet, *(JobScript("true", name, outputs=["*"]) for name in ("a", "b"))]
        )
    assert not caplog.messages


def test_an_age_is_a_number_with_its_unit() -> None:
    JobScript("true", "old").submit().wait(30)
    for wrong in ("5", "soon", "-1d"):
        said = run("prune", f"--older-than={wrong}", code=2)
        assert "is no age; expected a number with its unit" in said
    assert "1 submissions would be removed" in run(
        "prune", "--older-than", "0s", "--dry-run"
    )
