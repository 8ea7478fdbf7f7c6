"""Stores that somebody else made, or that are not what they seem."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clusterjob import JobScript, Session, StoreError, submit
from clusterjob.session import close_default_sessions
from clusterjob.store import Phase, open_store

STRANGER = 60_001
pytestmark = pytest.mark.usefixtures("spool")


def run(*arguments: str, code: int | None = 0, cwd: str = ".") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "clusterjob", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )
    assert "Traceback" not in done.stderr
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def plant(store: Path, url: str) -> None:
    """Make a store with an open submission whose prologue and body leave traces; a stranger's."""
    try:
        os.chown(store.parent, os.geteuid(), -1)
        Path("probe").touch()
        os.chown("probe", STRANGER, -1)
    except OSError:
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


def test_a_plan_with_a_mistyped_store_says_so() -> None:
    Path("job.sh").write_text("true\n")
    said = run("--store", "there/is/none", "plan", "job.sh")
    assert "there is no store" in said
    assert "would be submitted" in said or "submit" in said
    assert os.listdir() == ["job.sh"]


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


# -- mending ---------------------------------------------------------------------------------------


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_the_doctor_leaves_a_store_of_a_newer_version_alone() -> None:
    submit(JobScript("true", "one")).wait(30)
    close_default_sessions()
    with contextlib.closing(
        sqlite3.connect(".clusterjob/store.sqlite")
    ) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = contents(".clusterjob")
    words = run("doctor", "--fix", code=1)
    assert "newer clusterjob" in words
    assert "--fix" not in words
    assert contents(".clusterjob").keys() == before.keys()
    assert contents(".clusterjob")["store.sqlite"] == before["store.sqlite"]


def test_the_doctor_leaves_a_store_on_a_full_disk_alone() -> None:
    disk = Path("disk").absolute()
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with Session("disk/store") as session:
            session.submit(JobScript("true", "one")).wait(30)
        Path("disk/store/store.sqlite").rename("disk/store/whole")
        damaged = bytearray(Path("disk/store/whole").read_bytes())
        with contextlib.suppress(OSError), Path("disk/fill").open("wb") as file:
            while True:
                file.write(b"x" * 1024)
                file.flush()
        Path("disk/store/whole").rename("disk/store/store.sqlite")
        assert not [name for name in os.listdir("disk/store") if "broken" in name]
        run("--store", "disk/store", "doctor", "--fix", code=None)
        assert Path("disk/store/store.sqlite").read_bytes() == bytes(damaged)
        # and where it is broken, and there is no room for a new one
        damaged[4096 : 4096 * 3] = os.urandom(4096 * 2)
        with Path("disk/store/store.sqlite").open("r+b") as file:
            file.write(bytes(damaged))
        run("--store", "disk/store", "doctor", "--fix", code=1)
        assert Path("disk/store/store.sqlite").read_bytes() == bytes(damaged)
        assert not [name for name in os.listdir("disk/store") if "broken" in name]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_doctor_says_what_was_saved() -> None:
    for number in range(3):
        submit(JobScript("true", f"job{number}")).wait(30)
    close_default_sessions()
    store = Path(".clusterjob/store.sqlite")
    store.write_bytes(store.read_bytes()[:-4096])
    words = run("doctor", "--fix", code=None)
    assert re.search(r"broken-[\d-]+; \d records were saved", words)
    assert run("doctor", code=None)
