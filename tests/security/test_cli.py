"""The command line is given anything: no traceback, no hang, no end without a reason."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.security import cli_fuzz

# `make fuzz` gives an hour
SECONDS = float(os.environ.get("CLUSTERJOB_FUZZ_SECONDS", "15"))
pytestmark = pytest.mark.usefixtures("spool")


def run(*words: str, code: int = 1, **options: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "clusterjob", *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )
    said: str = done.stdout + done.stderr
    assert "Traceback" not in said
    assert done.returncode == code, said
    return said


def test_words_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(Path(name).absolute()))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("CLUSTERJOB_TRACEBACK", "1")
    # what reads without end is told by that, and not by the machine
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, limits[1]))
    cli_fuzz.prepare()
    deadline = time.monotonic() + SECONDS
    made = 0

    @settings(
        max_examples=100_000_000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cli_fuzz.calls())
    def call(words: list[str]) -> None:
        nonlocal made
        if time.monotonic() > deadline:
            raise _EnoughError
        made += 1
        code = cli_fuzz.call(words)
        assert code in range(5), words

    try:
        call()
    except _EnoughError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert made > 20
    assert not Path("hacked").exists()


class _EnoughError(BaseException):
    """The time is over."""


@pytest.mark.parametrize(
    "path", ["/dev/zero", "pipe", "/proc/self/mem", "folder", "loop"]
)
@pytest.mark.parametrize(
    "words",
    [
        ["submit", "FILE"],
        ["render", "good.sh", "-p", "FILE"],
        ["check", "FILE"],
        ["--store", "sqlite:///FILE", "list"],
        ["store", "copy", "file://FILE", "new"],
    ],
    ids=" ".join,
)
def test_what_is_no_plain_file_is_refused(words: list[str], path: str) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("good.sh").write_text("true\n")
    code = 2 if words[0] in ("submit", "check") and path in ("folder", "loop") else 1
    run(*(word.replace("FILE", path) for word in words), code=code)


def test_a_pipe_that_is_handed_over_is_read() -> None:
    line = f"{sys.executable} -m clusterjob render <(echo 'echo from a pipe')"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60
    )
    assert "echo from a pipe" in done.stdout, done.stderr


def test_a_script_of_any_length_is_refused() -> None:
    with Path("long.sh").open("wb") as file:
        file.truncate(1 << 30)
    assert "more than 64 MB" in run("submit", "long.sh")


def test_a_host_that_is_no_text_does_not_spoil_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("state").absolute()))
    folder = Path("state/clusterjob/hosts")
    folder.mkdir(parents=True)
    odd = (
        '{"host": "a\\udcffb"}',
        '{"host": 5}',
        "[" * 100_000,
        '{"host": "x\\u001b[2J"}',
        "",
    )
    for number, text in enumerate(odd):
        (folder / f"{number}.json").write_text(text)
    os.mkfifo(folder / "pipe.json")
    (folder / "good.json").write_text(
        '{"host": "good", "connected": 1e300, "logins": 7}'
    )
    said = run("hosts", "--offline", code=0)
    assert [line.split()[0] for line in said.splitlines()[1:]] == ["good"]


def test_a_full_disk_and_a_closed_pipe_are_no_tracebacks() -> None:
    Path("good.sh").write_text("true\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "clusterjob", "render", "good.sh"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "clusterjob: [Errno 28] No space left on device\n"
    line = f"{sys.executable} -m clusterjob backends | true"
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("after", [0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2])
def test_an_interrupt_is_no_traceback(after: float) -> None:
    """Also while modules are loaded; before the first of ours nobody can help it."""
    code = (
        "import sys; from clusterjob.cli import main; print('now', flush=True); "
        "sys.argv[1:] = ['doctor']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode in (0, 130, -signal.SIGINT), said


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_tracebacks(closed: str) -> None:
    Path("good.sh").write_text("true\n")
    line = f"{sys.executable} -m clusterjob submit good.sh {closed}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "good" in run("list", code=0)
