"""What a job writes about itself beside its script: ``job.sh.j2`` writes it, this reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# what the shell's `times` prints: user and system time of the shell, then of its children
_TIMES = re.compile(r"(\d+)m([\d.,]+)s (\d+)m([\d.,]+)s")


@dataclass
class ExitRecord:
    """What is known of a job's last run.

    ``exit_code`` None: it has not ended, or was killed before it could say. Times are in s since
    the epoch, by the clock of the job's host.
    """

    job_id: str
    runs: int = 0
    host: str = ""
    started: float | None = None
    ended: float | None = None
    limit: int | None = None  # s
    exit_code: int | None = None
    reason: str = ""
    warned: list[tuple[str, float]] = field(default_factory=list)  # signal, when
    cpu: float | None = None  # s


def read_exit_record(text: str) -> ExitRecord | None:
    """Read an exit record; of several runs of a requeued job the last one counts.

    None for text that is no exit record.
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
    record.cpu = times[1] if len(times) > 1 else None
    return record


def _note(record: ExitRecord, key: str, value: str) -> None:
    """Take one line of a run over; a line that is cut off says nothing."""
    if key == "warned":
        name, _, when = value.partition(" ")
        record.warned.append((name, float(when) if when.isdigit() else 0.0))
    elif key == "reason":
        record.reason = value
    elif not value.isdigit():
        return
    elif key == "start":
        record.started = float(value)
    elif key == "limit":
        record.limit = int(value)
    elif key == "exit":
        record.exit_code = int(value)
    elif key == "end":
        record.ended = float(value)


def _total(match: re.Match[str]) -> float:
    """Return user and system time in s; some locales write a comma."""
    minutes, seconds, system_minutes, system_seconds = (
        float(part.replace(",", ".")) for part in match.groups()
    )
    return minutes * 60 + seconds + system_minutes * 60 + system_seconds
