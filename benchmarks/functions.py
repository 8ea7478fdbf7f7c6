"""Calls of Python functions against the standard library's pool of processes, submitit's
`map_array` and dask-jobqueue, in the same run; and what a large array and a far line cost.
`make lab` first; the parts on Slurm and over SSH need root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from common import report, stopwatch, workplace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from clusterjob import ClusterExecutor  # noqa: E402
from clusterjob.session import close_default_sessions  # noqa: E402
from tests.lines import far_line  # noqa: E402

PEER = ROOT / ".venv/peers/bin/python"
LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)
SLOTS = 8
DELAY = 0.025  # s each way
SLURM = (
    "[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.2\npoll_interval = 2\n"
)
_SUBMITIT = """
import json, sys, time
import submitit
executor = submitit.AutoExecutor(folder="submitit", cluster="slurm")
executor.update_parameters(slurm_mem="100", slurm_array_parallelism=8, timeout_min=5)
began = time.perf_counter()
jobs = executor.map_array(abs, range(int(sys.argv[1])))
assert [job.result() for job in jobs] == list(range(int(sys.argv[1])))
print(json.dumps(time.perf_counter() - began))
"""
_DASK = """
import json, sys, time
from dask.distributed import Client
from dask_jobqueue import SLURMCluster
began = time.perf_counter()
cluster = SLURMCluster(cores=1, processes=1, memory="300MB", walltime="00:10:00", interface="lo")
cluster.scale(jobs=8)
client = Client(cluster)
found = client.gather(client.map(abs, range(int(sys.argv[1]))))
assert found == list(range(int(sys.argv[1])))
print(json.dumps(time.perf_counter() - began))
client.close()
cluster.close()
"""
# in a process of its own, whose memory is that of a user's
_LARGE = """
import functools, json, resource, sys
import numpy as np
from clusterjob import ClusterExecutor

def read(array, row):
    return float(array[row, 0])

array = np.arange(25_000_000, dtype=float).reshape(1000, -1)
with ClusterExecutor(max_workers=2, cache=False) as executor:
    if sys.argv[1] == "bound":
        found = executor.map(functools.partial(read, array), range(1000))
    else:
        found = executor.map(read, [array] * 1000, range(1000))
    assert list(found) == [row * 25_000.0 for row in range(1000)]
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / array.nbytes))
"""


def one_millisecond(number: int) -> int:
    """Take a millisecond, without sleeping."""
    began = time.perf_counter()
    while time.perf_counter() - began < 0.001:
        pass
    return number


def against_the_library() -> None:
    """10,000 calls of a millisecond on this machine."""
    count = 10_000
    for chunksize in (1, 10, 100):
        with stopwatch() as there, ProcessPoolExecutor(2) as pool:
            list(pool.map(one_millisecond, range(count), chunksize=chunksize))
        with (
            stopwatch() as here,
            ClusterExecutor(max_workers=2, cache=False) as executor,
        ):
            list(executor.map(one_millisecond, range(count), chunksize=chunksize))
        limit = 1.3 * there[0] + 1
        what = f"10,000 calls of 1 ms, {chunksize} a chunk (pool of processes {there[0]:.2f} s)"
        report(what, here[0], "s", f"< {limit:.2f}")
    with stopwatch() as here, ClusterExecutor(max_workers=2) as executor:
        list(executor.map(one_millisecond, range(count)))
    report("10,000 calls of 1 ms, as they come, remembered", here[0], "s", "-")
    with stopwatch() as here, ClusterExecutor(max_workers=2) as executor:
        list(executor.map(one_millisecond, range(count)))
    report("... the same again", here[0], "s", "-")


def peer(program: str, count: int) -> float:
    """Return the seconds that another package takes."""
    done = subprocess.run(
        [PEER, "-c", program, str(count)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout.splitlines()[-1]))


def on_slurm() -> None:
    """Trivial calls, on eight slots."""
    Path("slurm.ini").write_text(SLURM)
    settings = {"max_workers": SLOTS, "mem": 100, "cache": False}
    for count, name, program in (
        (200, "submitit's map_array", _SUBMITIT),
        (10_000, "dask-jobqueue", _DASK),
    ):
        there = peer(program, count)
        with (
            stopwatch() as here,
            ClusterExecutor("slurm.ini", **settings) as executor,
        ):
            assert list(executor.map(abs, range(count))) == list(range(count))
        limit = there / 5 if count == 200 else there
        what = f"{count:,} trivial calls on Slurm ({name} {there:.2f} s)"
        report(what, here[0], "s", f"< {limit:.2f}")
    with ClusterExecutor("slurm.ini", **settings) as executor:
        list(executor.map(abs, range(SLOTS)))
        times = []
        for number in range(20):
            with stopwatch() as watch:
                executor.submit(abs, number).result()
            times.append(watch[0])
        report("one call, workers there: the longest of 20", max(times), "s", "< 0.3")


def large_array() -> None:
    """1,000 calls that share 200 MB."""
    for how in ("bound", "given"):
        done = subprocess.run(
            [sys.executable, "-c", _LARGE, how], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        times = float(json.loads(done.stdout.splitlines()[-1]))
        what = f"1,000 calls share 200 MB ({how}): peak memory / array"
        report(what, times, "times", "< 3")


def over_a_far_line() -> None:
    """Round trips of 50 ms: as many for 10,000 calls as for 100."""
    trips = {}
    with far_line(LAB, "slurm", Path.cwd(), "--delay", DELAY) as config:
        for count in (100, 1_000, 10_000):
            Path("far.ini").write_text(
                SLURM.replace(
                    "backend = slurm\n",
                    f"backend = slurm\nremote = far\nssh_config = {config}\n"
                    "rootdir = ~/clusterjob-bench\n",
                )
            )
            with (
                stopwatch() as watch,
                ClusterExecutor(
                    "far.ini", max_workers=4, mem=100, cache=False
                ) as executor,
            ):
                assert list(executor.map(abs, range(count))) == list(range(count))
                transport = executor._dispatch.stations[0].site.transport
                trips[count] = transport.trips
            report(f"{count:,} calls at 50 ms: round trips", trips[count], "", "-")
            report(f"{count:,} calls at 50 ms", watch[0], "s", "-")
            close_default_sessions()


def main() -> None:
    parts = [against_the_library, large_array]
    if os.geteuid() == 0:
        parts += [on_slurm, over_a_far_line]
    wanted = sys.argv[1:]
    with workplace():
        for part in parts:
            if not wanted or part.__name__ in wanted:
                part()


if __name__ == "__main__":
    main()
