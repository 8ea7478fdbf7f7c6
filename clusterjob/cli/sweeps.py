"""Many jobs of one script: sweep."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clusterjob.cli.options import ScriptOptions, make_job, read_pairs, script_options
from clusterjob.cli.output import as_json, describe, echo, exit_code, print_json_rows
from clusterjob.errors import SettingsError
from clusterjob.script import plan, submit
from clusterjob.sweeping import parse_value
from clusterjob.sweeping import sweep as make_sweep

if TYPE_CHECKING:
    from typing_extensions import Unpack


@click.command()
@script_options
@click.option(
    "--rows",
    metavar="CSV",
    help="A file with a row of parameters for each job, named by its first line.",
)
@click.option(
    "--zip", "zipped", is_flag=True, help="The first of each, the second of each, ..."
)
@click.option(
    "--pack",
    metavar="N|TIME",
    help="Run so many in one of the scheduler's jobs (50), or so much of their time (30m).",
)
@click.option(
    "--pack-slots", type=int, default=1, help="So many of a pack at a time."
)
@click.option("--tag", "tags", multiple=True, help="As in submit.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--force", is_flag=True, help="As in submit.")
@click.option("--no-retry", is_flag=True, help="As in submit.")
@click.option("--wait", is_flag=True, help="Wait for the end of all jobs.")
@as_json
def sweep(
    rows: str | None,
    zipped: bool,
    pack: str | None,
    pack_slots: int,
    tags: Sequence[str],
    dry_run: bool,
    force: bool,
    no_retry: bool,
    wait: bool,
    as_json: bool,
    **options: Unpack[ScriptOptions],
) -> None:
    """Submit SCRIPT once for each combination of parameters; print ids and names.

    \b
    -d T=10,20,50            values, with commas between them
    -d lambda_a=@values.txt  values in a file, one a line
    """
    pairs = read_pairs(options["params"])
    values = {name: _values(text) for name, text in pairs.items()}
    # what stands for them: that the script is a template
    blank = ScriptOptions(**{**options, "params": [f"{name}=" for name in values]})
    job = make_job(blank)
    if rows is not None and not values:
        job.__dict__["verbatim"] = options["verbatim"]
    for name in values:
        job.params.pop(name, None)
    jobs = list(make_sweep(job, rows, zipped=zipped, **values))
    if dry_run:
        planned = plan(jobs, force=force, retry=not no_retry)
        echo(str(planned))
        return
    results = submit(
        jobs,
        force=force,
        retry=not no_retry,
        pack=int(pack) if pack and pack.isdecimal() else pack,
        pack_slots=pack_slots,
        tags=tags,
    )
    if wait:
        results.wait()
    if as_json:
        print_json_rows(
            {**describe(result), **_params(result.params)} for result in results
        )
    else:
        for result in results:
            echo(f"{result.job_id or '-'} {result.name}")
    if wait:
        sys.exit(exit_code(results))


def _params(params: Mapping[str, object]) -> dict[str, object]:
    return {"params": dict(params)}


def _values(text: str) -> list[object]:
    """Return the values of a parameter: with commas between them, or the lines of ``@FILE``."""
    if not text.startswith("@"):
        return [parse_value(part.strip()) for part in text.split(",")]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the values in {text[1:]} cannot be read: {error}"
        ) from None
    return [parse_value(line.strip()) for line in lines if line.strip()]
