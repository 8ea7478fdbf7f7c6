"""Calls of the command line that nobody would make: words for every option of every command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click
from hypothesis import strategies as st

from clusterjob.cli.group import cli, run

LONGEST = 90  # s of a call; a login may have to wait for a minute
# no word of a call can have a NUL: the operating system passes none
_WORDS = """
    9e9 1e400 1e-400 -1 0 0.5 nan inf 0x10 ² ٣ 30d 1h 5
    ~nosuch ~nosuch/x ~ [!] [z-a] [ ** **/** * ? {a,b} . .. / folder folder/ nowhere
    loop loop/x pipe /dev/zero /dev/full /dev/null /dev/stdin /proc/self/mem
    = a= =b a=b time=1e400 mem=-1 nodes=² array=1-10000000000 array=² threads=0 stdout=/
    gpus=1e9 -- - -x --nosuch -p {{ ${ %(x)s %s {%raw
    good.sh odd.sh nul.sh deep.sh p.ini odd.ini nul.ini deep.ini section.ini
    done failed local slurm ../local
    file:///dev/null file:// file:/// sqlite:// sqlite:////dev/zero sqlite:///folder
    sqlite:///pipe sqlite:///odd.ini postgresql:///x?host=/nowhere nosuch://x
    host user@host @ a@b@c -oProxyCommand=id host:99999 [::1
"""
ODD = [
    *_WORDS.split(),
    *(
        "",
        " ",
        "\udcff",
        "a=\udcff",
        "file://\udcff",
        "\n",
        "x\ny",
        "ho\nst",
        "jobname=\n",
    ),
    *(
        "\x1b[31m",
        "\u202e",
        "\u2028",
        "{{ 1/0 }}",
        "9" * 400,
        "-" + "9" * 400,
        "a" * 5000,
    ),
    *("time=" + "9" * 400, "/".join("a" * 3000)),
]


# bytes that are no UTF-8 arrive as halves of characters, and no other halves do
_TEXT = st.characters(
    exclude_categories=["Cs"], exclude_characters="\0"
) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
# words that are all right, by the names of parameters, so that a call may come far
_GOOD = {
    "script": ["true.sh", "good.sh"],
    "jobs": ["done", "failed"],
    "job": ["done", "failed"],
    "profile": ["p.ini"],
    "params": ["T=1"],
    "resources": ["time=1m", "mem=1G"],
    "older_than": ["30d", "1h"],
    "timeout": ["5s"],
    "source": [".clusterjob"],
}
# what takes as long as the jobs that it runs
_SLOW = {"--time-limit"}


class HangError(BaseException):
    """A call took longer than any should."""


def prepare() -> None:
    """Write the files that the words name, and make two jobs."""
    os.symlink("loop", "loop")
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("good.sh").write_text("echo {{ T }}\n")
    Path("odd.sh").write_bytes(b"#!/bin/sh\n#SBATCH --time=\xff\xfe\necho \xff\n")
    Path("nul.sh").write_bytes(b"echo \0\n" * 10)
    Path("deep.sh").write_text("{{ " + "(" * 5000 + "\n")
    Path("p.ini").write_text("[Attributes]\nbackend = local\n")
    Path("odd.ini").write_bytes(b"[Attributes]\nbackend = \xff\n")
    Path("nul.ini").write_bytes(b"[Attributes]\nbackend = l\0cal\nremote = \0\n")
    Path("deep.ini").write_text(
        "[Attributes]\nbackend = local\nx = " + "%(" * 3000 + "\n"
    )
    Path("section.ini").write_text("backend = local\n[]\n[Resources\ntime\n")
    bin_folder = Path("bin")
    bin_folder.mkdir()
    # no call goes out
    (bin_folder / "ssh").write_text("#!/bin/sh\necho 'ssh: no' >&2\nexit 255\n")
    (bin_folder / "ssh").chmod(0o755)
    os.environ["PATH"] = f"{bin_folder.absolute()}:{os.environ['PATH']}"
    Path("true.sh").write_text("true\n")
    Path("false.sh").write_text("exit 3\n")
    assert run(["submit", "true.sh", "-n", "done", "--wait"]) == 0
    assert run(["submit", "false.sh", "-n", "failed", "--wait"]) == 1


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield all commands, by the words that name them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        yield (*path, name)


def find(path: tuple[str, ...]) -> click.Command:
    """Return a command by the words that name it."""
    found: click.Command = cli
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


def words_of(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Return words for a parameter: such as its type asks for, and such as it does not."""
    odd = st.sampled_from(ODD) | st.text(_TEXT, max_size=20)
    good = _GOOD.get(parameter.name or "", [])
    if isinstance(parameter.type, click.Choice):
        good = list(map(str, parameter.type.choices))
    if not good:
        return odd
    known = st.sampled_from(good)
    return st.one_of(known, known, odd)


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    """Draw the words of a call."""
    path = draw(st.sampled_from(list(commands(cli))))
    words: list[str] = []
    if draw(st.integers(0, 5)) == 0:
        words += ["--store", draw(st.sampled_from(ODD))]
    words += path
    for parameter in find(path).params:
        if isinstance(parameter, click.Argument):
            count = draw(st.integers(0, 2)) if parameter.nargs == -1 else 1
            words += [draw(words_of(parameter)) for _ in range(count)]
        elif _SLOW.isdisjoint(parameter.opts) and draw(st.integers(0, 2)) == 0:
            words.append(draw(st.sampled_from(parameter.opts)))
            if not parameter.is_flag:
                words.append(draw(words_of(parameter)))
    return words


def call(words: list[str]) -> int:
    """Make a call in this process; what it raises is a traceback, or a hang."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise HangError(words)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        return run(words)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.stdout.flush()
