"""Jobs that failed and are tried again by themselves, as the rules of :mod:`clusterjob.retry` say.

A record goes on: the attempt that is over is kept in its ``past``, the next one is held until its
time has come, and then submitted like what a process that died left open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterjob.backend import readable
from clusterjob.engine.arrays import aggregate
from clusterjob.retry import EXCLUDE, PROFILE, changed_resources, changes_after
from clusterjob.status import Reason, Status
from clusterjob.store import Phase, Record, Task


def try_again(record: Record, now: float) -> bool:
    """Hold a job that has just failed for another attempt, where its rules allow one; say whether.

    Of an array the elements that failed are tried again, once all have ended.
    """
    rules = record.spec.retry
    is_wanted = (
        rules and record.status is Status.FAILED and not record.cancel_requested
    )
    if not is_wanted:
        return False
    failed = {
        index: task
        for index, task in record.all_tasks().items()
        if task.status is Status.FAILED
    }
    found: dict[int | None, Mapping[str, object]] = {}
    profile = ""
    is_at_most = False
    for index, task in failed.items():
        changes = _changes_after(record, index, task)
        resources = _changed(record, changes, task)
        if changes is not None and resources is not None:
            found[index] = resources
            profile = str(changes.get(PROFILE, ""))
        is_at_most = is_at_most or (changes is not None and resources is None)
    if not found:
        if is_at_most:
            words = "not tried again: it has had the most that its rules allow"
            record.task.words = f"{record.task.words}; {words}".removeprefix("; ")
        return False
    _hold(record, failed, found, now)
    _go_elsewhere(record, profile)
    return True


def _go_elsewhere(record: Record, profile: str) -> None:
    """Let a job that is held go by another profile, if it is to, and is not there already."""
    for place in record.elsewhere:
        if profile and place.get("profile") == profile:
            record.past[-1]["folder"] = record.folder
            record.changed.pop(EXCLUDE, None)  # nodes of the other one
            record.move(place["cluster"], profile)
            return


def wait_for_parents(record: Record, now: float) -> None:
    """Hold a job that its scheduler dropped, because one that it comes after failed that is tried
    again.
    """
    history = record.task.history
    _make_held(record, now)
    words = "a job that it comes after failed, and is tried again"
    record.task = Task(words=words, history=history)
    if record.tasks is not None:
        record.tasks = {index: Task(attempt=record.attempt) for index in record.tasks}
    record.task.note_event(now, Status.PENDING.name, words)


def begin_again(record: Record, now: float) -> None:
    """Hold a job whose pack ended before its turn, to be submitted again."""
    if record.cancel_requested:
        record.drop(Reason.CANCELLED)
        return
    history = record.task.history
    _make_held(record, now)
    words = "its pack ended before its turn; submitted again"
    record.task = Task(words=words, history=history)
    record.task.note_event(now, Status.PENDING.name, words)


def _make_held(record: Record, retry_at: float) -> None:
    """Make another attempt of a submission, which is held until then."""
    record.attempt += 1
    record.phase, record.bundle = Phase.HELD, None
    record.job_id, record.member, record.submitted = None, None, None
    record.retry_at = retry_at


def _changes_after(
    record: Record, index: int | None, task: Task
) -> Mapping[str, object] | None:
    """Return what is changed for the next attempt; None where there is none."""
    rules = record.spec.retry
    before = [_reason_of(entry, index) for entry in record.past]
    past = [reason for reason in before if reason is not None]
    return changes_after(rules, past, task.reason, task.exit_code)


def _changed(
    record: Record, changes: Mapping[str, object] | None, task: Task
) -> Mapping[str, object] | None:
    """Return the resources that are other ones in the next attempt; None where there is none."""
    if changes is None:
        return None
    return changed_resources(record.spec.retry, changes, record.resources, task.host)


def _reason_of(entry: Mapping[str, Any], index: int | None) -> Reason | None:
    """Return why a job, or an element, failed in an attempt."""
    task = (
        entry.get("task", {}) if index is None else entry["tasks"].get(str(index), {})
    )
    return Reason(task["reason"]) if "reason" in task else None


def _hold(
    record: Record,
    failed: Mapping[int | None, Task],
    found: Mapping[int | None, Mapping[str, object]],
    now: float,
) -> None:
    changed: dict[str, Any] = {}
    for changes in found.values():
        changed |= {
            name: _larger(changed.get(name), changes[name]) for name in changes
        }
    entry: dict[str, Any] = {
        "attempt": record.attempt,
        "job_id": record.full_job_id,
        "changed": record.changed,
    }
    why = sorted({str(task.reason) for task in failed.values()})
    _make_held(record, now + record.spec.retry["delay"])
    if record.tasks is None:
        entry["task"] = _without_history(record.task)
        record.task = Task(history=record.task.history)
    else:
        entry["tasks"] = {
            str(index): _without_history(task) for index, task in failed.items()
        }
        for index in found:
            assert index is not None
            record.tasks[index] = Task(attempt=record.attempt)
        aggregate(record)
        record.task.reason = record.task.exit_code = record.task.signal = None
    record.past = (*record.past, entry)
    record.changed = {**record.changed, **changed}
    more = ", ".join(
        f"{name}={_shown(name, value)}" for name, value in changed.items()
    )
    words = f"attempt {record.attempt - 1} failed ({', '.join(why)}); tried again"
    record.task.words = f"{words} with {more}" if more else words
    record.task.note_event(now, Status.PENDING.name, record.task.words)


def _without_history(task: Task) -> dict[str, object]:
    """Return a task as plain values; the record's own history goes on."""
    data = task.to_json()
    data.pop("history", None)
    return data


def _larger(one: object, other: object) -> object:
    """Return what serves both of two elements."""
    if isinstance(one, list) and isinstance(other, list):
        return list(dict.fromkeys([*one, *other]))
    if isinstance(one, int) and isinstance(other, int):
        return max(one, other)
    return other


def _shown(name: str, value: Any) -> object:
    """Return a resource as people write it."""
    return (
        ",".join(map(str, value))
        if isinstance(value, list)
        else readable(name, value)
    )
