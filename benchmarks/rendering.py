"""How many scripts are rendered a second: distinct parameters, all directives and the whole
wrapper.
"""

from __future__ import annotations

from common import report, stopwatch, workplace

from clusterjob import JobScript

COUNT = 5000

with workplace():
    jobs = [
        JobScript(
            "./run --T {{ T }} --name {{ jobname }}\n",
            f"job{number}",
            backend="slurm",
            params={"T": number},
            time="5m",
            nodes=2,
            mem="4G",
        )
        for number in range(COUNT)
    ]
    str(jobs[0])
    with stopwatch() as watch:
        for job in jobs:
            str(job)
    report(
        "scripts rendered (template body, distinct parameters)",
        COUNT / watch[0],
        "/s",
        ">= 3000",
    )
    plain = [
        JobScript(f"./run --T {number}\n", f"job{number}", backend="slurm", time="5m")
        for number in range(COUNT)
    ]
    with stopwatch() as watch:
        for job in plain:
            str(job)
    report(
        "scripts rendered (distinct plain bodies)", COUNT / watch[0], "/s", ">= 3000"
    )
