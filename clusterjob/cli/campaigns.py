"""Commands on campaigns."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from clusterjob.campaign import Outcome, campaign_names, open_campaign
from clusterjob.cli.output import (
    NEEDS_SCRIPT,
    UNFINISHED,
    as_json,
    echo,
    find_jobs,
    print_json,
    print_table,
)
from clusterjob.cli.selecting import words_given
from clusterjob.script import default_session
from clusterjob.status import Status
from clusterjob.units import parse_time


@click.group()
def campaign() -> None:
    """Campaigns: many jobs under a name, their order and their limits.

    Exit codes of show and continue: 0 all completed; 1 some failed or were cancelled, and there is
    nothing more to do; 3 it is not over: 'continue' goes on; 5 its script is to be run, which has a
    function that is to be called.
    """


@campaign.command("list")
@as_json
def list_campaigns(as_json: bool) -> None:
    """List the campaigns of the store."""
    session = default_session()
    found = {
        name: open_campaign(name, session).outcome for name in campaign_names(session)
    }
    if as_json:
        print_json([_row(name, outcome) for name, outcome in found.items()])
        return
    for name, outcome in found.items():
        echo(f"{name}: {outcome}")


@campaign.command()
@click.argument("name")
@click.option("--jobs", is_flag=True, help="A line for each of its jobs, too.")
@as_json
def show(name: str, jobs: bool, as_json: bool) -> None:
    """Say how far a campaign has come, as the store knows."""
    found = open_campaign(name)
    outcome = found.outcome
    if as_json:
        print_json(_row(name, outcome))
    else:
        echo(f"{name}: {outcome}")
        if jobs:
            print_table(found.results)
    _exit(outcome)


@campaign.command("continue")
@click.argument("name")
@click.option(
    "--timeout",
    metavar="TIME",
    help="Drive it for this long: 30s, 5m, 2h; 0: one step.",
)
def continue_campaign(name: str, timeout: str | None) -> None:
    """Drive a campaign on without its script, as far as no function of it is needed."""
    found = open_campaign(name)
    if timeout == "0":
        outcome = found.step()
    else:
        seconds = None if timeout is None else parse_time(timeout)
        outcome = found.run(progress=sys.stderr.isatty(), timeout=seconds)
    echo(f"{name}: {outcome}")
    _exit(outcome)


@campaign.command("cancel")
@click.argument("name")
def cancel_campaign(name: str) -> None:
    """Cancel what has not ended of a campaign; what was not submitted yet never is."""
    found = open_campaign(name)
    found.cancel()
    echo(f"{name}: {found.outcome}")


@campaign.command()
@click.argument("name")
def retry(name: str) -> None:
    """Have the jobs that failed or were cancelled submitted again; 'continue' does that."""
    anew = open_campaign(name).retry()
    echo(f"{name}: {len(anew)} jobs are to be submitted again; 'continue' does that")


@campaign.command()
@click.argument("name")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
def remove(name: str, jobs: Sequence[str]) -> None:
    """Put jobs out of a campaign: they count no more, and stay in the store.

    JOB may be - for ids on standard input. What was not submitted yet never is; what runs is to be
    cancelled first.
    """
    found = open_campaign(name)
    found.remove(find_jobs(words_given(jobs)))
    echo(f"{name}: {found.outcome}")


def _row(name: str, outcome: Outcome) -> dict[str, object]:
    return {
        "name": name,
        "counts": {status.name: outcome.counts.get(status, 0) for status in Status},
        "held": outcome.held,
        "is_over": outcome.is_over,
        "open_steps": outcome.open_steps,
    }


def _exit(outcome: Outcome) -> None:
    has_failed = outcome.counts.get(Status.FAILED) or outcome.counts.get(
        Status.CANCELLED
    )
    if not outcome.is_over:
        sys.exit(UNFINISHED)
    if outcome.open_steps and not has_failed:
        sys.exit(NEEDS_SCRIPT)
    sys.exit(0 if outcome.is_complete else 1)
