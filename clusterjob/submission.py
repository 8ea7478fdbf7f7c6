"""Claim, upload, submit, record: how a batch of jobs gets to its scheduler, each of them once.

A record is written before anything is sent; its token names the job in its folder, in the receipts and to the scheduler. What a process
that died left behind is finished by :func:`resume`, with the same tokens.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clusterjob.errors import ClusterJobError, CommandError, RenderError, SubmissionError
from clusterjob.render import Script, render_script
from clusterjob.scheduler import Receipt, Scheduler, Ticket
from clusterjob.status import Reason, Status
from clusterjob.store import Phase, Record
from clusterjob.store.sqlite import SqliteStore
from clusterjob.transport import Upload

RUNS = ".clusterjob-runs"
_ABANDONED = 600.0  # s after which a submission by a process on another host counts as given up


def owner() -> str:
    """Name this process, for the records it is submitting."""
    return f"{socket.gethostname()}:{os.getpid()}"


def script_path(scheduler: Scheduler, record: Record) -> str:
    """Return the absolute path of a job's script: the ``filename`` that the user set, or its place in the folder of the batch."""
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
    suffix = f".{scheduler.backend.general['array_task']}" if record.tasks is not None and scheduler.backend.general["array_task"] else ""
    folder = f"{RUNS}/{os.path.basename(record.runs)}"
    resources.setdefault("stdout", f"{folder}/{record.token}{suffix}.out")
    resources.setdefault("stderr", f"{folder}/{record.token}{suffix}.err")
    return render_script(
        scheduler.backend,
        {name: value for name, value in resources.items() if value != ""},
        Script(
            token=record.token, runs=record.runs, workdir=record.workdir, body=spec["body"], shell=spec["shell"],
            guards=[path for parent in spec.get("after", ()) for path in parent["records"]] if _guarded(scheduler) else (),
            inputs=[(path, digest) for path, digest, _ in spec.get("inputs", ())],
            after=[parent["job_id"] for parent in spec.get("after", ())], attributes=spec.get("attributes", {}),
        ),
    )  # fmt: skip


def _guarded(scheduler: Scheduler) -> bool:
    return scheduler.backend.general["after"] == "guarded"


def uploads(scheduler: Scheduler, record: Record, again: bool = False) -> list[Upload]:
    """Return the files of a job: its script, its auxiliary scripts, and the inputs that are not in place already."""
    own = bool(record.spec.get("filename"))
    files = [Upload(script_path(scheduler, record), render_record(scheduler, record), executable=True, replace=own or again)]
    files += [Upload(os.path.join(record.workdir, name), text, executable=True, replace=True) for name, text in record.spec.get("aux", {}).items()]
    for path, _, source in record.spec.get("inputs", ()):
        target = os.path.join(record.workdir, path)
        if scheduler.transport.host or os.path.realpath(source) != os.path.realpath(target):
            files.append(Upload(target, Path(source), replace=True))
    return files


def submit_records(
    store: SqliteStore, scheduler: Scheduler, records: Sequence[Record], again: Callable[[Record], bool]
) -> tuple[list[Record], list[tuple[Record, Receipt]]]:
    """Submit the records whose keys are free; return the record of each key, and the refusals.

    Whatever goes wrong before the scheduler is asked leaves nothing in the store. Where it is not known what the scheduler did, the
    records stay as they are, and :func:`resume` finds out.
    """
    _check_frozen(store, records)
    winners = store.claim(records, again)
    mine = {id(record) for record in records}
    fresh = list({record.token: record for record in winners if id(record) in mine}.values())
    if not fresh:
        return winners, []
    try:
        for record in fresh:
            run_local(record, "prologue")
        scheduler.transport.put([file for record in fresh for file in uploads(scheduler, record)])
    except BaseException:
        store.discard(fresh)
        raise
    refused = offer(store, scheduler, fresh)
    store.discard([record for record, _ in refused])
    return winners, refused


def offer(store: SqliteStore, scheduler: Scheduler, records: Sequence[Record]) -> list[tuple[Record, Receipt]]:
    """Hand jobs whose scripts are in place to the scheduler, note what it said, and return the refusals."""
    tickets = [Ticket(record.token, record.workdir, record.runs, _relative(script_path(scheduler, record), record)) for record in records]
    try:
        submission = scheduler.submit(tickets)
    except CommandError as error:
        if not error.transient:
            store.discard(records)
            raise
        for record in records:
            record.task.words = f"it is not known whether it was submitted: {str(error).splitlines()[0]}"
        store.write(records)
        return []
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
            record.phase, record.retry_at = Phase.DEFERRED, now + scheduler.backend.limits["retry_wait"]
            record.task.words = _said(receipt)
        else:
            refused.append((record, receipt))
    store.write(records)
    return refused


def accept(record: Record, receipt: Receipt) -> None:
    """Note the job id that the scheduler gave."""
    record.phase, record.job_id, record.cluster = Phase.SUBMITTED, receipt.job_id, receipt.cluster
    record.retry_at, record.task.words = None, ""
    record.task.history = [*record.task.history, [time.time(), "PENDING", f"submitted as {receipt.job_id}"]]


def _relative(path: str, record: Record) -> str:
    """Name a script from its workdir where it is below it: such names hold no characters a scheduler stumbles over."""
    prefix = record.workdir.rstrip("/") + "/"
    return path.removeprefix(prefix)


def _later(scheduler: Scheduler, receipt: Receipt) -> bool:
    words = _said(receipt)
    return scheduler.backend.matches("retry", words) or scheduler.backend.matches("limit", words)


def _said(receipt: Receipt) -> str:
    return receipt.said or f"exit code {receipt.exit_code}"


def refusal(scheduler: Scheduler, refused: Sequence[tuple[Record, Receipt]], results: Iterable[object]) -> SubmissionError:
    """Return the error that says which jobs were refused, in the scheduler's own words."""
    by_words: dict[str, list[Record]] = {}
    for record, receipt in refused:
        by_words.setdefault(_said(receipt), []).append(record)
    lines = []
    for words, records in by_words.items():
        names = ", ".join(repr(record.name) for record in records[:3]) + (f" and {len(records) - 3} more" if len(records) > 3 else "")
        lines.append(f"{scheduler.backend.title} refused {names}:\n  " + words.replace("\n", "\n  "))
    lines.append("Nothing was recorded for refused jobs; mend the resources or the profile and submit again.")
    return SubmissionError("\n".join(lines), results)


def run_local(record: Record, which: str) -> None:
    """Run a job's prologue or epilogue here, in the folder that it was submitted from. Raises :class:`SubmissionError`."""
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
            done = subprocess.run([str(script)], cwd=record.spec.get("cwd") or None, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise SubmissionError(f"the {which} of {record.name!r} cannot be run: {error}") from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise SubmissionError(f"the {which} of {record.name!r} ended with exit code {done.returncode}:\n{output}")


def _check_frozen(store: SqliteStore, records: Sequence[Record]) -> None:
    """Refuse to change a file under a job that has not finished: scripts and inputs are those of the submission."""
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
            if (live.host, path) in wanted and wanted[live.host, path][0] != digest and live.key != wanted[live.host, path][1].key:
                raise _conflict(path, f"{live.name} ({live.job_id})", wanted[live.host, path][1].name)


def _files(record: Record) -> list[tuple[str, str]]:
    named = [(os.path.join(record.workdir, name), f"text:{text}") for name, text in record.spec.get("aux", {}).items()]
    named += [(os.path.join(record.workdir, path), digest) for path, digest, _ in record.spec.get("inputs", ())]
    if record.spec.get("filename"):
        named.append((os.path.join(record.workdir, record.spec["filename"]), f"key:{record.key}"))
    return named


def _conflict(path: str, first: str, second: str) -> RenderError:
    return RenderError(
        f"{path} would be changed by job {second!r} while job {first!r}, which was submitted with other contents, has not finished. "
        "Give one of them another workdir or another file name"
    )


def resume(store: SqliteStore, scheduler: Scheduler, records: Sequence[Record]) -> list[Record]:
    """Finish submissions that are open: deferred ones that are due, and ones whose process died. Return those that were settled.

    The scheduler is asked by token before anything is submitted again. Nothing is raised: what could not be done is tried later.
    """
    now = time.time()
    deferred = [record for record in records if record.phase is Phase.DEFERRED and (record.retry_at or 0) <= now]
    doubtful = [record for record in records if record.phase is Phase.SUBMITTING and abandoned(record, now)]
    if not deferred and not doubtful:
        return []
    try:
        if doubtful:
            found = scheduler.find([record.token for record in doubtful], dict.fromkeys((record.workdir, record.runs) for record in doubtful))
            for record in doubtful:
                if record.token in found:
                    accept(record, found[record.token])
                    record.submitted = record.submitted or [record.created, now]
            store.write(doubtful)
            doubtful = _without_cancelled(store, scheduler, doubtful)
            for record in doubtful:
                record.owner = owner()
            scheduler.transport.put([file for record in doubtful for file in uploads(scheduler, record, again=True)])
        refused = offer(store, scheduler, [*deferred, *doubtful])
    except ClusterJobError as error:
        for record in (*deferred, *doubtful):
            record.task.words = str(error).splitlines()[0]
        return []
    for record, receipt in refused:
        record.task.status, record.task.reason, record.task.words = Status.FAILED, Reason.SUBMISSION, _said(receipt)
    store.write([record for record, _ in refused])
    return [*deferred, *doubtful]


def _without_cancelled(store: SqliteStore, scheduler: Scheduler, records: Sequence[Record]) -> list[Record]:
    """Return the records to submit again; what was cancelled meanwhile is cancelled now, or was never submitted."""
    found: dict[str | None, list[str]] = {}
    for record in records:
        if record.cancel_requested and record.job_id:
            found.setdefault(record.cluster, []).append(record.job_id)
        elif record.cancel_requested:
            record.task.status, record.task.reason = Status.CANCELLED, Reason.CANCELLED
    if found:
        scheduler.cancel(found)
    store.write(records)
    return [record for record in records if record.phase is Phase.SUBMITTING and not record.cancel_requested]


def abandoned(record: Record, now: float) -> bool:
    """Whether the process that was submitting a record has ended, or gave up with an answer in doubt."""
    host, _, pid = record.owner.rpartition(":")
    if record.owner == owner():
        return bool(record.task.words)  # this process: it came back without an answer
    if host == socket.gethostname() and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return now - record.created > _ABANDONED
