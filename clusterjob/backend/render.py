"""From a backend, resources and a body to the script that is submitted.

Pure: the dry run, the tests and the submission call the same function.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clusterjob.backend.directives import Dependencies, DirectiveWriter
from clusterjob.backend.model import Backend
from clusterjob.backend.resources import ResourceValue
from clusterjob.backend.templates import compile_template
from clusterjob.errors import RenderError
from clusterjob.status import Dependency

if TYPE_CHECKING:
    import jinja2

_WRAPPER, _BUNDLE = (
    Path(__file__).parent / f"{name}.sh.j2" for name in ("job", "bundle")
)
_MOST_FRAMES = 1000
_LAST_LINE = 'cj_end "$cj_code"'  # of the script of a job
_SMALL = 600  # characters of a body that the shell itself writes faster than a process would
# what stands in the gaps of a frame; nobody writes such words
_TOKEN, _NAME, _DIRECTIVE, _BODY = (
    f"cj{word}jc9f3a" for word in ("TOKEN", "NAME", "DIRECTIVE", "BODY")
)
# what is a job's own of the script that an element of an array runs: the rest is job.sh.j2
_OWN_PART = """\
cj_token={token}
cj_runs={folder}
cj_jobname={name}
CLUSTERJOB_WORKDIR={workdir}
cj_logs() {{ cj_out={out}; cj_err={err}; }}
cj_write_body() {{
{writer} >"$cj_body" <<'CLUSTERJOB_BODY_{token}' || cj_unwritten
{body}
CLUSTERJOB_BODY_{token}
}}
{end}
"""
_LAST_LINE_OF_OWN = ": that is all"
_LINE_BY_LINE = (
    "while IFS= read -r cj_line; do printf '%s\\n' \"$cj_line\" || cj_unwritten; done"
)
# where the logs of an element are, that the user did not name: see job.sh.j2
_OWN_LOGS = ('"${cj_record%.exit}".out', '"${cj_record%.exit}".err')


class Guard(NamedTuple):
    """What a job must have come to before another one begins: its exit records tell.

    For ``AFTER_CORRESPONDING`` those of ``elements``: a pattern of their indices, and the path
    without index and ``.exit``.
    """

    how: Dependency
    records: tuple[str, ...]
    elements: tuple[tuple[str, str], ...] = ()


class Script(NamedTuple):
    """What one submission needs besides its directives."""

    token: str
    folder: str  # of the batch, absolute, on the scheduler's host
    workdir: str
    body: str  # rendered
    shell: str = "/bin/bash"
    setup: str = ""  # rendered; the shell runs it before the body
    guards: Sequence[Guard] = ()  # what the job itself looks at before it begins
    inputs: Sequence[tuple[str, str]] = ()  # path in the workdir, sha256
    after: Dependencies | None = None
    attributes: Mapping[str, object] = {}
    by_hand: bool = False  # a person submits it, perhaps several times
    is_element: bool = False  # an element of an array runs it
    is_packed: bool = False  # and others besides
    # of an array: the elements that run, where the scheduler starts more than these
    due: tuple[int, ...] = ()
    # of an array: the file with the variables of each element, a line each, and their names
    rows: str = ""
    row_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArrayOfJobs:
    """What the submission of several single jobs needs besides its directives."""

    token: str
    file: str  # that has the jobs' scripts, absolute, on the scheduler's host
    base: str  # how the names of other files of it begin, likewise
    # of each its place in its pack; the first and the last line of its own part in the file; the
    # same of what it has in common with others, unless all have that in common. By the index of
    # the element
    parts: Mapping[int, Sequence[tuple[int, ...]]]
    common: str = ""  # what all have in common
    after: Dependencies | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    pack: bool = False  # each element runs several, so many at a time
    slots: int = 1
    limit: int | None = None  # s, of each


@dataclass(frozen=True)
class _Frame:
    """A rendered script with gaps: jobs that differ in name, directives and body share it."""

    top: str
    line: str  # of one directive
    middle: str
    bottom: str


class Renderer:
    """Renders scripts for one backend. It keeps what jobs have in common, not the jobs."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._directives = DirectiveWriter(backend)
        self._frames: dict[tuple[object, ...], _Frame] = {}

    def render(
        self, resources: Mapping[str, ResourceValue | None], script: Script
    ) -> str:
        """Return the script that is handed to the scheduler.

        Raises :class:`ResourcesNotSupportedError` for a common resource the backend has no
        directive for, :class:`SettingsError` for values that cannot stand in a directive,
        :class:`RenderError` for templates that cannot be rendered.
        """
        frame, body = self._frame_and_body(resources, script)
        directives = self._directives.write(
            resources, script.after, script.attributes
        )
        lines = [
            frame.line.replace(_DIRECTIVE, directive) for directive in directives
        ]
        name = shlex.quote(str(resources.get("jobname")))
        top = frame.top + "".join(lines) + frame.middle.replace(_NAME, name)
        bottom = frame.bottom.replace(_TOKEN, script.token)
        return top.replace(_TOKEN, script.token) + body + bottom

    def render_element(
        self, resources: Mapping[str, ResourceValue | None], script: Script
    ) -> tuple[str, str]:
        """Return the script of a job that an element of an array runs, in two parts: what is its
        own, and what it has in common with others. It has no directives.

        Raises :class:`RenderError`.
        """
        frame, body = self._frame_and_body(resources, script)
        out, err = self._element_logs(resources)
        own = _OWN_PART.format(
            token=script.token,
            folder=shlex.quote(script.folder),
            workdir=shlex.quote(script.workdir),
            name=shlex.quote(str(resources.get("jobname"))),
            out=out,
            err=err,
            writer=_LINE_BY_LINE if len(body) <= _SMALL else "cat",
            body=body,
            end=_LAST_LINE_OF_OWN,
        )
        return own, frame.middle

    def render_array(
        self, resources: Mapping[str, ResourceValue | None], array: ArrayOfJobs
    ) -> str:
        """Return the script of an array of single jobs; raises what :meth:`render` does."""
        directives = self._directives.write(resources, array.after, array.attributes)
        index = self.backend.variables["CLUSTERJOB_ARRAY_INDEX"]
        return self._array_template.render(
            directives=directives,
            token=array.token,
            file=array.file,
            index=_shell_value(index),
            parts=array.parts.items(),
            common=array.common,
            pack=array.pack,
            slots=array.slots,
            limit=array.limit or "",
            base=array.base,
            forward=self._forwarded(resources),
            ends=(_LAST_LINE_OF_OWN, _LAST_LINE),
            shared=self._directives.shared(resources),
        )

    def _element_logs(
        self, resources: Mapping[str, ResourceValue | None]
    ) -> tuple[str, str]:
        """Return the shell words for the logs of an element, which opens them itself."""
        words = []
        for name, own in zip(("stdout", "stderr"), _OWN_LOGS, strict=True):
            path = resources.get(name)
            words.append(self._expand_log(str(path)) if path else own)
        if resources.get("stderr") == "":  # it goes to the other
            words[1] = words[0]
        return words[0], words[1]

    def _expand_log(self, path: str) -> str:
        """Return the shell word for a log that the user named, as the scheduler would read it."""
        values = {"{id}": '"$CLUSTERJOB_ID"', "{name}": '"$CLUSTERJOB_NAME"'}
        signs = dict(self.backend.general.patterns)
        if not signs:
            return shlex.quote(path)
        parts = re.split(f"({'|'.join(map(re.escape, signs))})", path)
        return "".join(
            values.get(signs[part], "") if part in signs else shlex.quote(part)
            for part in parts
            if part
        )

    def _frame_and_body(
        self, resources: Mapping[str, ResourceValue | None], script: Script
    ) -> tuple[_Frame, str]:
        body, interpreter = split_shebang(script.body, script.shell)
        hidden = not script.is_element and self._hides_from_scheduler(body)
        if hidden:
            body = "|" + body.replace("\n", "\n|")
        name = resources.get("jobname")
        logs = (resources.get("stdout"), resources.get("stderr"))
        frame = self._frame(
            script,
            resources.get("time"),
            name is not None,
            hidden,
            interpreter,
            self._directives.shared(resources),
            len(body) <= _SMALL and not script.is_element,
            self._forwarded(resources),
            script.is_element and logs != (None, None),
        )
        return frame, body.removesuffix("\n")

    def _hides_from_scheduler(self, body: str) -> bool:
        """Whether the scheduler would take lines of the body for directives."""
        scan = self.backend.general.scan
        return (
            scan is not None
            and re.search(scan.pattern, body, re.MULTILINE) is not None
        )

    def _forwarded(self, resources: Mapping[str, ResourceValue | None]) -> str:
        """Return the signals that the scheduler sends to the script alone."""
        general = self.backend.general
        found = general.forward
        if general.forward_option is None:
            return found
        for name, value in resources.items():
            match = general.forward_option.match(f"{name.lstrip('-')}={value}")
            if match is not None and match[1] not in found.split():
                found += f" {match[1]}"
        return found

    def _frame(
        self,
        script: Script,
        time: ResourceValue | None,
        named: bool,
        hidden: bool,
        interpreter: tuple[str, ...],
        shared: Mapping[str, str],
        is_small: bool,
        forward: str,
        has_named_logs: bool,
    ) -> _Frame:
        guards, inputs = tuple(script.guards), tuple(script.inputs)
        place = () if script.is_element else (script.folder, script.workdir)
        key = (
            place,
            script.by_hand,
            script.setup and (script.setup, script.shell),
            time,
            named,
            hidden,
            interpreter,
            guards,
            inputs,
            tuple(shared.items()),
            is_small,
            forward,
            script.is_element,
            script.is_packed,
            script.due,
            script.rows,
            script.row_names,
            has_named_logs,
        )
        frame = self._frames.get(key)
        if frame is None:
            template = self._element_template if script.is_element else self._template
            text = template.render(
                directives=[_DIRECTIVE],
                token=_TOKEN,
                runs=script.folder,
                workdir=script.workdir,
                time=time,
                jobname=_NAME if named else None,
                variables=self._variables,
                guards=guards,
                inputs=inputs,
                forward=forward,
                started=self.backend.general.started,
                node=self.backend.general.node,
                hidden=hidden,
                body=_BODY,
                interpreter=interpreter,
                by_hand=script.by_hand,
                setup=script.setup,
                shell=script.shell,
                shared=shared,
                body_is_small=is_small,
                element=self._element_id if script.is_element else "",
                packed=script.is_packed,
                has_named_logs=has_named_logs,
                due=script.due,
                rows=script.rows,
                row_names=script.row_names,
                element_variables=self._element_variables,
            )
            frame = self._cut(text, script.is_element)
            if len(self._frames) >= _MOST_FRAMES:
                self._frames.clear()
            self._frames[key] = frame
        return frame

    def _cut(self, text: str, is_element: bool) -> _Frame:
        """Cut a rendered script at its gaps."""
        if is_element:  # the gaps are in its other part
            return _Frame("", "", text.rstrip("\n") + "\n", "")
        head, _, bottom = text.partition(_BODY)
        match = re.search(rf"^.*{_DIRECTIVE}.*\n", head, re.MULTILINE)
        if match is None or not bottom or head.count(_DIRECTIVE) != 1:
            raise RenderError(
                f"the template {self.backend.general.template} needs one line for a directive, "
                "in a loop over 'directives', and 'wrapper'"
            )
        return _Frame(head[: match.start()], match[0], head[match.end() :], bottom)

    @functools.cached_property
    def _template(self) -> jinja2.Template:
        """The backend's template, with all but the directives in the place of ``{{ wrapper }}``."""
        return self._compile(self.backend.template, _WRAPPER)

    @functools.cached_property
    def _array_template(self) -> jinja2.Template:
        return self._compile(self.backend.template, _BUNDLE)

    @functools.cached_property
    def _element_template(self) -> jinja2.Template:
        return self._compile("{{ wrapper }}\n", _WRAPPER)

    def _compile(self, text: str, wrapper: Path) -> jinja2.Template:
        text = text.replace("{{ wrapper }}", wrapper.read_text(encoding="utf-8"))
        where = f"the template {self.backend.general.template}"
        return compile_template(text, where, self.backend.general.quoting)

    @functools.cached_property
    def _element_id(self) -> str:
        """The shell text of what the scheduler calls an element, made of the array's id."""
        return (
            self.backend.bundles.id.replace("{id}", "${CLUSTERJOB_ID%%[!0-9]*}")
            .replace("{task}", "$CLUSTERJOB_ARRAY_INDEX")
            .replace("{process}", "$((CLUSTERJOB_ARRAY_INDEX - 1))")
        )

    @functools.cached_property
    def _element_variables(self) -> list[tuple[str, str | None]]:
        """The scheduler's variables that are not as they are in a job that goes alone: None where
        there is none.
        """
        bundles = self.backend.bundles
        name = self.backend.variables.get("CLUSTERJOB_NAME", "")
        found = [
            (variable, value and shlex.quote(value))
            for variable, value in bundles.unset
        ]
        if re.fullmatch(r"\w+", name):
            found.append((name, "$CLUSTERJOB_NAME"))
        if bundles.submit_dir:
            found.append((bundles.submit_dir, "$CLUSTERJOB_WORKDIR"))
        return found

    @functools.cached_property
    def _variables(self) -> list[tuple[str, str]]:
        """The variables that a body sees, as the shell words that give them their values."""
        return [
            (name, _shell_value(value))
            for name, value in self.backend.variables.items()
        ]


def _shell_value(value: str) -> str:
    if re.fullmatch(r"\w+", value):  # the name of a variable, which may be unset
        return f"${{{value}-}}"
    return f'"{value}"' if value.startswith("${") else value


def split_shebang(body: str, shell: str) -> tuple[str, tuple[str, ...]]:
    """Return the body with a shebang, and the interpreter's words as the kernel would take them.

    That is one argument at most (execve(2)). Raises :class:`RenderError`.
    """
    if "\0" in body:
        raise RenderError(
            "the body contains a NUL character, which no shell can read"
        )
    if not body.startswith("#!"):
        body = f"#!{shell}\n{body}"
    line = body[2:].split("\n", 1)[0].strip()
    if not line:
        raise RenderError("line 1 of the body: '#!' names no interpreter")
    return body, tuple(line.split(None, 1))
