"""What lists of very many jobs show of each: text that stands beside its record.

It is read in place of the record, which takes a third of the time. A checksum over both tells text
that does not belong to its record, after an edit or with a damaged disk: there the record counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

from clusterjob.store.record import Record
from clusterjob.store.shape import check_listed, read_portion
from clusterjob.store.task import ONCE_DUE, ONCE_STARTED


class Listed(NamedTuple):
    """A record as lists need it; times are in s since the epoch."""

    token: str
    key: str
    name: str
    job_id: str | None
    member: str | None  # the cluster of a multi-cluster scheduler
    status: int
    reason: str | None
    exit_code: int | None
    signal: int | None
    words: str
    backend: str
    host: str
    workdir: str
    folder: str
    run_token: str  # of the attempt, which names its logs
    created: float
    started: float | None
    ended: float | None
    usage: Mapping[str, float]
    since: float  # when it came to its state, as far as is known
    is_due: bool  # its epilogue or its outputs are
    # as the user named its logs
    stdout: str | None
    stderr: str | None
    campaign: str
    tags: Sequence[str]
    user: str
    is_current: bool = True  # no later submission of the same job replaced it

    @classmethod
    def of(cls, record: Record, is_current: bool = True) -> Listed:
        """Return what lists need of a record."""
        task, resources = record.task, record.resources
        last = task.history[-1].time if task.history else None
        return cls(
            record.token,
            record.key,
            record.name,
            record.job_id,
            record.member,
            int(task.status),
            task.reason.value if task.reason else None,
            task.exit_code,
            task.signal,
            task.words,
            record.backend,
            record.host,
            record.workdir,
            record.folder,
            record.run_token,
            record.created,
            task.started,
            task.ended,
            task.usage,
            task.ended or last or record.created,
            record.epilogue in (ONCE_DUE, ONCE_STARTED) or record.outputs is ONCE_DUE,
            resources.get("stdout"),
            resources.get("stderr"),
            record.campaign,
            [*record.spec.tags],  # as JSON has them
            record.user,
            is_current,
        )

    def to_text(self, data: str) -> str:
        """Return the text that stands beside ``data``, the record as JSON."""
        values = _encode(self[_SEARCHED:-1])
        return _checksum(self[:_SEARCHED], data, values) + values


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_SUM = 8  # characters of a checksum
_SEARCHED = 4  # values that are columns of their own


def _checksum(searched: Sequence[object], data: object, values: str) -> str:
    token, key, name, job_id = searched
    text = f"{token}\n{key}\n{name}\n{job_id}\n{data}\n{values}"
    return f"{crc32(text.encode()):08x}"


def read_listed(rows: Sequence[Sequence[Any]]) -> list[Listed | None]:
    """Read the texts that stand beside records; None for each that is not that of its record.

    A row is the token, key, name and job id that it has for searching; then ``data``, ``listed``
    and ``current``, which is None where a later submission replaced the record.
    """
    found = read_portion([_values_in(row) for row in rows])
    if found is None or not check_listed([values for values in found if values]):
        return [None] * len(rows)
    return [
        Listed._make((*row[:_SEARCHED], *values, row[6] is not None))
        if values
        else None
        for values, row in zip(found, rows, strict=True)
    ]


def _values_in(row: Sequence[Any]) -> str:
    """Return the values in the text of a row; ``null`` where it does not belong to its record."""
    text = row[5]
    if isinstance(text, str):
        try:
            if _checksum(row[:_SEARCHED], row[4], text[_SUM:]) == text[:_SUM]:
                return text[_SUM:]
        except UnicodeEncodeError:  # what was no UTF-8
            pass
    return "null"
