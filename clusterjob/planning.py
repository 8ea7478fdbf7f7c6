"""What a submission would do, before it is done: for each job, and why it is not the one that was
submitted before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypedDict, overload

from clusterjob.keys import shape_of
from clusterjob.reuse import find_former, words_for_changed
from clusterjob.shell import lines_of
from clusterjob.status import Dependency, Status
from clusterjob.store import JobSpec, Parent, Record, Store

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


class Planner:
    """Says for each job of a batch what submitting it would do, generation after generation.

    Nothing is asked of a scheduler; states are those in the store, which is not made by looking.
    """

    def __init__(self, store: Store, *, force: bool, retry: bool) -> None:
        self._store = store
        self._force = force
        self._retry = retry
        self._exists = store.exists()
        self._steps: dict[int, PlannedJob] = {}
        # by name: the jobs of a batch often have one in common
        self._earlier: dict[str, list[Record]] = {}

    def add(self, numbers: Sequence[int], records: Sequence[Record]) -> list[Record]:
        """Plan jobs, given by their numbers in the batch.

        Returns the record that each would have: the one that holds its key, or its own.
        """
        held: dict[str, Record] = {}
        former: dict[str, Record] = {}
        if self._exists:
            keys = [record.key for record in records]
            held = self._store.by_keys(keys)
            former = find_former(self._store, records)
        winners = []
        for number, record in zip(numbers, records, strict=True):
            holder = held.get(record.key) or former.get(record.token)
            step = self._plan_one(record, holder)
            self._steps[number] = step
            makes_new = step.action in (Action.SUBMIT, Action.RETRY)
            if holder is None or makes_new:
                winners.append(record)
            else:
                winners.append(holder)
        return winners

    def plan(self) -> Plan:
        """Return the plan of all jobs, in their order."""
        return Plan(tuple(self._steps[number] for number in sorted(self._steps)))

    def note_changed(self, changed: Mapping[str, Sequence[Record]]) -> None:
        """Note programs that have changed since jobs were submitted that would be reused."""
        words: dict[str, list[str]] = {}
        for path, records in changed.items():
            for record in records:
                said = words.setdefault(record.key, [])
                said.append(words_for_changed(path, record))
        for number, step in self._steps.items():
            more = words.get(step.key)
            if more is not None:
                differences = (*step.differences, *more)
                self._steps[number] = replace(step, differences=differences)

    def _plan_one(self, record: Record, holder: Record | None) -> PlannedJob:
        if holder is None:
            return PlannedJob(
                record.name,
                record.key,
                Action.SUBMIT,
                differences=self._differences(record),
            )
        action = Action.CACHED
        why: tuple[str, ...] = ()
        if not holder.finished:
            action = Action.RUNNING
        elif holder.makes_room(record, self._force, self._retry):
            action = Action.RETRY
            if holder.came_before(record):
                why = ("a job that it comes after was submitted anew since",)
        elif holder.key != record.key:
            why = ("found under the key of an older version",)
        return PlannedJob(
            record.name, record.key, action, holder.status, holder.job_id, why
        )

    def _differences(self, record: Record) -> tuple[str, ...]:
        if not self._exists:
            return ()
        if record.name not in self._earlier:
            self._earlier[record.name] = self._store.select(name=record.name)
        earlier = self._earlier[record.name]
        beside = [item for item in earlier if item.workdir == record.workdir]
        found = (beside or earlier)[-1:]
        return find_differences(found[0], record) if found else ()


def find_differences(old: Record, new: Record) -> tuple[str, ...]:
    """Return, in words, what makes the keys of two jobs differ.

    Lines of the body, inputs, auxiliary scripts, where it runs.
    """
    before, after = old.spec, new.spec
    pairs: list[tuple[str, object, object]] = [
        ("backend", old.backend, new.backend),
        ("host", old.host, new.host),
        ("workdir", old.workdir, new.workdir),
        ("shell", before.shell, after.shell),
        ("cache_id", before.cache_id, after.cache_id),
        *_pairs("", shape_of(before), shape_of(after)),
    ]
    if before.rules == after.rules:  # the first rules knew nothing of these
        pairs += _pairs("parameter ", before.params, after.params)
        pairs += _parent_pairs(before, after)
    found = [
        f"earlier job of that name: {old.job_id or '-'} ({old.status}), key {old.key[:12]}"
    ]
    found += [
        f"{what}: {first!r} is now {second!r}"
        for what, first, second in pairs
        if first != second
    ]
    found += _text_differences("setup", before.setup, after.setup)
    found += _text_differences("body", before.body, after.body)
    found += _script_differences(before.aux, after.aux)
    found += _input_differences(old, new)
    return tuple(found)


def _pairs(
    what: str, old: Mapping[str, object], new: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    names = sorted(old.keys() | new.keys())
    return [(f"{what}{name}", old.get(name), new.get(name)) for name in names]


def _parent_pairs(old: JobSpec, new: JobSpec) -> list[tuple[str, object, object]]:
    before, after = (
        {(parent.key, parent.how): parent for parent in spec.after}
        for spec in (old, new)
    )
    if before.keys() == after.keys():
        return []
    first, second = (
        ", ".join(sorted(map(_describe_parent, found.values())))
        for found in (before, after)
    )
    if first == second:
        second += ", which is another job than before"
    return [("comes after", first, second)]


def _describe_parent(parent: Parent) -> str:
    is_plain = parent.how is Dependency.AFTER_OK
    return parent.name if is_plain else f"{parent.name} ({parent.how})"


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
    before, after = lines_of(old), lines_of(new)
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
