"""The job script: a body of shell with resources and settings, rendered and submitted."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypedDict, overload

from clusterjob.backend import (
    COMMON_RESOURCES,
    Backend,
    Resources,
    ResourceValue,
    check_once,
    check_spelling,
    common_name,
    is_known_word,
    load_backend,
)
from clusterjob.batch import After, Parents
from clusterjob.class_defaults import JobScriptType
from clusterjob.dependencies import Job
from clusterjob.engine import (
    Engine,
    default_engines,
    render_by_hand,
    render_record,
)
from clusterjob.errors import SettingsError
from clusterjob.files import (
    Files,
    parse_files,
)
from clusterjob.keys import (
    cluster_reference,
)
from clusterjob.native_script import (
    NativeScript,
    read_script,
    script_text,
)
from clusterjob.plain_files import expand
from clusterjob.preparing import Draft
from clusterjob.profile import ATTRIBUTES, PLACE, Profile, check_gone, read_profile
from clusterjob.result import AsyncResult
from clusterjob.results import Results
from clusterjob.retry import Retry
from clusterjob.rows import check_rows
from clusterjob.session import Session
from clusterjob.session import default_session as open_default_session
from clusterjob.status import Dependency, Status
from clusterjob.store import (
    ClusterReference,
    Record,
)
from clusterjob.terms import Terms

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from clusterjob.planning import Plan


class JobSettings(TypedDict, total=False):
    """The attributes and common resources that are keywords of :class:`JobScript`.

    Attributes: ``backend`` (a name, or the path of a folder), ``remote`` (``user@host``),
    ``transport`` (``ssh`` or ``openssh``), ``ssh_config`` (a file), ``rootdir`` and ``workdir``
    (folders on the scheduler's host), ``shell``, ``setup`` (lines of shell that run on the cluster
    before every body: modules, environments), ``prologue`` and ``epilogue`` (scripts that run here,
    before the submission and after the end), ``filename`` (of the script, in the workdir),
    ``bundle`` (``"no"``: never goes with others in an array), ``python`` (the interpreter that
    calls functions: see :class:`ClusterExecutor`).

    Resources: ``queue``; ``account``; ``time``: minutes, or ``"2:00:00"``, ``"1h30m"``, ``"2d"``;
    ``nodes``; ``ppn``: processes a node; ``threads``: cores a process; ``mem``: MB a node, or
    ``"4G"``; ``gpus`` a node; ``stdout`` and ``stderr``: files in the workdir; ``array``:
    ``"1-10"``, ``"0-98:2%4"``.
    """

    backend: str
    remote: str
    transport: str
    ssh_config: str
    rootdir: str
    workdir: str
    shell: str
    prologue: str
    epilogue: str
    setup: str
    filename: str
    bundle: str | bool
    python: str
    queue: str | None
    account: str | None
    time: int | float | str | None
    nodes: int | str | None
    ppn: int | str | None
    threads: int | str | None
    mem: int | float | str | None
    gpus: int | str | None
    stdout: str | None
    stderr: str | None
    array: str | None


_MAPPINGS = ("params", "resources", "aux_scripts")
# what of a profile means something on its cluster only
_BOUND = {*PLACE, "rootdir", "setup"}
# jobs that were neither submitted nor forgotten
_unsubmitted: weakref.WeakSet[JobScript] = weakref.WeakSet()
_log = logging.getLogger(__name__)


class JobScript(metaclass=JobScriptType):
    """A job: what to run, with which resources, where.

    ``body`` is a script in any language (a shebang is honoured, else ``shell`` runs it) and a Jinja
    template: the attributes of a profile, ``params`` and the resources are its variables. With
    ``verbatim`` it is taken as it stands. ``aux_scripts`` are more scripts, by file name in the
    workdir. ``inputs`` are files that go there, ``outputs`` patterns of files that come back; both
    are paths, pairs of a path and its new name, or a mapping; ``inputs="auto"`` are the programs
    here that the body calls by their paths. ``options`` are the scheduler's own
    options, by name; at run time they may be keywords too.

    The keywords and their units are those of :class:`JobSettings`. Setting an attribute,
    ``job.T = 20``, sets a parameter.

    Values come from the arguments, else from :meth:`read_defaults`; :meth:`read_settings` puts a
    profile's over them. Raises :class:`SettingsError` for values that cannot be.

    ::

        job = JobScript("./simulate -T {{ T }}", "sim", params={"T": 20}, time="2h", ppn=4)
        job.read_settings("cluster.ini")
        print(job)                    # the script as it would be submitted
        result = job.submit()
        print(result.get(), result.stdout())
    """

    #: the store of records, a folder or a URL; None for the usual one
    cache_folder: ClassVar[str | os.PathLike[str] | None] = None
    _defaults: ClassVar[Profile | None] = None
    _backend_folders: ClassVar[tuple[str, ...]] = ()

    # set in __init__; attributes, resources and parameters are found by __getattr__
    body: str
    verbatim: bool
    aux_scripts: dict[str, str]
    inputs: Files
    outputs: Files
    params: dict[str, object]
    attributes: dict[str, str]
    resources: Resources
    _profiles: tuple[tuple[str, Profile], ...]  # with the backend that each was for
    _said: frozenset[str]  # the attributes that were set one by one, not by a profile
    _native: NativeScript
    _retry: Retry | None
    _rows: tuple[Mapping[str, str], ...]  # of an array
    _base: str  # the name of the sweep that it is a row of
    if TYPE_CHECKING:
        backend: str | None
        remote: str | None
        transport: str | None
        ssh_config: str | None
        rootdir: str | None
        workdir: str | None
        shell: str | None
        prologue: str | None
        epilogue: str | None
        setup: str | None
        filename: str | None
        bundle: str | bool | None
        python: str | None
        jobname: str | None
        queue: str | None
        account: str | None
        time: int | float | str | None
        nodes: int | None
        ppn: int | None
        threads: int | None
        mem: int | float | str | None
        gpus: int | None
        stdout: str | None
        stderr: str | None
        array: str | None

    def __init__(
        self,
        body: str,
        jobname: str | None = None,
        aux_scripts: Mapping[str, str] | None = None,
        *,
        inputs: Files = (),
        outputs: Files = (),
        params: Mapping[str, object] | None = None,
        verbatim: bool = False,
        options: Mapping[str, ResourceValue] | None = None,
        **settings: Unpack[JobSettings],
    ) -> None:
        self._set_up(
            NativeScript(body),
            jobname,
            aux_scripts=aux_scripts,
            inputs=inputs,
            outputs=outputs,
            params=params,
            verbatim=verbatim,
            options=options,
            settings=settings,
        )

    def _set_up(
        self,
        native: NativeScript,
        jobname: str | None,
        *,
        aux_scripts: Mapping[str, str] | None = None,
        inputs: Files = (),
        outputs: Files = (),
        params: Mapping[str, object] | None = None,
        verbatim: bool = False,
        options: Mapping[str, ResourceValue] | None = None,
        settings: Mapping[str, object],
    ) -> None:
        """Set everything: what a script's directives say, the defaults over it, then the rest."""
        own = self.__dict__
        if not isinstance(native.body, str):
            raise SettingsError(f"a body is a text, not {native.body!r}")
        own["body"], own["verbatim"] = native.body, verbatim
        own["_native"], own["_retry"], own["_rows"] = native, None, ()
        own["_base"] = ""
        own["aux_scripts"] = dict(aux_scripts or {})
        own["inputs"] = "auto" if inputs == "auto" else parse_files(inputs, "input")
        own["outputs"] = parse_files(outputs, "output")
        own["params"] = dict(params or {})
        own["attributes"], own["_profiles"] = dict(native.attributes), ()
        own["_said"] = frozenset()
        own["resources"] = Resources()
        self.resources.put(native.resources)
        if self._defaults is not None:
            self._apply(self._defaults)
        for name, value in type(self).defaults().items():
            setattr(self, name, value)
        _unsubmitted.add(self)
        given = {**settings, **(options or {})}
        if jobname is not None:
            given["jobname"] = jobname
        check_once(name for name in given if name not in ATTRIBUTES)
        for name, value in given.items():
            check_gone(name)
            if name in ATTRIBUTES:
                setattr(self, name, value)
                continue
            if name in settings:
                check_spelling(name, ATTRIBUTES)
            self.set_resource(name, value)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The options of a native script that have no equivalent for this job's backend."""
        return self._native.left_out(self.get_backend())

    @classmethod
    def from_script(
        cls,
        path: str | os.PathLike[str],
        jobname: str | None = None,
        *,
        dialect: str | None = None,
        verbatim: bool | None = None,
        params: Mapping[str, object] | None = None,
        inputs: Files = (),
        outputs: Files = (),
        **settings: Unpack[JobSettings],
    ) -> JobScript:
        """Return the job of a script with a scheduler's own directives (``#SBATCH --time=5``).

        They are read into resources, as far as those have common names, and into options of that
        scheduler; the keywords, and what is set later, go over them. A job that has such options
        goes to that scheduler alone, and is refused elsewhere. With ``dialect``, the name of the
        backend that the script was written for, it may go to any: what has no equivalent is left
        out, named in the log, and in ``left_out``.

        The script is a template where ``params`` are given, and else taken as it stands, unless
        ``verbatim`` says otherwise. Raises :class:`SettingsError`.

        ::

            job = JobScript.from_script("legacy.slurm", dialect="slurm")
            job.read_settings("sge.ini")
            result = job.submit()
        """
        text = script_text(path)
        at_hand = cls._defaults.attributes.get("backend") if cls._defaults else None
        native = read_script(text, settings.get("backend") or at_hand, dialect)
        job = cls.__new__(cls)
        job._set_up(
            native,
            jobname,
            inputs=inputs,
            outputs=outputs,
            params=params,
            verbatim=not params if verbatim is None else verbatim,
            settings=settings,
        )
        if not job.resources.get("jobname"):
            job.set_resource("jobname", Path(path).stem)
        return job

    # -- settings ----------------------------------------------------------------------------------

    @classmethod
    def read_defaults(cls, path: str | os.PathLike[str] | None = None) -> None:
        """Take the defaults of all job scripts made from now on from a profile.

        Without an argument there are none again. Jobs that were made before keep their settings.
        Raises :class:`SettingsError`.
        """
        if _unsubmitted:
            _log.warning(
                "%d job scripts that were made before read_defaults, and not submitted yet, keep "
                "their settings; job.read_settings(path) changes them",
                len(_unsubmitted),
            )
        cls._defaults = None
        if path is not None:
            profile = read_profile(os.fspath(path))
            cls._check_profile(profile)
            cls._defaults = profile
            cls.forget({**profile.attributes, **profile.resources})

    def read_settings(self, path: str | os.PathLike[str]) -> None:
        """Put the attributes, resources and overrides of a profile over those of this job.

        Raises :class:`SettingsError`.
        """
        profile = read_profile(os.fspath(path))
        self._check_profile(profile)
        self._apply(profile)

    @classmethod
    def register_backend(cls, folder: str | os.PathLike[str]) -> None:
        """Make the backend in a folder known by the folder's name.

        Raises :class:`SettingsError` where it is none.
        """
        path = expand(folder).absolute()
        load_backend(str(path))
        known = [name for name in cls._backend_folders if name != str(path.parent)]
        cls._backend_folders = (str(path.parent), *known)

    @classmethod
    def _check_profile(cls, profile: Profile) -> None:
        """See that the profile's overrides fit its backend."""
        name = profile.attributes.get("backend", "local")
        beside = list(map(Path, (profile.backends, *cls._backend_folders)))
        load_backend(name, profile.overrides, beside, profile.path)

    def _apply(self, profile: Profile) -> None:
        self.__dict__["attributes"] = {**self.attributes, **profile.attributes}
        self.__dict__["_said"] = self._said - profile.attributes.keys()
        if self.attributes.pop("inputs", None) == "auto" and not self.inputs:
            self.__dict__["inputs"] = "auto"
        self.resources.put(profile.resources)
        if profile.retry is not None:
            self.__dict__["_retry"] = profile.retry
        backend = self.attributes.get("backend") or "local"
        self.__dict__["_profiles"] = (*self._profiles, (backend, profile))

    def with_profile(self, path: str | os.PathLike[str]) -> JobScript:
        """Return this job as it goes by another profile, with what it says itself.

        The profile says which cluster; else what was set for this job alone stays. Of profiles of
        other clusters that it had, what means something there only is left out: queue, account,
        ``rootdir``, ``setup``, options of a scheduler's own. Raises :class:`SettingsError`.
        """
        profile = read_profile(os.fspath(path))
        self._check_profile(profile)
        twin = self.copy()
        twin._leave(profile)
        twin._apply(profile)
        twin.resources.update(
            {name: self.resources[name] for name in self.resources.said}
        )
        for name in self._said - (profile.attributes.keys() & PLACE):
            setattr(twin, name, self.attributes[name])
        return twin

    def _leave(self, profile: Profile) -> None:
        """Forget what profiles of other clusters than this one's have put here."""
        if "backend" not in profile.attributes:  # it is for any
            return
        stays = []
        for backend, before in self._profiles:
            if "backend" not in before.attributes or before.place == profile.place:
                stays.append((backend, before))
                continue
            for name in before.attributes.keys() & _BOUND - self._said:
                self.attributes.pop(name, None)
            for name in before.resources.keys() - self.resources.said:
                if name in ("queue", "account") or name not in COMMON_RESOURCES:
                    self.resources.data.pop(name, None)
        self.__dict__["_profiles"] = tuple(stays)

    def copy(self) -> JobScript:
        """Return a job that says the same, and can be changed alone."""
        twin = type(self).__new__(type(self))
        own = dict(self.__dict__)
        for name in ("aux_scripts", "params", "attributes"):
            own[name] = dict(own[name])
        own["resources"] = self.resources.twin()
        twin.__dict__.update(own)
        _unsubmitted.add(twin)
        return twin

    def with_row(self, values: Mapping[str, object], jobname: str) -> JobScript:
        """Return this job with the values of a row of its sweep: see :func:`sweep`."""
        twin = self.copy()
        twin.__dict__["_base"] = str(self.jobname or "job")
        for name, value in values.items():
            setattr(twin, name, value)
        others = [name for name in values if name not in twin.params]
        if all(common_name(name) != "jobname" for name in others):
            twin.set_resource("jobname", jobname)
        return twin

    def set_resource(self, name: str, value: object) -> None:
        """Set a resource, or an option of the scheduler's own. Raises :class:`SettingsError`."""
        self.resources[name] = value

    def __setattr__(self, name: str, value: object) -> None:
        check_gone(name)
        if name in ATTRIBUTES:
            self.attributes[name] = _attribute(name, value)  # type: ignore[assignment]
            self.__dict__["_said"] = self._said | {name}
        elif name in COMMON_RESOURCES:
            self.set_resource(name, value)
        elif name in _MAPPINGS and not isinstance(value, Mapping):
            raise SettingsError(
                f"{name} = {value!r}: expected a mapping from names to values"
            )
        elif name == "resources":
            self.__dict__[name] = Resources()
            self.resources.update(value)  # type: ignore[call-overload]  # checked one by one
        elif name in self.__dict__:
            self.__dict__[name] = value
        elif name in self.params or name in (self._draft().names_used() or ()):
            self.params[name] = value
        elif is_known_word(name):
            self.set_resource(name, value)
        else:
            check_spelling(name, (*ATTRIBUTES, *COMMON_RESOURCES), cutoff=0.8)
            self.params[name] = value

    def _draft(self) -> Draft:
        """Return what this job says now."""
        return Draft(
            body=self.body,
            verbatim=self.verbatim,
            aux_scripts=self.aux_scripts,
            inputs=self.inputs,
            outputs=self.outputs,
            params=self.params,
            attributes=self.attributes,
            resources=self.resources,
            native=self._native,
            retry=self._retry,
            rows=self._rows,
            base=self._base,
        )

    def __getattr__(self, name: str) -> object:
        """Return a parameter, an attribute or a common resource; None for one that is not set."""
        own = self.__dict__
        if not name.startswith("_") and "params" in own:
            if name in self.params:
                return self.params[name]
            if name in self.attributes:
                return self.attributes[name]
            if name in COMMON_RESOURCES:
                return self.resources.get(name)
            if name in ATTRIBUTES:
                return None
        raise AttributeError(f"job script has no attribute {name!r}")

    @property
    def cluster_reference(self) -> ClusterReference:
        """The backend, its overrides and its host, as a record keeps them."""
        attributes = self.attributes
        backend = attributes.get("backend") or "local"
        # another backend's overrides mean nothing to this one
        profiles = tuple(
            profile for name, profile in self._profiles if name == backend
        )
        return cluster_reference(
            backend,
            attributes.get("remote") or "",
            str(attributes.get("transport") or ""),
            str(attributes.get("ssh_config") or ""),
            profiles,
            self._beside(),
        )

    def _beside(self) -> tuple[str, ...]:
        """Return the folders of backends that are looked in first: beside profiles, registered."""
        if not self._profiles:
            return self._backend_folders
        beside = [profile.backends for _, profile in self._profiles]
        found = dict.fromkeys(filter(os.path.isdir, beside))
        return (*found, *self._backend_folders)

    def get_backend(self) -> Backend:
        """Return the backend, with the overrides of the profiles. Raises :class:`SettingsError`."""
        engine = default_engines.at_hand(JobScript.cache_folder)
        return engine.scheduler(self.cluster_reference).backend

    # -- rendering ---------------------------------------------------------------------------------

    def variables(self) -> dict[str, object]:
        """Return the names that templates may use, with their values.

        Templates are the body, the prologue, the epilogue and the auxiliary scripts.
        """
        return self._draft().variables()

    def render_body(self) -> str:
        """Return the body with its variables filled in. Raises :class:`RenderError`."""
        draft = self._draft()
        return draft.render_body(draft.variables())

    def render_script(self) -> str:
        """Return the script as it would be submitted, but for the token, which is made then.

        This is what ``str(job)`` is. Raises :class:`RenderError`, :class:`SettingsError`.
        """
        engine = default_engines.at_hand(JobScript.cache_folder)
        record = self.prepare(engine)
        return render_record(engine.scheduler(record.spec.cluster), record)

    def __str__(self) -> str:
        return self.render_script()

    def __repr__(self) -> str:
        return (
            f"<JobScript {self._draft().label!r} backend={self.backend or 'local'!r}>"
        )

    def write(self, filename: str | os.PathLike[str]) -> None:
        """Write a script to a local file, executable for its owner, that can be submitted by hand.

        It does what the submitted one does, as often as it is submitted; clusterjob does not know
        of such jobs.
        """
        engine = default_engines.at_hand(JobScript.cache_folder)
        record = self.prepare(engine)
        text = render_by_hand(engine.scheduler(record.spec.cluster), record)
        path = Path(filename)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o700)

    # -- submitting --------------------------------------------------------------------------------

    @overload
    def submit(
        self,
        block: Literal[False] = False,
        cache_id: str | None = None,
        force: bool = False,
        retry: bool | Retry = True,
        after: Parents = (),
    ) -> AsyncResult: ...

    @overload
    def submit(
        self,
        block: Literal[True],
        cache_id: str | None = None,
        force: bool = False,
        retry: bool | Retry = True,
        after: Parents = (),
    ) -> Status: ...

    def submit(
        self,
        block: bool = False,
        cache_id: str | None = None,
        force: bool = False,
        retry: bool | Retry = True,
        after: Parents = (),
    ) -> AsyncResult | Status:
        """Submit the job, unless it was submitted before, and return its :class:`AsyncResult`.

        With ``block`` its final :class:`Status`. The other arguments, and what is raised, are those
        of :meth:`Session.submit`.
        """
        results = submit(
            [self], cache_ids=[cache_id], force=force, retry=retry, after=after
        )
        if not block:
            return results[0]
        results.wait()
        return results[0].status

    def submit_array(
        self,
        parameters: Iterable[Mapping[str, object]],
        *,
        max_running: int | None = None,
        force: bool = False,
        retry: bool | Retry = True,
        after: Parents = (),
    ) -> AsyncResult:
        """Submit the job as an array with an element for each row of parameters.

        The body is one script; each element has its own parameters as variables of the shell
        (``$T``, not ``{{ T }}``), and ``$CLUSTERJOB_ARRAY_INDEX``, from 1 on. At most
        ``max_running`` run at once. The same rows again are the same array, of which only elements
        that failed run again; other rows are another one (for rows that come and go see
        :func:`sweep`). Raises what :meth:`submit` does.

        ::

            result = JobScript("./simulate -T $T").submit_array([{"T": 10}, {"T": 20}])
            result.tasks[2].status, result.stdout(2)
        """
        rows = check_rows(parameters)
        if self.resources.get("array"):
            raise SettingsError(
                "the job has an array of its own: leave out array = "
                f"{self.resources.get('array')!r}"
            )
        twin = self.copy()
        bound = "" if max_running is None else f"%{max_running}"
        twin.set_resource("array", f"1-{len(rows)}{bound}")
        twin.__dict__["_rows"] = rows
        return twin.submit(force=force, retry=retry, after=after)

    def plan(
        self,
        cache_id: str | None = None,
        force: bool = False,
        retry: bool = True,
        after: Parents = (),
    ) -> Plan:
        """Say what :meth:`submit` would do with the same arguments, and why."""
        return plan(
            [self], cache_ids=[cache_id], force=force, retry=retry, after=after
        )

    def prepare(
        self,
        engine: Engine,
        *,
        cache_id: str | None = None,
        parents: Sequence[tuple[Record, Dependency]] = (),
        batch: str = "",
        terms: Terms = Terms(),  # noqa: B008  # it never changes
    ) -> Record:
        """Return the record of a submission of this job, not stored anywhere yet.

        ``batch`` names the folder of the batch; without it the record is for looking at only, and a
        host that cannot be reached leaves its paths as they were written. Raises
        :class:`SettingsError`, :class:`RenderError`, :class:`SubmissionError`.
        """
        if batch:
            _unsubmitted.discard(self)
        record = self._draft().prepare(
            engine,
            self.cluster_reference,
            cache_id,
            parents,
            batch,
            terms,
        )
        rules = terms.retry or self._retry
        if rules is not None and not terms.is_elsewhere:
            there = replace(terms, retry=rules, is_elsewhere=True)
            for profile in rules.profiles():
                other = self.with_profile(profile).prepare(
                    engine,
                    cache_id=cache_id,
                    parents=parents,
                    batch=batch,
                    terms=there,
                )
                place = {**other.place(), "profile": profile}
                record.elsewhere = (*record.elsewhere, place)
        return record


def default_session() -> Session:
    """Return the session that job scripts are submitted with where nobody names one.

    Its store is ``JobScript.cache_folder``, else the one that is found: see :class:`Session`.
    """
    return open_default_session(JobScript.cache_folder)


def _attribute(name: str, value: object) -> str | bool | None:
    """Return the value of an attribute as it is kept; what it means is checked when it is used."""
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if value is None or isinstance(value, (str, bool)):
        return value
    raise SettingsError(f"{name} = {value!r}: expected a text")


def submit(
    jobs: Job | Iterable[Job],
    *,
    cache_ids: Iterable[str | None] | None = None,
    force: bool = False,
    retry: bool | Retry = True,
    after: After = (),
    bundle: bool = True,
    pack: int | str | None = None,
    pack_slots: int = 1,
    tags: Iterable[str] = (),
) -> Results:
    """Submit a batch with the default session: see :meth:`Session.submit`."""
    return default_session().submit(
        jobs,
        cache_ids=cache_ids,
        force=force,
        retry=retry,
        after=after,
        bundle=bundle,
        pack=pack,
        pack_slots=pack_slots,
        tags=tags,
    )


def plan(
    jobs: Job | Iterable[Job],
    *,
    cache_ids: Iterable[str | None] | None = None,
    force: bool = False,
    retry: bool = True,
    after: After = (),
) -> Plan:
    """Say what :func:`submit` would do with the same arguments, and why; nothing is submitted."""
    return default_session().plan(
        jobs, cache_ids=cache_ids, force=force, retry=retry, after=after
    )
