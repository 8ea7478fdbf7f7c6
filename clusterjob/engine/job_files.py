"""The files of a job: its script, its auxiliary scripts, its inputs."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from clusterjob.backend import AfterForm, Script
from clusterjob.engine.scheduler import Scheduler
from clusterjob.errors import CommandError
from clusterjob.files import Upload, programs_in
from clusterjob.plain_files import foreign_link
from clusterjob.store import Record

RUNS = ".clusterjob-runs"
BY_HAND = "byhand"  # in place of a token


def new_batch() -> str:
    """Name the folder of a batch: the time, for people, and a part that is new."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def script_path(scheduler: Scheduler, record: Record) -> str:
    """Return the absolute path of a job's script.

    It is the ``filename`` that the user set, or its place in the folder of the batch.
    """
    filename = record.spec.filename
    if filename:
        return os.path.join(record.workdir, filename)
    return f"{record.folder}/{record.token}.{scheduler.backend.general.extension}"


def relative_script_path(scheduler: Scheduler, record: Record) -> str:
    """Name a script from its workdir where it is below it.

    Such names hold no characters that a scheduler stumbles over.
    """
    prefix = record.workdir.rstrip("/") + "/"
    return script_path(scheduler, record).removeprefix(prefix)


def render_record(scheduler: Scheduler, record: Record) -> str:
    """Render the script of a record, as it is or will be submitted."""
    general = scheduler.backend.general
    is_array = record.tasks is not None and general.array_task
    suffix = f".{general.array_task}" if is_array else ""
    log = f"{RUNS}/{os.path.basename(record.folder)}/{record.token}{suffix}"
    return _render(
        scheduler, record, {"stdout": f"{log}.out", "stderr": f"{log}.err"}
    )


def render_by_hand(scheduler: Scheduler, record: Record) -> str:
    """Render a script of the same job that a person submits."""
    record.folder, record.token = f"{record.workdir}/{RUNS}/{BY_HAND}", BY_HAND
    return _render(scheduler, record, {})


def _render(scheduler: Scheduler, record: Record, logs: Mapping[str, str]) -> str:
    spec, general = record.spec, scheduler.backend.general
    resources = {**logs, **spec.resources}
    given = {name: value for name, value in resources.items() if value != ""}
    guards: list[str] = []
    if general.after is not AfterForm.NATIVE:
        is_any = general.after is AfterForm.GUARDED
        parents = [item for item in spec.waits_for if is_any or item.is_array]
        guards = [path for parent in parents for path in parent.records]
    script = Script(
        token=record.token,
        folder=record.folder,
        workdir=record.workdir,
        body=spec.body,
        shell=spec.shell,
        setup=spec.setup,
        guards=guards,
        inputs=[(item.path, item.digest) for item in spec.inputs if item.digest],
        after=[parent.job_id for parent in spec.waits_for],
        attributes=spec.attributes,
        by_hand=record.token == BY_HAND,
    )
    return scheduler.renderer.render(given, script)


def program_paths(record: Record) -> list[str]:
    """Return the absolute paths of the programs that a body calls and that are no inputs.

    Those in home folders are left out: only their host knows where they are.
    """
    spec = record.spec
    inputs = {item.path for item in spec.inputs} | set(spec.aux)
    found = []
    for path in programs_in(spec.body):
        plain = os.path.normpath(path)
        if plain not in inputs and not path.startswith("~"):
            found.append(os.path.normpath(os.path.join(record.workdir, path)))
    return found


def uploads_of(
    scheduler: Scheduler, records: Iterable[Record], again: bool = False
) -> list[Upload]:
    """Return the files of jobs that are not in place already; a file that several share once.

    ``again``: an earlier try may have written them.
    """
    files: dict[str, Upload] = {}
    for record in records:
        for file in _job_uploads(scheduler, record, again):
            files[file.path] = file
    return list(files.values())


def _job_uploads(
    scheduler: Scheduler, record: Record, again: bool
) -> Iterable[Upload]:
    spec = record.spec
    yield Upload(
        script_path(scheduler, record),
        render_record(scheduler, record),
        executable=True,
        replace=bool(spec.filename) or again,
    )
    for name, text in spec.aux.items():
        path = _below_workdir(scheduler, record, name)
        yield Upload(path, text, executable=True, replace=True)
    for item in spec.inputs:
        if not item.digest:
            continue  # a job before this one makes it
        target = _below_workdir(scheduler, record, item.path)
        is_there = not scheduler.transport.host and _same_file(item.source, target)
        if not is_there:
            yield Upload(target, Path(item.source), replace=True, digest=item.digest)


def _below_workdir(scheduler: Scheduler, record: Record, path: str) -> str:
    """Return where a file goes; on this machine not through links of other users.

    Raises :class:`CommandError`.
    """
    target = os.path.join(record.workdir, path)
    if not scheduler.transport.host:
        link = foreign_link(record.workdir, target)
        if link:
            raise CommandError(
                f"{target} cannot be written: {link} is a link of another user's, and may lead "
                "anywhere",
                hint="Remove it, or work in a folder of your own.",
            )
    return target


def _same_file(first: str, second: str) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)
