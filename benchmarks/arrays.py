"""1,000 jobs as an array on the lab's Slurm: single jobs that go as one, an array with rows of
parameters, and submitit's `map_array` (1.5, in .venv/peers), in the same run; and one array of
10,000 elements. `make lab` first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from common import held_jobs, report, stopwatch, workplace

from clusterjob import JobScript, submit

COUNT = 1000
ROUNDS = 5
ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv/peers/bin/python"
LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)
_SUBMITIT = """
import sys, time
import submitit
executor = submitit.AutoExecutor(folder="submitit", cluster="slurm")
executor.update_parameters(
    slurm_mem="10", slurm_array_parallelism=1000, slurm_additional_parameters={"hold": True}
)
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    jobs = executor.map_array(abs, range(int(sys.argv[1])))
    print(time.perf_counter() - began, jobs[0].job_id.partition("_")[0], flush=True)
    time.sleep(1)
"""

# in a process of its own, whose memory is that of a user's
_LARGE = """
import resource, time
from pathlib import Path
from clusterjob import JobScript
Path("large.ini").write_text("[Attributes]\\nbackend = slurm\\n[Limits]\\narray_size = 10000\\n")
began = time.perf_counter()
script = JobScript('echo "$n"', "large", mem=10, hold=True)
script.read_settings("large.ini")
array = script.submit_array([{"n": n} for n in range(10_000)])
print(time.perf_counter() - began)
array.refresh()
began = time.perf_counter()
array.refresh(force=True)
print(time.perf_counter() - began)
assert len(array.tasks) == 10_000
array.cancel()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def median(values: list[float]) -> float:
    """Return the one in the middle."""
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Report the medians."""
    os.environ["SLURM_CONF"] = str(LAB / "slurm" / "slurm.conf")
    singles, arrays = [], []
    for number in range(ROUNDS):
        jobs = held_jobs(f"single {os.getpid()} {number}", COUNT)
        with stopwatch() as watch:
            results = submit(jobs)
        singles.append(watch[0])
        results.cancel()
        script = JobScript(
            f'echo "$n" # {number}', "rows", backend="slurm", mem=10, hold=True
        )
        with stopwatch() as watch:
            array = script.submit_array([{"n": n} for n in range(COUNT)])
        arrays.append(watch[0])
        array.cancel()
        time.sleep(2)
    command = [str(PEER), "-c", _SUBMITIT, str(COUNT), str(ROUNDS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    subprocess.run(["scancel", *(job for _, job in lines)], check=True)
    theirs = median([float(seconds) for seconds, _ in lines])
    report("submitit map_array of 1,000", 1000 * theirs, "ms", "-")
    # each of the single jobs has a record of its own, on disk before it is submitted
    kinds = (("submit_array", arrays, ">= 1"), ("1,000 single jobs", singles, "-"))
    for name, values, target in kinds:
        ours = median(values)
        report(name, 1000 * ours, "ms", "-")
        report(f"{name}: submitit's time / ours", theirs / ours, "x", target)


def large() -> None:
    """Report what an array of 10,000 elements costs: submitted, asked about, and in memory."""
    command = [sys.executable, "-c", _LARGE]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    submitted, asked, memory = map(float, done.stdout.split())
    report("an array of 10,000 elements: submitted", submitted, "s", "< 3")
    report("an array of 10,000 elements: one poll", asked, "s", "< 1")
    report(
        "an array of 10,000 elements: memory of the process", memory, "MB", "< 200"
    )


with workplace():
    main()
    large()
