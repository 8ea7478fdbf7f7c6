"""Profiles: the user's INI files.

They say which backend, on which host, with which defaults and overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.backend import (
    COMMON_RESOURCES,
    ResourceValue,
    Sections,
    check_once,
    check_resource,
    check_spelling,
    common_name,
    read_ini,
)
from clusterjob.errors import SettingsError

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
    "setup",
)


@dataclass(frozen=True, eq=False)
class Profile:
    """One INI file, read and checked as far as that is possible without its backend."""

    path: Path
    attributes: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, ResourceValue | None] = field(default_factory=dict)
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
    _check_section_names(sections, file)
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
    given = sections.pop("Resources", {})
    for key, value in given.items():
        try:
            name = common_name(key)
            resources[name] = check_resource(name, value)
        except SettingsError as error:
            raise SettingsError(
                str(error), file=file, section="Resources", key=key
            ) from None
    check_once(given, file)
    return Profile(file, attributes, resources, sections)


def _check_section_names(sections: Sections, file: Path) -> None:
    """Refuse near misses: other names are sections of a backend, which come later."""
    for right in ("Attributes", "Resources"):
        for wrong in (right.lower(), right.removesuffix("s"), right.upper()):
            if wrong in sections:
                raise SettingsError(
                    f"unknown section. Did you mean [{right}]?",
                    file=file,
                    section=wrong,
                )
