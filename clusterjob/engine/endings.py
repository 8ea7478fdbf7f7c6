"""What happens once when a job has ended: its outputs come, then its epilogue runs.

Once also across crashes and processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from clusterjob.engine.local_scripts import run_epilogue
from clusterjob.engine.pace import BatchSize
from clusterjob.engine.poller import Poller
from clusterjob.errors import CommandError, TransportError
from clusterjob.files import Order, download
from clusterjob.status import Status
from clusterjob.store import ONCE_DONE, ONCE_DUE, Once, OnceState, Record
from clusterjob.transport import make_state_folder

_log = logging.getLogger(__name__)


class Endings:
    """The endings of one cluster's jobs."""

    def __init__(self, poller: Poller, batch_size: BatchSize) -> None:
        self._poller = poller
        self._batch_size = batch_size
        self._not_before = 0.0  # s since the epoch: the line was broken
        self._error = ""
        self._lock = threading.RLock()

    def finish(self, record: Record) -> None:
        """Do what is due after the end of a job.

        Its outputs come together with those of all others that have ended.
        """
        is_any_due = ONCE_DUE in (record.outputs, record.epilogue)
        if not record.finished or not is_any_due:
            return
        with self._lock:
            if (
                record.outputs is ONCE_DUE
                and self._poller.clock() >= self._not_before
            ):
                due = self._poller.jobs.select(_lacks_outputs)
                self._fetch_outputs([record, *due])
            if record.epilogue is ONCE_DUE and record.settled:
                run_epilogue(self._poller.store, record)

    def want_outputs(self, record: Record, later: Record) -> None:
        """Take over the outputs that a later submission of the same job names.

        What was computed once need not run again to be fetched. Outputs that did not come are tried
        again.
        """
        wanted = later.output_patterns
        if not wanted:
            return
        has_them = record.outputs.state in (OnceState.DUE, OnceState.DONE)
        if wanted == record.output_patterns and has_them:
            return

        def want(stored: Record) -> None:
            stored.wanted, stored.into = wanted, later.outputs_folder
            stored.outputs = ONCE_DUE

        with self._lock:
            self._poller.store.update([record], want)

    def _fetch_outputs(self, records: Sequence[Record]) -> None:
        """Fetch outputs; a line that is broken is tried again with the next polls."""
        records = list({record.token: record for record in records}.values())
        store = self._poller.store
        with _one_process_at_a_time(self._poller.jobs.cluster_id):
            store.refresh(records)  # another process may have been quicker
            due = [record for record in records if record.outputs is ONCE_DUE]
            due = due[: self._batch_size.most]
            if not due:
                return
            orders = self._download(due)
            if orders is None:
                return
            by_token = {
                record.token: order for record, order in zip(due, orders, strict=True)
            }
            store.update(due, lambda record: _note(record, by_token[record.token]))

    def _download(self, due: Sequence[Record]) -> list[Order] | None:
        """Fetch what is due; None where the line broke."""
        orders = [
            Order(record.workdir, record.output_patterns, Path(record.outputs_folder))
            for record in due
        ]
        try:
            download(self._poller.scheduler.transport, orders)
        except TransportError as error:
            self._batch_size.adapt(len(due), worked=False)
            pause = self._poller.scheduler.backend.limits.poll_interval
            self._not_before = self._poller.clock() + pause
            words = str(error).partition("\n")[0]
            if words != self._error:  # once, not with every poll
                _log.warning("outputs could not be fetched yet: %s", words)
            self._error = words
            return None
        except CommandError as error:
            for order in orders:
                order.error = order.error or str(error)
            return orders
        self._batch_size.adapt(len(due), worked=True)
        return orders


def _lacks_outputs(record: Record) -> bool:
    return record.finished and record.outputs is ONCE_DUE


def _note(record: Record, order: Order) -> bool:
    """Note what came of fetching, unless other outputs are wanted meanwhile."""
    wanted = (record.output_patterns, Path(record.outputs_folder))
    if (order.wanted, order.into) != wanted:
        return False
    record.outputs = _outcome(record, order)
    return True


def _outcome(record: Record, order: Order) -> Once:
    """Say what came of fetching; a job that did not complete may lack outputs."""
    if order.error:
        return Once.failed(order.error)
    if order.missing and record.status == Status.COMPLETED:
        return Once.failed(
            f"not found in {record.workdir}: {', '.join(order.missing)}"
        )
    return ONCE_DONE


@contextlib.contextmanager
def _one_process_at_a_time(cluster_id: str) -> Iterator[None]:
    """Let one process of this machine fetch from a cluster at a time."""
    try:
        path = make_state_folder() / f"{cluster_id}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # nowhere to lock: fetched twice at the worst
        yield
        return
    with os.fdopen(descriptor, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
