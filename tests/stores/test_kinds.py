"""What is particular to a kind of store: files, versions, migration, damage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from clusterjob.errors import StoreError
from clusterjob.status import Status
from clusterjob.store import ClusterReference, Task, json_files, open_store, sqlite
from clusterjob.store.json_files import FileStore
from clusterjob.store.postgres import PostgresStore
from clusterjob.store.sqlite import SqliteStore

from .test_stores import never, record

VERSION_1 = """
CREATE TABLE records (
    token TEXT PRIMARY KEY, key TEXT NOT NULL, current INTEGER, name TEXT NOT NULL, job_id TEXT,
    status INTEGER NOT NULL, created REAL NOT NULL, data TEXT NOT NULL, spec TEXT NOT NULL);
CREATE UNIQUE INDEX one_a_key ON records (key, current);
CREATE INDEX by_status ON records (status) WHERE current = 1;
CREATE INDEX by_name ON records (name, created);
CREATE INDEX by_job ON records (job_id);
PRAGMA user_version = 1;
"""


def the_sqlite(where: str | None = None) -> SqliteStore:
    store = open_store(where)
    assert isinstance(store, SqliteStore)
    return store


def test_files_are_private() -> None:
    store = the_sqlite()
    store.claim([record()], never)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_the_nearest_store_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    here = the_sqlite()
    here.claim([record()], never)
    Path("deep/er").mkdir(parents=True)
    monkeypatch.chdir("deep/er")
    assert the_sqlite().path == here.path
    monkeypatch.setenv("CLUSTERJOB_STORE", "elsewhere")
    assert the_sqlite().path == Path.cwd() / "elsewhere" / "store.sqlite"
    monkeypatch.setenv("CLUSTERJOB_STORE", "sqlite:///named.db")
    assert the_sqlite().path == Path.cwd() / "named.db"
    with pytest.raises(StoreError, match="not known"):
        open_store("mysql://x")


def test_a_store_of_a_newer_version_is_refused() -> None:
    store = the_sqlite()
    store.claim([record()], never)
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"newer clusterjob.*upgrade"):
        store.select()


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_store_is_one_clear_error(keep: float) -> None:
    store = the_sqlite()
    store.claim(
        [
            record(f"k{number}", f"t{number}", created=float(number))
            for number in range(2000)
        ],
        never,
    )
    store.close()
    size = store.path.stat().st_size
    os.truncate(store.path, int(size * keep))
    with pytest.raises(StoreError, match=r"damaged.*Nothing was changed"):
        store.select()
    assert store.path.stat().st_size == int(size * keep)


def test_what_is_no_store_is_one_clear_error() -> None:
    Path(".clusterjob").mkdir()
    Path(".clusterjob/store.sqlite").write_text(
        "this is a text, and long enough to be taken for a database header" * 10
    )
    with pytest.raises(StoreError, match="no store"):
        the_sqlite().select()
    Path("file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        open_store("file/below").select()


def test_a_store_of_version_1_is_brought_up_to_date_with_a_backup() -> None:
    path = Path(".clusterjob/store.sqlite")
    path.parent.mkdir()
    reference = ClusterReference("slurm")
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    data = {
        "key": "k",
        "token": "t",
        "name": "n",
        "backend": "slurm",
        "workdir": "/w",
        "runs": "/r",
        "phase": "submitting",
        "task": {"status": -2},
        "owner": "host:12",
        "created": 5.0,
    }
    for token, text in (("t", json.dumps(data)), ("bad", "{")):
        connection.execute(
            "INSERT INTO records VALUES (?, ?, 1, 'n', NULL, -2, 5, ?, ?)",
            (
                token,
                token.replace("t", "k"),
                text,
                json.dumps({"backend": reference.to_json()}),
            ),
        )
    connection.commit()
    connection.close()
    store = the_sqlite()
    assert [item.token for item in store.select(unsent=True)] == ["t"]
    assert store.live(reference.cluster_id) == ["t"]
    assert [item.token for item in store.examine().damaged] == ["bad"]
    backup = sqlite3.connect(".clusterjob/store.sqlite.version-1")
    assert backup.execute("PRAGMA user_version").fetchone()[0] == 1
    assert backup.execute("SELECT count(*) FROM records").fetchone()[0] == 2
    backup.close()
    assert (
        stat.S_IMODE(Path(".clusterjob/store.sqlite.version-1").stat().st_mode)
        == 0o600
    )


def test_a_store_of_version_3_gets_what_lists_need() -> None:
    store = the_sqlite()
    made = [record(f"k{number}", f"t{number}") for number in range(1200)]
    store.claim(made, never)
    listed = list(store.listed())
    store.close()
    path = Path(".clusterjob/store.sqlite")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DROP INDEX misfiled")
        for index in ("by_place", "by_campaign", "in_campaign"):
            database.execute(f"DROP INDEX {index}")
        database.execute("CREATE INDEX by_place ON records (place) WHERE status < 0")
        database.execute("DROP TABLE campaigns")
        for column in ("listed", "campaign", "held"):
            database.execute(f"ALTER TABLE records DROP COLUMN {column}")
        database.execute("UPDATE records SET data = '{' WHERE token = 't5'")
        database.execute("PRAGMA user_version = 3")
    again = the_sqlite()
    pairs = zip(again.listed(), listed[:5] + listed[6:], strict=True)
    assert not [new.token for new, old in pairs if new != old]
    assert [item.token for item in again.examine().damaged] == ["t5"]
    assert again.notes("keys:") == {}
    assert path.with_name("store.sqlite.version-3").exists()
    with contextlib.closing(sqlite3.connect(path)) as database:
        empty = database.execute("SELECT token FROM records WHERE listed = ''")
        assert empty.fetchall() == [("t5",)]


def test_the_journal_follows_the_file_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder, journal in ((".clusterjob", "wal"), ("elsewhere", "delete")):
        store = the_sqlite(folder)
        store.claim([record()], never)
        assert store.examine().facts["journal"].startswith(journal)
        monkeypatch.setattr(sqlite, "is_shared", lambda path: True)


def test_file_systems_are_told_apart() -> None:
    assert sqlite.filesystem(Path("/proc/self")) == "proc"
    assert sqlite.filesystem(Path.cwd())
    assert not sqlite.is_shared(Path("/proc/self"))


def test_a_broken_store_is_made_anew_of_what_can_be_read() -> None:
    store = the_sqlite()
    store.claim(
        [
            record(
                f"k{number}",
                f"t{number}",
                created=float(number),
                task=Task(Status.COMPLETED),
            )
            for number in range(3000)
        ],
        never,
    )
    store.close()
    content = bytearray(store.path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = os.urandom(8192)
    store.path.write_bytes(content)
    assert store.examine().broken
    kept, _, saved = str(store.rebuild()).partition("; ")
    assert re.fullmatch(r"\d+ records were saved, .* lost.*", saved)
    assert Path(kept).read_bytes() == content
    report = store.examine()
    assert report.broken == ""
    assert int(report.facts["records"]) > 2000


def test_two_may_make_a_store_of_files_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second finds no folder, and when it makes it finds what the first put there."""
    is_missing = json_files.is_missing

    def and_then_the_other_makes_it(path: Path) -> bool:
        found = is_missing(path)
        monkeypatch.setattr(json_files, "is_missing", is_missing)
        FileStore(Path("store")).claim([record(token="first")], never)
        return found

    monkeypatch.setattr(json_files, "is_missing", and_then_the_other_makes_it)
    FileStore(Path("store")).claim([record("other", "second")], never)
    assert {item.token for item in FileStore(Path("store")).select()} == {
        "first",
        "second",
    }


def test_files_of_a_file_store_are_private_whole_and_readable() -> None:
    store = open_store(f"file://{Path.cwd()}/kept")
    assert isinstance(store, FileStore)
    store.claim([record()], never)
    path = Path("kept/records/t.json")
    assert json.loads(path.read_text())["spec"]["body"] == "x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("kept").stat().st_mode) == 0o700
    Path("kept/version.json").write_text('{"clusterjob": 99}')
    store.close()
    with pytest.raises(StoreError, match="newer clusterjob"):
        store.select()


@pytest.mark.xdist_group("postgresql")
def test_a_newer_database_is_refused_and_a_lost_connection_comes_back(
    database: str,
) -> None:
    store = PostgresStore(database)
    store.claim([record()], never)
    assert store._connection is not None
    with (
        pytest.raises(StoreError, match="cannot be used"),
        store._transaction() as connection,
    ):
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert len(store.select()) == 1
    with store._transaction() as connection:
        connection.execute("UPDATE clusterjob.state SET version = 99")
    store.close()
    with pytest.raises(StoreError, match="newer clusterjob"):
        store.select()


def test_a_password_is_never_shown() -> None:
    assert "secret" not in PostgresStore("postgresql://me:secret@host:5/db").url
    assert (
        PostgresStore("postgresql://me:secret@host:5/db").url
        == "postgresql://me@host:5/db"
    )


def test_without_psycopg_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'clusterjob\[postgres\]'"):
        open_store("postgresql:///x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("database is locked", "was locked by another process"),
        ("database schema is busy", "was locked by another process"),
        ("database or disk is full", "cannot be written"),
        ("file is not a database", "is damaged or no store"),
    ],
)
def test_what_the_database_complains_about_is_told_apart(
    words: str, said: str
) -> None:
    store = the_sqlite()

    def complain(*_: object) -> None:
        raise sqlite3.OperationalError(words)

    store._connect = complain  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError, match=said):
        store.select()
