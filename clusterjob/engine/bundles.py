"""Single jobs that ask for the same go to their scheduler as one array: which of them do, and what
the array is called. Each stays a job of its own.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from clusterjob.backend import Backend
from clusterjob.packing import Pack
from clusterjob.shell import in_portions
from clusterjob.store import Bundle, Phase, Record

# what may differ between jobs of one array: each has its own
_OWN = ("jobname", "stdout", "stderr")
# of what schedulers replace in the name of a log
_SIGNS = re.compile(r"[%$^{\\~]")
# jobs of one array: each element reads all of its script, a line for each job
_MOST = 1000
_SHORTEST_NAME = 3  # characters that the names of jobs share


@dataclass(frozen=True, eq=False)
class Unit:
    """What a scheduler is given with one command: a job, or an array of single jobs."""

    folder: str
    token: str
    members: Sequence[Record]

    @property
    def is_array(self) -> bool:
        """Whether it is an array of single jobs."""
        return self.members[0].bundle is not None

    @property
    def size(self) -> int:
        """How many jobs the scheduler makes of it."""
        return len(
            {record.bundle and record.bundle.element for record in self.members}
        )

    @property
    def workdir(self) -> str:
        """The folder that it is submitted from: the members' own, or what these have in common."""
        return os.path.commonpath({record.workdir for record in self.members})

    def name(self, backend: Backend) -> str:
        """Return what the names of its jobs have in common, else the first one's."""
        names = [record.name for record in self.members]
        common = os.path.commonprefix(names)  # noqa: RUF071  # of texts
        if len(common) < len(names[0]):
            common = common.rstrip("_-.=,0123456789 ")
        is_name = len(common) >= _SHORTEST_NAME or common == names[0]
        fits = is_name and backend.general.jobname.fullmatch(common) is not None
        return common if fits else names[0]


def units_of(records: Iterable[Record]) -> list[Unit]:
    """Return what was or will be submitted with one command each."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault(record.submission, []).append(record)
    return [Unit(*submission, members) for submission, members in found.items()]


def bundle(
    backend: Backend,
    records: Sequence[Record],
    most: int,
    alone: Collection[str] = (),
) -> None:
    """Put jobs that ask for the same together, ``most`` in one array; what was put together before
    is forgotten. ``alone`` are tokens of jobs that go alone.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        record.bundle = None
        if record.phase is Phase.HELD:
            continue
        may_go = record.spec.pack or record.token not in alone
        if may_go and not why_alone(backend, record):
            groups.setdefault(_what_it_asks(record), []).append(record)
    for group in groups.values():
        pack = pack_of(group[0])
        size = 1 if pack is None else pack.size(group[0].resources)
        for portion in in_portions(group, size * max(1, min(most, _MOST // size))):
            if len(portion) > 1:
                _put_together(portion, size)


def _put_together(members: Sequence[Record], size: int) -> None:
    """Make one array of jobs, with so many in an element."""
    token, folder = secrets.token_hex(8), members[0].folder
    for element, portion in enumerate(in_portions(members, size), start=1):
        for position, record in enumerate(portion, start=1):
            place = position if size > 1 else 0
            record.bundle = Bundle(token, folder, element, position=place)


def bundle_of(record: Record) -> Bundle:
    """Return the array that a job went in, which must be one that did."""
    assert record.bundle is not None
    return record.bundle


def pack_of(record: Record) -> Pack | None:
    """Return the pack that a job goes in."""
    return Pack(**record.spec.pack) if record.spec.pack else None


def _what_it_asks(record: Record) -> tuple[object, ...]:
    """Return what must be the same of jobs in one array."""
    spec = record.spec
    resources = {
        name: tuple(value) if isinstance(value, list) else value  # nodes to leave out
        for name, value in record.resources.items()
        if name not in _OWN
    }
    after = tuple((parent.how, parent.job_id) for parent in record.waits_for)
    return (
        tuple(sorted(resources.items())),
        tuple(sorted(spec.attributes.items())),
        tuple(spec.pack.values()),
        after,
    )


def why_alone(backend: Backend, record: Record) -> str:
    """Say why a job cannot be an element of an array without that anybody sees a difference; empty
    where it can.
    """
    rules, spec = backend.bundles, record.spec
    if not rules.id or not backend.has_arrays:
        return f"backend {backend.name!r} has no arrays for that"
    if spec.alone:
        return "the profile says 'bundle = no'"
    if spec.filename:
        return "its script has a name of its own (filename)"
    if record.tasks is not None:
        return "it is an array"
    for name in record.resources:
        if name.lstrip("-").replace("_", "-") in rules.alone:
            return f"its option {name!r} is for one job of the scheduler's"
    for name in ("stdout", "stderr"):
        if not _is_known(backend, spec.resources.get(name)):
            return f"only the scheduler knows the name of its log {spec.resources[name]!r}"
    texts = (spec.body, spec.setup, *spec.aux.values())
    for name in rules.share:
        if any(re.search(rf"\b{name}\b", text) for text in texts):
            return f"its script uses ${name}"
    return ""


def _is_known(backend: Backend, log: object) -> bool:
    """Whether all that a scheduler would replace in the name of a log is known."""
    if log is None:
        return True
    path = str(log)
    for sign, meaning in backend.general.patterns:
        if meaning != "{task}":
            path = path.replace(sign, "")
    return not _SIGNS.search(path)


def note_id(backend: Backend, record: Record, job_id: str) -> None:
    """Note the id that the scheduler gave to what it was given: a job, or the array it went in."""
    record.job_id = job_id
    if record.bundle is not None:
        array_id = backend.bundles.array.replace("{id}", _number(job_id))
        record.bundle = record.bundle._replace(array_id=array_id)
        record.job_id = element_id(backend, record.bundle)


def element_id(backend: Backend, found: Bundle) -> str:
    """Return what the scheduler calls an element; a job in a pack has its place behind that."""
    found_id = (
        backend.bundles.id.replace("{id}", _number(found.array_id))
        .replace("{task}", str(found.element))
        .replace("{process}", str(found.element - 1))
    )
    return f"{found_id}/{found.position}" if found.position else found_id


def pack_id(job_id: str | None) -> str:
    """Return the id of the pack that a job of this id runs in; of any other job it is its own."""
    return (job_id or "").partition("/")[0]


def array_name(token: str) -> str:
    """Return how the names of an array's files begin."""
    return f"jobs-{token}"


def _number(job_id: str) -> str:
    """Return the number that an id begins with; all of an id that begins with none."""
    match = re.match(r"\d+", job_id)
    return match[0] if match else job_id
