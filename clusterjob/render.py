"""From a backend, resources and a body to the script that is submitted.

Pure: the dry run, the tests and the submission call the same function.

Everything a user writes is a Jinja template with a closed vocabulary; jinja2 is loaded where the
first one is met.
"""

from __future__ import annotations

import functools
import re
import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterjob import units
from clusterjob.backend import Backend
from clusterjob.errors import RenderError, ResourcesNotSupportedError, SettingsError, suggest
from clusterjob.inifile import COMMON_RESOURCES

if TYPE_CHECKING:
    import jinja2

_KEYWORDS = (
    "if|elif|else|endif|for|endfor|set|endset|macro|endmacro|call|endcall|filter|endfilter|block|endblock|raw|endraw|"
    "with|endwith|include|import|from|extends|do|break|continue|autoescape|endautoescape"
)
_SYNTAX = re.compile(r"\{\{|\{%|\{=#")
_NO_BLOCK = re.compile(r"\{%(?![-+]?\s*(?:" + _KEYWORDS + r")\b)")
_SAFE = re.compile(r"[\w@%+=:,./^*~-]*", re.ASCII)
_PLAIN = re.compile(r"([^{}]*)\{\{ (\w+) \}\}")  # a directive that needs no Jinja
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@functools.cache
def _environment(comments: bool = False) -> jinja2.Environment:
    import jinja2

    # bash's ${#array[@]} would open a comment: in bodies the comment delimiters are {=# and #=}
    delimiters = {} if comments else {"comment_start_string": "{=#", "comment_end_string": "#=}"}
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        cache_size=0,
        **delimiters,  # type: ignore[arg-type]
    )
    environment.filters["sh"] = shlex.quote
    for converter in (units.clock, units.day_clock, units.minutes, units.hour_minutes):
        environment.filters[converter.__name__] = converter
    return environment


@functools.lru_cache(maxsize=1024)
def _compiled(text: str, comments: bool) -> jinja2.Template:
    source = text if comments or "{% raw" in text else _NO_BLOCK.sub("{{ '{%' }}", text)
    return _environment(comments).from_string(source)


def _compile(text: str, where: str, comments: bool = False) -> jinja2.Template:
    import jinja2

    try:
        return _compiled(text, comments)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(
            f"{where}, line {error.lineno}: {error.message}. Bodies are Jinja templates; pass "
            "verbatim=True for one that is not"
        ) from None


def render_text(text: str, variables: Mapping[str, Any], where: str) -> str:
    """Render a template that a user wrote; ``where`` names it in errors.

    Raises :class:`RenderError` for bad syntax, and for a name that is not in ``variables``, with
    its line and the known names.
    """
    if not _SYNTAX.search(text):
        return text
    return _render(_compile(text, where), variables, where)


def _render(template: jinja2.Template, variables: Mapping[str, Any], where: str) -> str:
    import jinja2

    try:
        return template.render(variables)
    except SettingsError:
        raise
    except jinja2.UndefinedError as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == "<template>"
        ]
        name = next(iter(re.findall(r"'([^']+)' is undefined", str(error))), "")
        hint = suggest(name, (key for key in variables if not key.startswith("_"))) if name else ""
        if where.startswith("[Directives]"):
            hint = f" Give it a value in [Attributes] of the profile: {name} = ..."
        raise RenderError(f"{where}, line {lines[-1] if lines else '?'}: {error}.{hint}") from None
    except Exception as error:  # whatever a filter or an expression of the user's raises
        raise RenderError(f"{where}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Script:
    """What one submission needs besides its directives."""

    token: str
    runs: str  # absolute folder of the batch on the scheduler's host
    workdir: str
    body: str  # rendered
    shell: str = "/bin/bash"
    guards: Sequence[str] = ()  # exit records that must say exit=0
    inputs: Sequence[tuple[str, str]] = ()  # path in the workdir, sha256
    after: Sequence[str] = ()  # job ids
    attributes: Mapping[str, Any] = field(default_factory=dict)


def render_script(backend: Backend, resources: Mapping[str, Any], script: Script) -> str:
    """Render the script that is handed to the scheduler.

    Raises :class:`ResourcesNotSupportedError` for a common resource the backend has no directive
    for, :class:`SettingsError` for values that cannot stand in a directive, :class:`RenderError`
    for templates that cannot be rendered.
    """
    body, interpreter = split_shebang(script.body, script.shell)
    hidden = bool(
        backend.general["scan"] and re.search(backend.general["scan"], body, re.MULTILINE)
    )
    if hidden:
        body = "|" + body.replace("\n", "\n|")
    frame = _frame(
        backend,
        script,
        resources.get("time"),
        resources.get("jobname") is not None,
        hidden,
        interpreter,
    )
    lines = [
        frame.line.replace(_DIRECTIVE, line)
        for line in directives(backend, resources, script.after, script.attributes)
    ]
    top = (
        frame.top
        + "".join(lines)
        + frame.middle.replace(_NAME, shlex.quote(str(resources.get("jobname"))))
    )
    return (
        top.replace(_TOKEN, script.token)
        + body.removesuffix("\n")
        + frame.bottom.replace(_TOKEN, script.token)
    )


_TOKEN, _NAME, _DIRECTIVE, _BODY = (
    f"cj{word}jc9f3a" for word in ("TOKEN", "NAME", "DIRECTIVE", "BODY")
)


@dataclass(frozen=True)
class Frame:
    """A rendered script with gaps: jobs that differ in name, directives and body alone share it."""

    top: str
    line: str  # of one directive
    middle: str
    bottom: str


_frames: dict[Any, tuple[Backend, Frame]] = {}


def _frame(
    backend: Backend,
    script: Script,
    time: int | None,
    named: bool,
    hidden: bool,
    interpreter: tuple[str, ...],
) -> Frame:
    key = (
        id(backend),
        script.runs,
        script.workdir,
        time,
        named,
        hidden,
        interpreter,
        tuple(script.guards),
        tuple(script.inputs),
    )
    found = _frames.get(key)
    if found is None or found[0] is not backend:
        text = _template(backend).render(
            directives=[_DIRECTIVE],
            token=_TOKEN,
            runs=script.runs,
            workdir=script.workdir,
            time=time,
            jobname=_NAME if named else None,
            variables=_variables(backend),
            guards=script.guards,
            inputs=script.inputs,
            forward=backend.general["forward"],
            hidden=hidden,
            body=_BODY,
            interpreter=interpreter,
        )
        head, _, bottom = text.partition(_BODY)
        match = re.search(rf"^.*{_DIRECTIVE}.*\n", head, re.MULTILINE)
        if match is None or not bottom or head.count(_DIRECTIVE) != 1:
            raise RenderError(
                f"the template {backend.general['template']} needs one line for a directive, in a "
                "loop over 'directives', and 'wrapper'"
            )
        if len(_frames) > 1000:
            _frames.clear()
        found = _frames[key] = (
            backend,
            Frame(head[: match.start()], match[0], head[match.end() :], bottom),
        )
    return found[1]


_template_cache: dict[int, tuple[Backend, jinja2.Template]] = {}


def _template(backend: Backend) -> jinja2.Template:
    """Return the backend's template with everything but the directives put in the place of ``{{
    wrapper }}``.
    """
    found = _template_cache.get(id(backend))
    if found is None or found[0] is not backend:
        wrapper = (Path(__file__).parent / "job.sh.j2").read_text(encoding="utf-8")
        text = backend.template.replace("{{ wrapper }}", wrapper)
        found = _template_cache[id(backend)] = (
            backend,
            _compile(text, f"the template {backend.general['template']}", True),
        )
    return found[1]


def split_shebang(body: str, shell: str) -> tuple[str, tuple[str, ...]]:
    """Return the body with a shebang, and the interpreter's words as the kernel would take them
    (execve(2)): one argument at most.
    """
    if "\0" in body:
        raise RenderError("the body contains a NUL character, which no shell can read")
    if not body.startswith("#!"):
        body = f"#!{shell}\n{body}"
    line = body[2:].split("\n", 1)[0].strip()
    if not line:
        raise RenderError("line 1 of the body: '#!' names no interpreter")
    return body, tuple(line.split(None, 1))


def _variables(backend: Backend) -> list[tuple[str, str]]:
    values = []
    for name, value in backend.variables.items():
        plain = re.fullmatch(r"\w+", value)
        values.append(
            (name, f"${{{value}-}}" if plain else f'"{value}"' if value.startswith("${") else value)
        )
    return values


def derived(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return what directives may use besides the resources: ``cores`` of a node, ``slots`` of all,
    ``tasks`` of all, and so on.
    """
    nodes, ppn, threads = (int(resources.get(name) or 1) for name in ("nodes", "ppn", "threads"))
    mem = resources.get("mem")
    return {
        "cores": ppn * threads,
        "slots": nodes * ppn * threads,
        "tasks": nodes * ppn,
        "mem_total": None if mem is None else mem * nodes,
        "mem_per_core": None if mem is None else -(-mem // (ppn * threads)),
    }


def directives(
    backend: Backend,
    resources: Mapping[str, Any],
    after: Sequence[str] = (),
    attributes: Mapping[str, Any] | None = None,
) -> list[str]:
    """Translate resources to the scheduler's options, one string each, in the order of the
    backend's file.

    Common resources go through [Directives]; all others are passed on as the scheduler's own
    options.
    """
    known = {name for directive in backend.directives for name in directive.resources}
    given = {name: value for name, value in resources.items() if value is not None}
    if after:
        given["after"] = list(after)
    for name in given:
        if name not in known and (name in COMMON_RESOURCES or name == "after"):
            raise ResourcesNotSupportedError(
                f"backend {backend.name!r} has no directive for {name!r} ({given[name]!r}). Leave "
                "it out, or give the profile a line "
                f"'{name} = ...' in [Directives] (empty to drop it)"
            )
    lines = []
    extra = derived(given)
    for directive in backend.directives:
        if directive.template and not given.keys().isdisjoint(directive.resources):
            wanted = {name: given.get(name) for name in directive.resources}
            lines.append(_directive(backend, directive.template, wanted, extra, attributes or {}))
    lines += [
        line
        for name, value in given.items()
        if name not in known
        if (line := _option(backend, name, value))
    ]
    return [line for line in lines if line.strip()]


def _directive(
    backend: Backend,
    template: str,
    wanted: Mapping[str, Any],
    extra: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> str:
    """Render one directive; everything filled in is quoted for the place it stands in."""
    quote = _quoter(backend.general["quoting"])
    if (
        (match := _PLAIN.fullmatch(template))
        and isinstance(value := wanted.get(match[2]), str)
        and match[2] != "array"
    ):
        return match[1] + quote(value)
    key = (
        (id(backend), template, *wanted.values(), *attributes.items())
        if "after" not in wanted
        else None
    )
    if (
        key is not None
        and (known := _directive_cache.get(key)) is not None
        and known[0] is backend
        and known[1] == extra
    ):
        return known[2]
    text = _render_directive(backend, template, wanted, extra, attributes, quote)
    if key is not None and len(_directive_cache) < 10_000:
        _directive_cache[key] = (backend, extra, text)
    return text


_directive_cache: dict[Any, tuple[Backend, Mapping[str, Any], str]] = {}


def _render_directive(
    backend: Backend,
    template: str,
    wanted: Mapping[str, Any],
    extra: Mapping[str, Any],
    attributes: Mapping[str, Any],
    quote: Callable[[str], str],
) -> str:
    context: dict[str, Any] = {
        **dict.fromkeys(COMMON_RESOURCES),
        "array_max": None,
        **attributes,
        **extra,
    }
    context |= {
        name: Quoted(value, quote) if isinstance(value, str) else value
        for name, value in wanted.items()
    }
    if "array" in wanted and isinstance(wanted["array"], str):
        context["array"], _, throttle = wanted["array"].partition("%")
        context["array_max"] = throttle or None
        if backend.general["array_lists"] == "no" and "," in context["array"]:
            raise ResourcesNotSupportedError(
                f"backend {backend.name!r} takes one range in 'array', not the list "
                f"{context['array']!r}"
            )
    where = f"[Directives] {', '.join(wanted)} of backend {backend.name!r}"
    return _render(_finalizing(template, where), context, where)


class Quoted(str):
    """A user's word on its way into a directive; ``finalize`` quotes it when it is written out."""

    quote: Callable[[str], str]

    def __new__(cls, value: str, quote: Callable[[str], str]) -> Quoted:
        word = super().__new__(cls, value)
        word.quote = quote
        return word


@functools.lru_cache(maxsize=512)
def _finalizing(text: str, where: str) -> jinja2.Template:
    import jinja2

    environment = _environment().overlay()
    environment.finalize = lambda value: value.quote(value) if isinstance(value, Quoted) else value
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(f"{where}: {error.message}") from None


@functools.cache
def _quoter(style: str) -> Callable[[str], str]:
    def quote(text: str) -> str:
        if _SAFE.fullmatch(text):
            return text
        if _CONTROL.search(text):
            raise SettingsError(
                f"{text!r} cannot stand in a directive: it has a line break or another control "
                "character"
            )
        if style == "refuse":
            raise SettingsError(
                f"{text!r} cannot stand in a directive of this scheduler: use letters, digits and "
                "_ @ % + = : , . / ^ * ~ -"
            )
        if style == "posix":
            return shlex.quote(text)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return quote


def _option(backend: Backend, name: str, value: Any) -> str:
    """Write a resource that is no common one as the scheduler's own option, as it stands."""
    if value is False:
        return ""
    text = str(value)
    if (
        _CONTROL.search(text)
        or _CONTROL.search(name)
        or (" " in name.strip() and not name.startswith("-"))
    ):
        raise SettingsError(
            f"resource {name!r} = {text!r} cannot stand in a directive: it has a line break or "
            "another control character"
        )
    if name.startswith("-"):
        separator = "=" if name.startswith("--") and "=" in backend.general["option"] else " "
        return name if value is True or not text else f"{name}{separator}{text}"
    if len(name) == 1:
        return f"-{name}" if value is True else f"-{name} {text}"
    key = name.replace("_", backend.general["underscore"])
    form = backend.general["flag"] if value is True else backend.general["option"]
    return form.replace("{key}", key).replace("{value}", text)


def parse_array(spec: str) -> list[int]:
    """Return the indices of an array: ``"0-9"``, ``"1-10:2"``, ``"1,5,7-9"``, each with an optional
    ``%max_running``.

    Raises :class:`SettingsError` for anything else.
    """
    match = re.fullmatch(
        r"((?:\d+(?:-\d+(?::\d+)?)?)(?:,\d+(?:-\d+(?::\d+)?)?)*)(?:%[1-9]\d*)?", spec
    )
    if not match:
        raise SettingsError(
            f"{spec!r} is not an array: expected for example '1-10', '0-98:2' or '1,5,7-9', and "
            "'%4' for at most 4 at once"
        )
    indices: dict[int, None] = {}
    for part in match[1].split(","):
        first, last, step = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part).groups()  # type: ignore[union-attr]
        if int(step or 1) < 1 or int(last or first) < int(first):
            raise SettingsError(f"{part!r} in the array {spec!r} is empty or has no step")
        indices.update(dict.fromkeys(range(int(first), int(last or first) + 1, int(step or 1))))
    return list(indices)
