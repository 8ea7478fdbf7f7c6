"""The group of commands, and how errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import sys
from collections.abc import Sequence

import click

import clusterjob
from clusterjob.cli.campaigns import campaign
from clusterjob.cli.files import fetch, files
from clusterjob.cli.hosts import connect, hosts
from clusterjob.cli.inspect import (
    backends,
    check,
    history,
    list_jobs,
    logs,
    show,
    status,
)
from clusterjob.cli.jobs import cancel, plan, render, resubmit, retry, submit, wait
from clusterjob.cli.output import NOT_FOUND, PrintableFormatter, echo
from clusterjob.cli.store import doctor, prune, store
from clusterjob.cli.sweeps import sweep
from clusterjob.errors import ClusterJobError, JobNotFoundError, StoreError
from clusterjob.script import JobScript
from clusterjob.store import open_store

# what is of no use without a store
_READERS = frozenset(
    [
        "list",
        "status",
        "history",
        "show",
        "logs",
        "cancel",
        "wait",
        "resubmit",
        "retry",
        "files",
        "fetch",
        "doctor",
        "prune",
        "campaign",
    ]
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(clusterjob.__version__, prog_name="clusterjob")
@click.option(
    "--store",
    "where",
    metavar="STORE",
    help="A folder or a URL; by default .clusterjob here or above, or $CLUSTERJOB_STORE.",
)
@click.pass_context
def cli(context: click.Context, where: str | None) -> None:
    """Batch jobs, written once and run under any scheduler.

    A job is named by its job id, its name, or the start of its key
    (six characters and more).

    Exit codes: 0 all is well (asked about jobs: all completed); 1 an error, or a job failed or was
    cancelled; 2 wrong usage; 3 jobs have not ended; 4 there is no such job; 5 a campaign's script
    is to be run.
    """
    if where is not None:
        JobScript.cache_folder = where
    is_named = where is not None or os.environ.get("CLUSTERJOB_STORE")
    if is_named and context.invoked_subcommand in (*_READERS, "plan"):
        store = open_store(where)
        if not store.exists():
            missing = (
                f"there is no store {store.url}: see to its name (submit makes one)"
            )
            if context.invoked_subcommand in _READERS:
                raise StoreError(missing)
            echo(missing, err=True)


for command in (
    submit,
    sweep,
    campaign,
    render,
    plan,
    list_jobs,
    status,
    history,
    show,
    logs,
    cancel,
    wait,
    resubmit,
    retry,
    files,
    fetch,
    backends,
    check,
    connect,
    hosts,
    doctor,
    prune,
    store,
):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line, and return its exit code; errors are one message."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before we began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    gc.freeze()  # what was imported stays
    gc.set_threshold(50_000)  # long lists are no garbage
    _print_warnings()
    try:
        code = _run_command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has had enough
        code = 1
    except OSError as error:
        echo(f"clusterjob: {error}", err=True)
        code = 1
    except Exception as error:  # a mistake of ours
        if os.environ.get("CLUSTERJOB_TRACEBACK"):
            raise
        echo(
            f"clusterjob: {type(error).__name__}: {error}. That is a mistake in clusterjob: please "
            "report it, with what is printed under CLUSTERJOB_TRACEBACK=1",
            err=True,
        )
        code = 1
    _let_go_of_output()
    return code


def _run_command(arguments: Sequence[str]) -> int:
    try:
        code = cli.main(list(arguments), "clusterjob", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except click.exceptions.Abort:
        echo("interrupted; jobs that were submitted go on", err=True)
        return 130
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        echo(said.getvalue().rstrip("\n"), err=True)
        return error.exit_code
    except ClusterJobError as error:
        echo(f"clusterjob: {error}", err=True)
        return NOT_FOUND if isinstance(error, JobNotFoundError) else 1


def _print_warnings() -> None:
    log = logging.getLogger("clusterjob")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter())
        log.addHandler(handler)


def _let_go_of_output() -> None:
    """Where standard output cannot be written, keep Python from trying to at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nothing, contextlib.suppress(OSError):
            os.dup2(nothing.fileno(), sys.stdout.fileno())
