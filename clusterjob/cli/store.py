"""Commands that look after the store: doctor, prune, store."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from clusterjob.cli.output import (
    as_json,
    echo,
    format_minute,
    in_one_line,
    pages_of,
    print_json,
    print_json_rows,
)
from clusterjob.errors import SettingsError, StoreError
from clusterjob.script import default_session
from clusterjob.status import Status
from clusterjob.store import Store, open_store
from clusterjob.units import parse_time

if TYPE_CHECKING:
    from clusterjob.admin import Finding, Removed


@click.command()
@click.option("-p", "--profile", metavar="INI", help="A profile to look at too.")
@click.option("--fix", is_flag=True, help="Mend what can be mended.")
@as_json
def doctor(profile: str | None, fix: bool, as_json: bool) -> None:
    """Look at the store, open submissions and the clusters of unfinished jobs.

    Say what is wrong and would be mended. Exit code 0: all is well, or mended; 1: something is not.
    """
    from clusterjob.admin import examine

    findings = []
    for finding in examine(default_session(), profile, fix):
        findings.append(finding)
        if not as_json:
            _print_finding(finding, fix)
    if as_json:
        print_json([vars(finding) for finding in findings])
    sys.exit(0 if all(finding.ok or finding.mended for finding in findings) else 1)


def _print_finding(finding: Finding, fix: bool) -> None:
    state = "ok  " if finding.ok else "done" if finding.mended else "BAD "
    echo(f"{state} {finding.what:11} {finding.detail}")
    if finding.ok:
        return
    what_next = f"to do: {finding.advice or finding.mend}"
    if finding.mend and not fix:
        what_next = f"would be mended (--fix): {finding.mend}"
    echo(f"{'':17}{finding.mended or what_next}")


@click.command()
@click.option(
    "--older-than",
    required=True,
    metavar="TIME",
    help="Only jobs that ended longer ago than this: 30d, 12h.",
)
@click.option(
    "-s",
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["completed", "cancelled", "failed"]),
    help="By default completed.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@as_json
def prune(
    older_than: str, states: Sequence[str], dry_run: bool, as_json: bool
) -> None:
    """Remove old jobs: their records, and their scripts, logs and exit records on the cluster; and
    folders of calls that programs left behind.

    Jobs that have not ended are never touched.
    """
    from clusterjob.admin import prune as prune_jobs
    from clusterjob.functions import prune_pools

    age = _read_age(older_than)
    wanted = [Status[state.upper()] for state in states or ["completed"]]
    pools = prune_pools(default_session(), age, dry_run)
    pruned = prune_jobs(default_session(), age, wanted, dry_run)
    problems = [*pools.problems, *pruned.problems]
    if as_json:
        echo(
            f'{{"dry_run": {json.dumps(dry_run)}, "problems": {json.dumps(problems)},'
        )
        echo(f' "folders_of_calls": {json.dumps(pools.removed)},')
        echo(' "removed":')
        print_json_rows(map(_describe_removed, pruned.removed))
        echo("}")
    else:
        for page in pages_of(map(_line_of_removed, pruned.removed)):
            echo("\n".join(page))
        done = "would be" if dry_run else "were"
        echo(f"{len(pruned.removed)} submissions {done} removed")
        if pools.removed:
            echo(f"{len(pools.removed)} folders of calls {done} removed")
    for problem in problems:
        echo(f"clusterjob: {problem}", err=True)
    sys.exit(1 if problems else 0)


def _read_age(text: str) -> int:
    """Return an age in s; 0s, 0h and the like are one, too."""
    try:
        if (
            text.strip().replace(".", "").isdigit()
        ):  # of a bare number nobody knows the unit
            raise SettingsError(text)
        is_none = re.fullmatch(r"0+[a-z]+", text.strip()) is not None
        return 0 if is_none else parse_time(text)
    except SettingsError:
        raise click.BadParameter(
            f"{text!r} is no age; expected a number with its unit, like 30d, 12h or 0s",
            param_hint="--older-than",
        ) from None


def _describe_removed(removed: Removed) -> dict[str, object]:
    return {
        "name": removed.name,
        "job_id": removed.job_id,
        "key": removed.key,
        "status": removed.status.name,
    }


def _line_of_removed(removed: Removed) -> str:
    when = format_minute(int(removed.created) // 60)
    job, status = removed.job_id or "-", removed.status.name
    return in_one_line(
        f"{job:10} {removed.name:20} {status:10} {when}  {removed.key[:10]}"
    )


@click.group()
def store() -> None:
    """Stores of records: copy one into another, also of another kind."""


@store.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy_store(source: str, target: str) -> None:
    """Copy the records of one store into another.

    FROM and TO are folders, sqlite:///PATH, file:///FOLDER or postgresql://... What the target has
    already stays as it is there.
    """
    from clusterjob.admin import copy_records

    origin, destination = _open_existing(source), open_store(target)
    if origin.url == destination.url:
        raise click.UsageError("FROM and TO are the same store")
    done = copy_records(origin, destination)
    echo(
        f"{done.records} records in {origin.url}, {done.new} of them new to {destination.url}"
    )
    if done.left_out:
        echo(
            f"{done.left_out} jobs have not ended, and belong to {origin.owner}: left out",
            err=True,
        )
    live = len(destination.select(statuses=[Status.PENDING, Status.RUNNING]))
    if live:
        echo(
            f"{live} jobs have not ended: from now on use one of the two stores only",
            err=True,
        )
    for token in done.damaged:
        echo(
            f"clusterjob: the record {token} is damaged and was not copied; "
            "see 'clusterjob doctor'",
            err=True,
        )
    sys.exit(1 if done.damaged else 0)


def _open_existing(where: str) -> Store:
    """Open a store that must be there. Raises :class:`StoreError`."""
    found = open_store(where)
    if not found.exists():
        raise StoreError(f"there is no store at {found.url}")
    return found
