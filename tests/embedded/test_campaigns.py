"""Campaigns: order, limits, steps, and going on after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clusterjob import (
    AsyncResult,
    Campaign,
    JobScript,
    Reason,
    Results,
    Retry,
    SettingsError,
    Status,
    afterany,
    aftercorr,
    afternotok,
    submit,
    sweep,
    wait,
)
from clusterjob.campaign import open_campaign
from tests.embedded.test_cli import run
from tests.processes import outputs_of_three


def job(name: str, body: str | None = None) -> JobScript:
    return JobScript(body or f"echo {name} >> ledger", name)


def ledger(name: str = "ledger") -> list[str]:
    return Path(name).read_text().split()


def test_an_order_that_is_kept() -> None:
    campaign = Campaign("order")
    first = campaign.add(job("first"))
    second = campaign.add([job("a"), job("b")], after=first)
    campaign.add(job("last"), after=second)
    assert {result.status for result in second} == {Status.PENDING}
    outcome = campaign.run(timeout=60)
    assert outcome.is_complete, outcome
    assert outcome.counts == {Status.COMPLETED: 4}
    assert ledger()[0] == "first"
    assert ledger()[-1] == "last"
    assert {result.status for result in second} == {Status.COMPLETED}
    # again from the top: nothing is repeated
    again = Campaign("order")
    handles = again.add(job("first"))
    again.add([job("a"), job("b")], after=handles)
    assert handles[0] == first[0]
    assert again.run(timeout=60).is_complete
    assert len(ledger()) == 4


def test_limits_are_kept() -> None:
    body = "echo + >> ledger; sleep 0.3; echo - >> ledger"
    campaign = Campaign("limits", max_running=2)
    campaign.add([job(f"j{number}", body + f" # {number}") for number in range(6)])
    outcome = campaign.step()
    assert (outcome.held, outcome.is_over) == (4, False)
    assert campaign.run(timeout=60).is_complete
    most = now = 0
    for word in ledger():
        now += 1 if word == "+" else -1
        most = max(most, now)
    assert most <= 2


def test_what_cannot_run_ends_and_comes_back_with_a_retry() -> None:
    campaign = Campaign("broken")
    bad = campaign.add(job("bad", "test -e repaired"))
    child = campaign.add(job("child"), after=bad)
    grandchild = campaign.add(job("grandchild"), after=child)
    cleanup = campaign.add(job("cleanup"), after=[afternotok(bad[0])])
    always = campaign.add(job("always"), after=[afterany(bad[0], child[0])])
    outcome = campaign.run(timeout=60)
    assert outcome.is_over
    assert not outcome.is_complete
    assert child[0].reason is Reason.DEPENDENCY
    assert grandchild[0].reason is Reason.DEPENDENCY
    assert cleanup[0].status == Status.COMPLETED
    assert always[0].status == Status.COMPLETED
    Path("repaired").touch()
    assert len(campaign.retry()) == 3
    assert campaign.run(timeout=60).is_complete
    assert Counter(ledger()) == Counter(["cleanup", "always", "child", "grandchild"])


def test_it_stops_at_the_first_failure_where_that_is_wanted() -> None:
    campaign = Campaign("stop", max_running=1, stop_on_failure=True)
    campaign.add([job("bad", "exit 1"), job("good"), job("better")])
    outcome = campaign.run(timeout=60)
    assert outcome.is_over
    assert outcome.counts == {Status.PENDING: 2, Status.FAILED: 1}
    assert not Path("ledger").exists()


def test_rules_of_retries() -> None:
    campaign = Campaign("retries", retry=Retry(2))
    body = "echo x >> {{ n }}; [ $(wc -l < {{ n }}) -gt 1 ]"
    jobs = [JobScript(body, n, params={"n": n}) for n in ("p", "q")]
    once = campaign.add(jobs[0])
    never = campaign.add(jobs[1], retry=Retry(0))
    child = campaign.add(job("child"), after=once)
    campaign.run(timeout=60)
    assert [result.status for result in (*once, *never, *child)] == [
        Status.COMPLETED,
        Status.FAILED,
        Status.COMPLETED,
    ]


def test_steps_get_results_and_return_jobs() -> None:
    calls = []

    def make() -> Campaign:
        campaign = Campaign("steps")
        runs = campaign.add(sweep(JobScript("echo {{ T }}", "run"), T=[3, 1, 2]))

        @campaign.step(after=runs)
        def best(results: Results) -> JobScript:
            calls.append("best")
            value = min(int(result.stdout()) for result in results)
            return job("best", f"echo {value}")

        @campaign.step(after=best, loop=True)
        def refine(results: Results) -> JobScript | None:
            value = int(results[0].stdout())
            calls.append(f"refine {value}")
            return None if value > 3 else job(f"r{value}", f"echo {value + 1}")

        @campaign.step(after=[refine, runs[0]], name="report")
        async def report(results: Results) -> None:
            await asyncio.sleep(0)
            calls.append(f"report {len(results)}")

        return campaign

    assert make().run(timeout=60).is_complete
    assert calls == [
        "best",
        "refine 1",
        "refine 2",
        "refine 3",
        "refine 4",
        "report 2",
    ]
    calls.clear()
    # the same again: no function whose inputs are the same is called
    campaign = make()
    assert asyncio.run(campaign.finished()).is_complete
    assert calls == []
    assert len(campaign.results) == 7


def test_mistakes() -> None:
    for wrong in ("", "a/b", 5):
        with pytest.raises(SettingsError, match="no name"):
            Campaign(wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="max_pending = 0"):
        Campaign("x", max_pending=0)
    campaign = Campaign("x")
    with pytest.raises(SettingsError, match="job scripts"):
        campaign.add("text")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="after results or steps"):
        campaign.step(after=[5])  # type: ignore[list-item]
    ended = JobScript("true").submit()
    with pytest.raises(SettingsError, match="afterany is for jobs"):
        campaign.step(after=afterany(ended))  # type: ignore[arg-type]

    @campaign.step(after=[])
    def wrong_step(results: Results) -> object:
        return 5

    with pytest.raises(SettingsError, match="returned 5"):
        campaign.run(timeout=10)


PROGRAM = """
import sys
from clusterjob import Campaign, JobScript, sweep
campaign = Campaign("killed", max_pending=20)
first = campaign.add(sweep(JobScript("echo {{ n }} >> ledger", "job"), n=range(60)))
campaign.add(JobScript("echo last >> ledger", "last"), after=first)
print("ready", flush=True)
sys.exit(0 if campaign.run(timeout=60).is_complete else 1)
"""


def test_killed_at_any_moment_it_goes_on_where_it_was() -> None:
    moments = random.Random(5)
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM])
        time.sleep(moments.uniform(0.2, 1.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run([sys.executable, "-c", PROGRAM], timeout=90)
    assert done.returncode == 0
    assert Counter(ledger()) == Counter([*map(str, range(60)), "last"])
    assert ledger()[-1] == "last"


def test_jobs_that_were_submitted_before_are_taken_in() -> None:
    before = submit(job("one"))
    campaign = Campaign("joined")
    assert campaign.add(job("one")) == before
    assert campaign.run(timeout=60).counts == {Status.COMPLETED: 1}
    assert ledger() == ["one"]


def test_at_a_terminal() -> None:
    campaign = Campaign("term", max_pending=1)
    bad = campaign.add(job("bad", "test -e repaired"))
    campaign.add(job("child"), after=bad)
    assert "term" in run("campaign", "list")
    assert "2 PENDING" in run("campaign", "show", "term", code=3)
    assert "FAILED" in run("campaign", "continue", "term", code=1)
    Path("repaired").touch()
    assert "2" in run("campaign", "retry", "term")
    run("campaign", "continue", "term")
    assert "2 COMPLETED" in run("campaign", "show", "term")
    assert "no campaign 'nosuch'" in run("campaign", "show", "nosuch", code=4)
    more = Campaign("more")
    more.add(job("sleeps", "sleep 100"))
    more.add(job("held"), after=more.results)
    more.step()
    run("campaign", "cancel", "more")
    assert "2 CANCELLED" in run("campaign", "continue", "more", code=1)
    assert not os.path.exists("held")


# -- more than one cluster -------------------------------------------------------------------------


def profile(
    name: str, *, limits: str = "", commands: str = "", attributes: str = ""
) -> str:
    """Write a profile of a cluster of its own: the embedded scheduler, told apart by its limits."""
    number = len(list(Path().glob("*.ini"))) + 1
    Path(f"{name}.ini").write_text(
        f"[Attributes]\nbackend = local\n{attributes}\n[Limits]\nfirst_poll = 0.05{number}\n"
        f"poll_interval = 0.2\n{limits}\n[Commands]\n{commands}\n"
    )
    return f"{name}.ini"


def clusters_of(results: Results) -> Counter[str]:
    names = {}
    for path in Path().glob("*.ini"):
        made = JobScript("true")
        made.read_settings(path)
        names[made.cluster_reference.cluster_id] = path.stem
    for result in results:
        result.refresh()
    return Counter(names[result.record.cluster_id] for result in results)


def test_jobs_go_where_they_fit_and_by_weight() -> None:
    profiles = {profile("small", limits="max_cores = 1"): 1.0, profile("big"): 3.0}
    campaign = Campaign("two", profiles=profiles)
    some = campaign.add(sweep(JobScript("echo {{ n }} >> ledger", "s"), n=range(40)))
    wide = campaign.add(JobScript("echo wide >> ledger", "wide", ppn=2))
    last = campaign.add(job("last"), after=some)
    assert campaign.run(timeout=60).is_complete
    assert clusters_of(some) == {"small": 10, "big": 30}
    assert clusters_of(wide) == {"big": 1}
    assert last[0].status == Status.COMPLETED
    assert Counter(ledger()) == Counter([*map(str, range(40)), "wide", "last"])
    # again: the same jobs, wherever they went
    again = Campaign("two", profiles=profiles)
    same = again.add(sweep(JobScript("echo {{ n }} >> ledger", "s"), n=range(40)))
    assert same == some
    assert again.run(timeout=60).is_complete


def test_what_fits_nowhere_is_refused_with_the_reason_for_each() -> None:
    profiles = [
        profile("a", limits="max_cores = 4\nmax_time = 1h"),
        profile("b", limits="max_mem = 1G"),
    ]
    campaign = Campaign("none", profiles=profiles)
    with pytest.raises(SettingsError) as caught:
        campaign.add(JobScript("true", "huge", ppn=8, mem="4G", time="2h"))
    text = str(caught.value)
    assert "job 'huge' fits nowhere" in text
    assert "a.ini: job 'huge' asks for 8 cores, and max_cores is 4" in text
    assert "b.ini: job 'huge' asks for 4G of memory, and max_mem is 1G" in text
    with pytest.raises(SettingsError, match=r"the weight of 'a\.ini' is 0"):
        Campaign("none", profiles={"a.ini": 0})


def test_a_cluster_that_does_not_answer_is_passed_over() -> None:
    profiles = [
        profile("down", commands="active = test -e up && {spool} active"),
        profile("up"),
    ]
    campaign = Campaign("pass", max_running=2, profiles=profiles)
    results = campaign.add(
        sweep(JobScript("sleep 0.2; echo {{ n }} >> ledger", "s"), n=range(8))
    )
    campaign.step()
    assert clusters_of(results)["up"] >= 2
    while len(ledger() if Path("ledger").exists() else []) < 4:
        campaign.step()
        time.sleep(0.05)
    Path("up").touch()
    assert campaign.run(timeout=60).is_complete
    assert Counter(ledger()) == Counter(map(str, range(8)))


def test_max_jobs_counts_all_campaigns_of_the_store() -> None:
    path = profile("few", limits="max_jobs = 3")
    first, second = (Campaign(name, profiles=[path]) for name in ("one", "two"))
    for campaign in (first, second):
        body = JobScript(
            f"until [ -e go ]; do sleep 0.05; done # {campaign.name}" + " {{ n }}",
            campaign.name,
        )
        campaign.add(sweep(body, n=range(4)))
        campaign.step()
    assert (first.outcome.held, second.outcome.held) == (1, 4)
    Path("go").touch()
    deadline = time.monotonic() + 60
    while not (first.step().is_over and second.step().is_over):
        assert sum(first.session.store.live_counts(None).values()) <= 3
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert first.outcome.is_complete
    assert second.outcome.is_complete


def test_hooks_are_called_once_a_change_and_break_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[tuple[str, Status, Status]] = []

    def hook(result: AsyncResult, before: Status, after: Status) -> None:
        seen.append((result.name, before, after))
        assert result.record.status == after
        raise RuntimeError("a mistake in the hook")

    campaign = Campaign("hooks", on_state=hook)
    campaign.add([job("a"), job("b", "exit 1")])
    other = submit(job("other"))
    assert campaign.run(timeout=60).is_over
    other.wait(30)
    ends = {name: after for name, _, after in seen if after.finished}
    assert ends == {"a": Status.COMPLETED, "b": Status.FAILED}
    assert len(seen) == len(set(seen))
    assert "a mistake in the hook" in caplog.text


def test_a_step_after_a_loop_gets_its_last_jobs() -> None:
    campaign = Campaign("loop")
    first = campaign.add(JobScript("echo 1", "one"))
    seen: list[str] = []

    @campaign.step(after=first, loop=True)
    def refine(results: Results) -> JobScript | None:
        n = int(results[0].stdout())
        return None if n >= 3 else JobScript(f"echo {n + 1}", f"r{n}")

    @campaign.step(after=refine)
    def final(results: Results) -> None:
        seen.extend(result.name for result in results)

    assert campaign.run(timeout=60).is_complete
    assert seen == ["r2"]


def test_a_loop_that_comes_back_to_what_it_had_is_over() -> None:
    campaign = Campaign("fixed")
    first = campaign.add(JobScript("echo 1", "start"))
    names = iter(["a", "b", "a"])

    @campaign.step(after=first, loop=True)
    def again(results: Results) -> JobScript:
        return JobScript("echo 2", next(names))

    @campaign.step(after=again)
    def final(results: Results) -> None:
        seen.extend(result.name for result in results)

    seen: list[str] = []
    assert campaign.run(timeout=60).is_complete
    assert [result.name for result in again.results] == ["a", "b"]
    assert seen == ["a"]


def test_nothing_comes_after_a_step_that_may_still_make_jobs() -> None:
    campaign = Campaign("early")
    first = campaign.add(JobScript("echo 1", "one"))

    @campaign.step(after=[first, campaign.add(JobScript("echo 2", "two"))])
    def both(results: Results) -> list[JobScript]:
        return [JobScript("echo 3 >>made", f"made-{number}") for number in (1, 2)]

    last = JobScript("cat made", "last")
    for after in (both, [both], [first, both], afterany(both), {last: both}):
        with pytest.raises(SettingsError, match="return the job from a step"):
            campaign.add(last, after=after)
    assert campaign.run(timeout=60).is_complete
    (result,) = campaign.add(last, after=[both, first])
    assert len(result.record.after) == 3
    assert campaign.run(timeout=60).is_complete
    assert result.stdout() == "3\n3\n"


def test_who_has_no_script_is_told_of_functions_that_were_not_called() -> None:
    program = (
        "import os\nfrom clusterjob import Campaign, JobScript\n"
        "campaign = Campaign('open')\nfirst = campaign.add(JobScript('sleep 2; echo 1', 'one'))\n"
        "@campaign.step(after=first)\ndef second(results):\n    return None\n"
        "campaign.step()\nos._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    told = run("campaign", "continue", "open", code=5)
    assert "1 COMPLETED, not called yet, by the campaign's script: second" in told
    assert json.loads(run("campaign", "show", "open", "--json", code=5))[
        "open_steps"
    ] == ["second"]
    done = program.replace("campaign.step()\nos._exit(9)", "campaign.run()")
    subprocess.run([sys.executable, "-c", done], check=True)
    run("campaign", "show", "open")


def test_a_job_of_another_campaign_counts_too() -> None:
    def mesh() -> JobScript:
        return JobScript("sleep 1; echo mesh", "mesh")

    first = Campaign("first", max_pending=1)
    first.add([JobScript("until [ -e go ]; do sleep 0.1; done", "other"), mesh()])
    first.step()
    second = Campaign("second")
    results = second.add(mesh())
    assert not second.outcome.is_over
    assert second.run(timeout=30).is_complete
    assert results[0].status == Status.COMPLETED
    assert [result.name for result in open_campaign("second").results] == ["mesh"]
    Path("go").touch()
    assert first.run(timeout=30).is_complete


@pytest.mark.parametrize("where", ["one", "two"])
def test_elements_come_after_elements_whatever_the_rules_of_retries(
    where: str,
) -> None:
    place = profile("one")
    other = profile(where)
    campaign = Campaign("elements", retry=Retry(2, timeout={"time": 2}))
    first = job("first", "[ $CLUSTERJOB_ARRAY_INDEX != 3 ]")
    second = job("second", "echo $CLUSTERJOB_ARRAY_INDEX >> ledger")
    third = job("third", "echo never >> ledger")
    for made, indices, at in (
        (first, "1-4", place),
        (second, "2-4", other),
        (third, "3", other),
    ):
        made.read_settings(at)
        made.array = indices
        made.time = "1m"
    [parent] = campaign.add(first)
    [child] = campaign.add(second, after=aftercorr(parent))
    [orphan] = campaign.add(third, after=aftercorr(parent))
    assert campaign.run(timeout=60).is_over
    states = {index: task.status for index, task in child.tasks.items()}
    assert states == {
        2: Status.COMPLETED,
        3: Status.CANCELLED,
        4: Status.COMPLETED,
    }
    assert child.tasks[3].reason == Reason.DEPENDENCY
    assert (orphan.status, orphan.reason) == (Status.CANCELLED, Reason.DEPENDENCY)
    assert sorted(ledger()) == ["2", "4"]


def test_two_processes_drive_one_campaign_on_two_clusters() -> None:
    places = [profile("one"), profile("two")]
    program = (
        "from clusterjob import Campaign, JobScript, sweep\n"
        f"campaign = Campaign('both', max_pending=3, profiles={places!r})\n"
        "job = JobScript('echo {{ n }} >> ledger', 'j')\n"
        "campaign.add(sweep(job, n=range(20)))\n"
        "assert campaign.run(timeout=150).is_complete\n"
    )
    outputs_of_three(program)
    assert Counter(ledger()) == Counter(map(str, range(20)))


def test_what_a_changed_script_makes_no_more_is_not_submitted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make(word: str, count: int = 3) -> tuple[Campaign, Results]:
        campaign = Campaign("edited", max_running=1)
        campaign.add(JobScript("sleep 1", "other"))
        return campaign, campaign.add(
            [JobScript(f"echo {word} >>ran-{n}", f"run-{n}") for n in range(count)]
        )

    campaign, old = make("OLD", 4)
    campaign.step()
    campaign, _ = make("NEW")
    with caplog.at_level("WARNING"):
        assert campaign.run(timeout=60).is_over
    assert all(f"'run-{n}'" in caplog.text for n in range(3))
    assert "will not be" in caplog.text
    assert [Path(f"ran-{n}").read_text() for n in range(3)] == ["NEW\n"] * 3
    # what no other took the place of was wanted, as far as anybody knows
    assert Path("ran-3").read_text() == "OLD\n"
    assert [result.status for result in old[:3]] == [Status.CANCELLED] * 3
    names = sorted(result.name for result in campaign.results)
    assert names == ["other", "run-0", "run-1", "run-2", "run-3"]
    # back to what it was: all of it comes back
    campaign, old = make("OLD", 4)
    assert campaign.run(timeout=60).is_complete
    assert Path("ran-0").read_text() == "NEW\nOLD\n"
    assert {result.stdout() for result in old} == {""}


def test_a_mended_script_goes_on_though_its_campaign_was_stopped() -> None:
    def make(body: str) -> Campaign:
        campaign = Campaign("mended", stop_on_failure=True)
        first = campaign.add(JobScript(body, "a"))
        campaign.add(JobScript("true", "b"), after=first)
        return campaign

    assert make("exit 1").run(timeout=30).is_stopped
    outcome = make("exit 0").run(timeout=30)
    assert outcome.is_complete, str(outcome)
    assert outcome.counts == {Status.COMPLETED: 2}


def test_a_retry_without_the_script_parts_with_nothing() -> None:
    campaign = Campaign("bare")
    campaign.add(
        [JobScript("true"), JobScript("exit 3")]
    )  # of one name, in one folder
    assert campaign.run(timeout=30).is_over
    again = open_campaign("bare")
    again.retry()
    again.run(timeout=30)
    assert len(again.results) == 2


def test_what_was_there_before_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign("once")
    first = campaign.add(JobScript("echo 0", "n-0"))

    @campaign.step(after=first, loop=True)
    def count(results: Results) -> JobScript | None:
        number = int(results[0].stdout()) + 1
        return JobScript(f"echo {number}", f"n-{number}") if number < 4 else None

    store, asked = campaign.session.store, []
    listed = store.listed
    monkeypatch.setattr(
        store, "listed", lambda *args: asked.append(args) or listed(*args)
    )
    assert campaign.run(timeout=60).is_complete
    assert len(campaign.results) == 4
    assert len(asked) == 1


def test_a_step_whose_function_was_changed_is_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def called(name: str) -> None:
        with open("calls", "a") as file:
            file.write(f"{name}\n")

    def make(words: list[str]) -> Campaign:
        campaign = Campaign("steps-edited")
        first = campaign.add(JobScript("echo 1", "first"))

        @campaign.step(after=first)
        def middle(results: Results) -> list[JobScript]:
            called("middle")
            return [JobScript(f"echo {word}", f"middle-{word}") for word in words]

        @campaign.step(after=middle)
        def last(results: Results) -> list[JobScript]:
            called("last")
            said = "".join(result.stdout().strip() for result in results)
            return [JobScript(f"echo {said}", f"last-{said}")]

        assert campaign.run(timeout=60).is_complete
        return campaign

    def names(campaign: Campaign) -> list[str]:
        return sorted(result.name for result in campaign.results)

    make(["a", "b"])
    again = make(["a", "b"])
    assert ledger("calls") == ["middle", "last"]
    assert names(again) == ["first", "last-ab", "middle-a", "middle-b"]
    with caplog.at_level("WARNING"):
        changed = make(["b", "c"])
    assert ".middle' is called again: its function was changed" in caplog.text
    # what the function makes no more is no part of the campaign, nor what came of that
    assert names(changed) == ["first", "last-bc", "middle-b", "middle-c"]
    assert ledger("calls") == ["middle", "last"] * 2
    back = make(["a", "b"])
    assert names(back) == ["first", "last-ab", "middle-a", "middle-b"]
    assert [result.record.attempt for result in back.results] == [1] * 4


def test_a_step_whose_jobs_take_a_changed_file_is_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make() -> str:
        campaign = Campaign("files-edited")
        first = campaign.add(JobScript("echo 1", "first"))

        @campaign.step(after=first)
        def second(results: Results) -> JobScript:
            return JobScript("cat data", "second", inputs=["data"], workdir="there")

        assert campaign.run(timeout=60).is_complete
        (found,) = (item for item in campaign.results if item.name == "second")
        return found.stdout()

    Path("data").write_text("old\n")
    assert make() == "old\n"
    Path("data").write_text("new\n")
    assert make() == "new\n"
    assert "data was changed" in caplog.text
    # one that is gone says nothing about its content
    Path("data").unlink()
    assert make() == "new\n"


def test_what_came_of_a_loop_that_ends_elsewhere_is_gone() -> None:
    def make(end: int) -> list[str]:
        campaign = Campaign("converging")
        first = campaign.add(JobScript("echo 0", "n-0"))

        @campaign.step(after=first, loop=True)
        def count(results: Results) -> JobScript | None:
            number = int(results[0].stdout()) + 1
            return (
                JobScript(f"echo {number}", f"n-{number}") if number <= end else None
            )

        @campaign.step(after=count)
        def final(results: Results) -> JobScript:
            return JobScript("true", f"final-{results[0].name}")

        assert campaign.run(timeout=60).is_complete
        return sorted(result.name for result in campaign.results)

    assert make(2) == ["final-n-2", "n-0", "n-1", "n-2"]
    assert make(3) == ["final-n-3", "n-0", "n-1", "n-2", "n-3"]
    assert make(1) == ["final-n-1", "n-0", "n-1"]


def test_scripts_that_add_to_a_campaign_keep_the_jobs_of_each_others_steps() -> None:
    def make(data: str) -> Campaign:
        campaign = Campaign("added-to")
        first = campaign.add(JobScript(f"echo {data}", f"first-{data}"))

        @campaign.step(after=first)
        def second(results: Results) -> JobScript:
            return JobScript("true", f"second-{results[0].stdout().strip()}")

        assert campaign.run(timeout=60).is_complete
        return campaign

    make("a")
    names = [result.name for result in make("b").results]
    assert sorted(names) == ["first-a", "first-b", "second-a", "second-b"]


def test_what_was_retried_is_not_repeated_by_the_script() -> None:
    program = (
        "from clusterjob import Campaign, JobScript, sweep\n"
        "campaign = Campaign('dep')\n"
        "first = campaign.add(JobScript('[ -e ok ] || exit 7', 'pre'))\n"
        "runs = campaign.add(sweep(JobScript('echo x >> n_{{ i }}', 'r'), i=[1, 2]), after=first)\n"
        "last = campaign.add(JobScript('echo x >> n_3', 'last'), after=runs)\n"
        "print(campaign.run(timeout=60))\n"
    )

    def drive() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout

    assert "1 FAILED" in drive()
    Path("ok").touch()
    run("campaign", "retry", "dep")
    run("campaign", "continue", "dep", "--timeout", "60")
    for _ in range(2):
        assert drive() == "4 COMPLETED\n"
        assert [Path(f"n_{n}").read_text() for n in (1, 2, 3)] == ["x\n"] * 3


def test_a_job_waits_for_the_one_that_it_takes_the_place_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make(factor: int) -> tuple[Campaign, Results]:
        campaign = Campaign("over")
        body = f"until [ -e go ]; do sleep 0.1; done; cat in; echo {factor} > v"
        files: dict[str, Any] = {
            "inputs": ["in"],
            "outputs": ["v"],
            "workdir": "there",
        }
        return campaign, campaign.add([JobScript(body, "e", **files)])

    Path("in").write_text("first\n")
    campaign, old = make(1)
    campaign.step()
    Path("in").write_text("second\n")
    campaign, new = make(100)
    campaign.add(JobScript("true", "free"))
    with caplog.at_level("WARNING"):
        campaign.step()
    assert f"'e' ({old[0].job_id}) of an earlier version" in caplog.text
    deadline = time.monotonic() + 20
    while campaign.step().counts.get(Status.COMPLETED) != 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert new[0].job_id is None
    Path("there/go").touch()
    assert campaign.run(timeout=60).counts == {Status.COMPLETED: 2}
    assert Path("there/v").read_text() == "100\n"
    assert (old[0].stdout(), new[0].stdout()) == ("first\n", "second\n")
    # back to what it was: its output is that of another now, so it runs again
    Path("in").write_text("first\n")
    campaign, back = make(1)
    assert campaign.run(timeout=60).is_complete
    assert Path("there/v").read_text() == "1\n"
    assert back[0].job_id != old[0].job_id


def test_what_is_back_is_not_repeated_where_the_other_never_ran() -> None:
    def make(word: str) -> tuple[Campaign, Results]:
        campaign = Campaign("back", max_running=1)
        if word == "two":
            campaign.add(JobScript("until [ -e go ]; do sleep 0.1; done", "blocker"))
        return campaign, campaign.add(JobScript(f"echo {word}", "a"))

    campaign, first = make("one")
    assert campaign.run(timeout=60).is_complete
    campaign, second = make("two")
    campaign.step()
    assert second[0].job_id is None
    Path("go").touch()
    campaign, third = make("one")
    assert campaign.run(timeout=60).is_complete
    assert third[0].job_id == first[0].job_id
    assert len(campaign.results) == 2


def version(value: int, campaign: str, rows: int = 2) -> list[str]:
    """Run a pipeline that writes files which only some of its jobs declare; return what it says."""
    script = Campaign(campaign)
    jobs = sweep(
        JobScript("echo {{ x }} > v", "s", workdir="w{{ i }}"),
        zipped=True,
        i=range(rows),
        x=[value, *range(1, rows)],
    )
    runs = script.add(jobs)
    mesh = script.add(JobScript(f"echo {value} > mesh", "mesh", workdir="m"))
    use = script.add(JobScript("cat mesh", "use", workdir="m"), after=mesh)

    @script.step(after=runs)
    def total(results: Results) -> JobScript:
        values = [int(Path(item.record.workdir, "v").read_text()) for item in results]
        return JobScript(f"echo {sum(values)}", "total")

    assert script.run(timeout=60).is_complete
    [last] = [item for item in script.results if item.name == "total"]
    assert len(script.results) == rows + 3
    return [last.stdout().strip(), use[0].stdout().strip()]


def test_a_value_that_is_changed_back_gives_its_own_number_again() -> None:
    assert version(10, "numbers") == ["11", "10"]
    assert version(20, "numbers") == ["21", "20"]
    assert version(10, "numbers") == ["11", "10"]
    ids = [item.job_id for item in open_campaign("numbers").results]
    assert version(10, "numbers") == ["11", "10"]
    assert [item.job_id for item in open_campaign("numbers").results] == ids


def test_what_a_step_made_of_inputs_of_which_none_is_left_is_replaced() -> None:
    def make(*values: int) -> list[str]:
        campaign = Campaign("totals")
        runs = campaign.add(sweep(JobScript("echo {{ x }}", "s"), x=values))

        @campaign.step(after=runs)
        def total(results: Results) -> JobScript:
            return JobScript(f"echo {sum(int(r.stdout()) for r in results)}", "total")

        assert campaign.run(timeout=60).is_over
        found = [item for item in campaign.results if item.name == "total"]
        return [item.stdout().strip() for item in found]

    assert make(1, 2) == ["3"]
    assert make(7, 8) == ["15"]
    assert make(1, 2) == ["3"]


def test_a_row_waits_for_the_version_of_it_that_runs() -> None:
    def make(value: int) -> tuple[Campaign, Results]:
        campaign = Campaign("rows")
        body = (
            "[ {{ x }} = 2 ] || until [ -e go ]; do sleep 0.1; done; echo {{ x }} > v"
        )
        job = JobScript(body, "s", workdir="w", outputs=["v"])
        return campaign, campaign.add(sweep(job, x=[value]))

    campaign, old = make(1)
    campaign.step()
    campaign, new = make(2)
    campaign.step()
    assert new[0].job_id is None
    Path("w/go").touch()
    assert campaign.run(timeout=60).is_complete
    assert old[0].status == Status.COMPLETED
    assert Path("w/v").read_text() == "2\n"
    assert [item.name for item in campaign.results] == [new[0].name]


def test_jobs_on_the_same_file_with_other_contents_go_one_after_the_other() -> None:
    campaign = Campaign("apart")
    for word in ("one", "two"):
        Path(f"{word}.in").write_text(word)
        campaign.add(
            JobScript("sleep 1; cat data", word, inputs=[(f"{word}.in", "data")])
        )
    assert campaign.run(timeout=60).is_complete
    assert {result.name: result.stdout() for result in campaign.results} == {
        "one": "one",
        "two": "two",
    }


def test_what_was_made_of_other_inputs_is_no_result_of_these() -> None:
    def make(body: str) -> Campaign:
        campaign = Campaign("half")
        runs = campaign.add(sweep(JobScript(body, "w"), x=[1, 2]))

        @campaign.step(after=runs)
        def total(results: Results) -> JobScript:
            return JobScript(
                f"echo {sum(int(item.stdout()) for item in results)}", "t"
            )

        campaign.run(timeout=60)
        return campaign

    assert sorted(item.name for item in make("echo {{ x }}").results) == [
        "t",
        "w_x1",
        "w_x2",
    ]
    failed = make("[ {{ x }} = 1 ] || exit 3; echo {{ x }}00")
    assert sorted(item.name for item in failed.results) == ["w_x1", "w_x2"]
    (back,) = (item for item in make("echo {{ x }}").results if item.name == "t")
    assert back.stdout() == "3\n"


def test_other_profiles_repeat_nothing_that_is_the_same_there() -> None:
    for name in ("one", "two"):
        profile(name, attributes=f"rootdir = {Path.cwd()}/{name}")

    def drive(*profiles: str) -> None:
        campaign = Campaign("moved", profiles=profiles)
        sign = f">> {Path.cwd()}/ledger"
        first = campaign.add(
            sweep(JobScript(f"echo {{{{ n }}}} {sign}", "j"), n=range(4))
        )
        campaign.add(JobScript(f"echo last {sign}", "l"), after=first)
        assert campaign.run(timeout=60).is_complete

    drive("one.ini", "two.ini")
    folders = {folder for folder in ("one", "two") if Path(folder).exists()}
    for profiles in (["two"], ["one"], ["two", "one"], ["one", "two"]):
        drive(*(f"{name}.ini" for name in profiles))
    assert folders == {"one", "two"}
    assert sorted(ledger()) == ["0", "1", "2", "3", "last"]
    # another number of cores is another job
    with open("two.ini", "a") as file:
        file.write("[Resources]\nppn = 2\n")
    drive("two.ini")
    assert len(ledger()) > 5


def test_a_job_that_is_wanted_no_more_is_put_out() -> None:
    campaign = Campaign("smaller")
    results = campaign.add([job("good"), job("bad", "exit 3"), job("other")])
    results += campaign.add(job("slow", "until [ -e go ]; do sleep 0.1; done"))
    campaign.step()
    assert wait(results[:3], 30).not_done == []
    with pytest.raises(SettingsError, match=r"'slow' .* cancel it first"):
        campaign.remove(results[1:])
    Path("go").touch()
    assert not campaign.run(timeout=30).is_complete
    run("campaign", "show", "smaller", code=1)
    assert "3 COMPLETED\n" in run("campaign", "remove", "smaller", "bad")
    run("campaign", "show", "smaller")
    assert "no job of campaign" in run("campaign", "remove", "smaller", "bad", code=1)
    assert len(campaign.results) == 3
    # a script that has it still takes it in again; what waits is not submitted
    campaign = Campaign("smaller", max_pending=1)
    campaign.add(job("bad", "exit 3"))
    [held] = campaign.add(job("held"))
    assert campaign.outcome.counts[Status.FAILED] == 1
    campaign.remove(held)
    assert held.status == Status.CANCELLED
    campaign.run(timeout=30)
    assert "held" not in ledger()
    assert held.record.campaign == ""


def test_what_comes_after_jobs_of_another_cluster_is_tried_again_with_them() -> None:
    one, two = profile("one"), profile("two")
    campaign = Campaign("across")
    first = job("first", "[ -e ok ] && echo first >> ledger")
    first.read_settings(one)
    second = job("second")
    second.read_settings(two)
    campaign.add(second, after=campaign.add(first))
    assert campaign.run(timeout=60).counts == {Status.FAILED: 1, Status.CANCELLED: 1}
    Path("ok").touch()
    assert len(run("retry", "first").split()) >= 1
    assert campaign.results[0].wait(30)
    assert open_campaign("across").run(timeout=60).is_complete
    assert ledger() == ["first", "second"]


def test_stages_of_one_sweep_that_are_added_one_after_the_other_run_once() -> None:
    job = JobScript(
        "echo {{ stage }} >> ../ledger; echo {{ stage }} > v",
        "s",
        workdir="w{{ i }}",
        outputs=["v"],
    )
    for _ in range(3):
        campaign = Campaign("stages")
        for stage in range(3):
            campaign.add(sweep(job, i=range(2), stage=[stage]))
            assert campaign.run(timeout=60).is_complete
        assert len(campaign.results) == 6
        assert Path("w0/v").read_text() == "2\n"
    assert sorted(ledger()) == ["0", "0", "1", "1", "2", "2"]


def test_one_row_with_a_workdir_of_its_own_gives_its_own_number_again() -> None:
    def run_with(value: int, rows: int = 1) -> str:
        campaign = Campaign("single")
        row = JobScript("echo {{ x }} > v", "s", workdir="w_{{ label }}")
        campaign.add(
            sweep(row, zipped=True, label=["a", "b"][:rows], x=[value, 7][:rows])
        )
        assert campaign.run(timeout=60).is_complete
        return Path("w_a/v").read_text().strip()

    numbers = [
        run_with(1, 2),
        run_with(5, 2),
        run_with(1),
        run_with(5),
        run_with(1, 2),
    ]
    assert numbers == ["1", "5", "1", "5", "1"]


def test_equal_rows_that_come_back_are_not_repeated() -> None:
    for count in (3, 1, 2, 3):
        campaign = Campaign("equal")
        job = JobScript("echo {{ x }} >> ledger", "e")
        campaign.add(sweep(job, [{"x": 1}] * count))
        assert campaign.run(timeout=60).is_complete
    assert ledger() == ["1"] * 3
