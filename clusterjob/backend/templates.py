"""Jinja, as bodies and backends use it: a closed vocabulary, errors with the line, and quoting.

jinja2 is loaded where the first template is met.
"""

from __future__ import annotations

import functools
import logging
import re
import shlex
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from clusterjob import units
from clusterjob.backend.model import Quoting
from clusterjob.backend.resources import parse_array
from clusterjob.errors import RenderError, SettingsError, suggest

if TYPE_CHECKING:
    import jinja2

_log = logging.getLogger(__name__)
_told_unused: set[tuple[str, ...]] = set()
_BLOCKS = """
    if elif else endif for endfor set endset macro endmacro call endcall filter endfilter
    block endblock raw endraw with endwith include import from extends do break continue
    autoescape endautoescape
"""
_SYNTAX = re.compile(r"\{\{|\{%|\{=#")
_NO_BLOCK = re.compile(r"\{%(?![-+]?\s*(?:" + "|".join(_BLOCKS.split()) + r")\b)")
_BLOCK_LINE = re.compile(
    r"^[ \t]*((?:\{%(?:(?!%\})[^\n])*%\}[ \t]*|\{=#(?:(?!#=\})[^\n])*#=\}[ \t]*)+)\n",
    re.MULTILINE,
)
_RAW = re.compile(r"(\{%[-+]?\s*raw\b.*?\bendraw\s*[-+]?%\})", re.DOTALL)
_SAFE = re.compile(r"[\w@%+=:,./^*~-]*", re.ASCII)
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@functools.cache
def _environment(comments: bool = False) -> jinja2.Environment:
    """Return the environment of bodies, or with ``comments`` that of backends' templates."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        # in bodies a line break goes with a line of nothing but blocks: see _source
        trim_blocks=comments,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        cache_size=0,
        # bash's ${#array[@]} would open a comment: in bodies the delimiters are {=# and #=}
        comment_start_string="{#" if comments else "{=#",
        comment_end_string="#}" if comments else "#=}",
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["indices"] = _indices
    for converter in (
        units.clock,
        units.day_clock,
        units.minutes,
        units.hour_minutes,
    ):
        environment.filters[converter.__name__] = converter
    return environment


def _indices(array: str) -> str:
    """Write the indices of an array one by one."""
    return " ".join(map(str, parse_array(str(array))))


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> jinja2.Template:
    return _environment().from_string(_source(text))


def _source(text: str) -> str:
    """Return the template that a body stands for.

    A line of blocks alone leaves nothing, not even a line break; one that merely ends with a block
    keeps its own, or the next command would be part of it.
    """
    parts = _RAW.split(text)
    parts[::2] = [
        _NO_BLOCK.sub("{{ '{%' }}", _BLOCK_LINE.sub(_without_break, part))
        for part in parts[::2]
    ]
    return "".join(parts)  # printf's {%s} opens no block


def _without_break(match: re.Match[str]) -> str:
    return f"{match[1].rstrip()}{{=#\n#=}}"  # a comment: lines are counted in errors


def compile_template(
    text: str, where: str, quoting: Quoting | None = None
) -> jinja2.Template:
    """Compile a template; ``where`` names it in errors.

    That of a backend says how words are quoted in its directives, by the filter ``word``. Raises
    :class:`RenderError`.
    """
    import jinja2

    try:
        if quoting is not None:
            environment = _environment(comments=True).overlay()
            environment.filters = {**environment.filters, "word": quoter(quoting)}
            return environment.from_string(text)
        return _compiled(text)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(
            f"{where}, line {error.lineno}: {error.message}. "
            "Bodies are Jinja templates; pass verbatim=True for one that is not"
        ) from None
    except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
        what = str(error) or type(error).__name__
        raise RenderError(
            f"{where} is no template that can be read: {what}"
        ) from None


def render_text(text: str, variables: Mapping[str, object], where: str) -> str:
    """Render a template that a user wrote; ``where`` names it in errors.

    Raises :class:`RenderError` for bad syntax, and for a name that is not in ``variables``, with
    its line and the known names.
    """
    if not _SYNTAX.search(text):
        return text
    return render_template(compile_template(text, where), variables, where)


def warn_of_unused(name: str, unused: tuple[str, ...]) -> None:
    """Say in the log that nothing in a job uses some of its parameters; once for many such jobs."""
    if unused in _told_unused:
        return
    _told_unused.add(unused)
    _log.warning(
        "job %r: no template uses %s; is it a slip? (A resource or attribute is set by its own "
        "name.)",
        name,
        ", ".join(map(repr, unused)),
    )


def check_braces(text: str, names: Iterable[str], where: str) -> None:
    """Refuse variables in single braces, as they were written until 2018.

    Raises :class:`RenderError`. Only scripts of shell are looked at: other languages have braces.
    """
    if "{" not in text or (
        text.startswith("#!") and "sh" not in text.split("\n", 1)[0]
    ):
        return
    match = _single_braces(tuple(names)).search(text)
    if match is not None:
        line = text.count("\n", 0, match.start()) + 1
        raise RenderError(
            f"{where}, line {line}: {match[0]} is how the clusterjob of 2018 wrote a variable; now "
            f"it is {{{{ {match[1]} }}}}. For a text that is no template pass verbatim=True"
        )


@functools.lru_cache(maxsize=16)
def _single_braces(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![{{$])\{{({'|'.join(names)})\}}(?!\}})")


@functools.lru_cache(maxsize=1024)
def names_in(text: str) -> frozenset[str] | None:
    """Return the variables that a template uses; None where that cannot be told."""
    if not _SYNTAX.search(text):
        return frozenset()
    import jinja2
    from jinja2 import meta

    try:
        tree = _environment().parse(_source(text))
    except jinja2.TemplateSyntaxError:
        return None
    if any(True for _ in meta.find_referenced_templates(tree)):
        return None
    return frozenset(meta.find_undeclared_variables(tree))


def render_template(
    template: jinja2.Template, variables: Mapping[str, object], where: str
) -> str:
    """Fill in a template. Raises :class:`RenderError`."""
    import jinja2

    try:
        return template.render(variables)
    except SettingsError:
        raise
    except jinja2.UndefinedError as error:
        raise _undefined_error(error, variables, where) from None
    # whatever a filter or an expression of the user's raises
    except Exception as error:
        raise RenderError(f"{where}: {type(error).__name__}: {error}") from error


def _undefined_error(
    error: jinja2.UndefinedError, variables: Mapping[str, object], where: str
) -> RenderError:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == "<template>"]
    line = lines[-1] if lines else "?"
    names = re.findall(r"'([^']+)' is undefined", str(error))
    name = names[0] if names else ""
    hint = ""
    if where.startswith("[Directives]"):
        hint = f" Give it a value in [Attributes] of the profile: {name} = ..."
    elif name:
        hint = suggest(name, (key for key in variables if not key.startswith("_")))
        hint += f" (A variable of the shell is ${{{name}}}, with single braces.)"
    return RenderError(f"{where}, line {line}: {error}.{hint}")


# -- quoting in directives -------------------------------------------------------------------------


class Quoted(str):
    """A user's word on its way into a directive; ``finalize`` quotes it when it is written out."""

    quote: Callable[[str], str]

    def __new__(cls, value: str, quote: Callable[[str], str]) -> Quoted:
        word = super().__new__(cls, value)
        word.quote = quote
        return word


@functools.lru_cache(maxsize=512)
def compile_directive(text: str, where: str) -> jinja2.Template:
    """Compile the template of a directive, which quotes what is :class:`Quoted`."""
    import jinja2

    environment = _environment().overlay(trim_blocks=True)
    environment.finalize = _quote_when_written
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(f"{where}: {error.message}") from None


def _quote_when_written(value: object) -> object:
    return value.quote(value) if isinstance(value, Quoted) else value


@functools.cache
def quoter(style: Quoting) -> Callable[[str], str]:
    """Return the function that quotes a word for a directive; it raises :class:`SettingsError`."""

    def quote(text: str) -> str:
        if _SAFE.fullmatch(text):
            return text
        if CONTROL_CHARACTERS.search(text):
            raise SettingsError(
                f"{text!r} cannot stand in a directive: "
                "it has a line break or another control character"
            )
        if style is Quoting.REFUSE:
            raise SettingsError(
                f"{text!r} cannot stand in a directive of this scheduler: "
                "use letters, digits and _ @ % + = : , . / ^ * ~ -"
            )
        if style is Quoting.LINE:
            if "$" in text or text.endswith("\\") or text != text.strip():
                raise SettingsError(
                    f"{text!r} cannot stand in a directive of this scheduler: it takes no $, "
                    "no backslash at the end, no blanks around it"
                )
            return text
        if style is Quoting.POSIX:
            return shlex.quote(text)
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return quote
