"""The parameters of the elements of an array: variables of the shell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from clusterjob.errors import SettingsError, shorten

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# what the shell, or the script around the body, would stumble over
_RESERVED = re.compile(
    r"(?i:cj_.*|clusterjob_.*)|IFS|PATH|HOME|PWD|OLDPWD|SHELL|ENV|LD_.*|_"
    # what bash sets itself (bash(1) 5.2, "Shell Variables"), whatever it was given
    r"|BASH.*|COMP_.*|DIRSTACK|EPOCH(REALTIME|SECONDS)|E?UID|FUNCNAME|GROUPS|HIST.*|HOST(NAME|TYPE)"
    r"|LINENO|MACHTYPE|MAPFILE|OPT(ARG|ERR|IND)|OSTYPE|PIPESTATUS|POSIXLY_CORRECT|PPID|PROMPT_.*"
    r"|PS[0-4]|S?RANDOM|READLINE_.*|REPLY|SECONDS|SHELLOPTS|SHLVL|TIMEFORMAT|TMOUT|COLUMNS|LINES"
)

_LONGEST = 131072  # bytes of a variable with its name, MAX_ARG_STRLEN of execve(2)


def check_rows(rows: Iterable[Mapping[str, object]]) -> tuple[dict[str, str], ...]:
    """Return the variables of each element as texts; None is an empty one.

    Raises :class:`SettingsError` for names that no variable can have, values that are no texts or
    numbers, and rows of which not all have the same names.
    """
    found: list[dict[str, str]] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise SettingsError(
                f"parameters: element {number} is {shorten(repr(row))}; expected a mapping from "
                "names to values"
            )
        found.append({_name(name): _text(name, value) for name, value in row.items()})
        if found[-1].keys() != found[0].keys():
            odd = sorted(found[-1].keys() ^ found[0].keys())
            raise SettingsError(
                f"parameters: {odd[0]!r} is not in both elements 1 and {number}; all elements need "
                "the same names"
            )
    if not found or not found[0]:
        raise SettingsError(
            "parameters: there are none, so there would be no elements"
        )
    return tuple(found)


def _name(name: object) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(
            f"parameters: {name!r} is no name of a variable (letters, digits and _)"
        )
    if _RESERVED.fullmatch(name):
        raise SettingsError(
            f"parameters: {name!r} means something else to the shell; choose another name"
        )
    return name


def _text(name: object, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)):
        # numbers of numpy and the like
        item = getattr(value, "item", None)
        value = item() if callable(item) else value
    if not isinstance(value, (str, int, float)) or "\0" in str(value):
        raise SettingsError(
            f"parameters: {name} = {shorten(repr(value))}; expected a text or a number"
        )
    text = str(value)
    size = len(f"{name}={text}".encode("utf-8", "surrogatepass"))
    if size >= _LONGEST:
        raise SettingsError(
            f"parameters: {name} has {size} bytes, and a variable holds {_LONGEST - 1}; put the "
            "value in a file, and give the name of the file"
        )
    return text
