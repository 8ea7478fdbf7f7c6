"""The embedded scheduler: many short jobs, beside GNU parallel over the same scripts in the same
run.

Printed are: seconds to submit a thousand jobs; how long they took, as a ratio to ``parallel -j2``;
what a job costs with ten thousand waiting behind it, as a ratio to that with a hundred; and what
the wrapper around a body costs, in ms a job.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

from common import report

from clusterjob import JobScript, submit

JOBS = 1000
CORES = 2


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="clusterjob-bench-") as folder:
        os.chdir(folder)
        os.environ["CLUSTERJOB_SPOOL_CORES"] = str(CORES)
        scripts = many_jobs()
        beside_parallel(scripts)
        with_many_waiting()
        wrapper(scripts)
        os.chdir("/")


def queue(name: str) -> str:
    """Use a queue of its own; return its file."""
    folder = Path(name).absolute()
    os.environ["CLUSTERJOB_SPOOL"] = str(folder)
    return str(folder / "spool.sqlite")


def until_done(path: str, left: int = 0) -> None:
    """Wait until no more than so many jobs have not ended."""
    while True:
        database = sqlite3.connect(path)
        query = "SELECT count(*) FROM tasks WHERE state IN ('PENDING', 'RUNNING')"
        waiting = database.execute(query).fetchone()[0]
        database.close()
        if waiting <= left:
            return
        time.sleep(0.02)


took = 0.0


def many_jobs() -> list[str]:
    global took
    path = queue("queue")
    began = time.perf_counter()
    results = submit(JobScript("true", f"job-{number}") for number in range(JOBS))
    submitted = time.perf_counter()
    report(f"{JOBS} jobs submitted", submitted - began, "s", "< 1")
    until_done(path)
    took = time.perf_counter() - began
    report("... and ended, a second", JOBS / took, "jobs", "-")
    folder = Path(results[0].record.folder)
    for record in folder.glob("*.exit"):
        record.unlink()
    return sorted(str(path) for path in folder.glob("*.sh"))


def beside_parallel(scripts: list[str]) -> None:
    if shutil.which("parallel") is None:
        report("... over parallel -j2 (GNU parallel is not installed)", 0.0, "x", "-")
        return
    Path("list").write_text("\n".join(scripts) + "\n")
    began = time.perf_counter()
    subprocess.run(
        f"parallel -j{CORES} sh < list > out 2>&1",
        shell=True,
        check=True,
        env={**os.environ, "SPOOL_JOB_ID": "1"},
    )
    peer = time.perf_counter() - began
    report("... submission and all, over parallel -j2", took / peer, "x", "<= 1.5")


def with_many_waiting() -> None:
    costs = []
    for waiting in (100, 10_000):
        path = queue(f"queue-{waiting}")
        go = Path(f"go-{waiting}").absolute()
        block = f"until [ -e '{go}' ]; do sleep 0.1; done"
        submit(JobScript(block, f"block-{waiting}-{core}") for core in range(CORES))
        submit(
            JobScript("true", f"waiting-{waiting}-{number}")
            for number in range(waiting + 300)
        )
        go.touch()
        until_done(path, waiting + 200)
        began = time.perf_counter()
        until_done(path, waiting)
        costs.append((time.perf_counter() - began) / 200)
        stop(path)
    report("a job, with 100 waiting", costs[0] * 1000, "ms", "-")
    report("... with 10,000 waiting, over that", costs[1] / costs[0], "x", "<= 1.2")


def stop(path: str) -> None:
    """Take what waits out of a queue."""
    database = sqlite3.connect(path, timeout=60)
    database.execute("DELETE FROM tasks WHERE state = 'PENDING'")
    database.commit()
    database.close()
    until_done(path)


def wrapper(scripts: list[str]) -> None:
    Path("body.sh").write_text("#!/bin/bash\ntrue\n")
    bodies, wrapped = (
        ["/bin/bash body.sh"] * 300,
        [f"sh {path}" for path in scripts[:300]],
    )
    costs = []
    for commands in (bodies, wrapped):
        for script in scripts[:300]:
            Path(script).with_suffix(".exit").unlink(missing_ok=True)
        text = "\n".join(f"{command} >/dev/null 2>&1" for command in commands)
        started = f"{int(time.time())} env"
        began = time.perf_counter()
        subprocess.run(
            ["sh", "-c", text],
            check=True,
            env={**os.environ, "SPOOL_JOB_ID": "1", "SPOOL_STARTED": started},
        )
        costs.append((time.perf_counter() - began) / 300)
    report("the wrapper around a body", (costs[1] - costs[0]) * 1000, "ms", "<= 4")


if __name__ == "__main__":
    main()
