"""Reading what a scheduler's commands print, by the rules of a backend's ``[Output:...]`` sections.

Nothing is raised: what cannot be read is kept, and with any of that absence proves nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from clusterjob import units
from clusterjob.backend.model import Output
from clusterjob.errors import show
from clusterjob.fields import number_of, time_of

_LINE = 1 << 16  # characters of a line
_LINES = 2_000_000  # of one answer
# 12, 12.server, 12[].server, 12[3].server
_NUMBERED_ID = re.compile(r"([0-9]+)(?:\[([0-9]*)\])?(?:\..*)?")
# Grid Engine's has words behind it: "137   (Killed)"
_WHOLE = re.compile(r"-?[0-9]{1,9}(?![0-9A-Za-z_])", re.ASCII)
_TIMES = ("submitted", "started", "ended")
_ENDS = ("exit", "signal", "wait_status")
# what schedulers print where there is nothing to say
_NOTHING = frozenset(
    ("", "-", "-/-", "--", "Unknown", "None", "N/A", "NONE", "UNLIMITED", "undefined")
)
_KEY = re.compile(r"\{(\w[\w.]*)\}")


@dataclass
class Answer:
    """What a command said about one job or one element of an array. None: nothing of the kind."""

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
    member: str | None = None  # the cluster of a multi-cluster scheduler
    # a part of a job (Slurm's 12.batch): it counts for the usage alone
    step: bool = False
    unread: list[str] = field(default_factory=list)  # fields, as they are told


@dataclass
class Reading:
    """All answers of one command, and the lines that could not be read, as they are told."""

    answers: list[Answer] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def read_output(output: Output, text: str) -> Reading:
    """Read a command's standard output."""
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
            reading.unread.append(show(str(dict(row))))
        else:
            reading.answers.append(answer)
    return reading


# -- the three formats -----------------------------------------------------------------------------


def _lines_of(text: str, reading: Reading) -> Iterator[str]:
    """Yield the lines that are not beyond all bounds; what is no line break to a shell is none."""
    for number, line in enumerate(text.split("\n")):
        if number >= _LINES:
            reading.unread.append(f"more than {_LINES:,} lines")
            return
        if len(line) > _LINE:
            reading.unread.append(show(line))
        else:
            yield line.removesuffix("\r")


def _is_ignored(output: Output, line: str) -> bool:
    return output.ignore is not None and output.ignore.search(line) is not None


def _line_rows(
    output: Output, text: str, reading: Reading
) -> Iterator[Mapping[str, str]]:
    assert output.pattern is not None  # the backend was checked when it was read
    for line in _lines_of(text, reading):
        if match := output.pattern.search(line):
            yield {
                name: value
                for name, value in match.groupdict().items()
                if value is not None
            }
        elif line.strip() and not _is_ignored(output, line):
            reading.unread.append(show(line))


def _block_rows(
    output: Output, text: str, reading: Reading
) -> Iterator[Mapping[str, str]]:
    assert output.start is not None
    assert output.entry is not None
    block: dict[str, str] | None = None
    last = ""
    for line in _lines_of(text, reading):
        if match := output.start.search(line):
            if block:
                yield _rename(output, block)
            block = {"_start": match.groupdict().get("id") or ""}
        elif (
            block is not None
            and output.continuation
            and output.continuation.search(line)
        ):
            block[last] = block.get(last, "") + line.strip()
        elif block is not None and (match := output.entry.search(line)):
            last = match["key"]
            block[last] = match["value"]
        elif line.strip() and not _is_ignored(output, line):
            reading.unread.append(show(line))
    if block:
        yield _rename(output, block)


def _json_rows(
    output: Output, text: str, reading: Reading
) -> Iterator[Mapping[str, str]]:
    if not text.strip():
        return
    try:
        # numbers stay as they are written: one of 5,000 digits is no reason to read nothing
        jobs: object = json.loads(
            text, strict=False, parse_int=str, parse_float=str, parse_constant=str
        )
    except (ValueError, RecursionError) as error:
        reading.unread.append(show(f"not JSON: {error}"))
        return
    for part in filter(None, output.jobs.split(".")):
        jobs = jobs.get(part) if isinstance(jobs, dict) else None
    for key, entry in _named_entries(jobs):
        if not isinstance(entry, dict):
            reading.unread.append(f"not a list of jobs: {show(json.dumps(entry))}")
        elif not _is_ignored(output, json.dumps(entry)):
            yield _rename(output, {"_start": key, **_flatten(entry)})


def _named_entries(jobs: object) -> list[tuple[str, object]]:
    """Return the entries of a list, or of an object by their keys; anything else is one entry."""
    if isinstance(jobs, dict):
        return list(jobs.items())
    if isinstance(jobs, list):
        return [("", job) for job in jobs]
    return [("", jobs)]


def _flatten(entry: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Return the values of nested objects under dotted keys."""
    flat: dict[str, str] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _rename(output: Output, block: Mapping[str, str]) -> dict[str, str]:
    """Rename a block's keys to ours (``key * factor`` for an amount of memory in odd units).

    ``state`` is put together from the block's own keys, absent ones empty.
    """
    row = {}
    for name, rule in output.fields.items():
        key, _, factor = (part.strip() for part in rule.partition("*"))
        if key not in block:
            continue
        amount = units.megabytes_of(block[key]) if factor else None
        row[name] = block[key] if amount is None else f"{amount * float(factor)}M"

    def value_of(match: re.Match[str]) -> str:
        return block.get(match[1], row.get(match[1], ""))

    row["state"] = _KEY.sub(value_of, output.state)
    return row


# -- one answer ------------------------------------------------------------------------------------


def _answer(output: Output, row: Mapping[str, str]) -> Answer | None:
    job_id = row.get("id")
    if not job_id:
        return None
    match = _NUMBERED_ID.fullmatch(job_id)  # anything else is an id as it stands
    task = _part(output.task, row.get("task")) or (match[2] if match else "") or ""
    exit_code, signal = parse_exit(row)
    times = {name: time_of(row.get(name, "")) for name in _TIMES}
    usage = _usage(row)
    return Answer(
        id=match[1] if match else job_id,
        task=number_of(task),
        state=re.sub(r"\s*\|\s*", "|", row.get("state", "")).strip(),
        why=row.get("why", "").strip(),
        exit_code=exit_code,
        signal=signal,
        submitted=times["submitted"],
        started=times["started"],
        ended=times["ended"],
        usage=usage,
        token=_part(output.token, row.get("token")),
        member=row.get("cluster"),
        step=bool(row.get("step")),
        unread=_unread_fields(row, times, exit_code is None and signal is None),
    )


def _unread_fields(
    row: Mapping[str, str], times: Mapping[str, float | None], no_end: bool
) -> list[str]:
    """Return the fields that say something, and not what is expected there."""
    names = [name for name, value in times.items() if value is None]
    if no_end:
        names += [name for name in _ENDS if not _WHOLE.match(row.get(name, ""))]
    said = [(name, row.get(name, "").strip()) for name in names]
    return [f"{name} {show(text)}" for name, text in said if text not in _NOTHING]


def _usage(row: Mapping[str, str]) -> dict[str, float]:
    values = {
        "elapsed": units.seconds_of(row.get("elapsed", "")),
        "cpu": units.seconds_of(row.get("cpu", "")),
        # none: it was not looked at yet
        "max_rss": units.megabytes_of(row.get("max_rss", "")) or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _part(pattern: re.Pattern[str] | None, text: str | None) -> str | None:
    """Return what a pattern finds in a field: its first group, if it has one.

    The whole field without a pattern; None for nothing.
    """
    if not text or pattern is None:
        return text or None
    match = pattern.search(text)
    return match[pattern.groups and 1] if match else None


def parse_exit(row: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the exit code and the signal that a command's words hold, each None where it does not.

    A raw wait status is taken apart (wait(2)); PBS writes a signal as 256 + n, a shell as 128 + n.
    """
    raw = number_of(row.get("wait_status", ""))
    if raw is not None and raw >= 0:
        killed_by = raw & 127
        return (None, killed_by) if killed_by else (raw >> 8, None)
    # Grid Engine adds words: "137   (Killed)"
    number = _WHOLE.match(row.get("exit", ""))
    code = int(number[0]) if number else None
    signal = number_of(row.get("signal", "")) or 0
    if signal > 0:
        return code, signal
    if code is None or code < 0:
        return None, None
    if code >= 256:
        return None, code - 256
    return code, code - 128 if 128 < code <= 192 else None
