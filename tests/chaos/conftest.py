"""What the chaos tests share: the live schedulers of the contract suite, and how long a storm
lasts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from clusterjob import Status, wait
from clusterjob.script import default_session
from tests.contract.conftest import Flavour, cluster, place  # noqa: F401  (fixtures)

LONG = bool(os.environ.get("CLUSTERJOB_CHAOS"))  # make chaos
# how jobs go to their scheduler
Way = Literal["array", "pack", "alone"]
WAYS: tuple[Way, ...] = ("array", "pack", "alone")
CHILD = Path(__file__).parent / "child.py"


def start(
    flavour: Flavour,
    name: str,
    count: int,
    step: str = "",
    prefix: Sequence[str] = (),
    way: Way = "array",
) -> subprocess.Popen[str]:
    """Start a process that submits ``count`` jobs; ``prefix`` is a command to start it with."""
    command = [
        *prefix,
        sys.executable,
        str(CHILD),
        str(flavour.profile),
        str(Path("ledger").absolute()),
        name,
        str(count),
        way,
        step,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(
    flavour: Flavour, name: str, count: int, step: str = "", way: Way = "array"
) -> int:
    """Let a process submit ``count`` jobs; return how it ended.

    One that is not killed must succeed.
    """
    process = start(flavour, name, count, step, way=way)
    out, err = process.communicate(timeout=120)
    assert step or process.returncode == 0, out + err
    return process.returncode


def everything_ran_once(wanted: int, seconds: float = 120) -> None:
    """Wait for all jobs of the store, and see that each ran once and completed."""
    results = default_session().results()
    assert len(results) == wanted
    _, left = wait(results, seconds)
    assert not left, [
        (result.explain(), result.words, result.record.phase, result.history)
        for result in left[:5]
    ]
    bad = [
        result.explain() + str(result.history)
        for result in results
        if result.status != Status.COMPLETED
    ]
    assert not bad, "\n".join(bad[:5])
    lines = sum(len(result.record.all_tasks()) for result in results)
    deadline = time.monotonic() + 5
    while (
        len(Path("ledger").read_text().split()) < lines
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    twice = {
        name: times
        for name, times in Counter(Path("ledger").read_text().split()).items()
        if times > 1
    }
    assert not twice
    assert len(Path("ledger").read_text().split()) == lines
