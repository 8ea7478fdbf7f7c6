"""The options by which commands on many jobs say which: the same for all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypedDict, TypeVar

import click

from clusterjob.cli.output import echo
from clusterjob.errors import SettingsError
from clusterjob.selection import Selection, check_reasons
from clusterjob.status import Reason, Status
from clusterjob.units import parse_time

Command = TypeVar("Command", bound=Callable[..., Any])


class SelectionOptions(TypedDict):
    """The values of :func:`selection_options`."""

    states: Sequence[str]
    reasons: Sequence[str]
    names: Sequence[str]
    campaign: str | None
    tags: Sequence[str]
    user: str | None
    since: str | None
    until: str | None


_OPTIONS = [
    click.option(
        "-s",
        "--state",
        "states",
        multiple=True,
        type=click.Choice(
            [state.name.lower() for state in Status], case_sensitive=False
        ),
        help="Only jobs in this state; may be repeated, like the next three.",
    ),
    click.option(
        "--reason",
        "reasons",
        multiple=True,
        type=click.Choice([reason.value for reason in Reason]),
        help="Only jobs that failed or were cancelled for this reason.",
    ),
    click.option(
        "--name",
        "names",
        multiple=True,
        metavar="PATTERN",
        help="Only jobs of such a name: 'sim-*'.",
    ),
    click.option("--tag", "tags", multiple=True, help="Only jobs with this tag."),
    click.option("--campaign", metavar="NAME", help="Only jobs of this campaign."),
    click.option("--user", help="Only jobs that this user submitted."),
    click.option(
        "--since",
        metavar="TIME",
        help="Only jobs submitted since: 2h (ago), 2026-11-22, 2026-11-22T09:30.",
    ),
    click.option("--until", metavar="TIME", help="Only jobs submitted before."),
]


def selection_options(command: Command) -> Command:
    """Add the options that say which jobs are meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_selection(options: SelectionOptions) -> Selection:
    """Return what the options ask for. Raises :class:`SettingsError`."""
    words = {
        "campaign": [options["campaign"]],
        "tag": options["tags"],
        "name": options["names"],
        "user": [options["user"]],
    }
    for option, given in words.items():
        if "" in given:
            raise SettingsError(
                f"--{option} is empty, and would mean jobs that nobody named: leave it out, or "
                "give it a word"
            )
    states = [Status[word.upper()] for word in options["states"]]
    return Selection(
        states=frozenset(states) if states else None,
        reasons=check_reasons(options["reasons"]),
        names=tuple(options["names"]),
        campaign=options["campaign"],
        tags=frozenset(options["tags"]),
        user=options["user"],
        since=_read_moment("since", options["since"]),
        until=_read_moment("until", options["until"]),
    )


def _read_moment(option: str, text: str | None) -> float | None:
    """Return a moment in s since the epoch: a date of this machine's zone, or how long ago."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        if ":" in text:  # 14:40 is a time of the day to a person
            raise SettingsError(text)
        return time.time() - parse_time(text)
    except SettingsError:
        raise SettingsError(
            f"--{option} {text}: expected how long ago (30m, 2h, 3d), or a date "
            "(2026-11-22, 2026-11-22T09:30)"
        ) from None


def words_given(words: Sequence[str]) -> list[str]:
    """Return the words that name jobs; ``-`` stands for the first word of each line of standard
    input. Where that is empty there is nothing to do.
    """
    found: list[str] = []
    for word in words:
        if word == "-":
            lines = (line.split() for line in sys.stdin)
            found += [line[0] for line in lines if line]
        else:
            found.append(word)
    if words and not found:
        echo("no jobs on standard input", err=True)
        sys.exit(0)
    return found
