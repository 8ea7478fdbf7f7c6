"""Claim, upload, submit, record: how a batch of jobs gets to its scheduler, each of them once.

A record is written before anything is sent; its token names the job in its folder, in the receipts
and to the scheduler. What a process that died left behind is finished by
:mod:`clusterjob.engine.recovery`, with the same tokens.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from clusterjob.engine.bundles import bundle
from clusterjob.engine.conflicts import check_conflicts
from clusterjob.engine.job_files import uploads_of
from clusterjob.engine.lease import Lease, process_name
from clusterjob.engine.local_scripts import run_prologue
from clusterjob.engine.offering import Refusal, offer
from clusterjob.engine.scheduler import Scheduler
from clusterjob.errors import (
    StoreError,
    SubmissionError,
    first_of,
)
from clusterjob.files import upload
from clusterjob.store import Again, Phase, Record, Store

_DAMAGED = "a record in the store is damaged, and is or may be this job's: see 'clusterjob doctor'"
_NAMES = 3  # of refused jobs, in an error


@dataclass(frozen=True, eq=False)
class Submitted:
    """What became of a batch: the record of each key, in order, and the refusals."""

    winners: list[Record]
    refused: list[Refusal]


def submit_records(
    store: Store,
    scheduler: Scheduler,
    records: Sequence[Record],
    again: Again,
    alone: Collection[str] = (),
) -> Submitted:
    """Submit the records whose keys are free, or whose holders ``again`` says to replace.

    Single jobs that ask for the same go as one array, but for those with the tokens ``alone``.
    Whatever goes wrong before the scheduler is asked leaves nothing in the store. Where it is not
    known what the scheduler did, the records stay as they are, and are finished later.
    """
    check_conflicts(store, records)
    now, me = time.time(), process_name()
    for record in records:
        if record.phase is not Phase.HELD:
            record.owner, record.leased = me, now
    # the lease comes before the claim: another thread's poll would take the jobs for abandoned
    with Lease(store, records):
        held = store.claim(
            records,
            again,
            lambda fresh: bundle(
                scheduler.backend, fresh, scheduler.array_size, alone
            ),
        )
        winners: list[Record] = []
        refused: list[Refusal] = []
        fresh: dict[str, Record] = {}
        mine = {id(record) for record in records}
        for record, holder in zip(records, held, strict=True):
            winners.append(record if holder is None else holder)
            if holder is None:
                refused.append(Refusal(record, _DAMAGED))
            elif id(holder) in mine and holder.phase is not Phase.HELD:
                fresh[holder.token] = holder
        if fresh:
            refused += _send(store, scheduler, list(fresh.values()))
    return Submitted(winners, refused)


def _send(
    store: Store, scheduler: Scheduler, fresh: Sequence[Record]
) -> list[Refusal]:
    """Bring claimed jobs to the scheduler; refused ones are taken out of the store again."""
    try:
        for record in fresh:
            run_prologue(store, record)
        upload(scheduler.transport, uploads_of(scheduler, fresh))
    except BaseException:
        # the store may be what failed; then they are resumed like those of a dead process
        with contextlib.suppress(StoreError):
            store.discard(fresh)
        raise
    refused = offer(store, scheduler, fresh)
    store.discard([refusal.record for refusal in refused])
    return refused


def refusal_error(
    scheduler: Scheduler, refused: Sequence[Refusal], results: Iterable[object]
) -> SubmissionError:
    """Return the error that says which jobs were refused, in the scheduler's own words.

    ``results`` are the handles of the jobs that were accepted.
    """
    names_by_words: dict[str, list[str]] = {}
    for refusal in refused:
        names_by_words.setdefault(refusal.words, []).append(repr(refusal.record.name))
    lines = []
    for words, names in names_by_words.items():
        indented = words.replace("\n", "\n  ")
        who = "The store" if words == _DAMAGED else scheduler.backend.title
        lines.append(f"{who} refused {first_of(names, _NAMES)}:\n  {indented}")
    what = "the resources or the profile"
    if names_by_words.keys() == {_DAMAGED}:
        what = "the store"
    lines.append(
        f"Nothing was recorded for refused jobs; mend {what} and submit again."
    )
    return SubmissionError("\n".join(lines), results)
