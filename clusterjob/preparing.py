"""From what a job script says to the record of a submission.

Templates are rendered, names checked against the backend, inputs summed up.
"""

from __future__ import annotations

import fnmatch
import functools
import getpass
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from clusterjob import units
from clusterjob.backend import (
    COMMON_RESOURCES,
    Backend,
    Resources,
    ResourceValue,
    check_braces,
    names_in,
    parse_boolean,
    render_text,
    warn_of_unused,
)
from clusterjob.engine import RUNS, Engine, Scheduler, why_alone
from clusterjob.errors import (
    RenderError,
    ResourcesNotSupportedError,
    SettingsError,
    TransportError,
    first_of,
    shorten,
)
from clusterjob.files import (
    Files,
    check_inside,
    expand_inputs,
    parse_files,
    parse_outputs,
    programs_in,
)
from clusterjob.keys import (
    RULES,
    check_array,
    check_limits,
    check_name,
    job_key,
    parent_of,
    plain_params,
)
from clusterjob.native_script import NativeScript, check_no_directives
from clusterjob.packing import Pack
from clusterjob.profile import ATTRIBUTES
from clusterjob.retry import Retry
from clusterjob.status import Dependency, Reason
from clusterjob.store import (
    ClusterReference,
    InputFile,
    JobSpec,
    Once,
    Parent,
    Phase,
    Record,
    Task,
)
from clusterjob.terms import Terms

_LOCAL_TEXTS = ("prologue", "epilogue", "setup")  # scripts that are templates
_NAMES = ("jobname", "stdout", "stderr")  # resources that are
_TEMPLATES = (*_LOCAL_TEXTS, "workdir")  # attributes that are
# what templates may use where nothing is set
_BLANK_VARIABLES: Mapping[str, object] = {
    **dict.fromkeys(COMMON_RESOURCES),
    **dict.fromkeys(ATTRIBUTES, ""),
    "backend": "local",
    "shell": "/bin/bash",
    "full_workdir": "",
}
# as the third line of job.sh.j2 begins, in every script that was submitted
_OUR_SCRIPT = b"# clusterjob keeps the end of the job"


class Draft(NamedTuple):
    """What a job script says now. The values are the script's own, and are not changed here."""

    body: str
    verbatim: bool
    aux_scripts: Mapping[str, str]
    inputs: Files
    outputs: Files
    params: Mapping[str, object]
    attributes: Mapping[str, str]
    resources: Resources
    native: NativeScript
    retry: Retry | None = None
    rows: tuple[Mapping[str, str], ...] = ()
    base: str = ""  # the name of the sweep that it is a row of

    @property
    def _has_own_workdir(self) -> bool:
        """Whether it is a row of a sweep whose workdirs are named after their rows."""
        return bool(self.base) and "{{" in (self.attributes.get("workdir") or "")

    # -- templates ---------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """The job's name in messages."""
        return str(self.resources.get("jobname") or "job")

    def names_used(self) -> frozenset[str] | None:
        """Return the variables that the texts of the job use; None where that cannot be told."""
        if self.verbatim:
            return frozenset()
        found: frozenset[str] = frozenset()
        more: list[object] = [self.attributes.get(name) for name in _TEMPLATES]
        more += [self.resources.get(name) for name in _NAMES]
        for files in (self.inputs, self.outputs):
            if not isinstance(files, str):
                more += [name for pair in parse_files(files, "file") for name in pair]
        for text in (self.body, *self.aux_scripts.values(), *more):
            text = str(text or "")
            if not text or "{" not in text:
                continue
            names = names_in(text)
            if names is None:
                return None
            found |= names
        return found

    def variables(self) -> dict[str, object]:
        """Return the names that templates may use, with their values."""
        given = self.resources.amounts()
        limit = given.get("time")
        return {
            **_BLANK_VARIABLES,
            **given,
            "time": units.clock(limit) if isinstance(limit, int) else None,
            **self.attributes,
            **self.params,
        }

    def render_body(self, variables: Mapping[str, object]) -> str:
        """Return the body with its variables filled in. Raises :class:`RenderError`."""
        return self._render(self.body, "the body", variables)

    def _render(self, text: str, where: str, variables: Mapping[str, object]) -> str:
        if self.verbatim or "{" not in text:
            return text
        where = f"{where} of job {self.label!r}"
        check_braces(text, ATTRIBUTES, where)
        return render_text(text, variables, where)

    def _warn_of_unused(self, name: str, backend: Backend) -> None:
        """Name parameters in the log that nothing uses: they may be slips."""
        if not self.params:
            return
        used = self.names_used()
        if used is None or used.issuperset(self.params):
            return
        unused = self.params.keys() - used - backend.attributes
        if not unused:
            return
        for text in (self.body, *self.aux_scripts.values()):
            check_braces(text, sorted(unused), f"the texts of job {name!r}")
        warn_of_unused(name, tuple(sorted(unused)))

    # -- the record --------------------------------------------------------------------------------

    def prepare(
        self,
        engine: Engine,
        reference: ClusterReference,
        cache_id: str | None,
        parents: Sequence[tuple[Record, Dependency]],
        batch: str,
        terms: Terms,
    ) -> Record:
        """Return the record of a submission, not stored anywhere yet: see
        :meth:`JobScript.prepare`.
        """
        dry = not batch
        scheduler = engine.scheduler(reference)
        backend = scheduler.backend
        variables = self.variables()
        workdir = self._resolve_workdir(scheduler, variables, dry)
        if not dry and not reference.host:
            _check_filename(workdir, self.attributes.get("filename") or "")
        after = [
            parent_of(item, reference, how, held=terms.is_held)
            for item, how in parents
        ]
        inputs = self._inputs(workdir, [item for item, _ in parents], variables)
        rules = self._retry_rules(backend, terms.retry or self.retry)
        spec = self._make_spec(
            backend,
            reference,
            workdir,
            cache_id,
            after,
            inputs,
            variables,
            terms,
            rules,
        )
        spec_json = spec.to_json()
        name = str(spec.resources["jobname"])
        _check_characters(name, workdir, spec_json)
        indices = _check_amounts(backend, name, spec.resources, parents)
        record = Record(
            key=job_key(spec, name, backend.name, workdir),
            token="TOKEN" if dry else secrets.token_hex(8),
            name=name,
            backend=backend.name,
            host=reference.host,
            workdir=workdir,
            folder=f"{workdir}/{RUNS}/{batch or 'dry-run'}",
            spec_json=spec_json,
            _spec=spec,
            cluster_id=reference.cluster_id,
            prologue=Once.due_if(spec.prologue),
            epilogue=Once.due_if(spec.epilogue),
            outputs=Once.due_if(spec.outputs),
            created=time.time(),
            tasks={index: Task() for index in indices} if indices else None,
            campaign=terms.campaign,
            user=user_name(),
        )
        _check_pack(backend, record)
        if not (dry or terms.is_held):
            _wait_for_ids(record)
        return record

    def _render_files(self, files: Files, variables: Mapping[str, object]) -> Files:
        """Fill in variables in the names of inputs or outputs."""
        if not files or isinstance(files, str):
            return files
        return [
            (self._fill(first, variables), self._fill(second, variables))
            for first, second in parse_files(files, "file")
        ]

    def _fill(self, text: str, variables: Mapping[str, object]) -> str:
        """Fill in variables in a setting, also where the body is taken as it stands."""
        if "{{" not in text:
            return text
        return render_text(text, variables, f"{text!r} of job {self.label!r}")

    def _resolve_workdir(
        self, scheduler: Scheduler, variables: Mapping[str, object], dry: bool
    ) -> str:
        """Return the absolute workdir; a dry run does without a host that cannot be reached."""
        rootdir = self.attributes.get("rootdir") or ""
        workdir = self._fill(self.attributes.get("workdir") or "", variables)
        path = os.path.join(rootdir, workdir)
        try:
            return scheduler.resolve(path, os.getcwd())
        except TransportError:
            if not dry:
                raise
            return path or "~"

    def _make_spec(
        self,
        backend: Backend,
        reference: ClusterReference,
        workdir: str,
        cache_id: str | None,
        after: Sequence[Parent],
        inputs: tuple[InputFile, ...],
        given: Mapping[str, object],
        terms: Terms,
        retry: Mapping[str, object],
    ) -> JobSpec:
        """Render all that is submitted, and check it against the backend."""
        settings, here = self.attributes, os.getcwd()
        resources = self._all_resources(backend, given)
        name = str(resources.setdefault("jobname", "job"))
        check_name(backend, "jobname", backend.general.jobname, name)
        check_name(backend, "workdir", backend.general.workdir, workdir)
        variables = {**given, "full_workdir": workdir, "jobname": name}
        self._warn_of_unused(name, backend)
        body = self.render_body(variables)
        _check_body(body, backend, name)
        aux = self._render_aux(variables)
        _check_names(name, aux, inputs)
        outputs = parse_outputs(self._render_files(self.outputs, given))
        filename = settings.get("filename") or ""
        prologue, epilogue, setup = (
            self._render(settings.get(name) or "", f"the {name}", variables)
            for name in _LOCAL_TEXTS
        )
        return JobSpec(
            body=body,
            resources=resources,
            shell=settings.get("shell") or "/bin/bash",
            cluster=reference,
            cwd=here,
            aux=aux,
            inputs=inputs,
            outputs=outputs,
            into=self._outputs_folder(here, given) if outputs else "",
            after=tuple(after),
            params=plain_params(self.params),
            rules=RULES,
            prologue=prologue,
            epilogue=epilogue,
            setup=setup,
            alone=not (terms.bundle and self._may_go_with_others()),
            pack=terms.pack_numbers,
            tags=terms.tags,
            filename=filename and check_inside(filename, "filename"),
            attributes=self._directive_attributes(backend),
            cache_id=cache_id,
            retry=retry,
            rows=self.rows,
            base=self.base,
            apart=self._has_own_workdir,
        )

    def _render_aux(self, variables: Mapping[str, object]) -> dict[str, str]:
        """Return the auxiliary scripts, by their paths in the workdir."""
        return {
            check_inside(path, "auxiliary script"): self._render(
                text, f"auxiliary script {path!r}", variables
            )
            for path, text in self.aux_scripts.items()
        }

    def _inputs(
        self,
        workdir: str,
        parents: Sequence[Record],
        variables: Mapping[str, object],
    ) -> tuple[InputFile, ...]:
        """Return the inputs; those that a parent makes have no sum of their contents.

        A file is a parent's where it is not there yet, where it is one of a parent's outputs, or
        where it was changed in their common workdir on this machine since the parent was submitted.
        """
        files = self.inputs
        if not files:
            return ()
        if files == "auto":
            named = programs_in(self.body)
            files = [
                path
                for path in named
                if os.path.isfile(path) and not os.path.isabs(path)
            ]
        wanted = self._render_files(files, variables)
        found = expand_inputs(wanted, may_lack=bool(parents))
        return tuple(
            InputFile(item.path, "", "") if _is_made(item, workdir, parents) else item
            for item in found
        )

    def _may_go_with_others(self) -> bool:
        """Whether the attribute ``bundle`` lets the job go with others in an array."""
        given = self.attributes.get("bundle")
        if given in (None, ""):
            return True
        answer = parse_boolean(str(given))
        if answer is None:
            raise SettingsError(f"bundle = {given!r}: expected yes or no")
        return answer

    def _retry_rules(
        self, backend: Backend, retry: Retry | None
    ) -> dict[str, object]:
        """Return the rules of retries, which must be possible. Raises :class:`SettingsError`."""
        if retry is None:
            return {}
        lacking = sorted(retry.scaled() - self.resources.amounts().keys())
        if lacking:
            raise SettingsError(
                f"Retry: job {self.label!r} asks for no {lacking[0]}, so there is nothing to "
                f"multiply: say how much {lacking[0]} the first attempt has"
            )
        if retry.excludes() and not backend.can_exclude:
            raise SettingsError(
                f"Retry: backend {backend.name!r} cannot leave nodes out; take 'exclude' out, or "
                "give the profile a line 'exclude = ...' in [Directives]"
            )
        if retry.profiles() and self.resources.get("array"):
            raise SettingsError(
                f"Retry: job {self.label!r} is an array, whose elements cannot go to another "
                "profile; take 'profile' out, or submit single jobs"
            )
        return retry.rules()

    def _directive_attributes(self, backend: Backend) -> dict[str, str]:
        """Return the values of the names in directives that are no resources."""
        named = {**self.attributes, **self.params}
        return {key: str(named[key]) for key in named if key in backend.attributes}

    def _all_resources(
        self, backend: Backend, variables: Mapping[str, object]
    ) -> dict[str, ResourceValue]:
        """Return what is asked for, by the user and by the directives of a native script."""
        given = self.resources.amounts()
        more = self.native.more_resources(backend, given)
        asked = {**given, **more} if more else given
        found = {name: value for name, value in asked.items() if value is not None}
        for name in _NAMES:
            if name in found:
                found[name] = self._fill(str(found[name]), variables)
        return found

    def _outputs_folder(self, here: str, variables: Mapping[str, object]) -> str:
        """Outputs come to the folder that a local job would have had as its workdir."""
        workdir = self._fill(str(self.attributes.get("workdir") or ""), variables)
        if workdir.startswith(("/", "~")):
            return here
        return os.path.normpath(os.path.join(here, workdir))


@functools.cache
def user_name() -> str:
    """Return the name of who submits; empty where this machine does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _is_made(item: InputFile, workdir: str, parents: Sequence[Record]) -> bool:
    """Whether one of the parents makes an input."""
    target = os.path.realpath(os.path.join(workdir, item.path))
    for parent in parents:
        if parent.workdir != workdir:
            continue
        patterns = [output.pattern for output in parent.output_patterns]
        if any(fnmatch.fnmatch(item.path, pattern) for pattern in patterns):
            return True
        is_here = not parent.host and os.path.realpath(item.source) == target
        if is_here and os.path.getmtime(target) >= parent.created:
            return True
    return False


def _check_amounts(
    backend: Backend,
    name: str,
    resources: Mapping[str, ResourceValue],
    parents: Sequence[tuple[Record, Dependency]],
) -> list[int]:
    """Check what a job asks for against what there is; return the indices of an array."""
    check_limits(backend.limits, name, resources)
    indices = check_array(backend, resources.get("array"))
    _check_corresponding(name, indices, parents)
    return indices


def _check_corresponding(
    name: str, indices: Sequence[int], parents: Sequence[tuple[Record, Dependency]]
) -> None:
    """See that each element has one to come after, where that is wanted."""
    for parent, how in parents:
        if how is not Dependency.AFTER_CORRESPONDING:
            continue
        lacking = [index for index in indices if index not in (parent.tasks or ())]
        if lacking or not indices:
            what = f"its element {lacking[0]}" if lacking else "it is no array, and"
            raise SettingsError(
                f"job {name!r} comes {how} {parent.name!r}: {what} has no element there to come "
                "after. Both must be arrays, of the same indices"
            )


def _check_filename(workdir: str, filename: str) -> None:
    """See that the script takes no file's place but that of an earlier one."""
    if not filename:
        return
    path = os.path.join(workdir, filename)
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        if _OUR_SCRIPT not in file.read(8192):
            raise SettingsError(
                f"filename = {filename!r}: {path} is a file of yours, which the script would "
                "replace; choose another name for the script"
            )


def _check_body(body: str, backend: Backend, name: str) -> None:
    """Refuse what no shell can read, and directives that would be ignored."""
    if "\0" in body:
        raise RenderError(
            f"the body of job {name!r} contains a NUL character, which no shell can read"
        )
    check_no_directives(body, backend, name)


def _check_names(
    name: str, aux: Mapping[str, str], inputs: Sequence[InputFile]
) -> None:
    """Two files of one name would be one."""
    if not aux:
        return
    twice = sorted(aux.keys() & {item.path for item in inputs})
    if twice:
        raise SettingsError(
            f"{twice[0]!r} is an auxiliary script of job {name!r} and one of its inputs; give one "
            "of them another name in the workdir"
        )


def _check_characters(name: str, workdir: str, spec_json: str) -> None:
    """Refuse halves of characters, which nobody can write. Raises :class:`SettingsError`.

    Python has bytes that are no UTF-8 (in names of files) as U+DC80 to U+DCFF: these can stand
    anywhere but in a name.
    """
    texts = [(name, "strict")]
    if "\\ud" in spec_json:  # the first half of one, as JSON writes it
        others = [workdir, *_texts_in(json.loads(spec_json))]
        texts += [(text, "surrogateescape") for text in others]
    for text, errors in texts:
        try:
            text.encode("utf-8", errors)
        except UnicodeEncodeError as error:
            wrong = ascii(text[error.start])
            raise SettingsError(
                f"job {name!a}: {shorten(ascii(text))} has {wrong}, which is no character: it "
                "cannot be written as UTF-8. Say it in other words"
            ) from None


def _texts_in(value: object) -> Iterator[str]:
    """Yield all texts in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _wait_for_ids(record: Record) -> None:
    """Hold a job until its scheduler can see to the order, or until what it comes after has ended;
    one whose turn cannot come any more ends.
    """
    parents = record.waits_for
    if not parents:
        return
    if any(item.over and item.how is Dependency.AFTER_NOT_OK for item in parents):
        record.phase = Phase.HELD
        record.drop(Reason.DEPENDENCY)
        return
    awaited = [repr(item.name) for item in parents if item.late or not item.job_id]
    if awaited:
        record.phase, record.retry_at = Phase.HELD, time.time()
        record.task.words = f"it waits for {first_of(awaited, 3)}"


def _check_pack(backend: Backend, record: Record) -> None:
    """Refuse a job that cannot go in the pack that it is to go in.

    Raises :class:`SettingsError`, :class:`ResourcesNotSupportedError`.
    """
    if not record.spec.pack:
        return
    pack, name = Pack(**record.spec.pack), record.name
    why = why_alone(backend, record)
    if why:
        raise ResourcesNotSupportedError(f"job {name!r} cannot go in a pack: {why}")
    pack.check(name, record.resources)
    size = pack.size(record.resources)
    check_limits(
        backend.limits,
        f"{name} (in a pack of {size})",
        pack.resources(record.resources, size),
    )
