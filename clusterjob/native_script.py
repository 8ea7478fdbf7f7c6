"""Scripts that people wrote for one scheduler, as jobs for any."""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from clusterjob.backend import (
    Backend,
    NativeOption,
    ResourceValue,
    directive_lines,
    find_dialect,
    load_backend,
    read_native,
    same_dialect,
    without_directives,
)
from clusterjob.errors import SettingsError
from clusterjob.plain_files import read_text
from clusterjob.shell import lines_of

_DEPENDENCY = re.compile(r"--dependency|-hold_jid|-W depend|-w ")
_LOGS = ("stdout", "stderr")
_SIGN = re.compile(r"[%$^{]")  # may stand for something in the name of a log
_VARIABLE = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)")
# what the backends' own tables do not say
_INSTEAD = {
    **dict.fromkeys(
        ("PBS_O_WORKDIR", "SLURM_SUBMIT_DIR", "SGE_O_WORKDIR", "LS_SUBCWD"),
        "CLUSTERJOB_WORKDIR",
    ),
    **dict.fromkeys(("SGE_TASK_ID", "LSB_JOBINDEX"), "CLUSTERJOB_ARRAY_INDEX"),
    **dict.fromkeys(("PBS_JOBID", "SLURM_JOB_ID", "SLURM_JOBID"), "CLUSTERJOB_ID"),
}


@dataclass(frozen=True)
class NativeScript:
    """What the directives of a script say.

    ``options`` have no common name. ``nearly`` are resources that mean nearly the same as some of
    the options, for another scheduler; ``without`` are the options that those do not cover.
    ``converts``: the user named the dialect, and so may go to another scheduler with it.
    """

    body: str
    dialect: Backend | None = None
    converts: bool = False
    resources: Mapping[str, ResourceValue] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    options: tuple[NativeOption, ...] = ()
    nearly: Mapping[str, ResourceValue] = field(default_factory=dict)
    without: tuple[NativeOption, ...] = ()

    def more_resources(
        self, backend: Backend, given: Mapping[str, object]
    ) -> dict[str, ResourceValue | None]:
        """Return what the script asks a backend for besides ``given``, which counts more.

        None is what it cannot have there.

        Raises :class:`SettingsError` where it was written for another scheduler.
        """
        if self.dialect is None:
            return {}
        if same_dialect(self.dialect, backend):
            own: dict[str, ResourceValue | None] = {
                **_own_options(self.options, given)
            }
            is_merged = self.dialect.native.merges and "stdout" in self.resources
            if is_merged and given.get("stderr") is None:
                own["stderr"] = ""  # no file of its own
            return own
        if not self.converts:
            raise self.other_scheduler_error(backend)
        for option in self.without:
            if _DEPENDENCY.match(str(option)):
                raise SettingsError(
                    f"line {option.line}: {option} makes the job wait for others, whose ids mean "
                    f"nothing to {backend.title}: take it out, and say after=[...] (--after)"
                )
        more: dict[str, ResourceValue | None] = {
            name: value
            for name, value in self.nearly.items()
            if given.get(name) is None
        }
        return more | {
            name: _translated(self.dialect, backend, str(self.resources[name]))
            for name in _LOGS
            if name in self.resources and given.get(name) == self.resources[name]
        }

    def other_scheduler_error(self, backend: Backend) -> SettingsError:
        """Return the error for a script that goes to another scheduler than it was written for."""
        assert self.dialect is not None
        dialect = self.dialect
        return SettingsError(
            f"the script has directives of {dialect.title}, and the job goes to {backend.title}. "
            f"Choose the backend {dialect.name!r} (a profile, or -b {dialect.name}), or have them "
            f"read for another scheduler: dialect={dialect.name!r} in JobScript.from_script, or "
            "--convert"
        )

    def left_out(self, backend: Backend) -> tuple[str, ...]:
        """Return the options that have no equivalent for a backend."""
        if self.dialect is None or same_dialect(self.dialect, backend):
            return ()
        found = [f"{option} (line {option.line})" for option in self.without]
        found += [
            f"{name} in {self.resources[name]!r}, whose signs it does not know"
            for name in _LOGS
            if name in self.resources
            and _translated(self.dialect, backend, str(self.resources[name])) is None
        ]
        return (*found, *_variables_in(self.body, self.dialect, backend))


def read_script(
    script: str, at_hand: str | None = None, dialect: str | None = None
) -> NativeScript:
    """Read the directives of a script; ``at_hand`` names the backend of the job, where known.

    ``dialect`` names the backend that it was written for. Raises :class:`SettingsError`.
    """
    if dialect is not None:
        backend: Backend | None = load_backend(dialect)
    else:
        backend = find_dialect(script, load_backend(at_hand) if at_hand else None)
    if backend is None:
        return NativeScript(script)
    exact = read_native(backend, script)
    loose = read_native(backend, script, convert=True) if dialect else exact
    attributes = dict(exact.attributes)
    shell = attributes.pop("shell", "")
    return NativeScript(
        _with_shell(without_directives(script), shell),
        backend,
        dialect is not None,
        exact.resources,
        attributes,
        tuple(exact.options),
        {
            name: value
            for name, value in loose.resources.items()
            if name not in exact.resources
        },
        tuple(loose.options),
    )


def _translated(dialect: Backend, backend: Backend, name: str) -> str | None:
    """Return the name of a log with the signs of another scheduler for ids, indices and names.

    None where that has no sign for what one stands for.
    """
    meanings = dict(dialect.general.patterns)
    signs = {meaning: sign for sign, meaning in backend.general.patterns}
    parts = [name]
    if meanings:
        parts = re.split(f"({'|'.join(map(re.escape, meanings))})", name)
    found = ""
    for part in parts:
        if part in meanings:
            sign = signs.get(meanings[part])
            if sign is None:
                return None
            found += sign
        elif _SIGN.search(part):
            return None
        else:
            found += part
    return found


def _variables_in(body: str, dialect: Backend, backend: Backend) -> list[str]:
    """Name the variables of a scheduler that a body uses, and that another one does not set."""
    instead = {name: ours for ours, name in dialect.variables.items()}
    found = []
    for name in dict.fromkeys(_VARIABLE.findall(body)):
        if not _is_set(dialect, name) or _is_set(backend, name):
            continue
        ours = instead.get(name) or _INSTEAD.get(name)
        hint = f"; ${ours} is the same under any scheduler" if ours else ""
        found.append(f"${name} in the body, which it does not set{hint}")
    return found


def _is_set(backend: Backend, name: str) -> bool:
    patterns = backend.general.job_variables
    if any(fnmatch.fnmatchcase(f"!{name}", item) for item in patterns):
        return False  # everybody has it
    return any(fnmatch.fnmatchcase(name, item) for item in patterns)


def script_dialect(path: str | os.PathLike[str], at_hand: str | None) -> str | None:
    """Return the name of the backend that a script was written for; None where it says none.

    ``at_hand`` names the backend of the job. Raises :class:`SettingsError`.
    """
    backend = find_dialect(
        script_text(path), load_backend(at_hand) if at_hand else None
    )
    return None if backend is None else backend.name


def _with_shell(body: str, shell: str) -> str:
    """Let a script run by the shell that a directive named, which counts more than a shebang."""
    if not shell:
        return body
    first, _, rest = body.partition("\n")
    return f"#!{shell}\n{rest if first.startswith('#!') else body}"


def _own_options(
    options: tuple[NativeOption, ...], given: Mapping[str, object]
) -> dict[str, ResourceValue]:
    """Return options under the names that pass them on as they stand."""
    named = {name.lstrip("-").replace("_", "-") for name in given}
    return {
        option.name: True if option.value is None else option.raw
        for option in options
        if option.name.lstrip("-") not in named
    }


def check_no_directives(body: str, backend: Backend, label: str) -> None:
    """Refuse a body with directives at its head: nobody would read them.

    Raises :class:`SettingsError`.
    """
    if not body.startswith("#"):
        return
    dialect = _dialect_of(_head(body), backend)
    if dialect is None:
        return
    line, text = directive_lines(dialect.native, body)[0]
    raise SettingsError(
        f"line {line} of the body of job {label!r} is a directive of {dialect.title} "
        f"({text.strip()!r}), which nobody would read there. JobScript.from_script(path) reads a "
        "script with its directives; or give them as resources, and take them out of the body"
    )


@functools.lru_cache(maxsize=256)
def _dialect_of(head: str, backend: Backend) -> Backend | None:
    return find_dialect(head, backend)


def _head(body: str) -> str:
    lines = []
    for line in lines_of(body):
        if line.strip() and not line.lstrip().startswith("#"):
            break
        lines.append(f"{line}\n")
    return "".join(lines)


def script_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a script. Raises :class:`SettingsError`."""
    try:
        return read_text(path, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot be read as text: {error}", file=path) from None
