"""What jobs can come after, on every live scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clusterjob import (
    AsyncResult,
    Reason,
    Status,
    afterany,
    aftercorr,
    afternotok,
    submit,
    wait,
)

from .conftest import SOME, Flavour, on

UNTIL_GO = "until [ -e go ]; do sleep 0.1; done"
NEVER = (Status.CANCELLED, Reason.DEPENDENCY)


@pytest.fixture(autouse=True)
def _overtime_first(overtime: Callable[[], AsyncResult]) -> None:
    """Have the slow job on its way before anything else."""


@on(*SOME)
def test_after_whatever_end_and_after_a_failure(cluster: Flavour) -> None:
    good, bad = (cluster.run(f"{UNTIL_GO}; exit {code}") for code in (0, 1))
    cases = {
        "any-good": (afterany(good), True),
        "any-bad": (afterany(bad), True),
        "notok-good": (afternotok(good), False),
        "notok-bad": (afternotok(bad), True),
    }
    jobs = {name: cluster.job(f"touch ran-{name}") for name in cases}
    results = submit(
        list(jobs.values()),
        after={jobs[name]: how for name, (how, _) in cases.items()},
    )
    cluster.made += results
    Path("go").touch()
    assert wait([good, bad, *results], 120).not_done == []
    for name, result in zip(cases, results, strict=True):
        if cases[name][1]:
            assert result.status == Status.COMPLETED, name + result.explain()
        else:
            assert (result.status, result.reason) == NEVER, name + result.explain()
        assert Path(f"ran-{name}").exists() == cases[name][1]


@on(*SOME)
def test_a_diamond_across_arrays(cluster: Flavour) -> None:
    """Elements come after elements, and in the end one job after all of them."""
    one = cluster.job("echo one >> order")
    two = cluster.job(
        "[ $CLUSTERJOB_ARRAY_INDEX != 2 ]; touch two-$CLUSTERJOB_ARRAY_INDEX",
        array="1-3",
    )
    failing = cluster.job("[ $CLUSTERJOB_ARRAY_INDEX != 2 ]", array="1-3")
    three = cluster.job("touch three-$CLUSTERJOB_ARRAY_INDEX", array="1-3")
    last = cluster.job("ls two-* three-* > last", "last")
    results = submit(
        [one, two, failing, three, last],
        after={
            two: one,
            failing: one,
            three: [aftercorr(failing), aftercorr(two)],
            last: [two, afterany(three)],
        },
    )
    cluster.made += results
    assert wait(results, 150).not_done == []
    tasks = results[3].tasks
    assert tasks is not None
    ends = {index: (task.status, task.reason) for index, task in tasks.items()}
    assert ends == {
        1: (Status.COMPLETED, None),
        2: NEVER,
        3: (Status.COMPLETED, None),
    }, results[3].explain()
    assert not Path("three-2").exists()
    assert results[4].status == Status.COMPLETED, results[4].explain()
    names = Path("last").read_text().split()
    assert names == ["three-1", "three-3", "two-1", "two-2", "two-3"]


@on(*SOME)
def test_children_come_back_with_their_parents(cluster: Flavour) -> None:
    parent = cluster.job(f"{UNTIL_GO}; [ -e repaired ]", "parent")
    child = cluster.job("cat go", "child")
    grandchild = cluster.job("true", "grandchild")
    first = submit(
        [parent, child, grandchild], after={child: parent, grandchild: child}
    )
    cluster.made += first
    Path("go").touch()
    assert wait(first, 120).not_done == []
    assert [(result.status, result.reason) for result in first[1:]] == [NEVER, NEVER]
    Path("repaired").touch()
    again = first[0].resubmit()
    store = again.store
    found = [store.by_keys([result.key])[result.key] for result in first]
    revived = [AsyncResult(record, again.engine) for record in found]
    cluster.made += revived
    assert wait(revived, 120).not_done == []
    assert [result.status for result in revived] == [Status.COMPLETED] * 3


@on(*[name for name in SOME if "@" not in name])
def test_elements_that_come_after_one_that_was_submitted_again(
    cluster: Flavour,
) -> None:
    """What completed of both arrays does not run again."""
    rows = [{"v": v} for v in range(4)]
    first = cluster.job(
        "[ $v != 2 ] || [ -e fixed ] || exit 5; sleep 1; echo $v >e-$v"
    )
    second = cluster.job("cat e-$v >>seen")
    for number in range(2):
        parent = first.submit_array(rows)
        child = second.submit_array(rows, after=aftercorr(parent))
        cluster.made += [parent, child]
        assert wait([parent, child], 120).not_done == []
        states = [str(task.status) for task in (child.tasks or {}).values()]
        third = "COMPLETED" if number else "CANCELLED"
        assert states == ["COMPLETED", "COMPLETED", third, "COMPLETED"]
        Path("fixed").touch()
    assert sorted(Path("seen").read_text().split()) == ["0", "1", "2", "3"]
