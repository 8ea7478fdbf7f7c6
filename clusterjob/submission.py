"""Claim, upload, submit, record: how a batch of jobs gets to its scheduler, each of them once.

A record is written before anything is sent; its token names the job in its folder, in the receipts
and to the scheduler. What a process that died left behind is finished by :func:`resume`, with the
same tokens.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

from clusterjob.errors import (
    ClusterJobError,
    CommandError,
    RenderError,
    StoreError,
    SubmissionError,
    TransportError,
)
from clusterjob.lease import Lease, given_up, heartbeats, owner
from clusterjob.render import Script, render_script
from clusterjob.scheduler import Receipt, Scheduler
from clusterjob.shell import Ticket
from clusterjob.status import Reason, Status
from clusterjob.store import Phase, Record, Store
from clusterjob.transport import Upload

RUNS = ".clusterjob-runs"


def script_path(scheduler: Scheduler, record: Record) -> str:
    """Return the absolute path of a job's script: the ``filename`` that the user set, or its place
    in the folder of the batch.
    """
    filename = record.spec.get("filename")
    if filename:
        return os.path.join(record.workdir, filename)
    return f"{record.runs}/{record.token}.{scheduler.backend.general['extension']}"


def exit_names(record: Record) -> list[str]:
    """Return the names, without ``.exit``, of the exit records of a job."""
    return [record.exit_name(index) for index in record.all_tasks()]


def render_record(scheduler: Scheduler, record: Record) -> str:
    """Render the script of a record, as it is or will be submitted."""
    spec = record.spec
    resources = dict(spec["resources"])
    suffix = (
        f".{scheduler.backend.general['array_task']}"
        if record.tasks is not None and scheduler.backend.general["array_task"]
        else ""
    )
    folder = f"{RUNS}/{os.path.basename(record.runs)}"
    resources.setdefault("stdout", f"{folder}/{record.token}{suffix}.out")
    resources.setdefault("stderr", f"{folder}/{record.token}{suffix}.err")
    return render_script(
        scheduler.backend,
        {name: value for name, value in resources.items() if value != ""},
        Script(
            token=record.token,
            runs=record.runs,
            workdir=record.workdir,
            body=spec["body"],
            shell=spec["shell"],
            guards=[path for parent in spec.get("after", ()) for path in parent["records"]]
            if _guarded(scheduler)
            else (),
            inputs=[(path, digest) for path, digest, _ in spec.get("inputs", ())],
            after=[parent["job_id"] for parent in spec.get("after", ())],
            attributes=spec.get("attributes", {}),
        ),
    )


def _guarded(scheduler: Scheduler) -> bool:
    return scheduler.backend.general["after"] == "guarded"


def uploads(scheduler: Scheduler, record: Record, again: bool = False) -> list[Upload]:
    """Return the files of a job: its script, its auxiliary scripts, and the inputs that are not in
    place already.
    """
    own = bool(record.spec.get("filename"))
    files = [
        Upload(
            script_path(scheduler, record),
            render_record(scheduler, record),
            executable=True,
            replace=own or again,
        )
    ]
    files += [
        Upload(os.path.join(record.workdir, name), text, executable=True, replace=True)
        for name, text in record.spec.get("aux", {}).items()
    ]
    for path, digest, source in record.spec.get("inputs", ()):
        target = os.path.join(record.workdir, path)
        if scheduler.transport.host or os.path.realpath(source) != os.path.realpath(target):
            files.append(Upload(target, Path(source), replace=True, digest=digest))
    return files


def _all_uploads(
    scheduler: Scheduler, records: Iterable[Record], again: bool = False
) -> list[Upload]:
    return list(
        {
            file.path: file for record in records for file in uploads(scheduler, record, again)
        }.values()
    )


def submit_records(
    store: Store, scheduler: Scheduler, records: Sequence[Record], again: Callable[[Record], bool]
) -> tuple[list[Record], list[tuple[Record, Receipt]]]:
    """Submit the records whose keys are free; return the record of each key, and the refusals.

    Whatever goes wrong before the scheduler is asked leaves nothing in the store. Where it is not
    known what the scheduler did, the records stay as they are, and :func:`resume` finds out.
    """
    _check_frozen(store, records)
    now, me = time.time(), owner()
    for record in records:
        record.owner, record.leased = me, now
    held = store.claim(records, again)
    refused = [
        (record, Receipt(record.token, None, _DAMAGED))
        for record, holder in zip(records, held, strict=True)
        if holder is None
    ]
    winners = [holder or record for record, holder in zip(records, held, strict=True)]
    mine = {id(record) for record in records} - {id(record) for record, _ in refused}
    fresh = list({record.token: record for record in winners if id(record) in mine}.values())
    if not fresh:
        return winners, refused
    with Lease(store, fresh):
        try:
            for record in fresh:
                run_prologue(store, record)
            scheduler.transport.put(_all_uploads(scheduler, fresh))
        except BaseException:
            with contextlib.suppress(
                StoreError
            ):  # it may be what failed; then they are resumed like those of a dead process
                store.discard(fresh)
            raise
        said_no = offer(store, scheduler, fresh)
        store.discard([record for record, _ in said_no])
    return winners, refused + said_no


_DAMAGED = "the record of this job is damaged: see 'clusterjob doctor'"


def offer(
    store: Store, scheduler: Scheduler, records: Sequence[Record]
) -> list[tuple[Record, Receipt]]:
    """Hand jobs whose scripts are in place to the scheduler, note what it said, and return the
    refusals.

    Where it is not known what the scheduler did, the records stay open. Raises
    :class:`CommandError` where it was certainly not asked.
    """
    tickets = [
        Ticket(
            record.token,
            record.workdir,
            record.runs,
            _relative(script_path(scheduler, record), record),
        )
        for record in records
    ]
    try:
        submission = scheduler.submit(tickets)
    except TransportError as error:
        for record in records:
            record.task.words = (
                f"it is not known whether it was submitted: {str(error).splitlines()[0]}"
            )
        store.write(records)
        return []
    except CommandError as error:
        return [(record, Receipt(record.token, None, str(error))) for record in records]
    refused = []
    now = time.time()
    for record in records:
        receipt = submission.receipts.get(record.token)
        record.submitted = [submission.began, submission.ended]
        if receipt is None:
            record.task.words = "the scheduler's answer is missing"
        elif receipt.job_id:
            accept(record, receipt)
        elif receipt.exit_code == 0:
            record.task.words = f"the scheduler's answer could not be read: {receipt.said!r}"
        elif _later(scheduler, receipt):
            record.phase, record.retry_at = (
                Phase.DEFERRED,
                now + scheduler.backend.limits["retry_wait"],
            )
            record.task.words = _said(receipt)
        else:
            refused.append((record, receipt))
    store.write(records)
    return refused


def accept(record: Record, receipt: Receipt) -> None:
    """Note the job id that the scheduler gave."""
    record.phase, record.job_id, record.cluster = Phase.SUBMITTED, receipt.job_id, receipt.cluster
    record.retry_at, record.owner, record.task.words = None, "", ""
    record.task.history = [
        *record.task.history,
        [time.time(), "PENDING", f"submitted as {receipt.job_id}"],
    ]


def _relative(path: str, record: Record) -> str:
    """Name a script from its workdir where it is below it: such names hold no characters a
    scheduler stumbles over.
    """
    prefix = record.workdir.rstrip("/") + "/"
    return path.removeprefix(prefix)


def _later(scheduler: Scheduler, receipt: Receipt) -> bool:
    words = _said(receipt)
    return scheduler.backend.matches("retry", words) or scheduler.backend.matches("limit", words)


def _said(receipt: Receipt) -> str:
    return receipt.said or f"exit code {receipt.exit_code}"


def refusal(
    scheduler: Scheduler, refused: Sequence[tuple[Record, Receipt]], results: Iterable[object]
) -> SubmissionError:
    """Return the error that says which jobs were refused, in the scheduler's own words."""
    by_words: dict[str, list[Record]] = {}
    for record, receipt in refused:
        by_words.setdefault(_said(receipt), []).append(record)
    lines = []
    for words, records in by_words.items():
        names = ", ".join(repr(record.name) for record in records[:3]) + (
            f" and {len(records) - 3} more" if len(records) > 3 else ""
        )
        lines.append(
            f"{scheduler.backend.title} refused {names}:\n  " + words.replace("\n", "\n  ")
        )
    lines.append(
        "Nothing was recorded for refused jobs; mend the resources or the profile and submit again."
    )
    return SubmissionError("\n".join(lines), results)


def run_local(record: Record, which: str) -> None:
    """Run a job's prologue or epilogue here, in the folder that it was submitted from.

    Raises :class:`SubmissionError`.
    """
    text = record.spec.get(which)
    if not text:
        return
    if not text.startswith("#!"):
        text = f"#!{record.spec['shell']}\n{text}"
    with tempfile.TemporaryDirectory(prefix="clusterjob-") as folder:
        script = Path(folder) / which
        script.write_text(text, encoding="utf-8")
        script.chmod(0o700)
        try:
            done = subprocess.run(
                [str(script)],
                cwd=record.spec.get("cwd") or None,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SubmissionError(
                f"the {which} of {record.name!r} cannot be run: {error}"
            ) from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise SubmissionError(
            f"the {which} of {record.name!r} ended with exit code {done.returncode}:\n{output}"
        )


def _check_frozen(store: Store, records: Sequence[Record]) -> None:
    """Refuse to change a file under a job that has not finished: scripts and inputs are those of
    the submission.
    """
    wanted: dict[tuple[str, str], tuple[str, Record]] = {}
    for record in records:
        for path, digest in _files(record):
            other = wanted.setdefault((record.host, path), (digest, record))
            if other[0] != digest and other[1].key != record.key:
                raise _conflict(path, other[1].name, record.name)
    if not wanted:
        return
    for live in store.select(statuses=[Status.PENDING, Status.RUNNING]):
        for path, digest in _files(live):
            if (
                (live.host, path) in wanted
                and wanted[live.host, path][0] != digest
                and live.key != wanted[live.host, path][1].key
            ):
                raise _conflict(
                    path, f"{live.name} ({live.job_id})", wanted[live.host, path][1].name
                )


def _files(record: Record) -> list[tuple[str, str]]:
    named = [
        (os.path.join(record.workdir, name), f"text:{text}")
        for name, text in record.spec.get("aux", {}).items()
    ]
    named += [
        (os.path.join(record.workdir, path), digest)
        for path, digest, _ in record.spec.get("inputs", ())
    ]
    if record.spec.get("filename"):
        named.append((os.path.join(record.workdir, record.spec["filename"]), f"key:{record.key}"))
    return named


def _conflict(path: str, first: str, second: str) -> RenderError:
    return RenderError(
        f"{path} would be changed by job {second!r} while job {first!r}, which was submitted with "
        "other contents, has not finished. "
        "Give one of them another workdir or another file name"
    )


def resume(store: Store, scheduler: Scheduler, records: Sequence[Record]) -> None:
    """Finish submissions that are open and whose owner is gone, whoever that was: deferred ones
    that are due, and doubtful ones.

    Each is taken over first, so that of many processes one does it. The scheduler is asked by token
    before a doubtful one is offered again. What cannot be done now is left for later, with the
    reason in the record's words; only the store's errors are raised.
    """
    now = time.time()
    beats = heartbeats(store) if any(record.phase is Phase.SUBMITTING for record in records) else {}
    deferred = {record.token for record in records if record.phase is Phase.DEFERRED}
    taken = (
        store.take(free, owner(), now)
        if (free := [record for record in records if given_up(record, beats, now)])
        else []
    )
    if not taken:
        return
    with Lease(store, taken):
        try:
            _finish(store, scheduler, taken, deferred)
        except ClusterJobError as error:
            if isinstance(error, StoreError):
                raise
            for record in taken:
                if record.unsent:
                    _leave(record, error)
            store.write(taken)


def _finish(
    store: Store, scheduler: Scheduler, taken: Sequence[Record], deferred: Container[str]
) -> None:
    doubtful = [record for record in taken if record.token not in deferred]
    if doubtful:
        tokens: dict[str, list[str]] = {}
        for record in doubtful:
            tokens.setdefault(record.runs, []).append(record.token)
        found = scheduler.find(tokens)
        for record in doubtful:
            if record.token in found:
                record.submitted = record.submitted or [record.created, time.time()]
                accept(record, found[record.token])
        store.write(doubtful)
    left = _without_cancelled(store, scheduler, taken)
    able, refused = _with_prologues(
        store, [record for record in left if record.token not in deferred]
    )
    ready = [record for record in left if record.token in deferred] + _with_files(scheduler, able)
    if ready:
        refused += offer(store, scheduler, ready)
    for record, receipt in refused:
        record.task.status, record.task.reason, record.task.words = (
            Status.FAILED,
            Reason.SUBMISSION,
            _said(receipt),
        )
    store.write([record for record in left if record.phase is Phase.SUBMITTING])


def _with_prologues(
    store: Store, records: Sequence[Record]
) -> tuple[list[Record], list[tuple[Record, Receipt]]]:
    """Run what is left of prologues; return the jobs to go on with, and those whose prologue
    failed. One that belongs elsewhere stays open.
    """
    able, refused = [], []
    for record in records:
        try:
            run_prologue(store, record)
            able.append(record)
        except _ElsewhereError as error:
            _leave(record, error)
        except SubmissionError as error:
            refused.append((record, Receipt(record.token, None, str(error).rstrip())))
    return able, refused


def _with_files(scheduler: Scheduler, records: Sequence[Record]) -> list[Record]:
    """Send files again; return the jobs that have theirs.

    One whose files cannot be sent stays open. Raises :class:`TransportError`.
    """
    if not records:
        return []
    try:
        scheduler.transport.put(_all_uploads(scheduler, records, again=True))
        return list(records)
    except TransportError:
        raise
    except ClusterJobError as error:
        if len(records) > 1:
            return [record for one in records for record in _with_files(scheduler, [one])]
        _leave(records[0], error)
        return []


def _leave(record: Record, error: ClusterJobError) -> None:
    """Leave a submission open, to nobody, with the reason: it is tried again at the next poll."""
    record.owner, record.task.words = "", str(error).splitlines()[0]


def _without_cancelled(
    store: Store, scheduler: Scheduler, records: Sequence[Record]
) -> list[Record]:
    """Return the records to submit; what was cancelled meanwhile is cancelled now, or was never
    submitted.
    """
    found: dict[str | None, list[str]] = {}
    cancelled = [record for record in records if record.cancel_requested]
    for record in cancelled:
        if record.job_id:
            found.setdefault(record.cluster, []).append(record.job_id)
        else:
            record.task.status, record.task.reason = Status.CANCELLED, Reason.CANCELLED
    if found:
        scheduler.cancel(found)
    store.write(cancelled)
    return [
        record
        for record in records
        if record.phase is Phase.SUBMITTING and not record.cancel_requested
    ]


class _ElsewhereError(SubmissionError):
    """A prologue belongs to another machine."""


def run_prologue(store: Store, record: Record) -> None:
    """Run a job's prologue, if it has one that did not run to its end.

    Raises :class:`SubmissionError`.
    """
    if record.prologue not in ("due", "started"):
        return
    cwd = record.spec.get("cwd") or "."
    if not os.path.isdir(cwd):
        raise _ElsewhereError(
            f"the prologue of {record.name!r} runs in {cwd}, which is not on this machine: run "
            "the notebook or script again there"
        )
    store.begin(record, "prologue")
    run_local(record, "prologue")
    record.prologue = "done"
    store.write([record])
