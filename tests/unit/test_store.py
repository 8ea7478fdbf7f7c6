"""The store of records."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from clusterjob.errors import StoreError
from clusterjob.status import Reason, Status
from clusterjob.store import Phase, Record, SqliteStore, Task, encode_spec, open_store


def record(key: str = "k", token: str = "t", **values: object) -> Record:
    return Record(key=key, token=token, name="n", backend="b", workdir="/w", runs="/r", spec_json=encode_spec({"body": "x"}), **values)  # type: ignore[arg-type]


def never(_: Record) -> bool:
    return False


def test_a_record_comes_back_as_it_was() -> None:
    store = open_store()
    made = record(phase=Phase.SUBMITTED, job_id="12", cluster="c", created=5.0, submitted=[1.0, 2.0])
    made.task = Task(Status.FAILED, Reason.SIGNAL, None, 9, "words", 1.0, 2.0, "h", {"cpu": 1.5}, 3.0, [[1.0, "FAILED", "w"]])
    made.tasks = {3: Task(Status.RUNNING)}
    assert store.claim([made], never) == [made]
    found = store.by_keys(["k"])["k"]
    assert found.to_json() == made.to_json()
    assert found.spec == {"body": "x"}
    assert found.task == made.task
    assert found.tasks == made.tasks
    assert not found.to_json().startswith("\x80")


def test_one_record_a_key() -> None:
    store = open_store()
    first = record(token="a")
    assert store.claim([first, record(token="b")], never) == [first, first]
    assert store.claim([record(token="c")], never)[0].token == "a"
    second = record(token="d", created=1.0)
    assert store.claim([second], lambda _: True) == [second]
    assert [item.token for item in store.select()] == ["d"]
    assert [item.token for item in store.select(earlier=True)] == ["a", "d"]
    store.discard([second])
    assert [item.token for item in store.select()] == ["a"]


def test_what_is_finished_stays_as_it_is() -> None:
    store = open_store()
    made = record()
    store.claim([made], never)
    made.task = Task(Status.COMPLETED)
    store.write([made])
    made.task = Task(Status.FAILED)
    store.write([made])
    assert store.by_tokens(["t"])["t"].status == Status.COMPLETED


def test_records_are_named_by_id_name_and_key() -> None:
    store = open_store()
    store.claim([record("abc1", "t1", job_id="12"), record("abd2", "t2", job_id="abc1")], never)
    assert [item.token for item in store.named("12")] == ["t1"]
    assert [item.token for item in store.named("12;cluster")] == ["t1"]
    assert [item.token for item in store.named("n")] == ["t1", "t2"]
    assert [item.token for item in store.named("ab")] == ["t1", "t2"]
    assert store.named("") == store.named("zzz") == []


def test_files_are_private() -> None:
    store = open_store()
    store.claim([record()], never)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_the_nearest_store_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    here = open_store()
    here.claim([record()], never)
    Path("deep/er").mkdir(parents=True)
    monkeypatch.chdir("deep/er")
    assert open_store().path == here.path
    monkeypatch.setenv("CLUSTERJOB_STORE", "elsewhere")
    assert open_store().path == Path.cwd() / "elsewhere" / "store.sqlite"
    monkeypatch.setenv("CLUSTERJOB_STORE", "sqlite:///named.db")
    assert open_store().path == Path.cwd() / "named.db"
    with pytest.raises(StoreError, match="not known"):
        open_store("mysql://x")


def test_a_store_of_a_newer_version_is_refused() -> None:
    store = open_store()
    store.claim([record()], never)
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"newer clusterjob.*upgrade"):
        store.select()


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_store_is_one_clear_error(keep: float) -> None:
    store = open_store()
    store.claim([record(f"k{number}", f"t{number}", created=float(number)) for number in range(2000)], never)
    store.close()
    size = store.path.stat().st_size
    os.truncate(store.path, int(size * keep))
    with pytest.raises(StoreError, match=r"damaged.*Nothing was changed"):
        store.select()
    assert store.path.stat().st_size == int(size * keep)


def test_what_is_no_store_is_one_clear_error() -> None:
    Path(".clusterjob").mkdir()
    Path(".clusterjob/store.sqlite").write_text("this is a text, and long enough to be taken for a database header" * 10)
    with pytest.raises(StoreError, match="no store"):
        open_store().select()
    Path("file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        open_store("file/below").select()


def test_a_damaged_record_is_named() -> None:
    store = open_store()
    store.claim([record()], never)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE records SET data = '{'")
    connection.close()
    with pytest.raises(StoreError, match="record t is damaged"):
        store.select()


def _race(folder: str, number: int, results: multiprocessing.Queue[list[str]]) -> None:
    store = SqliteStore(Path(folder) / "store.sqlite")
    made = [record(f"k{key}", f"{number}-{key}") for key in range(50)]
    results.put([winner.token for winner in store.claim(made, never)])


def test_processes_that_claim_at_once_agree() -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[str]] = context.Queue()
    racers = [context.Process(target=_race, args=(os.getcwd(), number, results)) for number in range(4)]
    for racer in racers:
        racer.start()
    answers = [results.get(timeout=30) for _ in racers]
    for racer in racers:
        racer.join()
    assert all(answer == answers[0] for answer in answers)
    assert open_store(os.getcwd()).changed_elsewhere() is False


def test_a_change_by_another_process_is_noticed() -> None:
    store = open_store()
    store.claim([record()], never)
    assert store.changed_elsewhere() is False
    other = SqliteStore(store.path)
    changed = other.by_tokens(["t"])["t"]
    changed.task = Task(Status.RUNNING)
    other.write([changed])
    other.close()
    assert store.changed_elsewhere() is True
    assert store.changed_elsewhere() is False
