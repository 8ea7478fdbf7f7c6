"""What clusterjob costs a job, apart from the scheduler's commands: a batch whose submit command is
/bin/echo, against a bare loop of it.

Both run as many commands at once (4), so what is left is making, rendering, claiming, writing,
receipts and recording.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from common import report, stopwatch, workplace

from clusterjob import JobScript, submit

COUNT = 10_000
LOOP = (
    "for w in 0 1 2 3; do (i=0; while [ $i -lt {count} ]; do /bin/echo 12345 >o$w 2>e$w; "
    "i=$((i + 1)); done) & done; wait"
)


def bare() -> float:
    """Return the seconds of the commands alone."""
    with stopwatch() as watch:
        subprocess.run(["/bin/sh", "-c", LOOP.format(count=COUNT // 4)], check=True)
    return watch[0]


def batch(number: int) -> float:
    """Return the seconds of making and submitting as many jobs, of another sweep each time."""
    with stopwatch() as watch:
        submit(
            [
                JobScript(
                    "./run --T {{ T }}\n",
                    f"job{n}",
                    params={"T": n},
                    workdir=f"round{number}",
                    time="5m",
                    mem=100,
                )
                for n in range(COUNT)
            ]
        )
    return watch[0]


# on a file system in memory, where there is one: the speed of a disk is not ours
with workplace("/dev/shm" if os.path.isdir("/dev/shm") else None):
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Commands]\nsubmit = /bin/echo 12345\n"
    )
    JobScript.read_defaults("p.ini")
    rounds = [(bare(), batch(number)) for number in range(3)]
    commands, ours = min(one for one, _ in rounds), min(two for _, two in rounds)
    print(
        f"{COUNT} jobs, best of three: {ours:.2f} s, of which a bare loop of the same commands "
        f"takes {commands:.2f} s"
    )
    report(
        "own cost of a submission",
        (ours - commands) / COUNT * 1000,
        "ms/job",
        "< 0.2",
    )
    report("ratio to the bare loop", ours / commands, "x", "-")
