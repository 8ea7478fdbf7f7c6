"""Two people on one machine, in folders that both may write to. Neither is root; one means ill.

The accounts are the lab's own: the machine's stay as they are.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYTHON = "/usr/bin/python3"  # one that all users may run


class People:
    """Runs commands as one or the other, in a folder of both."""

    def __init__(self, etc: Path, folder: Path) -> None:
        self.folder = folder
        self._etc = etc

    def run(
        self,
        user: str,
        command: str,
        cwd: str = ".",
        code: int | None = 0,
        timeout: float = 60,
    ) -> str:
        place = self.folder / cwd
        packages = sysconfig.get_path("purelib")
        inner = (
            f"cd {shlex.quote(str(place))} && umask 022 && "
            f"export HOME={self.folder}/home-{user} PYTHONPATH={ROOT}:{packages} "
            f"CLUSTERJOB_SPOOL={self.folder}/home-{user}/spool PYTHONDONTWRITEBYTECODE=1 && "
            f"{command}"
        )
        outer = (
            f"mount --make-rprivate / && mount --bind {self._etc} /etc && "
            f"exec setpriv --reuid={user} --regid=nogroup --clear-groups sh -c {shlex.quote(inner)}"
        )
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", outer],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def clusterjob(
        self, user: str, words: str, cwd: str = ".", code: int | None = 0
    ) -> str:
        return self.run(user, f"{PYTHON} -m clusterjob {words}", cwd, code)


@pytest.fixture
def people(lab: Path) -> Iterator[People]:
    if not os.access(PYTHON, os.X_OK) or sys.version_info[:2] < (3, 10):
        pytest.skip("needs a Python that everybody may run")
    folder = Path(tempfile.mkdtemp(prefix="clusterjob-people-", dir="/tmp"))
    folder.chmod(0o1777)  # as scratch is
    for user, number in (("alice", 30011), ("mallory", 30012)):
        home = folder / f"home-{user}"
        home.mkdir(mode=0o700)
        os.chown(home, number, 65534)
    found = People(lab / "ssh/etc", folder)
    if found.run("alice", f"{PYTHON} -c 'import clusterjob.cli.group'", code=None):
        shutil.rmtree(folder)
        pytest.skip("other users may not read this checkout or its packages")
    yield found
    shutil.rmtree(folder)


PLANT = """
import os
from clusterjob import JobScript, Session
from clusterjob.store import Phase
mark = "touch {folder}/pwned-$(id -un)"
with Session({where!r}) as session:
    job = JobScript(mark, "planted", prologue=mark, epilogue=mark)
    record = job.prepare(session.engine, batch="planted")
    record.owner, record.leased = "gone", 1.0
    session.store.claim([record], lambda old, new: False)
for top, names, files in os.walk(".clusterjob"):
    os.chmod(top, 0o755)
    for name in files:
        os.chmod(os.path.join(top, name), 0o644)
"""


def plant(people: People, where: str | None = None, cwd: str = ".") -> None:
    """A store of mallory's with an open submission, which whoever finishes it would run."""
    (people.folder / "plant.py").write_text(
        PLANT.format(folder=people.folder, where=where)
    )
    people.run("mallory", f"{PYTHON} {people.folder}/plant.py", cwd)


def owned(people: People, user: str) -> list[str]:
    return [path.name for path in people.folder.glob(f"pwned-{user}")]


def test_a_planted_store_above_runs_nothing(people: People) -> None:
    plant(people)
    people.run("alice", "mkdir work; echo 'echo mine' >work/job.sh")
    for words in (
        "status",
        "list",
        "plan job.sh",
        "list --json",
        "doctor",
        "status planted",
    ):
        said = people.clusterjob("alice", words, "work", code=None)
        assert "belongs to mallory" in said, words
    people.clusterjob("alice", "show planted", "work", code=4)
    people.clusterjob("alice", "submit job.sh --wait", "work")
    assert "job" in people.clusterjob("alice", "list", "work")
    assert owned(people, "alice") == []
    assert (people.folder / "work/.clusterjob/store.sqlite").exists()


def test_a_planted_store_that_is_named_is_looked_at_only(people: People) -> None:
    plant(people)
    where = f"--store {people.folder}/.clusterjob"
    people.run("alice", "mkdir work; echo 'echo mine' >work/job.sh")
    assert "planted" in people.clusterjob("alice", f"{where} list", "work")
    people.clusterjob("alice", f"{where} status", "work", code=None)
    people.clusterjob(
        "alice", f"{where} wait planted --timeout 2s", "work", code=None
    )
    for words in ("submit job.sh", "cancel planted", "resubmit planted"):
        people.clusterjob("alice", f"{where} {words}", "work", code=1)
    people.clusterjob("alice", f"{where} doctor --fix", "work", code=None)
    assert owned(people, "alice") == []


def test_the_owner_finishes_what_is_his_own(people: People) -> None:
    plant(people)
    people.clusterjob("mallory", "status")
    people.clusterjob("mallory", "wait planted")
    assert owned(people, "mallory") == ["pwned-mallory"]


@pytest.mark.parametrize("mode", ["777", "755", "1777"])
def test_planted_run_folders_are_refused(people: People, mode: str) -> None:
    people.run("mallory", f"mkdir -m {mode} .clusterjob-runs")
    people.run(
        "alice", "mkdir home-alice/jobs; echo 'touch ran' >home-alice/jobs/job.sh"
    )
    words = f"--store {people.folder}/home-alice/s submit home-alice/jobs/job.sh -w ."
    said = people.clusterjob("alice", words, code=1)
    assert "belongs to somebody else" in said or "cannot be written" in said
    assert not (people.folder / "ran").exists()
    shutil.rmtree(people.folder / ".clusterjob-runs")
    people.clusterjob("alice", f"{words} --wait")
    assert (people.folder / "ran").exists()
    # hers is not to be touched now
    people.run("mallory", "mv .clusterjob-runs away", code=1)
    assert "ermission denied" in people.run("mallory", "ls .clusterjob-runs", code=2)


def test_links_and_pipes_in_the_way_of_outputs(people: People) -> None:
    """Alice's job writes into a folder of both; mallory put things there first."""
    people.run(
        "alice", "echo precious >home-alice/profile; mkdir -m 1777 results work"
    )
    people.run(
        "alice",
        "echo 'mkdir -p out; echo 1 >out/a; echo 2 >out/b; echo 3 >c' >work/job.sh",
    )
    people.run(
        "mallory",
        "mkfifo results/pipe; ln -s ../home-alice/profile results/c; "
        "ln -s ../home-alice results/out; "
        "for n in a b c; do ln -s ../home-alice/profile results/.$n.part; "
        "ln -s ../home-alice/profile results/$n.part; done",
    )
    people.clusterjob("alice", "submit job.sh -n fetched -o out/ -o c --wait", "work")
    people.clusterjob("alice", "fetch fetched --into ../results", "work", code=None)
    assert (people.folder / "home-alice/profile").read_text() == "precious\n"
    assert not (people.folder / "home-alice/a").exists()


def test_scripts_of_others_are_no_names_of_ours(people: People) -> None:
    """The script gets a name in a folder of both, where a link of mallory's bears that name."""
    people.run(
        "alice",
        "echo precious >home-alice/profile; echo 'touch ran' >home-alice/job.sh",
    )
    people.run(
        "mallory",
        "ln -s home-alice/profile run.sh; ln -s home-alice/profile run.sh.part",
    )
    people.run(
        "alice",
        f'{PYTHON} -c "from clusterjob import JobScript, SubmissionError, SettingsError\n'
        "try: JobScript('touch ran', 'named', filename='run.sh', "
        f"cache_folder='{people.folder}/home-alice/s').submit()\n"
        'except (SubmissionError, SettingsError) as error: print(error)"',
        code=None,
    )
    assert (people.folder / "home-alice/profile").read_text() == "precious\n"


LIVE = """
import os, shutil
from clusterjob import JobScript, Session
from clusterjob.store import Phase
evil = {folder!r} + "/evil"
shutil.copytree({root!r} + "/backends/local", evil)
mark = "touch {folder}/pwned-$(id -un); true"
path = evil + "/backend.ini"
lines = open(path).read().splitlines()
names = ("version", "active", "finished", "find", "cancel", "submit", "submit_batch")
lines = [
    line.partition("=")[0] + "= " + mark if line.split(" ")[0] in names else line for line in lines
]
open(path, "w").write(chr(10).join(lines))
with Session(".clusterjob") as session:
    job = JobScript("true", "live", backend=evil, epilogue=mark, outputs=["x"])
    record = job.prepare(session.engine, batch="planted")
    record.phase, record.job_id = Phase.SUBMITTED, "1"
    session.store.claim([record], lambda old, new: False)
    from clusterjob import AsyncResult
    AsyncResult(record, session.engine).dump("dumped.json")
for top, names, files in os.walk("."):
    if ".clusterjob" in top or "evil" in top:
        os.chmod(top, 0o755)
        for name in files:
            os.chmod(os.path.join(top, name), 0o644)
os.chmod("dumped.json", 0o644)
"""


def plant_live(people: People) -> None:
    """A store of mallory's with a job that seems to run, on a backend of hers."""
    text = LIVE.format(folder=str(people.folder), root=str(ROOT))
    (people.folder / "live.py").write_text(text)
    people.run("mallory", f"{PYTHON} {people.folder}/live.py")
    for path in people.folder.glob("pwned-*"):
        path.unlink()


@pytest.mark.parametrize(
    "words", ["doctor", "doctor --fix", "status", "show live", "wait live"]
)
def test_no_cluster_of_a_strangers_store_is_asked(people: People, words: str) -> None:
    plant_live(people)
    people.run("alice", "mkdir work")
    where = f"--store {people.folder}/.clusterjob"
    people.clusterjob("alice", f"{where} {words}", "work", code=None)
    assert owned(people, "alice") == []


@pytest.mark.parametrize("words", ["list", "doctor", "plan x.sh", "submit x.sh"])
def test_a_closed_folder_is_told_in_words(people: People, words: str) -> None:
    plant_live(people)
    people.run("mallory", "chmod 700 .clusterjob; mkdir -m 700 -p files/records")
    people.run("mallory", "chmod 700 files")
    people.run("alice", "mkdir work; echo true >work/x.sh")
    for name in (str(people.folder / ".clusterjob"), f"file://{people.folder}/files"):
        said = people.clusterjob(
            "alice", f"--store {name} {words}", "work", code=None
        )
        assert "cannot be made or read: Permission denied" in said
        assert "Errno" not in said


def test_copies_of_a_strangers_store_bring_nothing_to_run(people: People) -> None:
    plant_live(people)
    plant(people, where="second")
    people.run("mallory", "chmod -R a+rX second")
    people.run("alice", "mkdir work")
    for source in (".clusterjob", "second"):
        said = people.clusterjob("alice", f"store copy ../{source} mine", "work")
        assert "belong to mallory: left out" in said
        people.clusterjob("alice", "--store mine status", "work", code=None)
    assert owned(people, "alice") == []


def test_a_strangers_dump_is_refused(people: People) -> None:
    plant_live(people)
    people.run("alice", "mkdir work")
    (people.folder / "load.py").write_text(
        "from clusterjob import AsyncResult\n"
        "try: print(AsyncResult.load('../dumped.json').status)\n"
        "except Exception as error: print(error)\n"
    )
    said = people.run("alice", f"{PYTHON} ../load.py", "work")
    assert "belongs to mallory" in said
    assert owned(people, "alice") == []


def test_logs_are_not_written_through_what_others_put_there(people: People) -> None:
    people.run(
        "alice",
        "echo precious >home-alice/precious; echo 'echo secret' >home-alice/j.sh",
    )
    people.run(
        "mallory",
        "mkdir -m 777 shared; ln -s ../home-alice/precious shared/link; mkfifo -m 666 shared/pipe; "
        "touch shared/file; chmod 666 shared/file",
    )
    for name in ("link", "pipe", "file"):
        words = (
            f"--store home-alice/s submit home-alice/j.sh -n {name} -w shared --wait"
        )
        said = people.clusterjob("alice", f"{words} -r stdout={name}", code=1)
        assert "belongs to somebody else" in said
        logs = people.clusterjob("alice", f"--store home-alice/s logs {name}")
        assert "precious" not in logs + said
        assert "not of this job" in logs
    assert (people.folder / "home-alice/precious").read_text() == "precious\n"
    assert (people.folder / "shared/file").read_text() == ""


def test_no_file_is_written_through_a_folder_that_others_linked(
    people: People,
) -> None:
    people.run("alice", "mkdir home-alice/v; echo precious >home-alice/v/x")
    people.run("alice", "echo 'echo secret' >home-alice/j.sh; echo new >home-alice/x")
    people.run("mallory", "mkdir -m 1777 common; ln -s ../home-alice/v common/out")
    words = "--store home-alice/s submit home-alice/j.sh -w common --wait"
    said = people.clusterjob("alice", f"{words} -n log -r stdout=out/x", code=1)
    assert "belongs to somebody else" in said
    (people.folder / "write.py").write_text(
        "import os\n"
        "from clusterjob import CommandError, JobScript, Session\n"
        "kinds = {'aux_scripts': {'out/x': 'new'}, 'inputs': {'x': 'out/x'}}\n"
        "for name, value in kinds.items():\n"
        "    job = JobScript('true', name, workdir='../common', **{name: value})\n"
        "    try:\n"
        "        with Session('s') as session: session.submit(job)\n"
        "    except CommandError as error: print(error)\n"
    )
    said = people.run("alice", f"{PYTHON} ../write.py", "home-alice")
    assert said.count("is a link of another user's") == 2
    assert (people.folder / "home-alice/v/x").read_text() == "precious\n"


@pytest.mark.parametrize("what", ["link", "empty", "folder"])
def test_a_place_that_others_took_is_no_place_for_a_store(
    people: People, what: str
) -> None:
    people.run(
        "alice", "mkdir home-alice/other home-alice/empty; echo true >home-alice/j.sh"
    )
    people.clusterjob("alice", "submit ../j.sh --wait", "home-alice/other")
    make = {
        "link": "ln -s ../home-alice/other/.clusterjob shared/.clusterjob",
        "empty": "ln -s ../home-alice/empty shared/.clusterjob",
        "folder": "mkdir -m 770 shared/.clusterjob",
    }[what]
    people.run("mallory", f"mkdir -m 1777 shared; {make}")
    for words in (
        "list",
        "submit ../home-alice/j.sh",
        "status",
        "plan ../home-alice/j.sh",
    ):
        said = people.clusterjob("alice", words, "shared", code=1)
        assert "belongs to mallory, so it is no place for a store of yours" in said
    said = people.clusterjob("alice", "list", "home-alice/other")
    assert said.count("COMPLETED") == 1
    assert os.listdir(people.folder / "home-alice/empty") == []


def test_a_strangers_part_of_a_store_makes_it_a_strangers(people: People) -> None:
    people.run("alice", "mkdir -m 775 shared; echo true >shared/j.sh")
    os.chmod(people.folder / "shared", 0o777)
    os.chmod(people.folder / "shared", 0o775)
    people.clusterjob(
        "alice", "--store sqlite:///jobs.sqlite submit j.sh --wait", "shared"
    )
    for suffix in ("-wal", "-shm"):
        path = people.folder / f"shared/jobs.sqlite{suffix}"
        path.unlink(missing_ok=True)
        path.touch()
        os.chown(path, 30012, 65534)
    words = "--store sqlite:///jobs.sqlite submit j.sh"
    assert "belongs to mallory" in people.clusterjob("alice", words, "shared", code=1)
