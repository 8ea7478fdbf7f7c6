"""Commands that do something: submit, plan, render, cancel, wait, resubmit, retry."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from clusterjob.cli.options import ScriptOptions, make_job, script_options
from clusterjob.cli.output import (
    NOT_FOUND,
    UNFINISHED,
    as_json,
    describe,
    describe_reuse,
    echo,
    echo_content,
    exit_code,
    find_jobs,
    find_meant_jobs,
    find_parents,
    print_json,
    print_json_rows,
    print_table,
)
from clusterjob.cli.selecting import (
    SelectionOptions,
    read_selection,
    selection_options,
    words_given,
)
from clusterjob.errors import JobNotFoundError
from clusterjob.result import AsyncResult
from clusterjob.script import submit as submit_jobs
from clusterjob.units import parse_time

if TYPE_CHECKING:
    from typing_extensions import Unpack


@click.command()
@script_options
@click.option(
    "--wait",
    is_flag=True,
    help="Wait for the end of the job, and exit with its state.",
)
@click.option(
    "--force", is_flag=True, help="Submit again what has completed already."
)
@click.option("--no-retry", is_flag=True, help="Leave a job that failed as it is.")
@click.option(
    "--cache-id",
    help="What makes two submissions the same, in place of their contents.",
)
@click.option(
    "--after",
    multiple=True,
    metavar="JOB",
    help="A job that must complete first; may be repeated.",
)
@click.option(
    "--tag", "tags", multiple=True, help="A word to find it by; may be repeated."
)
@as_json
def submit(
    wait: bool,
    force: bool,
    no_retry: bool,
    cache_id: str | None,
    after: Sequence[str],
    tags: Sequence[str],
    as_json: bool,
    **options: Unpack[ScriptOptions],
) -> None:
    """Submit SCRIPT, unless it was submitted before; print the job id."""
    job = make_job(options)
    parents = find_parents(after)
    (result,) = submit_jobs(
        [job],
        cache_ids=[cache_id],
        force=force,
        retry=not no_retry,
        after=parents,
        tags=tags,
    )
    if result.reused:
        echo(describe_reuse(result), err=True)
    if wait:
        result.wait()
    if as_json:
        print_json(describe(result))
    else:
        echo(_id_or_why(result))
    if wait:
        if not as_json:
            echo(result.explain(), err=True)
        sys.exit(exit_code([result]))


@click.command()
@script_options
def render(**options: Unpack[ScriptOptions]) -> None:
    """Print SCRIPT as it would be submitted."""
    echo_content(str(make_job(options)))


@click.command()
@script_options
@click.option("--force", is_flag=True, help="As in submit.")
@click.option("--no-retry", is_flag=True, help="As in submit.")
@click.option("--cache-id", help="As in submit.")
@click.option("--after", multiple=True, metavar="JOB", help="As in submit.")
@as_json
def plan(
    force: bool,
    no_retry: bool,
    cache_id: str | None,
    after: Sequence[str],
    as_json: bool,
    **options: Unpack[ScriptOptions],
) -> None:
    """Say what submitting SCRIPT would do, and why it is not the job it was before."""
    parents = find_parents(after, recover=False)
    planned = make_job(options).plan(
        force=force, retry=not no_retry, cache_id=cache_id, after=parents
    )
    if as_json:
        print_json([job.row() for job in planned])
    else:
        echo(str(planned))


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@selection_options
def cancel(jobs: Sequence[str], **options: Unpack[SelectionOptions]) -> None:
    """Cancel jobs; what has ended stays what it was.

    JOB may be - for ids on standard input.
    """
    found, unknown = find_meant_jobs(words_given(jobs), read_selection(options))
    found.cancel()
    for result in found:
        status = result.record.status
        what = (
            f"has ended: {status.name}" if status.finished else "is being cancelled"
        )
        echo(f"{result.job_id or result.key[:10]} {result.name}: {what}")
    _exit_with(unknown)


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@selection_options
@click.option(
    "--timeout", metavar="TIME", help="Give up after this long: 30s, 5m, 2h."
)
@as_json
def wait(
    jobs: Sequence[str],
    timeout: str | None,
    as_json: bool,
    **options: Unpack[SelectionOptions],
) -> None:
    """Wait until jobs have ended.

    JOB may be - for ids on standard input. Exit code 0: all completed; 1: one did not; 3: the
    timeout came first.
    """
    words, selection = words_given(jobs), read_selection(options)
    if words:
        results = find_jobs(words, selection=selection)
    else:
        results, _ = find_meant_jobs(words, selection)
    seconds = (
        None if timeout is None else 0 if timeout == "0" else parse_time(timeout)
    )
    results.wait(seconds)
    if as_json:
        print_json_rows(describe(result) for result in results)
    else:
        print_table(results)
    is_over = all(result.record.settled for result in results)
    sys.exit(exit_code(results) if is_over else UNFINISHED)


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@selection_options
def resubmit(jobs: Sequence[str], **options: Unpack[SelectionOptions]) -> None:
    """Submit jobs that have ended once more, as they were; print the new job ids.

    All of an array runs again, and so do jobs that completed: see retry. JOB may be - for ids on
    standard input. All are submitted together, or none where one has not ended.
    """
    found, unknown = find_meant_jobs(words_given(jobs), read_selection(options))
    if unknown:
        _exit_with(unknown)
    for result in found.resubmit():
        echo(_id_or_why(result))


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@selection_options
def retry(jobs: Sequence[str], **options: Unpack[SelectionOptions]) -> None:
    """Submit jobs once more that failed or were cancelled; print the new job ids.

    Of an array only the elements that did not complete run again. JOB may be - for ids on standard
    input.
    """
    found, unknown = find_meant_jobs(words_given(jobs), read_selection(options))
    if unknown:
        _exit_with(unknown)
    for old, new in zip(found, found.retry(), strict=True):
        if new == old:
            status = new.record.status.name
            echo(f"{old.job_id or old.key[:10]} {old.name}: it is {status}", err=True)
        else:
            echo(_id_or_why(new))


def _id_or_why(result: AsyncResult) -> str:
    """Return the id of a job, or why it has none yet."""
    why = result.words or "another process is submitting it"
    return result.job_id or f"{result.key[:10]} (waits: {why})"


def _exit_with(unknown: Sequence[JobNotFoundError]) -> NoReturn:
    """End with the words that named no job, after all the others were seen to."""
    for error in unknown:
        echo(f"Error: {error}", err=True)
    sys.exit(NOT_FOUND if unknown else 0)
