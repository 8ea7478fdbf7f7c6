"""Which jobs are the same, and what comes after what; on the embedded scheduler."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import clusterjob
from clusterjob import (
    AsyncResult,
    JobScript,
    Reason,
    Session,
    SettingsError,
    Status,
    SubmissionError,
    afterany,
    plan,
    submit,
    sweep,
    wait,
)

loose: Any = clusterjob


@pytest.fixture(autouse=True)
def _spool(spool: Path) -> None:
    pass


def job(body: str, name: str, **settings: Any) -> JobScript:
    made = JobScript(body, name, **settings)
    Path("quick.ini").write_text(
        "[Attributes]\nbackend = local\n[Limits]\nfirst_poll = 0.05\npoll_interval = 0.2\n"
    )
    made.read_settings("quick.ini")
    return made


def ledger() -> list[str]:
    path = Path("ledger")
    return path.read_text().split() if path.exists() else []


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"jobname": "b"},
        {"params": {"seed": 2}},
        {"ppn": 2},
        {"threads": 2},
        {"stdout": "elsewhere.out"},
        {"stderr": "elsewhere.err"},
        {"array": "1-2"},
        {"shell": "/bin/sh"},
    ],
)
def test_what_an_outcome_can_depend_on_makes_another_job(
    other: dict[str, Any],
) -> None:
    first = submit([job("echo $RANDOM", "a", params={"seed": 1})])[0]
    settings = {"jobname": "a", "params": {"seed": 1}, **other}
    second = submit([job("echo $RANDOM", settings.pop("jobname"), **settings)])[0]
    assert second.key != first.key
    assert not second.reused


@pytest.mark.parametrize(
    "other",
    [{"time": "2h"}, {"mem": "10M"}, {"queue": "q"}, {"nodes": 1, "ppn": 1}],
)
def test_what_merely_lets_it_run_does_not(other: dict[str, Any]) -> None:
    def made(**settings: Any) -> JobScript:
        script = job("true", "a", **settings)
        script.backend = "slurm"
        return script

    first, second = made(), made(**other)
    assert [item.key for item in plan([first])] == [
        item.key for item in plan([second])
    ]


def test_parameters_of_any_kind_have_a_key_that_stays() -> None:
    class Odd:
        pass

    keys = {
        plan([job("true", "a", params={"x": Odd(), "y": (1, {"z": None})})])[0].key
        for _ in range(2)
    }
    assert len(keys) == 1


def test_sets_among_the_parameters_have_one_order() -> None:
    code = (
        "from clusterjob import JobScript, plan\n"
        "job = JobScript('true', 'a', params={'x': set('abcd'), 'y': [frozenset('xyz')]})\n"
        "print(plan([job])[0].key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in "123"
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "setup", ["exit 0", "exit 3", ". ./env.sh", "cat <<E\nx", "true \\"]
)
def test_a_setup_cannot_pass_for_the_body(setup: str) -> None:
    Path("env.sh").write_text("exit 0\n")
    result = submit(job("echo ran >> ledger; exit 4", "a", setup=setup))[0]
    result.wait(20)
    assert result.status is Status.FAILED
    has_run = result.exit_code == 4
    assert has_run == bool(ledger())
    assert has_run == ("exit" not in setup and "env.sh" not in setup)


def test_files_that_a_later_job_wrote_over_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def study(n: int, steps: int) -> None:
        mesh = job(f"echo {n} > mesh", "mesh")
        solves = [
            job(f"cat mesh; : {step}", f"solve-{step}") for step in range(steps)
        ]
        results = submit([mesh, *solves], after=dict.fromkeys(solves, mesh))
        assert results.wait(30)

    for n, steps in ((5, 1), (7, 1), (5, 1)):
        study(n, steps)
    assert "in the same workdir since" not in caplog.text
    study(5, 2)  # a new step looks at the mesh of 7
    words = (
        r"'mesh' \((\d+)\) was not run again, and 'mesh' \((\d+)\) ran in the same"
    )
    found = re.search(words, caplog.text)
    assert found is not None
    assert int(found[2]) == int(found[1]) + 2


def test_outputs_that_a_later_job_wrote_over_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for text in "aba":
        submit(job(f"echo {text} > out", "one", outputs=["out"])).wait(30)
        submit(job(f"echo {text} > {text}", "many")).wait(30)
    assert caplog.text.count("in the same workdir since") == 1
    assert "'one' (" in caplog.text


def test_a_job_of_which_no_receipt_can_be_written_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterjob.session.new_batch", lambda: "fixed")
    Path("a/.clusterjob-runs/fixed/receipts").mkdir(parents=True)  # no file
    jobs = [job("echo ran", name, workdir=name) for name in "ab"]
    with pytest.raises(SubmissionError, match="cannot be used") as caught:
        submit(jobs)
    accepted = [result for result in caught.value.results if result is not None]
    assert [result.name for result in accepted] == ["b"]
    assert accepted[0].wait(20)
    time.sleep(0.5)
    assert not list(Path("a").rglob("*.exit"))


def test_equal_jobs_of_one_batch_are_as_many_jobs() -> None:
    batch = [job("echo x >> ledger", "same") for _ in range(3)]
    first = submit(batch)
    assert len({result.key for result in first}) == 3
    first.wait(20)
    assert ledger() == ["x"] * 3
    again = submit(batch)
    assert again == first
    assert [result.reused for result in again] == [True] * 3
    # one alone is the first of them
    assert submit(batch[0])[0] == first[0]


def test_a_batch_may_be_one_job_or_come_from_a_generator() -> None:
    assert len(submit(job("true", "one"))) == 1
    assert len(submit(job("true", f"job-{number}") for number in range(3))) == 3
    ids: Iterator[str] = (f"id-{number}" for number in range(2))
    assert len(submit([job("true", "a"), job("true", "a")], cache_ids=ids)) == 2


# -- reuse -----------------------------------------------------------------------------------------


def test_an_answer_from_before_is_said_to_be_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "clusterjob")
    jobs = [job(f"true {number}", f"j{number}") for number in range(5)]
    first = submit(jobs[:4])
    first.wait(20)
    assert [result.reused for result in first] == [False] * 4
    assert "before" not in caplog.text
    second = submit(jobs)
    assert [result.reused for result in second] == [True] * 4 + [False]
    said = [line for line in caplog.messages if "submitted before" in line]
    assert len(said) == 1
    assert said[0].startswith("4 of 5 jobs were submitted before")
    assert "'j0'" in said[0]
    assert "and 1 more" in said[0]


# -- parents ---------------------------------------------------------------------------------------


def chain(first: str = "echo 1 >> ledger") -> list[JobScript]:
    return [
        job(first, "prepare"),
        job("echo 2 >> ledger", "run"),
        job("echo 3 >> ledger", "sum up"),
    ]


def submit_chain(jobs: list[JobScript], **options: Any) -> list[AsyncResult]:
    one, two, three = jobs
    return list(submit(jobs, after={two: [one], three: two}, **options))


def test_each_job_of_a_batch_may_have_parents_of_its_own() -> None:
    results = submit_chain(chain())
    wait(results, 30)
    assert [result.record.status for result in results] == [Status.COMPLETED] * 3
    assert ledger() == ["1", "2", "3"]
    again = submit_chain(chain())
    assert again == results
    assert [item.action for item in plan_of(chain())] == ["cached"] * 3


def plan_of(jobs: list[JobScript]) -> Any:
    one, two, three = jobs
    return plan(jobs, after={two: [one], three: [two]})


def test_a_changed_step_takes_its_successors_along() -> None:
    wait(submit_chain(chain()), 30)
    changed = chain("echo one >> ledger")
    planned = plan_of(changed)
    assert [item.action for item in planned] == ["submit"] * 3
    assert "another job than before" in str(planned)
    wait(submit_chain(changed), 30)
    assert ledger() == ["1", "2", "3", "one", "2", "3"]


def test_a_parent_that_ran_again_takes_its_successors_along() -> None:
    one, two, three = chain()
    wait(submit_chain([one, two, three]), 30)
    again = submit([one], force=True)
    again.wait(30)
    planned = plan_of([one, two, three])
    assert [item.action for item in planned] == ["cached", "retry", "retry"]
    assert "was submitted anew since" in str(planned)
    wait(submit_chain([one, two, three]), 30)
    assert ledger() == ["1", "2", "3", "1", "2", "3"]
    assert [result.reused for result in submit_chain([one, two, three])] == [True] * 3


def test_a_parent_that_has_completed_counts_too() -> None:
    parent = submit(job("echo p >> ledger", "p"))[0]
    parent.wait(20)
    child = job("echo c >> ledger", "c")
    free = submit(child)[0]
    bound = child.submit(after=[parent])
    assert bound.key != free.key
    wait([free, bound], 20)
    assert ledger().count("c") == 2
    assert child.submit(after=[parent]) == bound


def test_a_job_is_submitted_again_after_what_its_parents_are_now() -> None:
    parent = job("sleep 1; test -e ok", "p").submit()
    child = job("echo c >> ledger", "c").submit(after=[parent])
    wait([parent, child], 30)
    assert child.record.task.reason is Reason.DEPENDENCY
    with pytest.raises(SubmissionError, match=r"'p' .* is FAILED"):
        child.resubmit()
    Path("ok").touch()
    parent = parent.resubmit()
    child = child.resubmit()
    assert child.record.spec.after[0].job_id == parent.job_id
    wait([parent, child], 30)
    assert child.record.status == Status.COMPLETED


def test_retrying_a_batch_takes_parents_first() -> None:
    one, two = job("test -e ok", "p"), job("echo c >> ledger", "c")
    results = submit([two, one], after={two: [one]})
    results.wait(30)
    ends = [result.record.status for result in results]
    assert ends == [Status.CANCELLED, Status.FAILED]
    Path("ok").touch()
    retried = results.retry()
    retried.wait(30)
    assert [result.record.status for result in retried] == [Status.COMPLETED] * 2
    assert [result.name for result in retried] == ["c", "p"]


def test_parents_that_cannot_be_are_refused() -> None:
    one, two = job("true", "a"), job("true", "b")
    with pytest.raises(SettingsError, match="after itself"):
        submit([one, two], after={one: [two], two: [one]})
    with pytest.raises(SettingsError, match="not in the batch"):
        submit([one], after={two: [one]})
    with pytest.raises(SettingsError, match="no result of a submission"):
        loose.submit([one], after={one: [3]})
    assert not Path(".clusterjob").exists()


# -- planning changes nothing ----------------------------------------------------------------------


def test_a_plan_makes_no_store_and_submits_nothing_of_others() -> None:
    assert str(plan([job("true", "a")])).startswith("submit")
    assert not Path(".clusterjob").exists()
    with Session() as session:
        left = job("echo left >> ledger", "left").prepare(session.engine, batch="b1")
        session.store.claim([left], lambda old, new: False)
    with Session() as session:
        parent = session.results("left")[0]
        session.plan([job("true", "a")], after=[parent])
        assert session.store.by_tokens([left.token])[left.token].unsent


# -- handles ---------------------------------------------------------------------------------------


def test_handles_can_be_copied_pickled_and_compared() -> None:
    result = submit(job("echo hi", "h"))[0]
    result.wait(20)
    for twin in (
        copy.copy(result),
        copy.deepcopy(result),
        pickle.loads(pickle.dumps(result)),
    ):
        assert twin == result
        assert len({twin, result}) == 1
        assert twin.stdout() == "hi\n"
    assert result != submit(job("echo hi", "other"))[0]
    results = submit([job("true", "a"), job("true", "b")])
    assert pickle.loads(pickle.dumps(results)) == results


# -- programs --------------------------------------------------------------------------------------


def test_a_program_that_was_changed_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("sim.py").write_text("print(1)\n")
    jobs = [
        job(f"python3 sim.py {number} > out{number}.txt", f"sim{number}")
        for number in range(2)
    ]
    first = submit(jobs)
    first.wait(20)
    assert first[0].record.programs[0][0] == str(Path("sim.py").absolute())
    submit(jobs)
    assert "changed" not in caplog.text
    Path("sim.py").write_text("print(2)\n")
    again = submit(jobs)
    assert again == first
    told = [line for line in caplog.messages if "changed" in line]
    assert len(told) == 1
    assert "'sim0' (" in told[0]
    assert (
        "sim.py has changed since; add it to inputs, or submit with force" in told[0]
    )
    assert "sim.py has changed since" in str(plan(jobs))
    # as an input it is part of what is computed
    with_input = [job("python3 sim.py 5", "with input", inputs="auto")]
    third = submit(with_input)
    third.wait(20)
    Path("sim.py").write_text("print(3)\n")
    assert not submit(with_input)[0].reused


def test_programs_may_be_inputs_by_the_profile() -> None:
    Path("sim.py").write_text("print(1)\n")
    Path("auto.ini").write_text("[Attributes]\nbackend = local\ninputs = auto\n")
    made = JobScript("python3 sim.py; cat results.txt || true", "a")
    made.read_settings("auto.ini")
    result = submit(made)[0]
    assert [item.path for item in result.record.spec.inputs] == ["sim.py"]
    result.wait(20)


def test_inputs_that_a_parent_makes() -> None:
    make = job("sleep 0.2; echo 1 > made.txt; echo make >> ledger", "make")
    use = job("cat made.txt; echo use >> ledger", "use", inputs=["made.txt"])
    with pytest.raises(SettingsError, match="no such file"):
        submit(use)
    for _ in range(2):
        results = submit([make, use], after={use: [make]})
        results.wait(20)
        assert [result.record.status for result in results] == [Status.COMPLETED] * 2
    assert results[1].stdout() == "1\n"
    assert ledger() == ["make", "use"]


def test_a_plan_compares_with_the_job_beside_it_and_tells_what_it_waits_for() -> None:
    def made(word: str, where: str) -> JobScript:
        return JobScript(f"echo {word}", "run", workdir=where)

    submit([made("one", "a"), made("two", "b")]).wait(30)
    (step,) = plan(made("three", "a"))
    assert "- echo one" in str(step)
    assert "workdir" not in str(step)
    (step,) = plan(made("three", "c"))
    assert "- echo two" in str(step)
    (first,) = submit([JobScript("true", "first")])
    then = JobScript("true", "then")
    submit(then, after=first).wait(30)
    (step,) = plan(then, after=afterany(first))
    assert "comes after: 'first' is now 'first (afterany)'" in step.differences


def test_nothing_is_kept_of_an_array_that_another_one_has_written_over() -> None:
    def run_with(factor: int) -> list[str]:
        body = f"[ $n != 2 ] || [ -e ok ] || exit 4; echo $((n * {factor})) > val_$n"
        job = JobScript(body, "values", outputs=["val_*"])
        array = job.submit_array([{"n": n} for n in (1, 2, 3)])
        array.wait(30)
        return [Path(f"val_{n}").read_text().strip() for n in (1, 2, 3) if n != 2]

    assert run_with(1) == ["1", "3"]
    Path("ok").touch()
    assert run_with(10) == ["10", "30"]
    assert run_with(1) == ["1", "3"]


def test_other_versions_of_a_row_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def row(value: int, body: str = "echo {{ x }} > v") -> AsyncResult:
        job = JobScript(body, "s", workdir="w", outputs=["v"])
        caplog.clear()
        [result] = submit(sweep(job, x=[value]))
        return result

    slow = "until [ -e go ]; do sleep 0.1; done; echo {{ x }} > v"
    old = row(1, slow)
    new = row(2)
    assert f"'s_x1' ({old.job_id}) is at work in the same workdir" in caplog.text
    assert new.wait(20)
    Path("w/go").touch()
    assert old.wait(20)
    assert Path("w/v").read_text() == "1\n"
    # that one ended later, so what is there is its own
    assert row(2).reused
    assert f"'s_x1' ({old.job_id}) ran in the same workdir since" in caplog.text


def test_rows_with_a_workdir_each_need_name_no_outputs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = JobScript("echo {{ x }} > v", "s", workdir="w{{ i }}")
    for values in ([1, 2], [1, 3], [1, 2]):
        caplog.clear()
        results = submit(sweep(job, zipped=True, i=[0, 1], x=values))
        results.wait(20)
    assert "'s_i1_x2'" in caplog.text
    assert "'s_i1_x3'" in caplog.text
    assert "'s_i0_x1'" not in caplog.text
    # rows of one workdir stand beside each other
    caplog.clear()
    for values in ([1], [2], [1]):
        submit(sweep(JobScript("true {{ x }}", "t", workdir="t"), x=values)).wait(20)
    assert caplog.text == ""
