"""The files of a job: which replace what may be there, and which are sent at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterjob.backend import load_backend
from clusterjob.engine import Scheduler
from clusterjob.engine.job_files import uploads_of
from clusterjob.store import InputFile, JobSpec, Record
from clusterjob.transport import LocalTransport


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(load_backend("slurm"), LocalTransport())


def record(token: str = "0123456789abcdef", **spec: object) -> Record:
    return Record(
        "k", token, "n", "slurm", "/w", "/w/.clusterjob-runs/b", _spec=JobSpec(**spec)
    )  # type: ignore[arg-type]


def test_a_script_in_the_folder_of_its_batch_is_written_once(
    scheduler: Scheduler,
) -> None:
    (file,) = uploads_of(scheduler, [record(body="true")])
    assert file.path == "/w/.clusterjob-runs/b/0123456789abcdef.slurm"
    assert (file.replace, file.executable) == (False, True)


def test_a_second_try_replaces_what_the_first_may_have_left(
    scheduler: Scheduler,
) -> None:
    (file,) = uploads_of(scheduler, [record(body="true")], again=True)
    assert file.replace


def test_a_script_that_the_user_named_replaces_an_earlier_one(
    scheduler: Scheduler,
) -> None:
    (file,) = uploads_of(scheduler, [record(body="true", filename="mine.sh")])
    assert (file.path, file.replace) == ("/w/mine.sh", True)


def test_auxiliary_scripts_and_inputs_replace(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("x")
    source = str(tmp_path / "in")
    job = record(
        body="true", aux={"helper": "echo"}, inputs=(InputFile("in", "sum", source),)
    )
    _, helper, item = uploads_of(scheduler, [job])
    assert (helper.path, helper.content, helper.replace) == (
        "/w/helper",
        "echo",
        True,
    )
    assert (item.path, item.content, item.replace) == ("/w/in", tmp_path / "in", True)
    assert item.digest == "sum"


def test_an_input_that_is_in_its_place_is_not_copied_onto_itself(
    scheduler: Scheduler, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("x")
    job = record(body="true", inputs=(InputFile("in", "sum", str(tmp_path / "in")),))
    job.workdir = str(tmp_path)
    assert len(uploads_of(scheduler, [job])) == 1


def test_what_several_jobs_share_is_sent_once(scheduler: Scheduler) -> None:
    jobs = [
        record(f"{n:016x}", body="true", aux={"helper": "echo"}) for n in range(3)
    ]
    paths = [file.path for file in uploads_of(scheduler, jobs)]
    assert len(paths) == len(set(paths)) == 4
