"""What a job script becomes before it is a record: its key, its parents, its cluster."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re

from clusterjob.backend import Backend, ResourceValue, parse_array
from clusterjob.errors import ResourcesNotSupportedError, SettingsError, SubmissionError
from clusterjob.profile import Profile
from clusterjob.store import ClusterReference, JobSpec, Parent, Record

_KEY_VERSION = 1  # changes when equal jobs would get other keys
_canonical = json.JSONEncoder(sort_keys=True).encode


def job_key(spec: JobSpec, backend: str, workdir: str) -> str:
    """Return the hash that makes two submissions the same.

    ``cache_id``, else what computes the result, and where. Resources are not part of it but for the
    array: more time for a finished job does not run it again.
    """
    content: list[object]
    if spec.cache_id:
        content = ["cache_id", spec.cache_id]
    else:
        content = [
            _KEY_VERSION,
            spec.cluster.host,
            backend,
            workdir,
            spec.body,
            spec.shell,
            spec.aux,
            [(item.path, item.digest) for item in spec.inputs],
            spec.resources.get("array"),
        ]
    return hashlib.sha256(
        _canonical(content).encode("utf-8", "surrogatepass")
    ).hexdigest()


def check_name(
    backend: Backend, what: str, allowed: re.Pattern[str], name: str
) -> None:
    """Refuse names that the scheduler cannot take; its backend says which it can."""
    if not allowed.fullmatch(name):
        raise SettingsError(
            f"{what} {name!r} is not allowed by backend {backend.name!r}; "
            f"expected what {allowed.pattern!r} matches"
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


def parent_of(record: Record, reference: ClusterReference) -> Parent:
    """Return what a successor keeps of a job. Raises :class:`SubmissionError`."""
    if record.cluster_id != reference.cluster_id:
        raise SubmissionError(
            "a job can only come after jobs of the same scheduler; "
            f"{record.name!r} is with {record.backend!r}"
        )
    if record.finished:
        raise SubmissionError(
            f"job {record.name!r} ({record.job_id}) is {record.status}: "
            "what comes after it would never run"
        )
    if not record.job_id:
        why = record.task.words or record.phase.value
        raise SubmissionError(
            f"job {record.name!r} has no job id yet ({why}); submit its successors later"
        )
    names = [record.exit_name(index) for index in record.all_tasks()]
    return Parent(
        record.name,
        record.job_id,
        tuple(f"{record.folder}/{name}.exit" for name in names),
    )


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
    beside = [
        str(profile.path.parent / "backends")
        for profile in profiles
        if (profile.path.parent / "backends").is_dir()
    ]
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
        beside=(*dict.fromkeys(beside), *folders),
        overrides=overrides,
        source=str(profiles[-1].path) if overrides else "",
    )
