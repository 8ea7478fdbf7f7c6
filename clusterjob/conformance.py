"""Small real jobs that show whether a profile works on its scheduler."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterjob.errors import ClusterJobError
from clusterjob.monitor import scheduler_for
from clusterjob.result import AsyncResult
from clusterjob.script import JobScript
from clusterjob.status import Reason, Status
from clusterjob.transport.recording import RecordingTransport

_PATIENCE = 600.0  # s for a small job to start and end


@dataclass
class Check:
    """One thing that was tried, and what came of it."""

    name: str
    ok: bool
    detail: str


def run_checks(
    profile: str, record: str | None = None, time_limit: bool = False, files: bool = True
) -> Iterator[Check]:
    """Yield the checks as they are made, each with what was seen.

    With ``record`` the conversation is written to that file.

    A conversation holds what the scheduler was asked and answered: while one is recorded, no
    ``files`` are tried. Errors of clusterjob's own become failed checks; a profile that cannot be
    read raises :class:`SettingsError`.
    """
    name = f"check-{int(time.time())}"
    files = files and record is None
    copy = "cp check-input check-output\n" if files else ""
    job = _job(profile, f"echo output of $CLUSTERJOB_ID\n{copy}exit 3", name)
    folder = tempfile.TemporaryDirectory(prefix="clusterjob-check-")
    if files:
        Path(folder.name, "check-input").write_text(f"{name}\n", encoding="utf-8")
        job.__dict__["inputs"] = [(f"{folder.name}/check-input", "")]
    scheduler = scheduler_for(job.backend_reference)
    if record is not None:
        scheduler.transport = RecordingTransport(scheduler.transport)
    try:
        if (
            scheduler.transport.host
            and (yield from _try("connection", lambda: _route(scheduler.transport))) is None
        ):
            return
        version = yield from _try("commands", scheduler.version)
        if version is None:
            return
        result: AsyncResult | None = yield from _try("submit", job.submit)
        if result is not None:
            yield from _check_end(result)
            if files:
                yield from _check_files(result)
        yield from _check_cancel(_job(profile, "sleep 3600", f"{name}-cancel"))
        if time_limit:
            yield from _check_limit(_job(profile, "sleep 3600", f"{name}-limit", "1m"))
    finally:
        folder.cleanup()
        if isinstance(scheduler.transport, RecordingTransport) and record is not None:
            scheduler.transport.save(Path(record))


def _job(profile: str, body: str, name: str, limit: str = "5m") -> JobScript:
    job = JobScript(f"{body}\n# {name}", name)
    job.read_settings(profile)
    job.jobname = name
    if job.time is None:
        job.time = limit
    return job


def _try(name: str, action: Callable[[], Any]) -> Generator[Check, None, Any]:
    """Yield the check that an action is, and return what it returned; None where it failed."""
    try:
        done = action()
    except ClusterJobError as error:
        yield Check(name, False, str(error))
        return None
    yield Check(name, True, done if isinstance(done, str) else getattr(done, "job_id", None) or "")
    return done


def _check_end(result: AsyncResult) -> Iterator[Check]:
    if not result.wait(_PATIENCE):
        yield Check(
            "end seen", False, f"still {result.status} after {_PATIENCE:g} s: {result.words}"
        )
        return
    yield Check("end seen", True, f"{result.status}, {result.words}")
    right = (result.status, result.reason, result.exit_code) == (Status.FAILED, Reason.EXIT, 3)
    yield Check(
        "exit code",
        right,
        f"expected FAILED, exit, 3; got {result.status}, {result.reason}, {result.exit_code}",
    )
    expected = f"output of {(result.record.job_id or '').removesuffix('[]')}"
    text = result.stdout().strip()
    yield Check("output found", text == expected, f"{result.log_path()}: {text!r}")
    usage = result.usage
    yield Check(
        "usage",
        "elapsed" in usage,
        ", ".join(f"{key} {value:.2f}" for key, value in usage.items()) or "nothing is known",
    )
    scheduler = result.monitor.scheduler
    yield Check(
        "accounting",
        True,
        "works" if scheduler.accounting else "there is none; exit records stand in for it",
    )


def _check_files(result: AsyncResult) -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="clusterjob-check-") as folder:
        paths = yield from _try("file fetched", lambda: result.fetch(["check-output"], folder))
        if paths is not None:
            text = paths[0].read_text(encoding="utf-8")
            yield Check(
                "file as it was sent",
                text == result.name + "\n",
                f"{result.record.workdir}/check-output",
            )


def _route(transport: Any) -> str:
    transport = getattr(transport, "inner", transport)
    transport.connect()
    return str(transport.route())


def _check_cancel(job: JobScript) -> Iterator[Check]:
    result: AsyncResult | None = yield from _try("submit a long job", job.submit)
    if result is None:
        return
    deadline = time.monotonic() + _PATIENCE
    while (status := result.status) == Status.PENDING and time.monotonic() < deadline:
        time.sleep(max(0.05, result.monitor.wait_time()))
    yield Check("running seen", status == Status.RUNNING, f"{status}, {result.words}")
    if (yield from _try("cancel", lambda: _asked(result))) is not None:
        result.wait(_PATIENCE)
        yield Check(
            "cancelled seen", result.status == Status.CANCELLED, f"{result.status}, {result.words}"
        )


def _asked(result: AsyncResult) -> str:
    result.cancel()
    return "asked"


def _check_limit(job: JobScript) -> Iterator[Check]:
    result: AsyncResult | None = yield from _try("submit a job over its limit", job.submit)
    if result is not None:
        result.wait(_PATIENCE)
        yield Check(
            "time limit",
            result.reason == Reason.TIMEOUT,
            f"{result.status}, {result.reason}, {result.words}",
        )
