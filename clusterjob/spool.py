"""A small batch scheduler for one machine, in one file of the standard library (Python 3.8 and
later).

It queues jobs, runs as many at once as cores and memory allow, enforces time and memory, kills
whole process trees, knows arrays and dependencies, and needs no daemon: each running job has a
shepherd process of its own, and whoever submits, cancels or ends a job starts the next ones. So
there is nothing to stop when it is idle, and nothing that takes the queue down with it.

    spool.py submit SCRIPT         print the job id; options stand in the script, in lines
        '#CLUSTERJOB --time=60 --cores=2'
    spool.py active                all unfinished jobs, and those that ended in the last minutes
    spool.py finished ID,...       what became of jobs
    spool.py cancel ID[_INDEX] ...
    spool.py version

The queue is a SQLite file in $CLUSTERJOB_SPOOL, else $XDG_STATE_HOME/clusterjob/spool-HOST.
$CLUSTERJOB_SPOOL_CORES and $CLUSTERJOB_SPOOL_MEM (MB) bound what is used of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import shlex
import signal
import socket
import sqlite3
import sys
import time
from typing import Any, Iterable

GRACE = 2.0  # s between TERM and KILL
RECENT = 600.0  # s for which 'active' lists jobs that ended
# s for which the end of a job is tried to be written down, on a disk that is full
PATIENCE = 3600
KEEP = 30 * 86400.0  # s after which ended jobs are forgotten
# s after which a job that was taken for a start, and has no shepherd, is queued again
_UNSTARTED = 30.0
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
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            database.executescript(
                "BEGIN IMMEDIATE;" + _SCHEMA + "PRAGMA user_version = 1; COMMIT;"
            )
    except (OSError, sqlite3.Error) as error:
        raise SpoolError("the queue in %s cannot be used: %s" % (place, error))
    return database


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


def read_options(text: str) -> dict[str, str]:
    """Return the options that stand in a script's '#CLUSTERJOB' lines, before its first command."""
    options: dict[str, str] = {}
    for line in text.splitlines():
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
    try:
        with open(script, encoding="utf-8", errors="surrogateescape") as file:
            options = read_options(file.read())
    except OSError as error:
        raise SpoolError("%s: %s" % (script, error.strerror))
    values = job_values(script, options)
    database = connect()
    database.execute("BEGIN IMMEDIATE")
    known = database.execute(
        "SELECT id FROM jobs WHERE token = ?", (values["token"],)
    ).fetchone()
    if known:
        database.execute("COMMIT")
        return int(known["id"])
    names, places = ", ".join(values), ", ".join(":" + name for name in values)
    cursor = database.execute(
        "INSERT INTO jobs (%s) VALUES (%s)" % (names, places), values
    )
    job = int(cursor.lastrowid or 0)
    database.executemany(
        "INSERT INTO tasks (job, idx) VALUES (?, ?)",
        [(job, index) for index in indices(options.get("array"))],
    )
    if not job % 100:
        forget_old(database)
    database.execute("COMMIT")
    run_next(database)
    return job


def job_values(script: str, options: dict[str, str]) -> dict[str, Any]:
    """Return a row of the table of jobs. Raises SpoolError for one that cannot run here."""
    wanted = {}
    for name, default in (("cores", 1), ("mem", 0), ("time", 0), ("throttle", 0)):
        wanted[name] = int(options.get(name) or default)
    for name, unit, most in (("cores", "cores", cores()), ("mem", "MB", memory())):
        if wanted[name] > most:
            raise SpoolError(
                "the job asks for %d %s, and this machine has %d"
                % (wanted[name], unit, most)
            )
    after = [int(word) for word in re.findall(r"\d+", options.get("after", ""))]
    return {
        "token": options.get("token") or None,
        "name": options.get("job-name", ""),
        "script": os.path.abspath(script),
        "workdir": os.getcwd(),
        "cores": wanted["cores"],
        "mem": wanted["mem"],
        "time": wanted["time"],
        "stdout": options.get("output", "/dev/null"),
        "stderr": options.get("error") or options.get("output", "/dev/null"),
        "after": json.dumps(after),
        "throttle": wanted["throttle"],
        "submitted": time.time(),
        "environment": json.dumps(dict(os.environ)),
    }


def forget_old(database: sqlite3.Connection) -> None:
    """Delete what ended long ago."""
    before = time.time() - KEEP
    database.execute("DELETE FROM tasks WHERE ended < ?", (before,))
    database.execute(
        "DELETE FROM jobs WHERE submitted < ? AND id NOT IN (SELECT job FROM tasks)",
        (before,),
    )


# -- starting --------------------------------------------------------------------------------------


def run_next(database: sqlite3.Connection) -> None:
    """Start the jobs that fit. Closes the database: what follows forks."""
    above = shepherd_above(database)
    # what is started inside a job ends with it: its shepherd, which stands outside, must do the
    # starting
    if above:
        database.close()
        with contextlib.suppress(OSError):
            os.kill(above, signal.SIGUSR1)
        return
    database.execute("BEGIN IMMEDIATE")
    reap(database)
    starts = choose(database)
    database.execute("COMMIT")
    database.close()
    for job, index in starts:
        spawn(job, index)


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


def choose(database: sqlite3.Connection) -> list[tuple[int, int]]:
    """Take queued jobs in their order as long as they fit; the first that does not fit keeps the
    ones behind it waiting.
    """
    busy = database.execute(
        "SELECT coalesce(sum(cores), 0) AS cores, coalesce(sum(mem), 0) AS mem FROM tasks JOIN "
        "jobs ON job = id WHERE state = 'RUNNING'"
    ).fetchone()
    free_cores, free_memory = cores() - busy["cores"], memory() - busy["mem"]
    starts: list[tuple[int, int]] = []
    seen: dict[int, list[Any]] = {}
    for row in database.execute(
        "SELECT * FROM tasks JOIN jobs ON job = id WHERE state = 'PENDING' ORDER BY job, idx"
    ).fetchall():
        if row["job"] not in seen:
            seen[row["job"]] = [
                parents(database, json.loads(row["after"])),
                running(database, row["job"]) if row["throttle"] else 0,
            ]
        waits, active = seen[row["job"]]
        if waits == "never":
            mark(
                database,
                row,
                state="CANCELLED",
                why="DependencyNeverSatisfied",
                ended=time.time(),
            )
        elif waits:
            mark(database, row, why="Dependency")
        elif row["throttle"] and active >= row["throttle"]:
            continue
        elif row["cores"] > free_cores or row["mem"] > free_memory:
            mark(database, row, why="Resources")
            break
        else:
            free_cores -= row["cores"]
            free_memory -= row["mem"]
            seen[row["job"]][1] += 1
            mark(database, row, state="RUNNING", why="", started=time.time())
            starts.append((row["job"], row["idx"]))
    return starts


def mark(database: sqlite3.Connection, row: Any, **values: Any) -> None:
    """Set columns of a task."""
    names = ", ".join(name + " = ?" for name in values)
    database.execute(
        "UPDATE tasks SET %s WHERE job = ? AND idx = ?" % names,
        (*values.values(), row["job"], row["idx"]),
    )


def parents(database: sqlite3.Connection, after: list[int]) -> str:
    """Return '' where all these jobs completed, 'never' where they cannot any more, else 'wait'."""
    states: set[str] = set()
    for job in after:
        rows = database.execute(
            "SELECT DISTINCT state FROM tasks WHERE job = ?", (job,)
        ).fetchall()
        states |= {row["state"] for row in rows} or {"UNKNOWN"}
    if states <= {"COMPLETED"}:
        return ""
    return "wait" if states <= {"COMPLETED", "PENDING", "RUNNING"} else "never"


def running(database: sqlite3.Connection, job: int) -> int:
    """Return how many elements of an array run."""
    count: int = database.execute(
        "SELECT count(*) FROM tasks WHERE job = ? AND state = 'RUNNING'", (job,)
    ).fetchone()[0]
    return count


def reap(database: sqlite3.Connection) -> None:
    """Settle the jobs whose shepherd is gone: the machine was restarted, or somebody killed it."""
    for row in database.execute(
        "SELECT * FROM tasks WHERE state = 'RUNNING'"
    ).fetchall():
        if row["shepherd"] is None:
            if time.time() - row["started"] > _UNSTARTED:
                mark(database, row, state="PENDING", started=None)
        elif not alive(row["shepherd"]):
            kill_leftovers(row["job"], row["idx"])
            mark(
                database,
                row,
                state="NODE_FAIL",
                why="its shepherd is gone: killed, or the machine was started again",
                ended=time.time(),
            )


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


def spawn(job: int, index: int) -> None:
    """Start a shepherd that belongs to nobody: it survives whoever submitted the job."""
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
        os.closerange(3, 1024)
        os.chdir("/")
        Shepherd(job, index).run()
    finally:
        os._exit(0)


class Shepherd:
    """Runs one job, or one element of an array, watches over it, and writes down its end."""

    def __init__(self, job: int, index: int) -> None:
        self.job, self.index = job, index
        # the state that is being brought about by killing
        self.ending: str | None = None
        self.kill_at: float | None = None
        self.peak = 0.0
        self.astray = False  # whether a process of the job can have left our sight
        self.signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}

    def run(self) -> None:
        """Run the job to its end, then start the next ones."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)
        self.adopt(True)
        database = connect()
        self.row = database.execute(
            "SELECT * FROM jobs WHERE id = ?", (self.job,)
        ).fetchone()
        # not where the machine slept so long that the job was queued, or started, again
        claimed = database.execute(
            "UPDATE tasks SET shepherd = ? WHERE job = ? AND idx = ? AND state = 'RUNNING' AND "
            "shepherd IS NULL",
            (identity(os.getpid()) or "%d::" % os.getpid(), self.job, self.index),
        )
        if claimed.rowcount != 1:
            return
        cancelled = database.execute(
            "SELECT cancelled FROM tasks WHERE job = ? AND idx = ?",
            (self.job, self.index),
        ).fetchone()[0]
        database.close()
        if cancelled:
            self.finish("CANCELLED")
            return
        self.started = time.monotonic()
        self.child = os.fork()
        if not self.child:
            self.become_job()
        status = self.watch()
        self.kill_all(time.monotonic() + GRACE)
        code, number = (
            (os.WEXITSTATUS(status), None)
            if os.WIFEXITED(status)
            else (None, os.WTERMSIG(status))
        )
        self.finish(
            self.ending or ("COMPLETED" if code == 0 else "FAILED"),
            code=code,
            signal=number,
        )

    def adopt(self, wanted: bool) -> None:
        """Become the parent of what the job leaves behind, or not."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(36, int(wanted), 0, 0, 0)  # PR_SET_CHILD_SUBREAPER

    def start_others(self) -> None:
        """Start what fits, as a process inside the job asked for; the new shepherds must not become
        children of this one.
        """
        self.adopt(False)
        self.astray = True
        with contextlib.suppress(SpoolError, sqlite3.Error):
            run_next(connect())
        self.adopt(True)

    def become_job(self) -> None:
        """In the child: turn into the job's script."""
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)
            os.chdir(self.row["workdir"])
            suffix = str(self.index) if self.index >= 0 else ""
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            null = os.open(os.devnull, os.O_RDONLY)
            out = os.open(self.row["stdout"].replace("%a", suffix), flags, 0o600)
            err = (
                out
                if self.row["stderr"] == self.row["stdout"]
                else os.open(self.row["stderr"].replace("%a", suffix), flags, 0o600)
            )
            for number, target in enumerate((null, out, err)):
                os.dup2(target, number)
            os.closerange(3, 1024)
            environment = json.loads(self.row["environment"])
            environment.update(
                SPOOL_JOB_ID=str(self.job),
                SPOOL_JOB_NAME=self.row["name"],
                SPOOL_TASK=suffix,
                SPOOL_HOST=socket.gethostname(),
                SPOOL_MARK=mark_of(self.job, self.index),
            )
            os.execve("/bin/sh", ["/bin/sh", self.row["script"]], environment)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(2, ("the job could not be started: %s\n" % error).encode())
        os._exit(127)

    def watch(self) -> int:
        """Wait for the job's end, and bring it about when its time or memory is used up or it was
        cancelled.
        """
        limit, memory_limit = self.row["time"], self.row["mem"]
        pause = 0.05
        while True:
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
                self.ending, self.kill_at = "OUT_OF_MEMORY", 0.0
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

    def finish(self, state: str, **values: Any) -> None:
        """Write down the end, and start what fits now."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        values.update(
            state=state,
            ended=time.time(),
            cpu=used.ru_utime + used.ru_stime,
            max_rss=max(self.peak, used.ru_maxrss / 1024),
        )
        for _ in range(PATIENCE):
            with contextlib.suppress(SpoolError, sqlite3.Error):
                database = connect()
                mark(database, {"job": self.job, "idx": self.index}, **values)
                run_next(database)
                return
            time.sleep(1.0)


def descendants(root: int) -> list[int] | None:
    """Return the ids of all processes below one, or None where there is no /proc to tell."""
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
                if fields[0] != "Z":
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


def refresh(database: sqlite3.Connection) -> sqlite3.Connection:
    """Settle dead shepherds' jobs, and start what fits, before anything is told.

    Returns an open database.
    """
    run_next(database)
    return connect()


def active() -> None:
    """Print the unfinished jobs, and those that ended lately."""
    database = refresh(connect())
    show(
        database.execute(
            "SELECT * FROM tasks JOIN jobs ON job = id WHERE state IN ('PENDING', 'RUNNING') OR "
            "ended > ? ORDER BY job, idx",
            (time.time() - RECENT,),
        )
    )


def finished(words: list[str]) -> None:
    """Print what became of jobs."""
    database = refresh(connect())
    for job in re.findall(r"\d+", " ".join(words)):
        show(
            database.execute(
                "SELECT * FROM tasks JOIN jobs ON job = id WHERE job = ? ORDER BY idx",
                (int(job),),
            )
        )


def show(rows: Iterable[sqlite3.Row]) -> None:
    """Print one line a task: id|state|exit code|signal|submitted|started|ended|cpu|max
    rss|token|why.
    """
    for row in rows:
        name = (
            "%d" % row["job"] if row["idx"] < 0 else "%d_%d" % (row["job"], row["idx"])
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
    run_next(database)
    if unknown:
        raise SpoolError("unknown job id: " + " ".join(unknown))


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    command, words = (arguments[0], arguments[1:]) if arguments else ("help", [])
    try:
        if command == "submit" and len(words) == 1:
            print(submit(words[0]))
        elif command == "active" and not words:
            active()
        elif command == "finished" and words:
            finished(words)
        elif command == "cancel" and words:
            cancel(words)
        elif command == "version":
            print("clusterjob spool 1 (%d cores, %d MB)" % (cores(), memory()))
        else:
            print(__doc__.strip(), file=sys.stderr)
            return 2
    except (SpoolError, sqlite3.Error, ValueError) as error:
        print("spool: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
