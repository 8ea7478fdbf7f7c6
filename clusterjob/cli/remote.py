"""Commands about other hosts and the files there: hosts, connect, files, fetch."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from clusterjob.cli.common import as_json, find_jobs, print_columns, print_json
from clusterjob.script import current_store


@click.command()
@click.option("--offline", is_flag=True, help="Do not try to reach them.")
@as_json
def hosts(offline: bool, as_json: bool) -> None:
    """List the hosts that were used: which can be reached, by which route.

    Exit code 1 where one cannot.
    """
    from clusterjob.reach import survey

    found = survey(current_store(finish=False), offline)
    if as_json:
        print_json([item.__dict__ for item in found])
    elif not found:
        click.echo("no host was used yet")
    else:
        rows = [("HOST", "STATE", "TRANSPORT", "LAST LOGIN", "UNFINISHED JOBS", "ROUTE")]
        for item in found:
            when = (
                time.strftime("%Y-%m-%d %H:%M", time.localtime(item.connected))
                if item.connected
                else "-"
            )
            rows.append((item.host, item.state, item.transport, when, str(item.jobs), item.route))
        print_columns(rows)
        for item in found:
            if item.detail:
                click.echo(f"\n{item.detail}", err=True)
    sys.exit(0 if offline or all(item.state == "reachable" for item in found) else 1)


@click.command()
@click.argument("target", metavar="PROFILE|HOST")
@click.option(
    "--keep",
    default="12h",
    metavar="TIME",
    help="With transport = openssh: how long a login that is not used stays.",
    show_default=True,
)
@click.option("--close", is_flag=True, help="End the login that an earlier 'connect' made.")
def connect(target: str, keep: str, close: bool) -> None:
    """Log in to the host of PROFILE (or to HOST), and answer its questions once.

    With 'transport = openssh' the login stays, and all programs of this machine use it. With
    'transport = ssh' this only tries whether the login works.
    """
    from clusterjob.reach import connect as log_in
    from clusterjob.reach import transport_of

    way: Any = transport_of(target)
    stays = hasattr(way, "disconnect")
    if close:
        if stays:
            way.disconnect()
        click.echo(f"{way.host or 'this machine'}: no login is kept")
        return
    route = log_in(target, keep)
    click.echo(f"logged in: {route}" if way.host else "this machine: there is nothing to log in to")
    if way.host:
        click.echo(
            f"The login stays for {keep} after its last use; 'clusterjob connect --close "
            f"{target}' ends it."
            if stays
            else "It ends with this command. For a login that stays: 'transport = openssh' in "
            "[Attributes] of the profile."
        )


@click.command()
@click.argument("job")
@click.argument("patterns", nargs=-1, metavar="[PATTERN...]")
@as_json
def files(job: str, patterns: Sequence[str], as_json: bool) -> None:
    """List a job's files in its workdir: those of the patterns, else its outputs, else all."""
    found = [(result, file) for result in find_jobs([job]) for file in result.files(*patterns)]
    if as_json:
        print_json(
            [
                {"job_id": result.job_id, "path": file.path, "size": file.size}
                for result, file in found
            ]
        )
        return
    for _, file in found:
        click.echo(f"{file.size:12}  {file.path}")


@click.command()
@click.argument("job")
@click.argument("patterns", nargs=-1, metavar="[PATTERN...]")
@click.option("--into", metavar="FOLDER", help="Where to; by default where the job's outputs go.")
def fetch(job: str, patterns: Sequence[str], into: str | None) -> None:
    """Fetch a job's outputs now, or the files of its workdir that match PATTERNs; print their local
    paths.
    """
    for result in find_jobs([job]):
        for path in result.fetch(patterns, into):
            click.echo(path)
