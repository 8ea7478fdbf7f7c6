"""A small batch scheduler for one machine, in one file of the standard library (Python 3.8 and
later).

It queues jobs, runs as many at once as cores and memory allow, enforces time and memory, kills
whole process trees, and knows arrays and dependencies. As long as there are jobs, one supervisor
starts them and writes down their ends; it ends with the last of them. Each running job has a
shepherd, a process of its own that knows all of the job's processes. Whoever is killed, the others
go on: a shepherd without a supervisor writes down the end by itself, and the next command that
finds no supervisor starts one.

    spool.py submit SCRIPT         print the job id; options stand in the script, in lines
        '#CLUSTERJOB --time=60 --cores=2'
    spool.py submit-batch [TOKEN WORKDIR SCRIPT]...   queue all at once; print, for each job,
        '=TOKEN 0 ID', or '=TOKEN 1 WORDS' where it is refused
    spool.py active                all unfinished jobs, and those that ended in the last seconds
    spool.py find                  the same, with those that ended in the last minutes
    spool.py finished ID,...       what became of jobs
    spool.py cancel ID[_INDEX] ...
    spool.py version

The queue is a SQLite file in $CLUSTERJOB_SPOOL, else $XDG_STATE_HOME/clusterjob/spool-HOST.
$CLUSTERJOB_SPOOL_CORES and $CLUSTERJOB_SPOOL_MEM (MB) bound what is used of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import hashlib
import json
import os
import re
import resource
import shlex
import signal
import socket
import sqlite3
import stat
import sys
import time
from typing import Any, Iterable

GRACE = 2.0  # s between TERM and KILL
# s for which 'active' lists jobs that ended: who asks less often asks for them by id
RECENT = 20.0
FINDABLE = 600.0  # s for which 'find' does
# s for which the end of a job is tried to be written down, on a disk that is full
PATIENCE = 3600
KEEP = 30 * 86400.0  # s after which ended jobs are forgotten
# s after which a job that was taken for a start, and has no shepherd, is queued again
_UNSTARTED = 30.0
_LOOK = 1.0  # s after which a supervisor looks at the queue, also where nobody tells it to
_UMASK = "SPOOL_UMASK"  # in the environment of a job that waits: of who submitted it
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE, name TEXT, script TEXT, workdir TEXT,
    cores INTEGER, mem INTEGER, time INTEGER, stdout TEXT, stderr TEXT, after TEXT,
    throttle INTEGER, submitted REAL, environment TEXT
);
CREATE TABLE IF NOT EXISTS tasks (
    job INTEGER, idx INTEGER, state TEXT DEFAULT 'PENDING', why TEXT DEFAULT '', code INTEGER,
    signal INTEGER, started REAL, ended REAL,
    shepherd TEXT, cpu REAL, max_rss REAL, cancelled INTEGER DEFAULT 0, PRIMARY KEY (job, idx)
);
CREATE INDEX IF NOT EXISTS by_state ON tasks (state, job, idx);
"""
# held: it waits for other jobs; those are looked at when one of them has ended
_TO_2 = """
ALTER TABLE tasks ADD COLUMN held INTEGER DEFAULT 0;
CREATE TABLE dependencies (parent INTEGER, child INTEGER, PRIMARY KEY (parent, child));
CREATE INDEX by_end ON tasks (ended);
CREATE INDEX held_ones ON tasks (job) WHERE held = 1;
"""
# the script as it was submitted
_TO_3 = "ALTER TABLE jobs ADD COLUMN digest TEXT DEFAULT ''"
_OPTIONS = (
    "token",
    "job-name",
    "cores",
    "mem",
    "time",
    "array",
    "throttle",
    "output",
    "error",
    "after",
)


# exit codes of questions that a shepherd asks; any other is no answer
_YES, _NO = 0, 64


class SpoolError(Exception):
    """What is printed to the user; the exit code is 1."""


def folder() -> str:
    """Return the folder of the queue."""
    named = os.environ.get("CLUSTERJOB_SPOOL")
    if named:
        return os.path.abspath(named)
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "clusterjob", "spool-" + socket.gethostname())


def connect() -> sqlite3.Connection:
    """Open the queue, and make it where there is none."""
    place = folder()
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        path = os.path.join(place, "spool.sqlite")
        if not os.path.exists(path):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        database = sqlite3.connect(path, timeout=60, isolation_level=None)
        database.row_factory = sqlite3.Row
        prepare(database, path)
    except (OSError, sqlite3.Error) as error:
        raise SpoolError("the queue in %s cannot be used: %s" % (place, error))
    return database


def prepare(database: sqlite3.Connection, path: str) -> None:
    """Make the tables, or bring those of an older version up to date."""
    # writing ahead needs memory that all openers share, which no network file system has
    if not is_shared(path):
        database.execute("PRAGMA journal_mode = WAL")
    if database.execute("PRAGMA user_version").fetchone()[0] >= 3:
        return
    database.execute("BEGIN IMMEDIATE")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    statements = [_SCHEMA] * (version < 1) + [_TO_2] * (version < 2)
    statements += [_TO_3] * (version < 3)
    for statement in "".join(statements).split(";"):
        database.execute(statement)
    if version == 1:
        for row in database.execute(
            "SELECT id, after FROM jobs WHERE after != '[]'"
        ).fetchall():
            hold(database, row["id"], json.loads(row["after"]))
    database.execute("PRAGMA user_version = 3")
    database.execute("COMMIT")


def is_shared(path: str) -> bool:
    """Whether a path is on a network file system, as far as can be told."""
    best, kind = "", ""
    with contextlib.suppress(OSError, IndexError), open(
        "/proc/mounts", errors="replace"
    ) as file:
        for line in file:
            fields = line.split(" ")
            point = fields[1].rstrip("/") + "/"
            if path.startswith(point) and len(point) >= len(best):
                best, kind = point, fields[2]
    return bool(
        re.match(
            r"nfs|cifs|smb|lustre|gpfs|beegfs|afs|ceph|fuse\.|9p|pvfs|panfs", kind
        )
    )


def cores() -> int:
    """Return how many cores jobs may use at once."""
    named = os.environ.get("CLUSTERJOB_SPOOL_CORES", "")
    if named.isdigit() and int(named):
        return int(named)
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )


def memory() -> int:
    """Return how many MB jobs may ask for at once."""
    named = os.environ.get("CLUSTERJOB_SPOOL_MEM", "")
    if named.isdigit() and int(named):
        return int(named)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)


# -- submitting ------------------------------------------------------------------------------------


def read_options(lines: Iterable[str]) -> dict[str, str]:
    """Return the options that stand in a script's '#CLUSTERJOB' lines, before its first command."""
    options: dict[str, str] = {}
    for line in lines:
        if line.startswith("#CLUSTERJOB "):
            for word in shlex.split(line[len("#CLUSTERJOB ") :]):
                name, _, value = word.lstrip("-").partition("=")
                if name not in _OPTIONS or not word.startswith("--"):
                    raise SpoolError(
                        "unknown option %r; there are --%s"
                        % (word, ", --".join(_OPTIONS))
                    )
                options[name] = value
        elif line.strip() and not line.startswith("#"):
            break
    return options


def indices(spec: str | None) -> list[int]:
    """Return the indices of an array, [-1] for a job that is none."""
    if not spec:
        return [-1]
    found: list[int] = []
    for part in spec.split(","):
        match = re.match(r"(\d+)(?:-(\d+)(?::(\d+))?)?$", part)
        if not match:
            raise SpoolError("%r is not an array" % spec)
        first, last, step = match.groups()
        found += range(int(first), int(last or first) + 1, max(1, int(step or 1)))
    return sorted(set(found))


def submit(script: str) -> int:
    """Queue a script and return its job id; the same token is the same job."""
    values, tasks = read_job(script, os.getcwd())
    database = connect()
    database.execute("BEGIN IMMEDIATE")
    job = insert(database, values, tasks)
    database.execute("COMMIT")
    wake(database)
    return job


def submit_batch(words: list[str]) -> list[str]:
    """Queue jobs, given as token, working directory and script; return a line for each."""
    lines = []
    good = []
    for token, workdir, script in zip(words[::3], words[1::3], words[2::3]):
        try:
            good.append((token, *read_job(script, workdir)))
        except (SpoolError, ValueError) as error:
            lines.append("=%s 1 spool: %s" % (token, error))
    database = connect()
    database.execute("BEGIN IMMEDIATE")
    for token, values, tasks in good:
        lines.append("=%s 0 %d" % (token, insert(database, values, tasks)))
    database.execute("COMMIT")
    wake(database)
    return lines


def read_job(script: str, workdir: str) -> tuple[dict[str, Any], list[int]]:
    """Return the row of a job, and the indices of its tasks. Raises SpoolError."""
    path = os.path.join(workdir, script)
    try:
        content = read_script(path)
    except OSError as error:
        raise SpoolError("%s: %s" % (script, error.strerror))
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    options = read_options(lines)
    values = job_values(path, workdir, options)
    values["digest"] = hashlib.sha256(content).hexdigest()
    return values, indices(options.get("array"))


def insert(
    database: sqlite3.Connection, values: dict[str, Any], tasks: list[int]
) -> int:
    """Queue a job, unless there is one with its token; return its id."""
    known = database.execute(
        "SELECT id FROM jobs WHERE token = ?", (values["token"],)
    ).fetchone()
    if known:
        return int(known["id"])
    names, places = ", ".join(values), ", ".join(":" + name for name in values)
    cursor = database.execute(
        "INSERT INTO jobs (%s) VALUES (%s)" % (names, places), values
    )
    job = int(cursor.lastrowid or 0)
    database.executemany(
        "INSERT INTO tasks (job, idx) VALUES (?, ?)",
        [(job, index) for index in tasks],
    )
    hold(database, job, json.loads(values["after"]))
    return job


def hold(database: sqlite3.Connection, job: int, after: list[Any]) -> None:
    """Let a job wait for others, where they have not ended yet."""
    if not after:
        return
    database.executemany(
        "INSERT OR IGNORE INTO dependencies VALUES (?, ?)",
        [(parent, job) for parent, _, _ in map(parent_of, after)],
    )
    database.execute(
        "UPDATE tasks SET held = 1, why = 'Dependency' WHERE job = ? AND state = 'PENDING'",
        (job,),
    )
    release(database, job)


def job_values(script: str, workdir: str, options: dict[str, str]) -> dict[str, Any]:
    """Return a row of the table of jobs. Raises SpoolError for one that cannot run here."""
    cores_wanted = number_of(options, "cores", 1)
    memory_wanted = number_of(options, "mem", 0)
    check_room(cores_wanted, cores(), "cores")
    check_room(memory_wanted, memory(), "MB")
    after: list[Any] = []
    for word in filter(None, options.get("after", "").split(",")):
        how, _, task = word.rpartition(":")  # "afterany:12_3"
        job, _, index = task.partition("_")
        # as an older version has it, where that is all
        is_plain = not index and how in ("", "afterok")
        found = [int(job), int(index) if index else None, how or "afterok"]
        after.append(int(job) if is_plain else found)
    output = options.get("output", "/dev/null")
    return {
        "token": options.get("token") or None,
        "name": options.get("job-name", ""),
        "script": os.path.abspath(script),
        "workdir": os.path.abspath(workdir),
        "cores": cores_wanted,
        "mem": memory_wanted,
        "time": number_of(options, "time", 0),
        "stdout": output,
        "stderr": options.get("error") or output,
        "after": json.dumps(after),
        "throttle": number_of(options, "throttle", 0),
        "submitted": time.time(),
        "environment": json.dumps({**os.environ, _UMASK: "%o" % mask()}),
    }


def mask() -> int:
    """Return the umask of this process."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def read_script(path: str) -> bytes:
    """Return a script of this user's. Raises OSError, and SpoolError for anybody else's."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SpoolError("%s is no plain file" % path)
        if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
            raise SpoolError(
                "%s belongs to somebody else, or anybody may write to it" % path
            )
        return file.read()


def as_submitted(path: str, digest: str) -> str:
    """Return where the script is that was submitted; nobody can change it there any more.

    Raises SpoolError for one that was changed.
    """
    content = read_script(path)
    # an older version queued a job without a digest
    if digest and hashlib.sha256(content).hexdigest() != digest:
        raise SpoolError("%s was changed after the job was submitted" % path)
    if not hasattr(os, "memfd_create"):
        return path
    memory = os.memfd_create("script", 0)  # it stays open in the job
    with os.fdopen(os.dup(memory), "wb") as file:
        file.write(content)
    return "/proc/self/fd/%d" % memory


def number_of(options: dict[str, str], name: str, default: int) -> int:
    """Return a number that an option gives."""
    text = options.get(name)
    return int(text) if text else default


def check_room(wanted: int, there: int, unit: str) -> None:
    """Refuse what can never run here."""
    if wanted > there:
        raise SpoolError(
            "the job asks for %d %s, and this machine has %d" % (wanted, unit, there)
        )


def forget_old(database: sqlite3.Connection) -> None:
    """Delete what ended long ago."""
    before = time.time() - KEEP
    database.execute("DELETE FROM tasks WHERE ended < ?", (before,))
    database.execute(
        "DELETE FROM jobs WHERE submitted < ? AND id NOT IN (SELECT job FROM tasks)",
        (before,),
    )


# -- the supervisor --------------------------------------------------------------------------------


def wake(database: sqlite3.Connection, outside: bool = False) -> None:
    """Tell the supervisor that there is something to do, or start one. Closes the database.

    ``outside``: this process is known to belong to no job.
    """
    above = None if outside else shepherd_above(database)
    database.close()
    lock = os.open(
        os.path.join(folder(), "supervisor"), os.O_RDWR | os.O_CREAT, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        there = os.read(lock, 200).decode()
        if there and alive(there):
            with contextlib.suppress(OSError):
                os.kill(int(there.split(":")[0]), signal.SIGUSR1)
        os.close(lock)
        return
    if above:
        # what is started inside a job ends with it: its shepherd, which stands outside, must do it
        os.close(lock)
        with contextlib.suppress(OSError):
            os.kill(above, signal.SIGUSR1)
        return
    start_supervisor(lock)
    os.close(lock)


def start_supervisor(lock: int) -> None:
    """Start a supervisor that belongs to nobody: it survives whoever submitted a job."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        close_all_but(lock)
        os.environ["CLUSTERJOB_SPOOL"] = folder()  # it may be named from here
        os.chdir("/")
        Supervisor(lock).run()
    finally:
        os._exit(0)


def close_all_but(*kept: int) -> None:
    """Close all files but the first three and these."""
    first = 3
    for number in sorted(kept):
        os.closerange(first, number)
        first = number + 1
    os.closerange(first, 1024)


class Child:
    """A shepherd, as its supervisor knows it."""

    def __init__(self, row: sqlite3.Row, pid: int, tell: int) -> None:
        self.row = row
        self.pid = pid
        self.tell = (
            tell  # the end of a pipe: b"g" is "go on", its end is "look for yourself"
        )
        self.report: dict[str, Any] | None = None

    def say(self, word: bytes) -> None:
        """Let the shepherd go on; nothing more will be said after the second time."""
        with contextlib.suppress(OSError):
            os.write(self.tell, word)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.tell)
        self.tell = -1


class Supervisor:
    """Starts jobs as long as there are any, and writes down their ends.

    ``lock`` is held as long as it lives: there is one supervisor a queue. What it decides is
    written before it is done, in one transaction a round: a shepherd that was forked runs nothing
    before its job is noted as running.
    """

    def __init__(self, lock: int) -> None:
        self.lock = lock
        self.signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
        self.children: dict[int, Child] = {}
        self.reports, self.report_to = os.pipe()
        os.set_blocking(self.reports, False)
        self.unread = b""
        self.looked = 0.0  # when others were looked after
        self.place = (0, 0)  # of the open queue: device and inode
        self.env_word = ""  # what jobs are told of env(1)

    def run(self) -> None:
        """Go on until there is nothing to do any more."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        name = identity(os.getpid()) or "%d::" % os.getpid()
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, name.encode(), 0)
        adopt(True)
        command = ["env", "--default-signal=INT,QUIT", "true"]
        with contextlib.suppress(OSError):
            if os.spawnvp(os.P_WAIT, "env", command) == 0:
                self.env_word = " env"
        gc.freeze()
        self.database: sqlite3.Connection | None = None
        tries = 0
        while tries < PATIENCE:
            self.listen()
            try:
                if self.work():
                    return
                tries = 0
            except (SpoolError, sqlite3.Error):
                tries += 1
                self.close()
                time.sleep(1.0)
                continue
            signal.sigtimedwait(self.signals, _LOOK)

    def open(self) -> sqlite3.Connection:
        """Return the open queue; one whose file was moved away or replaced is opened anew."""
        path = os.path.join(folder(), "spool.sqlite")
        try:
            status = os.stat(path)
        except OSError:
            status = None
        if (
            self.database is None
            or status is None
            or self.place != (status.st_dev, status.st_ino)
        ):
            self.close()
            self.database = connect()
            # what a power cut undoes is done again
            self.database.execute("PRAGMA synchronous = NORMAL")
            status = os.stat(path)
            self.place = (status.st_dev, status.st_ino)
            self.looked = 0.0
        return self.database

    def close(self) -> None:
        if self.database is not None:
            with contextlib.suppress(sqlite3.Error):
                self.database.close()
        self.database = None

    def listen(self) -> None:
        """Read what shepherds report, and take in those that have ended."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self.reports, 65536)
                self.unread += data
                if len(data) < 65536:
                    break
        *lines, self.unread = self.unread.split(b"\n")
        for line in lines:
            report = json.loads(line)
            child = self.children.get(report.pop("pid"))
            if child is not None:
                child.report = report
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                child = self.children.get(pid)
                if child is not None and child.report is None:
                    self.kill_strays()
                    kill_leftovers(child.row["job"], child.row["idx"])
                    child.report = gone()

    def kill_strays(self) -> None:
        """Kill what shepherds left that were killed: it became a child of this process."""
        for pid in descendants(os.getpid(), self.children) or []:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def work(self) -> bool:
        """Write down ends, start what fits; return whether there is nothing more to do."""
        database = self.open()
        ended = [
            child for child in self.children.values() if child.report is not None
        ]
        started: list[Child] = []
        database.execute("BEGIN IMMEDIATE")
        try:
            for child in ended:
                mark(database, child.row, **(child.report or {}))
                release_after(database, "job = ?", child.row["job"])
            self.look_after_others(database)
            for row in choose(database):
                started.append(self.fork(database, row))
            is_idle = not started and len(ended) == len(self.children)
            is_done = is_idle and not has_pending(database)
            if is_done:
                # whoever queues a job after this finds no supervisor
                fcntl.flock(self.lock, fcntl.LOCK_UN)
            database.execute("COMMIT")
        except BaseException:
            for child in started:
                child.hang_up()
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            fcntl.flock(
                self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # or there is another one now
            raise
        for child in ended:
            child.say(b"a")
            child.hang_up()
            del self.children[child.pid]
        for child in started:
            self.children[child.pid] = child
            child.say(b"g")
        return is_done

    def look_after_others(self, database: sqlite3.Connection) -> None:
        """See to jobs of supervisors that are gone, and to what others wrote down."""
        now = time.monotonic()
        if now - self.looked < _LOOK and self.looked:
            return
        mine = {
            (child.row["job"], child.row["idx"]) for child in self.children.values()
        }
        reap(database, mine)
        if self.looked:
            # ends are written a little after they happened
            release_after(database, "ended > ?", time.time() - 60.0)
        else:
            forget_old(database)
            for row in database.execute(
                "SELECT DISTINCT job FROM tasks WHERE held = 1"
            ):
                release(database, row["job"])
        self.looked = now

    def fork(self, database: sqlite3.Connection, row: sqlite3.Row) -> Child:
        """Make the shepherd of a job, which waits until it is told to go on."""
        hear, tell = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                close_all_but(hear, self.report_to)
                Shepherd(row, hear, self.report_to, self.env_word).run()
            finally:
                os._exit(0)
        os.close(hear)
        name = identity(pid) or "%d::" % pid
        mark(
            database, row, state="RUNNING", why="", started=time.time(), shepherd=name
        )
        return Child(row, pid, tell)


def gone() -> dict[str, Any]:
    """Return the end of a job whose shepherd is gone."""
    why = "its shepherd is gone: killed, or the machine was started again"
    return {"state": "NODE_FAIL", "why": why, "ended": time.time()}


def has_pending(database: sqlite3.Connection) -> bool:
    """Whether any job is queued."""
    query = "SELECT 1 FROM tasks WHERE state = 'PENDING' LIMIT 1"
    return database.execute(query).fetchone() is not None


def release_after(database: sqlite3.Connection, condition: str, value: float) -> None:
    """Look at the jobs that wait for tasks of which a condition is true."""
    for row in database.execute(
        "SELECT DISTINCT child FROM tasks JOIN dependencies ON parent = tasks.job WHERE tasks.%s"
        % condition,
        (value,),
    ).fetchall():
        release(database, row["child"])


def release(database: sqlite3.Connection, job: int) -> None:
    """Queue a job that waited, or cancel it, where its parents allow."""
    after = database.execute("SELECT after FROM jobs WHERE id = ?", (job,)).fetchone()
    wanted = json.loads(after["after"])
    if all(parent_of(parent)[2] != "aftercorr" for parent in wanted):
        release_tasks(database, job, parents(database, wanted, -1))
        return
    for row in database.execute(
        "SELECT idx FROM tasks WHERE job = ? AND held = 1", (job,)
    ).fetchall():
        answer = parents(database, wanted, row["idx"])
        release_tasks(database, job, answer, row["idx"])


def release_tasks(
    database: sqlite3.Connection, job: int, waits: str, index: int | None = None
) -> None:
    """Queue or cancel what waited of a job: all of it, or an element."""
    if waits == "wait":
        return
    values: dict[str, Any] = {"held": 0, "why": ""}
    if waits == "never":
        why = "DependencyNeverSatisfied"
        values = {"held": 0, "why": why, "state": "CANCELLED", "ended": time.time()}
    names = ", ".join(name + " = ?" for name in values)
    done = database.execute(
        "UPDATE tasks SET %s WHERE job = ? AND held = 1 AND state = 'PENDING' "
        "AND (? IS NULL OR idx = ?)" % names,
        (*values.values(), job, index, index),
    )
    if waits == "never" and done.rowcount:
        release_after(database, "job = ?", job)


def shepherd_above(database: sqlite3.Connection) -> int | None:
    """Return the process id of the shepherd in whose job this process runs, or None."""
    rows = database.execute(
        "SELECT shepherd FROM tasks WHERE state = 'RUNNING' AND shepherd IS NOT NULL"
    ).fetchall()
    shepherds = {int(row["shepherd"].split(":")[0]): row["shepherd"] for row in rows}
    pid = os.getppid()
    while shepherds and pid > 1:
        if pid in shepherds and alive(shepherds[pid]):
            return pid
        try:
            with open("/proc/%d/stat" % pid) as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return None


def choose(database: sqlite3.Connection) -> list[sqlite3.Row]:
    """Return queued tasks in their order as long as they fit; the first that does not fit keeps the
    ones behind it waiting.
    """
    busy = database.execute(
        "SELECT coalesce(sum(cores), 0) AS cores, coalesce(sum(mem), 0) AS mem FROM tasks JOIN "
        "jobs ON job = id WHERE state = 'RUNNING'"
    ).fetchone()
    free_cores, free_memory = cores() - busy["cores"], memory() - busy["mem"]
    chosen: list[sqlite3.Row] = []
    active: dict[int, int] = {}  # elements of throttled arrays
    place = (-1, -1)
    while free_cores > 0:
        row = database.execute(
            "SELECT * FROM tasks JOIN jobs ON job = id WHERE state = 'PENDING' AND held = 0 AND "
            "(job, idx) > (?, ?) ORDER BY job, idx LIMIT 1",
            place,
        ).fetchone()
        if row is None:
            break
        job, place = row["job"], (row["job"], row["idx"])
        if row["throttle"]:
            if job not in active:
                active[job] = running(database, job)
            if active[job] >= row["throttle"]:
                place = (job, 1 << 62)  # behind all of this array
                continue
            active[job] += 1
        if row["cores"] > free_cores or row["mem"] > free_memory:
            mark(database, row, why="Resources")
            break
        free_cores -= row["cores"]
        free_memory -= row["mem"]
        chosen.append(row)
    return chosen


def mark(database: sqlite3.Connection, row: Any, **values: Any) -> None:
    """Set columns of a task."""
    names = ", ".join(name + " = ?" for name in values)
    database.execute(
        "UPDATE tasks SET %s WHERE job = ? AND idx = ?" % names,
        (*values.values(), row["job"], row["idx"]),
    )


def parent_of(parent: Any) -> tuple[int, int | None, str]:
    """Return a job that another one waits for, the index of the element (None: all of them), and
    what it waits for.

    It is a list of these, or the number of a job that must complete.
    """
    words = parent if isinstance(parent, list) else [parent]
    job, index, how = [*words, None, None][:3]
    return job, index, how or "afterok"


def parents(database: sqlite3.Connection, after: list[Any], child: int) -> str:
    """Return '' where these jobs came to what element ``child`` waits for, 'never' where they
    cannot any more, else 'wait'.
    """
    answers = set()
    for job, index, how in map(parent_of, after):
        one = child if how == "aftercorr" else index
        rows = database.execute(
            "SELECT DISTINCT state FROM tasks WHERE job = ? AND (? IS NULL OR idx = ?)",
            (job, one, one),
        ).fetchall()
        states = {row["state"] for row in rows} or {"UNKNOWN"}
        answers.add(_answer(how, states))
    for answer in ("never", "wait"):
        if answer in answers:
            return answer
    return ""


def _answer(how: str, states: set[str]) -> str:
    """Say what the states of a job mean to one that waits for it."""
    is_over = not states & {"PENDING", "RUNNING"}
    has_failed = bool(states - {"COMPLETED", "PENDING", "RUNNING"})
    if how == "afterany":
        return "" if is_over else "wait"
    if how == "afternotok":
        if is_over:
            return "" if has_failed else "never"
        return "wait"
    if has_failed:
        return "never"
    return "" if is_over else "wait"


def running(database: sqlite3.Connection, job: int) -> int:
    """Return how many elements of an array run."""
    count: int = database.execute(
        "SELECT count(*) FROM tasks WHERE job = ? AND state = 'RUNNING'", (job,)
    ).fetchone()[0]
    return count


def reap(database: sqlite3.Connection, mine: Iterable[tuple[int, int]] = ()) -> None:
    """Settle the jobs whose shepherd is gone: the machine was restarted, or somebody killed it.

    ``mine`` are those that the caller knows better.
    """
    known = set(mine)
    for row in database.execute(
        "SELECT * FROM tasks WHERE state = 'RUNNING'"
    ).fetchall():
        if (row["job"], row["idx"]) in known:
            continue
        if row["shepherd"] is None:
            if time.time() - row["started"] > _UNSTARTED:
                mark(database, row, state="PENDING", started=None)
        elif not alive(row["shepherd"]):
            kill_leftovers(row["job"], row["idx"])
            mark(database, row, **gone())


def identity(pid: int) -> str | None:
    """Name a process so that no other is ever taken for it: its id, when it started, and since
    which boot.
    """
    try:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rpartition(")")[2].split()
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except OSError:
        return None
    return None if fields[0] == "Z" else "%d:%s:%s" % (pid, fields[19], boot)


def alive(name: str) -> bool:
    """Whether the process of that name runs; without /proc the id alone must do."""
    pid = int(name.split(":")[0])
    if os.path.isdir("/proc/self"):
        return identity(pid) == name
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


# -- the shepherd of one job -----------------------------------------------------------------------


def open_log(workdir: str, path: str) -> int:
    """Open a log to write it anew; what somebody else put in its place is not touched."""
    path = step = os.path.join(workdir, path)
    own = 0, os.geteuid()
    while step.startswith(workdir + "/"):
        if os.path.islink(step) and os.lstat(step).st_uid not in own:
            raise SpoolError("%s belongs to somebody else" % step)
        step = os.path.dirname(step)
    with contextlib.suppress(FileNotFoundError):
        check_own(os.lstat(path), path)
        if os.path.islink(path):
            path = os.path.realpath(path)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    status = os.fstat(log)
    check_own(status, path)
    if stat.S_ISREG(status.st_mode):
        os.ftruncate(log, 0)
    return log


def check_own(status: os.stat_result, path: str) -> None:
    """Refuse what is somebody else's, but devices."""
    if status.st_uid != os.geteuid() and not stat.S_ISCHR(status.st_mode):
        raise SpoolError("%s belongs to somebody else" % path)


def adopt(wanted: bool) -> None:
    """Become the parent of what processes below this one leave behind, or not."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(36, int(wanted), 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class Shepherd:
    """Runs one job, or one element of an array, watches over it, and reports its end.

    It waits for a word from its supervisor on ``hear`` before it begins, and before it ends; where
    that one is gone, the queue says what to do.
    """

    def __init__(
        self,
        row: sqlite3.Row,
        hear: int,
        report_to: int,
        env_word: str = "",
    ) -> None:
        self.row = row
        self.hear = hear
        self.report_to = report_to
        self.env_word = env_word
        self.job, self.index = row["job"], row["idx"]
        self.supervisor = os.getppid()
        self.name = identity(os.getpid()) or "%d::" % os.getpid()
        # the state that is being brought about by killing
        self.ending: str | None = None
        self.kill_at: float | None = None
        self.peak = 0.0
        self.astray = False  # whether a process of the job can have left our sight
        self.signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}

    def run(self) -> None:
        """Run the job to its end."""
        os.setsid()
        adopt(True)
        if os.read(self.hear, 1) != b"g" and not self.is_mine():
            return
        self.started = time.monotonic()
        failure, fail = os.pipe()  # it ends where the job's script takes over
        self.child = os.fork()
        if not self.child:
            self.become_job(fail)
        os.close(fail)
        os.set_blocking(failure, False)
        status = self.watch()
        why = ""
        with contextlib.suppress(BlockingIOError):
            why = os.read(failure, 2000).decode("utf-8", "replace")
        self.kill_all(time.monotonic() + GRACE)
        code, number = (
            (os.WEXITSTATUS(status), None)
            if os.WIFEXITED(status)
            else (None, os.WTERMSIG(status))
        )
        state = self.ending or ("COMPLETED" if code == 0 else "FAILED")
        if why:
            state, code = "NOT_STARTED", None
        end = {"state": state, "code": code, "signal": number, "why": why}
        self.finish(end)

    def ask(self, *words: str) -> bool:
        """Run a command of this file in a process of its own, and return whether it said yes.

        The queue is not opened here: SQLite takes what the supervisor had open for ours.
        """
        this = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
        for _ in range(PATIENCE):
            code = os.spawnv(os.P_WAIT, sys.executable, [*this, *words])
            if code in (_YES, _NO):
                return code == _YES
            time.sleep(1.0)
        return False

    def is_mine(self) -> bool:
        """Whether the queue says that this shepherd runs the job; the supervisor is gone."""
        return self.ask("owns", str(self.job), str(self.index), self.name)

    def start_others(self) -> None:
        """Start what fits, as a process inside the job asked for; the new shepherds must not become
        children of this one.
        """
        adopt(False)
        self.astray = True
        self.ask("wake")
        adopt(True)

    def become_job(self, fail: int) -> None:
        """In the child: turn into the job's script; what keeps it from that is written."""
        try:
            os.setsid()
            gc.disable()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)
            os.chdir(self.row["workdir"])
            suffix = str(self.index) if self.index >= 0 else ""
            environment = json.loads(self.row["environment"])
            os.umask(int(environment.pop(_UMASK, "077"), 8))
            os.closerange(3, fail)
            os.closerange(fail + 1, 1024)
            script = as_submitted(self.row["script"], self.row["digest"])
            null = os.open(os.devnull, os.O_RDONLY)
            out = open_log(
                self.row["workdir"], self.row["stdout"].replace("%a", suffix)
            )
            err = (
                out
                if self.row["stderr"] == self.row["stdout"]
                else open_log(
                    self.row["workdir"], self.row["stderr"].replace("%a", suffix)
                )
            )
            for number, target in enumerate((null, out, err)):
                os.dup2(target, number)
            for target in {null, out, err}:
                os.close(target)
            environment.update(
                SPOOL_JOB_ID=str(self.job),
                SPOOL_JOB_NAME=self.row["name"],
                SPOOL_TASK=suffix,
                SPOOL_STARTED="%d%s" % (time.time(), self.env_word),
                SPOOL_HOST=socket.gethostname(),
                SPOOL_MARK=mark_of(self.job, self.index),
            )
            os.execve("/bin/sh", ["/bin/sh", script], environment)
        except BaseException as error:
            words = "the job could not be started: %s" % error
            with contextlib.suppress(OSError):
                os.write(
                    fail, " ".join(words.split()).replace("|", "/").encode()[:1000]
                )
        os._exit(127)

    def watch(self) -> int:
        """Wait for the job's end, and bring it about when its time or memory is used up or it was
        cancelled.
        """
        limit, memory_limit = self.row["time"], self.row["mem"]
        pause = 0.05
        while True:
            # most jobs end before anything else happens
            found = signal.sigtimedwait(self.signals, pause)
            if found is not None and found.si_signo == signal.SIGTERM:
                self.end("CANCELLED")
            elif found is not None and found.si_signo == signal.SIGUSR1:
                self.start_others()
            status = self.collect()
            if status is not None:
                return status
            used = self.resident()
            self.peak = max(self.peak, used)
            if memory_limit and used > memory_limit and not self.ending:
                self.ending = "OUT_OF_MEMORY"
                self.kill_at = 0.0
            if limit and time.monotonic() - self.started > limit and not self.ending:
                self.end("TIMEOUT")
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self.signal_all(signal.SIGKILL)
            pause = (
                0.1
                if self.kill_at is not None or memory_limit
                else min(0.5, pause * 1.5)
            )
            if limit:
                pause = (
                    max(0.01, min(pause, limit - (time.monotonic() - self.started)))
                    if not self.ending
                    else pause
                )

    def end(self, state: str) -> None:
        """Ask all of the job's processes to end."""
        if not self.ending:
            self.ending, self.kill_at = state, time.monotonic() + GRACE
            self.signal_all(signal.SIGCONT)
            self.signal_all(signal.SIGTERM)

    def collect(self) -> int | None:
        """Take in ended children; return the job's wait status once it is among them."""
        result = None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid == self.child:
                    result = status
        return result

    def kill_all(self, deadline: float) -> None:
        """End what the job left running: TERM, and KILL at the deadline."""
        if not self.astray and not has_children():
            return  # what a job leaves behind becomes a child of its shepherd
        self.signal_all(signal.SIGTERM)
        while descendants(os.getpid()):
            if time.monotonic() > deadline or self.ending == "OUT_OF_MEMORY":
                self.signal_all(signal.SIGKILL)
            self.collect()
            time.sleep(0.02)
        if self.astray:
            kill_leftovers(self.job, self.index)

    def signal_all(self, number: int) -> None:
        """Signal every process of the job, wherever it moved to."""
        members = descendants(os.getpid())
        for pid in members or []:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        if members is None:
            with contextlib.suppress(OSError):
                os.killpg(self.child, number)

    def resident(self) -> float:
        """Return the MB of memory that the job's processes hold."""
        pages = 0
        for pid in descendants(os.getpid()) or []:
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open("/proc/%d/statm" % pid) as file:
                    fields = file.read().split()
                pages += int(fields[1]) - int(fields[2])  # without what is shared
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)

    def finish(self, end: dict[str, Any]) -> None:
        """Report the end, and see that it is written down."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        end["ended"] = time.time()
        end["cpu"] = used.ru_utime + used.ru_stime
        end["max_rss"] = max(self.peak, used.ru_maxrss / 1024)
        if self.report(end):
            return
        # there is no supervisor any more: the next one must not become a child of this process
        adopt(False)
        text = json.dumps(end)
        self.ask("end", str(self.job), str(self.index), self.name, text)

    def report(self, end: dict[str, Any]) -> bool:
        """Tell the supervisor the end; return whether it says that it is written down."""
        line = json.dumps({**end, "pid": os.getpid()}) + "\n"
        with contextlib.suppress(OSError):
            if os.getppid() != self.supervisor:
                return False
            os.write(self.report_to, line.encode())
            os.kill(self.supervisor, signal.SIGUSR1)
            os.close(self.report_to)
            return os.read(self.hear, 1) == b"a"
        return False


def owns(database: sqlite3.Connection, job: str, index: str, shepherd: str) -> bool:
    """Whether a task is noted as running under a shepherd."""
    row = database.execute(
        "SELECT shepherd, state FROM tasks WHERE job = ? AND idx = ?",
        (int(job), int(index)),
    ).fetchone()
    return row is not None and tuple(row) == (shepherd, "RUNNING")


def write_end(job: str, index: str, shepherd: str, end: str) -> None:
    """Write down the end of a task whose shepherd found no supervisor, and start one."""
    database = connect()
    database.execute("BEGIN IMMEDIATE")
    if owns(database, job, index, shepherd):
        mark(database, {"job": int(job), "idx": int(index)}, **json.loads(end))
    database.execute("COMMIT")
    wake(database, outside=True)


def has_children() -> bool:
    """Whether this process has any children, ended ones aside."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return True
    return False


def descendants(root: int, but: Iterable[int] = ()) -> list[int] | None:
    """Return the ids of all processes below one, or None where there is no /proc to tell.

    Without those ``but``, and what is below them.
    """
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return None
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(
                "/proc/%s/stat" % name
            ) as file:
                fields = file.read().rpartition(")")[2].split()
                if fields[0] != "Z" and int(name) not in but:
                    children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    level = [root]
    while level:
        level = [child for parent in level for child in children.get(parent, ())]
        found += level
    return found


def mark_of(job: int, index: int) -> str:
    """Return what the processes of a job carry in their environment; other queues of this machine
    have jobs of the same id.
    """
    return "%d_%d in %s" % (job, index, os.path.realpath(folder()))


def kill_leftovers(job: int, index: int) -> None:
    """Kill the processes of a job whose shepherd is gone; their environment carries its mark."""
    wanted = b"\0SPOOL_MARK=" + os.fsencode(mark_of(job, index)) + b"\0"
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError), open(
                "/proc/%s/environ" % name, "rb"
            ) as file:
                if name.isdigit() and wanted in b"\0" + file.read() + b"\0":
                    os.kill(int(name), signal.SIGKILL)


# -- asking and cancelling -------------------------------------------------------------------------


def settled() -> sqlite3.Connection:
    """Return the open queue, in which the jobs of dead shepherds are settled."""
    database = connect()
    busy = database.execute(
        "SELECT state FROM tasks WHERE state IN ('PENDING', 'RUNNING') LIMIT 1"
    ).fetchone()
    if busy is None:
        return database
    database.execute("BEGIN IMMEDIATE")
    reap(database)
    database.execute("COMMIT")
    wake(database)
    return connect()


_SHOWN = (
    "SELECT job, idx, state, code, signal, submitted, started, ended, cpu, max_rss, token, why "
    "FROM tasks JOIN jobs ON job = id WHERE "
)


def active(recent: float) -> None:
    """Print the unfinished jobs, and those that ended less than some seconds ago."""
    show(
        settled().execute(
            _SHOWN + "state IN ('PENDING', 'RUNNING') OR ended > ? ORDER BY job, idx",
            (time.time() - recent,),
        )
    )


def finished(words: list[str]) -> None:
    """Print what became of jobs."""
    database = settled()
    for job in re.findall(r"\d+", " ".join(words)):
        show(database.execute(_SHOWN + "job = ? ORDER BY idx", (int(job),)))


def show(rows: Iterable[sqlite3.Row]) -> None:
    """Print one line a task: id|state|exit code|signal|submitted|started|ended|cpu|max
    rss|token|why.
    """
    for row in rows:
        name = (
            "%d" % row["job"]
            if row["idx"] < 0
            else "%d_%d" % (row["job"], row["idx"])
        )
        values = [row["code"], row["signal"]] + [
            None if row[key] is None else round(row[key], 3)
            for key in ("submitted", "started", "ended", "cpu")
        ]
        megabytes = "" if row["max_rss"] is None else "%.1fM" % row["max_rss"]
        words = [
            name,
            row["state"],
            *("" if value is None else str(value) for value in values),
            megabytes,
            row["token"] or "",
            row["why"] or "",
        ]
        print("|".join(words))


def cancel(words: list[str]) -> None:
    """Cancel jobs or elements of arrays; what has ended stays as it is."""
    database = connect()
    database.execute("BEGIN IMMEDIATE")
    unknown = []
    for word in words:
        match = re.match(r"(\d+)(?:_(\d+))?$", word)
        rows = []
        if match:
            job, index = match.groups()
            rows = database.execute(
                "SELECT * FROM tasks WHERE job = ? AND (? IS NULL OR idx = ?)",
                (int(job), index, int(index or -1)),
            ).fetchall()
        if not rows:
            unknown.append(word)
        for row in rows:
            if row["state"] == "PENDING":
                mark(database, row, state="CANCELLED", ended=time.time())
            elif row["state"] == "RUNNING":
                mark(database, row, cancelled=1)
                if row["shepherd"] and alive(row["shepherd"]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(row["shepherd"].split(":")[0]), signal.SIGTERM)
    database.execute("COMMIT")
    wake(database)
    if unknown:
        raise SpoolError("unknown job id: " + " ".join(unknown))


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    command, words = (arguments[0], arguments[1:]) if arguments else ("help", [])
    try:
        if command == "submit" and len(words) == 1:
            print(submit(words[0]))
        elif command == "submit-batch" and len(words) % 3 == 0:
            print("\n".join(submit_batch(words)))
        elif command == "active" and not words:
            active(RECENT)
        elif command == "find" and not words:
            active(FINDABLE)
        elif command == "finished" and words:
            finished(words)
        elif command == "cancel" and words:
            cancel(words)
        elif command == "owns" and len(words) == 3:
            return _YES if owns(connect(), *words) else _NO
        elif command == "end" and len(words) == 4:
            write_end(*words)
        elif command == "wake" and not words:
            wake(connect(), outside=True)
        elif command == "version":
            print("clusterjob spool 2 (%d cores, %d MB)" % (cores(), memory()))
        else:
            print(__doc__.strip(), file=sys.stderr)
            return 2
    except (SpoolError, sqlite3.Error, ValueError) as error:
        print("spool: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
