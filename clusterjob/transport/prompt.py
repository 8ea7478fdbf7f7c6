"""Questions to the person at the keyboard: passwords, one-time codes, passphrases.

What is answered is kept nowhere.
"""

from __future__ import annotations

import os
import sys
import threading

from clusterjob.errors import LoginError
from clusterjob.transport.base import Hooks


def ask(hooks: Hooks, host: str, question: str, echo: bool = False) -> str:
    """Ask, and return the answer. Raises :class:`LoginError` where nobody can be asked."""
    text = f"[{host}] {question.strip() or 'Password:'} "
    nobody = LoginError(
        f"{host} asks {question.strip()!r}, and there is nobody to answer.",
        hint="Log in from a terminal or a notebook. With 'transport = openssh' in the profile, "
        "'clusterjob connect PROFILE' logs in once for all programs.",
    )
    if hooks.prompt is not None:
        return hooks.prompt(text, echo)
    if (
        threading.current_thread() is not threading.main_thread()
        or not somebody_is_there()
    ):
        raise nobody
    try:
        if echo:
            return input(text)
        import getpass

        return getpass.getpass(text)
    # the latter where a notebook is run by a program
    except (EOFError, NotImplementedError):
        raise nobody from None


def somebody_is_there() -> bool:
    """Whether this is a notebook, or a program at a terminal."""
    if "ipykernel.zmqshell" in sys.modules:
        return True
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return sys.stdin is not None and sys.stdin.isatty()
