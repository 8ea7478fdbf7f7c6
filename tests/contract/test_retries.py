"""Jobs that are tried again by themselves, on every live scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clusterjob import AsyncResult, Reason, Retry, Status, submit, wait

from .conftest import SOME, Flavour, on
from .test_contract import FRAGILE


@pytest.fixture(autouse=True)
def _overtime_first(overtime: Callable[[], AsyncResult]) -> None:
    """Have the slow job on its way before anything else."""


@on(*[name for name in FRAGILE if name in SOME])
def test_out_of_memory_succeeds_with_doubled_memory(cluster: Flavour) -> None:
    body = "python3 -c 'import time; x = bytearray(150 << 20); time.sleep(1)'"
    job = cluster.job(body, mem=100, time="5m")
    more = {"mem": 3}
    # Grid Engine bounds what a process may have: Python says MemoryError, and ends with 1
    codes = {1: more} if cluster.family == "sge" else {}
    result = job.submit(retry=Retry(2, out_of_memory=more, exit_codes=codes))
    cluster.made.append(result)
    assert result.wait(120), result.explain()
    assert result.status == Status.COMPLETED, result.explain()
    first, second = result.attempts
    assert first.task.reason is (Reason.EXIT if codes else Reason.OUT_OF_MEMORY)
    assert (first.resources["mem"], second.resources["mem"]) == (100, 300)
    assert first.job_id != second.job_id


@on(*SOME)
def test_jobs_of_an_array_their_children_and_elements(cluster: Flavour) -> None:
    """Two jobs go as one array, and one of them fails once; what comes after it waits."""
    once = "test -e ok-{{ i }} || { touch ok-{{ i }}; exit {{ i }}; }"
    parents = [cluster.job(once, f"p{i}", params={"i": i}) for i in (0, 5)]
    child = cluster.job("ls ok-* > seen", "child")
    array = cluster.job(
        "n=$CLUSTERJOB_ARRAY_INDEX; echo $n >> ran-$n; "
        "case $n in 1 | 3) test $(wc -l < ran-$n) -gt 1;; esac",
        "array",
        array="1-3",
    )
    results = submit(
        [*parents, child, array], after={child: parents}, retry=Retry(1, exit={})
    )
    cluster.made += results
    assert wait(results, 150).not_done == []
    for result in results:
        assert result.status == Status.COMPLETED, result.explain()
    assert [len(result.attempts) for result in results[:2]] == [1, 2]
    assert results[1].attempts[0].task.exit_code == 5
    assert Path("seen").read_text().split() == ["ok-0", "ok-5"]
    times = [len(Path(f"ran-{index}").read_text().split()) for index in (1, 2, 3)]
    assert times == [2, 1, 2]


@on(*[name for name in ("slurm", "slurm@ssh") if name in SOME])
def test_a_node_on_which_jobs_failed_is_left_out(cluster: Flavour) -> None:
    """Two jobs that go as one array, and do so again; a node has a name that is no machine's."""
    jobs = [
        cluster.job(
            "echo $SLURMD_NODENAME >> nodes-{{ i }}; test $(wc -l < nodes-{{ i }}) -gt 1",
            f"n{i}",
            params={"i": i},
        )
        for i in range(2)
    ]
    results = submit(jobs, retry=Retry(1, exit={"exclude": True}))
    cluster.made += results
    assert wait(results, 120).not_done == []
    for i, result in enumerate(results):
        assert result.status == Status.COMPLETED, result.explain()
        first, second = Path(f"nodes-{i}").read_text().split()
        assert {first, second} == {"node1", "node2"}
        assert result.attempts[0].task.host == first
        assert result.attempts[1].resources["exclude"] == [first]
