"""Sweeps that run, and the table of what came of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from clusterjob import JobScript, SettingsError, Status, submit, sweep
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
