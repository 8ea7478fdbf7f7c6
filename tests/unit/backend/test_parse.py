"""Every backend's parser, on what a real scheduler answered (tests/recordings/README.md says
which).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from clusterjob.backend import (
    TIMEOUT_OR_MEMORY,
    Answer,
    load_backend,
    read_exit_record,
    read_output,
)
from clusterjob.status import Reason, Status

RECORDINGS = Path(__file__).parents[2] / "recordings"


def read(
    backend: str, output: str, text: str
) -> dict[tuple[str, int | None], Answer]:
    reading = read_output(getattr(load_backend(backend).outputs, output), text)
    assert reading.unread == []
    return {
        (answer.id, answer.task): answer
        for answer in reading.answers
        if not answer.step
    }


def states(
    backend: str, answers: dict[tuple[str, int | None], Answer]
) -> dict[tuple[str, int | None], object]:
    found = load_backend(backend)
    return {place: found.classify(answer.state) for place, answer in answers.items()}


def test_slurm_squeue() -> None:
    answers = read(
        "slurm", "active", (RECORDINGS / "slurm-22.05.8/squeue.txt").read_text()
    )
    seen = set(states("slurm", answers).values())
    assert {
        (Status.PENDING, None),
        (Status.RUNNING, None),
        (Status.CANCELLED, None),
        (Status.FAILED, Reason.OUT_OF_MEMORY),
    } <= seen
    assert None not in seen
    assert {answer.token for answer in answers.values()} == {None, "0123456789abcdef"}
    assert {task for _, task in answers} >= {None, 1, 2, 3}
    failed = next(answer for answer in answers.values() if answer.state == "FAILED")
    assert failed.exit_code == 3
    assert failed.submitted is not None
    assert failed.submitted > 1_700_000_000


def test_slurm_sacct() -> None:
    text = (RECORDINGS / "slurm-22.05.8/sacct.txt").read_text()
    answers = read("slurm", "finished", text)
    assert states("slurm", answers)["7", None] == (
        Status.FAILED,
        Reason.OUT_OF_MEMORY,
    )
    assert states("slurm", answers)["10", None] == (Status.CANCELLED, None)
    assert answers["9", 2].exit_code == 3
    assert answers["105", None].token == "3c3bc7a8864d10a8"
    assert answers["105", None].usage == {"elapsed": 5, "cpu": pytest.approx(0.19)}
    steps = [
        answer
        for answer in read_output(
            load_backend("slurm").outputs.finished, text
        ).answers
        if answer.step
    ]
    assert steps[-1].usage["max_rss"] == pytest.approx(71.9, abs=0.1)
    disabled = (RECORDINGS / "slurm-22.05.8/sacct-disabled.txt").read_text()
    assert load_backend("slurm").matches("no_accounting", disabled)


def test_grid_engine() -> None:
    text = (RECORDINGS / "sge-8.1.9/qstat.txt").read_text() + (
        "      1 0.50000 ok         root         qw    11/20/2026 22:45:25                        "
        "            1 2        \n"
        "    858 0.50000 stub.sh    user          dr    11/20/2026 20:24:23 all.q@vm              "
        "             1        \n"
    )
    known = states("sge", read("sge", "active", text))
    assert known["3", None] == (Status.FAILED, Reason.SUBMISSION)
    assert known["1", 2] == (Status.PENDING, None)
    assert known["858", None] == (Status.RUNNING, None)
    timeout = read(
        "sge", "finished", (RECORDINGS / "sge-8.1.9/qacct-timeout.txt").read_text()
    )
    assert states("sge", timeout)["4", None] == (Status.FAILED, TIMEOUT_OR_MEMORY)
    assert timeout["4", None].signal == 9
    array = read(
        "sge", "finished", (RECORDINGS / "sge-8.1.9/qacct-array.txt").read_text()
    )
    assert {task for _, task in array} == {1, 2, 3}
    exited = read(
        "sge", "finished", (RECORDINGS / "sge-8.1.9/qacct-exit.txt").read_text()
    )["6", None]
    assert exited.exit_code == 1
    # printed as bytes, and KB in truth
    assert exited.usage["max_rss"] == pytest.approx(4.3, abs=0.5)


def test_pbs_pro() -> None:
    ended = read(
        "pbspro", "active", (RECORDINGS / "pbspro-23.06.06/qstat-x-f.txt").read_text()
    )
    known = states("pbspro", ended)
    assert known["75", None] == ("EXITED", None)
    assert ended["75", None].exit_code == 3
    assert ended["76", None].signal == 9
    for place, answer in ended.items():
        if "/91/" in answer.state:
            assert known[place] == (Status.CANCELLED, None)
        assert known[place] is not None, answer
    live = states(
        "pbspro",
        read(
            "pbspro",
            "active",
            (RECORDINGS / "pbspro-23.06.06/qstat-f.txt").read_text(),
        ),
    )
    assert live["74", None] == (Status.RUNNING, None)
    assert set(live.values()) <= {
        (Status.RUNNING, None),
        (Status.PENDING, None),
        ("EXITED", None),
    }
    lost = states(
        "pbspro",
        read(
            "pbspro",
            "finished",
            (RECORDINGS / "pbspro-23.06.06/qstat-x-f-node-failure.txt").read_text(),
        ),
    )
    assert lost == {
        ("2000", None): (Status.FAILED, Reason.NODE_FAILURE),
        ("2001", None): (Status.PENDING, None),
    }
    backend = load_backend("pbspro")
    assert backend.classify("F/93/-29/pbshost/0") == (Status.FAILED, Reason.TIMEOUT)
    assert backend.classify("F/91/271/pbshost/0") == (Status.CANCELLED, None)
    # an element that was deleted in the queue looks like a success
    assert backend.classify("F/92/0/") == (Status.CANCELLED, None)
    assert backend.classify("F/93/-5/pbshost/0") is None  # never seen: reported
    assert backend.matches(
        "unknown", (RECORDINGS / "pbspro-23.06.06/qstat-unknown.txt").read_text()
    )
    for name, number in (("qsub", "74"), ("qsub-array", "78[]")):
        match = backend.outputs.submit.pattern.search(
            (RECORDINGS / f"pbspro-23.06.06/{name}.txt").read_text().splitlines()[0]
        )  # type: ignore[union-attr]
        assert match is not None
        assert match["id"] == number


def test_torque() -> None:
    session = (RECORDINGS / "torque/session.txt").read_text()
    block = session[
        session.index("Job Id: 0.vm") : session.index(
            "[rc=0]", session.index("Job Id: 0.vm")
        )
    ]
    answers = read("torque", "active", block)
    assert states("torque", answers) == {("0", None): (Status.PENDING, None)}
    backend = load_backend("lpbs")
    # deleted while it was queued
    assert backend.classify("C/") == (Status.CANCELLED, None)
    assert backend.classify("C/3") == ("EXITED", None)
    assert backend.classify("C/271") == (Status.CANCELLED, None)
    assert backend.matches("unknown", session)
    assert backend.commands.submit.startswith("lqsub")


def test_lsf() -> None:
    backend = load_backend("lsf")
    pattern = backend.outputs.submit.pattern
    assert pattern is not None
    found = [
        match["id"]
        for line in (RECORDINGS / "lsf/bsub.txt").read_text().splitlines()
        if (match := pattern.search(line))
    ]
    assert found == ["917530"]
    known: dict[tuple[str, int | None], Answer] = {}
    for name in ("batcheuphoria", "balsam"):
        known |= read(
            "lsf", "finished", (RECORDINGS / f"lsf/{name}.json").read_text()
        )
    assert states("lsf", known) == {
        ("22005", None): (Status.COMPLETED, None),
        ("806290", None): (Status.RUNNING, None),
    }
    assert known["22005", None].usage == {
        "elapsed": 1,
        "cpu": 1,
        "max_rss": pytest.approx(5.2 * 1024),
    }
    assert known["806290", None].usage == {"elapsed": 16038}
    # the two that were asked without the id lack it: what they say of states is read all the same
    for name, wanted in (
        ("buildtest", (Status.PENDING, None)),
        ("exit-reason", (Status.CANCELLED, None)),
    ):
        text = (
            (RECORDINGS / f"lsf/{name}.json")
            .read_text()
            .replace('"STAT"', '"JOBID":"1", "STAT"')
        )
        assert states("lsf", read("lsf", "active", text)) == {("1", None): wanted}
    reason = (
        (RECORDINGS / "lsf/bjobs-l.txt")
        .read_text()
        .splitlines()[-1]
        .partition("; ")[2]
    )
    assert backend.classify(f"EXIT|140|{reason}") == (Status.FAILED, Reason.TIMEOUT)


def test_lsf_arrays_tokens_and_unknown_jobs() -> None:
    records = [
        {
            "JOBID": "5",
            "JOBINDEX": "0",
            "STAT": "EXIT",
            "EXIT_CODE": "3",
            "EXIT_REASON": "",
            "JOB_DESCRIPTION": "clusterjob:abc",
        },
        {
            "JOBID": "6",
            "JOBINDEX": "12",
            "STAT": "PEND",
            "EXIT_CODE": "",
            "EXIT_REASON": "",
            "JOB_DESCRIPTION": "",
        },
        {"JOBID": "7", "ERROR": "Job <7> is not found"},
    ]
    answers = read(
        "lsf",
        "active",
        json.dumps({"COMMAND": "bjobs", "JOBS": 3, "RECORDS": records}),
    )
    assert states("lsf", answers) == {
        ("5", None): ("EXITED", None),
        ("6", 12): (Status.PENDING, None),
    }
    assert answers["5", None].token == "abc"
    assert read("lsf", "active", '{"COMMAND":"bjobs","JOBS":0,"RECORDS":[]}') == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"RECORDS": [{"JOBID"',
        '{"error": "down"}',
        "7",
        '"word"',
        '{"RECORDS": 7}',
        '{"RECORDS": ["word"]}',
        "[null]",
    ],
)
def test_json_that_is_no_list_of_jobs_is_no_empty_list(text: str) -> None:
    reading = read_output(load_backend("lsf").outputs.active, text)
    assert reading.answers == []
    assert len(reading.unread) == 1


def test_htcondor() -> None:
    condor = load_backend("htcondor")
    assert condor.outputs.submit.pattern.search("6.0 - 6.0")["id"] == "6"  # type: ignore[union-attr,index]
    queue = read(
        "htcondor",
        "active",
        (RECORDINGS / "htcondor-23.9.6/condor_q.json").read_text(),
    )
    assert states("htcondor", queue) == {
        ("19", None): (Status.RUNNING, None),
        ("20", None): (Status.PENDING, None),
        ("21", None): (Status.PENDING, None),
        ("24", None): (Status.PENDING, None),
    }
    assert queue["20", None].why == "submitted on hold at user's request"
    assert queue["19", None].token == "aaaa0003"
    ended = read(
        "htcondor",
        "finished",
        (RECORDINGS / "htcondor-23.9.6/condor_history.json").read_text(),
    )
    assert states("htcondor", ended) == {
        ("19", None): (Status.CANCELLED, None),
        ("23", None): ("EXITED", None),
        ("22", None): (Status.FAILED, Reason.TIMEOUT),
        ("18", None): ("EXITED", None),
        ("17", None): ("EXITED", None),
        ("13", None): (Status.CANCELLED, None),
    }
    assert (ended["17", None].exit_code, ended["18", None].signal) == (3, 9)
    assert ended["17", None].usage == {
        "elapsed": 1,
        "cpu": 0,
        "max_rss": pytest.approx(4750 / 1024),
    }
    assert read("htcondor", "active", "") == {}


def test_flux() -> None:
    answers = read(
        "flux", "active", (RECORDINGS / "flux-0.88.0/flux-jobs.txt").read_text()
    )
    names = [
        "dep",
        "queued",
        "a|b",
        "ok",
        "exit1",
        "killed",
        "nosuchprog",
        "cancelled early",
        "cancelled",
        "late",
        "child",
        "lost node",
    ]
    known = dict(zip(names, states("flux", answers).values(), strict=True))
    assert known["dep"] == known["queued"] == (Status.PENDING, None)
    assert known["a|b"] == (Status.RUNNING, None)
    assert known["ok"] == (Status.COMPLETED, None)
    assert (
        known["exit1"] == known["killed"] == known["nosuchprog"] == ("EXITED", None)
    )
    assert known["cancelled early"] == known["cancelled"] == (Status.CANCELLED, None)
    assert known["late"] == (Status.FAILED, Reason.TIMEOUT)
    assert known["child"] == (Status.FAILED, Reason.DEPENDENCY)
    assert known["lost node"] == (Status.FAILED, Reason.NODE_FAILURE)
    ends = dict(
        zip(
            names,
            ((answer.exit_code, answer.signal) for answer in answers.values()),
            strict=True,
        )
    )
    jobspec = (
        '{"resources": [], "attributes": {"system": {"duration": 0}, "user": {"clusterjob": '
        '"0123456789abcdef"}}, "version": 1}'
    )
    Path("flux").write_text(
        f"#!/bin/sh\ncase $1 in jobs) echo 12; echo 13 ;; *) [ $3 = 13 ] || echo '{jobspec}' ;; "
        "esac\n"
    )
    Path("flux").chmod(0o700)
    said = subprocess.run(
        ["/bin/sh", "-c", load_backend("flux").commands.find],
        env={"PATH": f".:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert [
        (key[0], answer.token)
        for key, answer in read("flux", "find", said.stdout).items()
    ] == [("12", "0123456789abcdef")]
    assert (
        ends["exit1"],
        ends["killed"],
        ends["nosuchprog"],
        ends["cancelled early"],
    ) == (
        (1, None),
        (None, 9),
        (127, None),
        (None, None),
    )


@pytest.mark.parametrize("backend", ["slurm", "sge", "pbspro", "torque", "local"])
def test_lines_that_cannot_be_read_are_kept(backend: str) -> None:
    reading = read_output(
        load_backend(backend).outputs.active, "** Welcome to the cluster **\n"
    )
    assert reading.unread == ["'** Welcome to the cluster **'"]
    assert reading.answers == []


def test_a_word_nobody_has_seen_is_not_mapped() -> None:
    for name in (
        "slurm",
        "sge",
        "pbspro",
        "torque",
        "lsf",
        "local",
        "flux",
        "htcondor",
    ):
        assert load_backend(name).classify("BRANDNEW") is None


def test_exit_records() -> None:
    text = (
        "job=12\nhost=n1\nstart=100\nlimit=60\nwarned=TERM 159\n0m0.10s 0m0.00s\n0m1.50s "
        "0m0.25s\nexit=143\nend=161\n"
    )
    record = read_exit_record(text)
    assert record is not None
    assert (
        record.job_id,
        record.host,
        record.started,
        record.ended,
        record.exit_code,
    ) == (
        "12",
        "n1",
        100,
        161,
        143,
    )
    assert record.warned == [("TERM", 159)]
    assert record.cpu == 1.75
    requeued = read_exit_record(text + "host=n2\nstart=200\nlimit=60\n")
    assert requeued is not None
    assert (requeued.runs, requeued.host, requeued.exit_code, requeued.ended) == (
        2,
        "n2",
        None,
        None,
    )
    half = read_exit_record(text[: text.index("end=")])
    assert half is not None
    assert half.exit_code is None
    assert read_exit_record("") is None
    assert read_exit_record("garbage\n") is None
