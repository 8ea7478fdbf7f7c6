"""What jobs, schedulers and other people's files say, where it is not what is expected there.

One odd word harms its own job alone, and is told; nothing is read beyond its bounds.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clusterjob import AsyncResult, JobScript, Reason, SettingsError, Status, submit
from clusterjob.backend import load_backend, parse, read_exit_record
from clusterjob.backend.parse import read_output
from clusterjob.errors import CommandError, TransportError
from clusterjob.fields import number_of, require_number, show, time_of
from clusterjob.transport import LocalTransport, base

DIGITS = "7" * 5000
PROFILE = """
[Attributes]
backend = slurm
[Limits]
first_poll = 0
poll_interval = 0
settle = 0.1
lost_after = 0.3
retry_wait = 0.05
[Commands]
submit = cat answer
active = cat active
finished = cat finished
"""


def two_jobs(settle: float = 0.1) -> tuple[AsyncResult, AsyncResult]:
    Path("p.ini").write_text(PROFILE.replace("settle = 0.1", f"settle = {settle}"))
    Path("finished").touch()
    results = []
    for number in ("41", "42"):
        Path("answer").write_text(f"{number}\n")
        made = JobScript(f"true # {number}", f"job{number}")
        made.read_settings("p.ini")
        results.append(made.submit())
    odd, plain = results
    say(active(odd, "41", "RUNNING"), active(plain, "42", "RUNNING"))
    return odd, plain


def say(*lines: str, to: str = "active") -> None:
    Path(to).write_text("".join(f"{line}\n" for line in lines))


def active(result: AsyncResult, number: str, state: str, when: str = "") -> str:
    token = result.record.token
    return f"{number}|{state}|{when or int(time.time())}|0|clusterjob:{token}|None|"


def write_record(result: AsyncResult, *lines: str) -> None:
    path = Path(result.record.folder, f"{result.record.token}.exit")
    head = [f"job={result.job_id}", "host=h", f"start={int(time.time()) - 1}"]
    path.write_text("".join(f"{line}\n" for line in [*head, *lines]))


# -- exit records ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["exit=²", f"exit={DIGITS}", "exit=٣", "exit=256", "exit=-1", "exit=0x1"],
    ids=range(6),
)
def test_an_exit_code_that_is_none_harms_its_own_job_alone(line: str) -> None:
    odd, plain = two_jobs()
    end = f"end={int(time.time())}"
    write_record(odd, "limit=", line, end)
    write_record(plain, "limit=", "exit=0", end)
    say()
    assert plain.status is Status.COMPLETED
    deadline = time.monotonic() + 10
    while not odd.status.finished and time.monotonic() < deadline:
        time.sleep(0.1)
    assert odd.status is Status.FAILED
    assert odd.reason is Reason.LOST
    assert f"cannot be read: {show(line)}" in odd.record.task.words
    assert len(odd.record.task.words) < 1000


@pytest.mark.parametrize(
    "line",
    ["end=yesterday", f"end={DIGITS}", "end=1e400", "end=nan", "end=²"],
    ids=range(5),
)
def test_an_end_that_is_no_time_is_no_end(line: str) -> None:
    # an end that can be read may come as long as this
    odd, plain = two_jobs(settle=60)
    write_record(odd, "limit=", "exit=0", line)
    write_record(plain, "limit=", "exit=3", f"end={int(time.time())}")
    say()
    assert plain.status is Status.FAILED
    assert plain.exit_code == 3
    assert not odd.status.finished
    assert show(line) in odd.record.task.words


def test_an_unknown_reason_leaves_the_exit_code_to_speak() -> None:
    odd, plain = two_jobs()
    end = f"end={int(time.time())}"
    write_record(odd, "limit=", "reason=moonlight", "exit=5", end)
    write_record(plain, "limit=", "exit=0", end)
    say()
    assert plain.status is Status.COMPLETED
    assert odd.status is Status.FAILED
    assert odd.exit_code == 5
    assert "'reason=moonlight'" in odd.record.task.words


def test_words_of_odd_fields_do_not_grow_with_every_look() -> None:
    odd, _ = two_jobs()
    write_record(odd, "limit=", "exit=0", "end=never")
    say("42|RUNNING|0|0||None|")
    for _ in range(5):
        odd.cluster.refresh(force=True)
    assert odd.record.task.words.count("end=never") == 1


@pytest.mark.parametrize(
    "text", ["", "\0" * 100, "=" * 100, "host=h\njob=1\n"], ids=range(4)
)
def test_what_is_no_exit_record_is_none(text: str) -> None:
    assert read_exit_record(text) is None


# -- what schedulers print -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "when", ["²", DIGITS, "2026-99-99T00:00:00", "nan", "-5e9"], ids=range(5)
)
def test_a_time_that_is_none_harms_nobody(when: str) -> None:
    odd, plain = two_jobs()
    say(active(odd, "41", "RUNNING", when), active(plain, "42", "RUNNING"))
    assert plain.status is Status.RUNNING
    assert odd.status is Status.RUNNING
    assert show(when) in odd.record.task.words
    assert "cannot be read" not in plain.record.task.words


def test_a_line_without_end_is_told_in_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd, plain = two_jobs()
    huge = "x" * 5_000_000
    say(active(odd, "41", "RUNNING"), huge, active(plain, "42", "RUNNING"))
    assert plain.status is Status.RUNNING
    assert odd.status is Status.RUNNING
    assert "xxx" in caplog.text
    assert len(caplog.text) < 2000


def test_more_lines_than_any_scheduler_has_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parse, "_LINES", 3)
    output = load_backend("slurm").outputs.active
    reading = read_output(output, "1|RUNNING|||||\n" * 5)
    assert len(reading.answers) == 3
    assert reading.unread == ["more than 3 lines"]


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"jobs": ' + DIGITS + "}", '{"jobs": [1, null, "x"]}', "\0"],
    ids=range(4),
)
@pytest.mark.parametrize("backend", ["slurm", "htcondor", "pbspro"])
def test_json_of_any_kind_is_read_or_told(backend: str, text: str) -> None:
    outputs = load_backend(backend).outputs
    for output in (outputs.active, outputs.finished):
        reading = read_output(output, text)
        assert reading.answers == []
        assert reading.unread


def test_a_command_that_prints_without_end_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterjob.transport.local.MOST_OUTPUT", 1 << 20)
    started = time.monotonic()
    with pytest.raises(TransportError, match="prints more than 1 MB"):
        LocalTransport().run("yes")
    assert time.monotonic() - started < 20
    assert base.MOST_OUTPUT >= 1 << 20


def test_an_error_of_any_length_is_told_in_short() -> None:
    error = CommandError("squeue failed", stderr="e" * 10_000_000)
    assert len(str(error)) < 5000


# -- numbers and times -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["²", "٣", DIGITS, "", " 1", "1_0", "0x1", "+1", "1.0"], ids=range(9)
)
def test_what_is_no_number_of_ours_is_none(text: str) -> None:
    assert number_of(text) is None
    assert time_of(text) is None


def test_an_answer_that_is_no_number_names_the_host() -> None:
    with pytest.raises(
        TransportError, match=r"login1 answers 'xx.*'... where a number"
    ):
        require_number("x" * 1000, "login1")


@pytest.mark.parametrize(
    "array",
    ["1-10000000000", "1-" + DIGITS, DIGITS, "0-99999999:1", "²"],
    ids=range(5),
)
def test_arrays_beyond_all_bounds_are_refused_before_they_are_expanded(
    array: str,
) -> None:
    started = time.monotonic()
    with pytest.raises(SettingsError) as refused:
        submit(JobScript("true", "n", array=array))
    assert time.monotonic() - started < 5
    assert len(str(refused.value)) < 3000


# -- outputs ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("spool")
@pytest.mark.parametrize(
    "name",
    ["a\nb", "a\x1b[31mb", "a\x07", "a\u202eb", "a\\b", " ", "-rf", "a\u2028b"],
    ids=range(8),
)
def test_an_output_of_an_odd_name_blocks_nothing(name: str) -> None:
    root = Path("root/there")
    root.mkdir(parents=True)
    Path("name").write_text(name)
    body = (
        'echo odd > "out/$(cat ../../name)"; echo fine > out/fine; echo all > plain'
    )
    odd = JobScript(f"mkdir out; {body}", "odd", outputs=["out/", "plain"])
    plain = JobScript("echo x > other", "plain", outputs=["other"])
    for job in (odd, plain):
        job.rootdir, job.workdir = str(Path("root").absolute()), "there"
    results = submit([odd, plain])
    results.wait(60)
    assert {result.status for result in results} == {Status.COMPLETED}
    assert Path("there/plain").read_text() == "all\n"
    assert Path("there/other").read_text() == "x\n"
    assert Path("there/out/fine").read_text() == "fine\n"
    arrived = Path("there/out", name)
    if arrived.exists():
        assert arrived.read_text() == "odd\n"
    else:
        assert "out/" in results[0].record.outputs.error


def test_an_answer_to_a_submission_that_cannot_be_read_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("p.ini").write_text(PROFILE)
    Path("answer").write_text("Your job 603 has been submitted\n")
    made = JobScript("true", "odd")
    made.read_settings("p.ini")
    say()
    result = made.submit()
    assert result.job_id is None
    assert "it is not known which job that is: 'Your job 603" in caplog.text
    assert "'clusterjob cancel' gives such jobs up" in caplog.text
