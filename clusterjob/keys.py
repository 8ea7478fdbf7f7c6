"""What a job script becomes before it is a record: its key, its parents, its cluster."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from clusterjob import units
from clusterjob.backend import (
    COMMON_RESOURCES,
    Backend,
    Limits,
    ResourceValue,
    parse_array,
)
from clusterjob.errors import (
    ResourcesNotSupportedError,
    SettingsError,
    SubmissionError,
)
from clusterjob.profile import Profile
from clusterjob.status import Dependency
from clusterjob.store import ClusterReference, JobSpec, Parent, Record

RULES = 2  # changes when equal jobs would get other keys
_SHAPE = ("array", "nodes", "ppn", "threads", "gpus", "stdout", "stderr")
_ONE_IS_NO_WORD = ("nodes", "ppn", "threads")
# the scheduler's own options by which a job is queued and its owner is told; no outcome depends on
# them
_HARMLESS = {
    *("begin", "comment", "deadline", "hold", "mail-type", "mail-user", "nice"),
    *("no-requeue", "notification", "notify-user", "priority", "qos", "requeue"),
    *("reservation", "urgency", "wckey"),
}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_canonical = json.JSONEncoder(sort_keys=True).encode


def job_key(spec: JobSpec, name: str, backend: str, workdir: str) -> str:
    """Return the hash that makes two submissions the same.

    That is ``cache_id`` of a name on a cluster, else all that the outcome can depend on, and where
    it runs. What merely lets it run is not part of it: more ``time`` for a finished job does not
    run it again.
    """
    where = [spec.cluster.host, backend]
    if spec.cache_id:
        return _hash([RULES, "cache_id", spec.cache_id, name, *where])
    rows = [spec.rows] if spec.rows else []
    return _hash(
        [
            RULES,
            *where,
            *rows,
            workdir,
            name,
            spec.params,
            spec.setup,
            spec.body,
            spec.shell,
            spec.aux,
            [(item.path, item.digest) for item in spec.inputs],
            shape_of(spec),
            sorted(map(_dependency, spec.after)),
        ]
    )


def shape_of(spec: JobSpec) -> dict[str, ResourceValue]:
    """Return the resources that an outcome can depend on; one node, process or core is no word.

    Those are common ones, and the scheduler's own options but for a few.
    """
    found = {}
    for name, value in spec.resources.items():
        if name in COMMON_RESOURCES:
            is_one = value == 1 and name in _ONE_IS_NO_WORD
            counts = name in _SHAPE and not is_one
            if name == "array" and spec.rows:  # how many run at once does not count
                value = str(value).partition("%")[0]
        else:
            counts = name.lstrip("-").replace("_", "-") not in _HARMLESS
        if counts and value is not None:
            found[name] = value
    return found


def repeated_key(key: str, number: int) -> str:
    """Return the key of the ``number``-th job after the first of several equal ones in a batch."""
    return _hash([key, number]) if number else key


def former_key(spec: JobSpec, backend: str, workdir: str) -> str:
    """Return the key that the first rules gave, which knew less of what an outcome depends on."""
    if spec.cache_id:
        return _hash(["cache_id", spec.cache_id])
    return _hash(
        [
            1,
            spec.cluster.host,
            backend,
            workdir,
            spec.body,
            spec.shell,
            spec.aux,
            [(item.path, item.digest) for item in spec.inputs],
            spec.resources.get("array"),
        ]
    )


def _hash(content: Sequence[object]) -> str:
    text = _canonical(content).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def plain_params(params: Mapping[str, object]) -> dict[str, object]:
    """Return parameters as values that JSON has; of others their text, without addresses."""
    return {name: _plain(value) for name, value in params.items()}


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # the order of these changes from process to process
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value), key=_canonical)
    # numbers and arrays of numpy and the like
    listed = value.tolist() if hasattr(value, "tolist") else value
    if listed is not value and not isinstance(listed, type(value)):
        return _plain(listed)
    return _ADDRESS.sub("", str(value))


def check_name(
    backend: Backend, what: str, allowed: re.Pattern[str], name: str
) -> None:
    """Refuse names that the scheduler cannot take; its backend says which it can."""
    if not allowed.fullmatch(name):
        raise SettingsError(
            f"{what} {name!r} is not allowed by backend {backend.name!r}; "
            f"expected what {allowed.pattern!r} matches"
        )


def check_limits(limits: Limits, name: str, resources: Mapping[str, Any]) -> None:
    """Refuse a job that asks for more than the profile's [Limits] allow.

    Raises :class:`ResourcesNotSupportedError`.
    """
    counts = [resources.get(key) or 1 for key in ("nodes", "ppn", "threads")]
    cores = counts[0] * counts[1] * counts[2]
    mem, time = resources.get("mem") or 0, resources.get("time") or 0
    why = ""
    if limits.max_cores and cores > limits.max_cores:
        why = f"{cores} cores, and max_cores is {limits.max_cores}"
    elif limits.max_mem and mem > limits.max_mem:
        why = (
            f"{units.memory(mem)} of memory, and max_mem is "
            f"{units.memory(limits.max_mem)}"
        )
    elif limits.max_time and time > limits.max_time:
        why = f"{units.clock(time)}, and max_time is {units.clock(limits.max_time)}"
    if why:
        raise ResourcesNotSupportedError(
            f"job {name!r} asks for {why} ([Limits] of the profile)"
        )


def check_array(backend: Backend, array: ResourceValue | None) -> list[int]:
    """Return the indices of an array; none for any other job."""
    indices = parse_array(str(array)) if array else []
    most = backend.limits.array_size
    if len(indices) > most:
        raise ResourcesNotSupportedError(
            f"array {array!r} has {len(indices)} elements; "
            f"backend {backend.name!r} takes {most} ([Limits] array_size)"
        )
    return indices


def _dependency(parent: Parent) -> str:
    """Return what a key says of a job that comes before."""
    is_plain = parent.how is Dependency.AFTER_OK
    return parent.key if is_plain else f"{parent.how} {parent.key}"


def parent_of(
    record: Record,
    reference: ClusterReference,
    how: Dependency = Dependency.AFTER_OK,
    held: bool = False,
) -> Parent:
    """Return what a successor keeps of a job.

    One that is ``held`` waits for what becomes of it, wherever that is. Raises
    :class:`SubmissionError`.
    """
    is_done = record.has_met(how)
    if held:
        return record.as_parent(how)
    if not is_done and record.cluster_id != reference.cluster_id:
        raise SubmissionError(
            "a job can only come after jobs of the same scheduler; "
            f"{record.name!r} is with {record.backend!r}"
        )
    # what waits for a failure that did not come is told so, as a job that was cancelled
    is_alarm = how is Dependency.AFTER_NOT_OK
    if not record.can_meet(how) and not is_alarm:
        state = str(record.status)
        if not record.finished:
            state += ", and elements of it have failed for good"
        raise SubmissionError(
            f"job {record.name!r} ({record.job_id}) is {state}: "
            f"what comes after it ({how}) would never run"
        )
    if how is Dependency.AFTER_CORRESPONDING and record.tasks is None:
        raise SettingsError(
            f"job {record.name!r} is no array: it has no elements to come after ({how})"
        )
    return record.as_parent(how)


@functools.lru_cache(maxsize=256)
def cluster_reference(
    name: str,
    host: str,
    transport: str,
    ssh_config: str,
    profiles: tuple[Profile, ...],
    folders: tuple[str, ...],
) -> ClusterReference:
    """Return the reference of a cluster; equal ones of many jobs are one object."""
    overrides: dict[str, dict[str, str]] = {}
    for profile in profiles:
        for section, entries in profile.overrides.items():
            overrides.setdefault(section, {}).update(entries)
    return ClusterReference(
        name=name,
        host=host,
        transport=transport,
        ssh_config=os.path.abspath(os.path.expanduser(ssh_config))
        if ssh_config
        else "",
        beside=folders,
        overrides=overrides,
        source=str(profiles[-1].path) if overrides else "",
    )
