"""How jobs are found and printed."""

from __future__ import annotations

import codecs
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence

import click

from clusterjob.errors import JobNotFoundError, SubmissionError, printable
from clusterjob.result import AsyncResult
from clusterjob.results import Results
from clusterjob.script import default_session
from clusterjob.session import Session
from clusterjob.status import Status

# exit codes
UNFINISHED, NOT_FOUND = 3, 4

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def echo(text: str, err: bool = False) -> None:
    """Print a line or some, harmless to a terminal whatever a job or somebody else put in there."""
    click.echo(printable(text), err=err)


def echo_content(text: str) -> None:
    """Print what a file has: as it is, but for a terminal harmless."""
    click.echo(printable(text) if is_terminal() else text, nl=False)


def content_sink() -> Callable[[bytes], object]:
    """Return what prints pieces of a file, as :func:`echo_content` does."""
    if not is_terminal():
        return sys.stdout.buffer.write
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda data: echo_content(decoder.decode(data))


def is_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty()


class PrintableFormatter(logging.Formatter):
    """Warnings as :func:`echo` prints lines."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def find_jobs(words: Sequence[str], recover: bool = True) -> Results:
    """Return handles of all jobs that the words name, in the order of the words.

    Submissions that were left open are finished first, with ``recover``. Raises
    :class:`JobNotFoundError`.
    """
    session = _session(recover)
    return session.results(*words) if words else Results()


def _session(recover: bool = True) -> Session:
    session = default_session()
    if recover:
        session.recover()
    return session


def find_parents(words: Sequence[str], recover: bool = True) -> list[AsyncResult]:
    """Return the jobs that another comes after: for each word one, or those of one batch.

    Jobs of a name that failed are left out where one did not. Raises :class:`JobNotFoundError`,
    and :class:`SubmissionError` where a name may mean one job or another.
    """
    found: list[AsyncResult] = []
    if not words:
        return found
    session = _session(recover)
    for word in words:
        named = session.results(word)
        good = [item for item in named if item.record.status <= Status.COMPLETED]
        meant = good or list(named)
        if len({item.record.folder for item in meant}) > 1:
            ids = ", ".join(item.job_id or item.key[:10] for item in meant)
            raise SubmissionError(
                f"{word!r} may mean any of the jobs {ids}: name the one to come after by its id, "
                "which submit prints"
            )
        found += meant
    return found


def find_known_jobs(
    words: Sequence[str],
) -> tuple[Results, list[JobNotFoundError]]:
    """Return handles of the jobs that are known, and an error for each word that names none."""
    found, unknown = Results(), []
    session = _session()
    for word in words:
        try:
            found += session.results(word)
        except JobNotFoundError as error:
            unknown.append(error)
    return Results(dict.fromkeys(found)), unknown


def describe_reuse(result: AsyncResult) -> str:
    """Say that a job was submitted before, and what became of it."""
    status, task = result.record.status, result.record.task
    state, since = status.name.lower(), result.record.created
    what = f"{state}: submitted"
    if status.finished:
        what = f"cached: {state}"
        since = task.ended or since
    return f"{result.job_id or '-'}  {result.name}  {what} {format_age(since)} ago"


def format_age(since: float) -> str:
    """Say how long ago a time (s since the epoch) was: ``3 h``."""
    seconds = max(0, int(time.time() - since))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def describe(result: AsyncResult) -> dict[str, object]:
    """Return what is known of a job as plain values."""
    row = dict(result.row())
    for name in ("elapsed", "cpu", "max_rss"):
        del row[name]
    usage = result.record.task.usage
    return {**row, "usage": usage, "stale_since": result.stale_since}


def print_table(results: Sequence[AsyncResult]) -> None:
    """Print one line a job."""
    rows = [("JOB ID", "NAME", "STATUS", "REASON", "BACKEND", "SUBMITTED", "KEY")]
    for result in results:
        record, task = result.record, result.record.task
        rows.append(
            (
                result.job_id or "-",
                record.name,
                task.status.name + (" (stale)" if result.stale_since else ""),
                _reason(result),
                f"{record.backend}@{record.host}" if record.host else record.backend,
                format_time(record.created, seconds=False),
                record.key[:10],
            )
        )
    print_columns(rows)


def _reason(result: AsyncResult) -> str:
    task = result.record.task
    if task.reason is None:
        return ""
    return (
        f"{task.reason.value} {task.exit_code}"
        if task.exit_code
        else task.reason.value
    )


def format_time(when: float | None, seconds: bool = True) -> str:
    """Write a time (s since the epoch) for a person; empty for none."""
    if when is None:
        return ""
    form = "%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(when))


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of them the headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        echo("  ".join(cells).rstrip())


def print_json(value: object) -> None:
    """Print plain values."""
    click.echo(json.dumps(value, indent=1))


def exit_code(results: Sequence[AsyncResult]) -> int:
    """Return 0 where all jobs completed, 1 where one did not, 3 where one has not ended."""
    states = [result.record.status for result in results]
    if any(state > Status.COMPLETED for state in states):
        return 1
    return UNFINISHED if any(state < Status.COMPLETED for state in states) else 0
