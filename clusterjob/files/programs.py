"""The programs that a body of shell calls by their paths: not inputs, and yet part of what is
computed.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence

from clusterjob.shell import quote_all

_INTERPRETERS = re.compile(
    r"(?:.*/)?(?:python[\d.]*|Rscript|bash|sh|dash|zsh|ksh|perl|julia|ruby|node|lua|octave)"
)
# their options that take a word
_WITH_WORD = {"-W", "-X", "-I", "-Q"}
_READERS = {"source", "."}
_FROM_FILE = re.compile(r"(?:.*/)?(?:[gmn]?awk|sed|make|gnuplot)")
_HERE = re.compile(r"^\$(?:PWD|CLUSTERJOB_WORKDIR)/")
_BRACED = re.compile(r"\$\{(PWD|CLUSTERJOB_WORKDIR)\}")
# programs that run the one that is named behind their options
_STARTERS = {
    *("env", "exec", "ibrun", "mpiexec", "mpiexec.hydra", "mpirun", "nice", "nohup"),
    *("numactl", "srun", "stdbuf", "aprun", "taskset", "time", "timeout", "command"),
}
_SEPARATORS = re.compile(r"\|\||&&|[;|&\n(){}]")
_KEYWORDS = {"if", "then", "else", "elif", "do", "while", "until", "!", "{"}
_QUOTING = re.compile(r"[\"'\\#]")
# an interpreter whose program is text, or a module
_TEXT_OPTIONS = ("-c", "-e", "-m")
_ASSIGNMENT = re.compile(r"\w+=")
_SCRIPT = re.compile(r"[\w./+~-]+")


@functools.lru_cache(maxsize=1024)
def programs_in(body: str) -> tuple[str, ...]:
    """Return the paths of programs that a body calls: ``./simulate``, ``python3 sim.py``.

    Files that it merely mentions are none. A body in another language than shell names none.
    """
    if body.startswith("#!") and not _is_shell(body[2:].split("\n", 1)[0]):
        return ()
    found = (_program_of(command) for command in _commands(body))
    return tuple(dict.fromkeys(path for path in found if path))


def _is_shell(shebang: str) -> bool:
    words = shebang.split()
    if words and os.path.basename(words[0]) == "env":
        words = words[1:]
    return bool(words) and words[0].endswith("sh")


def _commands(body: str) -> Iterator[list[str]]:
    text = _BRACED.sub(r"$\1", re.sub(r"\\\n", " ", body))
    lines = (line for line in text.split("\n") if not line.lstrip().startswith("#"))
    for command in _SEPARATORS.split("\n".join(lines)):
        try:
            words = _split(command)
        except ValueError:  # half of a quoted text
            continue
        if words:
            yield words


def _split(command: str) -> list[str]:
    if _QUOTING.search(command):
        return shlex.split(command, comments=True)
    return command.split()


def _program_of(words: list[str]) -> str:
    """Return the path of the program that a command runs; empty where it names none."""
    words = list(itertools.dropwhile(_comes_before, words))
    if words and os.path.basename(words[0]) in _STARTERS:
        words = _behind_options(words[1:])
    if not words:
        return ""
    program, *arguments = (_HERE.sub("", word) for word in words)
    if words[0].startswith("$") and program != words[0]:
        return program if _SCRIPT.fullmatch(program) else ""
    if program in _READERS:
        named = arguments[0] if arguments else ""
        return named if "." in named and _SCRIPT.fullmatch(named) else ""
    if _FROM_FILE.fullmatch(program) and "-f" in arguments[:-1]:
        named = arguments[arguments.index("-f") + 1]
        return named if _SCRIPT.fullmatch(named) else ""
    if not _INTERPRETERS.fullmatch(program):
        return program if "/" in program and _SCRIPT.fullmatch(program) else ""
    if arguments and arguments[0] in _TEXT_OPTIONS:
        return ""
    before = ""
    for word in arguments:
        if not word.startswith("-") and before not in _WITH_WORD:
            return word if _SCRIPT.fullmatch(word) else ""
        before = word
    return ""


def _comes_before(word: str) -> bool:
    """Whether a word stands before the command: an assignment, a keyword."""
    return word in _KEYWORDS or _ASSIGNMENT.match(word) is not None


def _behind_options(words: list[str]) -> list[str]:
    """Return what a starter runs: from the first word on that can be a program."""
    for position, word in enumerate(words):
        if "/" in word or _INTERPRETERS.fullmatch(word):
            return words[position:]
    return []


def digest_script(paths: Sequence[str]) -> str:
    """Return shell text that prints the sums of files (absolute paths), one a line."""
    names = quote_all(paths)
    return (
        f"if command -v sha256sum >/dev/null; then sha256sum -- {names}; "
        f"else shasum -a 256 -- {names}; fi 2>/dev/null"
    )


def read_digests(text: str) -> dict[str, str]:
    """Return the sums that :func:`digest_script` printed, by path."""
    lines = (line.split(None, 1) for line in text.split("\n"))
    return {
        parts[1]: parts[0]
        for parts in lines
        if len(parts) == 2 and len(parts[0]) == 64
    }
