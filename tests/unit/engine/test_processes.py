"""Several processes that share a store: whatever the order of their reads, polls, cancels,
accounting and endings, records only move forward.

Each process has a store, a cluster and copies of its own. While one waits for an answer another one
may have its turn.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from clusterjob.engine import Cluster, endings, lease, local_scripts, recovery
from clusterjob.engine import submission as submitting
from clusterjob.files import Order
from clusterjob.status import Reason
from clusterjob.store import (
    ONCE_DUE,
    JobSpec,
    OnceState,
    OutputPattern,
    Record,
    Store,
)
from clusterjob.store.json_files import FileStore
from clusterjob.store.sqlite import SqliteStore
from tests.unit.engine.world import World

PROCESSES = 4
# how far things have come that happen once
ORDER = [OnceState.DUE, OnceState.STARTED, OnceState.DONE]


@dataclass
class Process:
    """One of those who share the store."""

    name: str
    store: Store
    cluster: Cluster
    copies: list[Record] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """One store, one cluster and some processes; all live on."""

    def __init__(self, open_store: Callable[[Path], Store]) -> None:
        super().__init__()
        self.open_store = open_store

    @initialize(forgets=st.booleans())
    def begin(self, forgets: bool) -> None:
        self.folder = Path(
            tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self.world = World(forgets_cancelled=forgets)
        self.me = "process 0"
        self.count = 0
        self.epilogues: Counter[str] = Counter()
        self.cancelled: set[str] = set()  # tokens
        self.early: set[str] = set()  # of those, before they had a job id
        self.seen: dict[str, Record] = {}
        self.stack = contextlib.ExitStack()
        for patch in self.patches():
            self.stack.enter_context(patch)
        self.stack.callback(shutil.rmtree, self.folder)
        self.processes = [self.start(number) for number in range(PROCESSES)]

    def patches(self) -> list[contextlib.AbstractContextManager[object]]:
        owner = functools.partial(mock.patch.object, attribute="process_name")
        return [
            *(
                owner(module, side_effect=lambda: self.me)
                for module in (lease, recovery, submitting)
            ),
            mock.patch.object(lease, "_is_dead", return_value=False),
            *self.world.without_files(),
            mock.patch.object(
                submitting.time, "time", side_effect=lambda: self.world.now
            ),
            mock.patch.object(
                local_scripts, "run_local_script", side_effect=self.run_script
            ),
            mock.patch.object(endings, "download", side_effect=self.fetch),
            # it would wait for the one whose turn this is
            mock.patch.object(endings, "_one_process_at_a_time", _nobody_waits),
        ]

    def start(self, number: int) -> Process:
        store = self.open_store(self.folder)
        self.stack.callback(store.close)
        cluster = Cluster(store, self.world, "here", clock=lambda: self.world.now)  # type: ignore[arg-type]
        return Process(f"process {number}", store, cluster)

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            try:
                self.come_to_an_end()
            finally:
                self.stack.close()

    # -- what a process does -----------------------------------------------------------------------

    def run_script(self, record: Record, which: str) -> None:
        if which == "epilogue":
            self.epilogues[record.token] += 1
        self.world.wait()

    def fetch(self, transport: object, orders: list[Order]) -> None:
        self.world.wait()

    def act(self, process: Process, what: str, which: int) -> None:
        self.me, before = process.name, self.me
        try:
            getattr(self, what)(process, which)
        finally:
            self.me = before

    def read(self, process: Process, which: int) -> None:
        process.copies = [
            process.cluster.track(record) for record in process.store.select()
        ]

    def poll(self, process: Process, which: int) -> None:
        process.cluster.refresh(force=True)

    def cancel(self, process: Process, which: int) -> None:
        self.read(process, which)
        if process.copies:
            record = process.copies[which % len(process.copies)]
            process.cluster.cancel([record])
            if record.cancel_requested and not record.finished:
                self.cancelled.add(record.token)
                if record.job_id is None:
                    self.early.add(record.token)

    def account(self, process: Process, which: int) -> None:
        for record in process.copies:
            if record.finished and record.job_id:
                process.cluster.complete_usage(record)

    def end(self, process: Process, which: int) -> None:
        for record in process.copies:
            if record.finished:
                process.cluster.finish(record)

    def submit(self, process: Process, which: int) -> None:
        records = [self.make() for _ in range(1 + which % 3)]  # alone, or in an array
        done = submitting.submit_records(
            process.store,
            self.world,  # type: ignore[arg-type]
            records,
            lambda old, new: old.settled and which % 2 == 1,
        )
        process.copies += [process.cluster.track(winner) for winner in done.winners]

    def make(self) -> Record:
        self.count += 1
        return Record(
            f"key {self.count % 5}",
            f"{self.count:016x}",
            "n",
            "local",
            "/w",
            "/w/runs",
            spec_json=JobSpec(outputs=(OutputPattern("*", ""),)).to_json(),
            created=self.world.now,
            cluster_id="here",
            epilogue=ONCE_DUE,
            outputs=ONCE_DUE,
        )

    # -- rules -------------------------------------------------------------------------------------

    @rule(
        who=st.integers(0, PROCESSES - 1),
        what=st.sampled_from(["read", "poll", "cancel", "account", "end", "submit"]),
        which=st.integers(0, 3),
        other=st.integers(1, PROCESSES - 1),
        then=st.sampled_from(["", "", "read", "poll", "cancel", "account", "end"]),
    )
    def turn(self, who: int, what: str, which: int, other: int, then: str) -> None:
        """One process does something, and while it waits perhaps another one."""
        self.world.now += 20
        second = self.processes[(who + other) % PROCESSES]
        if then:
            self.world.meanwhile = lambda: self.act(second, then, which)
        self.act(self.processes[who], what, which)
        self.world.meanwhile = None

    @rule(
        code=st.sampled_from([0, 1]), forgotten=st.booleans(), which=st.integers(0, 5)
    )
    def work(self, code: int, forgotten: bool, which: int) -> None:
        """A job begins, or ends."""
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

    # -- promises ----------------------------------------------------------------------------------

    @invariant()
    def records_only_move_forward(self) -> None:
        if not hasattr(self, "processes"):
            return
        for record in self.processes[0].store.select(earlier=True):
            before = self.seen.get(record.token)
            if before is not None:
                assert record.version >= before.version
                assert record.version > before.version or _same(record, before)
                assert before.job_id in (None, record.job_id)
                assert not before.cancel_requested or record.cancel_requested
                assert not before.finished or record.status == before.status
                assert _step(record, "epilogue") >= _step(before, "epilogue")
                assert _step(record, "outputs") >= _step(before, "outputs")
                assert before.task.usage.keys() <= record.task.usage.keys()
            self.seen[record.token] = record

    @invariant()
    def an_epilogue_runs_once(self) -> None:
        if hasattr(self, "processes"):
            assert set(self.epilogues.values()) <= {1}

    def come_to_an_end(self) -> None:
        """In the end everybody sees the same, and it is true."""
        self.world.meanwhile = None
        for _ in range(4):
            self.world.now += 7200
            for process in self.processes:
                for what in ("read", "poll", "end"):
                    self.act(process, what, 0)
            for job_id in self.world.jobs:
                if self.world.jobs[job_id].state in ("PENDING", "RUNNING"):
                    self.world.go_on(job_id, 0, False)
        for token, record in self.seen.items():
            stored = self.processes[0].store.by_tokens([token]).get(token, record)
            job = self.world.jobs[stored.job_id or ""]
            assert stored.status.name == job.state, (token, stored.task)
            if token in self.cancelled and job.state == "CANCELLED":
                assert stored.task.reason is Reason.CANCELLED
            assert token not in self.early or job.state == "CANCELLED"
            assert self.epilogues[token] == 1
        self.records_only_move_forward()


@contextlib.contextmanager
def _nobody_waits(cluster_id: str) -> Iterator[None]:
    yield


def _step(record: Record, what: str) -> int:
    return ORDER.index(getattr(record, what).state)


def _same(record: Record, other: Record) -> bool:
    return record.to_json() == other.to_json()


SETTINGS = settings(
    max_examples=1000 if os.environ.get("CLUSTERJOB_CHAOS") else 60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


@pytest.mark.parametrize("kind", ["sqlite", "file"])
def test_records_only_move_forward(kind: str) -> None:
    def open_store(folder: Path) -> Store:
        if kind == "file":
            return FileStore(folder)
        return SqliteStore(folder / "store.sqlite")

    run_state_machine_as_test(lambda: Machine(open_store), settings=SETTINGS)  # type: ignore[no-untyped-call]
