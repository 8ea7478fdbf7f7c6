"""What a job writes about itself beside its script: ``job.sh.j2`` writes it, this reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from clusterjob.errors import show
from clusterjob.fields import epoch_of, number_of
from clusterjob.status import Reason

# what the shell's `times` prints: user and system time of the shell, then of its children
_TIME = r"([0-9]{1,9})m([0-9]{1,9}(?:[.,][0-9]{1,9})?)s"
_TIMES = re.compile(f"{_TIME} {_TIME}")


@dataclass
class ExitRecord:
    """What is known of a job's last run.

    ``exit_code`` None: it has not ended, or was killed before it could say. Times are in s since
    the epoch, by the clock of the job's host. ``unread`` are lines that could not be read: the job
    itself can write there.
    """

    job_id: str
    runs: int = 0
    host: str = ""
    started: float | None = None
    ended: float | None = None
    limit: int | None = None  # s
    exit_code: int | None = None
    reason: Reason | None = None
    warned: list[tuple[str, float]] = field(default_factory=list)  # signal, when
    cpu: float | None = None  # s
    never_began: bool = False  # of a job in a pack: that ended before its turn
    turn: int = 0  # of a pack: the place of the last of its jobs that began
    unread: list[str] = field(default_factory=list)


def read_exit_record(text: str) -> ExitRecord | None:
    """Read an exit record; of several runs of a requeued job the last one counts.

    None for text that is no exit record. Without a code that could be read a job has not ended, as
    far as its record knows.
    """
    record: ExitRecord | None = None
    times: list[float] = []
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        if key == "job":
            record = ExitRecord(job_id=value)
        if record is None:
            return None
        if key == "host":  # a run begins
            record = ExitRecord(
                job_id=record.job_id, runs=record.runs + 1, host=value
            )
            times = []
        elif equals:
            _note(record, key, value)
        elif match := _TIMES.fullmatch(line):
            times.append(_total(match))
    if record is None:
        return None
    if record.ended is None:
        record.exit_code = None  # half written
    if record.exit_code is None:
        record.ended = None
    record.cpu = times[1] if len(times) > 1 else None
    return record


def _note(record: ExitRecord, key: str, value: str) -> None:
    """Take one line of a run over; a line that is cut off says nothing."""
    read: object
    if record.ended is not None:
        return  # nothing comes after the end
    if key == "turn":
        record.turn = max(record.turn, number_of(value) or 0)
        return
    if key == "unbegun":
        record.never_began = True
        return
    if key == "warned":
        name, _, when = value.partition(" ")
        record.warned.append((name, epoch_of(when) or 0.0))
        return
    if key == "start":
        read = record.started = epoch_of(value)
    elif key == "end":
        read = record.ended = epoch_of(value)
    elif key == "limit":
        number = number_of(value)
        read = record.limit = number if number is not None and number >= 0 else None
    elif key == "exit":
        number = number_of(value)
        read = record.exit_code = number if number in range(256) else None
    elif key == "reason":
        read = record.reason = _REASONS.get(value)
    else:
        return
    if read is None and value:
        record.unread.append(show(f"{key}={value}"))


_REASONS = {reason.value: reason for reason in Reason}


def _total(match: re.Match[str]) -> float:
    """Return user and system time in s; some locales write a comma."""
    minutes, seconds, system_minutes, system_seconds = (
        float(part.replace(",", ".")) for part in match.groups()
    )
    return minutes * 60 + seconds + system_minutes * 60 + system_seconds
