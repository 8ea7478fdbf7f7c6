"""What was asked for in a submission: enough to show, compare and submit it again.

It never changes. In a store it is JSON text of plain values, and only what was given is written.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from clusterjob.status import Dependency
from clusterjob.store.shape import check_specs, read_values

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class InputFile(NamedTuple):
    """One input: its path in the workdir, its sha256, and where it is on this machine.

    One that a job before makes has neither.
    """

    path: str
    digest: str
    source: str


class OutputPattern(NamedTuple):
    """What is fetched when the job has ended, and the name it gets here (empty: the same)."""

    pattern: str
    name: str


@dataclass(frozen=True)
class Parent:
    """A job that another one comes after, and its exit records on the scheduler's host.

    ``key`` and ``token`` name the submission; of a job that an older version wrote they are empty.
    ``how``: what it must have come to; ``done``: it had, so that nothing has to wait for it.
    ``array_id``: the scheduler's id of the array that it is an element of, where it is a job of its
    own. ``over``: it had ended otherwise, of an array perhaps not all of it; ``late``: that it ends
    for its scheduler may not be its last end.
    """

    name: str
    job_id: str
    records: tuple[str, ...]
    key: str = ""
    token: str = ""
    done: bool = False
    array_id: str = ""
    how: Dependency = Dependency.AFTER_OK
    over: bool = False
    late: bool = False

    @property
    def is_array(self) -> bool:
        """Whether it has elements, each with an exit record of its own: ``TOKEN.3.exit``."""
        return any(os.path.basename(path).count(".") == 2 for path in self.records)

    @property
    def is_element(self) -> bool:
        """Whether it went to its scheduler as an element of an array of single jobs, or in one."""
        return bool(self.array_id)

    @property
    def is_packed(self) -> bool:
        """Whether such an element runs others besides it."""
        return self.is_element and "/" in self.job_id

    @property
    def elements(self) -> dict[str, list[int]]:
        """The elements of an array by what their files are called before index and ending: those
        that completed in an earlier submission have the files of that.
        """
        found: dict[str, list[int]] = {}
        for path in self.records:
            base, _, index = path.removesuffix(".exit").rpartition(".")
            if index.isdecimal():
                found.setdefault(base, []).append(int(index))
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parent:
        parent = {**data, "records": tuple(data["records"])}
        if "how" in data:
            parent["how"] = Dependency(data["how"])
        return cls(**parent)

    def to_json(self) -> dict[str, Any]:
        data = {
            "name": self.name,
            "job_id": self.job_id,
            "records": list(self.records),
        }
        for name in ("key", "token", "done", "array_id", "over", "late"):
            if value := getattr(self, name):
                data[name] = value
        if self.how is not Dependency.AFTER_OK:
            data["how"] = self.how.value
        return data


@dataclass(frozen=True)
class ClusterReference:
    """The cluster that a job goes to: a backend, what a profile changes in it, and a host.

    ``beside`` are folders of backends that are looked in first, ``source`` is the profile that the
    overrides came from. ``transport`` and ``ssh_config`` say how the host is reached.
    """

    name: str = "local"
    host: str = ""  # as the user wrote it; "" is this machine
    transport: str = ""
    ssh_config: str = ""
    beside: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict, hash=False
    )
    source: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ClusterReference:
        return cls(**{**data, "beside": tuple(data.get("beside", ()))})

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "host": self.host}
        for key in ("transport", "ssh_config", "overrides", "source"):
            if value := getattr(self, key):
                data[key] = value
        if self.beside:
            data["beside"] = list(self.beside)
        return data

    @functools.cached_property
    def identity(self) -> str:
        """A text that is equal for equal references."""
        return json.dumps(self.to_json(), sort_keys=True)

    @functools.cached_property
    def cluster_id(self) -> str:
        """The name of the cluster, the same whatever the way to it and the profile's name."""
        data = self.to_json()
        for key in ("transport", "ssh_config", "source"):
            data.pop(key, None)
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class JobSpec(NamedTuple):
    """One job as it was asked for.

    Texts are rendered, resources are in the form they have inside.
    """

    body: str = ""
    resources: Mapping[str, Any] = {}
    shell: str = "/bin/bash"
    cluster: ClusterReference = ClusterReference()
    cwd: str = ""  # here, where the job was submitted from
    aux: Mapping[str, str] = {}  # auxiliary scripts, by path
    inputs: tuple[InputFile, ...] = ()
    outputs: tuple[OutputPattern, ...] = ()
    into: str = ""  # the folder here that outputs go into
    after: tuple[Parent, ...] = ()
    prologue: str = ""
    epilogue: str = ""
    filename: str = ""  # of the script, where the user named it
    attributes: Mapping[str, str] = {}  # that directives use
    cache_id: str | None = None
    setup: str = ""  # shell that runs before the body
    params: Mapping[str, Any] = {}  # as plain values
    rules: int = 1  # by which the key was made: see clusterjob.keys
    # of an array: the variables of each element, the first of which has the index 1
    rows: tuple[Mapping[str, str], ...] = ()
    alone: bool = False  # it does not go with others in an array
    # how many run in one of the scheduler's jobs: the numbers of clusterjob.packing
    pack: Mapping[str, int] = {}
    tags: tuple[str, ...] = ()
    base: str = ""  # the name of the sweep that it is a row of
    apart: bool = False  # and its workdir was named after its row
    # when it is tried again by itself: the rules of clusterjob.retry
    retry: Mapping[str, Any] = {}

    @property
    def outputs_folder(self) -> str:
        """The folder here that outputs go into; older records know only the one before last."""
        return self.into or self.cwd

    @classmethod
    def from_json(cls, text: str) -> JobSpec:
        """Read a spec. Raises ValueError for text that is none."""
        data = read_values(text)
        check_specs([data])
        return cls.of(data)

    @classmethod
    def of(cls, data: dict[str, Any]) -> JobSpec:
        """Make one of plain values that were checked."""
        backend = data.pop("backend", None)
        if backend is not None:
            data["cluster"] = ClusterReference.from_json(backend)
        for key, kind in (("inputs", InputFile), ("outputs", OutputPattern)):
            if key in data:
                data[key] = tuple(kind(*item) for item in data[key])
        for key in ("rows", "tags"):
            if key in data:
                data[key] = tuple(data[key])
        if "after" in data:
            data["after"] = tuple(map(Parent.from_json, data["after"]))
        return cls(**data)

    def to_json(self) -> str:
        """Return the JSON text that a record keeps."""
        data: dict[str, Any] = {
            "body": self.body,
            "resources": self.resources,
            "shell": self.shell,
            "backend": self.cluster.to_json(),
            "cwd": self.cwd,
        }
        for key in _OPTIONAL:
            if value := getattr(self, key):
                data[key] = value
        if self.rules > 1:
            data["rules"] = self.rules
        if self.after:
            data["after"] = [parent.to_json() for parent in self.after]
        return _encode(data)

    def target_paths(self, workdir: str) -> dict[str, str]:
        """Return the files that this job puts into its workdir, and what tells their contents."""
        files = {name: f"text:{text}" for name, text in self.aux.items()}
        files |= {item.path: item.digest for item in self.inputs}
        return {
            os.path.join(workdir, path): content for path, content in files.items()
        }


_OPTIONAL = (
    "aux",
    "inputs",
    "outputs",
    "prologue",
    "epilogue",
    "filename",
    "attributes",
    "cache_id",
    "into",
    "setup",
    "params",
    "alone",
    "pack",
    "retry",
    "rows",
    "tags",
    "base",
    "apart",
)
