"""Pickles are read where they are signed alone, on both sides, and out of own folders alone."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterjob import CallError, ClusterExecutor
from clusterjob.backend import render_text
from clusterjob.functions.station import Collector
from clusterjob.functions.workers import Workers, worker_body

OTHER = 65534  # the user id of nobody


class Bench:
    """An executor whose workers are started, and whose results are collected, by the test."""

    def __init__(self, executor: ClusterExecutor) -> None:
        self.executor = executor

    @property
    def station(self):  # type: ignore[no-untyped-def]
        return self.executor._dispatch.stations[0]

    @property
    def folder(self) -> Path:
        return Path(self.station.pool.place.folder)

    def files(self, name: str) -> list[Path]:
        deadline = time.monotonic() + 10
        while self.station.pool is None or not list((self.folder / name).iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return list((self.folder / name).iterdir())

    def run_worker(self) -> subprocess.CompletedProcess[str]:
        row = self.station.pool.row
        body = worker_body(self.station.site.python, row.folder, row.secret, 1)
        body = render_text(body, {}, "the body")
        return subprocess.run(
            ["sh", "-c", body],
            capture_output=True,
            text=True,
            timeout=30,
        )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(Workers, "submit", lambda *args: None)
    monkeypatch.setattr(Collector, "wake", lambda self: None)
    executor = ClusterExecutor(max_workers=1, idle=0.0)
    yield Bench(executor)
    executor.leave()


def _flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _collect_until_told(bench: Bench) -> None:
    deadline = time.monotonic() + 15
    while bench.station.pool.calls:
        assert time.monotonic() < deadline
        bench.station.pool.collect(0.1)


def test_what_was_not_touched_comes(bench: Bench) -> None:
    future = bench.executor.submit(len, "abc")
    bench.files("todo")
    assert bench.run_worker().returncode == 0
    _collect_until_told(bench)
    assert future.result(0) == 3


@pytest.mark.parametrize("at", [-1, 0, 20, 60])
def test_an_altered_result_is_refused(bench: Bench, at: int) -> None:
    future = bench.executor.submit(len, "abc")
    bench.files("todo")
    bench.run_worker()
    (result,) = bench.files("results")
    _flip(result, at)
    _collect_until_told(bench)
    with pytest.raises(CallError, match="signature"):
        future.result(0)


def test_a_result_in_the_place_of_another_is_refused(bench: Bench) -> None:
    first = bench.executor.submit(len, "abc")
    bench.files("todo")
    second = bench.executor.submit(len, "abcdef")
    while len(bench.files("todo")) < 2:
        time.sleep(0.01)
    bench.run_worker()
    one, two = sorted(bench.files("results"))
    shutil.copyfile(one, two)
    _collect_until_told(bench)
    assert first.result(0) == 3
    with pytest.raises(CallError, match="signature"):
        second.result(0)


class Evil:
    """Does something where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["todo", "shared"])
def test_an_altered_call_is_refused_over_there(bench: Bench, name: str) -> None:
    future = bench.executor.submit(len, "abc")
    (file,) = bench.files(name)
    bench.files("todo")
    _flip(file)
    bench.run_worker()
    _collect_until_told(bench)
    with pytest.raises(CallError, match="signature"):
        future.result(0)


def test_a_pickle_without_a_signature_is_not_read(
    bench: Bench, tmp_path: Path
) -> None:
    future = bench.executor.submit(len, "abc")
    (file,) = bench.files("todo")
    whole = file.read_bytes()
    evil = pickle.dumps(Evil(tmp_path / "evil"))
    file.write_bytes(whole[: -len(evil)] + evil)
    bench.run_worker()
    _collect_until_told(bench)
    assert isinstance(future.exception(0), CallError)
    assert not (tmp_path / "evil").exists()


def test_a_remembered_result_that_was_altered_is_refused(bench: Bench) -> None:
    future = bench.executor.submit(bytes, 1 << 20)
    bench.files("todo")
    bench.run_worker()
    _collect_until_told(bench)
    assert len(future.result(0)) == 1 << 20
    (result,) = (bench.executor._book.folder / "results").iterdir()
    _flip(result)
    bench.executor.start_over()
    again = bench.executor.submit(bytes, 1 << 20)
    with pytest.raises(Exception, match="signature"):
        again.result(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="plays another user")
def test_a_folder_that_another_user_put_there(bench: Bench, tmp_path: Path) -> None:
    """Who may write to the folder above can put one in the place of the pool."""
    bench.executor.submit(len, "abc")
    bench.files("todo")
    folder = bench.folder
    away = folder.with_name("away")
    folder.rename(away)
    shutil.copytree(away, folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER, OTHER)
    done = bench.run_worker()
    assert done.returncode == 3
    assert "not a folder of this user's" in done.stderr
    assert not list((folder / "results").iterdir())


def test_a_folder_that_others_may_write_to(bench: Bench) -> None:
    bench.executor.submit(len, "abc")
    bench.files("todo")
    bench.folder.chmod(0o777)
    assert bench.run_worker().returncode == 3


def test_a_runner_that_was_altered_is_not_run(bench: Bench, tmp_path: Path) -> None:
    bench.executor.submit(len, "abc")
    bench.files("todo")
    runner = bench.folder / "runner.py"
    runner.write_text(f"import os\nos.mkdir({str(tmp_path / 'evil')!r})\n")
    done = bench.run_worker()
    assert "is not what was sent" in done.stderr
    assert not (tmp_path / "evil").exists()


def test_nobody_else_may_look(bench: Bench) -> None:
    bench.executor.submit(len, "abc")
    bench.files("todo")
    book = bench.executor._book.folder
    for top in (bench.folder, book):
        for path in (top, *top.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
