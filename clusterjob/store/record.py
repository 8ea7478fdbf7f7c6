"""What is remembered on disk of one submission: plain JSON values, nothing that needs code to be
read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from clusterjob.status import Reason, Status


class Phase(str, Enum):
    """How far a submission has come; only a record that is SUBMITTED has a job id."""

    # claimed; whether the scheduler has it is known from receipts or by asking for the token
    SUBMITTING = "submitting"
    DEFERRED = "deferred"  # the scheduler said "not now": offered again later, with the same token
    SUBMITTED = "submitted"


@dataclass(slots=True)
class Task:
    """The state of one job, or of one element of an array."""

    status: Status = Status.PENDING
    reason: Reason | None = None
    exit_code: int | None = None
    signal: int | None = None
    words: str = ""  # the scheduler's own, or ours where it has none
    started: float | None = None  # s since the epoch, on the job's host
    ended: float | None = None
    host: str = ""
    usage: dict[str, float] = field(default_factory=dict)  # elapsed, cpu: s; max_rss: MB
    runs: int = 1  # more than one where the scheduler started it over
    missing_since: float | None = None  # no good listing has shown it since then
    history: list[list[Any]] = field(default_factory=list)  # [time, status name, words]

    def to_json(self) -> dict[str, Any]:
        """Return the values that differ from the defaults."""
        return {
            name: value
            for name in _TASK_FIELDS
            if (value := getattr(self, name)) not in (None, "", {}, [])
            and (name, value) != ("runs", 1)
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        task = cls(**data)
        task.status = Status(task.status)
        task.reason = Reason(task.reason) if task.reason else None
        return task


_TASK_FIELDS = tuple(item.name for item in fields(Task))


class _Referable:
    """Gives a class with slots the one that weak references need (``weakref_slot`` is not in Python
    3.10).
    """

    __slots__ = ("__weakref__",)


@dataclass(eq=False, slots=True)
class Record(_Referable):
    """One submission of one job script.

    ``spec`` is what was asked for: enough to show, compare and submit it again.
    """

    key: str
    token: str
    name: str
    backend: str
    workdir: str
    runs: str  # absolute folder of the batch
    host: str = ""  # as the user wrote it; "" is this machine
    phase: Phase = Phase.SUBMITTING
    job_id: str | None = None
    cluster: str | None = None
    spec_json: str = "{}"
    created: float = 0.0  # s since the epoch, here
    submitted: list[float] = field(
        default_factory=list
    )  # first and last second of the submission on the scheduler's host
    retry_at: float | None = None
    cancel_requested: float | None = None
    place: str = (
        ""  # names backend, settings and host: the jobs of one place are asked for together
    )
    owner: str = ""  # the process that submits
    leased: float = 0.0  # s since the epoch; since then it does
    prologue: str = ""  # "" for none, else "due", "started", "done"
    epilogue: str = ""  # the same, or what went wrong
    outputs: str = ""  # "" for none, else "due", "done", or what went wrong
    wanted: list[list[str]] = field(
        default_factory=list
    )  # outputs that a later submission of the same job named, in place of the first one's
    into: str = ""  # and where it wants them
    task: Task = field(default_factory=Task)
    tasks: dict[int, Task] | None = None  # of an array
    _spec: dict[str, Any] | None = None

    def all_tasks(self) -> dict[int | None, Task]:
        """Return the elements of an array by their index, or the one task of any other job."""
        return (
            {None: self.task}
            if self.tasks is None
            else {index: task for index, task in self.tasks.items()}
        )  # noqa: C416  (wider keys)

    def exit_name(self, index: int | None) -> str:
        """Return the name, without ``.exit``, of the exit record of the job or of an array's
        element.
        """
        return self.token if index is None else f"{self.token}.{index}"

    @property
    def status(self) -> Status:
        return self.task.status

    @property
    def finished(self) -> bool:
        return self.task.status >= 0

    @property
    def fetches(self) -> tuple[list[list[str]], str]:
        """The outputs of the job, as pairs of pattern and new name, and the local folder they go
        into.
        """
        if self.wanted:
            return self.wanted, self.into
        return self.spec.get("outputs", []), self.spec.get("into") or self.spec.get("cwd") or ""

    @property
    def unsent(self) -> bool:
        """Whether the submission is open: it is not known yet that the scheduler has the job."""
        return self.phase is not Phase.SUBMITTED and not self.finished

    def renewed(self) -> Record:
        """Return a fresh record for another submission of the same job."""
        token = secrets.token_hex(8)
        return Record(
            key=self.key,
            token=token,
            name=self.name,
            backend=self.backend,
            host=self.host,
            workdir=self.workdir,
            runs=f"{os.path.dirname(self.runs)}/{token}",
            spec_json=self.spec_json,
            created=time.time(),
            place=self.place,
            prologue="due" if self.prologue else "",
            epilogue="due" if self.epilogue else "",
            outputs="due" if self.outputs else "",
            wanted=self.wanted,
            into=self.into,
            tasks=None if self.tasks is None else {index: Task() for index in self.tasks},
        )

    def take_over(self, owner: str, now: float) -> None:
        """Make the submission that of ``owner``."""
        self.phase, self.owner, self.leased, self.retry_at, self.task.words = (
            Phase.SUBMITTING,
            owner,
            now,
            None,
            "",
        )

    @property
    def spec(self) -> dict[str, Any]:
        """What was asked for; of a record that comes from a store it is read when it is first
        looked at.
        """
        if self._spec is None:
            self._spec = json.loads(self.spec_json)
        return self._spec

    def to_json(self) -> str:
        """Return the state of the record as JSON text: all but ``spec``, which never changes and
        stands beside it.
        """
        data: dict[str, Any] = {
            name: value for name in _PLAIN if (value := getattr(self, name)) not in (None, "", [])
        }
        data["phase"] = self.phase.value
        data["task"] = self.task.to_json()
        if self.tasks is not None:
            data["tasks"] = {str(index): task.to_json() for index, task in self.tasks.items()}
        return _ENCODE(data)

    @classmethod
    def from_json(cls, text: str, spec_json: str) -> Record:
        """Read a record. Raises ValueError, KeyError or TypeError for text that is none."""
        data = json.loads(text)
        task = Task.from_json(data.pop("task"))
        tasks = data.pop("tasks", None)
        record = cls(**data, task=task, spec_json=spec_json)
        record.phase = Phase(record.phase)
        if tasks is not None:
            record.tasks = {int(index): Task.from_json(value) for index, value in tasks.items()}
        return record

    def update_from(self, other: Record) -> None:
        """Take over the state of a newer reading of the same record."""
        for name in (*_PLAIN, "phase", "task", "tasks"):
            setattr(self, name, getattr(other, name))


_PLAIN = tuple(
    item.name
    for item in fields(Record)
    if item.name not in ("phase", "task", "tasks", "spec_json", "_spec")
)
_ENCODE = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def place_of(reference: dict[str, Any]) -> str:
    """Return the name of the place that a ``spec["backend"]`` describes; the way to it, and the
    profile's name, make no difference.
    """
    reference = {
        name: value
        for name, value in reference.items()
        if name not in ("transport", "ssh_config", "source")
    }
    return hashlib.sha256(
        json.dumps(reference, sort_keys=True).encode("utf-8", "surrogatepass")
    ).hexdigest()[:16]


def encode_spec(spec: dict[str, Any]) -> str:
    """Return a ``spec`` as the JSON text that a record is made with."""
    return _ENCODE(spec)
