"""Commands that look: list, status, show, logs, backends, check."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from clusterjob.backend import list_backends, load_backend, readable
from clusterjob.cli.output import (
    NOT_FOUND,
    as_json,
    content_sink,
    describe,
    describe_listed,
    echo,
    echo_content,
    exit_code,
    find_jobs,
    format_time,
    print_csv_rows,
    print_json,
    print_json_rows,
    print_listed,
    print_table,
)
from clusterjob.cli.selecting import (
    SelectionOptions,
    read_selection,
    selection_options,
    words_given,
)
from clusterjob.engine import render_record
from clusterjob.errors import CommandError, first_of
from clusterjob.files import Stream, count_elements, lost_logs
from clusterjob.job_rows import task_columns
from clusterjob.result import AsyncResult
from clusterjob.results import Results
from clusterjob.script import default_session
from clusterjob.selection import Selection
from clusterjob.status import Status
from clusterjob.store import Event, OnceState, full_job_id

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SHOWN = 5  # paths that are named of many


@click.command("list")
@selection_options
@click.option(
    "--all",
    "earlier",
    is_flag=True,
    help="Also earlier submissions of jobs that were submitted again.",
)
@click.option(
    "--ids", is_flag=True, help="Print the ids (or keys) alone, one a line."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with a header.")
@as_json
def list_jobs(
    earlier: bool,
    ids: bool,
    as_csv: bool,
    as_json: bool,
    **options: Unpack[SelectionOptions],
) -> None:
    """List the jobs in the store, without asking any cluster.

    As CSV with parameters, and a row for each element of an array that has such.
    """
    session = default_session()
    selection = read_selection(options)
    if ids + as_csv + as_json > 1:
        raise click.UsageError("--ids, --csv and --json are one or the other")
    if as_csv:
        print_csv_rows(session.select(selection, (), earlier).rows())
        return
    found = session.listed(selection, earlier)
    if as_json:
        print_json_rows(describe_listed(session, found))
    elif ids:
        for item in found:
            echo(full_job_id(item.job_id, item.member) or item.key)
    elif not print_listed(found):
        what = "no jobs" if selection == Selection() else "no such jobs"
        echo(f"{what} in {session.store.url}")


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@selection_options
@as_json
def status(
    jobs: Sequence[str], as_json: bool, **options: Unpack[SelectionOptions]
) -> None:
    """Ask what became of jobs; without any, of all that had not ended, and sum up the rest.

    JOB may be - for ids on standard input. Of jobs that are named, or meant by an option, the exit
    code is 0 where all completed, 1 where one failed or was cancelled, 3 where one has not ended;
    4 where the options mean none.
    """
    session = default_session()
    selection = read_selection(options)
    results = find_jobs(words_given(jobs), selection=selection)
    is_about_all = not jobs and selection == Selection()
    if not jobs:
        live = frozenset((Status.PENDING, Status.RUNNING))
        if is_about_all:
            selection = Selection(states=live)
        results = session.select(selection)
    for result in results:
        result.refresh()
    if as_json:
        print_json_rows(describe(result) for result in results)
    elif results:
        print_table(results)
    for result in results:
        for what in ("epilogue", "outputs"):
            once = getattr(result.record, what)
            if once.state is OnceState.FAILED:
                echo(
                    f"{result.name} ({result.job_id}): {what}: {once.error}", err=True
                )
    errors = [result.cluster.poller.error for result in results if result.stale_since]
    for error in dict.fromkeys(errors):
        echo(f"could not ask: {error}", err=True)
    counts = session.store.counts() if is_about_all else results.counts
    if not as_json and not jobs:
        which = "jobs" if is_about_all else "such jobs"
        echo(_summary(counts) or f"no {which} in {session.store.url}")
    if not is_about_all:
        sys.exit(exit_code(results) if results else NOT_FOUND)


def _summary(counts: Mapping[Status, int]) -> str:
    """Say how many jobs are in each state."""
    words = [
        f"{count} {state.name.lower()}" for state, count in counts.items() if count
    ]
    return ", ".join(words)


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB...]")
@selection_options
@as_json
def history(
    jobs: Sequence[str], as_json: bool, **options: Unpack[SelectionOptions]
) -> None:
    """Show what happened to jobs, of all of them in one time line; no cluster is asked.

    Earlier submissions of jobs that were submitted again are part of it.
    """
    results = _all_submissions(words_given(jobs), read_selection(options))
    events = [
        (event, result) for result in results for event in result.record.task.history
    ]
    events.sort(key=lambda pair: pair[0].time)
    if as_json:
        print_json_rows(_event_row(result, event) for event, result in events)
        return
    for event, result in events:
        job = f"{result.job_id or result.key[:10]} {result.name}"
        echo(
            f"{format_time(event.time)}  {event.state:10} {job}  {event.words}".rstrip()
        )


def _all_submissions(words: Sequence[str], selection: Selection) -> Results:
    """Return the submissions that are meant; of jobs that are named all there were."""
    session = default_session()
    found = session.select(selection, words, earlier=True)
    keys = dict.fromkeys(result.key for result in found)
    if not words or not keys:
        return found
    return session.select(Selection(), list(keys), earlier=True)


def _event_row(result: AsyncResult, event: Event) -> dict[str, object]:
    return {
        "time": event.time,
        "job_id": result.job_id,
        "name": result.name,
        "key": result.key,
        "state": event.state,
        "words": event.words,
    }


@click.command()
@click.argument("job")
@click.option("--script", is_flag=True, help="Print the script that was submitted.")
@as_json
def show(job: str, script: bool, as_json: bool) -> None:
    """Show all that is known of a job: state, cause, times, usage, history, the end of its logs."""
    default_session().engine.only_look()
    results = find_jobs([job])
    for result in results:
        result.refresh()
    if script:
        for result in results:
            echo_content(render_record(result.cluster.scheduler, result.record))
    elif as_json:
        print_json([_everything(result) for result in results])
    else:
        echo("\n\n".join(_page(result) for result in results))


def _everything(result: AsyncResult) -> dict[str, object]:
    spec = json.loads(result.record.spec_json)
    data = {**describe(result), "history": result.history, "spec": spec}
    if result.record.tasks:
        tasks = result.record.tasks.items()
        data["elements"] = {index: task_columns(task) for index, task in tasks}
    return data


def _page(result: AsyncResult) -> str:
    data = describe(result)
    row, record = result.row(), result.record
    data["submitted"] = format_time(row["submitted"])
    data["started"] = format_time(row["started"])
    data["ended"] = format_time(row["ended"])
    data["stale_since"] = format_time(result.stale_since)
    data["tags"] = row["tags"]
    if record.tasks:  # each of which has logs of its own, named below
        del data["stdout"], data["stderr"]
        data["elements"] = f"\n{'':13}".join(count_elements(record))
    data["usage"] = ", ".join(
        f"{name} {value:.1f} {'MB' if name == 'max_rss' else 's'}"
        for name, value in result.usage.items()
    )
    data["resources"] = ", ".join(
        f"{name}={readable(name, value)}" for name, value in record.resources.items()
    )
    if record.epilogue.state is not OnceState.DONE:
        data["epilogue"] = record.epilogue.to_json()
    lines = [
        f"{name.replace('_', ' '):12} {value}"
        for name, value in data.items()
        if value not in (None, "")
    ]
    lines.append("history")
    for event in result.history:
        line = f"  {format_time(event.time)}  {event.state:10} {event.words}"
        lines.append(line.rstrip())
    return "\n".join([*lines, *result.explain().split("\n")[1:]])


@click.command()
@click.argument("job")
@click.option(
    "-e",
    "--stderr",
    "errors",
    is_flag=True,
    help="Standard error, in place of standard output.",
)
@click.option("-a", "--index", type=int, help="One element of an array.")
@click.option("-n", "--lines", type=click.IntRange(0), help="Only the last lines.")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on with what is added, until the job has ended.",
)
def logs(
    job: str,
    errors: bool,
    index: int | None,
    lines: int | None,
    follow: bool,
) -> None:
    """Print what a job has written so far."""
    stream: Stream = "stderr" if errors else "stdout"
    default_session().engine.only_look()
    results = find_jobs([job])
    lost: list[str] = []
    for result in results:
        if len(results) > 1:
            echo(f"==> {result.name} ({result.job_id or result.key[:10]}) <==")
        if follow:
            for text in result.follow(lines, stream, index):
                echo_content(text)
        else:
            missing = result.stream_log(content_sink(), stream, index, lines)
            gone = lost_logs(
                result.cluster.scheduler.backend, result.record, stream, missing
            )
            lost += gone
            unmade = [path for path in missing if path not in gone]
            for path in unmade[:_SHOWN]:
                echo(f"{path} is not there yet, or not of this job", err=True)
            if len(unmade) > _SHOWN:
                echo(f"nor are {len(unmade) - _SHOWN} more", err=True)
    if lost:
        raise CommandError(
            f"jobs that have ended wrote logs that are not there: {first_of(lost, 3)}"
        )


@click.command()
@click.argument("name", required=False)
@as_json
def backends(name: str | None, as_json: bool) -> None:
    """List the backends, or show one: its commands, directives, states."""
    if name is None:
        _list_backends(as_json)
        return
    backend = load_backend(name)
    if as_json:
        print_json(
            {
                "name": backend.name,
                "path": str(backend.path),
                "sections": backend.sections,
            }
        )
        return
    echo(f"{backend.name}: {backend.title}\n{backend.path / 'backend.ini'}")
    for section, entries in backend.sections.items():
        echo(f"\n[{section}]")
        for key, value in entries.items():
            if value or section == "Directives":
                echo(f"{key} = {value}")


def _list_backends(as_json: bool) -> None:
    found = [
        {"name": name, "title": load_backend(str(path)).title, "path": str(path)}
        for name, path in list_backends().items()
    ]
    if as_json:
        print_json(found)
        return
    for item in found:
        echo(f"{item['name']:10} {item['title']:26} {item['path']}")


@click.command()
@click.argument("profile", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--record",
    metavar="FILE",
    help="Write the conversation with the scheduler to FILE, as a fixture for tests; "
    "files are not tried then.",
)
@click.option(
    "--time-limit/--no-time-limit",
    default=False,
    help="Also let a job run into its limit (a minute and more on Slurm).",
)
@as_json
def check(profile: str, record: str | None, time_limit: bool, as_json: bool) -> None:
    """Run a few small jobs under PROFILE and say what works.

    That is submit, output, exit code, running, cancel.
    """
    from clusterjob.admin import run_checks

    checks = []
    for item in run_checks(default_session(), profile, record, time_limit):
        checks.append(item)
        if not as_json:
            echo(f"{'ok  ' if item.ok else 'FAIL'} {item.name:28} {item.detail}")
    if as_json:
        print_json([vars(item) for item in checks])
    sys.exit(0 if all(item.ok for item in checks) else 1)
