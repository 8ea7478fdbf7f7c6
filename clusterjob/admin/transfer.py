"""Moving records from one store to another, also of another kind."""

from __future__ import annotations

from dataclasses import dataclass

from clusterjob.store import Store


@dataclass(frozen=True)
class Transfer:
    """What came of copying: counts of records, and the tokens of damaged ones, which stay."""

    records: int
    new: int
    damaged: list[str]


def copy_records(source: Store, target: Store) -> Transfer:
    """Copy all records; what the target has already stays as it is there.

    Raises :class:`StoreError`.
    """
    records = source.select(earlier=True)
    new = target.import_records(records)
    damaged = [found.token for found in source.examine().damaged]
    return Transfer(len(records), new, damaged)
