"""A campaign on the embedded scheduler: writing it down, picking it up again, deciding the next
step, and running all of it with a bound on how many wait.

    python benchmarks/campaigns.py           16,000 jobs
    python benchmarks/campaigns.py 100000    about a quarter of an hour

Beside it GC3Pie 2.6.4, as its users and measurements tell: an engine that is quadratic in jobs that
finish together, 560 s for 16,000 of them without running any.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

from common import report, stopwatch, workplace

from clusterjob import Campaign, JobScript, sweep

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 16_000
KEPT = 10_000  # jobs of the campaign that is written down and picked up
PENDING = 5000
_PICK_UP = """
import time
from clusterjob import Campaign
began = time.perf_counter()
campaign = Campaign("kept", max_pending=1)
campaign._driver.queue
print(time.perf_counter() - began)
"""


def write_down_and_pick_up() -> None:
    """Measure a campaign of which one job at a time is submitted."""
    campaign = Campaign("kept", max_pending=1)
    job = JobScript("sleep 3600 # {{ n }}", "kept")
    with stopwatch() as watch:
        campaign.add(sweep(job, n=range(KEPT)))
    report(f"{KEPT} jobs: written down", watch[0], "s", "-")
    campaign.step()
    steps = []
    for _ in range(5):
        with stopwatch() as watch:
            campaign.step()
        steps.append(watch[0])
    report(f"{KEPT} jobs: the next step", 1000 * sorted(steps)[2], "ms", "< 100")
    # the seconds of a new process, without the import
    done = subprocess.run(
        [sys.executable, "-c", _PICK_UP], check=True, capture_output=True, text=True
    )
    report(f"{KEPT} jobs: picked up again", float(done.stdout), "s", "< 2")
    campaign.cancel()


def run_through() -> None:
    """Run tiny jobs, and compare what they cost at the beginning and at the end."""
    campaign = Campaign("tiny", max_pending=PENDING)
    job = JobScript("true # {{ n }}", "tiny")
    began = time.perf_counter()
    campaign.add(sweep(job, n=range(COUNT)))
    written = time.perf_counter() - began
    times = [(0, time.perf_counter())]
    while True:
        outcome = campaign.step()
        finished = sum(n for status, n in outcome.counts.items() if status.finished)
        times.append((finished, time.perf_counter()))
        if outcome.is_over:
            break
        time.sleep(0.2)
    assert outcome.is_complete, outcome
    total = time.perf_counter() - began
    quarter = COUNT // 4
    first = _cost(times, quarter // 4, quarter)
    last = _cost(times, COUNT - quarter, COUNT - quarter // 4)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report(f"{COUNT} jobs: written down", written, "s", "-")
    report(f"{COUNT} jobs: run through", total, "s", "GC3Pie: 560 s for 16,000")
    report(f"{COUNT} jobs: rate", COUNT / total, "jobs/s", "-")
    report(f"{COUNT} jobs: memory of the process", memory, "MB", "< 500")
    report(
        f"{COUNT} jobs: cost at the end / at the start", last / first, "x", "< 1.2"
    )


def _cost(times: list[tuple[int, float]], low: int, high: int) -> float:
    """Return the seconds a job between two counts of finished ones."""
    begin = next(item for item in times if item[0] >= low)
    end = next(item for item in times if item[0] >= high)
    return (end[1] - begin[1]) / max(1, end[0] - begin[0])


with workplace():
    write_down_and_pick_up()
with workplace():
    run_through()
