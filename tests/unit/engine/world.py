"""A model of a scheduler and its host: jobs with ids, a receipt file, exit records and the fence,
exactly as docs/architecture.md has them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from clusterjob.backend import Answer, ExitRecord, load_backend
from clusterjob.engine import offering, recovery, submission
from clusterjob.engine.bundles import units_of
from clusterjob.engine.replies import EndReport, Listing, Receipt, Submission
from clusterjob.engine.scripts import Ticket
from clusterjob.errors import CommandError, TransportError
from clusterjob.store import Record


class Crash(BaseException):
    """The process dies here: nothing of it runs any more."""


@dataclass
class Job:
    """A job of the model's scheduler."""

    token: str
    listed: str  # the token that the list shows: that of its array, where it is an element
    state: str = "PENDING"
    code: int | None = None
    forgotten: bool = False


@dataclass
class World:
    """A scheduler, the files of the jobs, and what goes wrong."""

    now: float = 1_000_000.0
    jobs: dict[str, Job] = field(default_factory=dict)
    receipts: dict[str, str] = field(default_factory=dict)
    records: dict[str, ExitRecord] = field(default_factory=dict)
    ran: list[tuple[str, str]] = field(default_factory=list)  # token, job id
    down: bool = False
    crash: str = ""
    lose_receipt: bool = False
    dead: bool = False
    blind: bool = False  # the list can be read, exit records and accounting cannot
    forgets_cancelled: bool = False
    # what others do while an answer is on its way
    meanwhile: Callable[[], None] | None = None

    # the jobs of arrays: tokens by the index of their elements
    arrays: dict[str, dict[int, str]] = field(default_factory=dict)
    most: int = 100  # elements of an array; a larger one is refused
    busy: bool = False  # "not now", to all
    count: int = 0  # of ids

    # what the engine uses of a Scheduler
    accounting = True
    array_size = 100
    commands = 0
    host = ""

    def __post_init__(self) -> None:
        self.backend = load_backend("local")
        self.transport = self

    def wait(self) -> None:
        """An answer is on its way: others have their turn."""
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()

    def die(self) -> None:
        self.dead = True
        raise Crash

    def take_files(self, *_: object) -> None:
        if self.crash == "claimed":
            self.die()

    def take_arrays(
        self, _: object, records: Sequence[Record], again: bool = False
    ) -> list[object]:
        """Take the scripts of arrays, which say what their elements run."""
        for unit in units_of(records):
            if unit.is_array:
                self.arrays[unit.token] = {
                    record.bundle.element: record.token for record in unit.members
                }
        return []

    def without_files(self) -> list[Any]:
        """Return the patches under which jobs have no files but the scripts of arrays."""
        nothing: list[object] = []
        return [
            mock.patch.object(submission, "uploads_of", side_effect=self.take_arrays),
            mock.patch.object(offering, "uploads_of", side_effect=self.take_arrays),
            mock.patch.object(
                recovery, "array_uploads", side_effect=self.take_arrays
            ),
            mock.patch.object(recovery, "job_uploads", return_value=nothing),
            *(
                mock.patch.object(module, "upload", side_effect=self.take_files)
                for module in (recovery, submission, offering)
            ),
        ]

    def _queue(self, token: str) -> str:
        """Queue a job, or an array of jobs; return its id."""
        self.count += 1
        number = str(self.count)
        if token not in self.arrays:
            self.jobs[number] = Job(token, token)
        for index, member in self.arrays.get(token, {}).items():
            self.jobs[f"{number}_{index}"] = Job(member, token)
        return number

    def submit(
        self, tickets: Sequence[Ticket], programs: Sequence[str] = ()
    ) -> Submission:
        if self.crash == "uploaded":
            self.die()
        if self.down:
            raise TransportError("down")
        answer = Submission(began=self.now, ended=self.now)
        for number, ticket in enumerate(tickets):
            if ticket.token not in self.receipts:
                if self.crash == "half" and number:
                    self.die()
                size = len(self.arrays.get(ticket.token, ()))
                if self.busy or size > self.most:
                    words = "database is locked" if self.busy else "array too large"
                    refusal = Receipt(ticket.token, 1, words)
                    answer.receipts[ticket.token] = refusal
                    continue
                job_id = self._queue(ticket.token)
                # the power goes off between the scheduler's answer and the receipt
                if self.lose_receipt:
                    self.die()
                self.receipts[ticket.token] = job_id
            answer.receipts[ticket.token] = Receipt(
                ticket.token, 0, "", self.receipts[ticket.token]
            )
        self.wait()
        if self.crash == "submitted":
            self.die()
        if self.crash == "cut":
            raise TransportError("the line was dropped")
        return answer

    def find(
        self,
        tokens: Mapping[str, Sequence[str]],
        elements: Mapping[str, Mapping[str, str]],
        strangers: bool = False,
    ) -> dict[str, Receipt]:
        if self.down:
            raise CommandError("down")
        wanted = [token for names in tokens.values() for token in names]
        found = {
            token: self.receipts[token] for token in wanted if token in self.receipts
        }
        for job_id, job in self.jobs.items():
            if job.state in ("PENDING", "RUNNING"):
                found.setdefault(job.listed, job_id.partition("_")[0])
        arrays = {
            token: array
            for names in elements.values()
            for token, array in names.items()
        }
        for token, record in self.records.items():
            number = record.job_id.partition("_")[0]
            found.setdefault(arrays.get(token, token), number)
        return {
            token: Receipt(token, 0, "", job_id)
            for token, job_id in found.items()
            if token in wanted
        }

    def active(self, members: object) -> Listing:
        if self.down:
            return Listing(error="down")
        live = self._live()
        self.wait()
        return Listing(live, complete=True, asked=True)

    def _live(self) -> dict[tuple[str, int | None], list[Answer]]:
        return {
            place_of(i): [Answer(i, state=job.state, token=job.listed)]
            for i, job in self.jobs.items()
            if job.state in ("PENDING", "RUNNING")
        }

    def ended(
        self,
        runs: Mapping[str, Sequence[str]],
        ids: Mapping[Any, Sequence[str]],
        age: float,
        going: Collection[str] = (),
    ) -> EndReport:
        if self.down or self.blind:
            return EndReport(unreadable=set(runs), history=Listing(error="down"))
        names = {name for members in runs.values() for name in members}
        history = Listing(asked=True, complete=True)
        for job_id in self._meant(ids):
            job = self.jobs[job_id]
            if not job.forgotten:
                number, index = place_of(job_id)
                answer = Answer(number, state=job.state, token=job.listed)
                answer.task, answer.exit_code = index, job.code
                history.add(answer)
        found = {
            name: replace(record)
            for name, record in self.records.items()
            if name in names
        }
        self.wait()
        return EndReport(found, history=history)

    def cancel(
        self,
        ids: Mapping[Any, Sequence[str]],
        packed: Sequence[tuple[str, str]] = (),
    ) -> None:
        for job_id in self._meant(ids):
            job = self.jobs[job_id]
            own = self.records.get(job.token)
            if job.state == "RUNNING" and own is not None and own.job_id == job_id:
                own.exit_code, own.ended = 143, self.now
                own.warned = (("TERM", self.now),)
            if job.state in ("PENDING", "RUNNING"):
                job.state, job.forgotten = "CANCELLED", self.forgets_cancelled

    def _meant(self, ids: Mapping[Any, Sequence[str]]) -> list[str]:
        """Return the jobs that ids mean: that of an array all of its elements."""
        wanted = {job_id for members in ids.values() for job_id in members}
        return [
            job_id
            for job_id in self.jobs
            if job_id in wanted or job_id.partition("_")[0] in wanted
        ]

    def go_on(self, job_id: str, code: int, forgotten: bool) -> None:
        """Let a job begin, where the fence lets it, or end."""
        job = self.jobs[job_id]
        if job.state == "RUNNING":
            job.state, job.code, job.forgotten = (
                ("COMPLETED" if code == 0 else "FAILED"),
                code,
                forgotten,
            )
            record = self.records[job.token]
            record.exit_code, record.ended = code, self.now
        elif job.token in self.records:
            job.state, job.code = "FAILED", 1  # a duplicate
        else:
            self.records[job.token] = ExitRecord(job_id, runs=1, started=self.now)
            self.ran.append((job.token, job_id))
            job.state = "RUNNING"


def place_of(job_id: str) -> tuple[str, int | None]:
    """Return the number of a job, and the index of an element."""
    number, _, index = job_id.partition("_")
    return number, int(index) if index else None
