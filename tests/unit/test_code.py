"""What tells a function from others."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest

from clusterjob import JobScript
from clusterjob.code import code_digest

PROGRAM = """
import argparse
import collections
import functools
import json
import operator
import re
import types

import mine
from clusterjob import JobScript, sweep

LIMIT = 3
TABLE = {"a": [1, 2.5], "b": (None, "x"), "c": {"r", "s", "t"}}
job = JobScript("echo {{ T }}", "x", mem="1G")


class Rule:
    most = 5

    def __init__(self, value):
        self.value = value

    def keeps(self, number):
        return number < self.most * self.value


rule = Rule(2)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Model:
    @classmethod
    def cut(cls):
        return 71

    @staticmethod
    def low():
        return 72

    @property
    def high(self):
        return 73

    @functools.cached_property
    def once(self):
        return 74


@functools.singledispatch
def kind(value):
    return 75


@kind.register(int)
def _(value):
    return 76


@functools.lru_cache
def cached():
    return 77


model = Model()
slotted = Slotted(81)
config = types.SimpleNamespace(cut=82)
options = argparse.Namespace(cut=83)
last = collections.deque([84])
pattern = re.compile("85")
pick = operator.itemgetter(86)


def helper(number):
    return number + LIMIT


def step(results: 87, more=1):
    kept = [helper(n) for n in range(more) if rule.keeps(n) and n in {1, 2, 3}]
    others = [Model.cut(), model.low(), model.high, model.once, kind(1), cached()]
    others += [slotted, config, options, last, pattern, pick]
    return sweep(job, T=[*kept, TABLE, mine.double(2), json.dumps("x"), *others])

"""
MINE = "def double(x):\n    return 2 * x\n\ndef unused():\n    return 3\n"


def digest(program: str = PROGRAM, mine: str = MINE) -> str:
    """Return the digest of the step of a program, which imports a module of the user's own."""
    own, main = ModuleType("mine"), ModuleType("program")
    exec(mine, vars(own))
    with mock.patch.dict(sys.modules, {"mine": own, "program": main}):
        exec(program, vars(main))
        return code_digest(main.step)


def test_it_is_the_same_in_each_process(tmp_path: Path) -> None:
    said = "from clusterjob.code import code_digest\nprint(code_digest(step))\n"
    (tmp_path / "program.py").write_text(PROGRAM + said)
    (tmp_path / "mine.py").write_text(MINE)
    command = [sys.executable, "-B", "program.py"]
    found = {
        subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("number + LIMIT", "number - LIMIT"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("2.5", "2.6"),
        ('"r", ', ""),
        ("{1, 2, 3}", "{1, 2, 4}"),
        ("most = 5", "most = 6"),
        ("number < self", "number <= self"),
        ("Rule(2)", "Rule(3)"),
        ("echo {{ T }}", "echo {{ T }};"),
        ('"1G"', '"2G"'),
        ("more=1", "more=2"),
        ("json.dumps", "json.loads"),
        *((str(number), "99") for number in (*range(71, 78), *range(81, 88))),
    ],
)
def test_what_counts(old: str, new: str) -> None:
    assert PROGRAM.count(old) == 1
    assert digest() != digest(PROGRAM.replace(old, new))


def test_modules_of_the_users_own_count_as_far_as_they_are_used(
    tmp_path: Path,
) -> None:
    assert digest() != digest(mine=MINE.replace("2 * x", "3 * x"))
    assert digest() == digest(mine=MINE.replace("3", "4"))


def test_where_it_stands_and_its_comments_do_not_count() -> None:
    moved = PROGRAM.replace("def helper", "# a word\n\n\ndef helper")
    assert digest() == digest(moved)


def test_values_that_are_closed_over() -> None:
    def make(value: object) -> Callable[[], object]:
        return lambda: value

    values: list[object] = [1, 1.5, True, "1", [1], (1,), {"a": 1}, {1}, b"1", None]
    values += [
        Path("a"),
        JobScript("a"),
        JobScript("b"),
        len,
        json.dumps,
        bytearray(2),
    ]
    digests = [code_digest(make(value)) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [code_digest(make(value)) for value in values]


def test_partials_methods_and_what_goes_in_a_circle() -> None:
    class Counter:
        def __init__(self, start: int) -> None:
            self.start = start
            self.me = self

        def step(self, more: int) -> int:
            return self.start + more

    assert code_digest(Counter(1).step) == code_digest(Counter(1).step)
    assert code_digest(Counter(1).step) != code_digest(Counter(2).step)
    one = functools.partial(Counter(1).step, 1)
    assert code_digest(one) != code_digest(functools.partial(Counter(1).step, 2))
    circle: list[object] = []
    circle.append(circle)
    assert code_digest(lambda: circle)


def test_arrays_count_by_their_numbers() -> None:
    numpy: ModuleType = pytest.importorskip("numpy")
    array = numpy.arange(6)

    def step() -> object:
        return array

    before = code_digest(step)
    assert code_digest(step) == before
    array[2] = 7
    assert code_digest(step) != before


class Many(list[int]):
    pass


def _closing(value: object) -> Callable[[], object]:
    return lambda: value


def _with(base: Any, key: int) -> Any:
    base.key = key
    return base


def _from_text(text: str) -> Any:
    space: dict[str, Any] = {}
    exec(text, space)
    return space["made"]


_ONE, _TWO = [1], [2]
_NEXT, _DOUBLE = (lambda x: x + 1), (lambda x: 2 * x)
_OTHERS = [
    ({"x": 1}.get, {"x": 2}.get),
    ("{:d}".format, "{:05d}".format),
    ((5).__add__, (6).__add__),
    (re.compile("a").sub, re.compile("b").sub),
    (_closing([[1], [2, 3]]), _closing([[1], [2], 3])),
    (_closing([[1], 2]), _closing([[1, 2]])),
    (lambda: ((1,), 2), lambda: ((1, 2),)),
    (_closing([_ONE, _TWO, _ONE]), _closing([_ONE, _TWO, _TWO])),
    (_closing([_NEXT, _DOUBLE, _NEXT]), _closing([_NEXT, _DOUBLE, _DOUBLE])),
    (lambda xs: len(xs), lambda *xs: len(xs)),
    (_closing(_with(Many([1]), 1)), _closing(_with(Many([1]), 2))),
    (_closing(Many([1])), _closing(Many([2]))),
    (_closing(defaultdict(int, {1: 2})), _closing(defaultdict(float, {1: 2}))),
    (_closing(10**5000), _closing(10**5000 + 1)),
    (_closing(1), _closing(True)),
    (_from_text("def made(x): return 1"), _from_text("def made(x): return 2")),
]


@pytest.mark.parametrize(("one", "other"), _OTHERS)
def test_what_is_another_one(one: object, other: object) -> None:
    assert code_digest(one) != code_digest(other)
    assert code_digest(one) == code_digest(one)


def test_which_module_a_name_means() -> None:
    import cmath
    import math

    def make(module: object) -> object:
        def root(number: float) -> object:
            return module.sqrt(number)  # type: ignore[attr-defined]

        return root

    assert code_digest(make(math)) != code_digest(make(cmath))


def test_what_a_class_of_classes_does() -> None:
    def make(number: int) -> type:
        class Meta(type):
            def value(cls) -> int:
                return number

        class Kind(metaclass=Meta):
            pass

        return Kind

    assert code_digest(make(1)) != code_digest(make(2))
    assert code_digest(make(1)) == code_digest(make(1))


def test_an_instance_that_was_pickled_is_what_it_was() -> None:
    class Plain:
        pass

    before = code_digest(Plain)
    Plain().__reduce_ex__(2)
    assert "__slotnames__" in vars(Plain)
    assert code_digest(Plain) == before
