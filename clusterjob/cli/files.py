"""Commands about the files of jobs: files, fetch."""

from __future__ import annotations

from collections.abc import Sequence

import click

from clusterjob.cli.output import as_json, echo, find_jobs, print_json


@click.command()
@click.argument("job")
@click.argument("patterns", nargs=-1, metavar="[PATTERN...]")
@as_json
def files(job: str, patterns: Sequence[str], as_json: bool) -> None:
    """List a job's files in its workdir: those of the patterns, else its outputs, else all."""
    found = [
        (result, file)
        for result in find_jobs([job])
        for file in result.files(*patterns)
    ]
    if as_json:
        rows = [
            {"job_id": result.job_id, "path": file.path, "size": file.size}
            for result, file in found
        ]
        print_json(rows)
        return
    for _, file in found:
        echo(f"{file.size:12}  {file.path}")


@click.command()
@click.argument("job")
@click.argument("patterns", nargs=-1, metavar="[PATTERN...]")
@click.option(
    "--into",
    metavar="FOLDER",
    help="Where to; by default where the job's outputs go.",
)
def fetch(job: str, patterns: Sequence[str], into: str | None) -> None:
    """Fetch a job's outputs now, or the files of its workdir that match PATTERNs.

    Print their local paths.
    """
    for result in find_jobs([job]):
        for path in result.fetch(patterns, into):
            echo(str(path))
