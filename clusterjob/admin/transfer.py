"""Moving records from one store to another, also of another kind."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from clusterjob.store import ONCE_NONE, Store


@dataclass(frozen=True)
class Transfer:
    """What came of copying: counts of records, and the tokens of damaged ones, which stay.

    ``left_out`` are jobs of another user that have not ended.
    """

    records: int
    new: int
    damaged: list[str]
    left_out: int = 0


def copy_records(source: Store, target: Store) -> Transfer:
    """Copy all records and campaigns; what the target has already stays as it is there.

    Of another user's store only jobs that have ended come, without what may be due for them: a
    record names commands, which would be run as this user. Raises :class:`StoreError`.
    """
    records = source.select(earlier=True)
    left_out = 0
    if source.owner:
        ended = [record for record in records if record.finished]
        left_out = len(records) - len(ended)
        records = ended
        for record in records:
            record.prologue = record.epilogue = record.outputs = ONCE_NONE
    new = target.import_records(records)
    for name, data in source.campaigns().items() if not source.owner else ():
        target.change_campaign(name, functools.partial(_known_or, data))
    damaged = [found.token for found in source.examine().damaged]
    return Transfer(len(records), new, damaged, left_out)


def _known_or(data: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    return data if known is None else known
