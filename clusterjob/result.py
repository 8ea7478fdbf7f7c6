"""The live handle on a job, and waiting for many of them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clusterjob import logs
from clusterjob.ending import finish, settled, want
from clusterjob.errors import (
    ClusterJobError,
    CommandError,
    JobFailedError,
    LoginError,
    SettingsError,
    StoreError,
    SubmissionError,
    TransportError,
    WaitTimeoutError,
)
from clusterjob.fetch import Order, RemoteFile, fetch, list_files
from clusterjob.monitor import Monitor, monitor_at, monitor_for
from clusterjob.staging import Files, check_outputs
from clusterjob.status import Reason, Status
from clusterjob.store import Record, Store, Task, open_store
from clusterjob.submission import refusal, resume, submit_records

_log = logging.getLogger(__name__)
_LOOK = 1.0  # s between two looks at a log that is followed


class AsyncResult:
    """What became of a job.

    Handles are cheap: they share the record, and the poller of their cluster, with all others.

    The interface is that of :class:`multiprocessing.pool.AsyncResult`, and more.
    """

    def __init__(self, record: Record, store: Store, monitor: Monitor | None = None) -> None:
        self.store = store
        self._monitor = monitor
        self.record = record if monitor is None else monitor.track(record)

    @property
    def monitor(self) -> Monitor:
        """The poller of the job's cluster; a job that is only looked at needs neither it nor a
        backend.
        """
        if self._monitor is None:
            known = monitor_at(
                self.store, self.record.place
            )  # without reading the spec, which is large
            self._monitor = known or monitor_for(self.store, self.record.spec["backend"], resume)
            self.record = self._monitor.track(self.record)
        return self._monitor

    # -- state -------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """The state of the job, as new as the cluster may be asked; asking it raises nothing (see
        :attr:`stale_since`).
        """
        self._refresh()
        return self.record.status

    @property
    def reason(self) -> Reason | None:
        """What went wrong, where the job was cancelled or failed."""
        self._refresh()
        return self.record.task.reason

    @property
    def exit_code(self) -> int | None:
        """The exit code of the body; None while it runs, or where a signal ended it."""
        self._refresh()
        return self.record.task.exit_code

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the body."""
        self._refresh()
        return self.record.task.signal

    @property
    def words(self) -> str:
        """The scheduler's own words for the state."""
        return self.record.task.words

    @property
    def job_id(self) -> str | None:
        """The scheduler's id, with the cluster's name where there is one (``12;gpu``); None until
        the scheduler took the job.
        """
        if self.record.job_id is None:
            return None
        return (
            f"{self.record.job_id};{self.record.cluster}"
            if self.record.cluster
            else self.record.job_id
        )

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def history(self) -> list[tuple[float, str, str]]:
        """Every change of state that was seen: time (s since the epoch), state, the scheduler's
        words.
        """
        self._refresh()
        return [(when, state, words) for when, state, words in self.record.task.history]

    @property
    def usage(self) -> dict[str, float]:
        """What the job used, as far as is known: ``elapsed`` and ``cpu`` in s, ``max_rss`` in MB
        (the largest of an array).
        """
        self._refresh()
        task = self.record.task
        if task.status.finished and "max_rss" not in task.usage and self.record.job_id:
            self.monitor.account(self.record)
        return dict(self.record.task.usage)

    @property
    def tasks(self) -> dict[int, Task] | None:
        """The elements of an array, by index; None for any other job."""
        self._refresh()
        return None if self.record.tasks is None else dict(self.record.tasks)

    @property
    def stale_since(self) -> float | None:
        """Since when (s since the epoch) the cluster did not answer; None where the state is as new
        as it may be.
        """
        return None if self.record.finished or self._monitor is None else self._monitor.stale_since

    def ready(self) -> bool:
        """Return whether the job has ended, well or badly."""
        return self.status.finished

    def successful(self) -> bool:
        """Return whether the job completed.

        Raises AssertionError while it has not ended, as multiprocessing does.
        """
        if not self.ready():
            raise AssertionError(f"job {self.name!r} has not ended")
        return self.record.status == Status.COMPLETED

    def _refresh(self, force: bool = False) -> None:
        if not self.record.finished:
            self.monitor.refresh(force)
        if "due" in (self.record.epilogue, self.record.outputs) and self.record.finished:
            finish(self.monitor, self.record)

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, for ``timeout`` seconds at most; return whether it has."""
        return not wait([self], timeout)[1]

    def get(self, timeout: float | None = None) -> Status:
        """Wait for the end of the job, and for its outputs; return its state, which is COMPLETED.

        Raises :class:`WaitTimeoutError`, and :class:`JobFailedError` with cause, logs and job id
        for a job that did not complete.
        """
        if not self.wait(timeout):
            raise WaitTimeoutError(
                f"job {self.name!r} ({self.job_id}) has not ended after {timeout:g} s; it goes on"
            )
        if self.record.status != Status.COMPLETED or self.record.outputs not in ("", "done"):
            raise JobFailedError(self.explain(), self)
        return self.record.status

    def __await__(self) -> Generator[Any, None, AsyncResult]:
        """Wait without blocking the event loop; ``await result`` is the result itself."""
        return self._wait_async().__await__()

    async def _wait_async(self) -> AsyncResult:
        import asyncio

        while not (await asyncio.to_thread(self.ready) and settled(self.record)):
            await asyncio.sleep(max(0.01, self.monitor.wait_time()))
        return self

    # -- doing -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask the scheduler to end the job; one that has ended stays what it was.

        Raises :class:`CommandError`.
        """
        cancel([self])

    def resubmit(self) -> AsyncResult:
        """Submit the job again as it was, and return the new handle; the old record stays in the
        store.

        Raises :class:`SubmissionError` where the job has not ended or the scheduler refuses it.
        """
        if not self.ready():
            raise SubmissionError(
                f"job {self.name!r} ({self.job_id}) is {self.record.status}; cancel it first"
            )
        return submit_prepared(self.store, [self.record.renewed()], lambda old: old.finished)[0]

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a file of JSON, with the place of its store."""
        text = json.dumps(
            {
                "clusterjob": 1,
                "store": self.store.url,
                "record": json.loads(self.record.to_json()),
                "spec": self.record.spec,
            },
            indent=1,
        )
        target = Path(path)
        part = target.with_name(f"{target.name}.part{os.getpid()}")
        with open(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
        part.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AsyncResult:
        """Return the handle that :meth:`dump` wrote; where its store has the record still, the
        newer state counts.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            record = Record.from_json(json.dumps(data["record"]), json.dumps(data["spec"]))
            store = open_store(data["store"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a dumped result: {type(error).__name__}: {error}"
            ) from error
        return cls(store.by_tokens([record.token]).get(record.token, record), store)

    # -- logs and files ----------------------------------------------------------------------------

    def log_path(self, stream: str = "stdout", index: int | None = None) -> str:
        """Return the absolute path of the job's ``stdout`` or ``stderr`` on its host; ``index`` is
        that of an array's element.
        """
        own = not self.record.spec["resources"].get(
            stream
        )  # no backend is needed to say where it is
        return logs.log_path(None if own else self.monitor.scheduler, self.record, stream, index)

    def stdout(self, index: int | None = None) -> str:
        """Return what the job has written to its standard output so far; empty where there is no
        file yet.
        """
        return logs.read(self.monitor.scheduler, self.record, "stdout", index)

    def stderr(self, index: int | None = None) -> str:
        """Return what the job has written to its standard error so far; empty where there is no
        file yet.
        """
        return logs.read(self.monitor.scheduler, self.record, "stderr", index)

    def tail(
        self,
        lines: int | None = 10,
        follow: bool = False,
        stream: str = "stdout",
        index: int | None = None,
    ) -> Any:
        """Return the last lines of a log (None: all); with ``follow`` an iterator over these, and
        what is added until the job has ended.

        Following costs a command a second over the connection that there is; while the line is
        broken it waits.
        """
        if not follow:
            return logs.read(self.monitor.scheduler, self.record, stream, index, lines)
        if self.record.tasks is not None and index is None:
            raise SettingsError(
                f"job {self.name!r} is an array: say with index which of its logs to follow"
            )
        return self._follow(
            logs.Follower(self.monitor.scheduler, self.record, stream, index, lines)
        )

    def _follow(self, follower: logs.Follower) -> Iterator[str]:
        while True:
            ended = self.ready()
            try:
                yield from follower.look()
            except LoginError:
                raise
            except TransportError as error:
                _log.warning("%s", str(error).partition("\n")[0])
                ended = False
            if ended:
                return
            time.sleep(_LOOK)

    def files(self, *patterns: str) -> list[RemoteFile]:
        """List the job's files on its host, with paths in the workdir: those of the patterns, else
        its outputs, else all. One round trip.

        Raises :class:`CommandError`, :class:`SettingsError`.
        """
        wanted = check_outputs(
            patterns or [pattern for pattern, _ in self.record.fetches[0]] or ["**"]
        )
        order = Order(self.record.workdir, [(pattern, "") for pattern, _ in wanted], Path())
        found = list_files(self.monitor.scheduler.transport, [order])[0]
        return list({file.path: file for files in found for file in files}.values())

    def fetch(self, outputs: Files = (), into: str | os.PathLike[str] | None = None) -> list[Path]:
        """Fetch files now, whatever state the job is in, and return their local paths: its
        ``outputs``, unless others are named.

        They go where the outputs go when the job ends, or into the folder that is given. What is
        here already is not sent. Raises :class:`CommandError` for what cannot be fetched,
        :class:`SettingsError`.
        """
        named, place = self.record.fetches
        wanted = check_outputs(outputs) if outputs else named
        if not wanted:
            raise SettingsError(
                f"job {self.name!r} names no outputs: say which files to fetch, for example "
                "fetch(['*.dat'])"
            )
        order = Order(
            self.record.workdir,
            wanted,
            Path(place if into is None else into).expanduser().absolute(),
        )
        fetch(self.monitor.scheduler.transport, [order])
        if order.error or order.missing:
            raise CommandError(
                order.error or f"not found in {order.workdir}: {', '.join(order.missing)}"
            )
        if (
            self.record.outputs not in ("", "done")
            and not outputs
            and into is None
            and self.record.finished
        ):
            self.record.outputs = "done"
            self.store.write([self.record])
        return list(dict.fromkeys(order.paths))

    def explain(self) -> str:
        """Say in a few lines what became of the job: cause, code, job id, and the end of its logs."""
        return logs.explain(self.monitor.scheduler, self.record, self.job_id)

    def __repr__(self) -> str:
        task = self.record.task
        why = f" ({task.reason})" if task.reason else ""
        return f"<AsyncResult {self.name!r} {self.job_id or '-'} {task.status}{why}>"


def recover(store: Store) -> None:
    """Finish the submissions that processes which are gone left open, on any cluster; what cannot
    be done now is logged.

    Raises :class:`StoreError`.
    """
    places = {record.place: record.spec["backend"] for record in store.select(unsent=True)}
    for reference in places.values():
        try:
            monitor_for(store, reference, resume).finish_submissions()
        except StoreError:
            raise
        except ClusterJobError as error:
            _log.warning("open submissions could not be finished: %s", error)


def submit_prepared(store: Store, records: Sequence[Record], again: Any) -> list[AsyncResult]:
    """Submit records of any number of clusters and return a handle for each, in order.

    Raises :class:`SubmissionError` where jobs were refused, with the handles of the others in its
    ``results``.
    """
    groups: dict[str, list[int]] = {}
    identities: dict[int, str] = {}  # of references that many jobs share
    for position, record in enumerate(records):
        reference = record.spec["backend"]
        identity = identities.get(id(reference)) or identities.setdefault(
            id(reference), json.dumps(reference, sort_keys=True)
        )
        groups.setdefault(identity, []).append(position)
    results: list[AsyncResult | None] = [None] * len(records)
    errors = []
    for positions in groups.values():
        members = [records[position] for position in positions]
        monitor = monitor_for(store, members[0].spec["backend"], resume, latest=True)
        winners, refused = submit_records(store, monitor.scheduler, members, again)
        gone = {record.token for record, _ in refused}
        for position, winner in zip(positions, winners, strict=True):
            if winner.token not in gone:
                result = results[position] = AsyncResult(winner, store, monitor)
                if winner.token != records[position].token:
                    want(monitor, result.record, records[position])
        monitor.hurry()
        if refused:
            errors.append((monitor.scheduler, refused))
    if errors:
        accepted = [result for result in results if result is not None]
        raise refusal(errors[0][0], [item for _, refused in errors for item in refused], accepted)
    return [result for result in results if result is not None]


def cancel(results: Iterable[AsyncResult]) -> None:
    """Cancel jobs: one command a cluster. Ones that have ended stay what they were.

    Raises :class:`CommandError` where a cluster could not be asked, after all the others were.
    """
    groups: dict[int, tuple[Monitor, list[AsyncResult]]] = {}
    for result in results:
        groups.setdefault(id(result.monitor), (result.monitor, []))[1].append(result)
    failed: CommandError | None = None
    for monitor, members in groups.values():
        monitor.refresh(force=True)  # one that ended unseen is no job to cancel
        try:
            monitor.cancel([result.record for result in members])
        except CommandError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def wait(
    results: Iterable[AsyncResult], timeout: float | None = None
) -> tuple[list[AsyncResult], list[AsyncResult]]:
    """Wait until all jobs have ended, for ``timeout`` seconds at most; return the ones that have
    and the ones that have not.
    """
    everyone = list(results)
    deadline = None if timeout is None else time.monotonic() + timeout
    for _ in _rounds(everyone, deadline):
        pass
    return [result for result in everyone if settled(result.record)], [
        result for result in everyone if not settled(result.record)
    ]


def as_completed(
    results: Iterable[AsyncResult], timeout: float | None = None
) -> Iterator[AsyncResult]:
    """Yield each result when its job has ended.

    Raises :class:`WaitTimeoutError` after ``timeout`` seconds with jobs left.
    """
    everyone = list(dict.fromkeys(results))
    deadline = None if timeout is None else time.monotonic() + timeout
    left = everyone
    for ended in _rounds(everyone, deadline):
        yield from ended
        done = set(ended)
        left = [result for result in left if result not in done]
    if left:
        raise WaitTimeoutError(
            f"{len(left)} of {len(everyone)} jobs have not ended after {timeout:g} s; they go on"
        )


def _rounds(results: Sequence[AsyncResult], deadline: float | None) -> Iterator[list[AsyncResult]]:
    """Yield the results that have ended since the last round, until none is left or the deadline is
    past.
    """
    left = list(results)
    while left:
        for monitor in {id(result.monitor): result.monitor for result in left}.values():
            monitor.refresh()
        for result in left:
            if result.record.finished:
                result._refresh()
        ended = [result for result in left if settled(result.record)]
        if ended:
            left = [result for result in left if not settled(result.record)]
            yield ended
        if not left:
            return
        pause = min(
            max(result.monitor.wait_time(), 0.2 if result.record.finished else 0.0)
            for result in left
        )
        if deadline is not None:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            pause = min(pause, remaining)
        time.sleep(max(0.005, pause))
