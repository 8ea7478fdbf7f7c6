"""Fixtures for all tests: a store and a working directory of their own, and the real schedulers of
tests/lab.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB_SCRIPT = Path(__file__).parent / "lab" / "lab.sh"
LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)
NETNS = Path("/run/netns/clusterjob-lab")
STARTED = LAB / "started-by-the-tests"
CLONE_NEWNET = 0x40000000
SLOW_FOLDERS = ("chaos", "contract", "embedded", "ssh")  # they wait for jobs
SLOW_FILES = ("test_docs.py", "test_notebooks.py", "test_package.py")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run every test in a folder of its own, without the settings of whoever runs it."""
    from clusterjob.script import JobScript
    from clusterjob.session import close_default_sessions

    monkeypatch.chdir(tmp_path)
    for name in ("CLUSTERJOB_STORE", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(JobScript, "cache_folder", None)
    monkeypatch.setattr(JobScript, "_defaults", None)
    monkeypatch.setattr(JobScript, "_backend_folders", ())
    yield tmp_path
    close_default_sessions()


@pytest.fixture(scope="session", autouse=True)
def masters() -> Iterator[None]:
    """Keep the sockets of ssh's masters in a folder of this process, and end them at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="cj-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("XDG_RUNTIME_DIR", folder)
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        yield
        for path in Path(folder).glob("clusterjob/*"):
            subprocess.run(
                ["ssh", "-S", str(path), "-O", "exit", "none"],
                capture_output=True,
                timeout=10,
            )


@pytest.fixture(scope="session")
def spool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spool")


@pytest.fixture
def spool(spool_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded scheduler that nobody else uses, of four cores whatever the machine has."""
    monkeypatch.setenv("CLUSTERJOB_SPOOL", str(spool_folder))
    monkeypatch.setenv("CLUSTERJOB_SPOOL_CORES", "4")
    return spool_folder


@pytest.fixture(scope="session")
def lab() -> Path:
    """The folder of the running lab, which is stopped at the very end if it did not run before.

    Its daemons are to be reached from inside its network namespace: see :func:`namespace`.
    """
    reason = _lab_missing()
    if reason:
        if os.environ.get("CLUSTERJOB_REQUIRE_LAB"):
            pytest.fail(f"the real schedulers are required here: {reason}")
        pytest.skip(f"no real schedulers: {reason}")
    LAB.mkdir(parents=True, exist_ok=True)
    # several processes run the tests; the first one starts it
    with locked(LAB / "lock"):
        if not NETNS.exists():
            STARTED.write_text(
                str(
                    os.getppid()
                    if "PYTEST_XDIST_WORKER" in os.environ
                    else os.getpid()
                )
            )
        started = subprocess.run(
            [str(LAB_SCRIPT), "up"], timeout=180, capture_output=True, text=True
        )
    assert started.returncode == 0, (
        f"the lab does not start:\n{started.stdout}{started.stderr}"
    )
    return LAB


@contextlib.contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Keep other processes that lock the same file waiting; with ``fcntl.LOCK_SH`` only those that
    do not share it.
    """
    with path.open("w") as lock:
        fcntl.flock(lock, how)
        yield


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and let one process run all tests of the Slurm whose daemons are stopped.

    The others need not wait for it. The second machine takes longest: it begins first.
    """
    items.sort(key=lambda item: item.path.name != "test_second_machine.py")
    for item in items:
        folder = item.path.parent.name
        if folder in SLOW_FOLDERS or item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
        if (
            "noacct"
            in getattr(getattr(item, "callspec", None), "params", {}).values()
        ):
            item.add_marker(pytest.mark.xdist_group("noacct"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the lab, if it was this run of the tests that started it, once all its processes are
    done.
    """
    if (
        not hasattr(session.config, "workerinput")
        and STARTED.exists()
        and STARTED.read_text() == str(os.getpid())
    ):
        subprocess.run(
            [str(LAB_SCRIPT), "down"], check=False, timeout=120, capture_output=True
        )
        STARTED.unlink()


def _lab_missing() -> str:
    if os.geteuid() != 0:
        return "starting them needs root (make test as root on Debian installs and starts them)"
    missing = [
        name
        for name in (
            "slurmctld",
            "slurmdbd",
            "munged",
            "mariadbd",
            "sge_qmaster",
            "sshd",
            "fish",
            "tcsh",
            "busybox",
            "ip",
        )
        if not shutil.which(name)
    ]
    if missing:
        return f"{', '.join(missing)} not installed (tests/lab/lab.sh install, on Debian)"
    return ""


@contextlib.contextmanager
def namespace(lab: Path | None) -> Iterator[None]:
    """Move this thread, and the children it starts, into the lab's network namespace for a while;
    without a lab stay here.
    """
    if lab is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(NETNS, os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(home)
        os.close(home)
        os.close(there)


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why tests were skipped, in one line a reason."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        reasons[words.removeprefix("Skipped: ")] += 1
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


def pytest_report_header() -> str:
    return f"host: {socket.gethostname()}, cores: {os.cpu_count()}, lab: {_lab_missing() or LAB}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server that listens on a Unix socket only, and is stopped by the pid
    it was started with.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    program = str(programs[-1] / "postgres") if programs else shutil.which("postgres")
    if program is None:
        if os.environ.get("CLUSTERJOB_REQUIRE_LAB"):
            pytest.fail("PostgreSQL is required here, and not installed")
        pytest.skip(
            "PostgreSQL is not installed (tests/lab/lab.sh install, on Debian)"
        )
    # the path of a socket is short
    with tempfile.TemporaryDirectory(prefix="cj-pg-") as name:
        folder = Path(name)
        as_user: dict[str, str] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses root
            shutil.chown(folder, "postgres")
            as_user = {"user": "postgres"}
        initdb = [
            str(Path(program).parent / "initdb"),
            "--no-sync",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-D",
            str(folder / "data"),
        ]
        subprocess.run(
            initdb,
            check=True,
            capture_output=True,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            **as_user,
        )  # type: ignore[call-overload]
        options = [
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "max_connections=60",
        ]
        with (tmp_path_factory.mktemp("postgres") / "log").open("w") as log:
            server = subprocess.Popen(
                [program, "-D", str(folder / "data"), *options],
                stdout=log,
                stderr=log,
                cwd=folder,
                **as_user,
            )  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + 30
            while not (folder / ".s.PGSQL.5432").exists() or not (
                folder / "data/postmaster.pid"
            ).read_text().rstrip().endswith("ready"):
                assert time.monotonic() < deadline, "PostgreSQL does not start"
                time.sleep(0.05)
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The URL of an empty database."""
    import psycopg

    name = f"test_{time.time_ns()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield postgres.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
