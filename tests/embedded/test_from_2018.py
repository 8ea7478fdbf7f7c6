"""A workflow as it was written for the clusterjob of 2018: in that spelling it works or is refused
with what replaces it, in today's it runs.
"""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from clusterjob import (
    AsyncResult,
    BackendNotFoundError,
    JobScript,
    RenderError,
    SettingsError,
    Status,
    StoreError,
    SubmissionError,
)

loose: Any = JobScript


@pytest.fixture(autouse=True)
def _spool(spool: Path) -> Iterator[None]:
    yield
    for name in ("backend", "workdir", "resources", "text", "shell"):
        if name in vars(JobScript)["_class_defaults"]:
            delattr(JobScript, name)


# -- the workflow ----------------------------------------------------------------------------------


def test_the_workflow_in_the_spelling_of_2018_is_refused_line_by_line() -> None:
    Path("2018.ini").write_text(
        "[Attributes]\nbackend: local\nprologue = cp {workdir}/a {rootdir}/\n"
    )
    with pytest.raises(SettingsError, match=r"2018\.ini: line 2: .*a colon"):
        JobScript.read_defaults("2018.ini")
    Path("2018.ini").write_text(
        "[Attributes]\nbackend = local\nworkdir = w\nprologue = cp {workdir}/a b\n"
    )
    JobScript.read_defaults("2018.ini")
    job = JobScript("echo {{ text }}; echo ${HOME}", "oct")
    job.text = "hello"
    with pytest.raises(
        RenderError, match=r"prologue.*\{workdir\}.*\{\{ workdir \}\}"
    ):
        job.submit()
    with pytest.raises(RenderError, match=r"\$\{HOME\}, with single braces"):
        str(JobScript("echo ${{HOME}}", "oct", prologue=""))


def test_the_workflow_in_todays_spelling() -> None:
    Path("now.ini").write_text(
        "[Attributes]\nbackend = local\nworkdir = w\n"
        "prologue = mkdir -p {{ workdir }}; echo in > {{ workdir }}/a\n"
        "epilogue = cp {{ workdir }}/b .\n"
    )
    JobScript.read_defaults("now.ini")
    job = JobScript("cat a > b; echo {{ text }} $CLUSTERJOB_NAME", "oct")
    job.text = "hello"
    result = job.submit(cache_id="oct-1")
    assert result.get(30) == Status.COMPLETED
    assert result.stdout() == "hello oct\n"
    assert Path("b").read_text() == "in\n"
    changed = JobScript("another body # {{ text }}", "oct")
    changed.text = "x"
    assert changed.submit(cache_id="oct-1") == result


# -- names -----------------------------------------------------------------------------------------


def test_attributes_and_resources_of_the_class_are_defaults() -> None:
    JobScript.backend = "slurm"
    loose.resources["queue"] = "long"
    loose.text = "hello"

    class Ours(JobScript):
        shell = "/bin/sh"
        resources: ClassVar[Any] = {"time": "5m", "queue": "short"}

    text = str(JobScript("echo {{ text }}", "a"))
    assert "#SBATCH --partition=long\n" in text
    assert "echo hello" in text
    ours = Ours("echo {{ text }}", "b")
    assert (ours.shell, ours.backend, ours.queue) == ("/bin/sh", "slurm", "short")
    assert "#SBATCH --time=00:05:00\n" in str(ours)
    # a job's own go over them, and change nothing for others
    ours.backend = "sge"
    assert (ours.backend, Ours("x", "c").backend, loose.backend) == (
        "sge",
        "slurm",
        "slurm",
    )
    # a profile that is read later too
    Path("p.ini").write_text("[Attributes]\nbackend = lsf\n")
    JobScript.read_defaults("p.ini")
    assert JobScript("true", "d").backend == "lsf"
    del JobScript.backend
    assert loose.backend is None


def test_auxiliary_scripts_are_the_third_argument() -> None:
    result = JobScript("sh helper.sh", "aux", {"helper.sh": "echo helped"}).submit()
    assert result.get(30) == Status.COMPLETED
    assert result.stdout() == "helped\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cache_prefix", "cache_folder"),
        ("max_sleep_interval", "poll_interval"),
        ("sleep_interval", "poll_interval"),
        ("ssh", "transport = openssh"),
        ("scp", "transport = openssh"),
        ("debug_cmds", "logging"),
    ],
)
def test_names_that_are_gone_say_what_replaces_them(name: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        setattr(JobScript, name, 1)
    with pytest.raises(SettingsError, match=words):
        setattr(JobScript("true", "x"), name, 1)
    with pytest.raises(SettingsError, match=words):
        loose("true", "x", **{name: 1})
    Path("p.ini").write_text(f"[Attributes]\n{name} = 1\n")
    with pytest.raises(
        SettingsError, match=rf"p\.ini \[Attributes\] {name}: .*{words}"
    ):
        JobScript.read_defaults("p.ini")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[DEFAULT]\nqueue = x\n", r"\[DEFAULT\].*\[Attributes\] or \[Resources\]"),
        (
            "[Attributes]\nworkdir = %(name)s\n",
            r"workdir: %\(name\)s.*\{\{ name \}\}",
        ),
        ("[Attributes]\ncache_folder = c\n", "JobScript.cache_folder"),
    ],
)
def test_ini_files(text: str, words: str) -> None:
    Path("p.ini").write_text(text)
    with pytest.raises(SettingsError, match=words):
        JobScript.read_defaults("p.ini")


def test_the_backend_pbs_has_two_successors() -> None:
    with pytest.raises(BackendNotFoundError, match=r"'torque'.*'pbspro'"):
        str(JobScript("true", "x", backend="pbs"))


def test_force_on_a_job_that_runs_says_to_cancel_it_first() -> None:
    job = JobScript("sleep 30", "long")
    result = job.submit()
    with pytest.raises(SubmissionError, match="cancel it before"):
        job.submit(force=True)
    result.cancel()


def test_jobs_that_exist_keep_their_settings_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = JobScript("true", "before")
    Path("p.ini").write_text("[Attributes]\nbackend = slurm\n")
    JobScript.read_defaults("p.ini")
    assert "made before read_defaults" in caplog.text
    assert job.backend is None
    job.read_settings("p.ini")
    assert job.backend == "slurm"


def test_a_written_script_can_be_submitted_by_hand_and_again() -> None:
    JobScript("echo by hand $CLUSTERJOB_NAME; exit 3", "hand").write("hand.sh")
    for number in (1, 2):
        done = subprocess.run(
            ["sh", "hand.sh"],
            env={"PATH": "/usr/bin:/bin", "SPOOL_JOB_ID": str(number)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (3, "by hand hand\n")


def test_pickles_are_not_read() -> None:
    Path("old.cache").write_bytes(pickle.dumps({"status": 0}))
    with pytest.raises(StoreError, match=r"is a pickle.*cache_id"):
        AsyncResult.load("old.cache")
