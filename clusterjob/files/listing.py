"""Which files a job has on its host: asked for many jobs in one round trip."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.errors import CommandError
from clusterjob.files.patterns import find_roots, matches
from clusterjob.shell import (
    in_portions,
    load_shell,
    new_mark,
    quote,
    split_reply,
    start_replies,
)
from clusterjob.store import OutputPattern
from clusterjob.transport import Transport

_LIST = Path(__file__).parent / "list.sh"
_ROOTS = 500  # files and folders that one command looks for
# of ls -n: mode, size, name
_LINE = re.compile(
    r"(-\S+)\s+\d+\s+\S+\s+\S+\s+([0-9]{1,18})\s+\S+\s+\S+\s+\S+ \./(.*)"
)
_SUM = re.compile(r"(\\?)([0-9a-f]{64})  \./(.*)")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a job: its path in the workdir, its size in bytes.

    ``digest`` is its sha256, empty where it was not asked for. ``odd``: it cannot come, because of
    its name, or because it could not be read.
    """

    path: str
    size: int
    digest: str = ""
    odd: bool = False


@dataclass(eq=False)
class Order:
    """What is wanted of one workdir, where it goes, and in the end what came of it."""

    workdir: str
    wanted: Sequence[OutputPattern]
    into: Path
    paths: list[Path] = field(default_factory=list)  # what came
    missing: list[str] = field(default_factory=list)  # patterns that nothing matched
    error: str = ""
    changed: bool = False  # a file of it changed meanwhile: another try may bring it

    def reset(self) -> None:
        """Forget what came, before another try."""
        self.paths, self.missing, self.error, self.changed = [], [], "", False


def list_files(
    transport: Transport, orders: Sequence[Order], sums: bool = False
) -> list[list[list[RemoteFile]]]:
    """Return for each order, and each of its patterns, the files there are; one round trip.

    Raises :class:`CommandError`.
    """
    mark = new_mark()
    base = posixpath.commonpath([order.workdir for order in orders])
    folders: dict[str, list[int]] = {}  # the orders of each workdir, by their numbers
    for number, order in enumerate(orders):
        folders.setdefault(posixpath.relpath(order.workdir, base), []).append(number)
    roots: dict[str, None] = {}
    for folder, numbers in folders.items():
        for number in numbers:
            for pattern, _ in orders[number].wanted:
                roots[find_roots(pattern, folder)] = None
    lines = [start_replies(mark), load_shell(_LIST), f"cd {quote(base)} || exit"]
    lines += ["cj_choose_sums"] if sums else []
    lines.append("cj_part files")
    lines += [
        f"cj_list {' '.join(portion)}" for portion in in_portions(list(roots), _ROOTS)
    ]
    lines.append("cj_part done")
    done = transport.run("\n".join(lines))
    parts = split_reply(done.stdout, mark)
    if "done" not in parts and "files" in parts:
        raise CommandError(
            "the files of jobs could not be listed",
            exit_code=done.exit_code,
            stderr=done.stderr,
        )
    return _assign(orders, folders, _read_listing(parts.get("files", "")))


def _read_listing(text: str) -> list[RemoteFile]:
    """Read what ls and sha256sum say; names are relative to the folder they were asked in."""
    sums: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for line in text.split("\n"):
        if match := _LINE.fullmatch(line):
            sizes[match[3]] = int(match[2])
        elif match := _SUM.fullmatch(line):
            sums[_unescape(match[3]) if match[1] else match[3]] = match[2]
    names = [name for name in {**sizes, **sums} if not _leads_out(name)]
    return [
        RemoteFile(
            posixpath.normpath(name),
            sizes.get(name, 0),
            sums.get(name, ""),
            # one that could not be summed up, or with a line break that ls printed as one
            odd=bool(sums) and (name not in sums or name not in sizes),
        )
        for name in names
    ]


def _unescape(name: str) -> str:
    """Return a name as it is: coreutils marks those with a backslash or a line break in them."""
    meant = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
    return re.sub(r"\\[\\nr]", lambda match: meant[match[0]], name)


def _leads_out(name: str) -> bool:
    """Whether a name below a folder is none, whoever made it up."""
    return posixpath.normpath(name).startswith(("/", "../")) or name in ("", "..")


def _assign(
    orders: Sequence[Order],
    folders: Mapping[str, list[int]],
    files: Sequence[RemoteFile],
) -> list[list[list[RemoteFile]]]:
    """Give each file to the orders whose workdir it is in, and there to the patterns it matches."""
    found: list[list[list[RemoteFile]]] = [
        [[] for _ in order.wanted] for order in orders
    ]
    for file in sorted(files, key=lambda file: file.path):
        folder = file.path
        while folder:
            folder = posixpath.dirname(folder)
            path = file.path.removeprefix(f"{folder}/") if folder else file.path
            for number in folders.get(folder or ".", ()):
                for position, (pattern, _) in enumerate(orders[number].wanted):
                    if matches(pattern, path):
                        own = dataclasses.replace(file, path=path)
                        found[number][position].append(own)
    return found
