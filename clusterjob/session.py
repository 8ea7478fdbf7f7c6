"""A session: one store, and all that this process keeps while it works on it."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from clusterjob.engine import Engine, default_engines, new_batch
from clusterjob.errors import JobNotFoundError, SettingsError, SubmissionError
from clusterjob.result import AsyncResult, submit_records
from clusterjob.results import Results, check_handles
from clusterjob.status import Status
from clusterjob.store import Record, Store, open_store
from clusterjob.transport import Connections

if TYPE_CHECKING:
    from clusterjob.planning import Plan


class Job(Protocol):
    """What can be submitted: a :class:`JobScript`."""

    def prepare(
        self,
        engine: Engine,
        *,
        cache_id: str | None = None,
        parents: Sequence[Record] = (),
        batch: str = "",
    ) -> Record:
        """Return the record of a submission, not stored anywhere yet.

        Without ``batch`` it is for looking at only: no host need be reached.
        """


class Session:
    """One store, its clusters, and the connections to them.

    ``store`` is a folder or a URL (``sqlite:///PATH``, ``file:///FOLDER``, ``postgresql://...``);
    without it it is ``$CLUSTERJOB_STORE``, else the folder ``.clusterjob`` here or above. Nothing
    is made or opened before it is needed. ``connections`` may be shared with other sessions; by
    default a session has its own. Sessions see nothing of each other but what is in a common store.

    Use it in ``with``, or call :meth:`close`. Its methods and handles may be used from several
    threads. Raises :class:`StoreError`.

    ::

        with Session("~/runs/.clusterjob") as session:
            results = session.submit([JobScript("./a"), JobScript("./b")])
            results.wait()
    """

    def __init__(
        self,
        store: str | os.PathLike[str] | Store | None = None,
        *,
        connections: Connections | None = None,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        self.engine = Engine(opened, connections or Connections())
        self._owns_connections = connections is None

    @classmethod
    def of(cls, engine: Engine) -> Session:
        """Return the session of an engine that others use too."""
        session = cls.__new__(cls)
        session.engine = engine
        session._owns_connections = False
        return session

    @property
    def store(self) -> Store:
        """Where the records are."""
        return self.engine.store

    @property
    def connections(self) -> Connections:
        """The open connections to hosts, and what stands in for prompts and progress."""
        return self.engine.connections

    # -- submitting --------------------------------------------------------------------------------

    def submit(
        self,
        jobs: Sequence[Job],
        *,
        cache_ids: Sequence[str | None] | None = None,
        force: bool = False,
        retry: bool = True,
        after: Iterable[AsyncResult] = (),
    ) -> Results:
        """Submit a batch in a constant number of round trips; return the results in order.

        The same job (its ``cache_ids`` where given, else what computes the result and where) is the
        same result: one that completed, or is on its way, is not submitted again; one that failed
        or was cancelled is, with ``retry``; with ``force`` also one that completed. ``after`` are
        jobs that must complete first.

        Raises :class:`SubmissionError` where the scheduler refused some; its ``results`` are the
        handles of the others. Raises :class:`SettingsError`, :class:`RenderError`,
        :class:`StoreError`.
        """
        self.recover()
        records = self._prepare(jobs, cache_ids, after, new_batch())
        again = functools.partial(_may_replace, force, retry)
        try:
            return Results(submit_records(self.engine, records, again))
        except SubmissionError as error:
            error.results = Results(error.results)
            raise

    def plan(
        self,
        jobs: Sequence[Job],
        *,
        cache_ids: Sequence[str | None] | None = None,
        force: bool = False,
        retry: bool = True,
        after: Iterable[AsyncResult] = (),
    ) -> Plan:
        """Say what :meth:`submit` would do with the same arguments, and why.

        Nothing is submitted. Raises :class:`SettingsError`, :class:`RenderError`,
        :class:`StoreError`.
        """
        from clusterjob.planning import make_plan

        records = self._prepare(jobs, cache_ids, after, batch="")
        return make_plan(self.store, records, force=force, retry=retry)

    def _prepare(
        self,
        jobs: Sequence[Job],
        cache_ids: Sequence[str | None] | None,
        after: Iterable[AsyncResult],
        batch: str,
    ) -> list[Record]:
        jobs = _check_jobs(jobs)
        parents = check_handles(after)
        for parent in parents:
            parent.refresh()
        ids = [None] * len(jobs) if cache_ids is None else list(cache_ids)
        if len(ids) != len(jobs):
            raise SettingsError(f"there are {len(jobs)} jobs and {len(ids)} cache_ids")
        records = [parent.record for parent in parents]
        return [
            job.prepare(self.engine, cache_id=cache_id, parents=records, batch=batch)
            for job, cache_id in zip(jobs, ids, strict=True)
        ]

    def recover(self) -> None:
        """Finish the submissions that processes which are gone left open, once a session.

        What cannot be done now is logged, and done by a later poll. Raises :class:`StoreError`.
        """
        self.engine.recover()

    # -- looking -----------------------------------------------------------------------------------

    def results(
        self,
        *jobs: str,
        states: Iterable[Status] | None = None,
        earlier: bool = False,
    ) -> Results:
        """Return handles of jobs that are in the store; no cluster is asked.

        ``jobs`` are job ids, names, or beginnings of keys (six characters and more); without any it
        is all jobs. ``states`` leaves only those that are known to be in one of them, ``earlier``
        adds submissions that were replaced by a later one of the same job. Raises
        :class:`JobNotFoundError`.
        """
        wanted = None if states is None else _check_states(states)
        if jobs:
            records = self._find(jobs, earlier)
        else:
            records = self.store.select(statuses=wanted, earlier=earlier)
        chosen = [
            record for record in records if wanted is None or record.status in wanted
        ]
        return Results(AsyncResult(record, self.engine) for record in chosen)

    def _find(self, words: Iterable[str], earlier: bool) -> list[Record]:
        """Return the records that words name, in the order of the words."""
        found: dict[str, Record] = {}
        for word in words:
            if not isinstance(word, str):
                raise SettingsError(
                    f"{word!r} names no job: expected job ids, names or beginnings of keys, "
                    "each an argument of its own"
                )
            records = self.store.named(word, earlier)
            if not records:
                raise JobNotFoundError(
                    f"no job has the id or name {word!r}, or a key that starts so, in "
                    f"{self.store.url}. See 'clusterjob list'"
                )
            for record in records:
                found.setdefault(record.token, record)
        return list(found.values())

    # -- ending ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop watching jobs, and let go of files and connections. Jobs go on.

        A session that is used again opens what it needs.
        """
        self.engine.close()
        if self._owns_connections:
            self.engine.connections.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self.store.url}>"


def default_session(store: str | os.PathLike[str] | None = None) -> Session:
    """Return the session that is used where nobody names one: one a store and process.

    Default sessions share their connections.
    """
    return Session.of(default_engines.get(store))


def close_default_sessions() -> None:
    """Close the default sessions and their connections; the next use makes them anew."""
    default_engines.close()


def _check_jobs(jobs: object) -> list[Job]:
    """Return the jobs of a batch. Raises :class:`SettingsError` for what is none."""
    if not isinstance(jobs, Iterable) or isinstance(jobs, str):
        raise SettingsError(f"a batch is a list of job scripts, not {jobs!r}")
    found = list(jobs)
    for job in found:
        if not hasattr(job, "prepare"):
            raise SettingsError(
                f"{job!r} is no job script: make one with JobScript(...)"
            )
    return found


def _check_states(states: object) -> set[Status]:
    found: set[Status] = set()
    for state in states if isinstance(states, Iterable) else [states]:
        if not isinstance(state, Status):
            names = ", ".join(f"Status.{status.name}" for status in Status)
            raise SettingsError(f"{state!r} is no state; expected a list of {names}")
        found.add(state)
    return found


def _may_replace(force: bool, retry: bool, old: Record) -> bool:
    """Say whether the record that holds a key makes room for a new submission."""
    if force and not old.finished:
        raise SubmissionError(
            f"job {old.name!r} ({old.job_id}) has not ended: "
            "cancel it before it is submitted again with force"
        )
    return old.makes_room(force, retry)
