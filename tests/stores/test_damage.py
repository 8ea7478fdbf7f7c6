"""Records that were edited, cut, or written by a failing disk: each harms only itself."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterjob.admin import examine
from clusterjob.errors import StoreError
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.store import Listed, Store, Task, open_store, sqlite
from clusterjob.store.json_files import FileStore
from clusterjob.store.postgres import PostgresStore
from clusterjob.store.record import Record
from clusterjob.store.sql import SqlStore
from clusterjob.store.sqlite import SqliteStore

from .test_stores import never, record

Edit = Callable[[dict[str, object]], object]
DEEP = "[" * 200_000


def set_in(*path: str, to: object) -> Edit:
    def edit(values: dict[str, object]) -> None:
        where = values
        for name in path[:-1]:
            where = where[name]  # type: ignore[assignment]
        where[path[-1]] = to

    return edit


STATES: dict[str, Edit | str] = {
    "no text at all": "",
    "brackets": DEEP,
    "a list": "[]",
    "a number": "7",
    "no object": "null",
    "not JSON": "{'key': 1}",
    "a name that is a number": set_in("name", to=5),
    "a version below zero": set_in("version", to=-1),
    "a version that is text": set_in("version", to="1"),
    "a version of 400 digits": set_in("version", to=10**400),
    "a time beyond all times": set_in("created", to=1e300),
    "a time that is none": set_in("created", to=float("nan")),
    "no task": set_in("task", to=None),
    "a status that there is not": set_in("task", "status", to=99),
    "a status that is true": set_in("task", "status", to=True),
    "a reason that there is not": set_in("task", "reason", to="moonlight"),
    "a history of numbers": set_in("task", "history", to=[1, 2]),
    "usage that is text": set_in("task", "usage", to={"cpu": "much"}),
    "elements without numbers": set_in("tasks", to={"x": {"status": 0}}),
    "a phase that there is not": set_in("phase", to="gone"),
    "another token": set_in("token", to="t9"),
    "another key": set_in("key", to="k9"),
    "an unknown name": set_in("surprise", to=1),
    "programs that are text": set_in("programs", to="sh"),
    "no folder": lambda values: values.pop("runs"),
}
SPECS: dict[str, Edit | str] = {
    "no text at all": "",
    "brackets": DEEP,
    "a list": "[]",
    "resources that are text": set_in("resources", to="many"),
    "a cluster that is text": set_in("backend", to="slurm"),
    "a host that is a number": set_in("backend", "host", to=5),
    "inputs in pairs": set_in("inputs", to=[["a", "b"]]),
    "parents without names": set_in("after", to=[{"job_id": "1"}]),
    "an unknown name": set_in("surprise", to=1),
}


def damage(store: Store, part: str, how: Edit | str, token: str = "t2") -> None:
    """Write something else in place of the ``state`` or the ``spec`` of a record."""
    [found] = store.by_tokens([token]).values()
    text = found.to_json() if part == "state" else found.spec_json
    if callable(how):
        values = json.loads(text)
        how(values)
        text = json.dumps(values)
    else:
        text = how
    if isinstance(store, SqlStore):
        column = "data" if part == "state" else "spec"
        with store._transaction() as connection:
            connection.execute(
                f"UPDATE records SET {column} = ? WHERE token = ?", (text, token)
            )
    else:
        assert isinstance(store, FileStore)
        state = found.to_json() if part == "spec" else text
        spec = text if part == "spec" else found.spec_json
        store._path(token).write_text(
            f'{{"key": "{found.key}", "name": "n", "state": {state}, "spec": {spec}}}'
        )


def three() -> list[Record]:
    return [
        record("k1", "t1"),
        record("k2", "t2", created=1.0),
        record("k3", "t3", created=9.0),
    ]


def check_only_one_is_harmed(store: Store) -> None:
    """What can be done with the others is what could be done before."""
    assert [item.token for item in store.select(earlier=True)] == ["t1", "t3"]
    assert [item.token for item in store.listed()] == ["t1", "t3"]
    assert store.by_tokens(["t1", "t2", "t3"]).keys() == {"t1", "t3"}
    assert [item.token for item in store.named("n")] == ["t1", "t3"]
    [first] = store.by_tokens(["t1"]).values()
    store.update(
        [first], lambda stored: setattr(stored, "task", Task(Status.RUNNING))
    )
    store.refresh([first])
    assert first.status is Status.RUNNING
    claims = [record("k1", "new1"), record("k2", "new2"), record("k4", "new4")]
    held = [winner and winner.token for winner in store.claim(claims, never)]
    assert held == ["t1", None, "new4"]
    report = store.examine()
    assert (report.broken, [item.token for item in report.damaged]) == ("", ["t2"])
    assert len(report.damaged[0].why) < 500
    assert store.quarantine(report.damaged[0])
    assert store.examine().damaged == []


@pytest.mark.parametrize("how", STATES.values(), ids=STATES)
def test_a_state_that_is_none_harms_only_itself(
    store: Store, how: Edit | str
) -> None:
    store.claim(three(), never)
    damage(store, "state", how)
    check_only_one_is_harmed(store)


@pytest.mark.parametrize("how", SPECS.values(), ids=SPECS)
def test_a_spec_that_is_none_harms_only_itself(store: Store, how: Edit | str) -> None:
    made = three()
    store.claim(made, never)
    # from then on a list needs the text beside it alone
    store.update(made, lambda record: None)
    damage(store, "spec", how)
    if not isinstance(store, FileStore):  # a list shows no spec
        listed = [item.token for item in store.listed()]
        assert listed == ["t1", "t2", "t3"]
    assert store.by_tokens(["t2"]) == {}
    assert [item.token for item in store.select()] == ["t1", "t3"]
    assert [item.token for item in store.examine().damaged] == ["t2"]


def test_bytes_that_are_no_text_harm_only_their_record(store: Store) -> None:
    store.claim(three(), never)
    if isinstance(store, FileStore):
        path = store._path("t2")
        path.write_bytes(path.read_bytes().replace(b'"n"', b'"\xff\xfe"'))
    elif isinstance(store, SqliteStore):
        with store._transaction() as connection:
            connection.execute(
                "UPDATE records SET data = CAST(? AS TEXT) WHERE token = 't2'",
                [b'{"name": "\xff\xfe"}'],
            )
    else:
        assert isinstance(store, PostgresStore)
        pytest.skip("PostgreSQL takes no bytes that are no text")
    check_only_one_is_harmed(store)


@pytest.mark.parametrize("kind", [bytes, int, float])
def test_a_column_of_another_kind_harms_only_its_record(
    tmp_path: Path, kind: type
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    store.claim(three(), never)
    assert isinstance(store, SqliteStore)
    with store._transaction() as connection:
        connection.execute(
            "UPDATE records SET data = CAST(? AS BLOB) WHERE token = 't2'", [kind()]
        )
    check_only_one_is_harmed(store)


def test_a_token_of_no_text_can_be_put_aside(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    store.claim(three(), never)
    assert isinstance(store, SqliteStore)
    odd = b"../../\xff"
    with store._transaction() as connection:
        connection.execute(
            "UPDATE records SET token = CAST(? AS TEXT) WHERE token = 't2'", [odd]
        )
    [damaged] = store.examine().damaged
    assert [item.token for item in store.select()] == ["t1", "t3"]
    assert [item.token for item in store.listed()] == ["t1", "t3"]
    where = Path(store.quarantine(damaged))
    assert where.parent == tmp_path / "damaged"
    assert store.examine().damaged == []


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = open_store(f"file://{folder}")
    store.claim(three(), never)
    for name in ("records/t2.json", "notes.json"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    assert [item.token for item in store.select()] == ["t1", "t3"]
    assert store.notes("") == {}
    [damaged] = store.examine().damaged
    assert "a pipe or a device" in damaged.why
    (folder / "version.json").unlink()
    os.mkfifo(folder / "version.json")
    with pytest.raises(StoreError, match=r"version\.json is damaged"):
        open_store(f"file://{folder}").select()


def test_notes_that_are_none_are_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = open_store(f"file://{folder}")
    store.claim(three(), never)
    for text in ("", "[]", DEEP, '{"a": 1, "b": ["x", 2], "c": [1.0, null]}'):
        (folder / "notes.json").write_text(text)
        assert store.notes("a") == store.notes("b") == {}
    assert store.notes("c").keys() == {"c"}
    assert store.begin_poll("x", 5.0, 100.0) is None


def test_an_emptied_file_is_no_empty_store(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = open_store(f"sqlite:///{path}")
    store.claim(three(), never)
    store.close()
    path.write_bytes(b"")
    for leftover in tmp_path.glob("s.sqlite-*"):
        leftover.unlink()
    with pytest.raises(StoreError, match="a file of no bytes"):
        open_store(f"sqlite:///{path}").claim(three(), never)
    report = open_store(f"sqlite:///{path}").examine()
    assert "no bytes" in report.broken
    assert not report.corrupt
    assert path.stat().st_size == 0


MANY = 20_000
COMMANDS = (
    ["list"],
    ["list", "--json"],
    ["doctor"],
    ["prune", "--older-than", "1h", "--dry-run"],
    ["prune", "--older-than", "1h", "--dry-run", "--json"],
    ["status"],
)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET data = replace(data, 't2.host', 'other.host')",
        "UPDATE records SET listed = ''",
        "UPDATE records SET listed = replace(listed, 't2.host', 'wrong.host')",
        "UPDATE records SET listed = (SELECT listed FROM records WHERE token = 't1')",
        "UPDATE records SET listed = '00000000[]'",
    ],
)
def test_a_list_shows_what_the_record_says(store: Store, statement: str) -> None:
    if not isinstance(store, SqlStore):
        pytest.skip("a folder of files is read whole")
    made = three()
    made[1].host = "t2.host"
    store.claim(made, never)
    with store._transaction() as connection:
        connection.execute(f"{statement} WHERE token = 't2'")
    for found in (store.listed(), map(Listed.of, store.select())):
        hosts = {item.token: item.host for item in found}
        wanted = "other.host" if "other" in statement else "t2.host"
        assert hosts == {"t1": "", "t2": wanted, "t3": ""}
    assert store.examine().damaged == []


@pytest.mark.parametrize("current", ["NULL", "7"])
def test_what_counts_no_more_is_not_submitted_again(
    store: Store, current: str
) -> None:
    if not isinstance(store, SqlStore):
        pytest.skip("in a folder of files the newest counts")
    store.claim(three(), never)
    with store._transaction() as connection:
        connection.execute(
            f"UPDATE records SET current = {current} WHERE token = 't2'"
        )
    assert store.examine().unheld == ["k2"]
    [held] = store.claim([record("k2", "new")], never)
    assert held is not None
    assert held.token == "t2"
    assert store.examine().unheld == []
    assert [item.token for item in store.listed()] == ["t1", "t2", "t3"]


def test_a_record_under_another_key_keeps_its_job(store: Store) -> None:
    store.claim(three(), never)
    if isinstance(store, FileStore):
        path = store._path("t2")
        path.write_text(path.read_text().replace('"k2"', '"other"', 1))
    else:
        assert isinstance(store, SqlStore)
        with store._transaction() as connection:
            connection.execute("UPDATE records SET key = 'other' WHERE token = 't2'")
    claims = [record("k2", "new2"), record("k4", "new4")]
    held = [winner and winner.token for winner in store.claim(claims, never)]
    assert held == [None, "new4"]
    [damaged] = store.examine().damaged
    assert damaged.token == "t2"


def test_a_file_that_cannot_be_read_stays_where_it_is(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/s")
    store.claim(three(), never)
    assert isinstance(store, FileStore)
    path = store._path("t2")
    path.unlink()
    path.symlink_to(path.name)
    assert [item.token for item in store.listed()] == ["t1", "t3"]
    [damaged] = store.examine().damaged
    assert damaged.is_closed
    with Session(store) as session:
        found = list(examine(session, fix=True))
    [finding] = [item for item in found if item.what == "record"]
    assert not finding.mended
    assert "may be whole" in finding.advice
    assert path.is_symlink()


def test_what_lists_need_is_not_believed_of_another_user(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    made = three()
    store.claim(made, never)
    assert isinstance(store, SqliteStore)
    forged = Listed.of(made[1])._replace(words="forged").to_text(made[1].to_json())
    with store._transaction() as connection:
        connection.execute(
            "UPDATE records SET listed = ? WHERE token = 't2'", (forged,)
        )
    assert [item.words for item in store.listed()] == ["", "forged", ""]
    store._owner = "mallory"
    assert [item.words for item in store.listed()] == ["", "", ""]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_store_does_not_change_hands(tmp_path: Path) -> None:
    """Who may write to a folder above it can exchange it after it was looked at."""
    path = tmp_path / "s.sqlite"
    first = open_store(f"sqlite:///{path}")
    first.claim(three(), never)
    first.close()
    for before, after in ((0, 12345), (12345, 0)):
        os.chown(path, before, -1)
        store = open_store(f"sqlite:///{path}")
        assert bool(store.owner) == (before != 0)
        os.chown(path, after, -1)
        with pytest.raises(StoreError, match="belong"):
            store.select()
    os.chown(path, 12345, -1)
    open_before = sqlite._open_files()
    with contextlib.closing(sqlite3.connect(path)):
        assert sqlite._owner_of_opened(open_before) == "12345"


@pytest.mark.parametrize("size", [4097, 4384, 5000, 8191])
def test_a_cut_store_is_not_read_for_ever(tmp_path: Path, size: int) -> None:
    path = tmp_path / "s.sqlite"
    store = open_store(f"sqlite:///{path}")
    store.claim(three(), never)
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(path, size)
    with contextlib.suppress(StoreError):  # where nothing can be read
        assert open_store(f"sqlite:///{path}").rebuild().saved <= 3


def test_a_version_below_zero_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    open_store(f"sqlite:///{path}").claim(three(), never)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = -3")
        database.commit()
    with pytest.raises(StoreError, match="version -3"):
        open_store(f"sqlite:///{path}").select()


@pytest.mark.parametrize("column", ["spec", "data", "listed"])
def test_texts_that_are_whole_together_are_each_damaged(
    store: Store, column: str
) -> None:
    if not isinstance(store, SqlStore):
        pytest.skip("each file is read alone")
    made = three()
    store.claim(made, never)
    odd = {"t1": '{"body":"a"},{"body":"b"}', "t2": '{"cwd":"', "t3": '"}'}
    with store._transaction() as connection:
        for token, text in odd.items():
            connection.execute(
                f"UPDATE records SET {column} = ? WHERE token = ?", (text, token)
            )
    if column == "listed":
        assert list(store.listed()) == [Listed.of(item) for item in made]
        return
    assert store.select() == []
    assert {item.token for item in store.examine().damaged} == {"t1", "t2", "t3"}


def test_forged_text_for_lists_harms_nothing(store: Store) -> None:
    """Whoever may write there can also write a checksum."""
    if not isinstance(store, SqlStore):
        pytest.skip("a folder of files is read whole")
    made = three()
    store.claim(made, never)
    forged = Listed.of(made[1])._replace(created=1e300, backend=5, usage={"cpu": "x"})  # type: ignore[arg-type]
    with store._transaction() as connection:
        connection.execute(
            "UPDATE records SET listed = ? WHERE token = 't2'",
            (forged.to_text(made[1].to_json()),),
        )
    assert list(store.listed()) == [Listed.of(item) for item in made]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    store = open_store(str(folder / ".clusterjob"))
    for start in range(0, MANY, 1000):
        made = [
            record(
                f"k{number}", f"t{number}", created=float(number), job_id=str(number)
            )
            for number in range(start, start + 1000)
        ]
        for item in made:
            item.task = Task(Status.COMPLETED, words="COMPLETED" * 10, ended=1.0)
        store.claim(made, never)
    store.close()
    return folder


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_lists_of_very_many_take_little_memory(many: Path, words: list[str]) -> None:
    """100,000 records are measured by ``benchmarks/lists.py``: a fifth of them tells as well."""
    code = (
        "import re, sys; from pathlib import Path; from clusterjob.cli.group import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as ended: code = ended.code\n"
        "peak = re.search('VmHWM:\\\\s*([0-9]+)', Path('/proc/self/status').read_text())\n"
        "print(code, peak[1], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=many,
        capture_output=True,
        text=True,
        check=True,
    )
    exit_code, kilobytes = map(int, done.stderr.split())
    assert exit_code == 0
    assert kilobytes < 60_000
    if words[-1] == "--json":
        rows = json.loads(done.stdout)
        assert len(rows if words[0] == "list" else rows["removed"]) == MANY
    elif words[0] in ("list", "prune"):
        assert done.stdout.count("\n") == MANY + 1


@pytest.mark.parametrize("how", ["cut", "beginning"])
def test_a_broken_file_is_read_as_far_as_it_can_be(tmp_path: Path, how: str) -> None:
    path = tmp_path / "s.sqlite"
    store = open_store(f"sqlite:///{path}")
    store.claim(
        [record(f"k{n}", f"t{n}", created=float(n)) for n in range(200)], never
    )
    store.close()
    sqlite3.connect(path).execute("PRAGMA journal_mode = delete").close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(size - 4096)
        else:
            file.write(b"SQL?te")
    broken = open_store(f"sqlite:///{path}")
    assert broken.examine().corrupt
    done = broken.rebuild()
    found = open_store(f"sqlite:///{path}").select()
    assert done.saved == len(found)
    assert f"{len(found)} records were saved" in str(done)
    assert len(found) == 200 if how == "beginning" else 100 < len(found) <= 200


def test_a_file_of_which_nothing_can_be_read_stays(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"x" * 10_000)
    store = open_store(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="nothing can be read"):
        store.rebuild()
    assert path.read_bytes() == b"x" * 10_000


@pytest.mark.parametrize("column", ["name", "job_id", "key"])
def test_a_row_that_says_otherwise_is_damaged(tmp_path: Path, column: str) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    store.claim(three(), never)
    assert isinstance(store, SqliteStore)
    with store._transaction() as connection:
        connection.execute(f"UPDATE records SET {column} = 'x' WHERE token = 't2'")
    assert [item.token for item in store.select()] == ["t1", "t3"]
    assert [item.token for item in store.listed()] == ["t1", "t3"]
    assert [item.token for item in store.examine().damaged] == ["t2"]


def test_jobs_of_which_no_submission_counts_are_found(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    store.claim(three(), never)
    assert isinstance(store, SqliteStore)
    assert store.examine().unheld == []
    with store._transaction() as connection:
        connection.execute("UPDATE records SET current = NULL WHERE token = 't2'")
    assert store.examine().unheld == ["k2"]
    store.hold_again(["k2"])
    assert [item.token for item in store.select()] == ["t1", "t2", "t3"]
    assert store.examine().unheld == []
