"""Stores of each kind that an earlier version wrote (commit 8ee8646) are read as they were meant.

``expected.json`` is what that version said of its own records.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterjob import JobScript
from clusterjob.engine import Engine
from clusterjob.reuse import adopt_former, find_former
from clusterjob.store import OLD_KEYS, Note, OnceState, Record, Store, open_store
from clusterjob.transport import Connections

OLD = Path(__file__).parents[1] / "recordings" / "stores-8ee8646"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())


def old_sqlite(folder: Path) -> str:
    shutil.copy(OLD / "store.sqlite", folder / "store.sqlite")
    return f"sqlite:///{folder}/store.sqlite"


def old_files(folder: Path) -> str:
    shutil.copytree(OLD / "files", folder / "files")
    return f"file://{folder}/files"


@pytest.fixture(
    params=[
        "sqlite",
        "file",
        pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql")),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("database")
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute((OLD / "postgresql.sql").read_bytes())
        return open_store(url)
    make: Callable[[Path], str] = {"sqlite": old_sqlite, "file": old_files}[
        request.param
    ]
    return open_store(make(tmp_path))


def as_the_old_version_said_it(record: Record) -> dict[str, Any]:
    """Return a record in the words of ``expected.json``."""
    names = (
        *(
            "token",
            "key",
            "name",
            "backend",
            "host",
            "workdir",
            "job_id",
            "member",
        ),
        *(
            "created",
            "submitted",
            "retry_at",
            "cancel_requested",
            "cluster_id",
            "owner",
            "leased",
        ),
    )
    tasks = record.tasks
    said = {
        **{name: getattr(record, name) for name in names},
        "runs": record.folder,
        "submitted": record.submitted or [],
        "phase": record.phase.value,
        "prologue": record.prologue.to_json(),
        "epilogue": record.epilogue.to_json(),
        "outputs": record.outputs.to_json(),
        "wanted": record.output_patterns,
        "into": record.outputs_folder,
        "task": record.task.to_json(),
        "tasks": tasks
        and {str(index): task.to_json() for index, task in tasks.items()},
        "spec": json.loads(record.spec.to_json()),
    }
    plain: dict[str, Any] = json.loads(json.dumps(said))
    return plain


def test_records_are_what_they_were(store: Store) -> None:
    records = store.select(earlier=True)
    assert [as_the_old_version_said_it(record) for record in records] == EXPECTED[
        "records"
    ]
    assert sorted(record.token for record in store.select()) == EXPECTED["current"]
    assert store.examine().damaged == []


def test_what_was_searched_for_is_found(store: Store) -> None:
    assert sorted(store.live(EXPECTED["cluster_id"])) == EXPECTED["live"]
    assert [record.name for record in store.named("41")] == ["done"]
    assert [record.name for record in store.named("local ü")] == ["local ü"]
    assert {record.name for record in store.select(unsent=True)} == {
        "deferred",
        "open",
    }
    note = store.notes("poll:")[f"poll:{EXPECTED['cluster_id']}"]
    assert note == Note(1795000200.0, 1795000190.5)


def test_records_are_written_back_as_they_were(store: Store) -> None:
    records = store.select(earlier=True)
    store.update(records, lambda record: None)
    again = store.select(earlier=True)
    assert [as_the_old_version_said_it(record) for record in again] == EXPECTED[
        "records"
    ]
    for record in records:
        assert (
            Record.from_json(record.to_json(), record.spec_json).to_json()
            == record.to_json()
        )


def test_clusters_are_the_ones_they_were(store: Store) -> None:
    for record in store.select():
        assert record.spec.cluster.cluster_id == record.cluster_id


def test_what_went_wrong_is_told_from_what_is_done(store: Store) -> None:
    states = {
        record.name: (
            record.prologue.state,
            record.epilogue.state,
            record.outputs.state,
        )
        for record in store.select(earlier=True)
        if record.finished or record.unsent
    }
    assert states["done"] == (OnceState.DONE, OnceState.DONE, OnceState.DONE)
    assert states["failed"] == (OnceState.NONE, OnceState.FAILED, OnceState.FAILED)
    assert states["open"] == (OnceState.STARTED, OnceState.NONE, OnceState.NONE)
    assert states["local ü"] == (OnceState.NONE, OnceState.NONE, OnceState.DUE)


def later_job(tmp_path: Path, name: str = "deferred") -> JobScript:
    """Return the job that the old version submitted as ``deferred``."""
    profile = tmp_path / "cluster.ini"
    profile.write_text(
        "[Attributes]\nbackend = slurm\nremote = me@login.cluster.edu\n"
        "rootdir = /scratch/me\ntransport = openssh\n"
    )
    job = JobScript("./later", name)
    job.read_settings(profile)
    return job


def test_what_an_older_version_submitted_is_found_once_and_said(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was computed with the old version is not computed again."""
    old = store.select(name="deferred")[0]
    engine = Engine(store, Connections())
    new = later_job(tmp_path).prepare(engine, batch="b")
    other_name = later_job(tmp_path, "another").prepare(engine, batch="b")
    assert new.key != old.key
    assert find_former(store, [other_name]) == {}
    wider = later_job(tmp_path)
    wider.nodes = 2
    assert find_former(store, [wider.prepare(engine, batch="b")]) == {}
    adopt_former(store, [other_name, new, new])
    assert "key of an older version" in caplog.text
    assert store.by_keys([new.key])[new.key].token == old.token
    assert store.by_keys([old.key]) == {}
    caplog.clear()
    adopt_former(store, [new])
    assert caplog.text == ""
    store.close()


def test_a_new_store_is_not_searched_for_old_keys(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/new.sqlite")
    store.select()
    assert store.notes(OLD_KEYS) == {}
