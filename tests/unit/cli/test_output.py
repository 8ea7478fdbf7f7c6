"""What the command line prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, JobScript, Session, Status
from clusterjob.cli.output import describe, describe_listed, print_json_rows
from clusterjob.store import Phase


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1200])
def test_json_has_an_object_a_line(
    capsys: pytest.CaptureFixture[str], count: int
) -> None:
    odd = 'a"}, {"b\n},\n{\\"'
    rows = [
        {"name": odd, "number": number, odd: {"x": [odd]}} for number in range(count)
    ]
    print_json_rows(rows)
    printed = capsys.readouterr().out
    assert json.loads(printed) == rows
    assert printed.count("\n") == max(count, 1)


LOGS: list[dict[str, Any]] = [
    {},
    {"stdout": "x.out"},
    {"stdout": "logs/x.out", "stderr": "/far/x.err"},
    {"stdout": "both.out", "stderr": ""},
    {"stderr": "only.err"},
    {"stdout": "job-%j-%x.out", "stderr": "$HOME/x.err"},
    {"stderr": "%j.err", "array": "1-3"},
]


def test_lists_say_what_handles_say(tmp_path: Path) -> None:
    with Session(tmp_path / "store") as session:
        for number, logs in enumerate(LOGS):
            job = JobScript("true", f"job{number}", backend="slurm", **logs)
            record = job.prepare(session.engine, batch="batch")
            record.phase, record.job_id = Phase.SUBMITTED, str(number)
            record.member = "gpu" if number == 1 else None
            record.task.status = Status.FAILED
            record.task.exit_code, record.task.ended = number, 5.0
            session.store.claim([record], lambda old, new: False)
        handles = [
            AsyncResult(item, session.engine) for item in session.store.select()
        ]
        listed = list(describe_listed(session, session.store.listed()))
        assert listed == [describe(handle) for handle in handles]
    assert [Path(str(row["stdout"])).name for row in listed[1:4]] == [
        *("x.out", "x.out", "both.out"),
    ]
    assert Path(str(listed[5]["stdout"])).name == "job-5-job5.out"
