"""Any sequence of submissions, crashes, polls, lost answers and retries: never two live jobs of one
key, and what has ended stays so.

The world is a model, :mod:`tests.unit.engine.world`. The protocol, the verdicts and the store are
the real ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clusterjob.engine import Cluster, lease, recovery, submission
from clusterjob.status import Status
from clusterjob.store import JobSpec, Phase, Record
from clusterjob.store.rows import Connection
from clusterjob.store.sqlite import SqliteStore
from tests.unit.engine.world import Crash, World

KEYS = list("abcdefgh")
CRASHES = ["", "", "", "", "claimed", "uploaded", "half", "submitted", "cut"]


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
            *self.world.without_files(),
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
        alone=st.sampled_from([False, False, True]),
        most=st.sampled_from([100, 100, 2, 0]),
        busy=st.sampled_from([False, False, False, True]),
    )
    def submit(
        self,
        keys: list[str],
        crash: str,
        lose: bool,
        retry: bool,
        alone: bool = False,
        most: int = 100,
        busy: bool = False,
    ) -> None:
        self.world.most, self.world.busy = most, busy
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
                    spec_json=JobSpec(alone=alone).to_json(),
                    created=self.world.now,
                    cluster_id="here",
                )
            )
        try:
            done = submission.submit_records(
                self.store,
                self.world,  # type: ignore[arg-type]
                made,
                lambda old, new: retry and old.status > Status.COMPLETED,
            )
        except Crash:
            self.world.crash, self.world.lose_receipt = "", False
            self.world.busy = False
            self.restart()
        else:
            self.world.crash, self.world.lose_receipt = "", False
            self.world.busy = False
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
                assert key not in running, (
                    f"{job_id} and {running[key]} both run {key}"
                )
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
                    record.phase is Phase.SUBMITTED
                    or record.status != Status.COMPLETED
                )


Machine.TestCase.settings = settings(
    max_examples=2000 if os.environ.get("CLUSTERJOB_CHAOS") else 40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
TestMachine = pytest.mark.slow(Machine.TestCase)
