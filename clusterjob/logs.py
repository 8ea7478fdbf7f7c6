"""The logs of a job: where they are, what is in them, and following them while it runs."""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Iterator, Sequence

from clusterjob.errors import CommandError
from clusterjob.scheduler import Scheduler
from clusterjob.status import Status
from clusterjob.store import Record

_TAIL = 10  # lines of a log shown in an error


def log_path(
    scheduler: Scheduler | None, record: Record, stream: str, index: int | None = None
) -> str:
    """Return the absolute path of ``stdout`` or ``stderr`` on the job's host; ``index`` is that of
    an array's element.

    The scheduler is needed where the user named the file.
    """
    path = record.spec["resources"].get(stream)
    if not path:
        suffix = f".{index}" if index is not None else ""
        return f"{record.runs}/{record.token}{suffix}.{'out' if stream == 'stdout' else 'err'}"
    values = {
        "{id}": record.job_id or "",
        "{task}": str(index if index is not None else ""),
        "{name}": record.name,
    }
    if scheduler is not None and re.search(r"[%$^{]", path):
        for pattern, _, value in (
            item.partition(":") for item in scheduler.backend.general["patterns"].split()
        ):
            path = path.replace(pattern, values.get(value, value))
    return os.path.join(record.workdir, path)


def read(
    scheduler: Scheduler,
    record: Record,
    stream: str,
    index: int | None = None,
    lines: int | None = None,
) -> str:
    """Return a log, or its last ``lines``; those of an array one after the other.

    Raises :class:`CommandError`.
    """
    indices: Sequence[int | None] = (
        [index] if index is not None or record.tasks is None else list(record.tasks)
    )
    files = " ".join(shlex.quote(log_path(scheduler, record, stream, item)) for item in indices)
    tool = "cat" if lines is None else f"tail -n {lines}"
    done = scheduler.transport.run(f'for f in {files}; do [ ! -e "$f" ] || {tool} "$f"; done')
    if done.exit_code != 0:
        raise CommandError(
            f"the {stream} of {record.name!r} cannot be read",
            exit_code=done.exit_code,
            stderr=done.stderr,
        )
    return done.stdout


def explain(scheduler: Scheduler, record: Record, job_id: str | None) -> str:
    """Say in a few lines what became of a job: cause, code, job id, and the end of its logs."""
    task = record.task
    parts = [f"job {record.name!r} ({job_id or 'not submitted'}) is {task.status}"]
    parts += [f"reason: {task.reason}"] if task.reason else []
    parts += [f"exit code {task.exit_code}"] if task.exit_code is not None else []
    parts += [f"signal {task.signal}"] if task.signal is not None else []
    parts += [f"the scheduler says {task.words!r}"] if task.words else []
    lines = [", ".join(parts)]
    if record.outputs not in ("", "due", "done"):
        lines.append(f"  its outputs did not come: {record.outputs}")
    bad = [
        index
        for index, element in (record.tasks or {}).items()
        if element.status > Status.COMPLETED
    ]
    index = next(iter([*bad, *(record.tasks or ())]), None)
    for stream in ("stdout", "stderr"):
        path = log_path(scheduler, record, stream, index)
        try:
            text = read(scheduler, record, stream, index, _TAIL).rstrip()
        except CommandError as error:
            text = str(error).partition("\n")[0]
        lines.append(f"  {stream}: {path}" + ("" if text else " (empty)"))
        lines += [f"    {line}" for line in text.splitlines()]
    return "\n".join(lines)


class Follower:
    """Reads what was added to a log since the last time; each look is one command over the
    connection that there is.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        record: Record,
        stream: str,
        index: int | None,
        lines: int | None,
    ) -> None:
        self.scheduler, self.lines = scheduler, lines
        self.path = log_path(scheduler, record, stream, index)
        self.offset: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def look(self) -> Iterator[str]:
        """Yield what is new, if anything is.

        A log that was made anew begins again. Raises :class:`TransportError`.
        """
        file = shlex.quote(self.path)
        if (
            self.offset is None
        ):  # where the last lines begin; a first look at a log that is not there yet
            first = (
                "echo 0"
                if self.lines is None
                else f"echo $(( $(wc -c <{file}) - $(tail -n {self.lines} {file} | wc -c) ))"
            )
            answer = self.scheduler.transport.run(f"[ -e {file} ] || exit 3; {first}")
            if answer.exit_code != 0:
                return
            self.offset = int(answer.stdout)
        data: list[bytes] = []
        done = self.scheduler.transport.stream(
            f"[ $(wc -c <{file}) -ge {self.offset} ] || exit 4; tail -c +{self.offset + 1} {file}",
            data.append,
        )
        if done.exit_code == 4:
            self.offset = 0
            return
        came = b"".join(data)
        self.offset += len(came)
        if text := self._decoder.decode(came):
            yield text
