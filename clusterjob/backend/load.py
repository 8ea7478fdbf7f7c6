"""Reading ``backend.ini``: inheritance, a profile's overrides, and the checks.

A mistake is one error that names the file, the section, the key and what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import TypeVar

from clusterjob import units
from clusterjob.backend.ini import Sections, parse_boolean, read_ini, split_words
from clusterjob.backend.lookup import find_backend
from clusterjob.backend.model import (
    EXITED,
    FIELDS,
    PLACEHOLDERS,
    TIMEOUT_OR_MEMORY,
    VARIABLES,
    AfterForm,
    Backend,
    Bundles,
    Commands,
    Directive,
    ErrorKind,
    General,
    Limits,
    Native,
    NativeStyle,
    NativeTime,
    Output,
    Outputs,
    Quoting,
    StateMeaning,
    StateRule,
)
from clusterjob.backend.resources import COMMON_RESOURCES
from clusterjob.errors import SettingsError, suggest
from clusterjob.status import Dependency, Reason, Status

_Choice = TypeVar("_Choice", bound=Enum)
# section, key -> the file that it came from
_Origin = Callable[[str, str], object]


def _names(model: type) -> list[str]:
    return [item.name for item in fields(model)]


_OUTPUTS = _names(Outputs)
_OUTPUT_PATTERNS = (
    "pattern",
    "ignore",
    "start",
    "entry",
    "continuation",
    "token",
    "task",
)
_OUTPUT_KEYS = [
    "format",
    "jobs",
    "state",
    *_OUTPUT_PATTERNS,
    *(f"field.{name}" for name in FIELDS),
]
# sections with a closed set of keys
_KEYS: dict[str, Iterable[str]] = {
    "Backend": _names(General),
    "Commands": _names(Commands),
    "Native": _names(Native),
    "Bundles": _names(Bundles),
    "Variables": VARIABLES,
    "Limits": _names(Limits),
    "Errors": [kind.value for kind in ErrorKind],
    **{f"Output:{name}": _OUTPUT_KEYS for name in _OUTPUTS},
}
_SECTIONS = [*_KEYS, "States", "Directives"]
# amounts in [Limits] that have units
_AMOUNTS: Mapping[str, Callable[[str], float]] = {
    "max_mem": units.parse_memory,
    "max_time": units.parse_time,
}
_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def load_backend(
    name: str,
    overrides: Mapping[str, Mapping[str, str]] | None = None,
    beside: Iterable[Path] = (),
    source: object = None,
) -> Backend:
    """Load a backend and put a profile's sections over its own.

    ``overrides`` are sections of the same grammar, ``beside`` the folders searched first, and
    ``source`` is the file that errors in ``overrides`` are laid to. Raises
    :class:`BackendNotFoundError`, :class:`SettingsError`.
    """
    path = find_backend(name, beside)
    file = path / "backend.ini"
    sections = _with_base(path, file, ())
    _check_sections(sections, file)
    given = _with_template_path(overrides or {}, source)
    if given:
        _check_sections(given, source, ["Attributes", "Resources"])
        sections = _merge(sections, given)
    return _build(
        path,
        sections,
        lambda section, key: source if key in given.get(section, {}) else file,
    )


def _with_template_path(
    overrides: Mapping[str, Mapping[str, str]], source: object
) -> Sections:
    """Make the path of a profile's template absolute: it is relative to the profile."""
    sections = {section: dict(entries) for section, entries in overrides.items()}
    template = sections.get("Backend", {}).get("template")
    if template:
        folder = Path(str(source)).parent if source else Path()
        sections["Backend"]["template"] = str((folder / template).resolve())
    return sections


# -- inheritance -----------------------------------------------------------------------------------


def _with_base(path: Path, file: Path, seen: tuple[Path, ...]) -> Sections:
    """Read a backend's sections over those of the backend it extends.

    The path of its template becomes absolute.
    """
    sections = read_ini(file)
    general = sections.setdefault("Backend", {})
    base = general.get("extends")
    template = path / general.get("template", "submit.sh.j2")
    if "template" in general or template.exists() or not base:
        general["template"] = str(template)
    if not base:
        return sections
    folder = find_backend(base, [path.parent])
    if folder in (path, *seen):
        raise SettingsError(
            f"{base!r} extends it in turn",
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
        below = merged.get(name, {})
        if name == "Directives":
            merged[name] = _merge_directives(below, entries)
        elif name == "States":
            merged[name] = _merge_states(below, entries)
        elif name == "Commands" and "submit" in entries:
            # another command for one job: the one for many was for the other
            merged[name] = {**below, "submit_batch": "", **entries}
        else:
            merged[name] = {**below, **entries}
    return merged


def _merge_states(base: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Put the overriding words first: the first pattern that fits counts."""
    first = {key: f"{value}, {base.get(key, '')}" for key, value in over.items()}
    rest = {key: value for key, value in base.items() if key not in over}
    return first | rest


def _merge_directives(
    base: Mapping[str, str], over: Mapping[str, str]
) -> dict[str, str]:
    """Take the overridden resources out of the base's directives.

    A directive that expressed nothing else goes.
    """
    overridden = {resource for key in over for resource in split_words(key)}
    kept = {}
    for key, value in base.items():
        rest = [
            resource for resource in split_words(key) if resource not in overridden
        ]
        if rest:
            kept[", ".join(rest)] = value
    return {**kept, **over}


# -- checks ----------------------------------------------------------------------------------------


def _check_sections(
    sections: Mapping[str, Mapping[str, str]], file: object, extra: Iterable[str] = ()
) -> None:
    """Refuse sections and keys that nobody knows; ``extra`` are sections to suggest besides."""
    for section, entries in sections.items():
        if section not in _SECTIONS:
            hint = suggest(section, [*_SECTIONS, *extra])
            raise SettingsError(f"unknown section.{hint}", file=file, section=section)
        known = _KEYS.get(section)
        for key in entries:
            if known is not None and key not in known:
                hint = suggest(key, known)
                raise SettingsError(
                    f"unknown key.{hint}", file=file, section=section, key=key
                )
        if section == "Directives":
            _check_directive_names(entries, file)


def _check_directive_names(entries: Iterable[str], file: object) -> None:
    for key in entries:
        for resource in split_words(key):
            if resource not in (*COMMON_RESOURCES, "after", "exclude"):
                hint = suggest(resource, COMMON_RESOURCES)
                raise SettingsError(
                    f"{resource!r} is not a common resource.{hint}",
                    file=file,
                    section="Directives",
                    key=key,
                )


# -- values ----------------------------------------------------------------------------------------


def _build(path: Path, sections: Sections, origin: _Origin) -> Backend:
    reader = _Reader(sections, origin)
    directives = sections.get("Directives", {})
    return Backend(
        name=path.name,
        path=path,
        general=reader.general(),
        commands=reader.commands(),
        outputs=Outputs(**{name: reader.output(name) for name in _OUTPUTS}),
        states=reader.states(),
        directives=tuple(
            Directive(tuple(split_words(key)), value)
            for key, value in directives.items()
        ),
        native=reader.native(),
        bundles=reader.bundles(),
        variables=sections.get("Variables", {}),
        limits=reader.limits(),
        errors=reader.errors(),
        sections=sections,
    )


class _Reader:
    """Turns checked sections into values; every error names the file that the key came from."""

    def __init__(self, sections: Sections, origin: _Origin) -> None:
        self.sections = sections
        self.origin = origin

    def error(self, message: str, section: str, key: str) -> SettingsError:
        return SettingsError(
            message, file=self.origin(section, key), section=section, key=key
        )

    def pattern(self, section: str, key: str) -> re.Pattern[str] | None:
        """Return the regular expression of a key; None where it is empty or not there."""
        text = self.sections.get(section, {}).get(key)
        if not text:
            return None
        try:
            return re.compile(text)
        except re.error as error:
            raise self.error(
                f"not a regular expression: {error}", section, key
            ) from None

    def choice(
        self,
        kind: type[_Choice],
        section: str,
        key: str,
        default: _Choice,
    ) -> _Choice:
        text = self.sections.get(section, {}).get(key)
        if text is None:
            return default
        known = {str(item.value): item for item in kind}
        if text not in known:
            expected = ", ".join(known)
            raise self.error(
                f"{text!r} is not known; expected one of {expected}", section, key
            )
        return known[text]

    def flag(self, section: str, key: str, default: str = "no") -> bool:
        answer = parse_boolean(self.sections.get(section, {}).get(key, default))
        if answer is None:
            raise self.error("expected yes or no", section, key)
        return answer

    def general(self) -> General:
        given = self.sections.get("Backend", {})
        plain = General()
        texts = {}
        for name in _names(General):
            default = getattr(plain, name)
            if isinstance(default, str) and not isinstance(default, Enum):
                texts[name] = given.get(name, default)
        lists = self.flag("Backend", "array_lists", "yes")

        def words(key: str) -> list[str]:
            return given.get(key, "").split()

        quoting = self.choice(Quoting, "Backend", "quoting", plain.quoting)
        after = self.choice(AfterForm, "Backend", "after", plain.after)
        jobname = self.pattern("Backend", "jobname")
        workdir = self.pattern("Backend", "workdir")
        return General(
            **texts,
            quoting=quoting,
            after=after,
            dependencies=self.dependencies(given.get("dependencies", "afterok")),
            array_lists=lists,
            job_variables=tuple(words("job_variables")),
            options=tuple(words("options")),
            shared=tuple(words("shared")),
            reserved=tuple(map(_pair, words("reserved"))),
            refused=tuple(map(_pair, words("refused"))),
            jobname=jobname or plain.jobname,
            workdir=workdir or plain.workdir,
            scan=self.pattern("Backend", "scan"),
            forward_option=self.pattern("Backend", "forward_option"),
            patterns=tuple(map(_pair, words("patterns"))),
        )

    def dependencies(self, text: str) -> tuple[Dependency, ...]:
        known = {item.value: item for item in Dependency}
        for word in text.split():
            if word not in known:
                hint = suggest(word, known)
                raise self.error(
                    f"unknown word {word!r}.{hint}", "Backend", "dependencies"
                )
        return tuple(known[word] for word in text.split())

    def output(self, name: str) -> Output:
        section = f"Output:{name}"
        entries = self.sections.get(section)
        if entries is None:
            return Output()
        output = Output(
            format=entries.get("format", "lines"),
            jobs=entries.get("jobs", ""),
            state=entries.get("state", "{state}"),
            fields={
                key.removeprefix("field."): value
                for key, value in entries.items()
                if key.startswith("field.")
            },
            **{key: self.pattern(section, key) for key in _OUTPUT_PATTERNS},
        )
        self._check_output(section, output)
        return output

    def _check_output(self, section: str, output: Output) -> None:
        form = output.format
        if form not in ("lines", "blocks", "json"):
            raise self.error(
                f"{form!r} is not a format; expected lines, blocks or json",
                section,
                "format",
            )
        if form == "lines":
            self._check_line_pattern(section, output.pattern)
        elif "id" not in output.fields:
            raise self.error(
                f"a format of {form} needs to know which key holds the job id",
                section,
                "field.id",
            )
        if form == "blocks" and (output.start is None or output.entry is None):
            raise self.error(
                "a format of blocks needs 'start' and 'entry'", section, "start"
            )

    def _check_line_pattern(
        self, section: str, pattern: re.Pattern[str] | None
    ) -> None:
        if pattern is None:
            raise self.error(
                "a format of lines needs a regular expression with the group (?P<id>...)",
                section,
                "pattern",
            )
        for group in pattern.groupindex:
            if group not in FIELDS:
                hint = suggest(group, FIELDS)
                raise self.error(
                    f"unknown group {group!r}.{hint}", section, "pattern"
                )
        if "id" not in pattern.groupindex:
            raise self.error("the group (?P<id>...) is missing", section, "pattern")

    def states(self) -> tuple[StateRule, ...]:
        rules: list[StateRule] = []
        for key, value in self.sections.get("States", {}).items():
            meaning = self._meaning(key)
            rules += [StateRule(pattern, meaning) for pattern in split_words(value)]
        return tuple(rules)

    def _meaning(self, key: str) -> StateMeaning:
        """Read ``STATE`` or ``STATE:reason``."""
        name, _, reason = key.partition(":")
        states = [*Status.__members__, EXITED]
        if name not in states:
            raise self.error(
                f"unknown state {name!r}.{suggest(name, states)}", "States", key
            )
        reasons = {
            **{item.value: item for item in Reason},
            TIMEOUT_OR_MEMORY: TIMEOUT_OR_MEMORY,
        }
        if reason and reason not in reasons:
            hint = suggest(reason, reasons)
            raise self.error(f"unknown reason {reason!r}.{hint}", "States", key)
        return StateMeaning(
            name if name == EXITED else Status[name], reasons.get(reason)
        )

    def commands(self) -> Commands:
        commands = self.sections.get("Commands", {})
        for key, text in commands.items():
            self._check_placeholders(key, text)
        for key in ("submit", "active", "cancel"):
            if not commands.get(key):
                raise self.error("the command is missing", "Commands", key)
        return Commands(**commands)

    def _check_placeholders(self, key: str, text: str) -> None:
        unquoted = re.sub(r"'[^']*'", "", text)
        for name in _PLACEHOLDER.findall(unquoted):
            if name not in PLACEHOLDERS:
                hint = suggest(name, PLACEHOLDERS)
                raise self.error(
                    f"unknown placeholder {{{name}}}.{hint}", "Commands", key
                )
        if "={ids}" in text:
            raise self.error(
                "{ids} are several words; a list with commas is {id_list}",
                "Commands",
                key,
            )
        quoted = "".join(_QUOTED.findall(text))
        if any(f"{{{name}}}" in quoted for name in PLACEHOLDERS):
            raise self.error(
                "a placeholder stands within quotes; it is quoted when it is filled in",
                "Commands",
                key,
            )

    def native(self) -> Native:
        given = self.sections.get("Native", {})
        plain = Native()

        def words(key: str) -> tuple[str, ...]:
            return tuple(given.get(key, "").split())

        def templates(key: str) -> tuple[str, ...]:
            return tuple(filter(None, given.get(key, "").splitlines()))

        aliases = {}
        for word in words("aliases"):
            short, _, name = word.partition(":")
            aliases[short] = name
        style = self.choice(NativeStyle, "Native", "style", plain.style)
        time = self.choice(NativeTime, "Native", "time", plain.time)
        return Native(
            prefix=self.pattern("Native", "prefix"),
            whole=self.flag("Native", "whole"),
            merges=self.flag("Native", "merges"),
            style=style,
            time=time,
            memory=given.get("memory", plain.memory),
            spare=given.get("spare", plain.spare),
            aliases=aliases,
            lists=words("lists"),
            chunks=words("chunks"),
            given=words("given"),
            also=templates("also"),
            nearly=templates("nearly"),
        )

    def bundles(self) -> Bundles:
        given = self.sections.get("Bundles", {})
        forms = {}
        for key, default, known in (
            ("id", "", ("id", "task", "process")),
            ("array", Bundles.array, ("id",)),
        ):
            forms[key] = given.get(key, default)
            for name in re.findall(r"{(\w*)}", forms[key]):
                if name not in known:
                    hint = suggest(name, known)
                    raise self.error(
                        f"unknown placeholder {{{name}}}.{hint}", "Bundles", key
                    )
            if forms[key] and not forms[key].startswith("{id}"):
                raise self.error("expected {id} at the start", "Bundles", key)
        least = given.get("least", "1")
        if not least.isdecimal():
            raise self.error(f"{least!r} is not a number", "Bundles", "least")
        unset = []
        for word in given.get("unset", "").split():
            name, equals, value = word.partition("=")
            unset.append((name, value if equals else None))
        return Bundles(
            **forms,
            unset=tuple(unset),
            submit_dir=given.get("submit_dir", ""),
            alone=tuple(given.get("alone", "").split()),
            share=tuple(given.get("share", "").split()),
            after=self.flag("Bundles", "after"),
            least=int(least),
        )

    def limits(self) -> Limits:
        plain = Limits()
        values: dict[str, float] = {}
        for key, text in self.sections.get("Limits", {}).items():
            try:
                convert = _AMOUNTS.get(key, float)
                number = convert(text)
            except ValueError:
                raise self.error(f"{text!r} is not a number", "Limits", key) from None
            except SettingsError as error:
                raise self.error(str(error), "Limits", key) from None
            if not math.isfinite(number):
                raise self.error(f"{text!r} is not a number", "Limits", key)
            is_count = isinstance(getattr(plain, key), int)
            if number < 0 or (is_count and number < 1):
                raise self.error(f"{text} is too small", "Limits", key)
            values[key] = int(number) if is_count else number
        return Limits(**values)  # type: ignore[arg-type]  # counts are whole

    def errors(self) -> dict[ErrorKind, re.Pattern[str]]:
        patterns = {kind: self.pattern("Errors", kind.value) for kind in ErrorKind}
        return {
            kind: pattern for kind, pattern in patterns.items() if pattern is not None
        }


def _pair(text: str) -> tuple[str, str]:
    first, _, second = text.partition(":")
    return first, second
