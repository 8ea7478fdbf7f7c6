"""Calls of functions by the embedded scheduler: what is remembered, cancelled, refused, printed."""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

import clusterjob
from clusterjob import (
    CallError,
    ClusterExecutor,
    CommandError,
    Process,
    SettingsError,
    WorkersFailedError,
)
from clusterjob.errors import StoreError
from clusterjob.functions.book import Book

np = pytest.importorskip("numpy")
LONG = 30.0


@pytest.fixture(autouse=True)
def own_queue(spool: Path) -> None:
    """Each test has the queue of the session's embedded scheduler."""


def _run_program(
    text: str, *words: str, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, to its end."""
    Path("program.py").write_text(text)
    return subprocess.run(
        [sys.executable, "program.py", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def _two_profiles(other: str, order: str) -> list[str]:
    """Write profiles of this machine and of another cluster, which comes ``order``."""
    Path("here.ini").write_text("[Attributes]\nbackend = local\n")
    Path("other.ini").write_text(other)
    profiles = ["other.ini", "here.ini"]
    return profiles if order == "first" else profiles[::-1]


def _mark(folder: Path) -> Callable[[object], object]:
    """Return a function that leaves a mark for each call, and gives its argument back."""

    def mark(value: object) -> object:
        with open(folder / f"{value}", "a") as file:
            file.write("x")
        return value

    return mark


def _marks(folder: Path) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in folder.iterdir()}


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


# -- what is remembered ----------------------------------------------------------------------------


def test_the_same_again_is_not_called(marks: Path) -> None:
    for _ in range(2):
        assert list(clusterjob.map(_mark(marks), range(5))) == list(range(5))
    with ClusterExecutor() as executor:
        future = executor.submit(_mark(marks), 3)
        assert future.result(LONG) == 3
        assert future.reused
    assert list(clusterjob.map(_mark(marks), [3, 9])) == [3, 9]
    assert _marks(marks) == dict.fromkeys(map(str, [*range(5), 9]), 1)


def test_what_is_not_to_be_remembered(marks: Path) -> None:
    for _ in range(2):
        assert list(clusterjob.map(_mark(marks), [1], cache=False)) == [1]
    for version in (1, 2):
        assert list(clusterjob.map(_mark(marks), [1], version=version)) == [1]
    assert _marks(marks) == {"1": 4}


def test_equal_calls_are_as_many_as_there_are() -> None:
    def draw(_: int) -> float:
        import random

        return random.random()

    first = list(clusterjob.map(draw, [0] * 6))
    assert len(set(first)) == 6
    assert list(clusterjob.map(draw, [0] * 6)) == first
    assert list(clusterjob.map(draw, [0] * 7))[:6] == first


FACTOR = 2
FRAME = None


def _scaled(value: int) -> int:
    return FACTOR * value


def _helper(value: int) -> int:
    return value + 1


def _through_helper(value: int) -> int:
    return _helper(value)


def test_a_change_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the code, in what it closes over, in globals, in what it calls, in defaults."""

    def run(function: Callable[..., Any]) -> Any:
        (found,) = clusterjob.map(function, [10])
        return found

    def with_default(value: int, by: int = 3) -> int:
        return by * value

    def closing(by: object) -> Callable[[int], object]:
        return lambda value: np.sum(by) * value

    assert run(_scaled) == 20
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 5)
    monkeypatch.setattr(_scaled, "__module__", "__main__")  # it travels as code
    assert run(_scaled) == 50
    assert run(with_default) == 30
    with_default.__defaults__ = (4,)
    assert run(with_default) == 40
    assert run(closing(np.ones(3))) == 30
    assert run(closing(np.ones(4))) == 40
    assert run(closing({"a": 1}.values() and 2)) == 20
    assert run(functools.partial(pow, 2)) == 1024
    assert run(functools.partial(pow, 3)) == 59049


def test_a_data_frame_that_is_closed_over_counts() -> None:
    pandas = pytest.importorskip("pandas")

    def total(frame: Any) -> Callable[[int], int]:
        return lambda value: int(frame["a"].sum()) * value

    one = pandas.DataFrame({"a": [1, 2]})
    two = pandas.DataFrame({"a": [1, 3]})
    assert list(clusterjob.map(total(one), [1])) == [3]
    assert list(clusterjob.map(total(two), [1])) == [4]


def test_sets_and_dicts_of_other_orders_are_the_same(marks: Path) -> None:
    text = (
        "import clusterjob, sys\n"
        "def count(words, folder):\n"
        "    open(folder + '/calls', 'a').write('x')\n"
        "    return len(words)\n"
        f"print(list(clusterjob.starmap(count, [({{'a', 'b', 'c', 'd'}}, {str(marks)!r})])))\n"
    )
    for seed in "123":
        done = _run_program(text, PYTHONHASHSEED=seed)
        assert done.stdout == "[4]\n", done.stderr
    assert _marks(marks) == {"calls": 1}


def test_a_failure_is_not_remembered(marks: Path) -> None:
    def flaky(_: int) -> int:
        (marks / "tries").open("a").write("x")
        if len((marks / "tries").read_text()) < 2:
            raise ValueError("not yet")
        return 5

    with pytest.raises(ValueError, match="not yet"):
        list(clusterjob.map(flaky, [1]))
    assert list(clusterjob.map(flaky, [1])) == [5]


def test_two_maps_at_once_of_the_same(marks: Path) -> None:
    function = _mark(marks)
    first = clusterjob.map(function, range(4))
    second = clusterjob.map(function, range(4))
    assert list(second) == list(first) == list(range(4))
    assert _marks(marks) == dict.fromkeys("0123", 1)


def test_two_programs_at_once(marks: Path) -> None:
    program = Path("program.py")
    program.write_text(
        "import clusterjob, time\n"
        "def mark(value, folder):\n"
        "    open(f'{folder}/{value}', 'a').write('x')\n"
        "    time.sleep(0.1)\n"
        "    return value\n"
        f"print(sum(clusterjob.map(mark, range(20), [{str(marks)!r}] * 20, max_workers=2)))\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, str(program)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [one.communicate(timeout=60)[0] for one in both] == ["190\n"] * 2
    assert _marks(marks) == {str(number): 1 for number in range(20)}


# -- what travels ----------------------------------------------------------------------------------


class Model:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def run(self, value: int) -> int:
        return self.factor * value


def test_kinds_of_functions() -> None:
    kinds: list[Callable[[int], object]] = [
        lambda value: value + 1,
        functools.partial(pow, 2),
        Model(3).run,
        str,
        [].__contains__,
    ]
    with ClusterExecutor() as executor:
        found = [executor.submit(kind, 4) for kind in kinds]
        assert [future.result(LONG) for future in found] == [5, 16, 12, "4", False]


def test_classes_of_a_program_come_back_as_its_own() -> None:
    text = (
        "import clusterjob\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "class Bad(Exception): pass\n"
        "def make(x):\n"
        "    if x == 2: raise Bad('two')\n"
        "    return Point(x)\n"
        "a, b = clusterjob.map(make, [1, 2], return_exceptions=True)\n"
        "print(type(a) is Point, a.x, type(b) is Bad, b)\n"
    )
    for _ in range(2):
        done = _run_program(text)
        assert done.stdout == "True 1 True two\n", done.stderr


def test_large_arrays_go_beside_the_pickle(tmp_path: Path) -> None:
    array = np.arange(1 << 20, dtype=float)

    def double(given: Any) -> Any:
        given *= 2  # what it changes is its own
        return given

    with ClusterExecutor(max_workers=2, cache=False) as executor:
        found = list(executor.map(double, [array] * 3))
        pool = executor._dispatch.stations[0].pool
        assert pool is not None
        assert len(pool._shared) == 2  # the function, and the array once
    assert all(np.array_equal(one, 2 * np.arange(1 << 20)) for one in found)
    assert array[1] == 1


def test_an_array_that_is_changed_while_it_is_given(tmp_path: Path) -> None:
    def rows() -> Iterator[Any]:
        array = np.zeros(1 << 18)
        for _ in range(3):
            array += 1
            yield array

    with (
        ClusterExecutor(max_workers=1, cache=False) as executor,
        pytest.raises(CallError, match="changed in place"),
    ):
        executor.map(np.sum, rows())


def test_a_generator_is_not_read_ahead_without_bound() -> None:
    read = itertools.count()
    with ClusterExecutor(max_workers=1) as executor:
        found = executor.map(
            abs, (next(read) for _ in itertools.count()), buffersize=10
        )
        assert [next(found) for _ in range(25)] == list(range(25))
        assert next(read) < 50
        found.close()  # type: ignore[attr-defined]


def test_modules_that_are_sent_along(tmp_path: Path) -> None:
    package = tmp_path / "elsewhere" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from mine.inner import double\n")
    (package / "inner.py").write_text("def double(x): return 2 * x\n")

    def use(value: int) -> int:
        import mine  # type: ignore[import-not-found]

        found: int = mine.double(value)
        return found

    with pytest.raises(ModuleNotFoundError, match=r"include=\['mine'\]"):
        list(clusterjob.map(use, [1]))
    assert list(clusterjob.map(use, [1], include=[package])) == [2]
    with pytest.raises(SettingsError, match="no module 'not_there'"):
        clusterjob.map(use, [1], include=["not_there"])


# -- what goes wrong -------------------------------------------------------------------------------


class Stubborn(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def _raise(what: str) -> object:
    if what == "stubborn":
        raise Stubborn(1, 2)
    if what == "exit":
        os._exit(4)
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "lock":
        import threading

        return threading.Lock()
    raise KeyError(what)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("stubborn", "1 and 2"),
        ("exit", "exit code 4"),
        ("segfault", "signal 11"),
        ("lock", "cannot be pickled"),
    ],
)
def test_one_bad_call_does_not_lose_the_others(what: str, words: str) -> None:
    given = ["a", what, "b"]
    with ClusterExecutor(max_workers=1) as executor:
        one, bad, other = executor.map(
            _raise, given, chunksize=3, return_exceptions=True
        )
        assert isinstance(one, KeyError)
        assert isinstance(other, KeyError)
        assert isinstance(bad, CallError)
        assert words in str(bad)
        assert f"_raise('{what}')" in str(bad)
        assert executor.submit(abs, -1).result(LONG) == 1


def test_the_traceback_over_there_is_the_cause() -> None:
    def inner() -> None:
        raise ValueError("deep")

    with ClusterExecutor() as executor:
        error = executor.submit(inner).exception(LONG)
    assert isinstance(error, ValueError)
    assert "in inner" in str(error.__cause__)
    assert __file__ in str(error.__cause__)  # the file that the function is of
    assert "runner" not in str(error.__cause__)


def test_a_python_that_is_not_there() -> None:
    with ClusterExecutor(python="no-such-python") as executor:
        error = executor.submit(abs, 1).exception(LONG)
    assert isinstance(error, CommandError)
    assert "python = " in str(error)


def _python(version: str) -> str:
    named = shutil.which(f"python{version}")
    # beside this one, as pyenv has them
    others = Path(sys.base_prefix).parent
    found = [str(path) for path in others.glob(f"{version}.*/bin/python3")]
    for path in (*found, named):
        if path and subprocess.run([path, "-c", ""]).returncode == 0:
            return path
    pytest.skip(f"there is no Python {version} here")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
def test_another_python(version: str) -> None:
    """What is sent as code is refused before anything is queued; functions by name are called."""
    python = _python(version)
    if "{}.{}".format(*sys.version_info) == version:
        pytest.skip("it is this one")
    with ClusterExecutor(python=python) as executor:
        error = executor.submit(lambda: 1).exception(LONG)
        assert isinstance(error, SettingsError)
        assert version in str(error)
        assert not executor._session.results()
        assert executor.submit(pow, 2, 5).result(LONG) == 32
        bad = executor.submit(divmod, 1, 0).exception(LONG)
        assert isinstance(bad, ZeroDivisionError)


def test_workers_that_cannot_begin() -> None:
    with ClusterExecutor(setup="exit 9") as executor:
        error = executor.submit(abs, 1).exception(LONG)
    assert isinstance(error, WorkersFailedError)
    assert isinstance(error, futures.BrokenExecutor)
    assert "the setup of the profile ended" in str(error)


def test_a_time_limit(tmp_path: Path) -> None:
    with ClusterExecutor(time="6s", max_workers=1, cache=False) as executor:
        quick = executor.submit(abs, -2)
        long = executor.submit(time.sleep, 60)
        assert quick.result(LONG) == 2
        error = long.exception(LONG)
        assert isinstance(error, CallError)
        assert error.reason is clusterjob.Reason.TIMEOUT
        assert executor.submit(abs, -3).result(LONG) == 3  # by another worker


@pytest.mark.parametrize(
    "settings",
    [
        {"max_workers": 0},
        {"idle": -1},
        {"retry": 3},
        {"profile": "no.ini"},
        {"profile": "a", "profiles": ["b"]},
        {"array": "1-3"},
        {"version": 1.5},
        {"include": "mine"},
        {"mem": "much"},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises((SettingsError, ValueError)):
        ClusterExecutor(**settings)
    assert not Path(".clusterjob-calls").exists()


# -- what is printed -------------------------------------------------------------------------------


def _talk(lines: int) -> None:
    for number in range(lines):
        print("line", number)
    warnings.warn("careful", stacklevel=1)
    logging.getLogger("mine").error("noted")
    os.system("echo from a child")


def test_what_functions_print() -> None:
    with ClusterExecutor(max_workers=1) as executor:
        some = [executor.submit(_talk, lines) for lines in (1, 20_000)]
        for future in some:
            future.result(LONG)
        short, long = some
        assert short.stdout() == "line 0\nfrom a child\n"
        assert "careful" in short.stderr()
        assert "noted" in short.stderr()
        assert long.stdout().count("line ") == 20_000
        assert long.stdout().startswith("line 0\n")


# -- cancelling, waiting ---------------------------------------------------------------------------


def test_cancelling(marks: Path) -> None:
    with ClusterExecutor(max_workers=1, cache=False) as executor:
        running = executor.submit(time.sleep, 4)
        while not running.running():
            time.sleep(0.01)
        waiting = [executor.submit(_mark(marks), number) for number in range(4)]
        time.sleep(0.3)
        assert waiting[1].cancel()
        assert waiting[2].cancel()
        assert not running.cancel()
        assert [future.cancelled() for future in waiting] == [
            False,
            True,
            True,
            False,
        ]
        assert waiting[0].result(LONG) == 0
        assert waiting[3].result(LONG) == 3
    assert _marks(marks) == {"0": 1, "3": 1}


def test_a_long_call_holds_back_nothing() -> None:
    def take(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    with ClusterExecutor(max_workers=2, cache=False) as executor:
        list(executor.map(take, [0.001] * 8))
        some = executor.submit_all(take, [((s,), {}) for s in (8, *[0.001] * 30)], 31)
        for future in some[1:]:
            future.result(LONG)
        assert not some[0].done()


def test_asyncio() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with ClusterExecutor(max_workers=2) as executor:
            tasks = [loop.run_in_executor(executor, pow, 2, n) for n in range(4)]
            return list(await asyncio.gather(*tasks))

    assert asyncio.run(main()) == [1, 2, 4, 8]


def test_ctrl_c(marks: Path) -> None:
    """It stops waiting, says how to go on, and the workers go on."""
    program = Path("program.py")
    program.write_text(
        "import clusterjob, time\n"
        "def mark(value, folder):\n"
        "    open(f'{folder}/{value}', 'a').write('x')\n"
        "    time.sleep(0.5)\n"
        "    return value\n"
        f"found = clusterjob.map(mark, range(8), [{str(marks)!r}] * 8, max_workers=2)\n"
        "print('first', next(found), flush=True)\n"
        "print(sum(found))\n"
    )
    command = [sys.executable, str(program)]
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "first 0\n"
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=20)
    assert "Run the same again" in said
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.stdout == "first 0\n28\n", second.stderr
    assert _marks(marks) == {str(number): 1 for number in range(8)}


# -- workers ---------------------------------------------------------------------------------------


def test_workers_come_and_go() -> None:
    with ClusterExecutor(max_workers=1, cache=False) as executor:
        some = [executor.submit(time.sleep, 0.4) for _ in range(8)]
        time.sleep(1.0)
        executor.max_workers = 3
        for future in some:
            future.result(LONG)
        workers = executor._dispatch.stations[0].workers
        assert workers is not None
        assert sum(item.elements for item in workers.generations) > 1
        executor.max_workers = 1
        assert executor.submit(abs, -1).result(LONG) == 1


def test_several_clusters_take_from_one_list(marks: Path) -> None:
    for name in ("one", "two"):
        # other limits make another cluster
        Path(f"{name}.ini").write_text(
            f"[Attributes]\nbackend = local\nworkdir = {name}\n"
            f"[Limits]\nfirst_poll = 0.{len(name) + (name == 'two')}\n"
        )
        Path(name).mkdir()

    def where(number: int) -> str:
        time.sleep(0.2)
        return os.path.basename(os.getcwd())

    found = list(
        clusterjob.map(
            where, range(40), profiles=["one.ini", "two.ini"], max_workers=1
        )
    )
    assert set(found) == {"one", "two"}


@pytest.mark.parametrize(
    "bad",
    [
        "[Attributes]\nbackend = local\nsetup = exit 3\npython = /bin/python0\n",
        "[Attributes]\nbackend = local\nsetup = exit 3\n",
        "[Attributes]\nbackend = lsf\n",
    ],
    ids=["no Python", "workers that end", "no scheduler"],
)
@pytest.mark.parametrize("order", ["first", "last"])
def test_a_cluster_that_refuses(
    bad: str, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its calls go to the other one, with a warning; alone it is an error."""
    profiles = _two_profiles(bad, order)
    found = clusterjob.map(abs, range(40), profiles=profiles, max_workers=1)
    assert list(found) == list(range(40))
    with pytest.raises(clusterjob.ClusterJobError):
        list(clusterjob.map(abs, [-7], profile="other.ini"))
    if order == "first":
        assert "gets no more calls" in caplog.text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes")
def test_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def holds() -> object:
        return lock

    with ClusterExecutor() as executor:
        with pytest.raises(TypeError) as caught:
            executor.submit(holds)
        assert "holds, or something that it uses" in caught.value.__notes__[0]
        error = executor.submit(id, lock).exception(LONG)
        assert error is not None
        assert "arguments of id(<" in error.__notes__[0]


def test_workers_that_end_again() -> None:
    """The same program again has the same error, and leaves nothing; mended it runs."""
    text = (
        "import sys, clusterjob\n"
        "from pathlib import Path\n"
        "def run():\n"
        "    try:\n"
        "        return list(clusterjob.map(abs, [-1, -2], profile='p.ini'))\n"
        "    except clusterjob.WorkersFailedError:\n"
        "        return 'workers failed'\n"
        "profile = Path('p.ini')\n"
        "profile.write_text('[Attributes]\\nbackend = local\\nsetup = test -e mended\\n')\n"
        "print(run(), run())\n"
        "if sys.argv[1:]:\n"
        "    Path('mended').touch()\n"
        "    print(run())\n"
        "    Path('mended').unlink()\n"
        "    profile.write_text('[Attributes]\\nbackend = local\\n')\n"
        "    print(run())\n"
    )
    for _ in range(2):
        done = _run_program(text)
        assert done.stdout == "workers failed workers failed\n", done.stderr
        assert not Path(".clusterjob-calls").exists()
    done = _run_program(text, "mended")
    assert done.stdout.splitlines()[1:] == ["[1, 2]"] * 2, done.stderr


def _say() -> tuple[str, str]:
    return os.environ.get("WORD", ""), os.environ.get("PYTHON_OF_MINE", "")


def test_results_of_another_setup_or_python() -> None:
    """They are another environment's."""
    wrapper = Path("python").absolute()
    wrapper.write_text(f'#!/bin/sh\nPYTHON_OF_MINE=yes exec {sys.executable} "$@"\n')
    wrapper.chmod(0o700)
    profile = Path("p.ini")
    for line, wanted in (
        ("", ("", "")),
        ("setup = export WORD=two", ("two", "")),
        ("setup = export WORD=three", ("three", "")),
        (f"python = {wrapper}", ("", "yes")),
    ):
        profile.write_text(f"[Attributes]\nbackend = local\n{line}\n")
        assert list(clusterjob.starmap(_say, [()], profile="p.ini")) == [wanted]


@pytest.mark.parametrize(
    "what", ["others may write", "no store", "no book", "a file"]
)
def test_a_store_that_cannot_be_used(what: str) -> None:
    """It is an error at once, before any call is sent."""
    store = Path("store")
    if what == "others may write":
        store.mkdir()
        store.chmod(0o777)
    elif what == "a file":
        store.write_text("x")
    elif what == "no book":
        Path("store/store-calls").mkdir(0o700, parents=True)
        Path("store/store-calls/calls.sqlite").write_bytes(b"x" * 5000)
    else:
        store.mkdir()
        Path("store/store.sqlite").write_bytes(b"x" * 5000)
    done = _run_program(
        "import clusterjob\nprint(list(clusterjob.map(abs, [-1])))\n",
        timeout=20,
        CLUSTERJOB_STORE=str(store.absolute()),
    )
    assert "StoreError" in done.stderr, done.stderr
    assert not Path(".clusterjob-calls").exists()


def test_workers_wait_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it cannot be written, no worker has come and gone."""
    troubles = [StoreError("the disk is full")] * 6
    submit = clusterjob.Session.submit

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return submit(*args, **kwargs)

    monkeypatch.setattr(clusterjob.Session, "submit", refuse)
    monkeypatch.setattr("clusterjob.functions.executor._PAUSES", (0.1, 0.1))
    assert list(clusterjob.map(abs, [-1, -2])) == [1, 2]
    assert not troubles


def test_results_that_cannot_be_remembered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are told all the same, with a warning; a store that stays full fails what is left."""

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Book, "finish", refuse)
        patch.setattr("clusterjob.functions.pool._UNWRITTEN", 0.3)
        assert list(clusterjob.map(abs, [-1, -2])) == [1, 2]
        assert "are told, and not remembered: the disk is full" in caplog.text
        patch.setattr(Book, "send", refuse)
        patch.setattr("clusterjob.functions.executor._PATIENCE", 0.3)
        patch.setattr("clusterjob.functions.executor._PAUSES", (0.1, 0.1))
        with pytest.raises(StoreError):
            list(clusterjob.map(abs, [-3]))
    assert list(clusterjob.map(abs, [-1, -2, -3])) == [1, 2, 3]


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_cluster_that_cannot_be_reached(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The other ones make the calls meanwhile."""
    away = "[Attributes]\nbackend = slurm\nremote = no-such-host.invalid\n"
    profiles = _two_profiles(away, order)
    assert list(clusterjob.map(abs, range(9), profiles=profiles)) == list(range(9))
    assert order == "last" or "cannot be sent to other.ini now" in caplog.text
    with pytest.raises(clusterjob.TransportError):
        clusterjob.map(abs, [1], profile="other.ini")


def test_defaults_that_were_changed_since(marks: Path) -> None:
    """The next map runs where they say."""
    Path("p.ini").write_text(
        "[Attributes]\nbackend = local\nsetup = export WORD=two\n"
    )
    assert list(clusterjob.starmap(_say, [()])) == [("", "")]
    clusterjob.JobScript.read_defaults("p.ini")
    try:
        assert list(clusterjob.starmap(_say, [()])) == [("two", "")]
    finally:
        clusterjob.JobScript.read_defaults()
    assert list(clusterjob.starmap(_say, [()])) == [("", "")]


def test_a_call_that_cannot_be_cancelled_runs(marks: Path) -> None:
    def wait(folder: str) -> None:
        (Path(folder) / "begun").touch()
        while not (Path(folder) / "end").exists():
            time.sleep(0.05)

    with ClusterExecutor(max_workers=1) as executor:
        future = executor.submit(wait, str(marks))
        while not (marks / "begun").exists():
            time.sleep(0.01)
        assert not future.cancel()
        assert future.running()
        (marks / "end").touch()


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("order", ["first", "last"])
def test_a_cluster_whose_queue_is_long(count: int, order: str) -> None:
    """The other one makes all calls."""
    full = "[Attributes]\nbackend = local\n[Resources]\nbegin = 2040-01-01T00:00\n"
    profiles = _two_profiles(full, order)
    found = clusterjob.map(abs, range(count), profiles=profiles, timeout=LONG)
    assert list(found) == list(range(count))


def test_more_memory_for_the_next_try(tmp_path: Path) -> None:
    def greedy() -> int:
        return len(bytearray(150 << 20))

    retry = clusterjob.Retry(times=2, out_of_memory={"mem": 4})
    with ClusterExecutor(mem="90M", max_workers=1, retry=retry) as executor:
        assert executor.submit(greedy).result(60) == 150 << 20


def test_nothing_is_left_behind() -> None:
    with ClusterExecutor() as executor:
        executor.submit(abs, 1).result(LONG)
    assert not Path(".clusterjob-calls").exists()
    workers = clusterjob.default_session().results()
    assert clusterjob.wait(workers, LONG).not_done == []


# -- processes -------------------------------------------------------------------------------------


def test_a_derived_process() -> None:
    done = _run_program(
        "from clusterjob import Process\n"
        "class Counter(Process):\n"
        "    def __init__(self, start):\n"
        "        super().__init__(name='counter')\n"
        "        self.start_at = start\n"
        "    def run(self):\n"
        "        print(self.name, 'runs')\n"
        "        return self.start_at + 1\n"
        "one = Counter(4)\n"
        "print(one.is_alive(), one.exitcode)\n"
        "one.start()\n"
        "one.join()\n"
        "print(one.is_alive(), one.exitcode, one.result(), one.stdout().strip())\n"
    )
    assert done.stdout == "False None\nFalse 0 5 counter runs\n", done.stderr


def test_what_a_process_is_like() -> None:
    one = Process(target=json.dumps, args=([1],), kwargs={"indent": None})
    with pytest.raises(AssertionError):
        one.join()
    one.start()
    with pytest.raises(AssertionError):
        one.start()
    assert one.name.startswith("Process-")
    one.join(LONG)
    assert one.exitcode == 0
    assert one.result() == "[1]"
    with pytest.raises(clusterjob.ClusterJobError, match="sentinel"):
        _ = one.sentinel
    bad = Process(target=divmod, args=(1, 0))
    bad.start()
    bad.join(LONG)
    assert bad.exitcode == 1
    one.close()
    assert "closed" in repr(one)
    for use in (one.is_alive, one.join, one.result):
        with pytest.raises(ValueError, match="closed"):
            use()


# -- found by others -------------------------------------------------------------------------------


PACKAGE = """
import clusterjob, sys, pk.z
import numpy as np
from pk import z
class Model:
    def __init__(self): self.f = 2
def chain(x): return pk.z.q(x)
def through(function, x): return function(x)
def run(model, x): return model.run(x)
with clusterjob.ClusterExecutor(max_workers=1) as executor:
    some = [
        executor.submit(chain, 1),
        executor.submit(through, z.q, 1),
        executor.submit(through, lambda x: z.q(x), 1),
        executor.submit(run, z.Model(), 1),
        executor.submit(run, model=z.Model(), x=1),
        executor.submit(np.vectorize(z.q), 1),
        executor.submit(z.vectorized, 1),
    ]
    print([int(future.result(30)) for future in some], [f.reused for f in some])
"""


def test_code_of_own_modules_counts_wherever_it_is_named() -> None:
    Path("pk").mkdir()
    Path("pk/__init__.py").touch()
    for number, is_known in ((1, False), (1, True), (22, False)):
        Path("pk/z.py").write_text(
            f"import numpy as np\ndef q(x): return {number}\n"
            f"class Model:\n    def run(self, x): return {number}\n"
            "vectorized = np.vectorize(q)\n"
        )
        done = _run_program(PACKAGE, PYTHONDONTWRITEBYTECODE="1")
        assert done.stdout == f"{[number] * 7} {[is_known] * 7}\n", done.stderr


OBJECTS = """
import clusterjob
from collections import namedtuple
Row = namedtuple("Row", "a b")
class Plain:
    def __init__(self, x): self.x = x
def use(thing): return thing[0] if isinstance(thing, tuple) else thing.x
with clusterjob.ClusterExecutor(max_workers=1) as executor:
    some = [executor.submit(use, thing) for thing in (Row(1, 2), Plain(3))]
    print([future.result(30) for future in some], [future.reused for future in some])
"""


def test_objects_of_the_program_are_known_again() -> None:
    for is_known in (False, True):
        done = _run_program(OBJECTS)
        assert done.stdout == f"[1, 3] {[is_known] * 2}\n", done.stderr


def test_equal_calls_of_a_remote_function_are_apart() -> None:
    @clusterjob.remote(max_workers=1)
    def draw(_: int) -> float:
        import random

        return random.random()

    assert len({future.result(LONG) for future in [draw(1) for _ in range(4)]}) == 4


def test_keywords_that_are_none() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'max_workers'"):
        clusterjob.map(abs, [1], max_worker=3)  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match="list of paths"):
        ClusterExecutor(profiles="sge.ini")
    with pytest.raises(SettingsError, match=r"@clusterjob.remote\(\)"):
        clusterjob.remote(abs)


def test_what_a_call_did_to_its_process_is_undone() -> None:
    def spoil(_: int) -> str:
        here = os.getcwd()
        os.chdir("/")
        print("said", flush=True)
        sys.stdout.close()
        os.close(1)
        os.close(2)
        return here

    with ClusterExecutor(max_workers=1, cache=False) as executor:
        some = [executor.submit(spoil, number) for number in range(3)]
        assert {future.result(LONG) for future in some} == {os.getcwd()}
        assert [future.stdout() for future in some] == ["said\n"] * 3
        assert some[0].host


def test_sys_exit_does_not_end_the_program() -> None:
    with ClusterExecutor(max_workers=1) as executor:
        error = executor.submit(sys.exit, 3).exception(LONG)
    assert isinstance(error, CallError)
    assert error.exit_code == 3


def test_a_store_that_cannot_be_read_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = Book.calls
    troubles = [StoreError("disk I/O error"), StoreError("disk I/O error")]

    def calls(book: Book, keys: list[str]) -> Any:
        if troubles:
            raise troubles.pop()
        return ask(book, keys)

    monkeypatch.setattr(Book, "calls", calls)
    assert list(clusterjob.map(abs, [-1, -2])) == [1, 2]
    assert not troubles


_LEFT = """
import os, signal, sys, time
import clusterjob
def wait(mark):
    if os.path.exists(mark):
        return "again"
    open(mark, "w").close()
    time.sleep(60)
if __name__ == "__main__":
    mark = sys.argv[1]
    executor = clusterjob.ClusterExecutor(max_workers=1)
    future = executor.submit(wait, mark)
    if sys.argv[2:]:
        print(future.result())
    while not os.path.exists(mark):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _leave_a_pool(marks: Path) -> clusterjob.AsyncResult:
    """Have a program killed whose worker is at a call; return the job of the worker."""
    Path("left.py").write_text(_LEFT)
    done = subprocess.run(
        [sys.executable, "left.py", str(marks / "begun")], timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    (worker,) = clusterjob.default_session().results()
    return worker


def test_folders_of_calls_that_were_left_are_pruned(marks: Path) -> None:
    worker = _leave_a_pool(marks)
    prune = [sys.executable, "-m", "clusterjob", "prune", "--older-than", "0s"]
    kept = subprocess.run(prune, capture_output=True, text=True, timeout=60)
    assert "folders of calls" not in kept.stdout
    (folder,) = Path(".clusterjob-calls").iterdir()
    worker.cancel()
    assert worker.wait(LONG)
    dry = subprocess.run(
        [*prune, "--dry-run", "--json"], capture_output=True, timeout=60
    )
    assert json.loads(dry.stdout)["folders_of_calls"] == [str(folder.absolute())]
    assert folder.exists()
    pruned = subprocess.run(prune, capture_output=True, text=True, timeout=60)
    assert "1 folders of calls were removed" in pruned.stdout
    assert not Path(".clusterjob-calls").exists()


@pytest.mark.parametrize("uncached", ["", "on their way"])
def test_the_folder_of_a_program_killed_after_its_last_result(uncached: str) -> None:
    """The next program finds all results, and removes the folder, unless calls are in it."""
    text = (
        "import os, signal, sys, time\n"
        "import clusterjob\n"
        "with clusterjob.ClusterExecutor(max_workers=1) as executor:\n"
        "    print(list(executor.map(abs, range(3))))\n"
        "    if sys.argv[1]:\n"
        "        other = clusterjob.ClusterExecutor(max_workers=1, cache=False)\n"
        "        first = other.submit(time.sleep, 60)\n"
        "        while not first.running():\n"
        "            time.sleep(0.05)\n"
        "    if sys.argv[2]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    first = _run_program(text, uncached, "kill")
    assert first.returncode == -signal.SIGKILL
    assert len(list(Path(".clusterjob-calls").iterdir())) == 1 + bool(uncached)
    second = _run_program(text, "", "")
    assert second.stdout == "[0, 1, 2]\n", second.stderr
    assert Path(".clusterjob-calls").exists() == bool(uncached)
    clusterjob.default_session().results().cancel()


def test_a_worker_whose_record_was_deleted(marks: Path) -> None:
    """Nobody can tell what becomes of it: its call is not waited for for ever."""
    worker = _leave_a_pool(marks)
    worker.cancel()
    assert worker.wait(LONG)
    clusterjob.default_session().store.discard([worker.record])
    command = [sys.executable, "left.py", str(marks / "begun"), "again"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.stdout == "again\n", again.stderr


def test_a_failure_of_before_is_made_anew(marks: Path) -> None:
    """A call that failed while nobody waited for it is not told to the next program."""
    text = (
        "import clusterjob, time, os\n"
        "def need(number, folder):\n"
        "    time.sleep(0.3)\n"
        "    assert os.path.exists(folder + '/input')\n"
        "    return number\n"
        f"print(list(clusterjob.map(need, range(4), [{str(marks)!r}] * 4, max_workers=1)))\n"
    )
    first = _run_program(text)
    assert "AssertionError" in first.stderr
    time.sleep(1.5)
    (marks / "input").touch()
    second = _run_program(text)
    assert second.stdout == "[0, 1, 2, 3]\n", second.stderr


@pytest.mark.parametrize("buffersize", [1, 2, 3, 5])
def test_reading_ahead_loses_nothing(buffersize: int) -> None:
    for how in (clusterjob.map, clusterjob.map_unordered):
        found = []
        for value in how(abs, (n for n in range(20)), buffersize=buffersize):
            found.append(value)
            if len(found) < 4:
                time.sleep(
                    0.3
                )  # who is slow finds all that was read ahead at its end
        assert sorted(found) == list(range(20))


def test_what_is_changed_after_it_was_given() -> None:
    small, large = np.ones(1000), np.ones(200_000)
    with ClusterExecutor(max_workers=1, cache=False) as executor:
        some = [executor.submit(np.sum, array) for array in (small, large)]
        bound = executor.submit(functools.partial(np.sum, large))
        small[:] = large[:] = 0
        assert [future.result(LONG) for future in some] == [1000, 200_000]
        assert bound.result(LONG) == 200_000


def test_a_process_that_a_function_forks() -> None:
    def fork(how: str) -> str:
        pid = os.fork()
        if pid == 0 and how == "exit":
            sys.exit(0)
        if pid == 0 and how == "raise":
            raise ValueError("of the child")
        if pid:
            os.waitpid(pid, 0)
        return "child" if pid == 0 else "parent"

    with ClusterExecutor(max_workers=1, cache=False) as executor:
        found = list(
            executor.map(fork, ["return", "exit", "raise"] * 2, timeout=LONG)
        )
    assert found == ["parent"] * 6


def test_a_module_that_was_changed_since_a_worker_imported_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with ClusterExecutor(max_workers=1) as executor:
        for number in (1, 22):
            Path("changing.py").write_text(f"def f(x): return {number}\n")
            if "changing" in sys.modules:
                importlib.reload(sys.modules["changing"])
            module = importlib.import_module("changing")
            assert executor.submit(module.f, 0).result(LONG) == number


def test_exits_over_there_are_results(marks: Path) -> None:
    def leave(how: int) -> int:
        if how == 1:
            sys.exit("usage")
        if how == 2:
            raise KeyboardInterrupt
        if how == 3:
            raise asyncio.CancelledError
        if how == 4:
            raise StopIteration
        return how

    found = list(clusterjob.map(leave, range(6), return_exceptions=True))
    assert found[0] == 0
    assert found[5] == 5
    assert all(isinstance(error, CallError) for error in found[1:5])


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.2, 0.6])
def test_a_process_is_terminated_at_any_moment(after: float) -> None:
    process = Process(target=time.sleep, args=(60,))
    process.start()
    time.sleep(after)
    process.terminate()
    process.join(20)
    assert process.exitcode == -signal.SIGTERM


@pytest.mark.parametrize("what", ["all", "results", "stop"])
def test_a_folder_that_was_deleted(what: str) -> None:
    with ClusterExecutor(max_workers=1, cache=False) as executor:
        some = [executor.submit(time.sleep, 1.0) for _ in range(3)]
        while executor._dispatch.stations[0].pool is None:
            time.sleep(0.01)
        folder = Path(executor._dispatch.stations[0].pool.place.folder)
        while not list((folder / "taken").iterdir()):
            time.sleep(0.01)
        if what == "stop":
            (folder / "stop").touch()
        else:
            shutil.rmtree(folder if what == "all" else folder / what)
        error = some[-1].exception(60)
        assert isinstance(error, clusterjob.ClusterJobError)


def test_an_executor_in_a_forked_process() -> None:
    done = _run_program(
        "import clusterjob, os, sys\n"
        "executor = clusterjob.ClusterExecutor(max_workers=1)\n"
        "print(executor.submit(abs, -1).result(30), flush=True)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: executor.submit(abs, -2)\n"
        "    except RuntimeError as error: print(error, flush=True)\n"
        "    sys.exit(0)\n"
        "print(os.waitpid(pid, 0)[1], executor.submit(abs, -3).result(30))\n"
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "1"
    assert "make one in this process" in lines[1]
    assert lines[2:] == ["0 3"], done.stderr


@pytest.mark.parametrize("name", ["{{ x }}", "a b'c", "line\nbreak", "ünï"])
def test_odd_folders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(name).mkdir()
    monkeypatch.chdir(name)
    assert list(clusterjob.map(abs, [-1], max_workers=1)) == [1]


def test_a_full_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    finish, failed = Book.finish, []

    def sometimes(self: Book, results: Any) -> None:
        if len(failed) < 2:
            failed.append(1)
            raise StoreError("database or disk is full")
        finish(self, results)

    monkeypatch.setattr(Book, "finish", sometimes)
    with ClusterExecutor(max_workers=1) as executor:
        assert executor.submit(abs, -1).result(LONG) == 1


def test_cached_functions_travel() -> None:
    """Those of a program itself have no module that could be imported there."""
    done = _run_program(
        "import functools, clusterjob\n"
        "@functools.lru_cache(None)\n"
        "def twice(x): return 2 * x if x < 3 else twice(x - 1) + 2\n"
        "class Kept:\n"
        "    @functools.cached_property\n"
        "    def value(self): return 7\n"
        "def use(x): return twice(x) + Kept().value\n"
        "print(list(clusterjob.map(use, range(5))), list(clusterjob.map(twice, range(5))))\n"
    )
    assert done.stdout == "[7, 9, 11, 13, 15] [0, 2, 4, 6, 8]\n", done.stderr


def test_large_arrays_of_any_length() -> None:
    """What makes a file longer, so that arrays begin where they may, is no part of them."""
    whole = np.arange(400_000.0)
    with ClusterExecutor(cache=False) as executor:
        for some in (whole[1:], whole[:-3], whole[5:300_000]):
            assert executor.submit(np.sum, some).result(LONG) == np.sum(some)
            bound = functools.partial(np.sum, some)
            assert executor.submit(bound).result(LONG) == np.sum(some)


def test_a_result_that_ends_who_reads_it() -> None:
    class End:
        def __reduce__(self) -> Any:
            return sys.exit, (3,)

    with ClusterExecutor() as executor:
        error = executor.submit(End).exception(LONG)
    assert isinstance(error, CallError)


def test_calls_within_calls() -> None:
    def outer(number: int) -> list[int]:
        import clusterjob

        return list(clusterjob.map(abs, [-number, -number - 1]))

    with ClusterExecutor(max_workers=1) as executor:
        assert executor.submit(outer, 4).result(LONG) == [4, 5]


def test_cancelling_at_once(marks: Path) -> None:
    """What is just being sent is cancelled too."""
    executor = ClusterExecutor(max_workers=1, cache=False)
    some = [executor.submit(time.sleep, 0.5) for _ in range(10)]
    time.sleep(0.05)
    executor.shutdown(wait=False, cancel_futures=True)
    assert sum(future.cancelled() for future in some) >= 8
    futures.wait(some, LONG)


def test_nothing_is_left_behind_by_who_does_not_wait() -> None:
    done = _run_program(
        "import clusterjob\n"
        "executor = clusterjob.ClusterExecutor(max_workers=1)\n"
        "some = [executor.submit(abs, -n) for n in range(5)]\n"
        "executor.shutdown(wait=False)\n"
        "print([one.result() for one in some])\n"
    )
    assert done.stdout == "[0, 1, 2, 3, 4]\n", done.stderr
    assert not Path(".clusterjob-calls").exists()
