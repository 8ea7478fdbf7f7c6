"""Files of jobs that have not finished stay as they were submitted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from clusterjob.errors import RenderError
from clusterjob.status import Status
from clusterjob.store import Record, Store


def check_conflicts(store: Store, records: Sequence[Record]) -> None:
    """Refuse to change a file under a job that has not finished.

    Raises :class:`RenderError`.
    """
    # host and path: what tells the contents, and whose they are
    wanted: dict[tuple[str, str], tuple[str, Record]] = {}
    for record in records:
        for path, content in _files_of(record):
            first, owner = wanted.setdefault((record.host, path), (content, record))
            if first != content and owner.key != record.key:
                raise _conflict(path, owner.name, record.name)
    if not wanted:
        return
    for live in store.select(statuses=[Status.PENDING, Status.RUNNING]):
        for path, content in _files_of(live):
            found = wanted.get((live.host, path))
            if found is None:
                continue
            new, record = found
            if new != content and record.key != live.key:
                raise _conflict(path, f"{live.name} ({live.job_id})", record.name)


def _files_of(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the files of a job that others may name too, and what tells their contents."""
    yield from record.spec.target_paths(record.workdir).items()
    if record.spec.filename:
        yield os.path.join(record.workdir, record.spec.filename), f"key:{record.key}"


def _conflict(path: str, first: str, second: str) -> RenderError:
    return RenderError(
        f"{path} would be changed by job {second!r} while job {first!r}, which was submitted with "
        "other contents, has not finished. Give one of them another workdir or another file name"
    )
