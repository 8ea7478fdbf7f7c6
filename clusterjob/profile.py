"""Profiles: the user's INI files.

They say which backend, on which host, with which defaults and overrides.
"""

from __future__ import annotations

import functools
import re
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
from clusterjob.plain_files import expand
from clusterjob.retry import Retry, read_retry

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
    "bundle",
    "python",
)
# those that say which cluster a job goes to
PLACE = ("backend", "remote", "transport", "ssh_config")

# what the clusterjob of 2018 called something, and how that is said now
_GONE = {
    "cache_counter": "nothing: jobs are found by what they are, or by cache_id",
    "cache_prefix": "nothing: records lie in one store, which JobScript.cache_folder names",
    "debug_cmds": "logging.getLogger('clusterjob').setLevel('DEBUG')",
    "default_backend": "JobScript.backend = ...",
    "default_remote": "JobScript.remote = ...",
    "default_shell": "JobScript.shell = ...",
    "max_sleep_interval": "poll_interval (s) in [Limits] of the profile",
    "module_name": "a folder with backend.ini, named by the attribute backend",
    "scp": "transport = openssh, and the ssh_config that it reads",
    "sleep_interval": "poll_interval (s) in [Limits] of the profile",
    "ssh": "transport = openssh, and the ssh_config that it reads",
}
_INTERPOLATION = re.compile(r"%\((\w+)\)s")


def check_gone(name: str, file: object = None) -> None:
    """Refuse a name of 2018, with what replaces it. Raises :class:`SettingsError`."""
    if name in _GONE:
        raise SettingsError(
            f"{name!r} was a name of the clusterjob of 2018; now it is {_GONE[name]}",
            file=file,
            section=None if file is None else "Attributes",
            key=None if file is None else name,
        )
    if name == "cache_id":
        raise SettingsError(
            "'cache_id' is an argument of submit: job.submit(cache_id=...)"
        )
    if name == "cache_folder" and file is not None:
        raise SettingsError(
            "the store is not a profile's: set JobScript.cache_folder, or $CLUSTERJOB_STORE",
            file=file,
            section="Attributes",
            key=name,
        )


@dataclass(frozen=True, eq=False)
class Profile:
    """One INI file, read and checked as far as that is possible without its backend."""

    path: Path
    attributes: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, ResourceValue | None] = field(default_factory=dict)
    overrides: Sections = field(default_factory=dict)
    retry: Retry | None = None

    @functools.cached_property
    def place(self) -> tuple[str | None, ...]:
        """What says which cluster it is for."""
        return tuple(self.attributes.get(name) for name in PLACE)

    @functools.cached_property
    def backends(self) -> str:
        """The folder beside it that may have backends of its own."""
        return str(self.path.parent / "backends")


def read_profile(path: str | Path) -> Profile:
    """Read a profile.

    Its sections besides [Attributes] and [Resources] override those of the backend, and are checked
    with it.

    Raises :class:`SettingsError` naming file, section and key; also for a key that is nearly, but
    not quite, a known one.
    """
    file = expand(path).absolute()
    sections = read_ini(file)
    _check_section_names(sections, file)
    _check_interpolation(sections, file)
    attributes = sections.pop("Attributes", {})
    if attributes.get("inputs", "auto") != "auto":
        raise SettingsError(
            "expected auto: the programs that a body calls; files are named by the job script",
            file=file,
            section="Attributes",
            key="inputs",
        )
    for key in attributes:
        check_gone(key, file)
        if not key.isidentifier():
            raise SettingsError(
                "is no name of an attribute (letters, digits and _); lines of a value that goes on "
                "are indented more than its key",
                file=file,
                section="Attributes",
                key=key,
            )
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
    rules = sections.pop("Retry", None)
    retry = None if rules is None else read_retry(rules, file)
    return Profile(file, attributes, resources, sections, retry)


def _check_interpolation(sections: Sections, file: Path) -> None:
    """Refuse ``%(name)s``, which until 2018 stood for another key."""
    for section in ("Attributes", "Resources"):
        for key, value in sections.get(section, {}).items():
            match = _INTERPOLATION.search(value)
            if match is not None:
                raise SettingsError(
                    f"{match[0]} is not filled in any more. In scripts write "
                    f"{{{{ {match[1]} }}}}; elsewhere write the value out",
                    file=file,
                    section=section,
                    key=key,
                )


def _check_section_names(sections: Sections, file: Path) -> None:
    """Refuse near misses: other names are sections of a backend, which come later."""
    if "DEFAULT" in sections:
        raise SettingsError(
            "this section is not read any more: write its keys into [Attributes] or [Resources]",
            file=file,
            section="DEFAULT",
        )
    for right in ("Attributes", "Resources"):
        for wrong in (right.lower(), right.removesuffix("s"), right.upper()):
            if wrong in sections:
                raise SettingsError(
                    f"unknown section. Did you mean [{right}]?",
                    file=file,
                    section=wrong,
                )
