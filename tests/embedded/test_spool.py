"""The embedded scheduler by itself: order, bounds, limits, survival."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SPOOL = Path(__file__).parent.parent.parent / "clusterjob" / "spool.py"


@pytest.fixture(autouse=True)
def _own_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOB_SPOOL", str(tmp_path / "queue"))
    monkeypatch.setenv("CLUSTERJOB_SPOOL_CORES", "2")
    monkeypatch.setenv("CLUSTERJOB_SPOOL_MEM", "1000")


def spool(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SPOOL), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def queue(body: str, *options: str) -> str:
    path = Path(f"job{len(list(Path().glob('job*')))}.sh")
    path.write_text(
        "#!/bin/sh\n"
        + "".join(f"#CLUSTERJOB {option}\n" for option in options)
        + body
    )
    return spool("submit", str(path)).strip()


def states() -> dict[str, str]:
    return {
        line.split("|")[0]: line.split("|")[1]
        for line in spool("active").splitlines()
    }


def until(name: str, state: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while states().get(name) != state:
        assert time.monotonic() < deadline, states()
        time.sleep(0.05)


def wait_for(path: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not Path(path).exists() or not Path(path).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_more_runs_at_once_than_there_are_cores() -> None:
    """Each waits until a second one has started: two do run at once.

    The last one has both cores for itself.
    """
    body = (
        "echo start >> log; until [ $(grep -c start log) -ge 2 ]; do sleep 0.05; done; sleep "
        "0.2; echo end >> log\n"
    )
    jobs = [queue(body) for _ in range(4)] + [
        queue(
            "echo start start >> log; sleep 0.2; echo end end >> log\n", "--cores=2"
        )
    ]
    for job in jobs:
        until(job, "COMPLETED")
    running = list(
        itertools.accumulate(
            1 if word == "start" else -1 for word in Path("log").read_text().split()
        )
    )
    assert max(running) == 2
    assert min(running) == 0


def test_memory_is_a_bound_too() -> None:
    first = queue("until [ -e go ]; do sleep 0.05; done\n", "--mem=700")
    until(first, "RUNNING")
    second = queue("true\n", "--mem=700")
    time.sleep(0.3)
    assert states() == {first: "RUNNING", second: "PENDING"}
    Path("go").touch()
    until(second, "COMPLETED")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--cores=3", "asks for 3 cores"),
        ("--mem=2000", "asks for 2000 MB"),
        ("--nodes=1", "unknown option"),
    ],
)
def test_what_can_never_run_is_refused(option: str, words: str) -> None:
    Path("job.sh").write_text(f"#!/bin/sh\n#CLUSTERJOB {option}\ntrue\n")
    assert words in spool("submit", "job.sh", code=1)
    assert states() == {}


def test_limits_are_enforced() -> None:
    late = queue("sleep 60 & wait\n", "--time=1")
    greedy = queue(
        f"exec {sys.executable} -c 'import time; x = bytearray(300 << 20); time.sleep(30)'\n",
        "--mem=100",
    )
    until(late, "TIMEOUT")
    until(greedy, "OUT_OF_MEMORY")


def test_arrays_and_dependencies() -> None:
    array = queue(
        "echo $SPOOL_TASK >> log; exit $((SPOOL_TASK == 3))\n",
        "--array=1-3",
        "--throttle=1",
        "--output=out%a",
    )
    good = queue("true\n")
    after_bad = queue("true\n", f"--after={array}")
    after_good = queue("true\n", f"--after={good}")
    until(after_bad, "CANCELLED")
    until(after_good, "COMPLETED")
    assert Path("log").read_text().split() == ["1", "2", "3"]
    assert {
        key: value for key, value in states().items() if key.startswith(f"{array}_")
    } == {
        f"{array}_1": "COMPLETED",
        f"{array}_2": "COMPLETED",
        f"{array}_3": "FAILED",
    }
    assert "DependencyNeverSatisfied" in spool("finished", after_bad)


def test_cancel() -> None:
    jobs = [queue("trap 'sleep 60' TERM; sleep 60 & wait; wait\n") for _ in range(3)]
    spool("cancel", *jobs)
    for job in jobs:
        until(job, "CANCELLED")
    assert "unknown job id: 999" in spool("cancel", "999", code=1)
    done = queue("true\n")
    until(done, "COMPLETED")
    spool("cancel", done)
    assert states()[done] == "COMPLETED"


def test_the_same_token_is_the_same_job() -> None:
    Path("job.sh").write_text("#!/bin/sh\n#CLUSTERJOB --token=abc\necho run >> log\n")
    assert spool("submit", "job.sh") == spool("submit", "job.sh")
    until("1", "COMPLETED")
    assert Path("log").read_text() == "run\n"


def test_the_queue_goes_on_without_whoever_submitted() -> None:
    code = (
        f"import subprocess, sys; [subprocess.run([sys.executable, {str(SPOOL)!r}, 'submit', "
        "'job.sh']) for _ in range(4)]"
    )
    Path("job.sh").write_text("#!/bin/sh\nsleep 0.5; echo run >> log\n")
    subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=30,
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    # nobody asks meanwhile
    while not Path("log").exists() or Path("log").read_text().count("run") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_shepherd_is_a_failed_node_and_leaves_nothing_behind() -> None:
    job = queue(
        "sleep 61 & echo $! > child; cut -d ' ' -f 4 /proc/$$/stat > shepherd; wait\n"
    )
    wait_for("shepherd")
    os.kill(int(Path("shepherd").read_text()), signal.SIGKILL)
    until(job, "NODE_FAIL")
    child = int(Path("child").read_text())
    deadline = time.monotonic() + 5
    while (
        Path(f"/proc/{child}/stat").exists()
        and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    until(queue("true\n"), "COMPLETED")


def test_it_runs_on_old_pythons_and_imports_nothing_of_ours() -> None:
    text = SPOOL.read_text()
    assert not re.search(r"^(from|import) clusterjob", text, re.MULTILINE)
    compile(text, "spool.py", "exec", dont_inherit=True)
    import ast

    ast.parse(text, feature_version=(3, 8))


def test_queues_of_one_machine_do_not_touch_each_others_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = queue("cut -d ' ' -f 4 /proc/$$/stat > shepherd; sleep 62\n")
    monkeypatch.setenv("CLUSTERJOB_SPOOL", os.environ["CLUSTERJOB_SPOOL"] + "-other")
    other = queue("cut -d ' ' -f 4 /proc/$$/stat > shepherd2; sleep 63\n")
    assert mine == other
    wait_for("shepherd2")
    wait_for("shepherd")
    os.kill(int(Path("shepherd2").read_text()), signal.SIGKILL)
    until(other, "NODE_FAIL")
    time.sleep(0.3)
    monkeypatch.setenv(
        "CLUSTERJOB_SPOOL", os.environ["CLUSTERJOB_SPOOL"][: -len("-other")]
    )
    assert states() == {mine: "RUNNING"}
    spool("cancel", mine)
    until(mine, "CANCELLED")


def test_a_job_that_a_job_submits_outlives_it() -> None:
    Path("inner.sh").write_text(
        "#!/bin/sh\nuntil [ -e go ]; do sleep 0.05; done; echo done > inner.out\n"
    )
    outer = queue(f"{sys.executable} {SPOOL} submit inner.sh > inner.id; sleep 0.5\n")
    until(outer, "COMPLETED")
    inner = Path("inner.id").read_text().strip()
    assert states()[inner] == "RUNNING"
    Path("go").touch()
    until(inner, "COMPLETED")
    assert Path("inner.out").exists()


DYING = """
import os, sys; sys.path.insert(0, {folder!r}); import spool
os.makedirs(spool.folder(), exist_ok=True)
lock = os.open(os.path.join(spool.folder(), "supervisor"), os.O_RDWR | os.O_CREAT)
boss = spool.Supervisor(lock)
database = spool.connect()
database.execute("BEGIN IMMEDIATE")
job = spool.insert(database, *spool.read_job("job.sh", os.getcwd()))
row = database.execute("SELECT * FROM tasks JOIN jobs ON job = id").fetchone()
child = boss.fork(database, row)
if {committed}:
    database.execute("COMMIT")
os._exit(0)
"""


@pytest.mark.parametrize("committed", [False, True])
def test_a_supervisor_that_dies_while_it_starts_a_job(committed: bool) -> None:
    """What is noted as running runs; what is not runs nothing."""
    Path("job.sh").write_text(
        "#!/bin/sh\n#CLUSTERJOB --token=t\necho ran >> ledger\n"
    )
    code = DYING.format(folder=str(SPOOL.parent), committed=committed)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    if committed:
        until("1", "COMPLETED")
    else:
        time.sleep(0.5)
        assert not Path("ledger").exists()
        assert states() == {}
        spool("submit", "job.sh")
        until("1", "COMPLETED")
    assert Path("ledger").read_text() == "ran\n"


def supervisor() -> int:
    """Return the process that starts jobs; 0 where there is none."""
    text = Path("queue/supervisor").read_text()
    pid = int(text.split(":")[0]) if text else 0
    return pid if pid and Path(f"/proc/{pid}").exists() else 0


def test_jobs_run_once_whenever_the_supervisor_is_killed() -> None:
    jobs: list[str] = []
    kills = 0
    deadline = time.monotonic() + 60
    while kills < 5 or {"PENDING", "RUNNING"} & set(states().values()):
        assert time.monotonic() < deadline
        if (
            kills < 5 and len(jobs) <= 8 * kills
        ):  # on a slow machine they end between kills
            first = len(jobs)
            more = (f"echo {first + n} >> ledger; sleep 0.4\n" for n in range(8))
            jobs += map(queue, more)
        pid = supervisor()
        if pid:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(0.07)
    found = states()
    # those of long ago may be forgotten, where the machine is slow
    assert {found[job] for job in jobs if job in found} == {"COMPLETED"}
    ran = sorted(map(int, Path("ledger").read_text().split()))
    assert ran == list(range(len(jobs)))


def test_a_supervisor_ends_with_its_last_job() -> None:
    until(queue("true\n"), "COMPLETED")
    deadline = time.monotonic() + 10
    while supervisor():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_batch_is_one_command() -> None:
    for number in range(3):
        Path(f"b{number}.sh").write_text(
            f"#!/bin/sh\n#CLUSTERJOB --token=t{number}\n"
            + "#CLUSTERJOB --cores=9\n" * (number == 1)
            + f"echo {number} >> ledger\n"
        )
    words = [
        word for n in range(3) for word in (f"t{n}", str(Path.cwd()), f"b{n}.sh")
    ]
    said = dict(
        line.split(" ", 1) for line in spool("submit-batch", *words).splitlines()
    )
    assert said["=t0"] == "0 1"
    assert said["=t1"].startswith("1 spool: the job asks for 9 cores")
    assert said["=t2"] == "0 2"
    again = spool("submit-batch", *words).splitlines()
    assert dict(line.split(" ", 1) for line in again) == said
    until("2", "COMPLETED")
    assert sorted(Path("ledger").read_text().split()) == ["0", "2"]


OLD_QUEUE = """
import sqlite3
database = sqlite3.connect("queue/spool.sqlite", isolation_level=None)
database.executescript('''
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE, name TEXT, script TEXT, workdir TEXT,
    cores INTEGER, mem INTEGER, time INTEGER, stdout TEXT, stderr TEXT, after TEXT,
    throttle INTEGER, submitted REAL, environment TEXT);
CREATE TABLE tasks (
    job INTEGER, idx INTEGER, state TEXT DEFAULT 'PENDING', why TEXT DEFAULT '', code INTEGER,
    signal INTEGER, started REAL, ended REAL,
    shepherd TEXT, cpu REAL, max_rss REAL, cancelled INTEGER DEFAULT 0, PRIMARY KEY (job, idx));
CREATE INDEX by_state ON tasks (state, job, idx);
PRAGMA user_version = 1;
''')
values = (1, 0, 0, "/dev/null", "/dev/null", 0, 1.0, "{}")
for token, after in (("a", "[]"), ("b", "[1]")):
    database.execute("INSERT INTO jobs (token, name, script, workdir, cores, mem, time, stdout, "
        "stderr, after, throttle, submitted, environment) VALUES (?, '', ?, ?, ?, ?, ?, ?, ?, '"
        + after + "', ?, ?, ?)", (token, WORKDIR + "/job.sh", WORKDIR, *values))
database.execute("INSERT INTO tasks (job, idx) VALUES (1, -1)")
database.execute("INSERT INTO tasks (job, idx) VALUES (2, -1)")
"""


def test_a_queue_of_the_version_before_is_taken_over() -> None:
    Path("queue").mkdir()
    Path("job.sh").write_text("#!/bin/sh\necho $SPOOL_JOB_ID >> ledger\n")
    exec(OLD_QUEUE, {"WORKDIR": str(Path.cwd())})
    until("2", "COMPLETED")
    assert Path("ledger").read_text().split() == ["1", "2"]


def test_an_end_that_cannot_be_written_down_is_written_later() -> None:
    job = queue("until [ -e go ]; do sleep 0.05; done; exit 3\n")
    until(job, "RUNNING")
    Path("queue").rename("aside")
    Path("queue").touch()  # no folder can be made there
    Path("go").touch()
    time.sleep(1.5)
    Path("queue").unlink()
    Path("aside").rename("queue")
    until(job, "FAILED")
    assert f"{job}|FAILED|3|" in spool("active")
