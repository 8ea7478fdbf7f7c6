"""Logs of any size, and what they do to a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clusterjob import CommandError, JobFailedError, JobScript, Status, submit

ESCAPES = "\x1b[2J\x1b]0;title\x07 \u202eevil\u202c \x9b31m \rover"
TAME = "\\x1b[2J\\x1b]0;title\\x07 \\u202eevil\\u202c \\x9b31m \\rover"
MB = 1 << 20
pytestmark = pytest.mark.usefixtures("spool")


def cli(*words: str) -> list[str]:
    return [sys.executable, "-m", "clusterjob", *words]


def see(*words: str) -> str:
    """Return what a person sees at a terminal."""
    master, end = pty.openpty()
    process = subprocess.Popen(
        cli(*words), stdin=subprocess.DEVNULL, stdout=end, stderr=end
    )
    os.close(end)
    seen = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # it was closed at the other end
            break
        if not data:
            break
        seen += data
    os.close(master)
    process.wait()
    return seen.decode().replace("\r\n", "\n")


@pytest.fixture
def nasty() -> Path:
    Path("text").write_text(f"{ESCAPES}\n")
    submit(JobScript("cat text; cat text >&2; exit 3", "nasty")).wait(30)
    return Path("text")


@pytest.mark.parametrize(
    "words",
    [["logs", "nasty"], ["logs", "-e", "nasty"], ["logs", "-f", "nasty"]],
    ids=range(3),
)
def test_logs_on_a_terminal_are_harmless(nasty: Path, words: list[str]) -> None:
    assert see(*words) == f"{TAME}\n"


def test_logs_to_a_pipe_are_what_the_job_wrote(nasty: Path) -> None:
    nasty.write_bytes(b"\xff\xfe\0\x1b[2Jno line end")
    submit(JobScript("cat text", "bytes")).wait(30)
    done = subprocess.run(cli("logs", "bytes"), capture_output=True, check=True)
    assert done.stdout == nasty.read_bytes()


def test_what_is_told_of_a_job_is_harmless(nasty: Path) -> None:
    assert TAME in see("show", "nasty")
    result = submit(JobScript("cat text; exit 4", "another"))[0]
    with pytest.raises(JobFailedError) as failed:
        result.get()
    assert TAME in str(failed.value)
    for text in (
        see("show", "nasty"),
        see("list"),
        see("wait", "nasty"),
        str(failed.value),
    ):
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(text)


def test_names_are_harmless_too() -> None:
    submit(JobScript("exit 1", "we\u202eird")).wait(30)
    for words in (["list"], ["show", "we\u202eird"], ["list", "--json"]):
        seen = see(*words)
        assert "\u202e" not in seen
        assert "we\\u202eird" in seen


def peak(*words: str) -> tuple[int, int]:
    """Return the most memory (bytes) that a command takes, and how many bytes it prints."""
    code = (
        "import resource, subprocess, sys; "
        "done = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE); "
        "count = 0\n"
        "while data := done.stdout.read(1 << 20): count += len(data)\n"
        "done.wait(); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, count)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *cli(*words)],
        capture_output=True,
        check=True,
        text=True,
    )
    memory, count = map(int, said.stdout.split())
    return memory, count


@pytest.mark.parametrize(
    "line", ["x" * 99 + "\n", "x" * 100], ids=["lines", "one line"]
)
def test_a_large_log_passes_through_little_memory(line: str) -> None:
    size = 400 * MB
    filtered = "cat" if line.endswith("\n") else "tr -d '\\n'"
    body = f"yes {line.strip()} | {filtered} | head -c {size}; exit 1"
    submit(JobScript(body, "large")).wait(120)
    base, _ = peak("list")
    for words, printed in (
        (["logs", "large"], size),
        (["logs", "-f", "large"], size),
        (["logs", "-f", "-n", "9", "large"], 9 * 100),
        (["logs", "-n", "5", "large"], 5 * 100),
        (["show", "large"], 1000),
    ):
        memory, count = peak(*words)
        assert memory < base + 120 * MB, words
        assert printed <= count or not line.endswith("\n")
        if printed < size:
            assert count < 2 * MB


def test_a_tail_that_is_cut_says_so(caplog: pytest.LogCaptureFixture) -> None:
    body = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"
    result = submit(JobScript(body, "long"))[0]
    result.wait(30)
    assert len(result.tail(2)) == MB
    assert "very long, and cut" in caplog.text
    caplog.clear()
    assert result.tail(1) == "end\n"
    assert caplog.text == ""
    assert len(result.stdout()) == 3_000_005
    assert len(result.explain()) < 10_000


def test_a_log_that_is_a_pipe_is_not_waited_for() -> None:
    os.mkfifo("pipe")
    job = JobScript("true", "piped", stdout="pipe")
    reader = subprocess.Popen(["cat", "pipe"])
    result = submit(job)[0]
    result.wait(30)
    reader.wait(30)
    assert result.stdout() == ""
    assert result.tail() == ""


def test_a_log_that_is_not_there_is_no_empty_one() -> None:
    [result] = submit(JobScript("true", "gone"))
    result.wait(30)
    paths = [result.log_path(stream) for stream in ("stdout", "stderr")]
    empty = subprocess.run(cli("logs", "gone"), capture_output=True, text=True)
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, "", "")
    assert "(empty)" in result.explain()
    for path in paths:
        Path(path).unlink()
    missing = subprocess.run(cli("logs", "gone"), capture_output=True, text=True)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"have ended wrote logs that are not there: {paths[0]}" in missing.stderr
    said = result.explain()
    assert "(empty)" not in said
    assert f"stderr: {paths[1]} (is not there)" in said
    with pytest.raises(
        CommandError, match=r"its stdout is not there: \S+; it was deleted"
    ):
        result.stdout()
    with pytest.raises(CommandError, match="its stderr is not there"):
        result.tail(3, "stderr")


def test_of_an_array_the_logs_that_are_gone_are_named() -> None:
    array = JobScript("echo $CLUSTERJOB_ARRAY_INDEX", "some", array="1-3").submit()
    array.wait(30)
    Path(array.log_path("stdout", 2)).unlink()
    assert array.stdout(3) == "3\n"
    for index in (None, 2):
        with pytest.raises(CommandError, match=re.escape(".2.out; it was deleted")):
            array.stdout(index)


def test_a_job_that_never_began_has_no_log() -> None:
    slow = JobScript("sleep 60", "slow").submit()
    never = JobScript("true", "never").submit(after=slow)
    slow.cancel()
    never.wait(30)
    assert never.status is Status.CANCELLED
    assert never.stdout() == ""
    quiet = JobScript("echo nothing", "quiet", stdout="/dev/null").submit()
    quiet.wait(30)
    assert quiet.stdout() == ""
