"""500 jobs that go alone to the real Slurm of the lab: one batch, against a serial shell loop of
bare `sbatch --parsable`. `make lab` first.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from common import held_jobs, report, stopwatch, submission_time, workplace

COUNT = 500
LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)


def bare() -> float:
    """Return the seconds of the serial loop."""
    Path("bare.sh").write_text(
        "#!/bin/sh\n#SBATCH --output=/dev/null --mem=10M --hold\ntrue\n"
    )
    with stopwatch() as watch:
        subprocess.run(
            [
                "/bin/sh",
                "-c",
                f"i=0; while [ $i -lt {COUNT} ]; do sbatch --parsable bare.sh >/dev/null || exit; "
                "i=$((i + 1)); done",
            ],
            check=True,
        )
    return watch[0]


def batch(label: str) -> float:
    """Return the seconds of a batch of ours."""
    return submission_time(held_jobs(label, COUNT), bundle=False)


def clear() -> None:
    """Cancel the held jobs, and let the controller and the disk come to rest."""
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    time.sleep(5)


def main() -> None:
    """Alternate the two, three times each, on held jobs, so that nothing runs meanwhile; report the
    medians.
    """
    os.environ["SLURM_CONF"] = str(LAB / "slurm" / "slurm.conf")
    loops, batches = [], []
    for number in range(3):
        loops.append(bare())
        clear()
        batches.append(batch(f"{os.getpid()}-{number}"))
        clear()
    loop, ours = sorted(loops)[1], sorted(batches)[1]
    report("serial loop of bare sbatch", COUNT / loop, "jobs/s", "-")
    report("one batch", COUNT / ours, "jobs/s", "-")
    report("ratio", loop / ours, "x", ">= 1.5")


with workplace():
    main()
