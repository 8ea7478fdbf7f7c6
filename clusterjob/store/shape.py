"""What a record in a store must look like: checked when it is read, because files are edited, disks
fail, and others may write there.

What was checked can be made an object of without an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clusterjob.errors import show
from clusterjob.status import Reason, Status

_Check = Callable[[Any], object]
# what a value may be: its types, and what else is checked
_Kind = tuple[frozenset[type], "_Check | None"]
_Form = tuple[tuple[str, ...], tuple[type, ...]]
_MOST_FORMS = 1000  # that are remembered
# s since the epoch, of a year with four digits; also other amounts
_MOST = 2.5e11
_WHOLE = (1 << 63) - 1


class _Shape:
    """What an object's names may be, and their values; ``needed`` are names that must be there.

    Objects of a store are alike: what names and types are together is looked up, once it was seen.
    """

    def __init__(
        self, kinds: Mapping[str, _Kind], needed: tuple[str, ...] = ()
    ) -> None:
        self._kinds = kinds
        self._needed = needed
        self.checks_of: dict[_Form, list[tuple[str, _Check]]] = {}

    def learn(self, form: _Form) -> list[tuple[str, _Check]]:
        """Return what else is to be checked in an object of this form. Raises ValueError."""
        checks = []
        for name, given in zip(*form, strict=True):
            if name not in self._kinds:
                raise ValueError(f"{show(name)} is an unknown name")
            types, check = self._kinds[name]
            if given not in types:
                raise ValueError(
                    f"{name} is of type {given.__name__}, which is not expected"
                )
            if check is not None:
                checks.append((name, check))
        for name in self._needed:
            if name not in form[0]:
                raise ValueError(f"{name} is missing")
        if len(self.checks_of) < _MOST_FORMS:
            self.checks_of[form] = checks
        return checks


def _kind(*types: type, check: _Check | None = None) -> _Kind:
    return frozenset(types), check


def _is_small(value: Any) -> bool:
    """Whether a number is one that times and amounts can have; NaN is none."""
    return bool(-_MOST < value < _MOST)


def _is_number(value: Any) -> bool:
    return type(value) in (float, int) and _is_small(value)


def _are_numbers(value: Any) -> bool:
    return all(map(_is_number, value))


def _are_numbers_by_name(value: Any) -> bool:
    return all(map(_is_number, value.values()))


def _is_history(value: Any) -> bool:
    for event in value:
        if type(event) is not list or len(event) != 3:
            return False
        time, state, words = event
        if type(state) is not str or type(words) is not str or not _is_number(time):
            return False
    return True


def _is_text(value: Any) -> bool:
    return type(value) is str


def _are_texts(value: Any) -> bool:
    return all(map(_is_text, value))


def _are_texts_by_name(value: Any) -> bool:
    return type(value) is dict and _are_texts(value.values())


def _are_texts_by_section(value: Any) -> bool:
    return all(map(_are_texts_by_name, value.values()))


def _are_rows(count: int) -> _Check:
    def check(value: Any) -> bool:
        return all(
            type(item) is list and len(item) == count and _are_texts(item)
            for item in value
        )

    return check


def _is_task(value: Any) -> bool:
    _check(value, _TASK)
    return True


def _are_tasks(value: Any) -> bool:
    return all(_is_index(index) and _is_task(task) for index, task in value.items())


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _is_cluster(value: Any) -> bool:
    _check(value, _CLUSTER)
    return True


def _are_parents(value: Any) -> bool:
    for parent in value:
        _check(parent, _PARENT)
    return True


_TEXT = _kind(str)
_FLAG = _kind(bool)
_OBJECT = _kind(dict)
_NUMBER = _kind(int, float, check=_is_small)
_INTEGER = _kind(int, check=lambda value: -_WHOLE <= value <= _WHOLE)
_COUNT = _kind(int, check=lambda value: 0 <= value <= _WHOLE)
_TEXTS = _kind(list, check=_are_texts)
_PAIRS = _kind(list, check=_are_rows(2))
_TEXTS_BY_NAME = _kind(dict, check=_are_texts_by_name)
_TASK = _Shape(
    {
        "status": _kind(int, check={int(status) for status in Status}.__contains__),
        "reason": _kind(str, check={reason.value for reason in Reason}.__contains__),
        "exit_code": _INTEGER,
        "signal": _INTEGER,
        "words": _TEXT,
        "started": _NUMBER,
        "ended": _NUMBER,
        "host": _TEXT,
        "usage": _kind(dict, check=_are_numbers_by_name),
        "runs": _COUNT,
        "missing_since": _NUMBER,
        "history": _kind(list, check=_is_history),
    },
    ("status",),
)
_RECORD = _Shape(
    {
        **dict.fromkeys(
            ("key", "token", "name", "backend", "workdir", "runs"), _TEXT
        ),
        **dict.fromkeys(
            ("host", "job_id", "cluster", "place", "owner", "into"), _TEXT
        ),
        **dict.fromkeys(("prologue", "epilogue", "outputs"), _TEXT),
        **dict.fromkeys(
            ("created", "retry_at", "cancel_requested", "leased"), _NUMBER
        ),
        "phase": _kind(
            str, check={"submitting", "deferred", "submitted"}.__contains__
        ),
        "submitted": _kind(
            list, check=lambda value: len(value) == 2 and _are_numbers(value)
        ),
        "wanted": _PAIRS,
        "programs": _PAIRS,
        "task": _kind(dict, check=_is_task),
        "tasks": _kind(dict, check=_are_tasks),
        "version": _COUNT,
    },
    ("key", "token", "name", "backend", "workdir", "runs", "phase", "task"),
)
_CLUSTER = _Shape(
    {
        **dict.fromkeys(("name", "host", "transport", "ssh_config", "source"), _TEXT),
        "beside": _TEXTS,
        "overrides": _kind(dict, check=_are_texts_by_section),
    }
)
_PARENT = _Shape(
    {
        **dict.fromkeys(("name", "job_id", "key", "token"), _TEXT),
        "records": _TEXTS,
        "done": _FLAG,
    },
    ("name", "job_id", "records"),
)
_SPEC = _Shape(
    {
        **dict.fromkeys(
            ("body", "shell", "cwd", "into", "prologue", "epilogue"), _TEXT
        ),
        **dict.fromkeys(("filename", "cache_id", "setup"), _TEXT),
        "resources": _OBJECT,
        "params": _OBJECT,
        "aux": _TEXTS_BY_NAME,
        "attributes": _TEXTS_BY_NAME,
        "backend": _kind(dict, check=_is_cluster),
        "inputs": _kind(list, check=_are_rows(3)),
        "outputs": _PAIRS,
        "after": _kind(list, check=_are_parents),
        "rules": _COUNT,
    }
)


def is_note(value: Any) -> bool:
    """Whether these are the time and the number of a note."""
    if type(value) is not list or len(value) != 2:
        return False
    return _is_number(value[0]) and (value[1] is None or _is_number(value[1]))


def last_change(task: Mapping[str, Any]) -> float | None:
    """Return the time (s since the epoch) of the last event of a task that has events."""
    history = task.get("history")
    if not history or not _is_history(history):
        return None
    time: float = history[-1][0]
    return time


def read_values(text: object) -> Any:
    """Read JSON as it stands in a store. Raises ValueError for anything else."""
    if not isinstance(text, str):
        raise ValueError(f"expected text, got {show(repr(text))}")
    text.encode()  # what was no UTF-8 raises here
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_portion(
    texts: Sequence[object], check: Callable[[Any], None]
) -> list[Any] | None:
    """Read many texts together; None where any of them is not what it should be."""
    try:
        values = read_values(f"[{','.join(texts)}]")  # type: ignore[arg-type]
        if len(values) != len(texts):
            return None
        for value in values:
            check(value)
    except (ValueError, TypeError):
        return None
    found: list[Any] = values
    return found


def check_record(data: Any) -> None:
    """Raise ValueError where this is not the state of a record, as plain values."""
    _check(data, _RECORD)


def check_spec(data: Any) -> None:
    """Raise ValueError where this is not the spec of a record, as plain values."""
    _check(data, _SPEC)


def _check(data: Any, shape: _Shape) -> None:
    if type(data) is not dict:
        raise ValueError(f"expected an object with names, got {show(repr(data))}")
    form = (tuple(data), tuple(map(type, data.values())))
    checks = shape.checks_of.get(form)
    if checks is None:
        checks = shape.learn(form)
    for name, check in checks:
        if not check(data[name]):
            raise ValueError(
                f"{name} is not what is expected there: {show(repr(data[name]))}"
            )
