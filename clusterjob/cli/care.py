"""Commands that look after the store: doctor, prune, store."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import click

from clusterjob.cli.common import as_json, print_json
from clusterjob.errors import StoreError
from clusterjob.script import current_store
from clusterjob.status import Status
from clusterjob.store import Store, open_store
from clusterjob.units import parse_time


@click.command()
@click.option("-p", "--profile", metavar="INI", help="A profile to look at too.")
@click.option("--fix", is_flag=True, help="Mend what can be mended.")
@as_json
def doctor(profile: str | None, fix: bool, as_json: bool) -> None:
    """Look at the store, open submissions, the clusters of unfinished jobs, and say what is wrong
    and would be mended.

    Exit code 0: all is well, or mended; 1: something is not.
    """
    from clusterjob.care import examine

    findings = []
    for finding in examine(current_store(finish=False), profile, fix):
        findings.append(finding)
        if not as_json:
            state = "ok  " if finding.ok else "done" if finding.mended else "BAD "
            click.echo(f"{state} {finding.what:11} {finding.detail}")
            if not finding.ok:
                plan = (
                    f"would be mended (--fix): {finding.mend}"
                    if finding.mend and not fix
                    else f"to do: {finding.advice or finding.mend}"
                )
                click.echo(f"{'':17}{finding.mended or plan}")
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    sys.exit(0 if all(finding.ok or finding.mended for finding in findings) else 1)


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
def prune(older_than: str, states: Sequence[str], dry_run: bool, as_json: bool) -> None:
    """Remove old jobs: their records, and their scripts, logs and exit records on the cluster.

    Jobs that have not ended are never touched.
    """
    from clusterjob import care

    if older_than.strip().replace(".", "").isdigit():
        raise click.BadParameter(
            f"{older_than!r} has no unit; expected something like 30d or 12h",
            param_hint="--older-than",
        )
    wanted = [Status[state.upper()] for state in states or ["completed"]]
    gone, problems = care.prune(
        current_store(finish=False), parse_time(older_than), wanted, dry_run
    )
    if as_json:
        print_json(
            {
                "removed": [
                    {
                        "name": record.name,
                        "job_id": record.job_id,
                        "key": record.key,
                        "status": record.status.name,
                    }
                    for record in gone
                ],
                "dry_run": dry_run,
                "problems": problems,
            }
        )
    else:
        for record in gone:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created))
            click.echo(
                f"{record.job_id or '-':10} {record.name:20} {record.status.name:10} {when}  "
                f"{record.key[:10]}"
            )
        click.echo(f"{len(gone)} submissions {'would be' if dry_run else 'were'} removed")
    for problem in problems:
        click.echo(f"clusterjob: {problem}", err=True)
    sys.exit(1 if problems else 0)


@click.group()
def store() -> None:
    """Stores of records: copy one into another, also of another kind."""


@store.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
def copy_store(source: str, target: str) -> None:
    """Copy the records of one store into another; FROM and TO are folders, sqlite:///PATH,
    file:///FOLDER or postgresql://...

    What the target has already stays as it is there.
    """
    from clusterjob import care

    origin = _existing(source)
    destination = open_store(target)
    if origin is destination:
        raise click.UsageError("FROM and TO are the same store")
    count, new, damaged = care.copy(origin, destination)
    click.echo(f"{count} records in {origin.url}, {new} of them new to {destination.url}")
    live = len(destination.select(statuses=[Status.PENDING, Status.RUNNING]))
    if live:
        click.echo(
            f"{live} jobs have not ended: from now on use one of the two stores only", err=True
        )
    for token in damaged:
        click.echo(
            f"clusterjob: the record {token} is damaged and was not copied; see 'clusterjob "
            "doctor'",
            err=True,
        )
    sys.exit(1 if damaged else 0)


def _existing(where: str) -> Store:
    """Open a store that must be there. Raises :class:`StoreError`."""
    found = open_store(where)
    if not found.exists():
        raise StoreError(f"there is no store at {found.url}")
    return found
