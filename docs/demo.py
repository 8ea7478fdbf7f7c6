"""The main job, end to end: a parameter sweep, its table, and the same sweep again.

How much longer than the small-angle formula says does a pendulum take for one swing? Each amplitude
is a job that integrates the equation of motion; the embedded scheduler runs as many at once as this
machine has cores.
"""

from __future__ import annotations

import math
import tempfile
import time

from clusterjob import JobScript, JobSettings, as_completed, submit

BODY = """#!/usr/bin/env python3
from math import sin

def acceleration(angle):
    return -sin(angle)

# Runge-Kutta, from the turning point to the first zero: a quarter of a period; g / length is 1
angle, speed, time, step = {{ amplitude }}, 0.0, 0.0, {{ step }}
while angle > 0:
    last = angle, time
    k1, l1 = speed, acceleration(angle)
    k2, l2 = speed + step / 2 * l1, acceleration(angle + step / 2 * k1)
    k3, l3 = speed + step / 2 * l2, acceleration(angle + step / 2 * k2)
    k4, l4 = speed + step * l3, acceleration(angle + step * k3)
    angle += step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    speed += step / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    time += step
zero = last[1] + step * last[0] / (last[0] - angle)
print(4 * zero)
"""


def exact(amplitude: float) -> float:
    """Return the period by the arithmetic-geometric mean (Gauss)."""
    a, b = 1.0, math.cos(amplitude / 2)
    while abs(a - b) > 1e-15:
        a, b = (a + b) / 2, math.sqrt(a * b)
    return 2 * math.pi / a


def sweep(folder: str) -> list[JobScript]:
    """Return the jobs of the sweep, one an amplitude."""
    settings: JobSettings = {"rootdir": folder, "time": "5m", "mem": 200}
    degrees = [5, 30, 60, 90, 120, 150, 170, 179]
    return [
        JobScript(
            BODY,
            f"pendulum-{d}",
            params={"amplitude": math.radians(d), "step": 1e-5},
            **settings,
        )
        for d in degrees
    ]


def main() -> None:
    """Run the sweep twice, and print what happened."""
    folder = JobScript.cache_folder = tempfile.mkdtemp(prefix="clusterjob-demo-")
    began = time.perf_counter()
    results = submit(sweep(folder))
    print(
        f"submitted {len(results)} jobs in {time.perf_counter() - began:.2f} s, ids "
        f"{', '.join(str(result.job_id) for result in results)}"
    )
    for result in as_completed(results, timeout=300):
        print(
            f"  {result.name:13} {result.status}, cpu {result.usage.get('cpu', 0):.2f} s"
        )
    print("\namplitude   period / (2 pi)   exact")
    for result in results:
        result.get()
        degrees = int(result.name.split("-")[1])
        print(
            f"{degrees:6}°     {float(result.stdout()) / (2 * math.pi):12.6f}   "
            f"{exact(math.radians(degrees)) / (2 * math.pi):9.6f}"
        )
    commands = results[0].cluster.scheduler.commands
    again = submit(sweep(folder))
    same = [result.job_id for result in again] == [
        result.job_id for result in results
    ]
    print(
        f"\nthe same sweep again: {'the same jobs' if same else 'other jobs'}, "
        f"{again[0].cluster.scheduler.commands - commands} scheduler commands"
    )
    print(
        f"records and outputs are in {folder}; try: clusterjob --store {folder} list"
    )


main()
