"""What a record says of the job, or of one element of an array: its state, and what happens once.

Names in JSON are those of the first version of the store, whatever the attributes are called.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple

from clusterjob.status import Reason, Status


class OnceState(Enum):
    """How far something has come that happens once."""

    NONE = "none"  # it was not asked for
    DUE = "due"
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Once:
    """Something that happens once for a job: its prologue, its epilogue, fetching its outputs.

    ``error`` says what went wrong where it failed.
    """

    state: OnceState
    error: str = ""

    @classmethod
    def from_json(cls, text: str) -> Once:
        known = _ONCE_BY_WORD.get(text)
        return cls.failed(text) if known is None else known

    @classmethod
    def failed(cls, error: str) -> Once:
        return cls(OnceState.FAILED, error)

    @classmethod
    def due_if(cls, wanted: object) -> Once:
        """Return DUE where there is something to do, else NONE."""
        return ONCE_DUE if wanted else ONCE_NONE

    def to_json(self) -> str:
        """Return the word of a state; empty for none, the error where it failed."""
        if self.state is OnceState.FAILED:
            return self.error
        return "" if self.state is OnceState.NONE else self.state.value


ONCE_NONE = Once(OnceState.NONE)
ONCE_DUE = Once(OnceState.DUE)
ONCE_STARTED = Once(OnceState.STARTED)
ONCE_DONE = Once(OnceState.DONE)
_ONCE_BY_WORD = {
    once.to_json(): once for once in (ONCE_NONE, ONCE_DUE, ONCE_STARTED, ONCE_DONE)
}


class Event(NamedTuple):
    """A change of state that was seen: when (s since the epoch), the state's name, and words."""

    time: float
    state: str
    words: str


@dataclass(slots=True)
class Task:
    """The state of one job, or of one element of an array."""

    status: Status = Status.PENDING
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    words: str = ""  # the scheduler's own, or ours where it has none
    started: float | None = None  # s since the epoch, on the job's host
    ended: float | None = None
    host: str = ""
    # elapsed, cpu: s; max_rss: MB
    usage: dict[str, float] = field(default_factory=dict)
    runs: int = 1  # more than one where the scheduler started it over
    missing_since: float | None = None  # no good listing has shown it since then
    attempt: int = 1  # of its job, in which an element of an array ran
    # of an element that ran in an earlier submission: its files, absolute, without their endings
    files: str = ""
    history: list[Event] = field(default_factory=list)

    def note_event(self, when: float, state: str, words: str) -> None:
        """Add to the history; the list is made anew, because copies of a task share it."""
        self.history = [*self.history, Event(when, state, words)]

    def copy(self) -> Task:
        """Return a task with the same state, that can be changed alone."""
        return Task(*_values_of_task(self))

    def to_json(self) -> dict[str, object]:
        """Return the values that differ from the defaults."""
        data: dict[str, object] = {
            name: value
            for name, value in zip(_TASK_FIELDS, _values_of_task(self), strict=True)
            if value or isinstance(value, (int, float))
        }
        for name in ("runs", "attempt"):
            if data[name] == 1:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """Make a task of values that were checked."""
        task = cls(**data)
        task.status = Status(task.status)
        task.reason = Reason(task.reason) if task.reason else None
        task.history = [Event(*event) for event in task.history]
        return task


_TASK_FIELDS = tuple(item.name for item in fields(Task))
_values_of_task = operator.attrgetter(*_TASK_FIELDS)
