"""Who is submitting a job, and when somebody else may finish it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from clusterjob.engine import lease
from clusterjob.engine.lease import (
    LEASE,
    Lease,
    heartbeats,
    is_abandoned,
    process_name,
)
from clusterjob.status import Status
from clusterjob.store import Note, Phase, Record, Task, open_store


def record(**values: object) -> Record:
    return Record(
        key="k", token="t", name="n", backend="b", workdir="/w", folder="/r", **values
    )  # type: ignore[arg-type]


def test_a_dead_process_of_this_machine_is_known_at_once() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from clusterjob.engine.lease import process_name as name; print(name())",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert is_abandoned(
        record(owner=done.stdout.strip(), leased=time.time()), {}, time.time()
    )


def test_a_process_id_that_came_back_is_another_process() -> None:
    host, pid, started, machine = process_name().rsplit(":", 3)
    assert int(pid) == os.getpid()
    assert is_abandoned(
        record(
            owner=f"{host}:{pid}:{int(started) - 1}:{machine}", leased=time.time()
        ),
        {},
        time.time(),
    )
    parent = f"{host}:{os.getppid()}:{lease._start_time(os.getppid())}:{machine}"
    assert not is_abandoned(record(owner=parent, leased=time.time()), {}, time.time())


def test_an_owner_elsewhere_keeps_it_as_long_as_his_heart_beats() -> None:
    his = record(owner="far:12:34:abcdef01", leased=1000.0)
    assert not is_abandoned(his, {}, 1000.0 + LEASE - 1)
    assert is_abandoned(his, {}, 1000.0 + LEASE + 1)
    assert not is_abandoned(
        his, {"far:12:34:abcdef01": Note(1100.0)}, 1000.0 + LEASE + 1
    )
    assert is_abandoned(his, {"far:12:34:abcdef01": Note(1100.0)}, 1101.0 + LEASE)


def test_what_this_process_left_open_is_its_to_finish(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = record(owner=process_name(), leased=time.time())
    assert is_abandoned(mine, {}, time.time())
    with Lease(open_store(), [mine]):
        assert not is_abandoned(mine, {}, time.time())
    assert is_abandoned(mine, {}, time.time())


def test_only_open_submissions_can_be_given_up() -> None:
    assert not is_abandoned(record(phase=Phase.SUBMITTED), {}, 1e9)
    assert not is_abandoned(record(task=Task(Status.CANCELLED)), {}, 1e9)
    assert is_abandoned(record(phase=Phase.DEFERRED, retry_at=5.0), {}, 5.0)
    assert not is_abandoned(record(phase=Phase.DEFERRED, retry_at=5.0), {}, 4.0)


def test_the_heart_beats_while_a_submission_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.02)
    store = open_store()
    with Lease(store, [record()]):
        deadline = time.monotonic() + 5
        while not heartbeats(store):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert set(heartbeats(store)) == {process_name()}
    time.sleep(0.1)
    assert heartbeats(store) == {}
