"""What a submission would do, before it is done: for each job, and why it is not the one that was
submitted before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypedDict, overload

from clusterjob.status import Status
from clusterjob.store import Record, Store

_MOST_LINES = 6  # of a text's differences


class Action(str, Enum):
    """What would happen to a job."""

    SUBMIT = "submit"
    RETRY = "retry"
    CACHED = "cached"
    RUNNING = "running"

    def __str__(self) -> str:
        return self.value


class PlannedJobRow(TypedDict):
    """A planned job as plain values."""

    name: str
    key: str
    action: str
    status: str | None
    job_id: str | None
    differences: list[str]


@dataclass(frozen=True)
class PlannedJob:
    """What would happen to one job, and why."""

    name: str
    key: str
    action: Action
    status: Status | None = None  # of the record that holds the key
    job_id: str | None = None
    differences: tuple[str, ...] = ()  # from the latest job of the same name

    def __str__(self) -> str:
        state = ""
        if self.status is not None:
            state = f" ({self.status}{f', {self.job_id}' if self.job_id else ''})"
        lines = [f"{self.action.value:8} {self.name}{state} {self.key[:12]}"]
        lines += [f"         {line}" for line in self.differences]
        return "\n".join(lines)

    def row(self) -> PlannedJobRow:
        """Return it as plain values."""
        return PlannedJobRow(
            name=self.name,
            key=self.key,
            action=self.action.value,
            status=None if self.status is None else self.status.name,
            job_id=self.job_id,
            differences=list(self.differences),
        )


@dataclass(frozen=True)
class Plan(Sequence[PlannedJob]):
    """The jobs of a batch, in its order; printing it shows a line a job and the differences."""

    steps: tuple[PlannedJob, ...]

    def __iter__(self) -> Iterator[PlannedJob]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, position: int) -> PlannedJob: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[PlannedJob]: ...

    def __getitem__(self, position: int | slice) -> PlannedJob | Sequence[PlannedJob]:
        return self.steps[position]

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)


def make_plan(
    store: Store, records: Sequence[Record], *, force: bool, retry: bool
) -> Plan:
    """Say for each record what submitting it would do.

    Nothing is asked of the scheduler; states are those in the store.
    """
    held = store.by_keys([record.key for record in records])
    steps = []
    # by name: the jobs of a batch often have one in common
    newest: dict[str, Record | None] = {}
    for record in records:
        holder = held.get(record.key)
        if holder is None:
            if record.name not in newest:
                earlier = store.select(name=record.name)
                newest[record.name] = earlier[-1] if earlier else None
            old = newest[record.name]
            why = find_differences(old, record) if old is not None else ()
            steps.append(
                PlannedJob(record.name, record.key, Action.SUBMIT, differences=why)
            )
            continue
        action = _action_for(holder, force, retry)
        steps.append(
            PlannedJob(record.name, record.key, action, holder.status, holder.job_id)
        )
    return Plan(tuple(steps))


def _action_for(holder: Record, force: bool, retry: bool) -> Action:
    if not holder.finished:
        return Action.RUNNING
    if holder.makes_room(force, retry):
        return Action.RETRY
    return Action.CACHED


def find_differences(old: Record, new: Record) -> tuple[str, ...]:
    """Return, in words, what makes the keys of two jobs differ.

    Lines of the body, inputs, auxiliary scripts, where it runs.
    """
    before, after = old.spec, new.spec
    pairs = [
        ("backend", old.backend, new.backend),
        ("host", old.host, new.host),
        ("workdir", old.workdir, new.workdir),
        ("shell", before.shell, after.shell),
        ("cache_id", before.cache_id, after.cache_id),
        ("array", before.resources.get("array"), after.resources.get("array")),
    ]
    found = [
        f"earlier job of that name: {old.job_id or '-'} ({old.status}), key {old.key[:12]}"
    ]
    found += [
        f"{what}: {first!r} is now {second!r}"
        for what, first, second in pairs
        if first != second
    ]
    found += _text_differences("body", before.body, after.body)
    found += _script_differences(before.aux, after.aux)
    found += _input_differences(old, new)
    return tuple(found)


def _script_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        what = f"auxiliary script {name!r}"
        if name not in old:
            found.append(f"{what} is new")
        elif name not in new:
            found.append(f"{what} is gone")
        else:
            found += _text_differences(what, old[name], new[name])
    return found


def _input_differences(old: Record, new: Record) -> list[str]:
    before = {item.path: item.digest for item in old.spec.inputs}
    after = {item.path: item.digest for item in new.spec.inputs}
    found = []
    for path in sorted(before.keys() | after.keys()):
        first, second = before.get(path), after.get(path)
        if first is None:
            found.append(f"input {path!r} is new")
        elif second is None:
            found.append(f"input {path!r} is gone")
        elif first != second:
            found.append(f"input {path!r} changed ({first[:8]} is now {second[:8]})")
    return found


def _text_differences(what: str, old: str, new: str) -> list[str]:
    """Return the lines that differ, the first few of them."""
    if old == new:
        return []
    before, after = old.splitlines(), new.splitlines()
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    found = []
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        for number in range(start, end):
            found.append(f"{what}, line {number + 1}: - {before[number]}")
        for number in range(new_start, new_end):
            found.append(f"{what}, line {number + 1}: + {after[number]}")
    if not found:
        return [f"{what}: the end of the last line differs"]
    rest = len(found) - _MOST_LINES
    return found[:_MOST_LINES] + (
        [f"{what}: and {rest} more lines"] if rest > 0 else []
    )
