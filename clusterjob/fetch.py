"""Files come back: listed and summed up over there, small ones in one compressed stream, large ones from where an earlier try ended.

A file arrives beside its place under another name, its sum is compared, and it gets its name at the end. What is here already is not sent.
"""

from __future__ import annotations

import contextlib
import hashlib
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

from clusterjob.errors import CommandError, LineBrokenError
from clusterjob.shell import new_mark, split
from clusterjob.staging import find_roots, inside, local_name, matches
from clusterjob.transport import Transport
from clusterjob.transport.progress import Progress

_LARGE = 8 << 20  # bytes from which on a file travels by itself
_PORTION = 32 << 20  # bytes of small files that travel together
_NAMES = 2000  # files that travel together
_WAITS = (0.2, 1.0, 4.0)  # s before a broken line is tried again
_LINE = re.compile(r"(-\S+)\s+\d+\s+\S+\s+\S+\s+(\d+)\s+\S+\s+\S+\s+\S+ \./(.*)")  # of ls -n: mode, size, name


@dataclass(frozen=True)
class RemoteFile:
    """A file of a job: its path in the workdir, its size in bytes, its sha256 (empty where it was not asked for)."""

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


def list_files(transport: Transport, orders: Sequence[Order], sums: bool = False) -> list[list[list[RemoteFile]]]:
    """Return for each order, and each of its patterns, the files there are; one round trip. Raises :class:`CommandError`."""
    mark = new_mark()
    lines = ["export LC_ALL=C", 'cj_tool=$(command -v sha256sum || command -v shasum); case $cj_tool in *shasum) cj_tool="$cj_tool -a 256" ;; esac']
    for number, order in enumerate(orders):
        lines.append(f"printf '\\n%s\\n' {mark}:enter-{number}; cd {shlex.quote(order.workdir)} && echo yes || cd /")
        for place, (pattern, _) in enumerate(order.wanted):
            hidden = r"\( -name .clusterjob-runs -o -name '.clusterjob-part-*' \) -prune -o"
            find = f"find -L {find_roots(pattern)} {hidden} -type f -exec"
            lines.append(f"printf '\\n%s\\n' {mark}:files-{number}-{place}; {find} ls -ldLn {{}} + 2>/dev/null")
            if sums:
                lines.append(f"printf '\\n%s\\n' {mark}:sums-{number}-{place}; [ -z \"$cj_tool\" ] || {find} $cj_tool {{}} + 2>/dev/null")
    lines.append(f"printf '\\n%s\\n' {mark}:done")
    done = transport.run("\n".join(lines))
    parts = split(done.stdout, mark)
    if "done" not in parts:
        raise CommandError("the files of jobs could not be listed", exit_code=done.exit_code, stderr=done.stderr)
    found = []
    for number, order in enumerate(orders):
        entered = parts[f"enter-{number}"].startswith("yes")
        found.append([_listed(order, pattern, parts, f"{number}-{place}") if entered else [] for place, (pattern, _) in enumerate(order.wanted)])
    return found


def _listed(order: Order, pattern: str, parts: dict[str, str], place: str) -> list[RemoteFile]:
    sums = {}
    for line in parts.get(f"sums-{place}", "").splitlines():
        digest, _, name = line.partition("  ./")
        if digest.startswith("\\"):  # coreutils writes odd names so
            digest, name = digest[1:], name.replace("\\\\", "\\")
        sums[name] = digest
    found = []
    for line in parts[f"files-{place}"].splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            order.error = order.error or f"a file name in {order.workdir} cannot be read: {line!r}"
        elif matches(pattern, path := _plain(match[3])):
            found.append(RemoteFile(path, int(match[2]), sums.get(match[3], "")))
    return sorted(found, key=lambda file: file.path)


def _plain(path: str) -> str:
    return posixpath.normpath(path)


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
        """The file's name while it arrives: the same for the same content, so that a later try goes on with it."""
        word = self.file.digest or hashlib.sha256(self.source.encode("utf-8", "surrogateescape")).hexdigest()
        return self.target.with_name(f".clusterjob-part-{word[:16]}")


def fetch(transport: Transport, orders: Sequence[Order]) -> None:
    """Bring what the orders want, in a number of round trips that does not depend on how many they are; the orders say what came.

    A broken line is tried again, with what is still missing, and so is a file that changed meanwhile. Raises :class:`TransportError`
    where the line stays broken, and :class:`CommandError`.
    """
    waits = iter(_WAITS)
    while True:
        try:
            _fetch(transport, orders)
            return
        except (LineBrokenError, _ChangedError):
            wait = next(waits, None)
            if wait is None:
                raise
            time.sleep(wait * (0.5 + random.random()))


class _ChangedError(CommandError):
    """What arrived is not what was summed up."""

    def __init__(self, item: _Item) -> None:
        super().__init__(f"{item.source} changes while it is fetched, or arrives damaged")


def _fetch(transport: Transport, orders: Sequence[Order]) -> None:
    for order in orders:
        order.paths, order.missing, order.error = [], [], ""
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
                _bring_large(transport, item, progress)


def _target(order: Order, name: str) -> Path:
    """Return where a file goes; links that lead out of the folder are not followed."""
    target = order.into / inside(name, "output")
    if not target.parent.resolve().is_relative_to(order.into.resolve()):
        raise CommandError(
            f"output {name!r} would be written outside of {order.into}: {target.parent} is a link; move it away, or fetch into another folder"
        )
    if target.is_dir():
        raise CommandError(f"output {name!r} would replace the folder {target}; move it away, or fetch into another folder")
    return target


def _is_here(item: _Item) -> bool:
    try:
        status = item.target.lstat()
        if item.order.workdir == str(item.order.into) and os.path.samestat(status, os.lstat(item.source)):
            return True
        return bool(item.file.digest) and status.st_size == item.file.size and item.target.is_file() and _digest(item.target) == item.file.digest
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
            if member is None or content is None:
                raise _unread(members[0], done.stderr)
            data = content.read()
            for item in members:
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
        if part.stat().st_size != item.file.size or (item.file.digest and _digest(part) != item.file.digest):
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
        raise CommandError(f"{item.target} cannot be written: {error.strerror}", hint="Make room there, or fetch into another folder.") from error


def _unread(item: _Item, said: str) -> CommandError:
    return CommandError(f"{item.source} cannot be read", stderr=said)
