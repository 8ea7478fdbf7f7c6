"""Sweeps that run, and the table of what came of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from clusterjob import (
    JobFailedError,
    JobScript,
    Results,
    SettingsError,
    Status,
    submit,
    sweep,
)
from tests.embedded.test_cli import run


def test_a_sweep_in_folders_of_its_own_becomes_a_table() -> None:
    job = JobScript(
        "[ {{ T }} -ne 20 ] || exit 3; echo $(({{ T }} * {{ name }})) > out.dat",
        "oct",
        workdir="T{{ T }}",
        outputs=["out.dat"],
    )
    results = submit(sweep(job, T=[10, 20, 30], name=[2]))
    results.wait(30)
    rows = results.table(
        lambda result: int((result.outputs_folder / "out.dat").read_text())
    )
    shown = [
        (row["T"], row["param_name"], row["status"], row["result"]) for row in rows
    ]
    assert shown == [
        (10, 2, "COMPLETED", 20),
        (20, 2, "FAILED", None),
        (30, 2, "COMPLETED", 60),
    ]
    assert list(rows[0])[:3] == ["T", "param_name", "name"]
    results.to_csv("table.csv", lambda result: {"twice": 2})
    with open("table.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["T"], row["twice"]) for row in written] == [
        ("10", "2"),
        ("20", ""),
        ("30", "2"),
    ]
    with pytest.raises(SettingsError, match="'status'"):
        results.table(lambda result: {"status": 1})


def test_more_rows_leave_the_others_alone() -> None:
    job = JobScript("echo {{ T }}", "s")
    first = submit(sweep(job, T=[1, 2]))
    first.wait(30)
    more = submit(sweep(job, T=[1, 2, 3]))
    assert [result.reused for result in more] == [True, True, False]
    more.wait(30)
    assert {result.status for result in more} == {Status.COMPLETED}


def test_a_sweep_at_a_terminal() -> None:
    Path("body.sh").write_text("echo {{ T }} {{ x }}\n")
    Path("values.txt").write_text("0.1\n\n0.2\n")
    told = run(
        "sweep", "body.sh", "-d", "T=10,20", "-d", "x=@values.txt", "--dry-run"
    )
    assert told.count("submit") == 4
    lines = run(
        "sweep", "body.sh", "-d", "T=10,20", "-d", "x=@values.txt", "--wait"
    ).splitlines()
    assert [line.split()[1] for line in lines] == [
        "body_T10_x0.1",
        "body_T10_x0.2",
        "body_T20_x0.1",
        "body_T20_x0.2",
    ]
    Path("rows.csv").write_text("T,x\n10,0.1\n50,5\n")
    found = json.loads(run("sweep", "body.sh", "--rows", "rows.csv", "--json"))
    assert [item["params"] for item in found] == [
        {"T": 10, "x": 0.1},
        {"T": 50, "x": 5},
    ]
    assert "@" not in run("sweep", "body.sh", "-d", "T=@nosuch", code=1)
    short = ("sweep", "body.sh", "-d", "x=1", "-d", "T=1,2,3", "-r", "time=1m")
    lines = run(*short, "--pack", "2m", "--pack-slots", "2", "--wait").splitlines()
    assert [line.split()[0][-2:] for line in lines] == ["/1", "/2", "/3"]
    assert "pack = 'much'" in run(*short, "--pack", "much", "--force", code=1)


def test_tables_show_the_resources_that_were_varied() -> None:
    job = JobScript("true", "scale", time="1m", workdir="p{{ ppn }}_{{ T }}")
    jobs = list(sweep(job, T=[1], ppn=[1, 2])) + [JobScript("true", "free", time=2)]
    results = submit(jobs, tags=["b", "a b"])
    results.wait(30)
    rows = results.table()
    assert [(row["T"], row["time"], row["ppn"]) for row in rows] == [
        (1, 60, 1),
        (1, 60, 2),
        (None, 120, None),
    ]
    assert list(rows[0])[:4] == ["T", "time", "ppn", "name"]
    assert rows[0]["tags"] == "b,a b"
    assert "time" not in results[:2].table()[0]
    printed = list(csv.DictReader(io.StringIO(run("list", "--csv", "--tag", "b"))))
    shown = ["" if row["T"] is None else str(row["T"]) for row in rows]
    assert [row["T"] for row in printed] == shown


def test_elements_that_failed_are_named() -> None:
    script = JobScript("[ $((n % 3)) != 0 ] || exit 4", "some")
    array = script.submit_array([{"n": n} for n in range(8)])
    with pytest.raises(JobFailedError) as failed:
        array.get(30)
    assert "3 FAILED (exit code 4): 1,4,7; 5 COMPLETED: 2-3,5-6,8" in str(
        failed.value
    )
    page = run("show", "some")
    assert "3 FAILED (exit code 4): 1,4,7\n" in page
    data = json.loads(run("show", "some", "--json"))[0]
    states = [element["status"] for element in data["elements"].values()]
    assert states.count("FAILED") == 3
    # of those that stay what they were nobody says that they are of the new submission
    again = script.submit_array([{"n": n} for n in range(8)])
    again.wait(30)
    ids = [row["job_id"] for row in Results([again]).rows()]
    assert ids.count(again.job_id) == 3
    assert ids.count(None) == 5


def test_a_variable_is_said_once_at_a_terminal() -> None:
    Path("body.sh").write_text("echo {{ T }}\n")
    assert "-d T is said twice: '1' and '2'" in run(
        "sweep", "body.sh", "-d", "T=1", "-d", "T=2", code=2
    )
    assert "is said twice" in run(
        "submit", "body.sh", "-d", "T=1", "-d", "T=2", code=2
    )
