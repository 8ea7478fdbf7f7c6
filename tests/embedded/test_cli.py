"""The command line, on the embedded scheduler: answers, exit codes, errors without tracebacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("spool")


def run(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "clusterjob", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(autouse=True)
def _files() -> None:
    Path("p.ini").write_text(
        "[Attributes]\nbackend = local\ngreeting = hello\n[Resources]\ntime = 5m\n"
    )
    Path("good.sh").write_text("echo {{ greeting }} {{ T }}\n")
    Path("bad.sh").write_text("echo oops >&2; exit 7\n")
    Path("slow.sh").write_text("sleep 60\n")


def test_submit_and_look() -> None:
    number = run(
        "submit", "good.sh", "-p", "p.ini", "-d", "T=4", "-r", "threads=1"
    ).strip()
    assert run("wait", number, "--timeout", "30s").count("COMPLETED") == 1
    again = run("submit", "good.sh", "-p", "p.ini", "-d", "T=4").splitlines()
    assert again[0] == number
    assert re.fullmatch(rf"{number}  good  cached: completed \d+ s ago", again[1])
    assert run("logs", "good") == "hello 4\n"
    assert run("logs", "good", "-e") == ""
    assert "exit code    0" in run("show", "good")
    assert "echo hello 4" in run("show", "good", "--script")
    listed = json.loads(run("list", "--json"))
    assert [(job["name"], job["status"], job["job_id"]) for job in listed] == [
        ("good", "COMPLETED", number)
    ]
    assert (
        json.loads(run("status", listed[0]["key"][:8], "--json"))[0]["exit_code"] == 0
    )
    assert json.loads(run("show", number, "--json"))[0]["history"][0][1] == "PENDING"
    assert "1 completed" in run("status")
    assert run("list", "-s", "failed").startswith("no such jobs")
    again = run("resubmit", "good").strip()
    assert again != number
    assert len(json.loads(run("list", "--all", "--json"))) == 2


def test_exit_codes() -> None:
    text = run("submit", "bad.sh", "-p", "p.ini", "--wait", code=1)
    assert "exit code 7" in text
    assert "oops" in text
    run("status", "bad", code=1)
    run("submit", "slow.sh", "-p", "p.ini")
    run("status", "slow", code=3)
    run("wait", "slow", "--timeout", "1s", code=3)
    run("wait", "slow", "bad", "--timeout", "1s", code=3)
    assert "is being cancelled" in run("cancel", "slow")
    run("wait", "slow", code=1)
    assert "has ended" in run("cancel", "slow")
    assert "no job has the id or name 'nobody'" in run("status", "nobody", code=4)
    run("frobnicate", code=2)
    run("submit", code=2)
    run("submit", "good.sh", "-r", "novalue", code=2)


def test_render_and_plan() -> None:
    assert "#SBATCH --time=00:05:00" in run(
        "render", "good.sh", "-p", "p.ini", "-b", "slurm", "-d", "T=1"
    )
    assert run("plan", "good.sh", "-p", "p.ini", "-d", "T=1").startswith("submit ")
    run("submit", "good.sh", "-p", "p.ini", "-d", "T=1", "--wait")
    assert run("plan", "good.sh", "-p", "p.ini", "-d", "T=1").startswith("cached ")
    changed = run("plan", "good.sh", "-p", "p.ini", "-d", "T=2")
    assert "body, line 1: - echo hello 1" in changed
    assert "body, line 1: + echo hello 2" in changed
    assert (
        json.loads(
            run("plan", "good.sh", "-p", "p.ini", "-d", "T=1", "--force", "--json")
        )[0]["action"]
        == "retry"
    )


def test_after() -> None:
    Path("later.sh").write_text("sleep 5; exit 1\n")
    run("submit", "later.sh", "-n", "first", "-p", "p.ini")
    run(
        "submit",
        "good.sh",
        "-d",
        "T=1",
        "-p",
        "p.ini",
        "--after",
        "first",
        "--wait",
        code=1,
    )
    assert (
        json.loads(run("status", "good", "--json", code=1))[0]["reason"]
        == "dependency"
    )
    assert "would never run" in run(
        "submit", "good.sh", "-d", "T=2", "-p", "p.ini", "--after", "first", code=1
    )


def test_a_name_of_several_jobs_is_no_job_to_come_after() -> None:
    Path("next.sh").write_text("echo next\n")
    Path("step.sh").write_text("exit 1\n")
    run("submit", "step.sh", "--wait", code=1)
    for body in ("echo one", "echo two"):
        Path("step.sh").write_text(f"{body}\n")
        number = run("submit", "step.sh", "--wait").splitlines()[0]
        if body == "echo one":  # the one that failed cannot be meant
            run("submit", "next.sh", "--after", "step", "--wait")
            assert "cached" in run("plan", "next.sh", "--after", "step")
    words = run("submit", "next.sh", "--after", "step", code=1)
    assert "'step' may mean any of the jobs" in words
    run("submit", "next.sh", "--after", number, "--wait")
    assert re.findall(r"==> step \(\d+\) <==\n(\w*)", run("logs", "step")) == [
        "",
        "one",
        "two",
    ]


def test_backends() -> None:
    assert "Slurm Workload Manager" in run("backends")
    assert {item["name"] for item in json.loads(run("backends", "--json"))} >= {
        "slurm",
        "local",
        "flux",
    }
    shown = run("backends", "slurm")
    assert "submit = sbatch --parsable {script}" in shown
    assert "[Directives]" in shown
    assert "Did you mean 'slurm'" in run("backends", "slrum", code=1)


def test_check_says_what_works_and_records_the_conversation() -> None:
    text = run("check", "p.ini", "--record", "talk.json")
    assert text.count("ok  ") >= 8
    assert "FAIL " not in text
    turns = json.loads(Path("talk.json").read_text())
    assert any("submit" in turn["script"] for turn in turns)
    Path("broken.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Commands]\nversion = sbatch-that-is-not-there --version\n"
    )
    text = run("check", "broken.ini", code=1)
    assert text.startswith("FAIL commands")
    assert "Is the scheduler installed" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "good.sh", "-p", "missing.ini"], "no such file"),
        (["submit", "good.sh", "-b", "slrum"], "Did you mean 'slurm'"),
        (["submit", "good.sh", "-r", "tiem=5"], "Did you mean 'time'"),
        (["submit", "good.sh", "-r", "time=soon"], "is not a time limit"),
        (["submit", "good.sh"], "'greeting' is undefined"),
        (["submit", "bad.sh", "-r", "threads=4000"], "refused 'bad'"),
        (["submit", "bad.sh", "-w", "/proc/nowhere"], "cannot be written"),
        (["--store", "/proc/nowhere", "list"], "there is no store"),
        (["--store", "/proc/nowhere", "submit", "bad.sh"], "cannot be made"),
    ],
)
def test_bad_input_is_one_clear_error(arguments: list[str], words: str) -> None:
    text = run(*arguments, code=1)
    assert words in text
    assert text.startswith("clusterjob: ")


def test_a_scheduler_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("s.ini").write_text("[Attributes]\nbackend = lsf\n")
    text = run("submit", "bad.sh", "-p", "s.ini", code=1)
    assert "bsub" in text
    assert "not found" in text
    assert run("list").startswith("no jobs")


def test_cancelling_several_tells_of_unknown_ones_and_cancels_the_others() -> None:
    number = run("submit", "slow.sh", "-p", "p.ini").strip()
    said = run("cancel", "nothing", number, "nobody", code=4)
    assert f"{number} slow: is being cancelled" in said
    assert "'nothing'" in said
    assert "'nobody'" in said
    assert run("wait", number, "--timeout", "30s", code=1).count("CANCELLED") == 1


def test_a_native_script_is_run_as_it_says_or_refused() -> None:
    Path("job.slurm").write_text(
        "#!/bin/bash\n#SBATCH --time=2 --array=1-3\n#SBATCH --output=out_%a.txt --qos=x\n"
        "echo $CLUSTERJOB_ARRAY_INDEX\n"
    )
    refused = run("submit", "job.slurm", "-p", "p.ini", code=1)
    assert "--convert" in refused
    for command in ("render", "plan"):
        assert "--convert" in run(command, "job.slurm", "-p", "p.ini", code=1)
    said = run("submit", "job.slurm", "-p", "p.ini", "--convert", "--wait")
    assert "no equivalent for Embedded scheduler: --qos=x (line 3)" in said
    assert "COMPLETED" in said
    assert [Path(f"out_{index}.txt").read_text() for index in (1, 2, 3)] == [
        "1\n",
        "2\n",
        "3\n",
    ]
    # the profile goes over the script
    assert "#CLUSTERJOB --time=300" in run("show", "job", "--script")


def test_a_failed_epilogue_is_shown() -> None:
    Path("e.ini").write_text(
        "[Attributes]\nbackend = local\nepilogue = echo no disk >&2; exit 4\n"
    )
    run("submit", "good.sh", "-p", "e.ini", "-d", "T=1", "-d", "greeting=x", "--wait")
    assert "epilogue of 'good' ended with exit code 4" in run("status", "good")


def test_times_and_memory_are_shown_as_they_are_written() -> None:
    number = run(
        "submit", "good.sh", "-p", "p.ini", "-d", "T=5", "-r", "mem=2G"
    ).strip()
    run("wait", number)
    assert "time=00:05:00, mem=2G" in run("show", number)
