"""What is known about a scheduler: its directives, commands, states and variables, read from
``backend.ini``.

A backend is data. The grammar of the file is in ``docs/backends.md``; everything here only reads
it, checks it, and answers questions about it. Rendering is :mod:`clusterjob.render`'s, running
commands :mod:`clusterjob.scheduler`'s.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.errors import BackendNotFoundError, SettingsError, suggest
from clusterjob.inifile import COMMON_RESOURCES, Sections, read_ini, words
from clusterjob.status import Reason, Status

TIMEOUT_OR_MEMORY = (
    "timeout_or_memory"  # a reason in [States]: one word for two limits; the time used tells which
)
EXITED = "EXITED"  # in [States]: the job ended by itself, and its exit code says how

_GENERAL = {
    "title": "",
    "template": "submit.sh.j2",
    "extension": "sh",
    "extends": "",
    "option": "--{key}={value}",
    "flag": "--{key}",
    "underscore": "_",
    "quoting": "refuse",
    "job_variables": "",
    "forward": "",
    "jobname": r"[^\n]+",
    "workdir": r"[^\0]*",
    "array_task": "",
    "patterns": "",
    "array_lists": "yes",
    "clusters": "",
    "after": "native",
    "scan": "",
}
_COMMANDS = ("submit", "active", "finished", "cancel", "find", "version")
PLACEHOLDERS = ("script", "ids", "user", "clusters", "spool", "age")
_OUTPUTS = ("submit", "active", "finished", "find")
_OUTPUT_KEYS = (
    "format",
    "pattern",
    "ignore",
    "start",
    "entry",
    "continuation",
    "jobs",
    "state",
    "token",
    "task",
)
FIELDS = (
    "id",
    "task",
    "step",
    "state",
    "why",
    "exit",
    "signal",
    "wait_status",
    "submitted",
    "started",
    "ended",
    "elapsed",
    "cpu",
    "max_rss",
    "token",
    "name",
    "cluster",
)
VARIABLES = (
    "CLUSTERJOB_ID",
    "CLUSTERJOB_NAME",
    "CLUSTERJOB_WORKDIR",
    "CLUSTERJOB_SUBMIT_HOST",
    "CLUSTERJOB_NODELIST",
    "CLUSTERJOB_ARRAY_INDEX",
)
_LIMITS = {
    "poll_interval": 10.0,  # s between two polls of one cluster, at the least
    "first_poll": 0.5,  # s from which the interval grows to poll_interval
    "submit_parallel": 4,  # submit commands at once
    "array_size": 1000,  # elements of one array
    "command_timeout": 120.0,  # s for one of the scheduler's commands
    "settle": 20.0,  # s in which exit record and accounting may lag behind the end of a job
    "lost_after": 300.0,  # s after which a job that no source knows is lost
    "connections": 10.0,  # logins to a host in a minute, by all processes of this machine
    "retry_wait": 15.0,  # s before jobs are offered again that the scheduler could not take now
}
_ERRORS = ("retry", "limit", "unknown", "no_accounting", "ended")
_SECTIONS = ("Backend", "Commands", "States", "Directives", "Variables", "Limits", "Errors")


@dataclass(frozen=True)
class Output:
    """How one command's answer is read: ``lines``, ``blocks`` of key and value, or ``json``."""

    format: str = "lines"
    pattern: re.Pattern[str] | None = None
    ignore: re.Pattern[str] | None = None
    start: re.Pattern[str] | None = None
    entry: re.Pattern[str] | None = None
    continuation: re.Pattern[str] | None = None
    token: re.Pattern[str] | None = None
    task: re.Pattern[str] | None = None
    jobs: str = ""
    state: str = "{state}"
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Directive:
    """One line of [Directives]: the resources it expresses and the template of the scheduler's
    option; empty drops them.
    """

    resources: tuple[str, ...]
    template: str


@dataclass(frozen=True)
class Backend:
    """A scheduler, as its folder in ``backends/`` and the overrides of a profile describe it."""

    name: str
    path: Path
    general: Mapping[str, str]
    commands: Mapping[str, str]
    outputs: Mapping[str, Output]
    states: tuple[tuple[str, Reason | str | None, str], ...]
    directives: tuple[Directive, ...]
    variables: Mapping[str, str]
    limits: Mapping[str, float]
    errors: Mapping[str, re.Pattern[str]]
    sections: Mapping[str, Mapping[str, str]]  # as read, for people to look at

    @property
    def title(self) -> str:
        return self.general["title"] or self.name

    def classify(self, state: str) -> tuple[Status | str, Reason | str | None] | None:
        """Map the scheduler's word(s) for a state; None where nobody has seen the word before."""
        for target, reason, pattern in self.states:
            if fnmatch.fnmatchcase(state, pattern):
                return (target if target == EXITED else Status[target]), reason
        return None

    def matches(self, kind: str, text: str) -> bool:
        """Whether a command's words are those of [Errors] ``kind``."""
        pattern = self.errors.get(kind)
        return bool(pattern and pattern.search(text))

    @functools.cached_property
    def attributes(self) -> frozenset[str]:
        """The names in directives that are neither resources nor derived from them: a profile gives
        them as attributes.
        """
        names = {
            name
            for directive in self.directives
            for name in re.findall(r"{[{%]-?\s*(?:if\s+)?([a-z]\w*)", directive.template)
        }
        return frozenset(names - {*COMMON_RESOURCES, "after", "for", "endif", "endfor", "else"})

    @property
    def template(self) -> str:
        """The text of the template that renders a job script."""
        try:
            return Path(self.general["template"]).read_text(encoding="utf-8")
        except OSError as error:
            file = self.path / "backend.ini"
            raise SettingsError(
                f"the template cannot be read: {error}",
                file=file,
                section="Backend",
                key="template",
            ) from None


def installed_backends() -> Path:
    """Return the folder of the backends that came with the package (beside it in a source tree)."""
    package = Path(__file__).parent
    for folder in (package / "backends", package.parent / "backends"):
        if (folder / "slurm" / "backend.ini").is_file():
            return folder
    raise SettingsError(
        "the backends that belong to clusterjob are missing; install it again",
        file=package / "backends",
    )


def backend_folders(beside: Iterable[Path] = ()) -> list[Path]:
    """Return the lookup path: beside the profile, the user's, the site's, the installed ones."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [
        *beside,
        config / "clusterjob" / "backends",
        Path("/etc/clusterjob/backends"),
        installed_backends(),
    ]


def list_backends(beside: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the folder of each backend on the lookup path, by name."""
    found: dict[str, Path] = {}
    for folder in backend_folders(beside):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if (path / "backend.ini").is_file():
                    found.setdefault(path.name, path)
    return dict(sorted(found.items()))


@functools.cache
def job_variable_patterns() -> str:
    """Return the patterns, ``SLURM_*`` and the like, of the variables that any installed scheduler
    sets in a job, and what to keep.
    """
    found: dict[str, None] = {}
    for path in sorted(installed_backends().glob("*/backend.ini")):
        for word in read_ini(path).get("Backend", {}).get("job_variables", "").split():
            if word.endswith("*") or word.startswith("!"):
                found[word] = None
    return " ".join(found)


def find_backend(name: str, beside: Iterable[Path] = ()) -> Path:
    """Return the folder of a backend: a path to one, or a name on the lookup path."""
    beside = list(beside)
    if "/" in name:
        path = Path(name).expanduser()
        if (path / "backend.ini").is_file():
            return path.resolve()
        raise BackendNotFoundError(
            f"there is no backend in the folder {name!r}: it has no backend.ini"
        )
    for folder in backend_folders(beside):
        if name and (folder / name / "backend.ini").is_file():
            return folder / name
    hint = suggest(name, list_backends(beside))
    looked = ", ".join(str(folder) for folder in backend_folders(beside))
    raise BackendNotFoundError(f"there is no backend {name!r}.{hint} Looked in: {looked}")


def load_backend(
    name: str, overrides: Sections | None = None, beside: Iterable[Path] = (), source: object = None
) -> Backend:
    """Load a backend and put a profile's sections over its own.

    ``overrides`` are sections of the same grammar, ``beside`` the folders searched first, and
    ``source`` is the file that errors in ``overrides`` are laid to.
    """
    path = find_backend(name, beside)
    file = path / "backend.ini"
    sections = _with_base(path, file, ())
    _check_sections(sections, file)
    if overrides:
        _check_sections(overrides, source, ["Attributes", "Resources"])
        if template := overrides.get("Backend", {}).get("template"):
            folder = Path(str(source)).parent if source else Path()
            overrides = {
                **overrides,
                "Backend": {**overrides["Backend"], "template": str((folder / template).resolve())},
            }
        sections = _merge(sections, overrides)
    return _build(
        path,
        sections,
        (lambda section, key: source if key in (overrides or {}).get(section, {}) else file),
    )


def _with_base(path: Path, file: Path, seen: tuple[Path, ...]) -> Sections:
    """Read a backend's sections over those of the backend it extends; its template becomes an
    absolute path.
    """
    sections = read_ini(file)
    general = sections.setdefault("Backend", {})
    template = path / general.get("template", "submit.sh.j2")
    if "template" in general or template.exists() or not general.get("extends"):
        general["template"] = str(template)
    if not general.get("extends"):
        return sections
    folder = find_backend(general["extends"], [path.parent])
    if folder in (path, *seen):
        raise SettingsError(
            f"{general['extends']!r} extends it in turn",
            file=file,
            section="Backend",
            key="extends",
        )
    return _merge(_with_base(folder, folder / "backend.ini", (*seen, path)), sections)


def _merge(
    base: Mapping[str, Mapping[str, str]], over: Mapping[str, Mapping[str, str]]
) -> Sections:
    merged = {name: dict(entries) for name, entries in base.items()}
    for name, entries in over.items():
        if name == "Directives":
            merged[name] = _merge_directives(merged.get(name, {}), entries)
        elif name == "States":  # the overriding words are looked at first
            rest = {key: value for key, value in merged.get(name, {}).items() if key not in entries}
            merged[name] = {
                key: f"{value}, {merged.get(name, {}).get(key, '')}"
                for key, value in entries.items()
            } | rest
        else:
            merged.setdefault(name, {}).update(entries)
    return merged


def _merge_directives(base: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Take the overridden resources out of the base's directives; a directive that expressed
    nothing else goes.
    """
    taken = {resource for key in over for resource in words(key)}
    kept = {}
    for key, value in base.items():
        rest = [resource for resource in words(key) if resource not in taken]
        if rest:
            kept[", ".join(rest)] = value
    return {**kept, **over}


def _check_sections(
    sections: Mapping[str, Mapping[str, str]], file: object, extra: Iterable[str] = ()
) -> None:
    known = [*_SECTIONS, *(f"Output:{name}" for name in _OUTPUTS)]
    closed: dict[str, Iterable[str]] = {
        "Backend": _GENERAL,
        "Commands": _COMMANDS,
        "Variables": VARIABLES,
        "Limits": _LIMITS,
        "Errors": _ERRORS,
        **{
            f"Output:{name}": [*_OUTPUT_KEYS, *(f"field.{item}" for item in FIELDS)]
            for name in _OUTPUTS
        },
    }
    for section, entries in sections.items():
        if section not in known:
            raise SettingsError(
                f"unknown section.{suggest(section, [*known, *extra])}", file=file, section=section
            )
        for key in entries:
            if section in closed and key not in closed[section]:
                raise SettingsError(
                    f"unknown key.{suggest(key, closed[section])}",
                    file=file,
                    section=section,
                    key=key,
                )
        if section == "Directives":
            for key in entries:
                for resource in words(key):
                    if resource not in COMMON_RESOURCES and resource != "after":
                        raise SettingsError(
                            f"{resource!r} is not a common "
                            f"resource.{suggest(resource, COMMON_RESOURCES)}",
                            file=file,
                            section=section,
                            key=key,
                        )


class _Reader:
    """Turns checked sections into values; every error names the file that the key came from."""

    def __init__(self, sections: Sections, origin: object) -> None:
        self.sections, self.origin = sections, origin

    def error(self, message: str, section: str, key: str) -> SettingsError:
        return SettingsError(message, file=self.origin(section, key), section=section, key=key)  # type: ignore[operator]

    def pattern(self, section: str, key: str) -> re.Pattern[str] | None:
        text = self.sections[section].get(key)
        if not text:
            return None
        try:
            return re.compile(text)
        except re.error as error:
            raise self.error(f"not a regular expression: {error}", section, key) from None

    def output(self, name: str) -> Output:
        section = f"Output:{name}"
        entries = self.sections.get(section)
        if entries is None:
            return Output()
        kind = entries.get("format", "lines")
        if kind not in ("lines", "blocks", "json"):
            raise self.error(
                f"{kind!r} is not a format; expected lines, blocks or json", section, "format"
            )
        patterns = {
            key: self.pattern(section, key)
            for key in ("pattern", "ignore", "start", "entry", "continuation", "token", "task")
        }
        fields = {
            key[len("field.") :]: value
            for key, value in entries.items()
            if key.startswith("field.")
        }
        self._check_output(section, kind, patterns, fields)
        return Output(
            format=kind,
            jobs=entries.get("jobs", ""),
            state=entries.get("state", "{state}"),
            fields=fields,
            **patterns,
        )

    def _check_output(
        self,
        section: str,
        kind: str,
        patterns: Mapping[str, re.Pattern[str] | None],
        fields: Mapping[str, str],
    ) -> None:
        if kind == "lines":
            pattern = patterns["pattern"]
            if pattern is None:
                raise self.error(
                    "a format of lines needs a regular expression with the group (?P<id>...)",
                    section,
                    "pattern",
                )
            for group in pattern.groupindex:
                if group not in FIELDS:
                    raise self.error(
                        f"unknown group {group!r}.{suggest(group, FIELDS)}", section, "pattern"
                    )
            if "id" not in pattern.groupindex:
                raise self.error("the group (?P<id>...) is missing", section, "pattern")
        elif "id" not in fields:
            raise self.error(
                f"a format of {kind} needs to know which key holds the job id", section, "field.id"
            )
        if kind == "blocks" and (patterns["start"] is None or patterns["entry"] is None):
            raise self.error("a format of blocks needs 'start' and 'entry'", section, "start")

    def states(self) -> tuple[tuple[str, Reason | str | None, str], ...]:
        states: list[tuple[str, Reason | str | None, str]] = []
        for key, value in self.sections.get("States", {}).items():
            name, _, reason = key.partition(":")
            if name not in (*Status.__members__, EXITED):
                raise self.error(
                    f"unknown state {name!r}.{suggest(name, [*Status.__members__, EXITED])}",
                    "States",
                    key,
                )
            reasons = [*(item.value for item in Reason), TIMEOUT_OR_MEMORY]
            if reason and reason not in reasons:
                raise self.error(
                    f"unknown reason {reason!r}.{suggest(reason, reasons)}", "States", key
                )
            found = Reason(reason) if reason in Reason._value2member_map_ else reason or None
            states += [(name, found, pattern) for pattern in words(value)]
        return tuple(states)

    def commands(self) -> dict[str, str]:
        commands = dict(self.sections.get("Commands", {}))
        for key, text in commands.items():
            bare = re.sub(r"'[^']*'", "", text)
            for name in re.findall(r"(?<!\$)\{(\w+)\}", bare):
                if name not in PLACEHOLDERS:
                    raise self.error(
                        f"unknown placeholder {{{name}}}.{suggest(name, PLACEHOLDERS)}",
                        "Commands",
                        key,
                    )
            inside = "".join(re.findall(r"'[^']*'|\"[^\"]*\"", text))
            if any(f"{{{name}}}" in inside for name in PLACEHOLDERS):
                raise self.error(
                    "a placeholder stands within quotes; it is quoted when it is filled in",
                    "Commands",
                    key,
                )
        for key in ("submit", "active", "cancel"):
            if not commands.get(key):
                raise self.error("the command is missing", "Commands", key)
        return commands

    def limits(self) -> dict[str, float]:
        limits = dict(_LIMITS)
        for key, value in self.sections.get("Limits", {}).items():
            try:
                limits[key] = float(value)
            except ValueError:
                raise self.error(f"{value!r} is not a number", "Limits", key) from None
            if limits[key] < 0 or (
                key in ("submit_parallel", "array_size", "connections") and limits[key] < 1
            ):
                raise self.error(f"{value} is too small", "Limits", key)
        return limits


def _build(path: Path, sections: Sections, origin: object) -> Backend:
    reader = _Reader(sections, origin)
    general = {**_GENERAL, **sections.get("Backend", {})}
    if general["quoting"] not in ("refuse", "double", "posix"):
        raise reader.error(
            f"{general['quoting']!r} is not a way to quote; expected refuse, double or posix",
            "Backend",
            "quoting",
        )
    for key in ("jobname", "workdir", "scan"):
        reader.sections.setdefault("Backend", {}).setdefault(key, general[key])
        reader.pattern("Backend", key)
    errors = {
        key: pattern
        for key in sections.get("Errors", {})
        if (pattern := reader.pattern("Errors", key))
    }
    return Backend(
        name=path.name,
        path=path,
        general=general,
        commands=reader.commands(),
        outputs={name: reader.output(name) for name in _OUTPUTS},
        states=reader.states(),
        directives=tuple(
            Directive(tuple(words(key)), value)
            for key, value in sections.get("Directives", {}).items()
        ),
        variables=sections.get("Variables", {}),
        limits=reader.limits(),
        errors=errors,
        sections=sections,
    )
