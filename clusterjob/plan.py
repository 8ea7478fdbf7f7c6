"""What a submission would do, before it is done: for each job, and why it is not the one submitted
before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusterjob.status import Status
from clusterjob.store import Record, Store


@dataclass(frozen=True)
class Step:
    """What would happen to one job.

    ``action`` is ``submit``, ``retry``, ``cached`` or ``running``.
    """

    name: str
    key: str
    action: str
    status: Status | None = None  # of the record that holds the key
    job_id: str | None = None
    differences: tuple[str, ...] = field(
        default_factory=tuple
    )  # from the latest job of the same name

    def __str__(self) -> str:
        state = (
            f" ({self.status}{', ' + self.job_id if self.job_id else ''})"
            if self.status is not None
            else ""
        )
        lines = [f"{self.action:8} {self.name}{state} {self.key[:12]}"]
        return "\n".join([*lines, *(f"         {line}" for line in self.differences)])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "key": self.key,
            "action": self.action,
            "status": None if self.status is None else self.status.name,
            "job_id": self.job_id,
            "differences": list(self.differences),
        }


@dataclass(frozen=True)
class Plan:
    """The steps of a batch, in its order; printing it shows one line a job and the differences."""

    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, position: int) -> Step:
        return self.steps[position]

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)


def make_plan(store: Store, records: Sequence[Record], *, force: bool, retry: bool) -> Plan:
    """Say for each record what submitting it would do.

    Nothing is asked of the scheduler; states are those in the store.
    """
    held = store.by_keys([record.key for record in records])
    steps = []
    for record in records:
        holder = held.get(record.key)
        if holder is None:
            earlier = store.select(name=record.name)
            steps.append(
                Step(
                    record.name,
                    record.key,
                    "submit",
                    differences=differences(earlier[-1], record) if earlier else (),
                )
            )
            continue
        if not holder.finished:
            action = "running"
        elif force or (retry and holder.status > Status.COMPLETED):
            action = "retry"
        else:
            action = "cached"
        steps.append(Step(record.name, record.key, action, holder.status, holder.job_id))
    return Plan(tuple(steps))


def differences(old: Record, new: Record) -> tuple[str, ...]:
    """Return, in words, what makes the keys of two jobs differ: lines of the body, inputs,
    auxiliary scripts, where it runs.
    """
    found = [f"earlier job of that name: {old.job_id or '-'} ({old.status}), key {old.key[:12]}"]
    for what in ("backend", "host", "workdir"):
        before, after = getattr(old, what), getattr(new, what)
        if before != after:
            found.append(f"{what}: {before!r} is now {after!r}")
    for what in ("shell", "cache_id"):
        before, after = old.spec.get(what), new.spec.get(what)
        if before != after:
            found.append(f"{what}: {before!r} is now {after!r}")
    before, after = old.spec["resources"].get("array"), new.spec["resources"].get("array")
    if before != after:
        found.append(f"array: {before!r} is now {after!r}")
    found += _text_differences("body", old.spec["body"], new.spec["body"])
    found += _named_differences(
        "auxiliary script", old.spec.get("aux", {}), new.spec.get("aux", {})
    )
    digests = [
        {path: digest for path, digest, _ in record.spec.get("inputs", ())} for record in (old, new)
    ]
    for path in sorted(digests[0].keys() | digests[1].keys()):
        before, after = digests[0].get(path), digests[1].get(path)
        if before != after:
            how = (
                "is new"
                if before is None
                else "is gone"
                if after is None
                else f"changed ({before[:8]} is now {after[:8]})"
            )
            found.append(f"input {path!r} {how}")
    return tuple(found)


def _named_differences(what: str, old: dict[str, str], new: dict[str, str]) -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            found.append(f"{what} {name!r} {'is new' if name not in old else 'is gone'}")
        else:
            found += _text_differences(f"{what} {name!r}", old[name], new[name])
    return found


def _text_differences(what: str, old: str, new: str, most: int = 6) -> list[str]:
    if old == new:
        return []
    before, after = old.splitlines(), new.splitlines()
    found = []
    for tag, start, end, other_start, other_end in difflib.SequenceMatcher(
        None, before, after, autojunk=False
    ).get_opcodes():
        if tag != "equal":
            found += [
                f"{what}, line {start + 1 + number}: - {line}"
                for number, line in enumerate(before[start:end])
            ]
            found += [
                f"{what}, line {other_start + 1 + number}: + {line}"
                for number, line in enumerate(after[other_start:other_end])
            ]
    if not found:
        return [f"{what}: the end of the last line differs"]
    return found[:most] + (
        [f"{what}: and {len(found) - most} more lines"] if len(found) > most else []
    )
