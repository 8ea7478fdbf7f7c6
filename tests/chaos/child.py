"""A process that submits a batch, and is killed by itself at a step of the protocol that it is
told.

    child.py PROFILE LEDGER NAME COUNT TOGETHER [STEP]

Each job appends its name to LEDGER; the first is an array of two; with TOGETHER = yes the others go
as one array. STEP is a point in POINTS; with
``+all`` behind it the shell that talks to the scheduler dies too, as if the power went off;
without, it goes on, as a login node does when a laptop falls asleep. Prints ``ready`` when it is
about to submit, and the job ids when it gets to the end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusterjob import JobScript, submit
from clusterjob.engine import Scheduler, submission
from clusterjob.store import Store

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.chaos.killing import kill_behind_sshd, kill_below

everything = far = False
is_packed = False


def die() -> None:
    """End this process as SIGKILL does, and with ``+all`` all that it started, here and behind
    sshd.
    """
    if everything:
        if far:
            kill_behind_sshd(Path.cwd())
        kill_below(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def around(
    owner: Any,
    name: str,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    """Wrap a method."""
    method = getattr(owner, name)

    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        if before:
            before()
        result = method(self, *arguments, **named)
        if after:
            after()
        return result

    setattr(owner, name, wrapped)


def watch_receipts(count: int) -> None:
    """Die once a few receipts are written."""

    def watch() -> None:
        while True:
            written = sum(
                path.read_text().count("\n")
                for path in Path().glob(".clusterjob-runs/*/receipts")
                if path.stat().st_mtime > began
            )
            if written >= (1 if is_packed else max(1, count // 2)):
                die()
            time.sleep(0.001)

    began = time.time() - 0.1
    threading.Thread(target=watch, daemon=True).start()


def arrange(point: str, count: int, store: type[Store]) -> None:
    if point == "before-claim":
        around(store, "claim", before=die)
    elif point == "after-claim":
        around(store, "claim", after=die)
    elif point == "in-upload":
        from clusterjob.files import archive

        upload_module = sys.modules["clusterjob.files.uploading"]

        written = [0]

        def count_one() -> None:
            written[0] += 1
            # a pack has two files
            if written[0] > (1 if is_packed else count // 2):
                time.sleep(0.1)  # what was sent has arrived
                die()

        write, blocks = upload_module._write, archive.blocks_of

        def write_some(file: Any) -> None:
            count_one()
            write(file)

        def send_some(content: Any, offset: int = 0) -> Any:
            count_one()
            yield from blocks(content, offset)

        upload_module._write, archive.blocks_of, archive._FLUSH = (
            write_some,
            send_some,
            0,
        )
    elif point == "after-upload":
        sent = submission.upload
        submission.upload = lambda *files: (sent(*files), die())
    elif point == "in-submit":
        around(
            Scheduler,
            "submit",
            before=lambda: watch_receipts(count),
            after=lambda: time.sleep(30),
        )
    elif point == "after-submit":
        around(Scheduler, "submit", after=die)
    elif point == "after-record":
        around(store, "update", after=die)


def main() -> None:
    global everything, far, is_packed
    profile, ledger, name, count, way, *step = sys.argv[1:]
    is_packed = way == "pack"
    jobs = []
    for number in range(int(count)):
        job = JobScript(
            f"echo {name}-{number}$CLUSTERJOB_ARRAY_INDEX >> {ledger}",
            f"{name}-{number}",
        )
        job.read_settings(profile)
        if number == 0 and not is_packed:
            job.array = "1-2"
        jobs.append(job)
    if step and step[0]:
        point, _, rest = step[0].partition("+")
        everything, far = rest == "all", bool(jobs[0].remote)
        from clusterjob.script import default_session

        arrange(point, int(count), type(default_session().store))
    print("ready", flush=True)
    pack = 2 if is_packed else None
    results = submit(jobs, bundle=way != "alone", pack=pack)
    print(*(result.job_id for result in results))


main()
