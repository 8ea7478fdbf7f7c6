"""A campaign, from Python: a name, jobs in an order, limits, and driving it to the end."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, overload

from clusterjob.batch import After
from clusterjob.campaign.calls import Call
from clusterjob.campaign.driver import Driver
from clusterjob.campaign.places import (
    JobAnywhere,
    Profiles,
    read_places,
    take_keys_of_known,
    weights_of,
)
from clusterjob.campaign.steps import (
    Step,
    StepFunction,
    all_completed,
    changed_inputs,
    fingerprint,
    inputs_in,
    jobs_of_step,
)
from clusterjob.dependencies import Job, exchange, is_job
from clusterjob.errors import JobNotFoundError, SettingsError, first_of
from clusterjob.result import AsyncResult
from clusterjob.results import Results, cancel
from clusterjob.retry import Retry
from clusterjob.script import JobScript, default_session
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.terms import check_rules, check_switch

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[^\s/\\\x00-\x1f][^/\\\x00-\x1f]*")
_PORTION = 1000  # jobs that are written down at once
_PROGRESS = 1.0  # s between two lines of progress


class Outcome(NamedTuple):
    """How far a campaign has come: its jobs by state, and how many of the pending it holds."""

    counts: dict[Status, int]
    held: int
    is_over: bool  # there is nothing more to do
    # steps whose functions may be called yet: the script of the campaign has them
    open_steps: tuple[str, ...] = ()
    is_stopped: bool = False  # nothing more is submitted, because a job failed

    @property
    def is_complete(self) -> bool:
        """Whether all of its jobs completed, and no function may be called yet."""
        others = set(self.counts) - {Status.COMPLETED}
        is_clean = not any(self.counts[status] for status in others)
        return self.is_over and is_clean and not self.open_steps

    def __str__(self) -> str:
        shown = [
            f"{count} {status}" for status, count in self.counts.items() if count
        ]
        if self.held:
            shown.append(f"{self.held} of the pending not submitted yet")
        if self.is_stopped:
            shown.append("stopped by the failure")
        if self.is_over and self.open_steps:
            names = first_of(self.open_steps, 3)
            shown.append(f"not called yet, by the campaign's script: {names}")
        return ", ".join(shown) or "no jobs"


class Campaign:
    """Many jobs under a name, their order and their limits, driven to the end.

    ``max_pending`` and ``max_running`` are how many of its jobs may wait with schedulers, and run,
    at once; with ``stop_on_failure`` nothing more is submitted once a job has failed for good.
    ``retry`` is for its jobs that have no rules of their own. With ``profiles`` a job goes by any
    of them that it fits ([Limits]: ``max_cores``, ``max_mem``, ``max_time``): to a cluster that
    answers and has room (``max_jobs``, of all campaigns of the store), of these the one where the
    fewest wait; a mapping from profiles to numbers gives weights. A job that was submitted to one
    is never sent to another, too. ``on_state`` is called after each change of one of its jobs'
    states, with the result and the states before and after: see :meth:`Session.on_state`.

    All of its state is in the store. A script that was killed is run again: what was submitted is
    not submitted twice, what is finished is not repeated, and the functions of steps that ran are
    not called again, unless their inputs changed, or they did.

    ::

        campaign = Campaign("phase", max_pending=500)
        runs = campaign.add(sweep(job, T=[10, 20, 50]))

        @campaign.step(after=runs)
        def refine(results):
            return [job_for(result) for result in results if needs_more(result)]

        print(campaign.run(progress=True))
    """

    def __init__(
        self,
        name: str,
        *,
        max_pending: int | None = None,
        max_running: int | None = None,
        stop_on_failure: bool = False,
        retry: Retry | None = None,
        profiles: Profiles | None = None,
        on_state: Callable[[AsyncResult, Status, Status], object] | None = None,
        session: Session | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingsError(
                f"{name!r} is no name for a campaign: expected one line of text without slashes"
            )
        self.name = name
        check_switch("stop_on_failure", stop_on_failure)
        check_rules(retry)
        if session is not None and not isinstance(session, Session):
            raise SettingsError(f"session = {session!r}: expected a Session")
        if on_state is not None and not callable(on_state):
            raise SettingsError(f"on_state = {on_state!r}: expected a function")
        self.session = session or default_session()
        self.retry_rules = retry
        self.places = [] if profiles is None else read_places(profiles)
        self.steps: list[Step] = []
        limits = {"max_pending": max_pending, "max_running": max_running}
        for key, value in limits.items():
            is_count = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_count and value > 0):
                raise SettingsError(f"{key} = {value!r}; expected a number from 1 on")
        self._settings: dict[str, Any] = {
            **limits,
            "stop_on_failure": stop_on_failure,
            "weights": weights_of(self.places),
        }
        self._driver = Driver(self.session, name, self._settings)
        self._is_saved = False
        self._open_steps: list[str] = []
        if on_state is not None:
            self._tell_of_own(on_state)

    def _tell_of_own(
        self, hook: Callable[[AsyncResult, Status, Status], object]
    ) -> None:
        def tell(result: AsyncResult, before: Status, after: Status) -> None:
            if result.record.campaign == self.name:
                hook(result, before, after)

        self.session.on_state(tell)

    # -- what is to be done ------------------------------------------------------------------------

    def add(
        self,
        jobs: Job | Iterable[Job],
        *,
        after: After | Step = (),
        retry: Retry | None = None,
        bundle: bool = True,
        pack: int | str | None = None,
        pack_slots: int = 1,
        tags: Iterable[str] = (),
    ) -> Results:
        """Add jobs, and return their results; they may not be submitted yet.

        ``after`` are jobs that come first, of any cluster, as in :meth:`Session.submit`; or a step
        that has made all of its jobs: what comes after others is returned by a step. A job that was
        submitted before is the same one. A generator is taken in portions. Raises what
        :meth:`Session.submit` does.
        """
        self._save()
        found = Results()
        given = exchange(after, jobs_of_step)
        for portion in _in_portions(jobs):
            members, parents = self._anywhere(portion, given)
            held = self.session.hold(
                self.name,
                members,
                after=parents,
                retry=self.retry_rules if retry is None else retry,
                bundle=bundle,
                pack=pack,
                pack_slots=pack_slots,
                tags=tags,
                see=take_keys_of_known if self.places else None,
                late=self._driver.parted,
            )
            self._driver.add(held)
            found += held
        return Results(found)

    def _anywhere(self, jobs: list[Job], after: After) -> tuple[Sequence[Job], After]:
        """Return jobs that may go by any of the profiles, and what they come after."""
        if not self.places:
            return jobs, after
        twins: dict[int, Job] = {}
        for job in jobs:
            if not isinstance(job, JobScript):
                raise SettingsError(
                    f"{job!r} is no job script: make one with JobScript(...)"
                )
            twins[id(job)] = JobAnywhere(job, self.places)
        if isinstance(after, Mapping):  # others name no job of these
            after = exchange(after, lambda job: twins.get(id(job), job))
        return [twins[id(job)] for job in jobs], after

    @overload
    def step(self) -> Outcome: ...

    @overload
    def step(
        self,
        *,
        after: AsyncResult | Step | Iterable[AsyncResult | Step | Results],
        loop: bool = False,
        name: str | None = None,
    ) -> Callable[[StepFunction], Step]: ...

    def step(
        self,
        *,
        after: AsyncResult
        | Step
        | Iterable[AsyncResult | Step | Results]
        | None = None,
        loop: bool = False,
        name: str | None = None,
    ) -> Outcome | Callable[[StepFunction], Step]:
        """Do what can be done now, and say how far it came; or, with ``after``, add a function.

        The function is called with the results of what it comes after, when all of them completed,
        and returns jobs, which are added, or None. It may be a coroutine. With ``loop`` it is
        called again with the results of those jobs, until it returns none: until it converged. It
        becomes a :class:`Step`, which others can come after.
        """
        if after is None:
            if loop or name is not None:
                raise SettingsError(
                    "a function's step comes after results or steps: say which, step(after=...)"
                )
            return self._step()
        items = inputs_in(after)

        def add(function: StepFunction) -> Step:
            own = name or getattr(function, "__qualname__", "") or repr(function)
            if any(step.name == own for step in self.steps):
                raise SettingsError(f"there are two steps {own!r}: give one a name")
            self.steps.append(Step(own, function, items, loop))
            self._note_open_steps()
            return self.steps[-1]

        return add

    # -- driving it --------------------------------------------------------------------------------

    def run(self, progress: bool = False, timeout: float | None = None) -> Outcome:
        """Drive the campaign to its end, for ``timeout`` seconds at most, and say how it ended.

        With ``progress`` a line on standard error tells how far it is. Interrupted, it can be run
        again; jobs that were submitted go on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        told = 0.0
        outcome = self._step()
        while not outcome.is_over:
            if progress and time.monotonic() - told >= _PROGRESS:
                told = time.monotonic()
                _tell(f"{self.name}: {outcome}", end=False)
            pause = self._driver.pause()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                pause = min(pause, left)
            time.sleep(pause)
            outcome = self._step()
        if progress:
            _tell(f"{self.name}: {outcome}", end=True)
        if outcome.is_over and outcome.counts.get(Status.FAILED):
            _log.warning(
                "campaign %r: what failed is not submitted again by itself: campaign.retry(), or "
                "'clusterjob campaign retry', does that",
                self.name,
            )
        return outcome

    async def finished(self) -> Outcome:
        """Drive the campaign to its end, in a thread of its own."""
        import asyncio

        return await asyncio.to_thread(self.run)

    def _step(self) -> Outcome:
        self._save()
        self._driver.step()
        calls = sum(step.calls for step in self.steps)
        is_waiting = self._call_steps()
        if sum(step.calls for step in self.steps) > calls:
            self._driver.let_go()
        self._note_open_steps()
        return self._outcome(is_waiting)

    def _note_open_steps(self) -> None:
        """Write down which functions may be called yet, for those who do not have the script."""
        names = [step.name for step in self.steps if not step.is_over]
        if self.steps and names != self._open_steps:
            self._open_steps = names
            self._driver.memory.note("open", names)

    def _outcome(self, is_waiting: bool) -> Outcome:
        """Say how far it came; ``is_waiting``: a step may still make jobs."""
        counts, held = self._driver.counts()
        pending = counts.get(Status.PENDING, 0)
        running = counts.get(Status.RUNNING, 0)
        if self._driver.is_stopped:
            is_over = pending - held + running == 0
        else:
            is_over = pending + running == 0 and not is_waiting
        steps = tuple(self._open_steps)
        return Outcome(counts, held, is_over, steps, self._driver.is_stopped)

    def _call_steps(self) -> bool:
        """Call the functions whose inputs are there; say whether one may be called later."""
        is_waiting = False
        # read before any is called, which may change what others name
        for step in self.steps:
            _ = step.code
        for step in self.steps:
            while not step.is_over:
                inputs = step.inputs
                if inputs is None:
                    break
                for result in inputs:
                    result.refresh()
                have_completed = all_completed(inputs)
                if have_completed is None:
                    is_waiting = True
                if not have_completed:
                    self._expect(step, inputs)
                    break
                step.take(inputs, self._results_of(step, inputs))
                if step.is_over:
                    self._driver.part_with_calls(step.name)
                is_waiting = True
        return is_waiting

    def _expect(self, step: Step, inputs: Results) -> None:
        """Part with what a step made of its inputs as they were before: they are other ones now."""
        if step.calls:  # a loop that goes on
            return
        records = [result.record for result in inputs]
        if self._driver.calls.expect(step.name, fingerprint(inputs), records):
            self._driver.part_with_calls(step.name)

    def _results_of(self, step: Step, inputs: Results) -> Results:
        """Return the jobs of a call, which is made unless it was before: with these inputs, of the
        function as it is now, for jobs whose input files are still the same.
        """
        calls = self._driver.calls
        call = Call(step.name, fingerprint(inputs), step.code)
        known = calls.made_by(call)
        changed = changed_inputs(known or ())
        if known is not None and not changed:
            return Results(AsyncResult(item, self.session.engine) for item in known)
        if known is None and calls.know_other_code(call):
            changed = ["its function"]
        if changed and not step.was_told:
            step.was_told = True
            _log.warning(
                "step %r is called again: %s was changed",
                step.name,
                first_of(changed, 3),
            )
        jobs = step.call(inputs)
        made = self.add(jobs) if jobs else Results()
        calls.note(
            call,
            [result.record for result in inputs],
            [result.record for result in made],
        )
        return made

    # -- looking, and changing one's mind ----------------------------------------------------------

    @property
    def outcome(self) -> Outcome:
        """How far it has come, as the store knows."""
        return self._outcome(is_waiting=False)

    @property
    def results(self) -> Results:
        """The results of all its jobs."""
        store = self.session.store
        records = store.select(campaign=self.name)
        records += store.by_keys(sorted(self._driver.joined)).values()
        return Results(AsyncResult(record, self.session.engine) for record in records)

    def cancel(self) -> None:
        """Cancel what has not ended; what was not submitted yet never is.

        Raises :class:`CommandError`.
        """
        self._driver.drop_held()
        live = [result for result in self.results if not result.record.finished]
        cancel(live)

    def retry(self) -> Results:
        """Hold the jobs that failed or were cancelled again, and return their new results.

        They are submitted when the campaign is run; those that were cancelled for them come back.
        """
        anew = self._driver.hold_again()
        return Results(anew)

    def remove(self, results: AsyncResult | Iterable[AsyncResult]) -> None:
        """Put jobs out of the campaign, which count no more; they stay in the store.

        What was not submitted yet never is. One that a script adds again is in it again. Raises
        :class:`SettingsError` for one that has not ended, or is no job of the campaign.
        """
        given = [results] if isinstance(results, AsyncResult) else list(results)
        self._driver.remove([result.record for result in given])

    def _save(self) -> None:
        if not self._is_saved:
            self._driver.memory.note("settings", dict(self._settings))
            self._is_saved = True

    def __repr__(self) -> str:
        return f"<Campaign {self.name!r}>"


def campaign_names(session: Session) -> list[str]:
    """Return the names of the campaigns in a session's store."""
    return sorted(session.store.campaigns()) if session.store.exists() else []


def open_campaign(name: str, session: Session | None = None) -> Campaign:
    """Return a campaign of the store, as it was set up. Raises :class:`JobNotFoundError`."""
    session = session or default_session()
    known = session.store.campaigns() if session.store.exists() else {}
    if name not in known:
        raise JobNotFoundError(
            f"there is no campaign {name!r} in {session.store.url}; there are: "
            f"{', '.join(map(repr, sorted(known))) or 'none'}"
        )
    settings = known[name].get("settings", {})
    campaign = Campaign(
        name,
        max_pending=settings.get("max_pending"),
        max_running=settings.get("max_running"),
        stop_on_failure=bool(settings.get("stop_on_failure")),
        session=session,
    )
    campaign._settings["weights"] = settings.get("weights") or {}
    campaign._is_saved = True
    campaign._open_steps = list(known[name].get("open", ()))
    return campaign


def _in_portions(jobs: Job | Iterable[Job]) -> Iterable[list[Job]]:
    """Yield a generator's jobs in portions; a list, whose jobs may know each other, as it is."""
    if is_job(jobs):
        yield [jobs]
        return
    if isinstance(jobs, (list, tuple)):
        yield list(jobs)
        return
    if not isinstance(jobs, Iterable) or isinstance(jobs, str):
        raise SettingsError(f"a campaign takes job scripts, not {jobs!r}")
    portion: list[Job] = []
    for job in jobs:
        portion.append(job)
        if len(portion) == _PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _tell(line: str, end: bool) -> None:
    """Write a line of progress; on a terminal each takes the place of the one before."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="\n" if end else "", file=sys.stderr, flush=True)
    else:
        print(line, file=sys.stderr, flush=True)
