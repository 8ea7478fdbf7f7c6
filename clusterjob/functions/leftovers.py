"""Folders of calls that programs left behind, when they were killed and not run again."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from clusterjob.errors import ClusterJobError
from clusterjob.functions.book import Book, PoolRow, book_of
from clusterjob.functions.pool import end_pool
from clusterjob.functions.sites import place_of
from clusterjob.functions.station import is_free, owner_name
from clusterjob.functions.workers import Workers
from clusterjob.session import Session

_log = logging.getLogger(__name__)


@dataclass
class PrunedPools:
    """The folders that were (or would be) removed, and what could not be done."""

    removed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def prune_pools(
    session: Session, older_than: float, dry_run: bool = False
) -> PrunedPools:
    """Remove folders of calls whose programs are gone for more than ``older_than`` seconds.

    Where a worker is left the folder stays. Results that were picked up are kept; calls that have
    none are forgotten. Raises :class:`StoreError`.
    """
    found = PrunedPools()
    book = book_of(session.store)
    if not book.exists():
        return found
    before = time.time() - older_than
    for row in book.pools():
        if row.leased >= before or not is_free(row):
            continue
        try:
            if _has_workers(session, book, row):
                continue
            if not dry_run:
                place_of(session, row).remove()
                book.forget_pool(row)
        except ClusterJobError as error:
            found.problems.append(f"{row.folder} was kept: {error}")
            continue
        found.removed.append(row.folder)
    book.close()
    return found


def remove_empty_pools(session: Session, book: Book, fingerprint: str) -> None:
    """Remove folders in which no call is left, of programs that are gone.

    They are of programs that were killed after their last result. One that cannot be removed now
    stays.
    """
    owner = owner_name()
    try:
        for row in book.pools(fingerprint=fingerprint):
            if not is_free(row) or book.on_their_way(row):
                continue
            place = place_of(session, row)
            if not place.exists():
                book.forget_pool(row)
                continue
            listing = place.listing()
            has_calls = listing["todo"] or listing["taken"]  # none is remembered
            if not has_calls and book.take_pool(row, owner, time.time()):
                end_pool(place, book, row)
    except ClusterJobError as error:
        _log.debug("a folder of calls is left behind: %s", error)


def _has_workers(session: Session, book: Book, row: PoolRow) -> bool:
    workers = Workers(session, None, row, book)
    workers.restore()
    workers.refresh()
    return bool(workers.alive())
