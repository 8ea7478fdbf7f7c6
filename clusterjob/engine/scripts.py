"""The scripts that go to a scheduler's host: what is called is in the ``.sh`` files beside this."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterjob.backend import Backend, job_variable_patterns
from clusterjob.shell import (
    ExitCode,
    in_portions,
    load_shell,
    quote,
    quote_all,
    run_marked,
    start_replies,
)

_CLEAN, _SUBMIT, _LOOK = (
    Path(__file__).parent / f"{name}.sh" for name in ("clean", "submit", "look")
)
# dates that are printed without a zone are then of a known one
_UTC = "TZ=UTC0; export TZ"
_FILES = 500  # files of one command line
_OWN_VARIABLES = (
    "CLUSTERJOB_ID",
    "CLUSTERJOB_NAME",
    "CLUSTERJOB_WORKDIR",
    "CLUSTERJOB_ARRAY_INDEX",
)


@dataclass(frozen=True)
class Ticket:
    """One job of a batch on its way to the scheduler."""

    token: str
    workdir: str
    folder: str  # of the batch, absolute
    script: str  # relative to the workdir, or absolute
    # of logs that the user named: no scheduler makes them
    log_folders: tuple[str, ...] = ()
    # folders of other batches whose jobs are elements of it, absolute
    folders: tuple[str, ...] = ()


def clean_environment(backend: Backend) -> str:
    """Return shell text that unsets what a surrounding job, of any scheduler, has set."""
    patterns = dict.fromkeys(
        [*backend.general.job_variables, *job_variable_patterns()]
    )
    keep = [word[1:] for word in patterns if word.startswith("!")]
    unset = [word for word in patterns if not word.startswith("!")]
    text = load_shell(_CLEAN)
    text = text.replace("@KEEP@", "|".join(keep) or "''")
    return text.replace("@UNSET@", "|".join([*unset, *_OWN_VARIABLES]))


def submission_script(
    backend: Backend,
    command: str,
    tickets: Sequence[Ticket],
    mark: str,
    batch: str = "",
) -> str:
    """Return the script that submits a batch with ``command``, a few jobs at a time.

    With ``batch``, a command that takes many jobs, it is all at once.
    """
    workers = max(1, min(backend.limits.submit_parallel, len(tickets)))
    folders = list(dict.fromkeys(ticket.folder for ticket in tickets))
    # a simple command is redirected without a process of its own; of others we are kept apart
    is_simple = not re.search(r"[|&;<>()\n]", command)
    lines = [
        clean_environment(backend),
        *_requirement(backend),
        start_replies(mark),
        f"cj_scheduler_submit() {{\n{command}\n}}"
        if is_simple
        else f"cj_scheduler_submit() {{\n( {command}\n)\n}}",
        load_shell(_SUBMIT),
        f"cj_leave_all() {{ cj_leave {quote_all(folders)}; }}",
        *(f"cj_lock {quote(folder)}" for folder in folders),
    ]
    if batch:
        lines.append(f"cj_scheduler_submit_batch() {{\n{batch}\n}}")
        lines += _batch_lines(tickets)
    else:
        for worker in range(workers):
            lines += _worker_lines(worker, tickets[worker::workers])
    lines.append(f"cj_report {quote_all(folders)}")
    return "\n".join(lines)


def _requirement(backend: Backend) -> Iterable[str]:
    """Yield what ends the script where the scheduler lacks something."""
    if backend.commands.require:
        yield f"(\n{backend.commands.require}\n) || exit {ExitCode.UNMET:d}"


def _batch_lines(tickets: Sequence[Ticket]) -> Iterable[str]:
    """Yield what submits all at once: only jobs of which a receipt can be written are."""
    yield "cj_worker 0"
    logs = _log_folders(tickets)
    others: dict[tuple[str, str], list[str]] = {}
    for ticket in tickets:
        others.setdefault((ticket.workdir, ticket.folder), []).extend(ticket.folders)
    numbers: dict[tuple[str, str], int] = {}
    members: dict[int, list[str]] = {}
    for ticket in tickets:
        place = (ticket.workdir, ticket.folder)
        if place not in numbers:
            number = numbers[place] = len(numbers)
            words = quote_all([*place, *logs.get(place, ())])
            steps = " && ".join([f"cj_enter {words}", *_preparations(others[place])])
            yield f"if ( {steps} ); then cj_ready_{number}=:"
            yield f"else cj_ready_{number}=false; cj_bad=1; fi"
        members.setdefault(numbers[place], []).append(ticket.token)
    yield "set --"
    # they are queued in the order of the batch
    for portion in in_portions(tickets, _FILES):
        runs = itertools.groupby(portion, lambda item: (item.workdir, item.folder))
        for place, jobs in runs:
            words = " ".join(
                quote_all([job.token, job.workdir, job.script]) for job in jobs
            )
            yield f'! $cj_ready_{numbers[place]} || set -- "$@" {words}'
        yield 'cj_submit_batch "$@"; set --'
    for place, number in numbers.items():
        tokens = " ".join(members[number])
        yield f"( cj_enter_again {quote_all(place)}; cj_take {tokens} )"


def _log_folders(tickets: Iterable[Ticket]) -> dict[tuple[str, str], dict[str, None]]:
    """Return the folders of logs that the user named, by the places of their jobs."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for ticket in tickets:
        if ticket.log_folders:
            place = found.setdefault((ticket.workdir, ticket.folder), {})
            place.update(dict.fromkeys(ticket.log_folders))
    return found


def _preparations(folders: Sequence[str]) -> list[str]:
    """Return the commands that make folders of batches ready for their jobs."""
    both = [path for folder in folders for path in (os.path.dirname(folder), folder)]
    wanted = list(dict.fromkeys(both))
    return [
        f"cj_prepare {quote_all(portion)}" for portion in in_portions(wanted, _FILES)
    ]


def _worker_lines(number: int, tickets: Sequence[Ticket]) -> Iterable[str]:
    logs = _log_folders(tickets)
    yield f"( cj_worker {number}"
    here: tuple[str, str] | None = None
    for ticket in tickets:
        if (ticket.workdir, ticket.folder) != here:
            here = (ticket.workdir, ticket.folder)
            yield f"cj_enter {quote_all([*here, *logs.get(here, ())])}"
        for step in _preparations(ticket.folders):
            yield f"{step} || exit {ExitCode.FOLDER_UNUSABLE:d}"
        yield f"cj_submit {ticket.token} {quote(ticket.script)}"
    yield ") &"
    yield 'cj_workers="$cj_workers $!"'


def find_script(
    backend: Backend,
    command: str,
    folders: Iterable[str],
    owners: Mapping[str, Sequence[str]],
    mark: str,
) -> str:
    """Return the script that looks for submissions in ``folders``.

    ``owners`` are tokens of jobs, by their folders, whose exit records may say what they ran as. It
    reads receipts, the list of ``command``, and exit records. The list comes before the exit
    records: a job that ends between the two is in one of them.
    """
    lines = [
        clean_environment(backend),
        _UTC,
        start_replies(mark),
        load_shell(_LOOK),
        "cj_part receipts",
        f"cj_read_receipts {quote_all(folders)}",
        run_marked(command, "find"),
        "cj_part owners",
    ]
    for folder, names in owners.items():
        for portion in in_portions([f"{name}*.exit" for name in names], _FILES):
            lines.append(f"cj_read_owners {quote_all([folder, *portion])}")
    return "\n".join([*lines, "cj_part done"])


def listing_script(backend: Backend, commands: Iterable[str], mark: str) -> str:
    """Return the script that lists the user's jobs."""
    lines = [clean_environment(backend), _UTC, start_replies(mark)]
    for number, command in enumerate(commands):
        lines.append(run_marked(command, f"active-{number}"))
    return "\n".join(lines)


def ended_script(
    backend: Backend,
    runs: Mapping[str, Sequence[str]],
    commands: Iterable[str],
    mark: str,
    going: Collection[str] = (),
) -> str:
    """Return the script that reads exit records, and asks accounting with ``commands``.

    ``runs`` are the names of the records, without ``.exit``, by their folders; those of jobs that
    may not have ended are ``going``.
    """
    lines = [clean_environment(backend), _UTC, start_replies(mark), load_shell(_LOOK)]
    for number, (folder, names) in enumerate(runs.items()):
        workdir = os.path.dirname(os.path.dirname(folder))
        lines.append(f"( cj_open_records {number} {quote_all([folder, workdir])}")
        for command, wanted in (("cj_read_ended", False), ("cj_read", True)):
            files = [f"{name}.exit" for name in names if (name in going) is wanted]
            for portion in in_portions(files, _FILES):
                lines.append(f"{command} {' '.join(portion)}")
        lines.append(") 2>/dev/null")
    for number, command in enumerate(commands):
        lines.append(run_marked(command, f"finished-{number}"))
    return "\n".join(lines)


def cancel_script(
    backend: Backend,
    commands: Iterable[str],
    mark: str,
    packed: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the script that cancels jobs, and those in packs by their files and ids."""
    lines = [clean_environment(backend), start_replies(mark)]
    lines += [run_marked(command, "cancel") for command in commands]
    if packed:
        lines.append(load_shell(_LOOK))
        for portion in in_portions(packed, _FILES):
            words = [word for pair in portion for word in pair]
            lines.append(f"cj_cancel_in_pack {quote_all(words)} || exit")
        lines.append("cj_part done")
    return "\n".join(lines)


def removal_script(
    folders: Mapping[str, Sequence[str]], needed: Collection[str]
) -> str:
    """Return the script that removes the files of jobs, given by token, from their folders.

    Folders that are ``needed`` stay though they are empty.
    """
    lines = [start_replies("-"), load_shell(_LOOK)]
    for folder, tokens in folders.items():
        patterns = [f"{token}{end}*" for token in tokens for end in "._"]
        for portion in in_portions(patterns, _FILES):
            lines.append(f"cj_remove {quote_all([folder, *portion])}")
        if folder not in needed:
            lines.append(f"cj_tidy {quote(folder)}")
    return "\n".join([*lines, "cj_end_removing"])
