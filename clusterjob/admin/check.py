"""Small real jobs that show whether a profile works on its scheduler."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clusterjob.engine import Scheduler
from clusterjob.errors import ClusterJobError
from clusterjob.result import AsyncResult
from clusterjob.results import Results
from clusterjob.script import JobScript
from clusterjob.session import Session
from clusterjob.status import Reason, Status
from clusterjob.transport import RecordingTransport, RemoteTransport, Transport

_PATIENCE = 600.0  # s for a small job to start and end
_SHORTEST_PAUSE = 0.05  # s between two looks at a job
Seen = TypeVar("Seen")


@dataclass
class Check:
    """One thing that was tried, and what came of it."""

    name: str
    ok: bool
    detail: str


def run_checks(
    session: Session,
    profile: str,
    record: str | None = None,
    time_limit: bool = False,
    files: bool = True,
) -> Iterator[Check]:
    """Yield the checks as they are made, each with what was seen.

    With ``record`` the conversation is written to that file. It holds what the scheduler was asked
    and answered: no ``files`` are tried then. With ``time_limit`` a job runs into its limit. Errors
    of clusterjob's own become failed checks; a profile that cannot be read raises
    :class:`SettingsError`.
    """
    checker = _Checker(session, profile, files and record is None)
    scheduler = session.engine.scheduler(
        checker.job("true", "check").cluster_reference
    )
    recording: RecordingTransport | None = None
    if record is not None:
        recording = RecordingTransport(scheduler.transport)
        scheduler.transport = recording
    try:
        yield from checker.run(scheduler, time_limit)
    finally:
        if recording is not None and record is not None:
            recording.save(Path(record))


class _Checker:
    """The checks of one profile."""

    def __init__(self, session: Session, profile: str, files: bool) -> None:
        self.session = session
        self.profile = profile
        self.files = files
        self.name = f"check-{int(time.time())}"

    def run(self, scheduler: Scheduler, time_limit: bool) -> Iterator[Check]:
        if scheduler.transport.host:
            route = yield from _try(
                "connection", lambda: _connect(scheduler.transport)
            )
            if route is None:
                return
        version = yield from _try("commands", scheduler.version)
        if version is None:
            return
        yield from self._check_short_job()
        yield from self._check_cancel()
        if self.files:
            yield from self._check_many(scheduler)
        if time_limit:
            yield from self._check_limit()

    def job(self, body: str, name: str, limit: str = "5m") -> JobScript:
        """Make a job of the profile's; it has a time limit, whatever the profile says."""
        made = JobScript(f"{body}\n# {name}", name)
        made.read_settings(self.profile)
        made.jobname = name
        if made.time is None:
            made.time = limit
        return made

    def _submit(
        self, what: str, job: JobScript
    ) -> Generator[Check, None, AsyncResult | None]:
        return (yield from _try(what, lambda: self.session.submit([job])[0]))

    def _check_short_job(self) -> Iterator[Check]:
        copy = "cp check-input check-output\n" if self.files else ""
        job = self.job(f"echo output of $CLUSTERJOB_ID\n{copy}exit 3", self.name)
        with tempfile.TemporaryDirectory(prefix="clusterjob-check-") as folder:
            if self.files:
                source = Path(folder, "check-input")
                source.write_text(f"{self.name}\n", encoding="utf-8")
                job.inputs = [source]
            result = yield from self._submit("submit", job)
            if result is not None:
                yield from _check_end(result)
                if self.files:
                    yield from _check_files(result)

    def _check_cancel(self) -> Iterator[Check]:
        job = self.job("sleep 3600", f"{self.name}-cancel")
        result = yield from self._submit("submit a long job", job)
        if result is None:
            return
        deadline = time.monotonic() + _PATIENCE
        status = result.status
        while status == Status.PENDING and time.monotonic() < deadline:
            time.sleep(max(_SHORTEST_PAUSE, result.cluster.pace.wait_time()))
            status = result.status
        yield Check(
            "running seen", status == Status.RUNNING, f"{status}, {result.words}"
        )
        asked = yield from _try("cancel", lambda: _ask_to_cancel(result))
        if asked is not None:
            result.wait(_PATIENCE)
            is_cancelled = result.status == Status.CANCELLED
            yield Check(
                "cancelled seen", is_cancelled, f"{result.status}, {result.words}"
            )

    def _check_many(self, scheduler: Scheduler) -> Iterator[Check]:
        """Ask about several jobs at once, and cancel several: ids are joined in many ways."""
        jobs = [
            self.job("sleep 3600", f"{self.name}-{number}") for number in range(3)
        ]
        results = yield from _try("submit several", lambda: self.session.submit(jobs))
        if results is None:
            return
        asked = yield from _try("cancel several", lambda: _cancel_all(results))
        if asked is None:
            return
        results.wait(_PATIENCE)
        states = {str(result.status) for result in results}
        detail = ", ".join(sorted(states))
        yield Check("all cancelled", states == {"CANCELLED"}, detail)
        if not scheduler.accounting:
            return
        ids = [result.record.job_id or "" for result in results]
        member = results[0].record.member
        age = time.time() - results[0].record.created + _PATIENCE
        report = scheduler.ended({}, {member: ids}, age)
        words = (
            report.history.error or f"{len(report.history.answers)} of 3 are known"
        )
        yield Check("accounting of several", report.history.asked, words)

    def _check_limit(self) -> Iterator[Check]:
        job = self.job("sleep 3600", f"{self.name}-limit", "1m")
        result = yield from self._submit("submit a job over its limit", job)
        if result is not None:
            result.wait(_PATIENCE)
            detail = f"{result.status}, {result.reason}, {result.words}"
            yield Check("time limit", result.reason == Reason.TIMEOUT, detail)


def _try(
    name: str, action: Callable[[], Seen]
) -> Generator[Check, None, Seen | None]:
    """Yield the check that an action is, and return what it returned; None where it failed."""
    try:
        seen = action()
    except ClusterJobError as error:
        yield Check(name, False, str(error))
        return None
    detail = ""
    if isinstance(seen, str):
        detail = seen
    elif isinstance(seen, AsyncResult):
        detail = seen.job_id or ""
    yield Check(name, True, detail)
    return seen


def _connect(transport: Transport) -> str:
    if isinstance(transport, RecordingTransport):
        transport = transport.inner
    if not isinstance(transport, RemoteTransport):
        return "this machine"
    transport.connect()
    return transport.route()


def _check_end(result: AsyncResult) -> Iterator[Check]:
    if not result.wait(_PATIENCE):
        words = f"still {result.status} after {_PATIENCE:g} s: {result.words}"
        yield Check("end seen", False, words)
        return
    yield Check("end seen", True, f"{result.status}, {result.words}")
    got = (result.status, result.reason, result.exit_code)
    detail = f"expected FAILED, exit, 3; got {got[0]}, {got[1]}, {got[2]}"
    yield Check("exit code", got == (Status.FAILED, Reason.EXIT, 3), detail)
    expected = f"output of {(result.record.job_id or '').removesuffix('[]')}"
    text = result.stdout().strip()
    yield Check("output found", text == expected, f"{result.log_path()}: {text!r}")
    usage = result.usage
    known = ", ".join(f"{key} {value:.2f}" for key, value in usage.items())
    yield Check("usage", "elapsed" in usage, known or "nothing is known")
    works = result.cluster.scheduler.accounting
    words = "works" if works else "there is none; exit records stand in for it"
    yield Check("accounting", True, words)


def _check_files(result: AsyncResult) -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="clusterjob-check-") as folder:
        paths = yield from _try(
            "file fetched", lambda: result.fetch(["check-output"], folder)
        )
        if paths is not None:
            text = paths[0].read_text(encoding="utf-8")
            same = text == result.name + "\n"
            yield Check(
                "file as it was sent", same, f"{result.record.workdir}/check-output"
            )


def _cancel_all(results: Results) -> str:
    results.cancel()
    return "asked"


def _ask_to_cancel(result: AsyncResult) -> str:
    result.cancel()
    return "asked"
