"""What every backend promises, tried on every live scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterjob import (
    AsyncResult,
    JobScript,
    Reason,
    Status,
    as_completed,
    cancel,
    submit,
    wait,
)
from clusterjob.errors import (
    JobFailedError,
    ResourcesNotSupportedError,
    SettingsError,
    SubmissionError,
    WaitTimeoutError,
)
from tests.conftest import locked

from .conftest import FLAVOURS, PLACES, Flavour, on

# OpenPBS's mom sees no memory and no processor time where the tests run, so that it ends no job for
# its memory; and its job's shepherd is the mom itself
NOT_PBS = [place for place in PLACES if not place.startswith("pbspro")]
# the second machine has no control groups to keep memory with, and its HTCondor belongs to root
FRAGILE = [place for place in NOT_PBS if place not in ("slurm24", "htcondor")]
NARROW_NAMES = ("sge", "pbspro", "htcondor")
WEIRD = [
    "with space",
    "quo'te\"s",
    "a;b&c",
    "$(touch pwned)`touch pwned`",
    "ünï-çødé",
    "-dash",
    "new\nline",
    "100%t",
    "back\\slash",
    "#hash *?[",
]


@pytest.fixture(autouse=True)
def _overtime_first(overtime: Callable[[], AsyncResult]) -> None:
    """Have the slow job on its way before anything else."""


# a job that waits for the test, however slow the machine is
UNTIL_GO = "until [ -e go ]; do sleep 0.1; done"


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_completes(cluster: Flavour) -> None:
    result = cluster.finish(
        "echo out; echo err >&2; for i in $(seq 20000); do :; done; sleep 1",
        time="5m",
    )
    assert result.get() == Status.COMPLETED
    assert (result.exit_code, result.signal, result.reason) == (0, None, None)
    assert result.stdout() == "out\n"
    assert result.stderr() == "err\n"
    assert result.successful()
    assert result.usage["elapsed"] >= 1
    assert result.usage["cpu"] >= 0
    states = [state for _, state, _ in result.history]
    assert states[0] == "PENDING"
    assert states[-1] == "COMPLETED"
    assert states.index("PENDING") < len(states) - 1
    times = [when for when, _, _ in result.history]
    assert times == sorted(times)
    assert not list(Path(result.record.folder).glob("*.body"))


@on(*NOT_PBS)
def test_usage_has_max_rss_where_it_is_known(cluster: Flavour) -> None:
    # HTCondor looks every five seconds, the first time before the memory is taken
    seconds = 12 if cluster.family == "htcondor" else 5
    result = cluster.finish(
        f"#!/usr/bin/env python3\nimport time\nx = b'x' * 60_000_000\ntime.sleep({seconds})",
        mem=500 if cluster.family == "slurm" else None,
    )
    if not cluster.accounting:
        assert "max_rss" not in result.usage
    else:
        until(lambda: "max_rss" in result.usage)
        assert 50 < result.usage["max_rss"] < 200


def test_exit_code(cluster: Flavour) -> None:
    result = cluster.finish("echo about to fail\nexit 3")
    assert (result.status, result.reason, result.exit_code) == (
        Status.FAILED,
        Reason.EXIT,
        3,
    )
    with pytest.raises(JobFailedError) as caught:
        result.get()
    for piece in (
        result.name,
        str(result.job_id),
        "exit code 3",
        "about to fail",
        result.log_path("stderr"),
    ):
        assert piece in str(caught.value)
    assert not result.successful()


def test_command_not_found_is_127(cluster: Flavour) -> None:
    assert cluster.finish("#!/no/such/interpreter\n").exit_code in (126, 127)


def test_signal(cluster: Flavour) -> None:
    result = cluster.finish("kill -SEGV $$")
    assert (result.status, result.reason, result.signal) == (
        Status.FAILED,
        Reason.SIGNAL,
        11,
    )


def test_killed_body(cluster: Flavour) -> None:
    result = cluster.finish("kill -KILL $$")
    assert (result.status, result.reason, result.signal) == (
        Status.FAILED,
        Reason.SIGNAL,
        9,
    )


@on(*FRAGILE)
def test_out_of_memory(cluster: Flavour) -> None:
    hog = (
        "import time\nx = []\nfor i in range(8):\n    x.append(b'x' * 10_000_000); "
        "time.sleep(0.02)\ntime.sleep(20)\n"
    )
    # Grid Engine sees the memory of a job's processes together; a single one would only find that
    # it gets no more
    body = (
        "python3 hog.py & python3 hog.py & wait"
        if cluster.name == "sge"
        else "python3 hog.py"
    )
    result = cluster.finish(
        body,
        mem=120 if cluster.name == "sge" else 40,
        time="5m",
        aux_scripts={"hog.py": hog},
    )
    assert (result.status, result.reason) == (Status.FAILED, Reason.OUT_OF_MEMORY), (
        result.explain()
    )


def test_cancel_running_kills_every_process(cluster: Flavour) -> None:
    result = cluster.run(
        "sleep 1234 & echo $! > child.pid\nsetsid sleep 1235 & echo $! > far.pid\nwait"
    )
    until(lambda: Path("far.pid").exists() and Path("far.pid").read_text().strip())
    until(lambda: result.status == Status.RUNNING)
    result.cancel()
    assert result.wait(60)
    assert (result.status, result.reason) == (Status.CANCELLED, Reason.CANCELLED)
    assert not list(Path(result.record.folder).glob("*.body"))
    until(lambda: not _alive(int(Path("child.pid").read_text())))
    if cluster.name in ("sge", "pbspro"):  # what leaves its session leaves them too
        os.kill(int(Path("far.pid").read_text()), signal.SIGKILL)
    else:
        until(lambda: not _alive(int(Path("far.pid").read_text())))


def _alive(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        return False


def test_cancel_pending(cluster: Flavour) -> None:
    blocker = cluster.run("sleep 600")
    until(lambda: blocker.status == Status.RUNNING)
    result = _after(cluster, "touch ran", blocker)
    assert result.status == Status.PENDING
    cancel([result])
    assert result.wait(60)
    assert (result.status, result.reason) == (Status.CANCELLED, Reason.CANCELLED)
    assert not Path("ran").exists()
    blocker.cancel()


def _after(cluster: Flavour, body: str, *parents: AsyncResult) -> AsyncResult:
    result: AsyncResult = cluster.job(body).submit(after=parents)
    return result


def test_cancel_of_a_finished_job_changes_nothing(cluster: Flavour) -> None:
    result = cluster.finish("true")
    before = result.history
    result.cancel()
    assert result.status == Status.COMPLETED
    assert result.history == before


def test_cancel_of_a_job_that_ended_unseen(cluster: Flavour) -> None:
    result = cluster.run("true")
    time.sleep(4)
    result.cancel()
    assert result.wait(30)
    assert result.status == Status.COMPLETED


@on(*FRAGILE)
def test_node_failure(cluster: Flavour) -> None:
    options: dict[str, Any] = (
        {"no_requeue": True, "queue": "fragile"} if cluster.family == "slurm" else {}
    )
    with _fragile_node(cluster) as break_it:
        # the parent of the wrapper, which is the body's parent, is the scheduler's shepherd on Grid
        # Engine and on the embedded scheduler
        result = cluster.run(
            "cut -d ' ' -f 4 /proc/$PPID/stat > shepherd; echo started; sleep 600",
            **options,
        )
        until(
            lambda: result.status == Status.RUNNING and "started" in result.stdout()
        )
        break_it()
        assert result.wait(90), result.explain()
        assert (result.status, result.reason) == (
            Status.FAILED,
            Reason.NODE_FAILURE,
        ), result.explain()


@contextlib.contextmanager
def _fragile_node(cluster: Flavour) -> Iterator[Callable[[], object]]:
    """Give what breaks the job's node: Slurm has one for this, which one test breaks at a time;
    elsewhere the job's shepherd is killed.
    """
    if cluster.family != "slurm":
        yield lambda: os.kill(int(Path("shepherd").read_text()), signal.SIGKILL)
        return
    assert cluster.lab is not None
    update = ["scontrol", "update", "nodename=node3"]
    with locked(cluster.lab / f"{cluster.name}-node3.lock"):
        try:
            yield lambda: subprocess.run(
                [*update, "state=down", "reason=test"], check=True
            )
        finally:
            subprocess.run(
                [*update, "state=resume"], check=False, capture_output=True
            )


def test_array(cluster: Flavour) -> None:
    result = cluster.finish(
        "echo task $CLUSTERJOB_ARRAY_INDEX; exit $((CLUSTERJOB_ARRAY_INDEX == 3))",
        # HTCondor cannot bound how many run at once
        array="1-4" if cluster.name == "htcondor" else "1-4%2",
    )
    tasks = result.tasks
    assert tasks is not None
    assert {index: task.status for index, task in tasks.items()} == {
        1: Status.COMPLETED,
        2: Status.COMPLETED,
        3: Status.FAILED,
        4: Status.COMPLETED,
    }
    assert (result.status, result.reason, result.exit_code) == (
        Status.FAILED,
        Reason.EXIT,
        1,
    )
    assert result.stdout(2) == "task 2\n"
    assert result.stdout() == "task 1\ntask 2\ntask 3\ntask 4\n"


def test_after_a_job_that_completes(cluster: Flavour) -> None:
    first = cluster.run("sleep 1; echo first > order")
    second = _after(cluster, "echo second >> order", first)
    assert second.wait(60)
    assert second.status == Status.COMPLETED, second.explain()
    assert Path("order").read_text() == "first\nsecond\n"


def test_after_a_job_that_fails(cluster: Flavour) -> None:
    first = cluster.run(f"{UNTIL_GO}; exit 1")
    _never_runs_after(cluster, first)


def _never_runs_after(cluster: Flavour, first: AsyncResult) -> None:
    """What comes after a job that waits for ``go``, and fails then, does not run."""
    second = _after(cluster, "touch ran", first)
    Path("go").touch()
    assert second.wait(60)
    assert (second.status, second.reason) == (Status.CANCELLED, Reason.DEPENDENCY), (
        second.explain()
    )
    assert not Path("ran").exists()


@on(*FLAVOURS)
def test_after_an_array_of_which_an_element_fails(cluster: Flavour) -> None:
    first = cluster.run(
        f"{UNTIL_GO}; exit $((CLUSTERJOB_ARRAY_INDEX == 3))", array="1-3"
    )
    _never_runs_after(cluster, first)


@on("sge")
def test_what_grid_engine_says_of_a_job_that_it_dropped_is_not_believed(
    cluster: Flavour,
) -> None:
    result = cluster.run("touch began; sleep 60; touch ended")
    deadline = time.monotonic() + 30
    while not Path("began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    subprocess.run(
        ["qdel", "-f", str(result.job_id)], check=True, capture_output=True
    )
    assert result.wait(60)
    assert (result.status, result.reason) == (Status.FAILED, Reason.LOST)


def test_variables(cluster: Flavour) -> None:
    names = ["ID", "NAME", "WORKDIR", "SUBMIT_HOST", "NODELIST", "ARRAY_INDEX"]
    result = cluster.finish(
        "\n".join(f'printf "%s\\n" "$CLUSTERJOB_{name}"' for name in names),
        jobname="variables",
    )
    number, name, workdir, submit_host, nodes, index = result.stdout().split("\n")[:6]
    assert (number, name, workdir, index) == (
        result.job_id,
        "variables",
        os.getcwd(),
        "",
    )
    assert submit_host
    assert nodes


def test_weird_working_directories(cluster: Flavour) -> None:
    Path("in put.txt").write_text("given\n")
    jobs = []
    for name in WEIRD:
        os.makedirs(name)
        job = cluster.job(
            "pwd; cat 'in put.txt'; echo err >&2", workdir=name, inputs=["in put.txt"]
        )
        if (cluster.name in ("sge", "htcondor") and "\n" in name) or (
            cluster.family == "slurm" and ("%" in name or "\\" in name)
        ):
            with pytest.raises(SettingsError, match="workdir"):
                job.submit()
        else:
            jobs.append((name, job))
    results = cluster.batch([job for _, job in jobs])
    assert wait(results, 60)[1] == []
    for (name, _), result in zip(jobs, results, strict=True):
        assert result.status == Status.COMPLETED, result.explain()
        assert result.stdout() == f"{os.getcwd()}/{name}\ngiven\n"
        assert result.stderr() == "err\n"
    assert not list(Path().rglob("pwned"))


def test_weird_job_names_are_quoted_or_refused(cluster: Flavour) -> None:
    jobs = {}
    for name in (
        "two words",
        "semi;colon",
        "$(touch pwned)",
        "`touch pwned`",
        "quo'te",
        'dou"ble',
        "new\nline",
        "--help",
        "ünï",
    ):
        try:
            job = cluster.job(
                f'printf "%s" "$CLUSTERJOB_NAME"  # {len(jobs)}', jobname=name
            )
            str(job)
        except SettingsError as error:
            if repr(name) not in str(error) or not (
                "\n" in name or cluster.name in NARROW_NAMES
            ):
                raise
        else:
            jobs[name] = job
    assert jobs or cluster.name in NARROW_NAMES
    results = cluster.batch(list(jobs.values()))
    assert wait(results, 60)[1] == []
    assert [result.status for result in results] == [Status.COMPLETED] * len(jobs)
    assert [result.stdout() for result in results] == list(jobs)
    assert not list(Path().rglob("pwned"))


def test_weird_resources_are_never_executed(cluster: Flavour) -> None:
    for value in ("a;touch pwned", "$(touch pwned)", "x\ntouch pwned"):
        try:
            result = cluster.job("true", account=value).submit()
            result.wait(30)
        except (SettingsError, SubmissionError):
            pass
    assert not list(Path().rglob("pwned"))


def test_bodies_run_as_they_would_alone(cluster: Flavour) -> None:
    body = r"""#!/bin/bash
set -eu -o pipefail
trap 'echo "bye $?"' EXIT
trap 'echo interrupted' INT
a=(x "y z" 'ü {{ "{{" }}')
echo ${#a[@]} "${a[1]}" 100%s "a'b" $((7 % 4)) {1..3}
echo "one two" | awk '{print $2}'
kill -INT $$
cat <<'EOF'
$(not run) `nor this` \n
EOF
exec bash -c 'echo replaced; exit 7'
"""
    result = cluster.finish(body)
    assert (
        result.stdout()
        == "3 y z 100%s a'b 3 1 2 3\ntwo\ninterrupted\n$(not run) `nor this` \\n\nreplaced\n"
    )
    assert result.exit_code == 7


def test_other_languages(cluster: Flavour) -> None:
    result = cluster.finish(
        "#!/usr/bin/env -S python3 -X dev\nimport sys\nprint(sys.flags.dev_mode, sys.argv[1:], "
        "{'k': 1})\n"
    )
    assert result.stdout() == "True [] {'k': 1}\n"


def test_verbatim(cluster: Flavour) -> None:
    result = cluster.finish(
        "echo '{{ not_jinja }}' '{% if %}' #$ -N other\n#SBATCH --mem=99999G\n#$ -l nonsense=1\n",
        verbatim=True,
    )
    assert result.stdout() == "{{ not_jinja }} {% if %}\n"


def test_auxiliary_scripts(cluster: Flavour) -> None:
    scripts = {
        "helper.sh": "#!/bin/sh\necho T={{ T }}\n",
        "sub/calc.py": "print(6 * {{ T }})",
    }
    result = cluster.finish(
        "./helper.sh; python3 sub/calc.py",
        aux_scripts=scripts,
        params={"T": 7},
        workdir="aux",
    )
    assert result.stdout() == "T=7\n42\n"


def test_scripts_and_inputs_are_frozen(cluster: Flavour) -> None:
    Path("data.txt").write_text("then\n")
    blocker = cluster.run(UNTIL_GO)
    result = _after_job(
        cluster.job(
            "cat data.txt; ./tool",
            workdir="w",
            inputs=["data.txt"],
            aux_scripts={"tool": "echo tool"},
        ),
        blocker,
    )
    Path("data.txt").write_text("now\n")
    with pytest.raises(Exception, match="has not finished"):
        cluster.job("cat data.txt", workdir="w", inputs=["data.txt"]).submit()
    Path("go").touch()
    assert result.wait(60)
    assert result.stdout() == "then\ntool\n"


def _after_job(job: JobScript, *parents: AsyncResult) -> AsyncResult:
    result: AsyncResult = job.submit(after=parents)
    return result


def test_an_input_changed_in_place_is_noticed(cluster: Flavour) -> None:
    Path("data.txt").write_text("then\n")
    blocker = cluster.run(UNTIL_GO)
    result = _after_job(cluster.job("cat data.txt", inputs=["data.txt"]), blocker)
    Path("data.txt").write_text("now\n")
    Path("go").touch()
    assert result.wait(60)
    assert (result.status, result.reason) == (Status.FAILED, Reason.SUBMISSION)
    assert "changed after the submission" in result.stderr()


def test_the_same_job_again(cluster: Flavour) -> None:
    jobs = [cluster.job("echo {{ n }} >> ledger", params={"n": n}) for n in range(3)]
    first = cluster.batch(jobs)
    wait(first, 60)
    before = first[0].cluster.scheduler.commands
    again = submit(jobs[::-1])
    assert [result.job_id for result in again] == [result.job_id for result in first][
        ::-1
    ]
    assert [result.status for result in again] == [Status.COMPLETED] * 3
    assert first[0].cluster.scheduler.commands == before
    assert sorted(Path("ledger").read_text().split()) == ["0", "1", "2"]
    forced = jobs[0].submit(force=True)
    assert forced.wait(60)
    assert forced.job_id != first[0].job_id
    assert Path("ledger").read_text().split().count("0") == 2


def test_failed_jobs_are_retried(cluster: Flavour) -> None:
    job = cluster.job("echo run >> ledger; test -e ok")
    first = job.submit()
    first.wait(60)
    assert first.status == Status.FAILED
    assert job.submit(retry=False).job_id == first.job_id
    Path("ok").touch()
    second = job.submit()
    assert second.wait(60)
    assert second.status == Status.COMPLETED
    assert second.job_id != first.job_id
    assert second.resubmit().wait(60)
    assert Path("ledger").read_text().count("run") == 3


def test_two_processes_at_once_make_one_job(cluster: Flavour) -> None:
    code = (
        "import sys, time, clusterjob as c\n"
        "job = c.JobScript('echo run >> ledger', 'race'); "
        f"job.read_settings({str(cluster.profile)!r})\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()))\n"
        "r = job.submit(); r.wait(60); print(r.record.token, r.status)\n"
    )
    start = str(time.time() + 1.0)
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", code, start], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = {racer.communicate(timeout=90)[0].strip() for racer in racers}
    assert len(answers) == 1
    assert "COMPLETED" in answers.pop()
    assert Path("ledger").read_text() == "run\n"


def test_a_fresh_process_picks_up_where_the_last_one_left_off(
    cluster: Flavour,
) -> None:
    code = (
        "import clusterjob as c; j = c.JobScript('sleep 2; echo done', 'survivor'); "
        f"j.read_settings({str(cluster.profile)!r})\n"
    )
    code += "print(j.submit().job_id)"
    number = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    result = cluster.job("sleep 2; echo done", jobname="survivor").submit()
    assert result.job_id == number
    assert result.wait(60)
    assert result.stdout() == "done\n"


def test_a_batch_costs_a_constant_number_of_round_trips(cluster: Flavour) -> None:
    few = cluster.batch([cluster.job(f"echo {number}") for number in range(2)])
    scheduler = few[0].cluster.scheduler
    wait(few, 60)
    counts, trips = [], []
    for size in (2, 12):
        before, asked = scheduler.trips, getattr(scheduler.transport, "trips", 0)
        results = cluster.batch(
            [cluster.job(f"sleep 60; echo {size}-{number}") for number in range(size)]
        )
        counts.append(scheduler.trips - before)
        trips.append(getattr(scheduler.transport, "trips", 0) - asked)
        until(
            lambda results=results: all(
                result.status <= Status.RUNNING for result in results
            )
        )  # type: ignore[misc]
        before, polls = scheduler.commands, results[0].cluster.poller.polls
        results[0].cluster.refresh(force=True)
        asked = results[0].cluster.poller.polls - polls
        assert scheduler.commands - before <= 2 * asked
        cancel(results)
        # Grid Engine can lose the signal for a job that is just starting, and sends it again after
        # 60 s
        assert wait(results, 150)[1] == []
    assert counts == [1, 1]
    assert trips == ([2, 2] if cluster.way else [0, 0])


def test_refused_by_the_scheduler(cluster: Flavour) -> None:
    refused: dict[str, Any] = {
        "local": {"ppn": 99},
        "slurm": {"queue": "nowhere"},
        "sge": {"queue": "nowhere.q"},
        "pbspro": {"queue": "nowhere"},
        "htcondor": {"universe": "nowhere"},
    }[cluster.family]
    words = {
        "local": "99 cores",
        "slurm": "invalid partition",
        "sge": "nowhere.q",
        "pbspro": "Unknown queue",
        "htcondor": "nowhere",
    }[cluster.family]
    with pytest.raises(SubmissionError, match=words):
        cluster.job("true", jobname="refused", **refused).submit()
    good = cluster.job("true", jobname="good")
    with pytest.raises(SubmissionError, match="'refused'") as caught:
        submit([cluster.job("true # 2", jobname="refused", **refused), good])
    assert [result.name for result in caught.value.results] == ["good"]  # type: ignore[attr-defined]
    assert good.submit().wait(60)
    assert [record.name for record in good.submit().store.select()] == ["good"]


def test_a_surrounding_job_does_not_leak(
    cluster: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPU_BIND", "leak1")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "700007")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "999999999")
    monkeypatch.setenv("SGE_TASK_ID", "700007")
    monkeypatch.setenv("PBS_JOBID", "leak2")
    monkeypatch.setenv("SPOOL_TASK", "700007")
    monkeypatch.setenv("CLUSTERJOB_ARRAY_INDEX", "700007")
    monkeypatch.setenv("KEPT", "kept")
    result = cluster.finish(
        'env | grep -E "leak1|leak2|=700007$|999999999|^KEPT|^SSH_|^HOME"'
    )
    assert result.status == Status.COMPLETED, result.explain()
    lines = set(result.stdout().split())
    assert ("KEPT=kept" in lines) == (not cluster.way)
    assert not [line for line in lines if line.startswith("SSH_")]
    mine = {
        "local": "SPOOL_",
        "slurm": "SLURM_",
        "sge": "SGE_",
        "pbspro": "PBS_",
        "htcondor": "_CONDOR_",
    }[cluster.family]
    assert not [
        line for line in lines if line.startswith((mine, "CLUSTERJOB_", "PBS_"))
    ]


def test_prologue_and_epilogue_run_once(cluster: Flavour) -> None:
    job = cluster.job(
        "cat w/fetched 2>/dev/null || cat fetched",
        prologue="mkdir -p w; echo {{ T }} > w/fetched; echo pro >> log",
        epilogue="echo epi {{ T }} >> log",
        params={"T": 5},
        workdir="w",
    )
    result = job.submit()
    assert result.wait(60)
    assert result.stdout() == "5\n"
    assert job.submit().status == Status.COMPLETED
    code = (
        "import clusterjob as c; "
        "print([result.status for result in c.default_session().results()])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert Path("log").read_text() == "pro\nepi 5\n"


def test_stdout_and_stderr_where_the_user_wants_them(cluster: Flavour) -> None:
    result = cluster.finish(
        "echo here; echo there >&2",
        stdout="my.out" if cluster.family in ("sge", "pbspro") else "my out.txt",
        stderr="my.err",
    )
    assert result.stdout() == "here\n"
    assert result.stderr() == "there\n"
    assert Path("my.err").read_text() == "there\n"


def test_waiting(cluster: Flavour) -> None:
    results = cluster.batch([cluster.job("true"), cluster.job(UNTIL_GO)])
    with pytest.raises(WaitTimeoutError):
        results[1].get(timeout=0.2)
    assert not results[1].ready()
    with pytest.raises(AssertionError):
        results[1].successful()
    order = []
    for result in as_completed(results[::-1], timeout=90):
        order.append(result.record.token)
        Path("go").touch()
    assert order == [result.record.token for result in results]

    async def both() -> list[AsyncResult]:
        return list(await asyncio.gather(*results))

    assert [result.status for result in asyncio.run(both())] == [Status.COMPLETED] * 2


def test_a_duplicate_submitted_by_hand_ends_at_once(cluster: Flavour) -> None:
    result = cluster.finish("echo run >> ledger")
    scheduler = result.cluster.scheduler
    script = next(
        Path(result.record.folder).glob(
            f"{result.record.token}.{scheduler.backend.general.extension}"
        )
    )
    environment = dict(os.environ)
    for name in scheduler.backend.general.job_variables:
        environment.pop(name, None)
    variable = {
        "local": "SPOOL_JOB_ID",
        "slurm": "SLURM_JOB_ID",
        "sge": "JOB_ID",
        "pbspro": "PBS_JOBID",
        "htcondor": "CLUSTERJOB_CONDOR_ID",
    }[cluster.family]
    done = subprocess.run(
        ["/bin/sh", str(script)],
        env=environment | {variable: "987654"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"ran as {result.job_id}" in done.stderr
    assert Path("ledger").read_text() == "run\n"


def test_the_same_script_submitted_twice_by_hand_runs_once(cluster: Flavour) -> None:
    result = cluster.run(f"{UNTIL_GO}; echo run >> ledger")
    scheduler = result.cluster.scheduler
    script = next(
        Path(result.record.folder).glob(
            f"{result.record.token}.{scheduler.backend.general.extension}"
        )
    )
    until(
        lambda: (
            result.status == Status.RUNNING and script.with_suffix(".exit").exists()
        )
    )
    if cluster.family == "htcondor":  # the script says where its outputs go
        text = script.read_text()
        script = script.with_name("again.sh")
        again = rf"\1 = {Path.cwd()}/again.log"
        script.write_text(
            re.sub(r"(?m)(?<=^#CONDOR )(output|error) = .*", again, text)
        )
        script.chmod(0o755)
    options = {
        "slurm": "--output=again.log --error=again.log",
        "sge": f"-cwd -j y -o {Path.cwd()}/again.log",
        "pbspro": f"-j oe -o {Path.cwd()}/again.log",
        "local": "",
        "htcondor": "",
    }[cluster.family]
    done = scheduler._run(
        f"cd {Path.cwd()}; "
        + scheduler._fill(
            scheduler.backend.commands.submit, script=f"{options} {script}".strip()
        )
    )
    assert done.exit_code == 0, done.stderr
    Path("go").touch()
    if cluster.name == "local":  # it knows the token, and gives the job that has it
        assert done.stdout.strip() == result.job_id
    else:
        until(
            lambda: (
                Path("again.log").exists()
                and f"ran as {result.job_id} already" in Path("again.log").read_text()
            ),
            90,  # PBS brings outputs when it has time
        )
    assert result.wait(60)
    assert result.status == Status.COMPLETED
    assert Path("ledger").read_text() == "run\n"


def test_unsupported_resources_are_refused(cluster: Flavour) -> None:
    if cluster.family == "pbspro":  # the site says what they are called
        with pytest.raises(SubmissionError, match="Unknown resource: ngpus"):
            cluster.job("true", gpus=1).submit()
    elif cluster.family == "htcondor":
        assert "request_gpus = 1" in str(cluster.job("true", gpus=1))
        with pytest.raises(ResourcesNotSupportedError, match="nodes"):
            cluster.job("true", nodes=2).submit()
    elif cluster.family != "slurm":
        with pytest.raises(ResourcesNotSupportedError, match="gpus"):
            cluster.job("true", gpus=1).submit()
    else:
        assert "--gpus-per-node=1" in str(cluster.job("true", gpus=1))


def test_processes_and_threads(cluster: Flavour) -> None:
    result = cluster.finish(
        "echo ${SLURM_CPUS_PER_TASK:-${NSLOTS:-2}}", ppn=1, threads=2
    )
    assert result.stdout() == "2\n"


def test_the_record_is_json(cluster: Flavour) -> None:
    result = cluster.finish("true")
    data = json.loads(result.record.to_json())
    assert data["job_id"] == result.record.job_id
    result.dump("dumped.json")
    assert AsyncResult.load("dumped.json").status == Status.COMPLETED


@on(*FLAVOURS)
def test_time_limit(cluster: Flavour, overtime: Callable[[], AsyncResult]) -> None:
    result = overtime()
    assert result.wait(150), result.explain()
    assert (result.status, result.reason) == (Status.FAILED, Reason.TIMEOUT), (
        result.explain()
    )
    if cluster.name != "sge":  # Grid Engine sends KILL at once
        assert result.stdout() == "warned\n"


def test_check(cluster: Flavour) -> None:
    from clusterjob.admin import run_checks
    from clusterjob.script import default_session

    checks = list(run_checks(default_session(), str(cluster.profile)))
    assert [(check.name, check.detail) for check in checks if not check.ok] == []
    names = [check.name for check in checks]
    assert ("connection" in names) == bool(cluster.way)
    assert ("accounting of several" in names) == cluster.accounting
    assert len(checks) == 16 + bool(cluster.way) + cluster.accounting


def test_submission_from_inside_a_job(cluster: Flavour) -> None:
    code = (
        "import clusterjob as c; j = c.JobScript('echo inner $CLUSTERJOB_NAME', 'inner', "
        f"workdir='in'); j.read_settings({str(cluster.profile)!r})\n"
    )
    if cluster.name == "pbspro":  # PBS gives a job a PATH of its own
        code = f"import os; os.environ['PATH'] = {os.environ['PATH']!r}\n{code}"
    code += "r = j.submit(); r.wait(60); print(r.status, r.stdout(), end='')"
    result = cluster.finish(
        f"#!{sys.executable}\n{code}\n",
        verbatim=True,
        threads=1,
        mem=200 if cluster.family == "slurm" else None,
    )
    assert result.stdout() == "COMPLETED inner inner\n", result.explain()


@on("slurm")
def test_a_warning_that_slurm_sends_to_the_script_alone_reaches_the_body(
    cluster: Flavour,
) -> None:
    body = "trap 'echo CHECKPOINT; exit 5' TERM\nwhile :; do sleep 0.2; done"
    result = cluster.finish(body, **{"time": "1m", "--signal": "B:TERM@55"})
    assert (result.status, result.exit_code) == (Status.FAILED, 5)
    assert result.tail() == "CHECKPOINT\n"
    assert result.usage["elapsed"] < 40


@on("local", "local@ssh", "slurm@openssh", "pbspro@ssh")
def test_a_program_that_was_changed_is_told_wherever_it_is(
    cluster: Flavour, caplog: pytest.LogCaptureFixture
) -> None:
    program = Path("sim.sh")
    program.write_text("echo one\n")
    job = cluster.job("sh sim.sh", "sim")
    first = job.submit()
    assert first.wait(60)
    again = job.submit()
    assert (again.reused, "has changed since" in caplog.text) == (True, False)
    program.write_text("echo two\n")
    again = job.submit()
    assert (again.reused, again.stdout()) == (True, "one\n")
    assert "sim.sh has changed since" in caplog.text
