"""Jobs that their scheduler starts over: the record stays, its history tells, and the last run counts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from clusterjob import AsyncResult, Reason, Status

from .conftest import Flavour, on
from .test_contract import until

BODY = "n=$(cat runs 2>/dev/null || echo 0); echo $((n + 1)) > runs; echo run $((n + 1)); [ $n -ge 1 ] || sleep 600; exit {code}"


def requeue(cluster: Flavour, job_id: str) -> None:
    command = ["qmod", "-rj", job_id] if cluster.name == "sge" else ["scontrol", "requeue", job_id]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def started_again(cluster: Flavour, result: AsyncResult) -> bool:
    """Whether it ended; Slurm lets two minutes pass before it starts a job again, and is told not to."""
    if cluster.family == "slurm" and result.status == Status.PENDING:
        subprocess.run(["scontrol", "update", f"jobid={result.job_id}", "starttime=now"], capture_output=True)
    return result.ready()


def rerunnable(cluster: Flavour) -> dict[str, object]:
    return {"r": "y"} if cluster.name == "sge" else {"requeue": True}


@on("slurm", "noacct", "sge")
def test_a_requeued_job_keeps_its_record(cluster: Flavour) -> None:
    for code, ended in ((0, (Status.COMPLETED, None)), (4, (Status.FAILED, Reason.EXIT))):
        Path("runs").unlink(missing_ok=True)
        result = cluster.run(BODY.format(code=code), **rerunnable(cluster))
        until(lambda result=result: result.status == Status.RUNNING and Path("runs").exists())  # type: ignore[misc]
        job_id = result.job_id
        assert job_id is not None
        requeue(cluster, job_id)
        until(lambda result=result: started_again(cluster, result), 60)  # type: ignore[misc]
        assert (result.status, result.reason) == ended
        assert result.exit_code == code
        assert result.job_id == job_id
        assert Path("runs").read_text() == "2\n"
        words = [words for _, _, words in result.history]
        assert any(text.startswith("run 2 on ") for text in words), result.history
        assert [state for _, state, _ in result.history][-1] == ended[0].name


@on("slurm", "noacct")
def test_a_job_that_is_preempted_for_good_says_so(cluster: Flavour) -> None:
    """A job that may not be requeued, and is, ends; what Slurm says of it counts."""
    result = cluster.run("sleep 600", no_requeue=True)
    until(lambda: result.status == Status.RUNNING)
    done = subprocess.run(["scontrol", "requeue", str(result.job_id)], capture_output=True, text=True)
    assert done.returncode != 0
    assert result.status == Status.RUNNING
    result.cancel()
    assert result.wait(60)
    assert result.status == Status.CANCELLED
