"""Whose directives stand in a script."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from clusterjob.backend.load import load_backend
from clusterjob.backend.lookup import installed_backends
from clusterjob.backend.model import Backend
from clusterjob.backend.native import directive_lines, read_native
from clusterjob.errors import SettingsError

_MARK = re.compile(r"^#", re.MULTILINE)


def same_dialect(first: Backend, second: Backend) -> bool:
    """Whether two backends mark their directives in the same way."""
    return first.native.prefix == second.native.prefix


def find_dialect(script: str, at_hand: Backend | None = None) -> Backend | None:
    """Return the backend whose directives a script has; None where it has none.

    That is the one ``at_hand`` where it has some of them. Of several with the same words it is the
    one that understands most. Raises :class:`SettingsError` for a script with the directives of
    several schedulers, none of them at hand.
    """
    if not _MARK.search(script):
        return None
    if at_hand is not None and directive_lines(at_hand.native, script):
        return at_hand
    found = [
        backend
        for backend in _installed_dialects()
        if directive_lines(backend.native, script)
    ]
    if not found:
        return None
    if not all(same_dialect(backend, found[0]) for backend in found):
        titles = " and ".join(
            f"{item.name} (line {_first_line(item, script)})" for item in found
        )
        raise SettingsError(
            f"the script has directives of several schedulers: {titles}. Choose one of them as the "
            "backend, or as the dialect"
        )
    return min(found, key=lambda backend: _not_understood(backend, script))


def without_directives(script: str) -> str:
    """Make comments of the directives of any scheduler; all lines keep their numbers."""
    numbers = {
        number
        for backend in _installed_dialects()
        for number, _ in directive_lines(backend.native, script)
    }
    lines = script.split("\n")
    return "\n".join(
        "#" if number in numbers else line for number, line in enumerate(lines, 1)
    )


def _first_line(backend: Backend, script: str) -> int:
    return directive_lines(backend.native, script)[0][0]


def _not_understood(backend: Backend, script: str) -> int:
    """Return how many options a backend's tables have no common name for."""
    try:
        return len(read_native(backend, script).options)
    except SettingsError:
        return 1000


@functools.cache
def _installed_dialects() -> tuple[Backend, ...]:
    paths: list[Path] = sorted(installed_backends().glob("*/backend.ini"))
    backends = (load_backend(str(path.parent)) for path in paths)
    return tuple(
        item for item in backends if item.native.prefix and not item.general.extends
    )
