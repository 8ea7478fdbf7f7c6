"""The job script: a body of shell with resources and settings, rendered and submitted."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clusterjob import units
from clusterjob.backend import Backend, load_backend
from clusterjob.errors import (
    RenderError,
    ResourcesNotSupportedError,
    SettingsError,
    SubmissionError,
    TransportError,
)
from clusterjob.inifile import COMMON_RESOURCES
from clusterjob.monitor import scheduler_for
from clusterjob.render import parse_array, render_text
from clusterjob.result import AsyncResult, recover, submit_prepared
from clusterjob.result import wait as wait_for
from clusterjob.settings import ATTRIBUTES, Profile, check_resource, read_profile
from clusterjob.staging import Files, check_outputs, expand_inputs, inside, pairs
from clusterjob.status import Status
from clusterjob.store import Record, Store, Task, encode_spec, open_store, place_of
from clusterjob.submission import RUNS, exit_names, render_record

if TYPE_CHECKING:
    from clusterjob.plan import Plan
    from clusterjob.scheduler import Scheduler

_OWN = (*ATTRIBUTES, "aux_scripts", "inputs", "outputs", "verbatim", "body")
_CANONICAL = json.JSONEncoder(sort_keys=True).encode
_KEY_VERSION = 1  # changes when equal jobs would get other keys


class JobScript:
    """A job: what to run, with which resources, where.

    ``body`` is a script in any language (a shebang is honoured, else ``shell`` runs it) and a Jinja
    template: the attributes of a profile, ``params`` and the resources are its variables. Setting
    an attribute, ``job.T = 20``, sets a parameter. Every keyword that is no attribute is a
    resource: the common ones (see ``docs/resources.md``) mean the same to every scheduler, any
    other is passed to it as its own option.

    Values come from the arguments, else from :meth:`read_defaults`; :meth:`read_settings` puts a
    profile's over them. Raises :class:`SettingsError` for values that cannot be.
    """

    cache_folder: ClassVar[str | os.PathLike[str] | None] = None
    _defaults: ClassVar[Profile | None] = None
    _folders: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        body: str,
        jobname: str | None = None,
        *,
        aux_scripts: Mapping[str, str] | None = None,
        inputs: Files = (),
        outputs: Files = (),
        params: Mapping[str, Any] | None = None,
        verbatim: bool = False,
        **settings: Any,
    ) -> None:
        own = self.__dict__
        own["body"], own["verbatim"] = body, verbatim
        own["aux_scripts"] = dict(aux_scripts or {})
        own["inputs"], own["outputs"] = pairs(inputs, "input"), pairs(outputs, "output")
        own["params"] = dict(params or {})
        own["attributes"], own["resources"], own["_profiles"] = {}, {}, ()
        if self._defaults is not None:
            self._apply(self._defaults)
        for name, value in settings.items():
            setattr(self, name, value) if name in ATTRIBUTES else self._set_resource(name, value)
        if jobname is not None:
            self._set_resource("jobname", jobname)

    # -- settings ----------------------------------------------------------------------------------

    @classmethod
    def read_defaults(cls, path: str | os.PathLike[str] | None = None) -> None:
        """Take the defaults of all job scripts made from now on from a profile; without an argument
        there are none again.
        """
        cls._defaults = None
        if path is not None:
            profile = read_profile(os.fspath(path))
            cls._check_profile(profile)
            cls._defaults = profile

    def read_settings(self, path: str | os.PathLike[str]) -> None:
        """Put the attributes, resources and backend overrides of a profile over those of this job."""
        profile = read_profile(os.fspath(path))
        self._check_profile(profile)
        self._apply(profile)

    @classmethod
    def register_backend(cls, folder: str | os.PathLike[str]) -> None:
        """Make the backend in a folder known by the folder's name.

        Raises :class:`SettingsError` where it is none.
        """
        path = Path(folder).expanduser().absolute()
        load_backend(str(path))
        cls._folders = (
            str(path.parent),
            *(known for known in cls._folders if known != str(path.parent)),
        )

    @classmethod
    def _check_profile(cls, profile: Profile) -> None:
        name = profile.attributes.get("backend", "local")
        load_backend(
            name,
            dict(profile.overrides),
            [profile.path.parent / "backends", *map(Path, cls._folders)],
            profile.path,
        )

    def _apply(self, profile: Profile) -> None:
        self.__dict__["attributes"] = {**self.attributes, **profile.attributes}
        self.__dict__["resources"] = {**self.resources, **profile.resources}
        # another backend's overrides mean nothing to this one
        before = () if "backend" in profile.attributes else self._profiles
        self.__dict__["_profiles"] = (*before, profile)

    def _set_resource(self, name: str, value: Any) -> None:
        self.resources[name] = check_resource(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ATTRIBUTES:
            self.attributes[name] = value
        elif name in COMMON_RESOURCES:
            self._set_resource(name, value)
        elif name in self.__dict__:
            self.__dict__[name] = value
        else:
            self.params[name] = value

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for values in (self.__dict__.get("params", {}), self.__dict__.get("attributes", {})):
                if name in values:
                    return values[name]
            if name in COMMON_RESOURCES:
                return self.resources.get(name)
            if name in ATTRIBUTES:
                return None
        raise AttributeError(f"job script has no attribute {name!r}")

    @property
    def backend_reference(self) -> dict[str, Any]:
        """The backend, its overrides and its host, as plain values that a record can keep; equal
        ones are one object.
        """
        return self._backend_reference()[0]

    def _backend_reference(self) -> tuple[dict[str, Any], str]:
        attributes = self.attributes
        way = tuple(
            (name, str(attributes[name]))
            for name in ("transport", "ssh_config")
            if attributes.get(name)
        )
        return _reference(
            attributes.get("backend") or "local",
            attributes.get("remote") or "",
            way,
            self._profiles,
            self._folders,
        )

    def get_backend(self) -> Backend:
        """Return the backend, with the overrides of the profiles."""
        return scheduler_for(self.backend_reference).backend

    # -- rendering ---------------------------------------------------------------------------------

    def variables(self) -> dict[str, Any]:
        """Return the names that the body, the prologue, the epilogue and the auxiliary scripts may
        use, with their values.
        """
        given = self.resources
        return {
            **dict.fromkeys(COMMON_RESOURCES),
            **dict.fromkeys(ATTRIBUTES, ""),
            "backend": "local",
            "shell": "/bin/bash",
            **given,
            "time": None if given.get("time") is None else units.clock(given["time"]),
            **self.attributes,
            **self.params,
        }

    def render_body(self) -> str:
        """Return the body with its variables filled in. Raises :class:`RenderError`."""
        return self._render(self.body, "the body")

    def _render(self, text: str, where: str, variables: Mapping[str, Any] | None = None) -> str:
        if self.verbatim:
            return text
        return render_text(
            text,
            self.variables() if variables is None else variables,
            f"{where} of job {self.label!r}",
        )

    @property
    def label(self) -> str:
        return self.resources.get("jobname") or "job"

    def render_script(self) -> str:
        """Return the script as it would be submitted, but for the token, which is made then.

        This is what ``str(job)`` is.
        """
        record = self.prepare(cache_id=None, after=(), dry=True)
        return render_record(scheduler_for(record.spec["backend"]), record)

    def __str__(self) -> str:
        return self.render_script()

    def __repr__(self) -> str:
        return f"<JobScript {self.label!r} backend={self.backend or 'local'!r}>"

    def write(self, filename: str | os.PathLike[str]) -> None:
        """Write the rendered script to a local file, executable for its owner."""
        path = Path(filename)
        path.write_text(self.render_script(), encoding="utf-8")
        path.chmod(0o700)

    # -- submitting --------------------------------------------------------------------------------

    def submit(
        self,
        block: bool = False,
        cache_id: str | None = None,
        force: bool = False,
        retry: bool = True,
        after: Iterable[AsyncResult] = (),
        dry_run: bool = False,
    ) -> Any:
        """Submit the job, unless it was submitted before, and return its :class:`AsyncResult`; with
        ``block`` its final Status.

        The same job (``cache_id`` where given, else what computes the result and where) is the same
        result: one that completed, or is on its way, is not submitted again; one that failed or was
        cancelled is, with ``retry``; with ``force`` also one that completed. ``after`` are jobs
        that must complete first. ``dry_run`` returns a :class:`Plan` instead. Raises
        :class:`SubmissionError`, :class:`SettingsError`, :class:`RenderError`, :class:`StoreError`.
        """
        found = submit(
            [self], cache_ids=[cache_id], force=force, retry=retry, after=after, dry_run=dry_run
        )
        if dry_run:
            return found
        result = found[0]
        if block:
            wait_for([result])
            return result.status
        return result

    def prepare(
        self,
        cache_id: str | None,
        after: Iterable[AsyncResult],
        dry: bool = False,
        batch: str = "dry-run",
    ) -> Record:
        """Return the record of a submission of this job, not stored anywhere yet."""
        reference, place = self._backend_reference()
        scheduler = scheduler_for(reference)
        resources = {name: value for name, value in self.resources.items() if value is not None}
        settings = self.attributes
        here = os.getcwd()
        workdir = _workdir(
            os.path.join(settings.get("rootdir") or "", settings.get("workdir") or ""),
            here,
            scheduler,
            dry,
        )
        _check_names(
            scheduler.backend, jobname=resources.setdefault("jobname", "job"), workdir=workdir
        )
        variables = self.variables() | {"workdir": workdir, "jobname": resources["jobname"]}
        spec: dict[str, Any] = {
            "body": self._render(self.body, "the body", variables),
            "resources": resources,
            "shell": settings.get("shell") or "/bin/bash",
            "backend": reference,
            "cwd": here,
        }
        named = {**settings, **self.params}
        extra = {
            name: value for name, value in named.items() if name in scheduler.backend.attributes
        }
        optional = {
            "aux": {
                inside(name, "auxiliary script"): self._render(
                    text, f"auxiliary script {name!r}", variables
                )
                for name, text in self.aux_scripts.items()
            },
            "inputs": expand_inputs(self.inputs),
            "outputs": check_outputs(self.outputs),
            "after": [
                _parent(result, place) for result in after if result.status != Status.COMPLETED
            ],
            "prologue": self._render(settings["prologue"], "the prologue", variables)
            if settings.get("prologue")
            else "",
            "epilogue": self._render(settings["epilogue"], "the epilogue", variables)
            if settings.get("epilogue")
            else "",
            "filename": inside(settings["filename"], "filename")
            if settings.get("filename")
            else "",
            "attributes": extra,
            "cache_id": cache_id,
        }
        spec |= {name: value for name, value in optional.items() if value}
        if "outputs" in spec:  # they come to the folder that a local job would have had
            spec["into"] = (
                os.path.normpath(os.path.join(here, settings.get("workdir") or ""))
                if not _rooted(settings)
                else here
            )
        token = "TOKEN" if dry else secrets.token_hex(8)
        array = resources.get("array")
        indices = parse_array(array) if array else []
        if len(indices) > scheduler.backend.limits["array_size"]:
            most = int(scheduler.backend.limits["array_size"])
            raise ResourcesNotSupportedError(
                f"array {array!r} has {len(indices)} elements; backend {scheduler.backend.name!r} "
                f"takes {most} ([Limits] array_size)"
            )
        return Record(
            key=job_key(spec, scheduler.backend.name, reference["host"], workdir),
            token=token,
            name=resources["jobname"],
            backend=scheduler.backend.name,
            host=reference["host"],
            workdir=workdir,
            runs=f"{workdir}/{RUNS}/{batch}",
            spec_json=encode_spec(spec),
            _spec=spec,
            place=place,
            prologue="due" if spec.get("prologue") else "",
            epilogue="due" if spec.get("epilogue") else "",
            outputs="due" if spec.get("outputs") else "",
            created=time.time(),
            tasks={index: Task() for index in indices} if array else None,
        )


def _check_names(backend: Backend, **names: str) -> None:
    """Refuse names that the scheduler cannot take; its backend says which it can."""
    for what, name in names.items():
        if not re.fullmatch(backend.general[what], name):
            raise SettingsError(
                f"{what} {name!r} is not allowed by backend {backend.name!r}; expected what "
                f"{backend.general[what]!r} matches"
            )


@functools.lru_cache(maxsize=256)
def _reference(
    name: str,
    host: str,
    way: tuple[tuple[str, str], ...],
    profiles: tuple[Profile, ...],
    folders: tuple[str, ...],
) -> tuple[dict[str, Any], str]:
    """Return the reference of a backend, and the name of its place."""
    beside = [
        str(folder) for profile in profiles if (folder := profile.path.parent / "backends").is_dir()
    ]
    overrides: dict[str, dict[str, str]] = {}
    for profile in profiles:
        for section, entries in profile.overrides.items():
            overrides.setdefault(section, {}).update(entries)
    reference: dict[str, Any] = {"name": name, "host": host, **dict(way)}
    if "ssh_config" in reference:
        reference["ssh_config"] = os.path.abspath(os.path.expanduser(reference["ssh_config"]))
    if beside or folders:
        reference["beside"] = [*dict.fromkeys(beside), *folders]
    if overrides:
        reference["overrides"] = overrides
        reference["source"] = str(profiles[-1].path)
    return reference, place_of(reference)


def _rooted(settings: Mapping[str, Any]) -> bool:
    return str(settings.get("workdir") or "").startswith(("/", "~"))


def _workdir(path: str, here: str, scheduler: Scheduler, dry: bool) -> str:
    """Return the absolute workdir; a dry run does without a host that cannot be reached, and leaves
    the path as it was written.
    """
    try:
        return _resolved(path, here, scheduler)
    except TransportError:
        if not dry:
            raise
        return path or "~"


@functools.lru_cache(maxsize=256)
def _resolved(path: str, here: str, scheduler: Scheduler) -> str:
    return scheduler.transport.resolve(path)


def job_key(spec: Mapping[str, Any], backend: str, host: str, workdir: str) -> str:
    """Return the hash that makes two submissions the same: ``cache_id``, else what computes the
    result, and where.

    Resources are not part of it but for the array: more time for a finished job does not run it
    again.
    """
    if spec.get("cache_id"):
        content: Any = ["cache_id", spec["cache_id"]]
    else:
        content = [
            _KEY_VERSION,
            host,
            backend,
            workdir,
            spec["body"],
            spec["shell"],
            spec.get("aux", {}),
            [item[:2] for item in spec.get("inputs", ())],
            spec["resources"].get("array"),
        ]
    return hashlib.sha256(_CANONICAL(content).encode("utf-8", "surrogatepass")).hexdigest()


def _parent(result: AsyncResult, place: str) -> dict[str, Any]:
    record = result.record
    if record.place != place:
        raise SubmissionError(
            f"a job can only come after jobs of the same scheduler; {record.name!r} is with "
            f"{record.backend!r}"
        )
    if record.finished:
        raise SubmissionError(
            f"job {record.name!r} ({record.job_id}) is {record.status}: what comes after it would "
            "never run"
        )
    if not record.job_id:
        raise SubmissionError(
            f"job {record.name!r} has no job id yet ({record.task.words or record.phase.value}); "
            "submit its successors later"
        )
    return {
        "name": record.name,
        "job_id": record.job_id,
        "records": [f"{record.runs}/{name}.exit" for name in exit_names(record)],
    }


_recovered: weakref.WeakSet[Store] = weakref.WeakSet()


def current_store(finish: bool = True) -> Store:
    """Return the store that submissions go to: ``JobScript.cache_folder``, else what
    :func:`open_store` finds.

    A process that opens it finishes the submissions that others left open and died; not with
    ``finish=False``, which asks no cluster.
    """
    store = open_store(JobScript.cache_folder)
    if finish and store not in _recovered:
        _recovered.add(store)
        recover(store)
    return store


def submit(
    jobs: Sequence[JobScript],
    *,
    cache_ids: Sequence[str | None] | None = None,
    force: bool = False,
    retry: bool = True,
    after: Iterable[AsyncResult] = (),
    dry_run: bool = False,
) -> Any:
    """Submit a batch in a constant number of round trips; return the results in order, or with
    ``dry_run`` a :class:`Plan`.

    The arguments are those of :meth:`JobScript.submit`. Raises :class:`SubmissionError` where the
    scheduler refused some; its ``results`` are the handles of the others.
    """
    store = current_store()
    batch = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    parents = list(after)
    ids = list(cache_ids) if cache_ids is not None else [None] * len(jobs)
    records = [
        job.prepare(cache_id, parents, batch=batch) for job, cache_id in zip(jobs, ids, strict=True)
    ]
    if dry_run:
        from clusterjob.plan import make_plan

        return make_plan(store, records, force=force, retry=retry)
    for record in records:
        if "\0" in record.spec["body"]:
            raise RenderError(
                f"the body of job {record.name!r} contains a NUL character, which no shell can read"
            )
    return submit_prepared(store, records, functools.partial(_replace_earlier, force, retry))


def _replace_earlier(force: bool, retry: bool, old: Record) -> bool:
    """Say whether the record that holds a key makes room for a new submission."""
    if force and not old.finished:
        raise SubmissionError(
            f"job {old.name!r} ({old.job_id}) has not ended: cancel it before it is submitted "
            "again with force"
        )
    return force or (retry and old.status > Status.COMPLETED)


__all__ = ["JobScript", "Plan", "current_store", "job_key", "submit"]
