"""The live handle on a job."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterator,
    Sequence,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterjob.attempts import Attempt, past_attempts, present_attempt
from clusterjob.dumped import read_dump, write_dump
from clusterjob.engine import Cluster, Engine, default_engines, new_batch
from clusterjob.errors import (
    CommandError,
    JobFailedError,
    LoginError,
    SettingsError,
    SubmissionError,
    TransportError,
    WaitTimeoutError,
)
from clusterjob.files import (
    Files,
    LogFollower,
    Order,
    RemoteFile,
    Stream,
    download,
    explain,
    list_files,
    log_path,
    parse_outputs,
    read_log,
    stream_log,
    summarize,
)
from clusterjob.job_rows import JobRow, task_columns
from clusterjob.plain_files import expand
from clusterjob.renewing import (
    cancelled_for,
    comes_from_afar,
    parent_keys,
    renew,
)
from clusterjob.status import Reason, Status
from clusterjob.store import (
    ONCE_DONE,
    Again,
    Event,
    OnceState,
    OutputPattern,
    Record,
    Store,
    Task,
)
from clusterjob.waiting import rounds

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger(__name__)
_LOOK = 1.0  # s between two looks at a log that is followed


class AsyncResult:
    """What became of a job.

    Handles are cheap: they share the record, and the questions to their cluster, with all others of
    their session. The interface is that of :class:`multiprocessing.pool.AsyncResult`, and more.
    """

    def __init__(self, record: Record, engine: Engine) -> None:
        self.engine = engine
        self.record = record
        self._cluster: Cluster | None = None
        #: whether the submission that returned this handle found the job submitted before
        self.reused = False

    def __eq__(self, other: object) -> bool:
        """Whether both stand for the same submission."""
        if not isinstance(other, AsyncResult):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, str]:
        return self.record.token, self.engine.store.url

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the record and the place of its store; it is read anew from there."""
        state = (self.store.url, self.record.to_json(), self.record.spec_json)
        return _unpickle, (*state, self.reused)

    def __copy__(self) -> AsyncResult:
        twin = AsyncResult(self.record, self.engine)
        twin.reused = self.reused
        return twin

    def __deepcopy__(self, memo: object) -> AsyncResult:
        return self.__copy__()

    @property
    def store(self) -> Store:
        """Where the record lives."""
        return self.engine.store

    @property
    def cluster(self) -> Cluster:
        """The job's cluster; a job that is only looked at needs neither it nor a backend."""
        if (
            self._cluster is None
            or self._cluster.jobs.cluster_id != self.record.cluster_id
        ):
            cluster = self.engine.cluster_of(self.record)
            self.record = cluster.track(self.record)
            self._cluster = cluster
        return self._cluster

    # -- state -------------------------------------------------------------------------------------

    def refresh(self, force: bool = False) -> None:
        """Ask the cluster, where that is due (or with ``force``), and do what an end asks for.

        That is to fetch outputs and to run the epilogue. A question that fails raises nothing.
        """
        if self.engine.owner:
            self.store.refresh([self.record])
            return
        if self.record.is_held:  # whoever drives the campaign may be another process
            self.store.refresh([self.record])
        if not self.record.finished:
            self.cluster.refresh(force)
        if self.record.finished and self._has_unfinished_ending():
            self.cluster.finish(self.record)

    def _has_unfinished_ending(self) -> bool:
        states = (self.record.epilogue.state, self.record.outputs.state)
        return OnceState.DUE in states

    @property
    def status(self) -> Status:
        """The state of the job, as new as the cluster may be asked.

        Asking it raises nothing (see :attr:`stale_since`).
        """
        self.refresh()
        return self.record.status

    @property
    def reason(self) -> Reason | None:
        """What went wrong, where the job was cancelled or failed."""
        self.refresh()
        return self.record.task.reason

    @property
    def exit_code(self) -> int | None:
        """The exit code of the body; None while it runs, or where a signal ended it."""
        self.refresh()
        return self.record.task.exit_code

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the body."""
        self.refresh()
        return self.record.task.signal

    @property
    def words(self) -> str:
        """The scheduler's own words for the state."""
        return self.record.task.words

    @property
    def job_id(self) -> str | None:
        """The scheduler's id; None until the scheduler took the job.

        Of a multi-cluster scheduler with the cluster's name: ``12;gpu``.
        """
        return self.record.full_job_id

    @property
    def name(self) -> str:
        """The job's name."""
        return self.record.name

    @property
    def key(self) -> str:
        """What makes two submissions the same: a hash of all that computes the result."""
        return self.record.key

    @property
    def params(self) -> dict[str, object]:
        """The parameters of the job, as plain values."""
        return dict(self.record.spec.params)

    @property
    def outputs_folder(self) -> Path:
        """The folder here that its outputs come into."""
        return Path(self.record.outputs_folder)

    @property
    def history(self) -> list[Event]:
        """Every change of state that was seen: time (s since the epoch), state, words."""
        self.refresh()
        return list(self.record.task.history)

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt of the job, the present one last; one, where it was not tried again."""
        self.refresh()
        now = present_attempt(
            self.record, self.log_path("stdout"), self.log_path("stderr")
        )
        return [*past_attempts(self.record), now]

    @property
    def usage(self) -> dict[str, float]:
        """What the job used, as far as is known.

        ``elapsed`` and ``cpu`` in s, ``max_rss`` in MB (the largest of an array).
        """
        self.refresh()
        task = self.record.task
        if (
            task.status.finished
            and "max_rss" not in task.usage
            and self.record.job_id
            and not self.engine.owner
        ):
            self.cluster.complete_usage(self.record)
        return dict(self.record.task.usage)

    @property
    def tasks(self) -> dict[int, Task] | None:
        """The elements of an array, by index; None for any other job."""
        self.refresh()
        return None if self.record.tasks is None else dict(self.record.tasks)

    @property
    def stale_since(self) -> float | None:
        """Since when (s since the epoch) the cluster did not answer.

        None where the state is as new as it may be.
        """
        if self.record.finished or self._cluster is None:
            return None
        return self._cluster.poller.stale_since

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

    def row(self) -> JobRow:
        """Return what is known of the job as plain values; no cluster is asked."""
        record, task = self.record, self.record.task
        return JobRow(
            name=record.name,
            job_id=self.job_id,
            key=record.key,
            backend=record.backend,
            host=record.host,
            workdir=record.workdir,
            submitted=record.created,
            campaign=record.campaign,
            tags=",".join(record.spec.tags),
            **task_columns(task),
            stdout=self.log_path("stdout"),
            stderr=self.log_path("stderr"),
        )

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, for ``timeout`` seconds at most; return whether it has."""
        for _ in rounds([self], timeout):
            pass
        return self.record.settled

    def get(self, timeout: float | None = None) -> Status:
        """Wait for the end of the job, and for its outputs; return its state, which is COMPLETED.

        Raises :class:`WaitTimeoutError`, and :class:`JobFailedError` with cause, logs and job id
        for a job that did not complete.
        """
        if not self.wait(timeout):
            raise WaitTimeoutError(
                f"job {self.name!r} ({self.job_id}) has not ended after {timeout:g} s; it goes on"
            )
        has_failed = self.record.status != Status.COMPLETED
        if has_failed or self.record.outputs.state is OnceState.FAILED:
            raise JobFailedError(self.explain(), self)
        return self.record.status

    def add_done_callback(self, fn: Callable[[AsyncResult], object]) -> None:
        """Call ``fn`` with this handle once, when the job has ended and its outputs have come.

        It is called from the one thread of the session that watches jobs; what it raises is logged.
        Nobody is called any more after the session was closed.
        """
        self.engine.watcher.add(self.record, self.cluster, lambda: fn(self))

    def __await__(self) -> Generator[Any, None, AsyncResult]:
        """Wait without blocking the event loop; ``await result`` is the result itself.

        It is cancelled where the session is closed before.
        """
        return self._wait_async().__await__()

    async def _wait_async(self) -> AsyncResult:
        import asyncio

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def tell(settle: Callable[[], object]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle)

        self.engine.watcher.add(
            self.record,
            self.cluster,
            callback=lambda: tell(lambda: _settle(ended)),
            forgotten=lambda: tell(ended.cancel),
        )
        await ended
        return self

    # -- doing -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask the scheduler to end the job; one that has ended stays what it was.

        Raises :class:`CommandError`.
        """
        _ = self.cluster  # its record is the one that is watched
        self.engine.cancel([self.record])

    def resubmit(self) -> AsyncResult:
        """Submit the job again as it was, and return the new handle.

        The old record stays in the store. Raises :class:`SubmissionError` where the job has not
        ended or the scheduler refuses it.
        """
        if not self.ready():
            raise SubmissionError(
                f"job {self.name!r} ({self.job_id}) is {self.record.status}; cancel it first"
            )
        return resubmit(self.engine, [self.record], lambda old, new: old.finished)[0]

    def dump(self, path: str | os.PathLike[str]) -> None:
        """Write the record to a file of JSON, with the place of its store."""
        write_dump(path, self.store.url, self.record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AsyncResult:
        """Return the handle that :meth:`dump` wrote.

        Where its store has the record still, the newer state counts. Raises :class:`StoreError`.
        """
        url, record = read_dump(path)
        engine = default_engines.get(url)
        return cls(_newest(engine, record), engine)

    # -- logs and files ----------------------------------------------------------------------------

    def log_path(self, stream: Stream = "stdout", index: int | None = None) -> str:
        """Return the absolute path of the job's ``stdout`` or ``stderr`` on its host.

        ``index`` is that of an array's element.
        """
        if not self.record.resources.get(stream):
            # no backend is needed to say where it is
            return log_path(self.record, stream, index)
        return log_path(self.record, stream, index, self.cluster.scheduler.backend)

    def stdout(self, index: int | None = None) -> str:
        """Return what the job has written to its standard output so far.

        Empty where there is no file yet. Raises :class:`CommandError`, also where the file of a job
        that has ended is not there any more.
        """
        return self._read_log("stdout", index)

    def stderr(self, index: int | None = None) -> str:
        """Return what the job has written to its standard error so far.

        Empty where there is no file yet. Raises :class:`CommandError`, also where the file of a job
        that has ended is not there any more.
        """
        return self._read_log("stderr", index)

    def tail(
        self,
        lines: int | None = 10,
        stream: Stream = "stdout",
        index: int | None = None,
    ) -> str:
        """Return the last lines of a log (None: all). Raises :class:`CommandError`.

        They are at most 1 MB, or 1,000 bytes a line; where that cuts them there is a warning.
        """
        return self._read_log(stream, index, lines)

    def stream_log(
        self,
        sink: Callable[[bytes], object],
        stream: Stream = "stdout",
        index: int | None = None,
        lines: int | None = None,
    ) -> list[str]:
        """Hand a log, or its last lines, to a function piece by piece, whatever its size.

        Returns the paths of logs that are not there (yet), or are not of this job because it never
        began: one, or of an array several. Raises :class:`CommandError`.
        """
        scheduler = self.cluster.scheduler
        return stream_log(
            scheduler.transport,
            scheduler.backend,
            self.record,
            sink,
            stream,
            index,
            lines,
        )

    def _read_log(
        self, stream: Stream, index: int | None, lines: int | None = None
    ) -> str:
        scheduler = self.cluster.scheduler
        return read_log(
            scheduler.transport, scheduler.backend, self.record, stream, index, lines
        )

    def follow(
        self,
        lines: int | None = 10,
        stream: Stream = "stdout",
        index: int | None = None,
    ) -> Iterator[str]:
        """Yield the last lines of a log, and what is added until the job has ended.

        That costs a command a second over the connection that there is; while the line is broken it
        waits. Raises :class:`SettingsError` for an array without ``index``, and
        :class:`LoginError`.
        """
        if self.record.tasks is not None and index is None:
            raise SettingsError(
                f"job {self.name!r} is an array: say with index which of its logs to follow"
            )
        scheduler = self.cluster.scheduler
        path = log_path(self.record, stream, index, scheduler.backend)
        return self._follow(LogFollower(scheduler.transport, path, lines))

    def _follow(self, follower: LogFollower) -> Iterator[str]:
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
        """List the job's files on its host, with paths in the workdir; one round trip.

        Those of the patterns, else its outputs, else all. Raises :class:`CommandError`,
        :class:`SettingsError`.
        """
        named = [output.pattern for output in self.record.output_patterns]
        parsed = parse_outputs(patterns or named or ["**"])
        wanted = [OutputPattern(output.pattern, "") for output in parsed]
        order = Order(self.record.workdir, wanted, Path())
        found = list_files(self.cluster.scheduler.transport, [order])[0]
        return list({file.path: file for files in found for file in files}.values())

    def fetch(
        self, outputs: Files = (), into: str | os.PathLike[str] | None = None
    ) -> list[Path]:
        """Fetch files now, whatever state the job is in, and return their local paths.

        That is its ``outputs``, unless others are named. They go where the outputs go when the job
        ends, or into the folder that is given. What is here already is not sent. Raises
        :class:`CommandError` for what cannot be fetched, :class:`SettingsError`.
        """
        wanted = parse_outputs(outputs) if outputs else self.record.output_patterns
        if not wanted:
            raise SettingsError(
                f"job {self.name!r} names no outputs: say which files to fetch, "
                "for example fetch(['*.dat'])"
            )
        folder = Path(self.record.outputs_folder if into is None else into)
        order = Order(self.record.workdir, wanted, expand(folder).absolute())
        download(self.cluster.scheduler.transport, [order])
        if order.error or order.missing:
            missing = f"not found in {order.workdir}: {', '.join(order.missing)}"
            raise CommandError(order.error or missing)
        if not outputs and into is None:
            self._note_outputs_came()
        return list(dict.fromkeys(order.paths))

    def _note_outputs_came(self) -> None:
        open_states = (OnceState.DUE, OnceState.FAILED, OnceState.STARTED)

        def note(record: Record) -> bool:
            if not record.finished or record.outputs.state not in open_states:
                return False
            record.outputs = ONCE_DONE
            return True

        self.store.update([self.record], note)

    def explain(self) -> str:
        """Say in a few lines what became of the job: cause, code, job id, the end of its logs."""
        if self.engine.owner:  # whose logs are not fetched
            return summarize(self.record, self.job_id)
        scheduler = self.cluster.scheduler
        return explain(
            scheduler.transport, scheduler.backend, self.record, self.job_id
        )

    def __repr__(self) -> str:
        task = self.record.task
        why = f" ({task.reason})" if task.reason else ""
        return f"<AsyncResult {self.name!r} {self.job_id or '-'} {task.status}{why}>"


def _newest(engine: Engine, record: Record) -> Record:
    """Return what the store has of a record, else the record."""
    if not engine.store.exists():
        return record
    return engine.store.by_tokens([record.token]).get(record.token, record)


def _unpickle(url: str, state: str, spec: str, reused: bool) -> AsyncResult:
    engine = default_engines.get(url)
    result = AsyncResult(_newest(engine, Record.from_json(state, spec)), engine)
    result.reused = reused
    return result


def submit_records(
    engine: Engine,
    records: Sequence[Record],
    again: Again,
    parents: Collection[str] = (),
) -> list[AsyncResult]:
    """Submit records of any number of clusters and return a handle for each, in order.

    ``again`` says whether the record that holds a key makes room, ``parents`` are the tokens of
    those that others will come after. Raises
    :class:`SubmissionError` where jobs were refused, with the handles of the others in its
    ``results``.
    """
    batch = engine.submit(records, again, parents)
    winners = [winner for winner in batch.winners if winner is not None]
    results = [AsyncResult(winner, engine) for winner in winners]
    own = {record.token for record in records}
    for result in results:
        result.reused = result.record.token not in own
    error = batch.error(results)
    if error is not None:
        raise error
    return results


def resubmit(
    engine: Engine, records: Sequence[Record], again: Again
) -> list[AsyncResult]:
    """Submit jobs that have ended once more, as they were, in one batch.

    Jobs that come after others of them are a batch of their own. Where the job was submitted anew
    meanwhile, ``again`` says whether that one makes room. Those that were cancelled because one of
    these did not complete come back too.
    """
    folder = new_batch()
    done: dict[str, AsyncResult] = {}  # by the token of the old record
    left = [*records, *cancelled_for(engine, records)]
    while left:
        keys = {record.key for record in left}
        ready = [record for record in left if not keys & parent_keys(record)] or left
        new = {handle.key: handle.record for handle in done.values()}
        # a campaign sees to an order that no scheduler can
        apart = [
            item for item in ready if item.campaign and comes_from_afar(item, new)
        ]
        together = [record for record in ready if record not in apart]
        renewed = renew(engine, together, folder, new)
        handles = submit_records(engine, renewed, again) if renewed else []
        anew = renew(engine, apart, folder, new, held=True)
        winners = engine.hold(anew, again) if anew else []
        handles += [AsyncResult(item, engine) for item in winners if item is not None]
        done.update(
            (old.token, handle)
            for old, handle in zip([*together, *apart], handles, strict=True)
        )
        left = [record for record in left if record.token not in done]
    return [done[record.token] for record in records]


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
