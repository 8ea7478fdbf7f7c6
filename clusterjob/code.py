"""What a function does, as a digest: so that one that was changed is known for another."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, timedelta
from numbers import Number
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

_PLAIN = (type(None), Number, str, bytes, range, PurePath, date, timedelta)
# folders of what was installed, in Python's and in Debian's own words
_INSTALLED = {"site-packages", "dist-packages"}
# of a class, what Python itself puts there
_NO_PART = {
    *("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__"),
    "__static_attributes__",
}


def code_digest(
    function: object, of_others: Callable[[object], str] | None = None
) -> str:
    """Return what tells a function from others: 16 hexadecimal digits.

    It goes by the function's own bytecode, the values that it closes over and the global ones that
    it names: plain ones, lists and the like of them, arrays of numbers, jobs, dataclasses, and
    functions and classes of the user's own, into which it looks in turn. Of what comes from
    libraries, and of other objects, the name alone counts, or for objects of libraries what
    ``of_others`` makes of them. Another version of Python gives other digests.
    """
    digest = hashlib.sha256()
    for word in _Words(of_others).of(function):
        digest.update(word.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


class _Words:
    """The words that tell a thing from others; one that comes again is said once."""

    def __init__(self, of_others: Callable[[object], str] | None) -> None:
        self._seen: dict[int, object] = {}  # kept, lest an id is given twice
        self._of_others = of_others

    def of(self, value: Any) -> Iterator[str]:
        if isinstance(value, _PLAIN):
            yield f"{type(value).__name__} {value!r}"
            return
        yield _name(value)
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        parts = _parts(value)
        if not parts and self._of_others is not None and _is_other(value):
            yield self._of_others(value)
        for part in parts:
            yield from self.of(part)


def _is_other(value: object) -> bool:
    """Whether a thing is an object of a library's class, of which nothing is known."""
    if isinstance(value, (type, ModuleType)) or hasattr(value, "__qualname__"):
        return False
    return _is_of_a_library(value)


def _parts(value: Any) -> Iterable[object]:
    """Return what a thing consists of, as far as that counts."""
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, CodeType):
        return value.co_code, value.co_names, value.co_varnames, value.co_consts
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple, deque)):
        return value
    if isinstance(value, (classmethod, staticmethod)):
        return (value.__func__,)
    if isinstance(value, re.Pattern):
        return value.pattern, value.flags
    if isinstance(value, (itemgetter, attrgetter, methodcaller)):
        return (repr(value),)
    # argparse's too, which is not imported for this
    if isinstance(value, SimpleNamespace) or type(value).__name__ == "Namespace":
        return list(vars(value).items())
    if isinstance(value, AbstractSet):
        return sorted(map(repr, value))
    if isinstance(value, ModuleType) or _is_of_a_library(value):
        return _values_of(value)
    if isinstance(value, FunctionType):
        return _parts_of_function(value)
    if isinstance(value, type):
        return value.__bases__, _own_parts(value)
    return type(value), _own_parts(value)


def _parts_of_function(function: FunctionType) -> Iterator[object]:
    yield function.__code__
    # what it wraps, the kinds of a generic function
    yield from (part for _, part in _own_parts(function))
    yield function.__defaults__
    yield function.__kwdefaults__
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # nothing is in it yet
            yield cell.cell_contents
    names = dict.fromkeys(_names_in(function.__code__))
    for name in names:
        if name not in function.__globals__:
            continue
        found = function.__globals__[name]
        yield name
        yield found
        yield from _named_in_module(found, names, set())


def _named_in_module(
    found: object, names: Iterable[str], seen: set[int]
) -> Iterator[object]:
    """Yield what is named of a module of the user's own, and of modules that are named in it."""
    if (
        not isinstance(found, ModuleType)
        or _is_of_a_library(found)
        or id(found) in seen
    ):
        return
    seen.add(id(found))
    for name in names:
        if name in vars(found):
            yield vars(found)[name]
            yield from _named_in_module(vars(found)[name], names, seen)


def _names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that a piece of code uses, and those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _own_parts(value: object) -> list[tuple[str, object]]:
    """Return what was put into a class or an instance."""
    own = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                own[name] = getattr(value, name)
    return [(name, part) for name, part in own.items() if name not in _NO_PART]


def _values_of(value: object) -> Iterable[object]:
    """Return what an object of a library's stands for, where it is one of values: a job, a
    dataclass that compares by them, an array of numbers.
    """
    if isinstance(value, (type, FunctionType, ModuleType)):
        return ()
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, property):
        return value.fget, value.fset
    if hasattr(value, "prepare"):
        return _own_parts(value)
    if dataclasses.is_dataclass(value) and type(value).__eq__ is not object.__eq__:
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    try:
        view = memoryview(value)  # type: ignore[arg-type]  # that is what is asked
    except TypeError:
        return ()
    if "O" in view.format:
        return ()
    data = view if view.c_contiguous else view.tobytes()
    return view.format, view.shape, hashlib.sha256(data).hexdigest()


def _name(value: object) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    module = getattr(named, "__module__", "")
    return f"{module}.{getattr(named, '__qualname__', '')}"


def is_own(value: object) -> bool:
    """Whether a function or class is the user's own, so that what it does may change."""
    return isinstance(value, (type, FunctionType)) and not _is_of_a_library(value)


def _is_of_a_library(value: object) -> bool:
    """Whether a thing, or its class, is not the user's own: of Python's or an installed package."""
    if isinstance(value, ModuleType):
        name = value.__name__
    else:
        name = getattr(value, "__module__", None) or type(value).__module__
    top = str(name).partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    if top == __name__.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(str(name)), "__file__", None) or ""
    return not _INSTALLED.isdisjoint(Path(file).parts)
