"""Files that several jobs write, as far as their names tell."""

from __future__ import annotations

import pytest

from clusterjob.engine import tell_shared
from clusterjob.store import JobSpec, Record, Task


def array(name: str, stdout: str) -> Record:
    record = Record("k", name, name, "slurm", "/w", "/w/.clusterjob-runs/b")
    record.tasks = {1: Task(), 2: Task()}
    record._spec = JobSpec(resources={"stdout": stdout})
    return record


@pytest.mark.parametrize(
    ("stdout", "is_told"),
    [
        ("out.txt", True),
        ("out-%a.txt", True),
        ("out.$TASK_ID.txt", True),
        ("out-%A_%a.txt", False),
        ("out.$JOB_ID.$TASK_ID", False),
    ],
)
def test_arrays_that_share_their_logs(
    stdout: str, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tell_shared([array("one", stdout), array("two", stdout)])
    assert ("'one', 'two'" in caplog.text) is is_told


def test_elements_of_one_array_have_logs_of_their_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tell_shared([array("one", "out-%a.txt")])
    assert caplog.text == ""
