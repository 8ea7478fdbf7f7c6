"""What happens once when a job has ended: its outputs come, then its epilogue runs; once also
across crashes and processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from clusterjob.errors import CommandError, SubmissionError, TransportError
from clusterjob.fetch import Order, fetch
from clusterjob.monitor import Monitor
from clusterjob.status import Status
from clusterjob.store import Record
from clusterjob.submission import run_local
from clusterjob.transport.hosts import make_folder

_log = logging.getLogger(__name__)


def settled(record: Record) -> bool:
    """Whether a job has ended, and its outputs have come or cannot."""
    return record.finished and record.outputs != "due"


def finish(monitor: Monitor, record: Record) -> None:
    """Do what is due after the end of a job, for its outputs together with all others that have
    ended.
    """
    if record.outputs == "due" and record.finished and monitor.clock() >= monitor.fetch_at:
        bring(
            monitor,
            [
                item
                for item in [record, *monitor.records.values()]
                if item.finished and item.outputs == "due"
            ],
        )
    if record.epilogue == "due" and settled(record):
        run_epilogue(monitor, record)


def want(monitor: Monitor, record: Record, later: Record) -> None:
    """Take over the outputs that a later submission of the same job names: what was computed once
    need not run again to be fetched.

    Outputs that did not come are tried again.
    """
    wanted, into = later.fetches
    if wanted and (wanted != record.fetches[0] or record.outputs not in ("due", "done")):
        record.wanted, record.into, record.outputs = wanted, into, "due"
        monitor.store.write([record])


def bring(monitor: Monitor, records: list[Record]) -> None:
    """Fetch the outputs of jobs that have ended; a line that is broken is tried again with the next
    polls.
    """
    records = list({record.token: record for record in records}.values())
    with _alone(monitor.place):
        stored = monitor.store.by_tokens(record.token for record in records)
        for record in records:  # another process may have been quicker
            record.outputs = (
                stored[record.token].outputs if record.token in stored else record.outputs
            )
        due = [record for record in records if record.outputs == "due"][: monitor.most]
        if not due:
            return
        orders = [
            Order(record.workdir, wanted, Path(into))
            for record in due
            for wanted, into in [record.fetches]
        ]
        try:
            fetch(monitor.scheduler.transport, orders)
            monitor.went_well(len(due), True)
        except TransportError as error:
            monitor.went_well(len(due), False)
            monitor.fetch_at = monitor.clock() + monitor.scheduler.backend.limits["poll_interval"]
            words = str(error).partition("\n")[0]
            if words != monitor.fetch_error:  # once, not with every poll
                _log.warning("outputs could not be fetched yet: %s", words)
            monitor.fetch_error = words
            return
        except CommandError as error:
            for order in orders:
                order.error = order.error or str(error)
        for record, order in zip(due, orders, strict=True):
            missing = order.missing if record.status == Status.COMPLETED else []
            record.outputs = order.error or (
                f"not found in {record.workdir}: {', '.join(missing)}" if missing else "done"
            )
        monitor.store.write(due)


@contextlib.contextmanager
def _alone(place: str) -> Iterator[None]:
    """Let one process of this machine fetch from a place at a time."""
    try:
        descriptor = os.open(make_folder() / f"{place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # nowhere to lock: fetched twice at the worst
        yield
        return
    with os.fdopen(descriptor, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_epilogue(monitor: Monitor, record: Record) -> None:
    """Run an epilogue unless somebody has begun it already; what goes wrong is kept in the record,
    and does not change the state.
    """
    if not monitor.store.begin(record, "epilogue"):
        record.epilogue = "started"
        return
    try:
        run_local(record, "epilogue")
        record.epilogue = "done"
    except SubmissionError as error:
        record.epilogue = str(error)
    monitor.store.write([record])
