"""Jobs that their scheduler starts over: the record stays, its history tells, and the last run
counts.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from clusterjob import AsyncResult, Reason, Status

from .conftest import FLAVOURS, Flavour, on
from .test_contract import until

BODY = (
    "n=$(cat runs 2>/dev/null || echo 0); echo $((n + 1)) > runs; echo run $((n + 1)); [ $n "
    "-ge 1 ] || sleep 600; exit {code}"
)


def requeue(cluster: Flavour, job_id: str) -> None:
    command = {
        "sge": ["qmod", "-rj", job_id],
        "pbspro": ["qrerun", job_id],
        "htcondor": ["condor_vacate_job", "-fast", job_id],
        "slurm": ["scontrol", "requeue", job_id],
    }[cluster.family]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def started_again(cluster: Flavour, result: AsyncResult) -> bool:
    """Whether it ended.

    Slurm lets two minutes pass before it starts a job again, and is told not to.

    Not within the same second: "Killing non-startable batch: Job credential revoked", seen on
    22.05.8.
    """
    if (
        cluster.family == "slurm"
        and result.status == Status.PENDING
        and time.time() - result.history[-1][0] > 2.5
    ):
        subprocess.run(
            ["scontrol", "update", f"jobid={result.job_id}", "starttime=now"],
            capture_output=True,
        )
    return result.ready()


def rerunnable(cluster: Flavour) -> dict[str, object]:
    settings: dict[str, dict[str, object]] = {
        "slurm": {"requeue": True},
        "htcondor": {},
    }
    return settings.get(cluster.family, {"r": "y"})


@on(*(name for name in FLAVOURS if name != "local"))
def test_a_requeued_job_keeps_its_record(cluster: Flavour) -> None:
    for code, ended in (
        (0, (Status.COMPLETED, None)),
        (4, (Status.FAILED, Reason.EXIT)),
    ):
        Path("runs").unlink(missing_ok=True)
        result = cluster.run(BODY.format(code=code), **rerunnable(cluster))
        until(
            lambda result=result: (
                result.status == Status.RUNNING and Path("runs").exists()
            )
        )  # type: ignore[misc]
        job_id = result.job_id
        assert job_id is not None
        requeue(cluster, job_id)
        # Grid Engine 8.1.9 under load was seen to take 69 s until it ran the job again
        until(lambda result=result: started_again(cluster, result), 150)  # type: ignore[misc]
        record = Path(result.record.folder, f"{result.record.token}.exit")
        assert (result.status, result.reason) == ended, (
            result.explain(),
            result.history,
            record.read_text(),
        )
        assert result.exit_code == code
        assert result.job_id == job_id
        assert Path("runs").read_text() == "2\n"
        words = [words for _, _, words in result.history]
        assert any(text.startswith("run 2 on ") for text in words), result.history
        assert [state for _, state, _ in result.history][-1] == ended[0].name


@on("noacct")
def test_a_preempted_job_says_so(cluster: Flavour) -> None:
    """Both partitions give way to the main one: jobs of `spare` are ended for good, jobs of `again`
    are queued again.
    """
    room = {"mem": 5000, "nodelist": "node1"}
    for queue in ("spare", "again"):
        Path("runs").unlink(missing_ok=True)
        victim = cluster.run(
            BODY.format(code=0), queue=queue, requeue=queue == "again" or None, **room
        )
        until(
            lambda victim=victim: (
                victim.status == Status.RUNNING and Path("runs").exists()
            )
        )  # type: ignore[misc]
        urgent = cluster.run(f"sleep 1  # for {queue}", **room)
        assert urgent.wait(90), urgent.explain()
        assert urgent.status == Status.COMPLETED
        until(lambda victim=victim: started_again(cluster, victim), 60)  # type: ignore[misc]
        if queue == "spare":
            assert (victim.status, victim.reason) == (
                Status.FAILED,
                Reason.PREEMPTED,
            ), victim.explain()
        else:
            assert victim.status == Status.COMPLETED, victim.explain()
            assert any(
                words.startswith("run 2 on ") for _, _, words in victim.history
            ), victim.history
