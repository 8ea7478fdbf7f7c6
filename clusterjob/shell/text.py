"""Files of shell, what is filled into them, and the exit codes that mean something to us."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


class ExitCode(IntEnum):
    """How our own scripts end; the ``.sh`` files give the codes the same names."""

    NO_SPOOL = 94  # the embedded scheduler is not there yet
    UNMET = 95  # the scheduler lacks what its commands need
    NO_TEMPORARY_FOLDER = 96
    FOLDER_UNUSABLE = 97  # the folder of a batch cannot be entered or written
    LOCKED = 98  # somebody else is submitting the batch
    CUT_OFF = 99  # a script did not arrive whole: nothing of it was run


@functools.cache
def load_shell(path: Path) -> str:
    """Return the text of a shell file, without its comments and blank lines: it travels often."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [
        line for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]
    return "\n".join(kept) + "\n"


def lines_of(text: str) -> list[str]:
    """Return the lines of a script as shells count them: other line breaks than LF are none."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


quote = shlex.quote


def quote_all(words: Iterable[str]) -> str:
    """Return words for a command line."""
    return " ".join(map(shlex.quote, words))


def in_portions(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield parts of a sequence that one command line holds."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
