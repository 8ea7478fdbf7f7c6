"""Files that several jobs name: those of jobs that have not finished stay as they were submitted;
and what jobs write over each other is told.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence

from clusterjob.errors import RenderError, first_of
from clusterjob.status import Status
from clusterjob.store import Record, Store

_log = logging.getLogger(__name__)
# of names that may be those of different files
_SIGNS = re.compile(r"[*?\[%$^{]")
# in names of logs: tells elements of one array apart, and no array from others
_INDEX = re.compile(r"%a|%I|\$\{?(TASK_ID|PBS_ARRAY_INDEX|PBS_ARRAYID)\b\}?")


def check_conflicts(store: Store, records: Sequence[Record]) -> None:
    """Refuse to change a file under a job that has not finished.

    Raises :class:`RenderError`.
    """
    for path, record, owner in find_conflicts(store, records):
        whose = f"{owner.name} ({owner.job_id})" if owner.job_id else owner.name
        raise RenderError(
            f"{path} would be changed by job {record.name!r} while job {whose!r}, which was "
            "submitted with other contents, has not finished. Give one of them another workdir or "
            "another file name"
        )


def find_conflicts(
    store: Store, records: Sequence[Record]
) -> Iterator[tuple[str, Record, Record]]:
    """Yield files that would be changed under a job that has not finished: the file, the record
    whose contents are other ones, and that of the job.
    """
    # host and path: what tells the contents, and whose they are
    wanted: dict[tuple[str, str], tuple[str, Record]] = {}
    for record in records:
        for path, content in _files_of(record):
            first, owner = wanted.setdefault((record.host, path), (content, record))
            if first != content and owner.key != record.key:
                yield path, record, owner
    if not wanted:
        return
    for live in store.select(statuses=[Status.PENDING, Status.RUNNING]):
        if live.is_held:
            continue
        for path, content in _files_of(live):
            found = wanted.get((live.host, path))
            if found is None:
                continue
            new, record = found
            if new != content and record.key != live.key:
                yield path, record, live


def tell_shared(records: Sequence[Record]) -> None:
    """Warn of files that several of the jobs write, none of which comes after another."""
    writers: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        for name, count in files_written(record).items():
            jobs = writers.setdefault((record.host, record.workdir, name), [])
            jobs += [record.name] * count
    for (_, workdir, name), jobs in writers.items():
        if len(jobs) > 1:
            _log.warning(
                "%d jobs write %r in %s, each over that of the others: %s. Give each a workdir of "
                "its own, or the file another name",
                len(jobs),
                name,
                workdir,
                first_of(list(dict.fromkeys(map(repr, jobs))), 3),
            )


def files_written(record: Record) -> dict[str, int]:
    """Return the files that a job writes by names that stand as written, and how often each."""
    found = {item.pattern: 1 for item in record.spec.outputs}
    asked = record.spec.resources
    for stream in ("stdout", "stderr"):
        if name := asked.get(stream):
            has_index = _INDEX.search(str(name))
            found[_INDEX.sub("INDEX", str(name))] = (
                1 if has_index else len(record.tasks or [stream])
            )
    return {
        name: count
        for name, count in found.items()
        if not _SIGNS.search(name) and not name.startswith("/dev/")
    }


def _files_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the files of a job that others may name too, and what tells their contents."""
    yield from record.spec.target_paths(record.workdir).items()
    if record.spec.filename:
        yield os.path.join(record.workdir, record.spec.filename), f"key:{record.key}"
