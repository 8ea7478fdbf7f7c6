"""Stores that somebody else made, or that are not what they seem."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clusterjob import JobScript, Session, StoreError, submit
from clusterjob.store import Phase, open_store

STRANGER = 60_001
pytestmark = pytest.mark.usefixtures("spool")


def run(*arguments: str, code: int = 0, cwd: str = ".") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "clusterjob", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def plant(store: Path, url: str) -> None:
    """Make a store with an open submission whose prologue and body leave traces; a stranger's."""
    try:
        os.chown(store.parent, os.geteuid(), -1)
        Path("probe").touch()
        os.chown("probe", STRANGER, -1)
    except PermissionError:
        pytest.skip("only root can make files of somebody else's")
    trace = Path("trace").absolute()
    with Session(url) as session:
        result = session.submit(
            JobScript("true", "planted", prologue=f"touch {trace}-prologue")
        )[0]
        result.wait(30)
        Path("trace-prologue").unlink()

        record = session.store.select()[0]
        fresh = record.renewed("planted", record.spec)
        fresh.owner, fresh.leased = "gone", 1.0
        session.store.claim([fresh], lambda old, new: True)
    for path in (store, *store.rglob("*")):
        os.chown(path, STRANGER, -1)


def nothing_ran() -> bool:
    return not list(Path().glob("trace*"))


def test_a_strangers_store_above_is_passed_over() -> None:
    plant(Path(".clusterjob"), "sqlite:///.clusterjob/store.sqlite")
    Path("work").mkdir()
    Path("work/job.sh").write_text("echo mine\n")
    for command in (["status"], ["list"], ["plan", "job.sh"]):
        words = run(*command, cwd="work")
        assert "belongs to" in words
        assert "planted" not in words.replace("is passed over", "")
        assert nothing_ran()
    run("show", "planted", cwd="work", code=4)
    run("submit", "job.sh", "--wait", cwd="work")
    assert Path("work/.clusterjob/store.sqlite").exists()
    assert nothing_ran()


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_a_strangers_store_that_is_named_is_looked_at_only(kind: str) -> None:
    url = {
        "sqlite": f"sqlite:///{Path('theirs/store.sqlite').absolute()}",
        "file": f"file://{Path('theirs').absolute()}",
    }[kind]
    plant(Path("theirs"), url)
    before = sorted(Path("theirs").rglob("*"))
    assert "planted" in run("--store", url, "list")
    assert "planted" in run("--store", url, "show", "planted")
    run("--store", url, "status")
    Path("job.sh").write_text("true\n")
    for command in (["submit", "job.sh"], ["cancel", "planted"]):
        assert "belongs to" in run("--store", url, *command, code=1)
    assert nothing_ran()
    assert sorted(Path("theirs").rglob("*")) == before


def test_a_store_that_anybody_may_write_to_is_refused() -> None:
    submit(JobScript("true", "one")).wait(30)
    Path(".clusterjob").chmod(0o777)
    assert "anybody may write" in run("list", code=1)
    Path(".clusterjob").chmod(0o700)
    Path(".clusterjob/store.sqlite").chmod(0o666)
    assert "anybody may write" in run("list", code=1)


def test_show_and_logs_finish_no_open_submissions() -> None:
    Path("job.sh").write_text("true\n")
    run("submit", "job.sh", "--wait")
    store = open_store()
    record = store.select()[0]
    fresh = record.renewed("other", record.spec)
    fresh.owner, fresh.leased = "gone", 1.0
    store.claim([fresh], lambda old, new: True)
    run("show", "job")
    run("logs", "job")
    run("list")
    assert open_store().select()[0].phase is Phase.SUBMITTING
    run("status")
    assert open_store().select()[0].phase is Phase.SUBMITTED


def test_a_folder_with_other_things_stays_as_it_is() -> None:
    Path("data").mkdir(mode=0o755)
    Path("data/results.csv").write_text("1\n")
    Path("job.sh").write_text("true\n")
    url = f"file://{Path('data').absolute()}"
    assert "other things in it" in run("--store", url, "submit", "job.sh", code=1)
    assert stat.S_IMODE(Path("data").stat().st_mode) == 0o755
    assert os.listdir("data") == ["results.csv"]


@pytest.mark.parametrize(
    "command", [["list"], ["status"], ["show", "x"], ["doctor"], ["prune"]]
)
def test_a_mistyped_store_is_an_error_and_nothing_is_made(command: list[str]) -> None:
    for url in ("there/is/none", f"file://{Path('none').absolute()}"):
        assert "there is no store" in run("--store", url, *command, code=1)
    assert os.listdir() == []


def test_who_only_reads_makes_no_store() -> None:
    run("list")
    run("status")
    with Session("new") as session:
        assert session.results() == []
    assert os.listdir() == []


@pytest.mark.parametrize("url", ["here", "file:///FOLDER"])
def test_a_store_that_was_deleted_is_noticed_before_the_next_write(url: str) -> None:
    folder = Path("here").absolute()
    with Session(url.replace("/FOLDER", str(folder))) as session:
        session.submit(JobScript("true", "one")).wait(30)
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="while it was in use"):
            session.submit(JobScript("true", "two"))
    assert not folder.exists()
    assert not Path("two").exists()
