"""The logs of a job: where they are, what is in them, and following them while it runs."""

from __future__ import annotations

import codecs
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from clusterjob.backend import Backend, format_array
from clusterjob.errors import (
    CommandError,
    LineBrokenError,
    SettingsError,
    first_of,
    printable,
    shorten,
)
from clusterjob.fields import require_number
from clusterjob.shell import quote, quote_all
from clusterjob.status import Reason, Status
from clusterjob.store import Listed, OnceState, Record, attempt_token
from clusterjob.transport import Sink, Transport

_log = logging.getLogger(__name__)

Stream = Literal["stdout", "stderr"]
LOG_SUFFIX = {"stdout": ".out", "stderr": ".err"}
# of what a scheduler replaces in a name
_SIGN = re.compile(r"[%$^{]")
_TAIL = 10  # lines of a log shown in an error
_MOST_INDICES = 80  # characters of a list of elements
# bytes: of the last lines together, and of each where they are many
_MOST_TAIL, _LONG_LINE = 1 << 20, 1000
_PORTION = 1 << 24  # bytes that a follower reads at once
_PATIENCE = 120.0  # s without a word
_NOT_THERE, _MADE_ANEW = 3, 4  # exit codes of the follower's commands


def log_path(
    record: Record,
    stream: Stream,
    index: int | None = None,
    backend: Backend | None = None,
) -> str:
    """Return the absolute path of a log on the job's host; ``index`` is an array's element.

    The backend is needed where the user named the file: it knows what stands for the job's id.
    Raises :class:`SettingsError` for a stream and an element that there are not.
    """
    _check_log(record, stream, index)
    resources = record.resources
    path = _named(resources.get("stdout"), resources.get("stderr"), stream)
    if not path:
        return record.files_of(index) + LOG_SUFFIX[stream]
    if backend is not None and _SIGN.search(path):
        values = {
            "{id}": record.job_id or "",
            "{task}": str(index if index is not None else ""),
            "{name}": record.name,
        }
        for pattern, value in backend.general.patterns:
            path = path.replace(pattern, values.get(value, value))
    return os.path.join(record.workdir, path)


def attempt_log_path(
    record: Record, stream: Stream, attempt: int, folder: str = ""
) -> str:
    """Return the path of a log of an attempt; one that the user named is that of all of them.

    ``folder`` is that of an attempt on another cluster.
    """
    resources = record.resources
    path = _named(resources.get("stdout"), resources.get("stderr"), stream)
    if path:
        return os.path.join(record.workdir, path)
    token = attempt_token(record.token, attempt)
    return f"{folder or record.folder}/{token}{LOG_SUFFIX[stream]}"


def log_path_of_listed(listed: Listed, stream: Stream) -> str | None:
    """Return what :func:`log_path` does, out of less; None where only the backend can tell."""
    path = _named(listed.stdout, listed.stderr, stream)
    if not path:
        return f"{listed.folder}/{listed.run_token}{LOG_SUFFIX[stream]}"
    return None if _SIGN.search(path) else os.path.join(listed.workdir, path)


def _named(stdout: str | None, stderr: str | None, stream: Stream) -> str | None:
    """Return the name that the user gave a log; without one of its own it goes to the other."""
    return stdout if stream == "stdout" or stderr == "" else stderr


def log_folders(record: Record) -> tuple[str, ...]:
    """Return the folders, in the workdir or absolute, of logs that the user named.

    Those with signs in them that a scheduler replaces are not known.
    """
    resources = record.resources
    paths = (resources.get(name) or "" for name in ("stdout", "stderr"))
    folders = dict.fromkeys(os.path.dirname(path) for path in paths)
    return tuple(folder for folder in folders if re.search(r"^[^%${}~\\]+$", folder))


def _check_log(record: Record, stream: str, index: int | None) -> None:
    if stream not in ("stdout", "stderr"):
        raise SettingsError(
            f"there is no stream {stream!r}; expected 'stdout' or 'stderr'"
        )
    if index is None:
        return
    if record.tasks is None:
        raise SettingsError(
            f"job {record.name!r} is no array: it has no element {index}"
        )
    if index not in record.tasks:
        known = ", ".join(map(str, list(record.tasks)[:10]))
        raise SettingsError(
            f"the array {record.name!r} has no element {index}; it has {known}"
            + (" and more" if len(record.tasks) > 10 else "")
        )


def stream_log(
    transport: Transport,
    backend: Backend,
    record: Record,
    sink: Sink,
    stream: Stream,
    index: int | None = None,
    lines: int | None = None,
) -> list[str]:
    """Hand over a log as it comes, or its last ``lines``; those of an array one after the other.

    Returns the paths of those that are not there, or are not of this job, because it never began:
    which of them should be there :func:`lost_logs` says.

    The last lines are at most 1 MB, or 1,000 bytes for each: a log may be one line without end.
    Where that cuts them there is a warning. Raises :class:`CommandError`, :class:`SettingsError`.
    """
    if lines is not None and lines < 0:
        raise SettingsError(
            f"{lines} is no number of lines; expected 0 or more, or None for all"
        )
    indices: Sequence[int | None] = [index]
    if index is None and record.tasks is not None:
        indices = list(record.tasks)
    paths = [log_path(record, stream, item, backend) for item in indices]
    if _is_of_another(record, stream):
        return paths
    files = quote_all(paths)
    read = "cat"
    if lines is not None:
        most = _most_bytes(lines)
        last = f"tail -c {most} | tail -n {lines}"
        cut = f'[ "$({last} <"$f" | wc -c)" -lt {most} ] || echo "cut $f" >&2'
        read = f"{{ {last}; {cut}; }}"
    missing = '[ -e "$f" ] || echo "none $f" >&2'
    missing = f'[ -f "$f" ] || {{ {missing}; continue; }}'  # nor is a pipe read
    script = f'for f in {files}; do {missing}; {read} <"$f" || exit; done'
    done = transport.stream(script, sink, _PATIENCE)
    if done.exit_code != 0:
        raise CommandError(
            f"the {stream} of {record.name!r} cannot be read",
            exit_code=done.exit_code,
            stderr=done.stderr,
        )
    said = done.stderr.split("\n")
    for line in said:
        if line.startswith("cut "):
            _log.warning("%s: its last lines are very long, and cut", line[4:])
    return [line[5:] for line in said if line.startswith("none ")]


def _is_of_another(record: Record, stream: Stream) -> bool:
    """Whether what has the name that the user gave a log is no log of this job: it never began."""
    resources = record.resources
    named = _named(resources.get("stdout"), resources.get("stderr"), stream)
    task = record.task
    has_ended = task.exit_code is not None or task.signal is not None
    never_began = task.reason is Reason.SUBMISSION and not has_ended
    return bool(named) and never_began


def _most_bytes(lines: int) -> int:
    return max(_MOST_TAIL, _LONG_LINE * lines)


def read_log(
    transport: Transport,
    backend: Backend,
    record: Record,
    stream: Stream,
    index: int | None = None,
    lines: int | None = None,
) -> str:
    """Return a log, or its last lines; it is read once more where the line broke.

    Empty where there is no file yet. Raises what :func:`stream_log` does, and :class:`CommandError`
    where one is not there any more.
    """
    text, missing = _read(transport, backend, record, stream, index, lines)
    if lost := lost_logs(backend, record, stream, missing):
        raise CommandError(
            f"job {record.name!r} has ended, and its {stream} is not there: {first_of(lost, 3)}; "
            "it was deleted, or moved"
        )
    return text


def lost_logs(
    backend: Backend, record: Record, stream: Stream, missing: Sequence[str]
) -> list[str]:
    """Return those of the logs that are not there which were: their jobs told how they ended."""
    if not missing:
        return []
    tasks = dict(record.tasks) if record.tasks else {None: record.task}
    written = {
        log_path(record, stream, index, backend)
        for index, task in tasks.items()
        if task.exit_code is not None and task.reason is not Reason.SUBMISSION
    }
    return [path for path in missing if path in written]


def _read(
    transport: Transport,
    backend: Backend,
    record: Record,
    stream: Stream,
    index: int | None,
    lines: int | None,
) -> tuple[str, list[str]]:
    """Return a log, or its last lines, and the paths of what is not there."""
    for is_second in (False, True):
        data = bytearray()
        try:
            missing = stream_log(
                transport, backend, record, data.extend, stream, index, lines
            )
            break
        except LineBrokenError:
            if is_second:
                raise
    return data.decode("utf-8", "replace"), missing


def explain(
    transport: Transport, backend: Backend, record: Record, job_id: str | None
) -> str:
    """Say in a few lines what became of a job: cause, code, job id, and the end of its logs."""
    lines = [summarize(record, job_id)]
    if record.outputs.state is OnceState.FAILED:
        lines.append(f"  its outputs did not come: {record.outputs.error}")
    if record.epilogue.state is OnceState.FAILED:
        lines += [f"  {line}" for line in record.epilogue.error.splitlines()]
    index = _most_telling_element(record)
    streams: tuple[Stream, ...] = ("stdout", "stderr")
    paths: set[str] = set()
    for stream in streams:
        path = log_path(record, stream, index, backend)
        if path in paths:
            lines.append(f"  {stream}: there too")
            continue
        paths.add(path)
        note = ""
        try:
            text, missing = _read(transport, backend, record, stream, index, _TAIL)
            text = printable(text).rstrip()
            if not text:
                note = " (is not there)" if missing else " (empty)"
            if _is_of_another(record, stream):
                note = " (is not of this job, which never began)"
        except CommandError as error:
            text = str(error).partition("\n")[0]
        lines.append(f"  {stream}: {path}{note}")
        lines += [f"    {shorten(line)}" for line in text.split("\n") if text]
    return "\n".join(lines)


def summarize(record: Record, job_id: str | None) -> str:
    """Say in one line what became of a job."""
    task = record.task
    parts = [f"job {record.name!r} ({job_id or 'not submitted'}) is {task.status}"]
    if task.reason:
        parts.append(f"reason: {task.reason}")
    if task.exit_code is not None:
        parts.append(f"exit code {task.exit_code}")
    if task.signal is not None:
        parts.append(f"signal {task.signal}")
    if task.words:
        parts.append(f"the scheduler says {task.words!r}")
    if record.tasks:
        parts.append(f"elements: {'; '.join(count_elements(record))}")
    return ", ".join(parts)


def count_elements(record: Record) -> list[str]:
    """Say which elements of an array came to what, those that did not complete first."""
    groups: dict[tuple[Status, str], list[int]] = {}
    for index, task in (record.tasks or {}).items():
        why = str(task.reason or "")
        if task.reason is Reason.EXIT:
            why = f"exit code {task.exit_code}"
        groups.setdefault((task.status, why), []).append(index)
    lines = []
    for (status, why), indices in sorted(groups.items(), reverse=True):
        cause = f" ({why})" if why else ""
        named = format_array(indices)
        if len(named) > _MOST_INDICES:
            named = named[:_MOST_INDICES].rpartition(",")[0] + ", ..."
        lines.append(f"{len(indices)} {status.name}{cause}: {named}")
    return lines


def _most_telling_element(record: Record) -> int | None:
    """Return the first element of an array that did not complete, else the first; else None."""
    if not record.tasks:
        return None
    for index, task in record.tasks.items():
        if task.status > Status.COMPLETED:
            return index
    return next(iter(record.tasks))


class LogFollower:
    """Reads what was added to a log since the last time.

    Each look is one command over the connection that there is. ``lines`` are the last ones that the
    first look brings; None for all.
    """

    def __init__(self, transport: Transport, path: str, lines: int | None) -> None:
        self._transport = transport
        self._path = quote(path)
        self._lines = lines
        self._offset: int | None = None  # bytes that were read
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def look(self) -> Iterator[str]:
        """Yield what is new, if anything is.

        A log that was made anew begins again. Raises :class:`TransportError`.
        """
        if self._offset is None:
            self._offset = self._find_start()
        if self._offset is None:
            return
        came = _PORTION
        while came == _PORTION:
            data = bytearray()
            done = self._transport.stream(
                f"[ $(wc -c <{self._path}) -ge {self._offset} ] || exit {_MADE_ANEW}; "
                f"tail -c +{self._offset + 1} {self._path} | head -c {_PORTION}",
                data.extend,
                _PATIENCE,
            )
            if done.exit_code == _MADE_ANEW:
                self._offset = 0
                return
            came = len(data)
            self._offset += came
            if text := self._decoder.decode(data):
                yield text

    def _find_start(self) -> int | None:
        """Return where the last lines begin; None for a log that is not there yet."""
        start = "echo 0"
        if self._lines is not None:
            most = _most_bytes(self._lines)
            last = f"$(tail -c {most} {self._path} | tail -n {self._lines} | wc -c)"
            start = f"echo $(($(wc -c <{self._path}) - {last}))"
        answer = self._transport.run(
            f"[ -e {self._path} ] || exit {_NOT_THERE}; {start}", _PATIENCE
        )
        if answer.exit_code != 0:
            return None
        return require_number(answer.stdout, self._transport.host)
