"""What is remembered on disk of one submission: plain JSON values, nothing that needs code to be
read.

Names in JSON are those of the first version of the store, whatever the attributes are called.
"""

from __future__ import annotations

import itertools
import json
import operator
import os
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple

from clusterjob.status import Dependency, Reason, Status
from clusterjob.store.shape import check_records, check_specs, read_values
from clusterjob.store.spec import JobSpec, OutputPattern, Parent
from clusterjob.store.task import ONCE_NONE, Once, OnceState, Task


class Phase(str, Enum):
    """How far a submission has come; only a record that is SUBMITTED has a job id."""

    # claimed; whether the scheduler has it is known from receipts or by asking for the token
    SUBMITTING = "submitting"
    # the scheduler said "not now": offered again later, with the same token
    DEFERRED = "deferred"
    # it is not to be offered yet: until a time, or until others have come to an end
    HELD = "held"
    SUBMITTED = "submitted"


class Bundle(NamedTuple):
    """The array in which a single job went to its scheduler: each element is a job of its own, or
    a pack of them.
    """

    token: str  # of the array: its script, its receipt, the scheduler's lists
    folder: str  # where script and receipt are, absolute
    element: int  # its index
    array_id: str = ""  # the scheduler's id of the whole
    position: int = 0  # in the pack that the element is, from 1 on; 0: it is no pack


def _same_for(index: int, old: Parent, new: Parent) -> bool:
    """Whether what an element of an array comes after was not submitted anew."""
    if not old.token or old.token == new.token:
        return True
    if new.how is not Dependency.AFTER_CORRESPONDING:
        return False
    end = f".{index}.exit"
    files = [
        {path for path in parent.records if path.endswith(end)}
        for parent in (old, new)
    ]
    return files[0] == files[1]


def _dropped(task: Task, reason: Reason) -> Task:
    """Return a task that ended before it began."""
    ended = task.copy()
    ended.status, ended.reason = Status.CANCELLED, reason
    return ended


class _Referable:
    """Gives a class with slots the one that weak references need.

    ``weakref_slot`` is not in Python 3.10.
    """

    __slots__ = ("__weakref__",)


def attempt_token(token: str, attempt: int) -> str:
    """Return what names an attempt of a submission; the first one is called like that."""
    return token if attempt == 1 else f"{token}_{attempt}"


def full_job_id(job_id: str | None, member: str | None) -> str | None:
    """Return a scheduler's id, with the cluster that has the job where there are several."""
    return f"{job_id};{member}" if job_id is not None and member else job_id


@dataclass(eq=False, slots=True)
class Record(_Referable):
    """One submission of one job script."""

    key: str
    token: str
    name: str
    backend: str
    workdir: str
    folder: str  # of the batch, absolute
    host: str = ""  # as the user wrote it; "" is this machine
    phase: Phase = Phase.SUBMITTING
    job_id: str | None = None
    # the cluster of a multi-cluster scheduler that has the job
    member: str | None = None
    spec_json: str = "{}"
    created: float = 0.0  # s since the epoch, here
    # first and last second of the submission, on the scheduler's host
    submitted: tuple[float, float] | None = None
    retry_at: float | None = None
    cancel_requested: float | None = None
    cluster_id: str = ""  # the jobs of one cluster are asked for together
    bundle: Bundle | None = None  # where it did not go alone
    user: str = ""  # who submitted it, here
    campaign: str = ""  # the name of the campaign that it belongs to
    left: str = ""  # that of one which has others in its place since
    # other clusters that it may go to: see `place`; with a profile, when it is tried again
    elsewhere: tuple[dict[str, str], ...] = ()
    attempt: int = 1  # more than one where it is tried again by itself
    # attempts that are over: see clusterjob.engine.attempts
    past: tuple[dict[str, Any], ...] = ()
    # resources that are other ones than at first
    changed: dict[str, Any] = field(default_factory=dict)
    # what it comes after, where that was submitted anew since
    parents: tuple[Parent, ...] = ()
    owner: str = ""  # the process that submits
    leased: float = 0.0  # s since the epoch; since then it does
    prologue: Once = ONCE_NONE
    epilogue: Once = ONCE_NONE
    outputs: Once = ONCE_NONE
    # outputs that a later submission of the same job named, in place of the first one's
    wanted: tuple[OutputPattern, ...] = ()
    into: str = ""  # and where it wants them
    # the sha256 of programs that the body called when it was submitted, by their absolute paths
    programs: tuple[tuple[str, str], ...] = ()
    task: Task = field(default_factory=Task)
    tasks: dict[int, Task] | None = None  # of an array
    version: int = 0  # how often it was written over in its store
    _spec: JobSpec | None = None

    # -- what was asked for ------------------------------------------------------------------------

    @property
    def spec(self) -> JobSpec:
        """What was asked for."""
        if self._spec is None:
            self._spec = JobSpec.from_json(self.spec_json)
        return self._spec

    @property
    def output_patterns(self) -> tuple[OutputPattern, ...]:
        """The outputs that are to be fetched."""
        return self.wanted or self.spec.outputs

    @property
    def outputs_folder(self) -> str:
        """The folder here that outputs go into."""
        return self.into if self.wanted else self.spec.outputs_folder

    @property
    def resources(self) -> Mapping[str, Any]:
        """The resources of this attempt."""
        asked = self.spec.resources
        return {**asked, **self.changed} if self.changed else asked

    @property
    def after(self) -> tuple[Parent, ...]:
        """What it comes after."""
        return self.parents or self.spec.after

    def has_met(self, how: Dependency) -> bool:
        """Whether this job came to what another one waits for."""
        return how.is_met(self.status)

    def files_of(self, index: int | None) -> str:
        """Return the absolute path, without ending, of the files of the job or of an element."""
        kept = "" if index is None or self.tasks is None else self.tasks[index].files
        return kept or f"{self.folder}/{self.exit_name(index)}"

    def keep_completed(self, earlier: Record) -> None:
        """Take over the elements of an array that completed in an earlier submission of it, and
        that come after the same as then.
        """
        if self.tasks is None or earlier.tasks is None:
            return
        before = {parent.key: parent for parent in earlier.spec.after}
        pairs = [
            (before[parent.key], parent)
            for parent in self.spec.after
            if parent.key in before
        ]
        for index, task in earlier.tasks.items():
            are_same = all(_same_for(index, *pair) for pair in pairs)
            if task.status is Status.COMPLETED and index in self.tasks and are_same:
                self.tasks[index] = task.copy()
                self.tasks[index].files = earlier.files_of(index)

    def as_parent(self, how: Dependency) -> Parent:
        """Return what a job keeps of this one that comes after it."""
        return Parent(
            self.name,
            self.job_id or "",
            tuple(f"{self.files_of(index)}.exit" for index in self.all_tasks()),
            self.key,
            self.token,
            self.has_met(how),
            self.bundle.array_id if self.bundle is not None else "",
            how,
            over=self.finished and not self.has_met(how),
            late=not self.finished
            and how is not Dependency.AFTER_OK
            and bool(self.spec.retry or self.spec.pack),
        )

    def can_meet(self, how: Dependency) -> bool:
        """Whether this job came to what another one waits for, or may yet; of an array whose
        elements are waited for one by one, any of them.
        """
        if how is Dependency.AFTER_CORRESPONDING and self.tasks is not None:
            states = [task.status for task in self.tasks.values()]
            return min(states) <= Status.COMPLETED
        if how is Dependency.AFTER_OK and self.has_lost_elements:
            return False
        return not self.finished or self.has_met(how)

    @property
    def has_lost_elements(self) -> bool:
        """Whether elements of an array have failed for good, whatever others come to that are tried
        again: the scheduler's job of this attempt is without them.
        """
        return self.attempt > 1 and any(
            task.status > Status.COMPLETED and task.attempt < self.attempt
            for task in (self.tasks or {}).values()
        )

    @property
    def waits_for(self) -> tuple[Parent, ...]:
        """The parents that had not come to what is wanted when the job was submitted."""
        return tuple(parent for parent in self.after if not parent.done)

    # -- what became of it -------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """The state of the whole job."""
        return self.task.status

    @property
    def finished(self) -> bool:
        """Whether that state is final."""
        return self.task.status >= 0

    def makes_room(self, new: Record, force: bool, retry: bool) -> bool:
        """Whether this job gives its key to a new submission.

        One that has ended does with ``force``, where it did not complete with ``retry``, and where
        a job that it came after ran again since.
        """
        if not self.finished:
            return False
        has_failed = self.status > Status.COMPLETED
        return force or (retry and has_failed) or self.came_before(new)

    def yields_to(
        self, new: Record, force: bool = False, retry: bool = False
    ) -> bool:
        """Whether this job gives its key to ``new``: see :meth:`makes_room`.

        What completed of an array is then that of the new one, unless all is to run again.
        """
        if not self.makes_room(new, force, retry):
            return False
        if new.is_dropped and self.is_dropped:
            return False  # it would come to the same end
        if not force:
            new.keep_completed(self)
        return True

    def came_before(self, new: Record) -> bool:
        """Whether a parent of this job was submitted anew since, as ``new`` says."""
        parents = {parent.key: parent.token for parent in new.spec.after}
        if not parents:
            return False
        return any(
            parent.token and parents.get(parent.key, parent.token) != parent.token
            for parent in self.spec.after
        )

    @property
    def full_job_id(self) -> str | None:
        """The scheduler's id, as :attr:`AsyncResult.job_id` has it."""
        return full_job_id(self.job_id, self.member)

    @property
    def submission(self) -> tuple[str, str]:
        """The folder and the token of what its scheduler was given: a job, or an array of jobs."""
        if self.bundle is None:
            return self.folder, self.run_token
        return self.bundle.folder, self.bundle.token

    @property
    def is_packed(self) -> bool:
        """Whether it runs in one of its scheduler's jobs with others, one after another."""
        return self.bundle is not None and self.bundle.position > 0

    @property
    def submitted_id(self) -> str | None:
        """The scheduler's id of what it was given."""
        return self.job_id if self.bundle is None else self.bundle.array_id or None

    @property
    def is_dropped(self) -> bool:
        """Whether it was cancelled because of what a job came to that it comes after; of an array
        all of it.
        """
        return self.status is Status.CANCELLED and all(
            task.status is Status.CANCELLED and task.reason is Reason.DEPENDENCY
            for task in self.all_tasks().values()
            if not task.files  # it completed in an earlier submission
        )

    @property
    def settled(self) -> bool:
        """Whether the job has ended, and its outputs have come or cannot."""
        return self.finished and self.outputs.state is not OnceState.DUE

    @property
    def unsent(self) -> bool:
        """Whether the submission is open: it is not known yet that the scheduler has the job."""
        is_open = self.phase is not Phase.SUBMITTED and not self.finished
        return is_open and not self.is_held

    @property
    def is_held(self) -> bool:
        """Whether its campaign has not let it go yet."""
        is_waiting = self.phase is Phase.HELD and self.retry_at is None
        return is_waiting and not self.finished

    def all_tasks(self) -> dict[int | None, Task]:
        """Return the elements of an array by their index, or the one task of any other job."""
        if self.tasks is None:
            return {None: self.task}
        return dict(self.tasks.items())

    def exit_name(self, index: int | None) -> str:
        """Return the name, without ``.exit``, of the exit record of the job or of an element."""
        if index is None or self.tasks is None:
            return self.run_token
        return f"{attempt_token(self.token, self.tasks[index].attempt)}.{index}"

    @property
    def run_token(self) -> str:
        """What names this attempt in its folder, and to the scheduler."""
        return attempt_token(self.token, self.attempt)

    # -- where it goes -----------------------------------------------------------------------------

    def place(self) -> dict[str, str]:
        """Return what is particular to the cluster that the job goes to."""
        return {
            "spec": self.spec_json,
            "backend": self.backend,
            "host": self.host,
            "workdir": self.workdir,
            "folder": self.folder,
            "cluster": self.cluster_id,
        }

    def move(self, cluster_id: str, profile: str = "") -> None:
        """Let a job that is with no scheduler go to another one of its clusters."""
        if cluster_id == self.cluster_id and not profile:
            return
        wanted = next(
            item
            for item in self.elsewhere
            if item["cluster"] == cluster_id and item.get("profile", "") == profile
        )
        others = [item for item in self.elsewhere if item is not wanted]
        # where it failed it does not go back
        here = [] if profile else [self.place()]
        if "keys" in wanted:
            here = [{**item, "keys": wanted["keys"]} for item in here]
        self.elsewhere = (*others, *here)
        self.spec_json, self._spec = wanted["spec"], None
        self.backend, self.host = wanted["backend"], wanted["host"]
        self.workdir, self.folder = wanted["workdir"], wanted["folder"]
        self.cluster_id = cluster_id

    # -- other records of it -----------------------------------------------------------------------

    def renewed(self, batch: str, spec: JobSpec) -> Record:
        """Return a fresh record for another submission of the same job, in another batch.

        ``spec`` is that of this record, but for what is new of its parents.
        """
        is_same = spec is self.spec
        return Record(
            key=self.key,
            token=secrets.token_hex(8),
            name=self.name,
            backend=self.backend,
            host=self.host,
            workdir=self.workdir,
            folder=f"{os.path.dirname(self.folder)}/{batch}",
            spec_json=self.spec_json if is_same else spec.to_json(),
            _spec=spec,
            created=time.time(),
            cluster_id=self.cluster_id,
            prologue=Once.due_if(self.prologue is not ONCE_NONE),
            epilogue=Once.due_if(self.epilogue is not ONCE_NONE),
            outputs=Once.due_if(self.outputs is not ONCE_NONE),
            wanted=self.wanted,
            into=self.into,
            user=self.user,
            campaign=self.campaign,
            tasks=None
            if self.tasks is None
            else {index: Task() for index in self.tasks},
        )

    def drop(self, reason: Reason) -> None:
        """Let a job end that its scheduler never had; what completed of an array before stays."""
        if self.tasks is not None:
            self.tasks = {
                index: task if task.status.finished else _dropped(task, reason)
                for index, task in self.tasks.items()
            }
        self.task = _dropped(self.task, reason)
        self.task.note_event(time.time(), Status.CANCELLED.name, str(reason))

    def leave_campaign(self) -> None:
        """Be no part of a campaign any more, which remembers whose it was."""
        self.campaign, self.left = "", self.campaign

    def drop_elements(self, indices: Collection[int]) -> None:
        """Let elements of an array end that are never submitted: what they come after failed."""
        self.tasks = {
            index: _dropped(task, Reason.DEPENDENCY) if index in indices else task
            for index, task in (self.tasks or {}).items()
        }

    def take_over(self, owner: str, now: float) -> None:
        """Make the submission that of ``owner``."""
        self.phase = Phase.SUBMITTING
        self.owner = owner
        self.leased = now
        self.retry_at = None
        self.task.words = ""

    def update_from(self, other: Record) -> None:
        """Take over the state of a newer reading of the same record."""
        for name in _STATE:
            setattr(self, name, getattr(other, name))
        if other.spec_json != self.spec_json:  # it moved to another cluster
            self.spec_json, self._spec = other.spec_json, other._spec

    def snapshot(self) -> Record:
        """Return a copy to go back to. Tasks of an array are shared: they are never changed, but
        replaced.
        """
        kept = Record(*_values_of_record(self))
        kept.task = self.task.copy()
        kept.tasks = None if self.tasks is None else dict(self.tasks)
        return kept

    # -- JSON --------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the state as JSON text: all but the spec, which stands beside it."""
        values = _values_of_words(self)
        # of those that say something
        words = itertools.compress(_WORDS.values(), values)
        data: dict[str, Any] = dict(zip(words, filter(None, values), strict=True))
        if self.attempt == 1:
            del data["attempt"]
        if self.parents:
            data["parents"] = [parent.to_json() for parent in self.parents]
        for name in _ONCE:
            once = getattr(self, name)
            if once is not ONCE_NONE and (text := once.to_json()):
                data[name] = text
        data["phase"] = self.phase.value
        data["task"] = self.task.to_json()
        if self.tasks is not None:
            data["tasks"] = {
                str(index): task.to_json() for index, task in self.tasks.items()
            }
        return _encode(data)

    @classmethod
    def from_json(cls, text: str, spec_json: str) -> Record:
        """Read a record. Raises ValueError for texts that are none."""
        state, spec = read_values(text), read_values(spec_json)
        check_records([state])
        check_specs([spec])
        return cls.of(state, spec, spec_json)

    @classmethod
    def of(cls, data: dict[str, Any], spec: dict[str, Any], spec_json: str) -> Record:
        """Make a record of plain values that were checked: its state, and its spec."""
        task = Task.from_json(data.pop("task"))
        tasks = data.pop("tasks", None)
        parents = data.pop("parents", ())
        for name, word in _RENAMED.items():
            if word in data:
                data[name] = data.pop(word)
        for name in _ONCE:
            if name in data:
                data[name] = Once.from_json(data[name])
        record = cls(**data, task=task, spec_json=spec_json, _spec=JobSpec.of(spec))
        record.phase = Phase(record.phase)
        if record.submitted is not None:  # JSON has lists alone
            began, ended = record.submitted
            record.submitted = (began, ended)
        if record.bundle is not None:
            record.bundle = Bundle(*record.bundle)
        record.past, record.elsewhere = tuple(record.past), tuple(record.elsewhere)
        record.parents = tuple(map(Parent.from_json, parents))
        record.programs = tuple((path, digest) for path, digest in record.programs)
        record.wanted = tuple(OutputPattern(*item) for item in record.wanted)
        if tasks is not None:
            record.tasks = {
                int(index): Task.from_json(value) for index, value in tasks.items()
            }
        return record


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_values_of_record = operator.attrgetter(*(item.name for item in fields(Record)))
_ONCE = ("prologue", "epilogue", "outputs")
_STATE = tuple(
    item.name for item in fields(Record) if item.name not in ("spec_json", "_spec")
)
_RENAMED = {"cluster_id": "place", "folder": "runs", "member": "cluster"}
# attribute: its name in JSON, for values that are JSON as they stand
_WORDS = {
    name: _RENAMED.get(name, name)
    for name in _STATE
    if name not in (*_ONCE, "phase", "task", "tasks", "parents")
}
_values_of_words = operator.attrgetter(*_WORDS)
