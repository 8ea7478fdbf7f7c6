"""Killing whole trees of processes, and the steps at which tests/chaos/child.py dies."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

POINTS = ("before-claim", "after-claim", "in-upload", "after-upload", "in-submit", "after-submit", "after-record")


def kill_below(root: int) -> None:
    """Kill all processes below one; they are stopped first, so that none gets away."""
    members: list[int] = []
    while True:
        found = [pid for pid in descendants(root) if pid not in members]
        if not found:
            break
        for pid in found:
            try_kill(pid, signal.SIGSTOP)
        members += found
    for pid in members:
        try_kill(pid, signal.SIGKILL)


def try_kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    below, level = [], {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        below += sorted(level)
    return below
