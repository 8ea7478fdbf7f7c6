"""Steps of a campaign that depend on results: functions that get these, and return jobs."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusterjob.code import code_digest
from clusterjob.dependencies import AfterJobs, Job
from clusterjob.errors import SettingsError
from clusterjob.files import has_changed
from clusterjob.result import AsyncResult
from clusterjob.results import Results
from clusterjob.status import Status
from clusterjob.store import Record

_log = logging.getLogger(__name__)
StepFunction = Callable[[Results], object]


@dataclass(eq=False)
class Step:
    """A function of a campaign's, and the jobs that it has made.

    It is called with the results of what it comes ``after``, once all of them completed. With
    ``loop`` it is called again with the results of the jobs that it returned, until there are none;
    what comes after it gets those of the last call that made any.
    """

    name: str
    function: StepFunction
    after: list[AsyncResult | Step]
    loop: bool = False
    results: Results = field(default_factory=Results)  # of the jobs of all its calls
    latest: Results = field(default_factory=Results)  # of its last call that made any
    calls: int = 0
    is_over: bool = False  # it makes no more jobs
    was_told: bool = (
        False  # that its function is called again, because something was changed
    )
    _had: set[str] = field(default_factory=set)  # the inputs of its calls

    @functools.cached_property
    def code(self) -> str:
        """What tells its function from others, as it is when this is first asked for."""
        return code_digest(self.function)

    @property
    def inputs(self) -> Results | None:
        """What the next call gets; None while that is not known yet."""
        if self.calls and self.loop:
            return self.latest
        found = Results()
        for item in self.after:
            if isinstance(item, Step):
                if not item.is_over:
                    return None
                found += item.latest
            else:
                found.append(item)
        return Results(found)

    def call(self, inputs: Results) -> list[Job]:
        """Call the function, and return the jobs that it wants."""
        made = self.function(inputs)
        if inspect.iscoroutine(made):
            made = _run(made)
        if made is None:
            return []
        if hasattr(made, "prepare"):
            return [made]
        if not isinstance(made, Iterable) or isinstance(made, (str, Mapping)):
            raise SettingsError(
                f"step {self.name!r} returned {made!r}; expected jobs, or None where there are none"
            )
        return list(made)

    def take(self, inputs: Results, made: Results) -> None:
        """Take over the jobs of a call. A loop that comes back to what it had is over."""
        self.calls += 1
        self.latest = made or self.latest
        self.results = Results(dict.fromkeys([*self.results, *made]))
        self._had.add(fingerprint(inputs))
        is_again = bool(self.loop and made) and fingerprint(made) in self._had
        if is_again:
            _log.warning(
                "step %r returned jobs that it had been called with: its loop ends",
                self.name,
            )
        self.is_over = is_again or not (self.loop and made)


def _run(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run a coroutine to its end, also where this thread has a loop that runs already."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    coroutine.close()
    raise SettingsError(
        "a coroutine of a step cannot run inside another one: drive the campaign with "
        "'await campaign.finished()'"
    )


def all_completed(inputs: Sequence[AsyncResult]) -> bool | None:
    """Whether all completed; None where some have not ended."""
    states = [result.record.status for result in inputs]
    if any(status > Status.COMPLETED for status in states):
        return False
    if any(not result.record.settled for result in inputs):
        return None
    return True


def jobs_of_step(item: object) -> object:
    """Return the jobs of a step, and anything else as it is.

    Raises :class:`SettingsError` for a step that may still make jobs.
    """
    if not isinstance(item, Step):
        return item
    if item.is_over:
        return item.results
    raise SettingsError(
        f"the jobs of step {item.name!r} are not known yet, so nothing can come after them: "
        "return the job from a step of its own, @campaign.step(after=...)"
    )


def inputs_in(after: object) -> list[AsyncResult | Step]:
    """Return what a step comes after. Raises :class:`SettingsError`."""
    if isinstance(after, (AsyncResult, Step)):
        return [after]
    if isinstance(after, AfterJobs):
        raise SettingsError(
            f"a function is called when all that it comes after completed; {after.how} is for "
            "jobs: campaign.add(job, after=...)"
        )
    if isinstance(after, Iterable) and not isinstance(after, (str, Mapping)):
        return [found for item in after for found in inputs_in(item)]
    raise SettingsError(f"a step comes after results or steps, not {after!r}")


def changed_inputs(records: Iterable[Record]) -> list[str]:
    """Return the input files of jobs that are there, and others than they were."""
    files = dict.fromkeys(item for record in records for item in record.spec.inputs)
    return [item.source for item in files if has_changed(item)]


def fingerprint(inputs: Iterable[AsyncResult]) -> str:
    """Return what tells the inputs of a call from others: the submissions that they are of."""
    tokens = [result.record.token for result in inputs]
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:16]
