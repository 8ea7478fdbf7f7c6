"""What is wrong with a store, its open submissions and its clusters, and what can be mended."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clusterjob.backend import Backend
from clusterjob.engine import (
    LEASE,
    Receipt,
    Scheduler,
    element_id,
    find_submissions,
    heartbeats,
    is_abandoned,
    note_id,
)
from clusterjob.errors import ClusterJobError, CommandError, first_of
from clusterjob.script import JobScript
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.store import (
    Bundle,
    ClusterReference,
    Damaged,
    Rebuilt,
    Record,
    Report,
)

_SHOWN = 5  # jobs that are named of many


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


def examine(
    session: Session, profile: str | None = None, fix: bool = False
) -> Iterator[Finding]:
    """Look at the store, open submissions, the clusters of unfinished jobs and a profile.

    With ``fix`` what can be mended is mended. Nothing that a person may still need is deleted: a
    broken store and damaged records are put aside.
    """
    yield from _Doctor(session, fix).examine(profile)


class _Doctor:
    """One examination."""

    def __init__(self, session: Session, fix: bool) -> None:
        self.session, self.store, self.engine = session, session.store, session.engine
        self.fix = fix

    def examine(self, profile: str | None) -> Iterator[Finding]:
        report = self.store.examine()
        if self.engine.owner:  # its records name commands, which are not to be run
            yield from self._examine_foreign(report)
            return
        if report.corrupt:
            yield from self._rebuild(report)
            report = self.store.examine() if self.fix else report
        yield from self._examine_store(report)
        if report.broken:
            return
        yield from self._examine_submissions()
        live = self.store.select(statuses=[Status.PENDING, Status.RUNNING])
        clusters = {record.cluster_id: record.spec.cluster for record in live}
        for cluster_id, reference in clusters.items():
            members = [record for record in live if record.cluster_id == cluster_id]
            yield from self._examine_cluster(reference, members)
        yield from self._examine_epilogues()
        if profile is not None:
            yield self._examine_profile(profile)

    def _examine_foreign(self, report: Report) -> Iterator[Finding]:
        detail = (
            f"{self.store.url} belongs to {self.engine.owner}: it is looked at only"
        )
        ok = not (report.broken or report.damaged)
        if report.broken:
            detail += f"; {report.broken}"
        elif report.damaged:
            detail += f"; {len(report.damaged)} of its records are damaged"
        yield Finding("store", ok, detail, advice="its owner can mend it")

    def _mend(self, finding: Finding, deed: Callable[[], object]) -> Finding:
        """Mend what was found, where that was asked for."""
        if self.fix:
            try:
                finding.mended = str(deed() or "done")
            except ClusterJobError as error:
                finding.detail += f"; it could not be mended: {error}"
        return finding

    # -- the store ---------------------------------------------------------------------------------

    def _rebuild(self, report: Report) -> Iterator[Finding]:
        finding = Finding(
            "store",
            False,
            report.broken,
            "put it aside, and make a new one of all records that can be read",
        )
        done: list[Rebuilt] = []

        def rebuild() -> str:
            done.append(self.store.rebuild())
            return f"the broken one is {done[0]}"

        yield self._mend(finding, rebuild)
        if done and done[0].lost != 0:
            advice = (
                "their jobs would be submitted again: see to it first that they do not run any "
                "more, or they will run twice"
            )
            count = "some" if done[0].lost is None else done[0].lost
            yield Finding(
                "lost", False, f"{count} records may be lost", advice=advice
            )

    def _examine_store(self, report: Report) -> Iterator[Finding]:
        if report.broken and not report.corrupt:
            yield Finding(
                "store",
                False,
                report.broken,
                advice="see to that; the store itself is not known to be broken, and stays",
            )
        if not report.broken:
            yield Finding("store", True, f"{self.store.url}: {_facts(report)}")
        for damaged in report.damaged:
            yield self._examine_damaged(damaged)
        if report.unheld:
            finding = Finding(
                "record",
                False,
                f"of {len(report.unheld)} jobs no submission counts, so they are not listed, and "
                "would be submitted again",
                "let the newest of each count",
            )
            yield self._mend(finding, lambda: self.store.hold_again(report.unheld))
        if report.misfiled:
            finding = Finding(
                "record",
                False,
                f"{len(report.misfiled)} records are searched by another state or place than they "
                "say, so they may not be asked for",
                "search them by what they say",
            )
            yield self._mend(finding, lambda: self.store.refile(report.misfiled))

    def _examine_damaged(self, damaged: Damaged) -> Finding:
        if damaged.is_closed:
            advice = "mend its permissions: it may be whole, and stays where it is"
            detail = f"{damaged.token} cannot be read: {damaged.why}"
            return Finding("record", False, detail, advice=advice)
        finding = Finding(
            "record",
            False,
            f"{damaged.token}, of job {damaged.name!r} (id {damaged.job_id}): {damaged.why}",
            "put it aside; see to it first that its job does not run any more, "
            "or it will run twice",
        )
        return self._mend(
            finding, lambda: f"it is in {self.store.quarantine(damaged)}"
        )

    # -- submissions -------------------------------------------------------------------------------

    def _examine_submissions(self) -> Iterator[Finding]:
        beats, now = heartbeats(self.store), time.time()
        for record in self.store.select(unsent=True):
            if not is_abandoned(record, beats, now):
                words = record.task.words or f"under way, by {record.owner}"
                detail = f"{_title(record)} is {record.phase.value}: {words}"
                yield Finding("submission", True, detail)
                continue
            detail = (
                f"{_title(record)} was not finished by {record.owner or 'anybody'}"
            )
            finding = Finding("submission", False, detail, "finish it")
            yield self._mend(finding, functools.partial(self._finish, record))

    def _finish(self, record: Record) -> str:
        self.engine.finish_submissions()
        found = self.store.by_tokens([record.token])[record.token]
        if found.unsent:
            raise CommandError(found.task.words or "the scheduler did not answer")
        return f"it is {found.status}, with job id {found.job_id}"

    # -- clusters ----------------------------------------------------------------------------------

    def _examine_cluster(
        self, reference: ClusterReference, live: Sequence[Record]
    ) -> Iterator[Finding]:
        where = f" on {reference.host}" if reference.host else ""
        name = reference.name + where
        try:
            scheduler = self.engine.scheduler(reference)
            name = scheduler.backend.title + where
            version = scheduler.version()
            found = find_submissions(scheduler, live, strangers=True)
        except ClusterJobError as error:
            advice = (
                "see to it that its backend is found, and that its commands work here"
            )
            yield Finding("scheduler", False, f"{name}: {error}", advice=advice)
            return
        yield Finding(
            "scheduler", True, f"{name}: {version}, {len(live)} jobs have not ended"
        )
        for record in live:
            receipt = found.get(record.submission[1])
            if receipt is not None and _is_other_job(record, receipt):
                yield self._examine_receipt(scheduler, record, receipt)
        for record in live:
            found.pop(record.submission[1], None)
        yield from self._examine_strangers(scheduler.backend, found)

    def _examine_receipt(
        self, scheduler: Scheduler, record: Record, receipt: Receipt
    ) -> Finding:
        noted, given = record.submitted_id, receipt.job_id
        detail = f"{record.name!r}: the record says job {noted}, the receipt {given}"
        finding = Finding("receipt", False, detail, "believe the receipt")

        def believe(stored: Record) -> None:
            note_id(scheduler.backend, stored, given or "")

        return self._mend(finding, lambda: self.store.update([record], believe))

    def _examine_strangers(
        self, backend: Backend, found: dict[str, Receipt]
    ) -> Iterator[Finding]:
        known = self.store.by_tokens(found)
        strangers = [
            f"{receipt.job_id} (token {token})"
            for token, receipt in found.items()
            if token not in known and not self._is_array(backend, token, receipt)
        ]
        if strangers:
            detail = (
                "submitted by clusterjob, but not from this store (from another one, or their "
                f"records were deleted): {first_of(strangers, _SHOWN)}"
            )
            yield Finding("strangers", True, detail)

    def _is_array(self, backend: Backend, token: str, receipt: Receipt) -> bool:
        """Whether single jobs of this store went in that array."""
        members = []
        for position in (0, 1):  # the second where it is an array of packs
            first = Bundle(token, "", 1, receipt.job_id or "", position)
            members += self.store.named(element_id(backend, first), earlier=True)
        submissions = {record.submission[1] for record in members}
        return token in submissions

    # -- the rest ----------------------------------------------------------------------------------

    def _examine_epilogues(self) -> Iterator[Finding]:
        for record in self.store.select(begun=True):
            if record.finished and time.time() - (record.task.ended or 0) > LEASE:
                yield Finding(
                    "epilogue",
                    False,
                    f"{_title(record)}: it began and did not end",
                    advice="run what it does by hand; it is not run twice",
                )

    def _examine_profile(self, profile: str) -> Finding:
        try:
            job = JobScript("true")
            job.read_settings(profile)
            version = self.engine.scheduler(job.cluster_reference).version()
            str(job)
        except ClusterJobError as error:
            return Finding(
                "profile", False, f"{profile}: {error}", advice="mend the profile"
            )
        detail = f"{profile}: {version}; 'clusterjob check {profile}' tries it with real jobs"
        return Finding("profile", True, detail)


def _title(record: Record) -> str:
    return f"{record.name!r} ({record.job_id or record.key[:10]})"


def _facts(report: Report) -> str:
    return ", ".join(
        f"{name} {value}" for name, value in report.facts.items() if name != "store"
    )


def _is_other_job(record: Record, receipt: Receipt) -> bool:
    """Whether record and receipt name different jobs; PBS writes the id of an array as ``12[]``."""
    noted = record.submitted_id
    if not noted or not receipt.job_id:
        return False
    return receipt.job_id.removesuffix("[]") != noted.removesuffix("[]")
