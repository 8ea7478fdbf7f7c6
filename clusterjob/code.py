"""What a function does, as a digest: so that one that was changed is known for another."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import sys
from abc import ABC
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, timedelta
from numbers import Number
from operator import attrgetter, itemgetter, methodcaller
from pathlib import Path, PurePath
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, Generic, Protocol

_PLAIN = (type(None), Number, str, bytes, range, PurePath, date, timedelta)
_BOUND = (BuiltinMethodType, MethodWrapperType)
_BARE = (object, Generic, Protocol, ABC)  # bases that keep nothing
_OF_NUMBERS = (
    "ndarray",
    "array",
    "bytearray",
    "memoryview",
)  # classes that are buffers
# folders of what was installed, in Python's and in Debian's own words
_INSTALLED = {"site-packages", "dist-packages"}
# of a class, what Python itself puts there
_NO_PART = {
    *("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__"),
    *("__static_attributes__", "__slotnames__"),
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
    """The words that tell a thing from others. One that comes again is said by its number; what
    belongs together stands between brackets.
    """

    def __init__(self, of_others: Callable[[object], str] | None) -> None:
        # by id; they are kept, lest an id is given twice
        self._seen: dict[int, tuple[int, object]] = {}
        self._of_others = of_others

    def of(self, value: Any) -> Iterator[str]:
        if type(value) is int:  # of any length
            yield f"int {value:x}"
            return
        if isinstance(value, _PLAIN) and not _is_own_class(type(value)):
            yield f"{type(value).__name__} {value!r}"
            return
        if id(value) in self._seen:
            yield f"as {self._seen[id(value)][0]}"
            return
        self._seen[id(value)] = len(self._seen), value
        yield f"{_name(value)} ("
        parts = self._parts_of(value)
        if not parts and self._of_others is not None and _is_other(value):
            yield self._of_others(value)
        for part in parts:
            yield from self.of(part)
        yield ")"

    def _parts_of(self, value: Any) -> Iterable[object]:
        if isinstance(
            value, AbstractSet
        ):  # in an order that is the same in every process
            return sorted(code_digest(item, self._of_others) for item in value)
        return _parts(value)


def _is_own_class(kind: type) -> bool:
    """Whether a class is not Python's or a library's."""
    return kind.__module__ != "builtins" and not _is_of_a_library(kind)


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
    if isinstance(value, _BOUND) and not isinstance(value.__self__, ModuleType):
        return value.__name__, value.__self__
    if isinstance(value, CodeType):
        return _parts_of_code(value)
    if _is_mixed(value):
        return _reduced(value)
    if isinstance(value, Mapping):
        factory = getattr(value, "default_factory", None)
        return [*value.items(), factory]
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
    if isinstance(value, ModuleType) or _is_of_a_library(value):
        return _values_of(value)
    if isinstance(value, FunctionType):
        return _parts_of_function(value)
    if isinstance(value, type):
        return type(value), value.__bases__, _own_parts(value)
    return type(value), _own_parts(value)


def _parts_of_code(code: CodeType) -> tuple[object, ...]:
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    # which steps a 'try' is around; before Python 3.11 it is in the steps
    table = getattr(code, "co_exceptiontable", b"")
    return code.co_code, *names, code.co_consts, *counts, code.co_flags, table


def _is_mixed(value: object) -> bool:
    """Whether a thing is of the user's own class that derives from one of Python's or a library's,
    which may keep a part of it where it is not seen.
    """
    kind = type(value)
    if not _is_own_class(kind) or isinstance(value, type):
        return False
    bases = [base for base in kind.__mro__[1:] if base not in _BARE]
    return any(not _is_own_class(base) for base in bases)


def _reduced(value: object) -> list[object]:
    """Return what a thing is made of, as it is copied and pickled."""
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:  # it is one that cannot be
        return [type(value), _own_parts(value)]
    if isinstance(reduced, str):
        return [type(value), reduced]
    return [list(part) if isinstance(part, Iterator) else part for part in reduced]


def _parts_of_function(function: FunctionType) -> Iterator[object]:
    yield function.__code__
    # what it wraps, the kinds of a generic function
    yield from (part for _, part in _own_parts(function))
    yield function.__defaults__
    yield function.__kwdefaults__
    yield from _annotations(function)
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


def _annotations(function: FunctionType) -> Iterator[object]:
    """Yield the annotations of a function, which decorators may read; nothing where one names what
    is not there (Python 3.14 looks when it is asked).
    """
    try:
        found = function.__annotations__
    except Exception:  # whatever the expression raises
        return
    if found:
        yield list(found.items())


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
    if (
        type(value).__name__ not in _OF_NUMBERS
    ):  # a masked array has more than its numbers
        return ()
    try:
        view = memoryview(value)  # type: ignore[arg-type]  # that is what is asked
    except (TypeError, ValueError):  # of times, too
        return ()
    if "O" in view.format:
        return ()
    data = view if view.c_contiguous else view.tobytes()
    order = view.c_contiguous, view.f_contiguous, view.readonly
    return view.format, view.shape, order, hashlib.sha256(data).hexdigest()


def _name(value: object) -> str:
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
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
    if (
        isinstance(value, FunctionType) and name == "builtins"
    ):  # of a text that was run
        return False
    top = str(name).partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    if top == __name__.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(str(name)), "__file__", None) or ""
    return not _INSTALLED.isdisjoint(Path(file).parts)
