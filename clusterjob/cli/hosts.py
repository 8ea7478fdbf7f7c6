"""Commands about other hosts: hosts, connect."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from clusterjob.cli.output import (
    as_json,
    echo,
    format_time,
    print_columns,
    print_json,
)
from clusterjob.script import default_session
from clusterjob.transport import RemoteTransport

if TYPE_CHECKING:
    from clusterjob.admin import HostReport


@click.command()
@click.option("--offline", is_flag=True, help="Do not try to reach them.")
@as_json
def hosts(offline: bool, as_json: bool) -> None:
    """List the hosts that were used: which can be reached, by which route.

    Exit code 1 where one cannot.
    """
    from clusterjob.admin import survey

    found = survey(default_session(), offline)
    if as_json:
        print_json([vars(item) for item in found])
    elif not found:
        echo("no host was used yet")
    else:
        _print_hosts(found)
    all_well = all(item.state == "reachable" for item in found)
    sys.exit(0 if offline or all_well else 1)


def _print_hosts(found: Sequence[HostReport]) -> None:
    headings = (
        "HOST",
        "STATE",
        "TRANSPORT",
        "LAST LOGIN",
        "UNFINISHED JOBS",
        "ROUTE",
    )
    rows = []
    for item in found:
        when = format_time(item.connected or None, seconds=False) or "-"
        rows.append(
            (item.host, item.state, item.transport, when, str(item.jobs), item.route)
        )
    print_columns(headings, rows)
    for item in found:
        if item.detail:
            echo(f"\n{item.detail}", err=True)


@click.command()
@click.argument("target", metavar="PROFILE|HOST")
@click.option(
    "--keep",
    default="12h",
    metavar="TIME",
    help="With transport = openssh: how long a login that is not used stays.",
    show_default=True,
)
@click.option(
    "--close", is_flag=True, help="End the login that an earlier 'connect' made."
)
def connect(target: str, keep: str, close: bool) -> None:
    """Log in to the host of PROFILE (or to HOST), and answer its questions once.

    With 'transport = openssh' the login stays, and all programs of this machine use it. With
    'transport = ssh' this only tries whether the login works.
    """
    from clusterjob.admin import connect as log_in
    from clusterjob.admin import transport_of

    transport = transport_of(default_session(), target)
    if not isinstance(transport, RemoteTransport):
        what = "no login is kept" if close else "there is nothing to log in to"
        echo(f"this machine: {what}")
        return
    if close:
        transport.disconnect()
        echo(f"{transport.host}: the login was ended; none is kept")
        return
    echo(f"logged in: {log_in(target, keep)}")
    if transport.outlives_process:
        echo(
            f"The login stays for {keep} after its last use; "
            f"'clusterjob connect --close {target}' ends it."
        )
    else:
        echo(
            "It ends with this command. For a login that stays: 'transport = openssh' in "
            "[Attributes] of the profile."
        )
