"""The files of a job: its script, its auxiliary scripts, its inputs."""

from __future__ import annotations

import os
import secrets
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clusterjob.backend import (
    AfterForm,
    ArrayOfJobs,
    Backend,
    Guard,
    Script,
    format_array,
)
from clusterjob.engine.bundles import (
    Unit,
    array_name,
    bundle_of,
    pack_id,
    pack_of,
    units_of,
)
from clusterjob.engine.scheduler import Scheduler
from clusterjob.errors import CommandError, ResourcesNotSupportedError
from clusterjob.files import Upload, encode, programs_in
from clusterjob.plain_files import foreign_link
from clusterjob.shell import quote
from clusterjob.status import Dependency
from clusterjob.store import Parent, Record

RUNS = ".clusterjob-runs"
BY_HAND = "byhand"  # in place of a token
_NOWHERE = "/dev/null"


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
    return f"{record.folder}/{record.run_token}.{scheduler.backend.general.extension}"


def submitted_path(scheduler: Scheduler, unit: Unit) -> str:
    """Return the path of the script that the scheduler is given, from the workdir where it is
    below it: such names hold no characters that a scheduler stumbles over.
    """
    if unit.is_array:
        path = _array_path(scheduler, unit)
    else:
        path = script_path(scheduler, unit.members[0])
    return path.removeprefix(unit.workdir.rstrip("/") + "/")


def _array_path(scheduler: Scheduler, unit: Unit) -> str:
    extension = scheduler.backend.general.extension
    return f"{unit.folder}/{array_name(unit.token)}.{extension}"


def render_record(scheduler: Scheduler, record: Record) -> str:
    """Render the script of a record, as it is or will be submitted."""
    if record.bundle is not None:
        return "".join(("#!/bin/sh\n", *_render_element(scheduler, record)))
    general = scheduler.backend.general
    is_array = record.tasks is not None and general.array_task
    suffix = f".{general.array_task}" if is_array else ""
    log = f"{RUNS}/{os.path.basename(record.folder)}/{record.run_token}{suffix}"
    return _render(
        scheduler, record, {"stdout": f"{log}.out", "stderr": f"{log}.err"}
    )


def _render_element(scheduler: Scheduler, record: Record) -> tuple[str, str]:
    script = _script(scheduler.backend, record)
    return scheduler.renderer.render_element(record.resources, script)


def render_by_hand(scheduler: Scheduler, record: Record) -> str:
    """Render a script of the same job that a person submits."""
    record.folder, record.token = f"{record.workdir}/{RUNS}/{BY_HAND}", BY_HAND
    return _render(scheduler, record, {})


def _array_files(scheduler: Scheduler, unit: Unit, again: bool) -> Iterable[Upload]:
    """Yield the script of an array of single jobs, and the file with the scripts of these.

    Its name tells its content: an array that was submitted before finds what it was made for.
    """
    scripts = [_render_element(scheduler, record) for record in unit.members]
    commons = list(dict.fromkeys(common for _, common in scripts))
    # one for all is in the script of the array; a pack reads it once
    is_inside = len(commons) == 1 and not unit.members[0].is_packed
    texts = [] if is_inside else commons
    shared = dict(zip(commons, _places(texts, 1), strict=False))
    own = [text for text, _ in scripts]
    begin = 1 + sum(text.count("\n") for text in texts)
    parts: dict[int, list[tuple[int, ...]]] = {}
    for record, (_, common), place in zip(
        unit.members, scripts, _places(own, begin), strict=True
    ):
        found = bundle_of(record)
        where = (found.position, *place, *shared.get(common, ()))
        parts.setdefault(found.element, []).append(where)
    content = "".join([*texts, *own])
    sum_of_content = f"{zlib.crc32(encode(content)):08x}"
    file = f"{unit.folder}/{array_name(unit.token)}-{sum_of_content}.parts"
    inside = commons[0] if is_inside else ""
    script = _render_array(scheduler, unit, file, parts, inside)
    path = _array_path(scheduler, unit)
    yield Upload(file, content, replace=again)
    yield Upload(path, script, executable=True, replace=again)


def _places(texts: Iterable[str], begin: int) -> Iterable[tuple[int, int]]:
    """Yield the first and the last line that each of the texts has in a file."""
    for text in texts:
        end = begin + text.count("\n")
        yield begin, end - 1
        begin = end


def _render_array(
    scheduler: Scheduler,
    unit: Unit,
    file: str,
    parts: Mapping[int, Sequence[tuple[int, ...]]],
    common: str,
) -> str:
    """Render the script of an array of single jobs, whose own are in a file."""
    first = unit.members[0]
    asked: Mapping[str, Any] = first.resources
    pack = pack_of(first) if first.is_packed else None
    if pack is not None:
        asked = pack.resources(asked, max(map(len, parts.values())))
    resources = {
        **asked,
        "jobname": unit.name(scheduler.backend),
        "stdout": _NOWHERE,
        "stderr": _NOWHERE,
        # what is more than there are jobs for ends at once
        "array": f"1-{max(*parts, scheduler.backend.bundles.least)}",
    }
    array = ArrayOfJobs(
        token=unit.token,
        file=file,
        base=f"{unit.folder}/{array_name(unit.token)}",
        parts=parts,
        common=common,
        after=_waits(scheduler.backend, first.waits_for),
        attributes=first.spec.attributes,
        pack=pack is not None,
        slots=pack.slots if pack is not None else 1,
        limit=first.resources.get("time"),
    )
    return scheduler.renderer.render_array(resources, array)


def _waits(
    backend: Backend, parents: Iterable[Parent]
) -> dict[Dependency, list[str]]:
    """Return what the scheduler is told to wait for.

    What it cannot tell apart, and elements that it cannot wait for, it waits for the end of; the
    job itself looks then. Raises :class:`ResourcesNotSupportedError`.
    """
    found: dict[Dependency, list[str]] = {}
    for parent in parents:
        if parent.over:
            continue
        how = parent.how
        is_late = parent.is_element and not backend.bundles.after
        must_look = _must_look(backend, parent) and how is not Dependency.AFTER_OK
        if must_look or is_late or parent.is_packed:
            how = Dependency.AFTER_ANY
        if backend.general.after is AfterForm.GUARDED:
            how = parent.how
        elif how not in backend.general.dependencies:
            raise ResourcesNotSupportedError(
                f"backend {backend.name!r} cannot let a job wait for {parent.name!r} in the way "
                f"{how}; it knows {', '.join(map(str, backend.general.dependencies))}"
            )
        own = pack_id(parent.job_id)
        ids = found.setdefault(how, [])
        awaited = parent.array_id if is_late else own
        if awaited not in ids:
            ids.append(awaited)
    return found


def _must_look(backend: Backend, parent: Parent) -> bool:
    """Whether the job itself must look what became of a job that it comes after."""
    if parent.how is Dependency.AFTER_ANY:
        return False
    form = backend.general.after
    is_blind = form is AfterForm.GUARDED_ARRAYS and parent.is_array
    is_late = parent.is_element and not backend.bundles.after
    is_unknown = parent.how not in backend.general.dependencies
    is_guarded = form is AfterForm.GUARDED or is_blind
    is_partly = parent.how is Dependency.AFTER_CORRESPONDING and (
        parent.over or len(parent.elements) > 1
    )
    return is_guarded or is_late or is_unknown or parent.is_packed or is_partly


def _guards(backend: Backend, parents: Iterable[Parent]) -> list[Guard]:
    """Return what the job itself must look at before it begins."""
    guards = []
    for parent in parents:
        if not _must_look(backend, parent):
            continue
        if parent.how is Dependency.AFTER_CORRESPONDING:
            found = parent.elements
            elements = tuple(
                ("|".join(map(str, indices)) if len(found) > 1 else "*", base)
                for base, indices in found.items()
            )
            guards.append(Guard(parent.how, (), elements))
        else:
            guards.append(Guard(parent.how, parent.records))
    return guards


def _render(scheduler: Scheduler, record: Record, logs: Mapping[str, str]) -> str:
    resources = {**logs, **record.resources}
    given = {name: value for name, value in resources.items() if value != ""}
    script = _script(scheduler.backend, record)
    as_list = scheduler.backend.general.array_lists
    due = _due(record, as_list)
    if due:
        _, percent, most = str(given["array"]).partition("%")
        given["array"] = format_array(due, as_list) + percent + most
        script = script._replace(due=() if as_list else due)
    return scheduler.renderer.render(given, script)


def _due(record: Record, as_list: bool) -> tuple[int, ...]:
    """Return the elements of an array that are left to run; none where the array says it."""
    tasks = record.tasks or {}
    due = tuple(index for index, task in tasks.items() if not task.status.finished)
    is_all = len(due) == len(tasks) and (as_list or len(due) > 1)
    return () if is_all else due


def _script(backend: Backend, record: Record) -> Script:
    spec, parents = record.spec, record.waits_for
    return Script(
        token=record.run_token,
        folder=record.folder,
        workdir=record.workdir,
        body=spec.body,
        shell=spec.shell,
        setup=spec.setup,
        guards=_guards(backend, parents),
        inputs=[(item.path, item.digest) for item in spec.inputs if item.digest],
        after=_waits(backend, parents),
        attributes=spec.attributes,
        by_hand=record.token == BY_HAND,
        is_element=record.bundle is not None,
        is_packed=record.is_packed,
        rows=_rows_path(record) if spec.rows else "",
        row_names=tuple(spec.rows[0]) if spec.rows else (),
    )


def _rows_path(record: Record) -> str:
    return f"{record.folder}/{record.token}.rows"


def _rows_text(record: Record) -> str:
    """Return the variables of the elements of an array: a line of shell each."""
    lines = []
    for row in record.spec.rows:
        words = (f"{name}={_shell_line(value)}" for name, value in row.items())
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def _shell_line(value: str) -> str:
    """Return a shell word without line breaks."""
    return '"$cj_newline"'.join(map(quote, value.split("\n")))


def program_paths(record: Record) -> list[str]:
    """Return the absolute paths of the programs that a body calls and that are no inputs.

    Those in home folders are left out: only their host knows where they are.
    """
    spec = record.spec
    named = programs_in(spec.body)
    if not named:
        return []
    inputs = {item.path for item in spec.inputs} | set(spec.aux)
    found = []
    for path in named:
        plain = os.path.normpath(path)
        if plain not in inputs and not path.startswith("~"):
            found.append(os.path.normpath(os.path.join(record.workdir, path)))
    return found


def uploads_of(
    scheduler: Scheduler, records: Iterable[Record], again: bool = False
) -> list[Upload]:
    """Return the files of jobs that are not in place already, and of the arrays that they go in; a
    file that several share once.

    ``again``: an earlier try may have written them.
    """
    members = list(records)
    return [
        *job_uploads(scheduler, members, again),
        *array_uploads(scheduler, members, again),
    ]


def array_uploads(
    scheduler: Scheduler, records: Iterable[Record], again: bool = False
) -> Iterable[Upload]:
    """Yield the scripts of the arrays that jobs go in; other elements than these run nothing."""
    for unit in units_of(records):
        if unit.is_array:
            yield from _array_files(scheduler, unit, again)


def job_uploads(
    scheduler: Scheduler, records: Iterable[Record], again: bool = False
) -> list[Upload]:
    """Return the files of jobs themselves, like :func:`uploads_of`."""
    files: dict[str, Upload] = {}
    for record in records:
        for file in _job_uploads(scheduler, record, again):
            files[file.path] = file
    return list(files.values())


def _job_uploads(
    scheduler: Scheduler, record: Record, again: bool
) -> Iterable[Upload]:
    spec = record.spec
    if record.bundle is None:
        yield Upload(
            script_path(scheduler, record),
            render_record(scheduler, record),
            executable=True,
            replace=bool(spec.filename) or again,
        )
    if spec.rows:
        yield Upload(_rows_path(record), _rows_text(record), replace=again)
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
