"""Lists of 100,000 records: time and memory of the commands that read them all."""

from __future__ import annotations

import subprocess
import sys
import time

from common import report, workplace

from clusterjob import JobScript, Status
from clusterjob.script import default_session
from clusterjob.store import Phase, Record

COUNT = 100_000
COMMANDS = (
    ["list"],
    ["list", "--json"],
    ["doctor"],
    ["prune", "--older-than", "1h", "--dry-run"],
    ["prune", "--older-than", "1h", "--dry-run", "--json"],
    ["status"],
)


def ended(first: Record, number: int) -> Record:
    """Return a record as a job leaves it that ran for four seconds, two hours ago."""
    record = first.renewed(f"batch{number // 1000}", first.spec)
    record.key = f"{number:08x}{first.key[8:]}"
    record.name, record.job_id = f"job{number}", str(number)
    record.phase, record.created = Phase.SUBMITTED, time.time() - 7200
    task = record.task
    task.status = Status.COMPLETED
    task.started, task.ended = record.created + 1, record.created + 5
    task.words, task.usage = "COMPLETED", {"elapsed": 4.0, "cpu": 3.1}
    task.exit_code = 0
    task.note_event(record.created, "PENDING", f"submitted as {number}")
    task.note_event(record.created + 1, "RUNNING", "RUNNING")
    task.note_event(record.created + 5, "COMPLETED", "COMPLETED")
    return record


def peak_of(pid: int) -> int:
    """Return the most memory (MB) that a process takes until it ends."""
    most = 0
    while True:
        try:
            with open(f"/proc/{pid}/status") as status:
                words = [line.split() for line in status if line.startswith("VmHWM")]
        except OSError:
            return most
        if not words:  # it has ended
            return most
        most = max(most, int(words[0][1]) // 1024)
        time.sleep(0.01)


with workplace():
    session = default_session()
    job = JobScript("./run --T 1", "job", time="1h", mem="2G")
    first = job.prepare(session.engine)
    for start in range(0, COUNT, 5000):
        made = [ended(first, number) for number in range(start, start + 5000)]
        session.store.claim(made, lambda old, new: False)
    session.close()
    for words in COMMANDS:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "clusterjob", *words], stdout=subprocess.DEVNULL
        )
        peak = peak_of(process.pid)
        process.wait()
        took = time.perf_counter() - began
        name = " ".join(words)
        report(f"{name}, {COUNT:,} records", took, "s", "<= 1.5")
        report("... its memory", peak, "MB", "<= 100")
