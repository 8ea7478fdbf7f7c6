"""Questions to the person at the keyboard: passwords, one-time codes, passphrases.

What is answered is kept nowhere.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from clusterjob.errors import LoginError

prompt: Callable[[str, bool], str] | None = None
"""Replaces the terminal's and the notebook's prompts where it is set: gets the question, and whether the answer may be shown."""


def ask(host: str, question: str, echo: bool = False) -> str:
    """Ask, and return the answer. Raises :class:`LoginError` where nobody can be asked."""
    text = question.strip() or "Password:"
    text = f"[{host}] {text} "
    nobody = LoginError(
        f"{host} asks {question.strip()!r}, and there is nobody to answer.",
        hint="Log in from a terminal or a notebook. With 'transport = openssh' in the profile, "
        "'clusterjob connect PROFILE' "
        "logs in once for all programs.",
    )
    if prompt is not None:
        return prompt(text, echo)
    if threading.current_thread() is not threading.main_thread() or not somebody_is_there():
        raise nobody
    try:
        if echo:
            return input(text)
        import getpass

        return getpass.getpass(text)
    except (EOFError, NotImplementedError):  # the latter where a notebook is run by a program
        raise nobody from None


def somebody_is_there() -> bool:
    """Whether this is a notebook, or a program at a terminal."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    if kernel is not None:
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return sys.stdin is not None and sys.stdin.isatty()
