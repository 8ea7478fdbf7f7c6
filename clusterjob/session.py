"""A session: one store, and all that this process keeps while it works on it."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from clusterjob.batch import After, Batch
from clusterjob.dependencies import Job
from clusterjob.engine import (
    Engine,
    default_engines,
    new_batch,
    sweeps_apart,
    tell_shared,
)
from clusterjob.errors import JobNotFoundError, SettingsError, SubmissionError
from clusterjob.keys import repeated_key
from clusterjob.packing import Pack
from clusterjob.result import AsyncResult, submit_records
from clusterjob.results import Results
from clusterjob.retry import Retry
from clusterjob.reuse import (
    adopt_former,
    find_overtaken,
    tell_changed,
    tell_occupied,
    tell_overtaken,
    tell_reused,
)
from clusterjob.selection import (
    Selection,
    check_reasons,
    check_states,
)
from clusterjob.status import Reason, Status
from clusterjob.store import Listed, Record, Store, open_store
from clusterjob.terms import Terms, check_retry, check_rules, check_switch, check_tags
from clusterjob.transport import Connections

if TYPE_CHECKING:
    from clusterjob.planning import Plan


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Put off the search for objects that nobody needs: a large batch makes many, which stay, and
    to look through all of them meanwhile costs as much as a part of the submission.
    """
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


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

    @_without_collections()
    def submit(
        self,
        jobs: Job | Iterable[Job],
        *,
        cache_ids: Iterable[str | None] | None = None,
        force: bool = False,
        retry: bool | Retry = True,
        after: After = (),
        bundle: bool = True,
        pack: int | str | None = None,
        pack_slots: int = 1,
        tags: Iterable[str] = (),
    ) -> Results:
        """Submit a batch in a constant number of round trips; return the results in order.

        The same job is the same result: one that completed, or is on its way, is not submitted
        again, which its ``reused`` says; one that failed or was cancelled is, with ``retry``; so is
        one that completed where a job before it ran again since, or with ``force``. What makes jobs
        the same is what their outcome can depend on, or ``cache_ids`` where given; equal jobs of
        one batch are as many jobs as there are.

        ``after`` are jobs that must complete first: those of all jobs, or a mapping from a job to
        its own, which may be of the same batch. Each generation of those is a batch of its own.
        :func:`afterany`, :func:`afternotok` and :func:`aftercorr` wait for something else. A job
        whose turn cannot come any more ends as CANCELLED, with the reason ``dependency``.

        Jobs that ask for the same go to the scheduler as one array, where it has arrays, unless
        ``bundle`` is False; each stays a job of its own. Very short ones run one after another in
        one job of the scheduler's, with ``pack``: so many (50), or so much of their time ("30m"),
        and ``pack_slots`` of them at a time. One that fails does not stop the others, and those
        whose turn did not come before the pack ended are submitted again.

        With a :class:`Retry` for ``retry`` a job that fails is tried again by itself, as those
        rules say, by whoever asks about it. ``tags`` are words to find jobs by.

        Raises :class:`SubmissionError` where the scheduler refused some; its ``results`` are the
        handles of the others. Raises :class:`SettingsError`, :class:`RenderError`,
        :class:`StoreError`.
        """
        check_switch("force", force)
        check_retry(retry)
        batch = Batch.of(jobs, cache_ids, after)
        self.recover()
        for parent in batch.earlier_parents():
            parent.refresh()
        policy = retry if isinstance(retry, Retry) else None
        packed = Pack.of(pack, pack_slots)
        terms = Terms(bundle, policy, tags=check_tags(tags), pack=packed)
        folder = new_batch()
        for generation in batch.generations:
            records = self._prepare(batch, generation, folder, terms)
            adopt_former(self.store, records)
            lost = self._overtaken_arrays(records)
            again = functools.partial(_may_replace, force, retry is not False, lost)
            try:
                parents = batch.parents_among(generation, records)
                handles = submit_records(self.engine, records, again, parents)
            except SubmissionError as error:
                error.results = Results([*batch.results.values(), *error.results])
                raise
            batch.results.update(zip(generation, handles, strict=True))
        results = Results(batch.results[number] for number in range(len(batch.jobs)))
        self._tell_of(results)
        return results

    def _tell_of(self, results: Results) -> None:
        """Say in the log what is to be known of jobs that were just submitted, or found."""
        reused = [result.record for result in results if result.reused]
        fresh = [result.record for result in results if not result.reused]
        tell_reused(reused, len(results))
        tell_changed(self.engine.changed_programs(reused))
        tell_overtaken(self.store, self.engine.neighbours, reused, fresh)
        tell_occupied(self.store, self.engine.neighbours, reused, fresh)

    @_without_collections()
    def hold(
        self,
        campaign: str,
        jobs: Job | Iterable[Job],
        *,
        cache_ids: Iterable[str | None] | None = None,
        after: After = (),
        bundle: bool = True,
        pack: int | str | None = None,
        pack_slots: int = 1,
        retry: Retry | None = None,
        tags: Iterable[str] = (),
        see: Callable[[Store, str, Sequence[Record]], None] | None = None,
        late: Collection[str] = (),
    ) -> Results:
        """Write jobs of a campaign down, to be submitted when it lets them go; return the results.

        One that completed or is on its way is not submitted again; one that failed or was cancelled
        stays what it is, until the campaign is told to retry it. The arguments are those of
        :meth:`submit`; ``see`` is shown store, campaign and records before anything is written;
        ``late`` are the tokens of jobs that the campaign parted with because they had not been
        added yet.
        Raises :class:`SettingsError`, :class:`RenderError`, :class:`StoreError`.
        """
        check_rules(retry)
        self.recover()  # what is on its way counts as at work
        batch = Batch.of(jobs, cache_ids, after)
        packed = Pack.of(pack, pack_slots)
        terms = Terms(bundle, retry, campaign, check_tags(tags), packed)
        folder = new_batch()
        for generation in batch.generations:
            records = self._prepare(batch, generation, folder, terms)
            adopt_former(self.store, records)
            if see is not None:
                see(self.store, campaign, records)
            winners = self._write_down(records, late)
            for number, record, winner in zip(
                generation, records, winners, strict=True
            ):
                batch.results[number] = AsyncResult(winner, self.engine)
                batch.results[number].reused = winner.token != record.token
        results = Results(batch.results[number] for number in range(len(batch.jobs)))
        reused = [result.record for result in results if result.reused]
        fresh = [result.record for result in results if not result.reused]
        tell_overtaken(self.store, self.engine.neighbours, reused, fresh)
        # others would have to be asked
        here = [record for record in reused if not record.host]
        tell_changed(self.engine.changed_programs(here))
        return results

    def _write_down(
        self, records: Sequence[Record], late: Collection[str]
    ) -> list[Record]:
        """Hold jobs of a campaign; return who holds their keys."""
        # what others have written over since is run again
        lost = self._given_up(records).difference(late)
        again = functools.partial(_comes_back, lost)
        winners = self.engine.hold(records, again)
        for record, winner in zip(records, winners, strict=True):
            if winner is None:
                raise SubmissionError(
                    f"the record of job {record.name!r} in the store is damaged: see "
                    "'clusterjob doctor'"
                )
        return [winner for winner in winners if winner is not None]

    def plan(
        self,
        jobs: Job | Iterable[Job],
        *,
        cache_ids: Iterable[str | None] | None = None,
        force: bool = False,
        retry: bool = True,
        after: After = (),
    ) -> Plan:
        """Say what :meth:`submit` would do with the same arguments, and why.

        Nothing is submitted or changed: no cluster is asked, no store is made. Raises
        :class:`SettingsError`, :class:`RenderError`, :class:`StoreError`.
        """
        from clusterjob.planning import Planner

        batch = Batch.of(jobs, cache_ids, after)
        planner = Planner(self.store, force=force, retry=retry)
        for generation in batch.generations:
            records = self._prepare(batch, generation, "")
            holders = planner.add(generation, records)
            for number, holder in zip(generation, holders, strict=True):
                batch.results[number] = AsyncResult(holder, self.engine)
        found = [result.record for result in batch.results.values()]
        here = [
            record for record in found if not record.host
        ]  # others would have to be asked
        planner.note_changed(self.engine.changed_programs(here))
        return planner.plan()

    def _prepare(
        self,
        batch: Batch,
        generation: Sequence[int],
        folder: str,
        terms: Terms = Terms(),  # noqa: B008  # it never changes
    ) -> list[Record]:
        """Return the records of the jobs with these numbers; equal ones get keys of their own."""
        records = []
        for number in generation:
            record = batch.jobs[number].prepare(
                self.engine,
                cache_id=batch.cache_ids[number],
                parents=[
                    (parent.record, how) for parent, how in batch.parents_of(number)
                ],
                batch=folder,
                terms=terms,
            )
            repeats = batch.count(record.key)
            record.key = repeated_key(record.key, repeats)
            records.append(record)
        tell_shared(records)
        return records

    def _overtaken_arrays(self, records: Sequence[Record]) -> set[str]:
        """Return the tokens of arrays that failed in part and of which nothing is kept: their files
        are another job's now.
        """
        keys = [
            record.key
            for record in records
            if record.tasks is not None and record.output_patterns
        ]
        held = self.store.by_keys(keys).values() if keys else ()
        failed = [record for record in held if record.status > Status.COMPLETED]
        found = find_overtaken(self.engine.neighbours, failed)
        return {record.token for record, _ in found}

    def _given_up(self, records: Sequence[Record]) -> set[str]:
        """Return the tokens of jobs that have ended and hold the keys of these, and whose files
        others may have written over: those that a campaign has parted with for others in their
        places, whatever they declare as outputs, and those of no campaign.
        """
        held = self.store.by_keys([record.key for record in records]).values()
        ended = [record for record in held if record.finished and not record.campaign]
        parted = {record.token for record in ended if record.left}
        found = find_overtaken(
            self.engine.neighbours, ended, (), parted, sweeps_apart(records)
        )
        return {record.token for record, _ in found}

    def recover(self) -> None:
        """Finish the submissions that processes which are gone left open, once a session.

        What cannot be done now is logged, and done by a later poll. Raises :class:`StoreError`.
        """
        self.engine.recover()

    def on_state(
        self, hook: Callable[[AsyncResult, Status, Status], object]
    ) -> Callable[[], None]:
        """Call ``hook(result, before, after)`` after each change of a job's state that this process
        comes to know; return what ends that.

        Once a change and process, from the thread that asked, and for all jobs of the store on the
        clusters that are asked. What it raises is logged, and breaks nothing.
        """

        def tell(record: Record, before: Status, after: Status) -> None:
            hook(AsyncResult(record, self.engine), before, after)

        self.engine.hooks.append(tell)
        return lambda: self.engine.hooks.remove(tell)

    # -- looking -----------------------------------------------------------------------------------

    def results(
        self,
        *jobs: str,
        states: Iterable[Status] | None = None,
        earlier: bool = False,
        campaign: str | None = None,
        tags: Iterable[str] = (),
        reasons: Iterable[Reason | str] = (),
        names: Iterable[str] = (),
        user: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Results:
        """Return handles of jobs that are in the store; no cluster is asked.

        ``jobs`` are job ids, names, or beginnings of keys (six characters and more); without any it
        is all jobs. ``states`` leaves only those that are known to be in one of them; the other
        words too: a ``campaign``, one of ``tags``, ``reasons`` (``"timeout"``), ``names``
        (patterns: ``"sim-*"``), the ``user`` who submitted, and the time of that (s since the
        epoch). ``earlier`` adds submissions that were replaced by a later one of the same job.
        Raises :class:`JobNotFoundError`, :class:`SettingsError`.
        """
        selection = Selection(
            states=None if states is None else check_states(states),
            reasons=check_reasons(reasons),
            names=(names,) if isinstance(names, str) else tuple(names),
            campaign=campaign,
            tags=frozenset(check_tags(tags)),
            user=user,
            since=since,
            until=until,
        )
        return self.select(selection, jobs, earlier)

    def select(
        self, selection: Selection, jobs: Sequence[str] = (), earlier: bool = False
    ) -> Results:
        """Return handles of the jobs that are meant, of those that are named or of all."""
        if jobs:
            named = self._find(jobs, earlier)
            records = [item for item in named if selection.fits(Listed.of(item))]
        elif selection.is_all:
            found_all = self.store.select(statuses=selection.states, earlier=earlier)
            states = selection.states
            records = [
                item for item in found_all if states is None or item.status in states
            ]
        else:
            tokens = [item.token for item in self.listed(selection, earlier)]
            found = self.store.by_tokens(tokens)
            records = [found[token] for token in tokens if token in found]
        return Results(AsyncResult(record, self.engine) for record in records)

    def listed(self, selection: Selection, earlier: bool = False) -> Iterator[Listed]:
        """Yield what lists show of the jobs that are meant: see :meth:`Store.listed`."""
        return filter(selection.fits, self.store.listed(selection.states, earlier))

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


def _comes_back(lost: Collection[str], old: Record, new: Record) -> bool:
    """Say whether a job of a campaign is held once more: also one that the campaign parted with
    before it was submitted, and one of those with the tokens ``lost``, whose outputs are gone.
    """
    has_parted = not old.campaign and old.job_id is None
    return old.yields_to(
        new,
        force=old.token in lost,
        retry=has_parted and old.task.reason is Reason.CANCELLED,
    )


def _may_replace(
    force: bool,
    retry: bool,
    lost: Collection[str],
    old: Record,
    new: Record,
) -> bool:
    """Say whether the record that holds a key makes room for a new submission.

    Nothing is kept of the arrays with the tokens ``lost``, whose outputs are gone.
    """
    if force and not old.finished:
        raise SubmissionError(
            f"job {old.name!r} ({old.job_id}) has not ended: "
            "cancel it before it is submitted again with force"
        )
    is_anew = old.token in lost and old.makes_room(new, force, retry)
    return old.yields_to(new, force or is_anew, retry)
