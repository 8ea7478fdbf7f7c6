"""Any sequence of submissions, crashes, polls, lost answers and retries: never two live jobs of one
key, and what has ended stays so.

The world is a model: jobs with ids, a receipt file, exit records and the fence, exactly as
docs/architecture.md has them. The protocol, the verdicts and the store are the real ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clusterjob.backend import Answer, ExitRecord, load_backend
from clusterjob.engine import Cluster, lease, recovery, submission
from clusterjob.engine.replies import EndReport, Listing, Receipt, Submission
from clusterjob.engine.scripts import Ticket
from clusterjob.errors import CommandError, TransportError
from clusterjob.status import Status
from clusterjob.store import JobSpec, Phase, Record
from clusterjob.store.sql import Connection
from clusterjob.store.sqlite import SqliteStore

KEYS = list("abcdefgh")
CRASHES = ["", "", "", "", "claimed", "uploaded", "half", "submitted", "cut"]


class Crash(BaseException):
    """The process dies here: nothing of it runs any more."""


@dataclass
class Job:
    """A job of the model's scheduler."""

    token: str
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

    # what the engine uses of a Scheduler
    accounting = True
    commands = 0
    host = ""

    def __post_init__(self) -> None:
        self.backend = load_backend("local")
        self.transport = self

    def die(self) -> None:
        self.dead = True
        raise Crash

    def take_files(self, *_: object) -> None:
        if self.crash == "claimed":
            self.die()

    def submit(self, tickets: Sequence[Ticket]) -> Submission:
        if self.crash == "uploaded":
            self.die()
        if self.down:
            raise TransportError("down")
        answer = Submission(began=self.now, ended=self.now)
        for number, ticket in enumerate(tickets):
            if ticket.token not in self.receipts:
                if self.crash == "half" and number:
                    self.die()
                job_id = str(len(self.jobs) + 1)
                self.jobs[job_id] = Job(ticket.token)
                # the power goes off between the scheduler's answer and the receipt
                if self.lose_receipt:
                    self.die()
                self.receipts[ticket.token] = job_id
            answer.receipts[ticket.token] = Receipt(
                ticket.token, 0, "", self.receipts[ticket.token]
            )
        if self.crash == "submitted":
            self.die()
        if self.crash == "cut":
            raise TransportError("the line was dropped")
        return answer

    def find(self, tokens: Mapping[str, Sequence[str]]) -> dict[str, Receipt]:
        if self.down:
            raise CommandError("down")
        wanted = [token for names in tokens.values() for token in names]
        found = {
            token: self.receipts[token] for token in wanted if token in self.receipts
        }
        for job_id, job in self.jobs.items():
            if job.state in ("PENDING", "RUNNING"):
                found.setdefault(job.token, job_id)
        for token in wanted:
            if token in self.records:
                found.setdefault(token, self.records[token].job_id)
        return {
            token: Receipt(token, 0, "", job_id)
            for token, job_id in found.items()
            if token in wanted
        }

    def active(self, members: object) -> Listing:
        if self.down:
            return Listing(error="down")
        live = {
            (i, None): Answer(i, state=job.state, token=job.token)
            for i, job in self.jobs.items()
            if job.state in ("PENDING", "RUNNING")
        }
        return Listing(live, complete=True, asked=True)

    def ended(
        self,
        runs: Mapping[str, Sequence[str]],
        ids: Mapping[Any, Sequence[str]],
        age: float,
    ) -> EndReport:
        if self.down or self.blind:
            return EndReport(unreadable=set(runs), history=Listing(error="down"))
        names = {name for members in runs.values() for name in members}
        history = Listing(asked=True, complete=True)
        for members in ids.values():
            for job_id in members:
                job = self.jobs[job_id]
                if not job.forgotten:
                    history.answers[job_id, None] = Answer(
                        job_id, state=job.state, exit_code=job.code, token=job.token
                    )
        return EndReport(
            {name: record for name, record in self.records.items() if name in names},
            history=history,
        )

    def cancel(self, ids: Mapping[Any, Sequence[str]]) -> None:
        for members in ids.values():
            for job_id in members:
                if self.jobs[job_id].state in ("PENDING", "RUNNING"):
                    self.jobs[job_id].state = "CANCELLED"

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


class MortalStore(SqliteStore):
    """A store that a process which has died cannot write to any more, whatever its handlers try."""

    def __init__(self, path: Path, world: World) -> None:
        super().__init__(path)
        self.world = world

    @contextlib.contextmanager
    def _transaction(self, write: bool = True) -> Iterator[Connection]:
        if self.world.dead:
            raise Crash
        with super()._transaction(write) as connection:
            yield connection


class Machine(RuleBasedStateMachine):
    """One store, one cluster, and processes that come and go."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(
            tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self.world = World()
        self.alive: set[str] = set()
        self.count = 0
        self.ended: dict[str, Status] = {}
        self.patches = [
            *(
                mock.patch.object(module, "process_name", side_effect=lambda: self.me)
                for module in (lease, recovery, submission)
            ),
            mock.patch.object(
                lease, "_is_dead", side_effect=lambda name: name not in self.alive
            ),
            *(
                mock.patch.object(module, "uploads_of", return_value=[])
                for module in (recovery, submission)
            ),
            *(
                mock.patch.object(module, "upload", side_effect=self.world.take_files)
                for module in (recovery, submission)
            ),
            mock.patch.object(
                submission.time, "time", side_effect=lambda: self.world.now
            ),
        ]
        for patch in self.patches:
            patch.start()
        self.me = ""
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "patches"):
            for patch in self.patches:
                patch.stop()
            self.store.close()
            shutil.rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        """The process is gone without a word, and a new one opens the store."""
        self.alive.discard(self.me)
        self.world.dead = False
        lease._submitting.clear()
        self.count += 1
        self.me = f"process {self.count}"
        self.alive.add(self.me)
        if hasattr(self, "store"):
            self.store.close()
        self.store = MortalStore(self.folder / "store.sqlite", self.world)
        self.cluster = Cluster(
            self.store, self.world, "here", clock=lambda: self.world.now
        )  # type: ignore[arg-type]
        self.cluster.poller.finish_submissions()
        self.handles: list[Record] = []

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4),
        crash=st.sampled_from(CRASHES),
        lose=st.booleans(),
        retry=st.booleans(),
    )
    def submit(self, keys: list[str], crash: str, lose: bool, retry: bool) -> None:
        self.world.crash, self.world.lose_receipt = crash, lose and crash != ""
        made = []
        for key in keys:
            self.count += 1
            made.append(
                Record(
                    key,
                    f"{self.count:016x}",
                    key,
                    "local",
                    "/w",
                    "/w/runs",
                    spec_json=JobSpec().to_json(),
                    created=self.world.now,
                    cluster_id="here",
                )
            )
        try:
            done = submission.submit_records(
                self.store,
                self.world,  # type: ignore[arg-type]
                made,
                lambda old: retry and old.status > Status.COMPLETED,
            )
        except Crash:
            self.world.crash, self.world.lose_receipt = "", False
            self.restart()
        else:
            self.world.crash, self.world.lose_receipt = "", False
            self.handles = [self.cluster.track(record) for record in done.winners]

    @rule(
        code=st.sampled_from([0, 1]),
        forgotten=st.booleans(),
        which=st.integers(0, 5),
        times=st.integers(1, 4),
    )
    def work(self, code: int, forgotten: bool, which: int, times: int) -> None:
        """Jobs begin, or end."""
        for _ in range(times):
            live = [
                job_id
                for job_id, job in self.world.jobs.items()
                if job.state in ("PENDING", "RUNNING")
            ]
            if live:
                self.world.go_on(live[which % len(live)], code, forgotten)

    @rule(seconds=st.sampled_from([1.0, 200.0, 7200.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule()
    def poll(self) -> None:
        self.world.now += 20
        for record in self.store.select(statuses=[Status.PENDING, Status.RUNNING]):
            self.handles.append(self.cluster.track(record))
        self.cluster.refresh(force=True)

    @rule(what=st.sampled_from(["poll", "submit", "restart", "blind"]))
    def outage(self, what: str) -> None:
        """The scheduler does not answer for a while."""
        self.world.down, self.world.blind = what != "blind", True
        if what in ("poll", "blind"):
            self.poll()
            self.pass_time(7200.0)
            self.poll()
        elif what == "submit":
            self.submit(KEYS[:4], "", False, True)
        else:
            self.restart()
        self.world.down = self.world.blind = False

    @rule()
    def cancel(self) -> None:
        if self.handles:
            self.cluster.cancel(self.handles[:1])

    @invariant()
    def a_submission_runs_once(self) -> None:
        if hasattr(self, "world"):
            tokens = [token for token, _ in self.world.ran]
            assert len(tokens) == len(set(tokens))

    @invariant()
    def one_live_job_a_key(self) -> None:
        if not hasattr(self, "world"):
            return
        records = {record.token: record for record in self.store.select(earlier=True)}
        running: dict[str, str] = {}
        for job_id, job in self.world.jobs.items():
            if job.state == "RUNNING":
                assert job.token in records, "a running job has a record"
                key = records[job.token].key
                assert key not in running, f"{job_id} and {running[key]} both run {key}"
                running[key] = job_id

    @invariant()
    def what_has_ended_stays_so(self) -> None:
        if not hasattr(self, "world"):
            return
        for record in self.store.select(earlier=True):
            if record.token in self.ended:
                assert record.status == self.ended[record.token]
            elif record.finished:
                self.ended[record.token] = record.status
                job = self.world.jobs.get(record.job_id or "")
                if record.status == Status.COMPLETED:
                    assert job is not None
                    assert self.world.records[record.token].exit_code == 0
                assert (
                    record.phase is Phase.SUBMITTED or record.status != Status.COMPLETED
                )


Machine.TestCase.settings = settings(
    max_examples=2000 if os.environ.get("CLUSTERJOB_CHAOS") else 80,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
TestMachine = pytest.mark.slow(Machine.TestCase)
