"""Jobs that are not submitted because they were before: finding them also under the keys of older
versions, and saying so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import (
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)

from clusterjob.engine import Neighbour, Neighbours, sweeps_apart
from clusterjob.errors import first_of
from clusterjob.keys import RULES, former_key, shape_of
from clusterjob.status import Status
from clusterjob.store import OLD_KEYS, Record, Store

_log = logging.getLogger(__name__)
_MOST_TOLD = 3  # of pairs of jobs with one thing to be said


def find_former(store: Store, records: Sequence[Record]) -> dict[str, Record]:
    """Return, by their tokens, what an older version submitted of the jobs, where that is known by
    its old key alone. Each old record stands for one job.
    """
    if not store.notes(OLD_KEYS):
        return {}
    known = store.by_keys([record.key for record in records])
    new = [record for record in records if record.key not in known]
    keys = {
        record.token: former_key(record.spec, record.backend, record.workdir)
        for record in new
    }
    old = store.by_keys(list(dict.fromkeys(keys.values())))
    found = {}
    for record in new:
        earlier = old.get(keys[record.token])
        if earlier is not None and _fits(store, earlier, record):
            found[record.token] = old.pop(earlier.key)
    return found


def adopt_former(store: Store, records: Sequence[Record]) -> None:
    """Give what an older version submitted the keys that it has now, so that it is found.

    Raises :class:`StoreError`.
    """
    found = find_former(store, records)
    if not found:
        return
    keys = {
        found[record.token].token: (found[record.token].key, record.key)
        for record in records
        if record.token in found
    }

    def rename(stored: Record) -> bool:
        before, now = keys[stored.token]
        if stored.key != before:
            return False  # another process was quicker
        stored.key = now
        return True

    store.update(found.values(), rename)
    _log.warning(
        "%s of this batch were found under the key of an older version of clusterjob, which knew "
        "less of what an outcome depends on, and are taken for the same: %s",
        _counted(len(found), "job"),
        _names(found.values()),
    )


def _fits(store: Store, old: Record, new: Record) -> bool:
    """Whether a job of the first rules is the same by today's, as far as that was written down."""
    if old.spec.rules >= RULES or old.name != new.name:
        return False
    if shape_of(old.spec) != shape_of(new.spec):
        return False
    waited_for = {
        os.path.basename(path).partition(".")[0]
        for parent in old.spec.after
        for path in parent.records
    }
    now = {parent.token for parent in new.spec.after}
    had_completed = store.by_tokens(now - waited_for).values()
    is_older = all(parent.created <= old.created for parent in had_completed)
    return waited_for <= now and is_older


def tell_reused(records: Sequence[Record], total: int) -> None:
    """Say in the log, once a batch, that jobs were found rather than submitted."""
    if records:
        _log.info(
            "%d of %s were submitted before, and were not submitted again: %s",
            len(records),
            _counted(total, "job"),
            _names(records),
        )


def tell_changed(changed: Mapping[str, Sequence[Record]]) -> None:
    """Say in the log that programs were changed since jobs ran that are not submitted again."""
    for path, records in changed.items():
        _log.warning("%s: %s", _names(records), words_for_changed(path, records[0]))


def tell_overtaken(
    store: Store,
    neighbours: Neighbours,
    reused: Sequence[Record],
    fresh: Sequence[Record],
) -> None:
    """Say in the log where files of jobs that were not run again may be those of other jobs.

    That matters of what fresh jobs come after, of outputs that are fetched, and of sweeps whose
    rows have a workdir each.
    """
    tokens = {
        parent.token
        for record in fresh
        for parent in record.spec.after
        if parent.done
    }
    parents = store.by_tokens(tokens) if tokens else {}
    apart = sweeps_apart([*reused, *fresh])
    wanted = {
        record.token: record
        for record in reused
        if record.finished and (record.output_patterns or record.spec.base in apart)
    }
    looked_at = parents | wanted
    if not looked_at:
        return
    known = {record.token for record in (*reused, *fresh)} | tokens
    found = find_overtaken(neighbours, looked_at.values(), known, parents, apart)
    _tell_pairs(
        list(found),
        "was not run again, and {other} ran in the same workdir since: the files there may be "
        "those of the later one. Give each a workdir of its own, or submit the first with "
        "force=True",
    )


def _tell_pairs(pairs: Sequence[tuple[Record, Neighbour]], words: str) -> None:
    """Say the same in the log of the first few of pairs of jobs, and how many more there are."""
    for record, other in pairs[:_MOST_TOLD]:
        told = words.format(other=f"{other.name!r} ({other.job_id})")
        _log.warning("%r (%s) %s", record.name, record.job_id, told)
    if len(pairs) > _MOST_TOLD:
        _log.warning("so it is with %d more jobs", len(pairs) - _MOST_TOLD)


def tell_occupied(
    store: Store,
    neighbours: Neighbours,
    reused: Sequence[Record],
    fresh: Sequence[Record],
) -> None:
    """Say in the log where other versions of jobs that were just submitted are at work on the same
    files.
    """
    known = {record.token for record in (*reused, *fresh)}
    apart = sweeps_apart([*reused, *fresh])
    writing = [
        record
        for record in fresh
        if record.output_patterns or record.spec.base in apart
    ]
    workdirs = {(record.host, record.workdir) for record in writing}
    is_any_at_work = writing and any(
        (item.host, item.workdir) in workdirs and item.token not in known
        for item in store.listed([Status.PENDING, Status.RUNNING])
    )
    if not is_any_at_work:
        return
    neighbours.update()
    found = [
        (record, other)
        for record in writing
        for other, shares in neighbours.versions(record, apart)
        if (shares or record.spec.base in apart)
        and other.status < Status.COMPLETED
        and other.token not in known
    ]
    _tell_pairs(
        found,
        "was submitted, and {other} is at work in the same workdir: the files there may end up as "
        "those of the earlier one. Cancel it, or give each a workdir of its own",
    )


def find_overtaken(
    neighbours: Neighbours,
    records: Collection[Record],
    known: Container[str] = (),
    parents: Container[str] = (),
    apart: Container[str] = (),
) -> Iterator[tuple[Record, Neighbour]]:
    """Yield the jobs whose files others in their places may have written over, with such a one:
    see :meth:`Neighbours.versions`.

    Those with the tokens ``known`` stand beside each other on purpose; of ``parents`` it does not
    matter which outputs they declare, nor of sweeps whose rows are ``apart``.
    """
    if records:
        neighbours.update()
    for record in records:
        matters = record.token in parents or record.spec.base in apart
        for other, shares in neighbours.versions(record, apart):
            is_beside = other.token in known or not _wrote_later(other, record)
            if not is_beside and (shares or matters):
                yield record, other
                break


def _wrote_later(other: Neighbour, record: Record) -> bool:
    """Whether a job was submitted after another one, or ended after it."""
    if other.created > record.created or other.status < Status.COMPLETED:
        return True
    return (other.ended or 0.0) > (record.task.ended or other.ended or 0.0)


def words_for_changed(path: str, record: Record) -> str:
    """Return what to say of a program that was changed since a job was submitted."""
    name = path.removeprefix(record.workdir.rstrip("/") + "/")
    return f"{name} has changed since; add it to inputs, or submit with force=True"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _names(records: Iterable[Record], most: int = 3) -> str:
    return first_of(
        [f"{record.name!r} ({record.job_id})" for record in records], most
    )
