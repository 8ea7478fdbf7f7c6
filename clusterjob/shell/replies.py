"""Marked replies: a script says which part of what it prints is the answer to what."""

from __future__ import annotations

import secrets
from pathlib import Path

from clusterjob.shell.text import load_shell

_REPLY = Path(__file__).parent / "reply.sh"


def new_mark() -> str:
    """Return a word that no banner and no scheduler prints."""
    return f"clusterjob-{secrets.token_hex(8)}"


def start_replies(mark: str) -> str:
    """Return the shell text that defines ``cj_part``, ``cj_begin`` and ``cj_finish``."""
    return f"cj_mark={mark}\n{load_shell(_REPLY)}"


def run_marked(command: str, name: str) -> str:
    """Return the shell text that runs a command whose output is the part ``name``.

    Its exit code is a line of the part ``name-codes``. Several of one name are joined.
    """
    return f"cj_begin {name}\n( {command}\n)\ncj_finish {name} $?"


def split_reply(text: str, mark: str) -> dict[str, str]:
    """Return what stands after each marked line, by the name in it.

    Texts of the same name are joined; what stands before the first mark is left out.
    """
    parts: dict[str, str] = {}
    for piece in text.split(f"\n{mark}:")[1:]:
        name, _, body = piece.partition("\n")
        parts[name] = parts.get(name, "") + body
    return parts
