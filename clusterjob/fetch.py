"""Files come back: listed and summed up over there, small ones in one compressed stream, large ones
from where an earlier try ended.

A file arrives beside its place under another name, its sum is compared, and it gets its name at the
end. What is here already is not sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import posixpath
import random
import re
import shlex
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.errors import CommandError, LineBrokenError, TransportError
from clusterjob.shell import new_mark, split
from clusterjob.staging import find_roots, inside, local_name, matches
from clusterjob.transport import Transport
from clusterjob.transport.progress import Progress

_LARGE = 8 << 20  # bytes from which on a file travels by itself
_PORTION = 32 << 20  # bytes of small files that travel together
_NAMES = 1000  # files that travel together
_ROOTS = 500  # files and folders that one command looks for
_WAITS = (0.2, 1.0, 4.0)  # s before a broken line is tried again
_LINE = re.compile(
    r"(-\S+)\s+\d+\s+\S+\s+\S+\s+(\d+)\s+\S+\s+\S+\s+\S+ \./(.*)"
)  # of ls -n: mode, size, name
_SUM = re.compile(r"(\\?)([0-9a-f]{64})  \./(.*)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a job: its path in the workdir, its size in bytes, its sha256 (empty where it was
    not asked for).
    """

    path: str
    size: int
    digest: str = ""


@dataclass
class Order:
    """What is wanted of one workdir: pairs of pattern and new name; and where it goes."""

    workdir: str
    wanted: Sequence[Sequence[str]]
    into: Path
    paths: list[Path] = field(default_factory=list)  # what came
    missing: list[str] = field(default_factory=list)  # patterns that nothing matched
    error: str = ""
    changed: bool = False  # a file of it changed meanwhile: another try may bring it


def list_files(
    transport: Transport, orders: Sequence[Order], sums: bool = False
) -> list[list[list[RemoteFile]]]:
    """Return for each order, and each of its patterns, the files there are; one round trip.

    Raises :class:`CommandError`.
    """
    mark = new_mark()
    base = posixpath.commonpath([order.workdir for order in orders])
    folders: dict[str, list[int]] = {}
    for number, order in enumerate(orders):
        folders.setdefault(posixpath.relpath(order.workdir, base), []).append(number)
    roots = list(
        dict.fromkeys(
            find_roots(pattern, folder)
            for folder, numbers in folders.items()
            for number in numbers
            for pattern, _ in orders[number].wanted
        )
    )
    lines = ["export LC_ALL=C", f"cd {shlex.quote(base)} || exit", "cj_sums="]
    if sums:
        lines.append(
            "cj_tool=$(command -v sha256sum || command -v shasum); case $cj_tool in *shasum) "
            'cj_tool="$cj_tool -a 256" ;; esac'
        )
        lines.append('[ -z "$cj_tool" ] || cj_sums="-exec $cj_tool {} +"')
    lines.append(f"printf '\\n%s\\n' {mark}:files")
    for start in range(0, len(roots), _ROOTS):
        hidden = r"\( -name .clusterjob-runs -o -name '.clusterjob-part-*' \) -prune -o"
        lines.append(
            f"find -L {' '.join(roots[start : start + _ROOTS])} {hidden} -type f -exec ls -ldLn "
            "{} + $cj_sums 2>/dev/null"
        )
    lines.append(f"printf '\\n%s\\n' {mark}:done")
    done = transport.run("\n".join(lines))
    parts = split(done.stdout, mark)
    if "done" not in parts and "files" in parts:
        raise CommandError(
            "the files of jobs could not be listed", exit_code=done.exit_code, stderr=done.stderr
        )
    return _assigned(orders, folders, _listed(parts.get("files", "")))


def _listed(text: str) -> list[RemoteFile]:
    """Read what ls and sha256sum say; names are relative to the folder they were asked in."""
    sums: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            sizes[match[3]] = int(match[2])
        elif match := _SUM.fullmatch(line):
            sums[match[3].replace("\\\\", "\\") if match[1] else match[3]] = match[
                2
            ]  # coreutils writes odd names so
    if odd := [
        name for name in sizes if sums and name not in sums
    ]:  # a line break in a name, or a file that cannot be read
        _log.warning("%d files cannot be read or have odd names, the first: %r", len(odd), odd[0])
    return [
        RemoteFile(posixpath.normpath(name), size, sums.get(name, ""))
        for name, size in sizes.items()
        if not sums or name in sums
    ]


def _assigned(
    orders: Sequence[Order], folders: dict[str, list[int]], files: Sequence[RemoteFile]
) -> list[list[list[RemoteFile]]]:
    """Give each file to the orders whose workdir it is in, and there to the patterns that it
    matches.
    """
    found: list[list[list[RemoteFile]]] = [[[] for _ in order.wanted] for order in orders]
    for file in sorted(files, key=lambda file: file.path):
        folder = file.path
        while folder:
            folder = posixpath.dirname(folder)
            path = file.path.removeprefix(f"{folder}/") if folder else file.path
            for number in folders.get(folder or ".", ()):
                for place, (pattern, _) in enumerate(orders[number].wanted):
                    if matches(pattern, path):
                        found[number][place].append(RemoteFile(path, file.size, file.digest))
    return found


@dataclass
class _Item:
    """One file on its way: from where, to where."""

    order: Order
    file: RemoteFile
    target: Path

    @property
    def source(self) -> str:
        return posixpath.join(self.order.workdir, self.file.path)

    @property
    def part(self) -> Path:
        """The file's name while it arrives: the same for the same content, so that a later try goes
        on with it.
        """
        word = (
            self.file.digest
            or hashlib.sha256(self.source.encode("utf-8", "surrogateescape")).hexdigest()
        )
        return self.target.with_name(f".clusterjob-part-{word[:16]}")


def fetch(transport: Transport, orders: Sequence[Order]) -> None:
    """Bring what the orders want, in a number of round trips that does not depend on how many they
    are; the orders say what came.

    What is wrong with one file is said in its order, and keeps no other. A broken line is tried
    again, with what is still missing, and so is a file that changed meanwhile. Raises
    :class:`TransportError` where the line stays broken, and :class:`CommandError`.
    """
    for wait in (*_WAITS, None):
        try:
            _fetch(transport, orders)
            if wait is None or not any(order.changed for order in orders):
                return
        except LineBrokenError:
            if wait is None:
                raise
        time.sleep(wait * (0.5 + random.random()))


class _ChangedError(CommandError):
    """What arrived is not what was summed up."""

    def __init__(self, item: _Item) -> None:
        super().__init__(f"{item.source} changes while it is fetched, or arrives damaged")


def _fetch(transport: Transport, orders: Sequence[Order]) -> None:
    for order in orders:
        order.paths, order.missing, order.error, order.changed = [], [], "", False
    items: dict[Path, _Item] = {}
    for order, answers in zip(orders, list_files(transport, orders, sums=True), strict=True):
        for (pattern, name), files in zip(order.wanted, answers, strict=True):
            if not files:
                order.missing.append(pattern)
            for file in files:
                try:
                    target = _target(order, local_name(pattern, name, file.path))
                except CommandError as error:
                    order.error = order.error or str(error)
                    continue
                order.paths.append(target)
                items[target] = _Item(order, file, target)
    wanted = [item for item in items.values() if not _is_here(item)]
    with Progress(transport.host or "here", sum(item.file.size for item in wanted)) as progress:
        for portion in _portions([item for item in wanted if item.file.size < _LARGE]):
            _bring_small(transport, portion, progress)
        for item in wanted:
            if item.file.size >= _LARGE:
                with _blamed(item):
                    _bring_large(transport, item, progress)


@contextlib.contextmanager
def _blamed(item: _Item) -> Iterator[None]:
    """Keep what goes wrong with one file in its order, so that the others come."""
    try:
        yield
    except TransportError:
        raise
    except CommandError as error:
        item.order.changed |= isinstance(error, _ChangedError)
        item.order.error = item.order.error or str(error)


def _target(order: Order, name: str) -> Path:
    """Return where a file goes; links that lead out of the folder are not followed."""
    target = order.into / inside(name, "output")
    if not target.parent.resolve().is_relative_to(order.into.resolve()):
        raise CommandError(
            f"output {name!r} would be written outside of {order.into}: {target.parent} is a "
            "link; move it away, or fetch into another folder"
        )
    if target.is_dir():
        raise CommandError(
            f"output {name!r} would replace the folder {target}; move it away, or fetch into "
            "another folder"
        )
    return target


def _is_here(item: _Item) -> bool:
    try:
        status = item.target.lstat()
        if item.order.workdir == str(item.order.into) and os.path.samestat(
            status, os.lstat(item.source)
        ):
            return True
        return (
            bool(item.file.digest)
            and status.st_size == item.file.size
            and item.target.is_file()
            and _digest(item.target) == item.file.digest
        )
    except OSError:
        return False


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _portions(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    portion: list[_Item] = []
    size = 0
    for item in items:
        if portion and (size + item.file.size > _PORTION or len(portion) == _NAMES):
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += item.file.size
    if portion:
        yield portion


def _bring_small(transport: Transport, items: Sequence[_Item], progress: Progress) -> None:
    base = posixpath.commonpath([item.order.workdir for item in items])
    sources: dict[str, list[_Item]] = {}
    for item in items:
        sources.setdefault(f"./{posixpath.relpath(item.source, base)}", []).append(item)
    script = f"cd {shlex.quote(base)} && tar -chf - {' '.join(map(shlex.quote, sources))} | gzip -1"
    unpacker = zlib.decompressobj(31)
    with tempfile.SpooledTemporaryFile(max_size=2 * _PORTION) as archive:

        def take(data: bytes) -> None:
            progress.add(archive.write(unpacker.decompress(data)))

        done = transport.stream(script, take)
        archive.seek(0)
        try:
            tar = tarfile.open(fileobj=archive, mode="r:", errors="surrogateescape")  # noqa: SIM115  (a file in memory)
            came = {member.name.removeprefix("./"): member for member in tar}
        except tarfile.TarError as error:
            raise _unread(items[0], done.stderr) from error
        for name, members in sources.items():
            member = came.get(name.removeprefix("./"))
            content = tar.extractfile(member) if member is not None else None
            data = content.read() if content is not None else b""
            for item in members:
                with _blamed(item):
                    if member is None or content is None:
                        raise _unread(item, done.stderr)
                    _keep(item, data, member.mode)


def _keep(item: _Item, data: bytes, mode: int) -> None:
    if item.file.digest and hashlib.sha256(data).hexdigest() != item.file.digest:
        raise _ChangedError(item)
    part = item.part.with_name(f"{item.part.name}-{os.getpid()}")
    with _writing(item):
        item.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(data)
            part.chmod(mode & 0o777 | 0o600)
            part.replace(item.target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _bring_large(transport: Transport, item: _Item, progress: Progress) -> None:
    part = item.part
    with _writing(item):
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            if file.tell() > item.file.size:
                file.truncate(0)
            offset = file.tell()
            progress.add(offset)

            def take(data: bytes) -> None:
                file.write(data)
                progress.add(len(data))

            done = transport.stream(f"tail -c +{offset + 1} {shlex.quote(item.source)}", take)
        if part.stat().st_size != item.file.size or (
            item.file.digest and _digest(part) != item.file.digest
        ):
            part.unlink()
            if done.exit_code != 0:
                raise _unread(item, done.stderr)
            raise _ChangedError(item)
        part.chmod(0o600)
        part.replace(item.target)


@contextlib.contextmanager
def _writing(item: _Item) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{item.target} cannot be written: {error.strerror}",
            hint="Make room there, or fetch into another folder.",
        ) from error


def _unread(item: _Item, said: str) -> CommandError:
    return CommandError(f"{item.source} cannot be read", stderr=said)
