"""1,000 single jobs that ask for the same, which go as arrays, against a serial loop of the bare
submit command, on the lab's Slurm, Grid Engine and OpenPBS. `make lab` first.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from common import report, stopwatch, workplace

from clusterjob import JobScript, submit

COUNT = 1000
ROUNDS = 5
LOOP = 200  # submissions of the serial loop
LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)
PBS = os.environ.get("CLUSTERJOB_PBS") or "/opt/pbs"
QUIET = 3  # s after jobs were deleted, so that a scheduler has done with that
# the bare command; the option with which a job waits; the ratio that is wanted
SCHEDULERS = {
    "slurm": ("sbatch --parsable --output=/dev/null --hold", {"hold": True}, 20),
    "sge": ("qsub -terse -o /dev/null -e /dev/null -h", {"h": True}, 10),
    "pbspro": ("qsub -o /dev/null -e /dev/null -h", {"h": True}, 10),
}
PATHS = {"sge": "/usr/lib/gridengine", "pbspro": f"{PBS}/bin"}


def bare(command: str) -> float:
    """Return the jobs a second of a serial loop."""
    Path("bare.sh").write_text("#!/bin/sh\ntrue\n")
    loop = f"i=0; while [ $i -lt {LOOP} ]; do {command} bare.sh || exit; i=$((i + 1)); done"
    with stopwatch() as watch:
        done = subprocess.run(
            ["/bin/sh", "-c", loop], check=True, capture_output=True, text=True
        )
    delete = "scancel" if command.startswith("sbatch") else "qdel"
    subprocess.run([delete, *done.stdout.split()], check=True, capture_output=True)
    time.sleep(QUIET)
    return LOOP / watch[0]


def ours(name: str, label: str, options: dict[str, bool]) -> float:
    """Return the jobs a second of a batch."""
    jobs = [
        JobScript(
            f"true {label} {number}", f"b{number}", backend=name, options=options
        )
        for number in range(COUNT)
    ]
    with stopwatch() as watch:
        results = submit(jobs)
    assert all(result.job_id for result in results)
    results.cancel()
    time.sleep(QUIET)
    return COUNT / watch[0]


def main() -> None:
    """Report the medians of five runs each, and the best; what is loaded once is loaded before."""
    os.environ["SLURM_CONF"] = str(LAB / "slurm" / "slurm.conf")
    os.environ |= {"SGE_ROOT": "/var/lib/gridengine", "SGE_CELL": "default"}
    before = os.environ["PATH"]
    for name, (command, options, wanted) in SCHEDULERS.items():
        os.environ["PATH"] = f"{PATHS.get(name, '')}:{before}"
        loops, batches = [], []
        submit(
            JobScript("true", "first", backend=name, options=dict(options))
        ).cancel()
        for number in range(ROUNDS):
            loops.append(bare(command))
            batches.append(ours(name, f"{os.getpid()}-{number}", dict(options)))
        loop, batch = sorted(loops)[ROUNDS // 2], sorted(batches)[ROUNDS // 2]
        report(f"{name}: serial loop of the bare command", loop, "jobs/s", "-")
        report(f"{name}: 1,000 single jobs in one batch", batch, "jobs/s", "-")
        report(f"{name}: ratio", batch / loop, "x", f">= {wanted}")
        # what else the machine does makes both slower, and not both alike
        best = max(batches) / max(loops)
        report(f"{name}: ratio of the best of each", best, "x", f">= {wanted}")


with workplace():
    main()
