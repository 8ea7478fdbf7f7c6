"""What a record in a store must look like: checked when it is read, because files are edited, disks
fail, and others may write there.

What was checked can be made an object of without an error.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from clusterjob.errors import show
from clusterjob.status import Dependency, Reason, Status

# s since the epoch, of a year with four digits; also other amounts
_MOST = 2.5e11
_WHOLE = (1 << 63) - 1
# stands between texts that are read together: who does not know it cannot make one of two
_BETWEEN = int.from_bytes(os.urandom(7), "big")


class _Kind(NamedTuple):
    """What values may be: their types, and what else is checked of all of them together."""

    types: frozenset[type]
    check: Callable[[Sequence[Any]], bool] | None = None

    def check_all(self, name: str, values: Sequence[Any]) -> None:
        """Raise ValueError where one of the values that have a name is not of this kind."""
        for given in set(map(type, values)).difference(self.types):
            raise ValueError(
                f"{name} is of type {given.__name__}, which is not expected"
            )
        if self.check is None or self.check(values):
            return
        wrong = next((one for one in values if not self.check([one])), values[0])
        raise ValueError(f"{name} is not what is expected there: {show(repr(wrong))}")


class _Shape:
    """What an object's names may be, and their values; ``needed`` are names that must be there.

    Objects are checked together, a name after the other, which is fast where they are alike.
    """

    def __init__(
        self, kinds: Mapping[str, _Kind], needed: tuple[str, ...] = ()
    ) -> None:
        self.kinds = kinds
        self._needed = needed

    def check(self, objects: Collection[Any]) -> None:
        """Raise ValueError where one of the objects is not of this shape."""
        if not _have_types(objects, dict):
            wrong = next(value for value in objects if type(value) is not dict)
            raise ValueError(
                f"expected an object with names, got {show(repr(wrong))}"
            )
        for names, group in _alike(objects).items():
            self._check_names(names)
            columns = zip(*map(dict.values, group), strict=True)
            for name, values in zip(names, columns, strict=True):
                self.kinds[name].check_all(name, values)

    def _check_names(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.kinds:
                raise ValueError(f"{show(name)} is an unknown name")
        for name in self._needed:
            if name not in names:
                raise ValueError(f"{name} is missing")


def _alike(
    objects: Collection[dict[str, Any]],
) -> Mapping[tuple[str, ...], Collection[dict[str, Any]]]:
    """Return the objects by their names; most often all have the same."""
    forms = set(map(tuple, objects))
    if len(forms) == 1:
        return {forms.pop(): objects}
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for value in objects:
        found.setdefault(tuple(value), []).append(value)
    return found


def _kind(
    *types: type, check: Callable[[Sequence[Any]], bool] | None = None
) -> _Kind:
    return _Kind(frozenset(types), check)


def _flat(values: Iterable[Iterable[Any]]) -> list[Any]:
    return list(chain.from_iterable(values))


def _flat_values(objects: Iterable[Mapping[str, Any]]) -> list[Any]:
    return _flat(value.values() for value in objects)


def _have_types(values: Iterable[Any], *types: type) -> bool:
    return set(map(type, values)) <= set(types)


def _are_small(numbers: Sequence[Any]) -> bool:
    """Whether numbers are some that times and amounts can have; NaN is none."""
    if not numbers:
        return True
    if not (min(numbers) > -_MOST and max(numbers) < _MOST):
        return False
    return not math.isnan(sum(numbers))


def _are_numbers(values: Sequence[Any]) -> bool:
    return _have_types(values, int, float) and _are_small(values)


def _are_within(least: int, most: int) -> Callable[[Sequence[Any]], bool]:
    return lambda values: least <= min(values) and max(values) <= most


def _are_among(known: Iterable[object]) -> Callable[[Sequence[Any]], bool]:
    return frozenset(known).issuperset


def _are_rows_of_texts(count: int) -> Callable[[Sequence[Any]], bool]:
    def check(values: Sequence[Any]) -> bool:
        rows = _flat(values)
        return (
            _have_types(rows, list)
            and set(map(len, rows)) <= {count}
            and _have_types(_flat(rows), str)
        )

    return check


def _are_histories(values: Sequence[Any]) -> bool:
    events = _flat(values)
    if not events:
        return True
    if not _have_types(events, list) or set(map(len, events)) != {3}:
        return False
    times, states, words = zip(*events, strict=True)
    return _are_numbers(times) and _have_types(chain(states, words), str)


def _are_bundles(values: Sequence[Any]) -> bool:
    if not set(map(len, values)) <= {4, 5}:
        return False
    tokens, folders, indices, ids = zip(*(value[:4] for value in values), strict=True)
    texts = _have_types(chain(tokens, folders, ids), str)
    numbers = [*indices, *(value[4] for value in values if len(value) > 4)]
    return texts and _have_types(numbers, int) and min(numbers) >= 0


def _are_counts_by_name(values: Sequence[Any]) -> bool:
    numbers = _flat_values(values)
    names = {"jobs", "seconds", "slots"}
    are_known = all(set(value) == names for value in values)
    return are_known and _have_types(numbers, int) and min(numbers) >= 0


def _are_places(values: Sequence[Any]) -> bool:
    places = _flat(values)
    names = {"spec", "backend", "host", "workdir", "folder", "cluster"}
    if not _have_types(places, dict):
        return False
    may_be = {"profile", "keys"}
    are_whole = all(set(place) - may_be == names for place in places)
    return are_whole and _have_types(_flat_values(places), str)


def _are_texts_by_name(values: Sequence[Any]) -> bool:
    return _have_types(values, dict) and _have_types(_flat_values(values), str)


def _are_rows_of_texts_by_name(values: Sequence[Any]) -> bool:
    rows = _flat(values)
    return _have_types(rows, dict) and _have_types(_flat_values(rows), str)


def _are_tasks_by_index(values: Sequence[Any]) -> bool:
    _TASK.check(_flat_values(values))
    return all(map(_is_index, _flat(values)))


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _have_shape(shape: _Shape) -> Callable[[Sequence[Any]], bool]:
    def check(values: Sequence[Any]) -> bool:
        shape.check(values)
        return True

    return check


_TEXT = _kind(str)
_FLAG = _kind(bool)
_OBJECT = _kind(dict)
_NUMBER = _kind(int, float, check=_are_small)
_INTEGER = _kind(int, check=_are_within(-_WHOLE, _WHOLE))
_COUNT = _kind(int, check=_are_within(0, _WHOLE))
_AMOUNTS = _kind(dict, check=lambda values: _are_numbers(_flat_values(values)))
_TEXTS = _kind(list, check=lambda values: _have_types(_flat(values), str))
_PAIRS = _kind(list, check=_are_rows_of_texts(2))
_TEXTS_BY_NAME = _kind(dict, check=_are_texts_by_name)
_TASK = _Shape(
    {
        "status": _kind(int, check=_are_among(map(int, Status))),
        "reason": _kind(str, check=_are_among(reason.value for reason in Reason)),
        "exit_code": _INTEGER,
        "signal": _INTEGER,
        "words": _TEXT,
        "started": _NUMBER,
        "ended": _NUMBER,
        "host": _TEXT,
        "usage": _AMOUNTS,
        "runs": _COUNT,
        "missing_since": _NUMBER,
        "history": _kind(list, check=_are_histories),
        "attempt": _COUNT,
        "files": _TEXT,
    },
    ("status",),
)
_PARENT = _Shape(
    {
        **dict.fromkeys(("name", "job_id", "key", "token", "array_id"), _TEXT),
        "records": _TEXTS,
        "how": _kind(str, check=_are_among(item.value for item in Dependency)),
        **dict.fromkeys(("done", "over", "late"), _FLAG),
    },
    ("name", "job_id", "records"),
)
_RECORD = _Shape(
    {
        **dict.fromkeys(
            ("key", "token", "name", "backend", "workdir", "runs"), _TEXT
        ),
        **dict.fromkeys(
            (
                "host",
                "job_id",
                "cluster",
                "place",
                "owner",
                "into",
                "campaign",
                "left",
                "user",
            ),
            _TEXT,
        ),
        **dict.fromkeys(("prologue", "epilogue", "outputs"), _TEXT),
        **dict.fromkeys(
            ("created", "retry_at", "cancel_requested", "leased"), _NUMBER
        ),
        "phase": _kind(
            str, check=_are_among(("submitting", "deferred", "held", "submitted"))
        ),
        "submitted": _kind(
            list,
            check=lambda values: (
                set(map(len, values)) == {2} and _are_numbers(_flat(values))
            ),
        ),
        "attempt": _COUNT,
        "elsewhere": _kind(list, check=_are_places),
        "past": _kind(list, check=lambda values: _have_types(_flat(values), dict)),
        "changed": _OBJECT,
        "parents": _kind(
            list, check=lambda values: _have_shape(_PARENT)(_flat(values))
        ),
        "bundle": _kind(list, check=_are_bundles),
        "wanted": _PAIRS,
        "programs": _PAIRS,
        "task": _kind(dict, check=_have_shape(_TASK)),
        "tasks": _kind(dict, check=_are_tasks_by_index),
        "version": _COUNT,
    },
    ("key", "token", "name", "backend", "workdir", "runs", "phase", "task"),
)
_CLUSTER = _Shape(
    {
        **dict.fromkeys(("name", "host", "transport", "ssh_config", "source"), _TEXT),
        "beside": _TEXTS,
        "overrides": _kind(
            dict, check=lambda values: _are_texts_by_name(_flat_values(values))
        ),
    }
)
_SPEC = _Shape(
    {
        **dict.fromkeys(
            ("body", "shell", "cwd", "into", "prologue", "epilogue"), _TEXT
        ),
        **dict.fromkeys(("filename", "cache_id", "setup", "base"), _TEXT),
        "resources": _OBJECT,
        "params": _OBJECT,
        "aux": _TEXTS_BY_NAME,
        "attributes": _TEXTS_BY_NAME,
        "backend": _kind(dict, check=_have_shape(_CLUSTER)),
        "inputs": _kind(list, check=_are_rows_of_texts(3)),
        "outputs": _PAIRS,
        "after": _kind(
            list, check=lambda values: _have_shape(_PARENT)(_flat(values))
        ),
        "rules": _COUNT,
        "alone": _FLAG,
        "apart": _FLAG,
        "pack": _kind(dict, check=_are_counts_by_name),
        "retry": _OBJECT,
        "tags": _TEXTS,
        "rows": _kind(list, check=_are_rows_of_texts_by_name),
    }
)

_TEXT_OR_NONE = _kind(str, type(None))
_INTEGER_OR_NONE = _kind(int, type(None))
_TIME_OR_NONE = _kind(
    *(int, float, type(None)),
    check=lambda values: _are_small([value for value in values if value is not None]),
)
# of Listed, without what it is searched by, and the last
_LISTED = {
    "member": _TEXT_OR_NONE,
    "status": _TASK.kinds["status"],
    "reason": _TEXT_OR_NONE,
    **dict.fromkeys(("exit_code", "signal"), _INTEGER_OR_NONE),
    **dict.fromkeys(("words", "backend", "host", "workdir", "folder"), _TEXT),
    "run_token": _TEXT,
    "created": _NUMBER,
    **dict.fromkeys(("started", "ended"), _TIME_OR_NONE),
    "usage": _AMOUNTS,
    "since": _NUMBER,
    "is_due": _FLAG,
    **dict.fromkeys(("stdout", "stderr"), _TEXT_OR_NONE),
    "campaign": _TEXT,
    "tags": _TEXTS,
    "user": _TEXT,
}


def is_note(value: Any) -> bool:
    """Whether these are the time and the number of a note."""
    if type(value) is not list or len(value) != 2:
        return False
    at, number = value
    return _are_numbers([at] if number is None else [at, number])


def read_values(text: object) -> Any:
    """Read JSON as it stands in a store. Raises ValueError for anything else."""
    if not isinstance(text, str):
        raise ValueError(f"expected text, got {show(repr(text))}")
    text.encode()  # what was no UTF-8 raises here
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_portion(texts: Sequence[object]) -> list[Any] | None:
    """Read many texts together; None where any of them is not what it should be."""
    try:
        together = f",{_BETWEEN},".join(texts)  # type: ignore[arg-type]
        values: list[Any] = read_values(f"[{together}]")
    except (ValueError, TypeError):
        return None
    between = values[1::2]
    if len(values) != 2 * len(texts) - 1 or between.count(_BETWEEN) != len(between):
        return None
    return values[::2]


def check_records(states: Collection[Any]) -> None:
    """Raise ValueError where one of these is not the state of a record, as plain values."""
    _RECORD.check(states)


def check_specs(specs: Collection[Any]) -> None:
    """Raise ValueError where one of these is not the spec of a record, as plain values."""
    _SPEC.check(specs)


def check_listed(rows: Sequence[Any]) -> bool:
    """Whether each of these is what :class:`Listed` is made of, as plain values."""
    if not rows:
        return True
    if not _have_types(rows, list) or set(map(len, rows)) != {len(_LISTED)}:
        return False
    try:
        for (name, kind), values in zip(
            _LISTED.items(), zip(*rows, strict=True), strict=True
        ):
            kind.check_all(name, values)
    except ValueError:
        return False
    return True
