"""100,000 records: opening the store and listing the failed ones; and the memory of a process that
holds 10,000 handles.
"""

from __future__ import annotations

import subprocess
import sys
import time

from common import report, stopwatch, workplace

from clusterjob import JobScript
from clusterjob.script import default_session
from clusterjob.status import Reason, Status
from clusterjob.store import Event, Phase, Record, Task, open_store

COUNT, HANDLES = 100_000, 10_000
LIST = """
import time; began = time.perf_counter()
import sys
from clusterjob.store import open_store
from clusterjob.status import Status
failed = open_store(sys.argv[1]).select(statuses=[Status.FAILED])
print(len(failed), time.perf_counter() - began)
"""
HOLD = """
import re, sys
from clusterjob import Session
handles = Session(sys.argv[1]).results("held")
states = {handle.record.status for handle in handles}
for handle in handles:
    handle.cluster
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(len(handles), int(peak) / 1024)
"""


def fill(url: str, count: int) -> None:
    """Put in the records of a person who has submitted much: one in a hundred failed, and ten
    thousand jobs run.
    """
    spec = JobScript(
        "./simulate --T {{ T }} > out.dat\n" * 5, "job", params={"T": 1}
    ).prepare(default_session().engine)
    store = open_store(url)
    records = []
    for number in range(count):
        live = number < HANDLES
        state = (
            Status.RUNNING
            if live
            else Status.FAILED
            if number % 100 == 0
            else Status.COMPLETED
        )
        task = Task(
            state,
            Reason.EXIT if state == Status.FAILED else None,
            1 if state == Status.FAILED else None,
            usage={"elapsed": 10.0, "cpu": 9.5},
        )
        task.history = [
            Event(1.7e9 + number, "PENDING", "submitted"),
            Event(1.7e9 + number + 1, state.name, "COMPLETED"),
        ]
        name = "held" if live else f"job{number}"
        records.append(
            Record(
                f"{number:064x}",
                f"{number:016x}",
                name,
                "local",
                spec.workdir,
                spec.folder,
                phase=Phase.SUBMITTED,
                job_id=str(number),
                spec_json=spec.spec_json,
                created=1.7e9 + number,
                cluster_id=spec.cluster_id,
                task=task,
            )
        )
    for start in range(0, count, 20_000):
        store.import_records(records[start : start + 20_000])
    store.close()


def printed_by(*arguments: str) -> str:
    """Return what a new Python process prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


with workplace() as folder:
    for url, count, target in (
        (f"sqlite:///{folder}/store.sqlite", COUNT, "< 1"),
        (f"file://{folder}/files", COUNT // 50, "-"),
    ):
        with stopwatch() as watch:
            fill(url, count)
        kind = url.partition(":")[0]
        report(f"{kind}: {count} records put in", watch[0], "s", "-")
        listed = printed_by("-c", LIST, url).split()
        report(
            f"{kind}: a fresh process lists the {listed[0]} failed of {count}",
            float(listed[1]),
            "s",
            target,
        )
    began = time.perf_counter()
    store = f"sqlite:///{folder}/store.sqlite"
    command = ["-m", "clusterjob", "--store", store, "list", "--state", "failed"]
    lines = printed_by(*command).count("\n")
    report(
        f"the command line lists them ({lines} lines)",
        time.perf_counter() - began,
        "s",
        "-",
    )
    held = printed_by("-c", HOLD, store).split()
    report(
        f"memory of a process that holds {held[0]} handles",
        float(held[1]),
        "MB",
        "< 150",
    )
