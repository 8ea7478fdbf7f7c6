"""Looking after stores: what is wrong and can be mended, what is old and can go, moving from one
kind to another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clusterjob.errors import ClusterJobError, CommandError, SettingsError
from clusterjob.lease import LEASE, given_up, heartbeats
from clusterjob.monitor import scheduler_for
from clusterjob.result import recover
from clusterjob.script import JobScript
from clusterjob.status import Status
from clusterjob.store import Record, Store


@dataclass
class Finding:
    """One thing that was looked at.

    ``mend`` says what would be done about it, ``mended`` what was done, ``advice`` what a person
    can do.
    """

    what: str
    ok: bool
    detail: str
    mend: str = ""
    mended: str = ""
    advice: str = ""


def examine(store: Store, profile: str | None = None, fix: bool = False) -> Iterator[Finding]:
    """Look at the store, the open submissions, the clusters of its unfinished jobs and a profile;
    with ``fix`` mend what can be mended.

    Nothing that a person may still need is deleted: a broken store and damaged records are put
    aside.
    """
    yield from _examine_store(store, fix)
    report = store.examine()
    if report.broken:
        return
    yield from _examine_submissions(store, fix)
    live = store.select(statuses=[Status.PENDING, Status.RUNNING])
    for place, reference in {record.place: record.spec["backend"] for record in live}.items():
        yield from _examine_cluster(
            store, reference, [record for record in live if record.place == place], fix
        )
    for record in store.select():
        if (
            record.epilogue == "started"
            and record.finished
            and time.time() - (record.task.ended or 0) > LEASE
        ):
            yield Finding(
                "epilogue",
                False,
                f"{_title(record)}: it began and did not end",
                advice="run what it does by hand; it is not run twice",
            )
    if profile is not None:
        yield from _examine_profile(profile)


def _title(record: Record) -> str:
    return f"{record.name!r} ({record.job_id or record.key[:10]})"


def _mend(finding: Finding, fix: bool, deed: Callable[[], object]) -> Finding:
    if fix:
        try:
            finding.mended = str(deed() or "done")
        except ClusterJobError as error:
            finding.detail += f"; it could not be mended: {error}"
    return finding


def _examine_store(store: Store, fix: bool) -> Iterator[Finding]:
    report = store.examine()
    facts = ", ".join(f"{name} {value}" for name, value in report.facts.items() if name != "store")
    if report.broken:
        finding = Finding(
            "store",
            False,
            report.broken,
            "put it aside, and make a new one of all records that can be read",
        )
        yield _mend(finding, fix, lambda: f"the broken one is {store.rebuild()}")
        report = store.examine()
        facts = ", ".join(
            f"{name} {value}" for name, value in report.facts.items() if name != "store"
        )
    if not report.broken:
        yield Finding("store", True, f"{store.url}: {facts}")
    for damaged in report.damaged:
        detail = f"{damaged.token}, of job {damaged.name!r} (id {damaged.job_id}): {damaged.why}"
        finding = Finding(
            "record",
            False,
            detail,
            "put it aside; see to it first that its job does not run any more, or it will run "
            "twice",
        )
        yield _mend(finding, fix, lambda damaged=damaged: f"it is in {store.quarantine(damaged)}")  # type: ignore[misc]


def _examine_submissions(store: Store, fix: bool) -> Iterator[Finding]:
    beats, now = heartbeats(store), time.time()
    for record in store.select(unsent=True):
        if given_up(record, beats, now):
            finding = Finding(
                "submission",
                False,
                f"{_title(record)} was not finished by {record.owner or 'anybody'}",
                "finish it",
            )
            yield _mend(finding, fix, lambda record=record: _finish(store, record))  # type: ignore[misc]
        else:
            words = record.task.words or f"under way, by {record.owner}"
            yield Finding("submission", True, f"{_title(record)} is {record.phase.value}: {words}")


def _finish(store: Store, record: Record) -> str:
    recover(store)
    found = store.by_tokens([record.token])[record.token]
    if found.unsent:
        raise CommandError(found.task.words or "the scheduler did not answer")
    return f"it is {found.status}, with job id {found.job_id}"


def _examine_cluster(
    store: Store, reference: dict[str, Any], live: Sequence[Record], fix: bool
) -> Iterator[Finding]:
    where = f" on {reference['host']}" if reference.get("host") else ""
    name = reference["name"] + where
    try:
        scheduler = scheduler_for(reference)
        name = scheduler.backend.title + where
        version = scheduler.version()
        tokens: dict[str, list[str]] = {}
        for record in live:
            tokens.setdefault(record.runs, []).append(record.token)
        found = scheduler.find(tokens, strangers=True)
    except ClusterJobError as error:
        yield Finding(
            "scheduler",
            False,
            f"{name}: {error}",
            advice="see to it that its backend is found, and that its commands work here",
        )
        return
    yield Finding("scheduler", True, f"{name}: {version}, {len(live)} jobs have not ended")
    for record in live:
        receipt = found.pop(record.token, None)
        if (
            receipt is not None
            and record.job_id
            and receipt.job_id
            and receipt.job_id.removesuffix("[]") != record.job_id.removesuffix("[]")
        ):
            detail = (
                f"{record.name!r}: the record says job {record.job_id}, the receipt "
                f"{receipt.job_id}"
            )
            record.job_id = receipt.job_id
            yield _mend(
                Finding("receipt", False, detail, "believe the receipt"),
                fix,
                lambda record=record: store.write([record]),
            )  # type: ignore[misc]
    known = store.by_tokens(found)
    for token, receipt in found.items():
        if token not in known:
            detail = f"job {receipt.job_id} was submitted by clusterjob, but not from this store"
            yield Finding(
                "stranger",
                True,
                f"{detail}: from another one, or its record was deleted (token {token})",
            )


def _examine_profile(profile: str) -> Iterator[Finding]:
    try:
        job = JobScript("true")
        job.read_settings(profile)
        version = scheduler_for(job.backend_reference).version()
        str(job)
    except ClusterJobError as error:
        yield Finding("profile", False, f"{profile}: {error}", advice="mend the profile")
    else:
        yield Finding(
            "profile",
            True,
            f"{profile}: {version}; 'clusterjob check {profile}' tries it with real jobs",
        )


# -- old jobs --------------------------------------------------------------------------------------


def prune(
    store: Store, older_than: float, statuses: Iterable[Status], dry_run: bool = False
) -> tuple[list[Record], list[str]]:
    """Remove jobs that ended more than ``older_than`` seconds ago in one of ``statuses``: records,
    scripts, logs and exit records.

    Returns the records that were (or with ``dry_run`` would be) removed, and what could not be
    done. Jobs that have not ended are never touched, nor those that such a job comes after, nor
    those whose outputs or epilogue are still due. Logs with names of the user's own stay.
    """
    wanted = set(statuses)
    if any(not status.finished for status in wanted):
        raise SettingsError(
            "only jobs that have ended can be removed: completed, cancelled, failed"
        )
    before = time.time() - older_than
    everything = store.select(earlier=True)
    needed = {
        path
        for record in everything
        if not record.finished
        for parent in record.spec.get("after", ())
        for path in parent["records"]
    }
    current = {record.token for record in store.select()}
    old = {
        record.key: record
        for record in everything
        if record.token in current
        and record.status in wanted
        and _ended(record) < before
        and record.epilogue not in ("due", "started")
        and record.outputs != "due"
        and not any(
            f"{record.runs}/{record.exit_name(index)}.exit" in needed
            for index in record.all_tasks()
        )
    }
    gone = [
        record for record in everything if record.key in old and record.finished
    ]  # with the earlier submissions of the same jobs
    if dry_run:
        return gone, []
    removed, problems = [], []
    for place, reference in {record.place: record.spec["backend"] for record in gone}.items():
        members = [record for record in gone if record.place == place]
        folders: dict[str, list[str]] = {}
        for record in members:
            folders.setdefault(record.runs, []).append(record.token)
        try:
            scheduler_for(reference).remove(folders)
        except ClusterJobError as error:
            problems.append(
                f"{len(members)} jobs were kept, because their files could not be removed: {error}"
            )
            continue
        store.discard(members)
        removed += members
    return removed, problems


def _ended(record: Record) -> float:
    last: float = record.task.history[-1][0] if record.task.history else record.created
    return record.task.ended or last


# -- moving ----------------------------------------------------------------------------------------


def copy(source: Store, target: Store) -> tuple[int, int, list[str]]:
    """Copy all records; return how many there are, how many were new to the target, and the tokens
    of damaged ones, which stay behind.
    """
    records = source.select(earlier=True)
    return (
        len(records),
        target.put_in(records),
        [damaged.token for damaged in source.examine().damaged],
    )
