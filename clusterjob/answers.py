"""Reading what a scheduler's commands print, by the rules of a backend's ``[Output:...]`` sections.

Pure.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from clusterjob import units
from clusterjob.backend import Output

_TIME_FORMATS = (
    "%Y-%m-%dT%H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
    "%m/%d/%Y %H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
)


@dataclass
class Answer:
    """What a command said about one job or one element of an array.

    None: it said nothing of the kind.
    """

    id: str
    task: int | None = None
    state: str = ""
    why: str = ""
    exit_code: int | None = None
    signal: int | None = None
    submitted: float | None = None
    started: float | None = None
    ended: float | None = None
    usage: dict[str, float] = field(default_factory=dict)
    token: str | None = None
    cluster: str | None = None
    step: bool = False  # a part of a job (Slurm's 12.batch): it counts for the usage alone


@dataclass
class Reading:
    """All answers of one command, and the lines that could not be read: with any of those, absence
    proves nothing.
    """

    answers: list[Answer] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_output(output: Output, text: str) -> Reading:
    """Read a command's standard output; nothing is raised, what cannot be read is kept in
    ``unread``.
    """
    reading = Reading()
    if output.format == "json":
        rows = _json_rows(output, text, reading)
    elif output.format == "blocks":
        rows = _block_rows(output, text, reading)
    else:
        rows = _line_rows(output, text, reading)
    for row in rows:
        answer = _answer(output, row)
        if answer is None:
            reading.unread.append(str(dict(row)))
        else:
            reading.answers.append(answer)
    return reading


def _line_rows(output: Output, text: str, reading: Reading) -> Iterator[Mapping[str, str]]:
    assert output.pattern is not None  # the backend was checked when it was read
    for line in text.splitlines():
        if match := output.pattern.search(line):
            yield {name: value for name, value in match.groupdict().items() if value is not None}
        elif line.strip() and not (output.ignore and output.ignore.search(line)):
            reading.unread.append(line)


def _block_rows(output: Output, text: str, reading: Reading) -> Iterator[Mapping[str, str]]:
    assert output.start is not None
    assert output.entry is not None
    block: dict[str, str] | None = None
    last = ""
    for line in text.splitlines():
        if match := output.start.search(line):
            if block:
                yield _named(output, block)
            block = {"_start": match.groupdict().get("id") or ""}
        elif block is not None and output.continuation and output.continuation.search(line):
            block[last] = block.get(last, "") + line.strip()
        elif block is not None and (match := output.entry.search(line)):
            last = match["key"]
            block[last] = match["value"]
        elif line.strip() and not (output.ignore and output.ignore.search(line)):
            reading.unread.append(line)
    if block:
        yield _named(output, block)


def _json_rows(output: Output, text: str, reading: Reading) -> Iterator[Mapping[str, str]]:
    if not text.strip():
        return
    try:
        jobs: Any = json.loads(text, strict=False)
    except ValueError as error:
        reading.unread.append(f"not JSON: {error}")
        return
    for part in filter(None, output.jobs.split(".")):
        jobs = jobs.get(part) if isinstance(jobs, dict) else None
    named = (
        jobs.items()
        if isinstance(jobs, dict)
        else [("", job) for job in (jobs if isinstance(jobs, list) else [jobs])]
    )
    for key, entry in named:
        if not isinstance(entry, dict):
            reading.unread.append(f"not a list of jobs: {json.dumps(entry)}")
        elif not (output.ignore and output.ignore.search(json.dumps(entry))):
            yield _named(output, {"_start": key, **_flat(entry)})


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _named(output: Output, block: Mapping[str, str]) -> dict[str, str]:
    """Rename a block's keys to ours (``key * factor`` for an amount of memory in odd units).

    ``state`` is put together from the block's own keys, absent ones empty.
    """
    row = {}
    for name, key in output.fields.items():
        key, _, factor = (part.strip() for part in key.partition("*"))
        if key in block:
            value = units.megabytes_of(block[key]) if factor else None
            row[name] = block[key] if value is None else f"{value * float(factor)}M"
    row["state"] = re.sub(
        r"\{(\w[\w.]*)\}", lambda match: block.get(match[1], row.get(match[1], "")), output.state
    )
    return row


def _answer(output: Output, row: Mapping[str, str]) -> Answer | None:
    if not row.get("id"):
        return None
    # 12, 12.server, 12[].server, 12[3].server; anything else is an id as it stands
    match = re.fullmatch(r"(\d+)(?:\[(\d*)\])?(?:\..*)?", row.get("id", ""))
    task = _part(output.task, row.get("task")) or (match[2] if match else "") or ""
    answer = Answer(
        id=match[1] if match else row["id"],
        task=int(task) if task.isdigit() else None,
        state=re.sub(r"\s*\|\s*", "|", row.get("state", "")).strip(),
        why=row.get("why", "").strip(),
        submitted=_epoch(row.get("submitted")),
        started=_epoch(row.get("started")),
        ended=_epoch(row.get("ended")),
        token=_part(output.token, row.get("token")),
        cluster=row.get("cluster"),
        step=bool(row.get("step")),
    )
    answer.exit_code, answer.signal = exit_and_signal(row)
    for name, value in (
        ("elapsed", units.seconds_of(row.get("elapsed", ""))),
        ("cpu", units.seconds_of(row.get("cpu", ""))),
        ("max_rss", units.megabytes_of(row.get("max_rss", ""))),
    ):
        if value is not None:
            answer.usage[name] = value
    return answer


def _part(pattern: re.Pattern[str] | None, text: str | None) -> str | None:
    """Return what a pattern finds in a field (its first group, if it has one), the whole field
    without a pattern, None for nothing.
    """
    if not text or pattern is None:
        return text or None
    match = pattern.search(text)
    return match[pattern.groups and 1] if match else None


def exit_and_signal(row: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the exit code and the signal that a command's words hold, each None where it does not.

    A raw wait status is taken apart; PBS writes a signal as 256 + n, a shell as 128 + n.
    """
    raw = row.get("wait_status", "")
    if raw.isdigit():
        return (int(raw) >> 8, None) if int(raw) & 127 == 0 else (None, int(raw) & 127)
    number = re.match(r"-?\d+\b", row.get("exit", ""))  # Grid Engine adds words: "137   (Killed)"
    code = int(number[0]) if number else None
    signal = int(row["signal"]) if row.get("signal", "").isdigit() else 0
    if signal:
        return code, signal
    if code is not None and code >= 256:
        return None, code - 256
    if code is not None and 128 < code <= 192:
        return code, code - 128
    return (code, None) if code is None or code >= 0 else (None, None)


def _epoch(text: str | None) -> float | None:
    """Read a time of the scheduler's: seconds since the epoch, or a date in the scheduler's time
    zone taken for ours.
    """
    if not text:
        return None
    if re.fullmatch(r"\d{9,}(\.\d+)?", text):
        return float(text)
    for form in _TIME_FORMATS:
        try:
            return time.mktime(time.strptime(text, form))
        except ValueError:
            continue
    return None


@dataclass
class ExitRecord:
    """What a job wrote about itself beside its script.

    ``exit_code`` None: it has not ended, or was killed before it could say.
    """

    job_id: str
    runs: int = 0
    host: str = ""
    started: float | None = None
    ended: float | None = None
    limit: int | None = None
    exit_code: int | None = None
    reason: str = ""
    warned: list[tuple[str, float]] = field(default_factory=list)
    cpu: float | None = None


def read_exit_record(text: str) -> ExitRecord | None:
    """Read an exit record (``clusterjob/job.sh.j2`` writes it); of several runs of a requeued job
    the last one counts.
    """
    record: ExitRecord | None = None
    times: list[float] = []
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if key == "job":
            record = ExitRecord(job_id=value)
        if record is None:
            return None
        if key == "host":  # a run begins
            record = ExitRecord(job_id=record.job_id, runs=record.runs + 1, host=value)
            times = []
        elif key == "start" and value.isdigit():
            record.started = float(value)
        elif key == "limit" and value.isdigit():
            record.limit = int(value)
        elif key == "warned":
            name, _, when = value.partition(" ")
            record.warned.append((name, float(when) if when.isdigit() else 0.0))
        elif key == "reason":
            record.reason = value
        elif key == "exit" and value.isdigit():
            record.exit_code = int(value)
        elif key == "end" and value.isdigit():
            record.ended = float(value)
        elif not equals and (match := re.fullmatch(r"(\d+)m([\d.,]+)s (\d+)m([\d.,]+)s", line)):
            first, second, third, fourth = (
                float(part.replace(",", ".")) for part in match.groups()
            )
            times.append(first * 60 + second + third * 60 + fourth)
    if record is not None:
        if record.ended is None:
            record.exit_code = None  # half written
        record.cpu = times[1] if len(times) > 1 else None
    return record
