"""Who is submitting a job, and whether it still does.

A record that is being submitted names its owner, a process. The owner's lease runs from
``record.leased``, and is prolonged by a heartbeat in the store while the submission goes on: a slow
owner keeps it, a dead one loses it. On the owner's own machine a dead process is known at once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from clusterjob.errors import StoreError
from clusterjob.store import Note, Phase, Record, Store

BEAT = 15.0  # s between heartbeats
# s without a heartbeat after which an owner on another machine counts as dead: more than clocks may
# differ
LEASE = 120.0
_PREFIX = "beat:"
# Tokens that this process is submitting at this moment, in whatever session: a lease names a
# process, so it is the process that knows.
_submitting: set[str] = set()


def process_name() -> str:
    """Name this process so that no other, on any machine, is taken for it.

    The form is ``host:pid:start:machine``.
    """
    return _process_name(os.getpid())


@functools.lru_cache(maxsize=1)
def _process_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}:{_start_time(pid)}:{_machine()}"


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since the boot; empty where there is no /proc.

    Raises ProcessLookupError.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        if os.path.isdir("/proc/self"):
            raise ProcessLookupError(pid) from None
        return ""
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return fields[19]


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """Name this machine, since its boot, and the name space that process ids mean something in."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        )
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _is_dead(name: str) -> bool:
    """Whether an owner is known to have ended: only one of this machine can be."""
    parts = name.rsplit(":", 3)
    if len(parts) != 4 or parts[3] != _machine():
        return False
    try:
        os.kill(int(parts[1]), 0)
        return bool(parts[2]) and _start_time(int(parts[1])) != parts[2]
    except (ProcessLookupError, ValueError):
        return True
    except PermissionError:
        return False


def is_abandoned(record: Record, beats: Mapping[str, Note], now: float) -> bool:
    """Whether an open submission is free to be finished by somebody else.

    ``beats`` are those of :func:`heartbeats`, ``now`` is in s since the epoch.
    """
    if record.is_held:
        return False
    if record.phase in (Phase.DEFERRED, Phase.HELD):
        return (record.retry_at or 0.0) <= now
    if record.phase is not Phase.SUBMITTING or record.finished:
        return False
    if record.owner == process_name():
        return record.token not in _submitting
    beat = beats.get(record.owner)
    last_sign = max(record.leased, beat.at if beat else 0.0)
    return is_gone(record.owner, last_sign, now)


def is_gone(owner: str, last_sign: float, now: float) -> bool:
    """Whether a process is not there any more, as far as can be told from here.

    ``last_sign`` is when it was last heard of, in s since the epoch.
    """
    return not owner or _is_dead(owner) or now - last_sign > LEASE


def heartbeats(store: Store) -> dict[str, Note]:
    """Return the last heartbeat of each owner."""
    return {
        name.removeprefix(_PREFIX): note
        for name, note in store.notes(_PREFIX).items()
    }


class Lease:
    """While it is entered, this process is submitting ``records``."""

    def __init__(self, store: Store, records: Sequence[Record]) -> None:
        self._store = store
        self._tokens = {record.token for record in records}
        self._done = threading.Event()
        self._beating = threading.Lock()
        self._has_beaten = False

    def __enter__(self) -> Lease:
        _submitting.update(self._tokens)
        threading.Thread(
            target=self._beat, daemon=True, name="clusterjob-lease"
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _submitting.difference_update(self._tokens)
        self._done.set()
        with self._beating:  # a beat that is being written comes before its end
            if self._has_beaten and not _submitting:
                with contextlib.suppress(StoreError):
                    self._store.note(_PREFIX + process_name(), None)

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            with self._beating:
                if self._done.is_set():
                    return
                # the next one may get through; the lease is longer than several
                with contextlib.suppress(StoreError):
                    self._store.note(_PREFIX + process_name(), Note(time.time()))
                    self._has_beaten = True
