"""How jobs are found and printed."""

from __future__ import annotations

import codecs
import csv
import functools
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import click

from clusterjob.errors import (
    JobNotFoundError,
    SettingsError,
    SubmissionError,
    first_of,
    printable,
)
from clusterjob.files import log_path_of_listed
from clusterjob.result import AsyncResult
from clusterjob.results import Results
from clusterjob.script import default_session
from clusterjob.selection import Selection
from clusterjob.session import Session
from clusterjob.status import Status
from clusterjob.store import Listed, full_job_id

T = TypeVar("T")

# exit codes
UNFINISHED, NOT_FOUND, NEEDS_SCRIPT = 3, 4, 5

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


def find_jobs(
    words: Sequence[str],
    recover: bool = True,
    selection: Selection = Selection(),  # noqa: B008  # it never changes
) -> Results:
    """Return handles of all jobs that the words name, in the order of the words.

    A submission that was replaced is found by its id. Submissions that were left open are finished
    first, with ``recover``. Raises :class:`JobNotFoundError`.
    """
    session = _session(recover)
    found = Results()
    for word in words:
        try:
            found += session.select(selection, [word])
        except JobNotFoundError:
            found += session.select(selection, [word], earlier=True)
    return Results(dict.fromkeys(found))


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


def find_meant_jobs(
    words: Sequence[str], selection: Selection
) -> tuple[Results, list[JobNotFoundError]]:
    """Return handles of the jobs that are named, or without words of all that are meant; and an
    error for each word that names none. Raises :class:`SettingsError` where nothing is said at all.
    """
    found, unknown = Results(), []
    session = _session()
    if not words:
        if selection == Selection():
            raise SettingsError(
                "say which jobs: by ids or names, or with --campaign, --tag, --state, --reason, "
                "--name, --user, --since, --until"
            )
        meant = session.select(selection)
        if not meant:
            echo("no job is meant by that", err=True)
        return meant, []
    for word in words:
        try:
            found += session.select(selection, [word])
        except JobNotFoundError as error:
            unknown.append(error)
    if not found and not unknown:
        named = first_of([repr(word) for word in words], 3)
        unknown.append(JobNotFoundError(f"the options mean none of {named}"))
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
    return {
        **row,
        "usage": usage,
        "tags": list(result.record.spec.tags),
        "stale_since": result.stale_since,
    }


def describe_listed(
    session: Session, found: Iterable[Listed]
) -> Iterator[dict[str, object]]:
    """Yield what :func:`describe` returns, out of less."""
    for page in pages_of(found):
        rows = list(map(_describe_alone, page))
        unknown = {
            listed.token: number
            for number, (listed, row) in enumerate(zip(page, rows, strict=True))
            if row["stdout"] is None or row["stderr"] is None
        }
        for token, record in session.store.by_tokens(unknown).items():
            rows[unknown[token]] = describe(AsyncResult(record, session.engine))
        yield from rows


def _describe_alone(listed: Listed) -> dict[str, object]:
    return {
        "name": listed.name,
        "job_id": full_job_id(listed.job_id, listed.member),
        "key": listed.key,
        "status": _NAMES[listed.status],
        "reason": listed.reason,
        "exit_code": listed.exit_code,
        "signal": listed.signal,
        "words": listed.words,
        "backend": listed.backend,
        "host": listed.host,
        "workdir": listed.workdir,
        "submitted": listed.created,
        "campaign": listed.campaign,
        "tags": listed.tags,
        "started": listed.started,
        "ended": listed.ended,
        "stdout": log_path_of_listed(listed, "stdout"),
        "stderr": log_path_of_listed(listed, "stderr"),
        "usage": listed.usage,
        "stale_since": None,
    }


def print_table(results: Iterable[AsyncResult]) -> None:
    """Print one line a job."""
    cells = (
        _cells(Listed.of(result.record), bool(result.stale_since))
        for result in results
    )
    print_columns(_HEADINGS, cells)


def print_listed(listed: Iterable[Listed]) -> bool:
    """Print one line a job, as they come; return whether there were any."""
    return print_columns(_HEADINGS, map(_cells, listed))


_NAMES = {int(status): status.name for status in Status}
_HEADINGS = ("JOB ID", "NAME", "STATUS", "REASON", "BACKEND", "SUBMITTED", "KEY")


def _cells(listed: Listed, is_stale: bool = False) -> tuple[str, ...]:
    return (
        full_job_id(listed.job_id, listed.member) or "-",
        listed.name,
        _NAMES[listed.status] + (" (stale)" if is_stale else ""),
        _reason(listed.reason or "", listed.exit_code),
        _place(listed.backend, listed.host),
        format_minute(int(listed.created) // 60),
        listed.key[:10],
    )


def _reason(reason: str, exit_code: int | None) -> str:
    return f"{reason} {exit_code}" if reason and exit_code else reason


def _place(backend: str, host: str) -> str:
    return f"{backend}@{host}" if host else backend


@functools.lru_cache
def format_minute(minute: int) -> str:
    """Write a time (minutes since the epoch) for a person."""
    return format_time(minute * 60, seconds=False)


def format_time(when: float | None, seconds: bool = True) -> str:
    """Write a time (s since the epoch) for a person; empty for none."""
    if when is None:
        return ""
    form = "%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M"
    return time.strftime(form, time.localtime(when))


def print_columns(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> bool:
    """Print rows under their headings, as they come; return whether there were any.

    The columns are as wide as those of the first page need, and of each that comes after.
    """
    widths = [0] * len(headings)
    has_printed = False
    for page in pages_of(rows):
        if not has_printed:
            page = [tuple(headings), *page]
        longest = [max(map(len, column)) for column in zip(*page, strict=True)]
        widths = list(map(max, widths, longest))
        form = "  ".join(f"{{:{width}}}" for width in widths)
        echo("\n".join(in_one_line(form.format(*row)) for row in page))
        has_printed = True
    return has_printed


def in_one_line(row: str) -> str:
    """Return a row of a table; what breaks lines in it is escaped."""
    return row.rstrip().replace("\n", "\\n")


def pages_of(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield what comes in lists of some hundreds."""
    rest = iter(rows)
    while page := list(itertools.islice(rest, 500)):
        yield page


def print_json(value: object) -> None:
    """Print plain values."""
    click.echo(json.dumps(value, indent=1))


_encode = json.JSONEncoder(check_circular=False).encode


def print_csv_rows(rows: Iterable[Mapping[str, object]]) -> None:
    """Print rows as CSV, with a header; None is empty."""
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row), extrasaction="ignore")
            writer.writeheader()
        writer.writerow(row)


def print_json_rows(rows: Iterable[Mapping[str, object]]) -> None:
    """Print a list of objects, a line each, as they come."""
    before = "["
    for page in pages_of(rows):
        # in a string a quote has a backslash before it, so this stands between objects alone
        lines = _encode(page)[1:-1].replace('}, {"', '},\n {"')
        click.echo(before + lines, nl=False)
        before = ",\n "
    click.echo("]" if before != "[" else "[]")


def exit_code(results: Sequence[AsyncResult]) -> int:
    """Return 0 where all jobs completed, 1 where one did not, 3 where one has not ended."""
    states = [result.record.status for result in results]
    if any(state > Status.COMPLETED for state in states):
        return 1
    return UNFINISHED if any(state < Status.COMPLETED for state in states) else 0
