"""What exactly-once costs: 500 jobs to the real Slurm of the lab, with claim, receipts, lock and
fence, and without. `make lab` first.

"Without" is the same scripts but for the fence, written to one folder, and the same loop (four at a
time) that only prints the ids: what somebody would write who does not care.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import time
from pathlib import Path

from common import held_jobs, report, stopwatch, submission_time, workplace

COUNT, ROUNDS = 500, 7
LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)
LOOP = r"""
for w in 0 1 2 3; do
    (
        i=$w
        while [ $i -lt COUNT ]; do
            sbatch --parsable plain/$i.slurm; i=$((i + 4))
        done >plain/ids.$w
    ) &
done
wait
cat plain/ids.*
"""


def with_protocol(label: str) -> float:
    return submission_time(held_jobs(label, COUNT), bundle=False)


def without(label: str) -> float:
    batch = held_jobs(label, COUNT)
    with stopwatch() as watch:
        Path("plain").mkdir(exist_ok=True)
        for number, job in enumerate(batch):
            text = re.sub(r"\n# The fence:.*?\nfi\n", "\n", str(job), flags=re.DOTALL)
            Path(f"plain/{number}.slurm").write_text(text)
        done = subprocess.run(
            ["/bin/sh", "-c", LOOP.replace("COUNT", str(COUNT))],
            check=True,
            capture_output=True,
            text=True,
        )
    assert len(done.stdout.split()) == COUNT
    return watch[0]


def clear() -> None:
    """Cancel the held jobs, and let the controller and the disk come to rest."""
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    time.sleep(6)


def main() -> None:
    """Alternate the two on held jobs, so that nothing runs meanwhile; report medians, of the times
    and of the ratios of neighbours.
    """
    os.environ["SLURM_CONF"] = str(LAB / "noacct" / "slurm.conf")
    ours, plain = [], []
    for number in range(ROUNDS):
        plain.append(without(f"p{os.getpid()}-{number}"))
        clear()
        ours.append(with_protocol(f"o{os.getpid()}-{number}"))
        clear()
    report(f"{COUNT} jobs without the protocol", statistics.median(plain), "s", "-")
    report(f"{COUNT} jobs with it", statistics.median(ours), "s", "-")
    report(
        "ratio",
        statistics.median(
            mine / bare for mine, bare in zip(ours, plain, strict=True)
        ),
        "x",
        "<= 1.15",
    )


with workplace():
    main()
