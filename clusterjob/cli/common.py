"""What several commands share: options, finding jobs, printing them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from clusterjob.errors import JobNotFoundError
from clusterjob.result import AsyncResult
from clusterjob.script import JobScript, current_store
from clusterjob.status import Status

Command = TypeVar("Command", bound=Callable[..., Any])
UNFINISHED = 3

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def script_options(command: Command) -> Command:
    """Add the argument and the options that make a job of a script file."""
    for option in reversed(
        [
            click.argument("script", type=click.Path(exists=True, dir_okay=False)),
            click.option(
                "-p",
                "--profile",
                metavar="INI",
                help="The profile: which backend, where, with which resources.",
            ),
            click.option(
                "-r",
                "--resource",
                "resources",
                multiple=True,
                metavar="NAME=VALUE",
                help="A resource, for example time=5m; may be repeated.",
            ),
            click.option(
                "-d",
                "--define",
                "params",
                multiple=True,
                metavar="NAME=VALUE",
                help="A variable of the body; may be repeated.",
            ),
            click.option("-b", "--backend", help="The backend, in place of the profile's."),
            click.option("-n", "--name", help="The job's name; by default the script's file name."),
            click.option(
                "-w", "--workdir", help="The working directory, in place of the profile's."
            ),
            click.option(
                "-i",
                "--input",
                "inputs",
                multiple=True,
                metavar="FILE",
                help="A file or folder the job reads; may be repeated.",
            ),
            click.option(
                "-o",
                "--output",
                "outputs",
                multiple=True,
                metavar="PATTERN",
                help="What to fetch when the job has ended; may be repeated.",
            ),
            click.option(
                "--verbatim",
                is_flag=True,
                help="Take the script as it stands: it is no Jinja template.",
            ),
        ]
    ):
        command = option(command)
    return command


def make_job(
    script: str,
    profile: str | None,
    resources: Sequence[str],
    params: Sequence[str],
    backend: str | None,
    name: str | None,
    workdir: str | None,
    inputs: Sequence[str],
    outputs: Sequence[str],
    verbatim: bool,
) -> JobScript:
    """Make the job that the options of :func:`script_options` describe."""
    path = Path(script)
    try:
        body = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{script} cannot be read as text: {error}") from None
    job = JobScript(
        body, inputs=inputs, outputs=outputs, params=dict(map(_pair, params)), verbatim=verbatim
    )
    if profile is not None:
        job.read_settings(profile)
    for key, value in map(_pair, resources):
        job._set_resource(key, value)
    if backend is not None:
        job.backend = backend
    if workdir is not None:
        job.workdir = workdir
    if name is not None or not job.resources.get("jobname"):
        job.jobname = name or path.stem
    return job


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip("-"):
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value


def find_jobs(words: Sequence[str]) -> list[AsyncResult]:
    """Return handles of all jobs that the words name, in the order of the words.

    Raises :class:`JobNotFoundError`.
    """
    store = current_store()
    found: dict[str, AsyncResult] = {}
    for word in words:
        records = store.named(word)
        if not records:
            raise JobNotFoundError(
                f"no job has the id or name {word!r}, or a key that starts so, in {store.url}. "
                "See 'clusterjob list'"
            )
        for record in records:
            found.setdefault(record.token, AsyncResult(record, store))
    return list(found.values())


def describe(result: AsyncResult) -> dict[str, Any]:
    """Return what is known of a job as plain values."""
    record, task = result.record, result.record.task
    return {
        "name": record.name,
        "job_id": result.job_id,
        "key": record.key,
        "status": task.status.name,
        "reason": task.reason.value if task.reason else None,
        "exit_code": task.exit_code,
        "signal": task.signal,
        "words": task.words,
        "backend": record.backend,
        "host": record.host,
        "workdir": record.workdir,
        "submitted": record.created,
        "started": task.started,
        "ended": task.ended,
        "usage": task.usage,
        "stdout": result.log_path("stdout"),
        "stderr": result.log_path("stderr"),
        "stale_since": result.stale_since,
    }


def print_table(results: Sequence[AsyncResult]) -> None:
    """Print one line a job."""
    rows = [("JOB ID", "NAME", "STATUS", "REASON", "BACKEND", "SUBMITTED", "KEY")]
    for result in results:
        record, task = result.record, result.record.task
        why = (
            ""
            if task.reason is None
            else task.reason.value + (f" {task.exit_code}" if task.exit_code else "")
        )
        stale = " (stale)" if result.stale_since else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
        place = f"{record.backend}@{record.host}" if record.host else record.backend
        rows.append(
            (
                result.job_id or "-",
                record.name,
                task.status.name + stale,
                why,
                place,
                when,
                record.key[:10],
            )
        )
    print_columns(rows)


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of them the headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))


def exit_code(results: Sequence[AsyncResult]) -> int:
    """Return 0 where all jobs completed, 1 where one did not, 3 where one has not ended."""
    states = [result.record.status for result in results]
    if any(state > Status.COMPLETED for state in states):
        return 1
    return UNFINISHED if any(state < Status.COMPLETED for state in states) else 0
