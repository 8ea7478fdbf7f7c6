"""Profiles: the user's INI files that say which backend, on which host, with which defaults and
overrides.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clusterjob import units
from clusterjob.errors import SettingsError
from clusterjob.inifile import COMMON_RESOURCES, Sections, boolean, read_ini

# attributes that mean something to clusterjob; any other is a variable of the body
ATTRIBUTES = (
    "backend",
    "remote",
    "transport",
    "ssh_config",
    "rootdir",
    "workdir",
    "shell",
    "prologue",
    "epilogue",
    "filename",
)
_COUNTS = ("nodes", "ppn", "threads", "gpus")
_TEXTS = ("jobname", "queue", "account", "stdout", "stderr", "array")


@dataclass(frozen=True, eq=False)
class Profile:
    """One INI file, read and checked as far as that is possible without its backend."""

    path: Path
    attributes: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sections = field(default_factory=dict)


def read_profile(path: str | Path) -> Profile:
    """Read a profile.

    Its sections besides [Attributes] and [Resources] override those of the backend, and are checked
    with it.

    Raises :class:`SettingsError` naming file, section and key; also for a key that is nearly, but
    not quite, a known one.
    """
    file = Path(path).expanduser().absolute()
    sections = read_ini(file)
    for wrong in sections.keys() & {
        "attributes",
        "resources",
        "Attribute",
        "Resource",
        "ATTRIBUTES",
        "RESOURCES",
    }:
        right = "Attributes" if wrong.lower().startswith("attr") else "Resources"
        raise SettingsError(f"unknown section. Did you mean [{right}]?", file=file, section=wrong)
    attributes = sections.pop("Attributes", {})
    for key in attributes:
        check_spelling(key, ATTRIBUTES, file=file, section="Attributes")
        if key in COMMON_RESOURCES:
            raise SettingsError(
                f"{key!r} is a resource: it belongs into [Resources]",
                file=file,
                section="Attributes",
                key=key,
            )
    resources = {}
    for key, value in sections.pop("Resources", {}).items():
        try:
            resources[key] = check_resource(key, value)
        except SettingsError as error:
            raise SettingsError(str(error), file=file, section="Resources", key=key) from None
    return Profile(file, attributes, resources, sections)


def check_spelling(
    key: str, known: Iterable[str], *, file: object = None, section: str | None = None
) -> None:
    """Raise :class:`SettingsError` for a word that is nearly one of the known words: it is a slip,
    and would be taken for something new.
    """
    near = _near(key, tuple(known))
    if near:
        raise SettingsError(
            f"unknown key. Did you mean {near!r}? (Written as '-{key}' it is passed to the "
            "scheduler as it is.)"
            if section != "Attributes"
            else f"unknown key. Did you mean {near!r}?",
            file=file,
            section=section,
            key=key,
        )


@functools.lru_cache(maxsize=1024)
def _near(key: str, known: tuple[str, ...]) -> str:
    if key in known or key.startswith("-"):
        return ""
    for word in known:  # letters that changed places
        if sorted(word) == sorted(key.lower()):
            return word
    return next(iter(difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.85)), "")


def check_resource(name: str, value: Any) -> Any:
    """Return a resource in the one form it has inside: time in seconds, mem in MB, counts as int,
    None for an empty one.

    Resources that are not common ones stay as they are; the words true and false become flags.
    Raises :class:`SettingsError`.
    """
    if name not in COMMON_RESOURCES:
        _check_name(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, (str, int, float, bool)):
        raise SettingsError(
            f"resource {name!r} is {value!r}; expected a word, a number, True or False"
        )
    try:
        if name == "time":
            return units.parse_time(value)
        if name == "mem":
            return units.parse_memory(value)
    except SettingsError as error:
        raise SettingsError(f"resource {name!r}: {error}") from None
    if name in _COUNTS:
        return _count(name, value)
    if name in _TEXTS:
        return _text(name, value)
    if isinstance(value, str):
        flag = boolean(value)
        return value if flag is None else flag
    return value


def _check_name(name: Any) -> None:
    if (
        not isinstance(name, str)
        or not name
        or (any(character.isspace() for character in name.strip("-")) and not name.startswith("-"))
    ):
        raise SettingsError(f"{name!r} is not the name of a resource")
    check_spelling(name, COMMON_RESOURCES)


def _count(name: str, value: Any) -> int:
    try:
        number = int(value) if not isinstance(value, bool) and float(value) == int(value) else 0
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise SettingsError(f"resource {name!r} is {value!r}; expected a whole number from 1 on")
    return number


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        raise SettingsError(f"resource {name!r} is {value!r}; expected a word")
    text = str(value)
    if not text.isprintable() and any(
        ord(character) < 32 or ord(character) == 127 for character in text
    ):
        raise SettingsError(
            f"resource {name!r} is {text!r}; it must not hold line breaks or other control "
            "characters"
        )
    return text
