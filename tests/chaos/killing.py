"""Killing whole trees of processes, and the steps at which tests/chaos/child.py dies."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

POINTS = (
    "before-claim",
    "after-claim",
    "in-upload",
    "after-upload",
    "in-submit",
    "after-submit",
    "after-record",
)


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


def kill_behind_sshd(folder: Path) -> None:
    """Kill what works in a folder on behalf of sshd, from its login shell on, as a host that goes
    down does; jobs are not below sshd.
    """
    servers = {
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/comm")
        if _named_sshd(path)
    }
    shells = [pid for pid in below(servers, 1) if pid not in servers]
    for shell in [
        shell
        for shell in shells
        if any(_works_in(pid, folder) for pid in [shell, *descendants(shell)])
    ]:
        try_kill(shell, signal.SIGSTOP)
        kill_below(shell)
        try_kill(shell, signal.SIGKILL)


def _named_sshd(path: Path) -> bool:
    try:
        return path.read_text() == "sshd\n"
    except OSError:
        return False


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def try_kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(root: int) -> list[int]:
    return below({root})


def below(level: set[int], most: int = 1 << 30) -> list[int]:
    """Return the processes below some, ``most`` generations of them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    while level and most:
        level = {pid for pid, parent in parents.items() if parent in level}
        found += sorted(level)
        most -= 1
    return found
