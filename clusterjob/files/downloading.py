"""Files come back: small ones in one compressed stream, large ones by themselves.

They are listed and summed up over there first. A file arrives beside its place under another name,
its sum is compared, and it gets its name at the end; a large one goes on from where an earlier try
ended. What is here already is not sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import random
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterjob.errors import (
    CommandError,
    LineBrokenError,
    SettingsError,
    TransportError,
)
from clusterjob.files.listing import Order, RemoteFile, list_files
from clusterjob.files.outgoing import encode
from clusterjob.files.patterns import check_inside, local_name
from clusterjob.files.progress import Progress
from clusterjob.plain_files import held_folder, open_beside, open_own
from clusterjob.shell import quote, quote_all
from clusterjob.transport import Transport

_LARGE = 8 << 20  # bytes from which on a file travels by itself
_PORTION = 32 << 20  # bytes of small files that travel together
_NAMES = 1000  # files that travel together
_WAITS = (0.2, 1.0, 4.0)  # s before a broken line is tried again
_HEADERS = 4096  # bytes that tar adds to a file, a long name's too
_GZIP = 31  # zlib: a gzip header, the largest window


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
    def part_name(self) -> str:
        """The file's name while it arrives.

        It is the same for the same content, so that a later try goes on with it.
        """
        word = self.file.digest or hashlib.sha256(encode(self.source)).hexdigest()
        return f".clusterjob-part-{word[:16]}"

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Hold the folder that the file goes into: nobody can put another in its place."""
        into = self.order.into
        with held_folder(into, self.target.parent.relative_to(into)) as folder:
            yield folder


def download(transport: Transport, orders: Sequence[Order]) -> None:
    """Bring what the orders want; they say in the end what came.

    The number of round trips does not depend on how many they are. What is wrong with one file is
    said in its order, and keeps no other. A broken line is tried again, with what is still missing,
    and so is a file that changed meanwhile. Raises :class:`TransportError` where the line stays
    broken, and :class:`CommandError`.
    """
    for wait in (*_WAITS, None):
        try:
            _download(transport, orders)
            if wait is None or not any(order.changed for order in orders):
                return
        except LineBrokenError:
            if wait is None:
                raise
        time.sleep(wait * (0.5 + random.random()))


class _ChangedError(CommandError):
    """What arrived is not what was summed up."""

    def __init__(self, item: _Item) -> None:
        super().__init__(
            f"{item.source} changes while it is fetched, or arrives damaged"
        )


def _download(transport: Transport, orders: Sequence[Order]) -> None:
    for order in orders:
        order.reset()
    items = _find_items(transport, orders)
    wanted = [item for item in items if not _is_here(item)]
    total = sum(item.file.size for item in wanted)
    with Progress(transport.host or "here", total, transport.hooks) as progress:
        for portion in _portions(
            [item for item in wanted if item.file.size < _LARGE]
        ):
            _bring_small(transport, portion, progress)
        for item in wanted:
            if item.file.size >= _LARGE:
                with _blamed(item):
                    _bring_large(transport, item, progress)


def _find_items(transport: Transport, orders: Sequence[Order]) -> list[_Item]:
    """List what there is, and say in the orders what comes and what is missing."""
    items: dict[Path, _Item] = {}
    listings = list_files(transport, orders, sums=True)
    for order, listing in zip(orders, listings, strict=True):
        for (pattern, name), files in zip(order.wanted, listing, strict=True):
            if not files:
                order.missing.append(pattern)
            for file in files:
                try:
                    target = _target(order, local_name(pattern, name, file.path))
                    _check_readable(file)
                except (CommandError, SettingsError) as error:
                    order.error = order.error or str(error)
                    continue
                order.paths.append(target)
                items[target] = _Item(order, file, target)
    return list(items.values())


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


def _check_readable(file: RemoteFile) -> None:
    if file.odd:
        raise CommandError(
            f"output {file.path!r} cannot be read, or has a line break in its name"
        )


def _target(order: Order, name: str) -> Path:
    """Return where a file goes; links that lead out of the folder are not followed."""
    target = order.into / check_inside(name, "output")
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
    """Whether a file need not come: it is the same one, or one of the same content."""
    try:
        status = item.target.lstat()
        in_its_place = item.order.workdir == str(item.order.into)
        if in_its_place and os.path.samestat(status, os.lstat(item.source)):
            return True
        if not item.file.digest or status.st_size != item.file.size:
            return False
        return item.target.is_file() and _digest(item.target) == item.file.digest
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


def _bring_small(
    transport: Transport, items: Sequence[_Item], progress: Progress
) -> None:
    """Bring files in one tar stream."""
    base = posixpath.commonpath([item.order.workdir for item in items])
    sources: dict[str, list[_Item]] = {}
    for item in items:
        sources.setdefault(f"./{posixpath.relpath(item.source, base)}", []).append(
            item
        )
    script = f"cd {quote(base)} && tar -chf - {quote_all(sources)} | gzip -1"
    unpacker = zlib.decompressobj(_GZIP)
    with tempfile.SpooledTemporaryFile(max_size=2 * _PORTION) as archive:
        most = sum(2 * item.file.size + _HEADERS for item in items) + _PORTION

        def write(data: bytes) -> None:
            while data:
                try:
                    came = unpacker.decompress(data, _PORTION)
                except zlib.error:
                    raise _ChangedError(items[0]) from None
                progress.add(archive.write(came))
                data = unpacker.unconsumed_tail
                if archive.tell() > most:
                    raise CommandError(
                        f"{transport.host or 'tar'} sends far more than the files it listed"
                    )

        done = transport.stream(script, write)
        archive.seek(0)
        try:
            # an archive of a file in memory needs no closing
            tar = tarfile.open(fileobj=archive, mode="r:", errors="surrogateescape")  # noqa: SIM115
            members = {member.name.removeprefix("./"): member for member in tar}
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise _unreadable(items[0], done.stderr) from error
        for name, places in sources.items():
            _unpack(tar, members.get(name.removeprefix("./")), places, done.stderr)


def _unpack(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo | None,
    items: Sequence[_Item],
    said: str,
) -> None:
    """Write one file of an archive to all its places; ``said`` is what tar complained about."""
    is_other = member is not None and member.size != items[0].file.size
    data = None if is_other else _content(tar, member)
    for item in items:
        with _blamed(item):
            if is_other:
                raise _ChangedError(item)
            if member is None or data is None:
                raise _unreadable(item, said)
            _keep(item, data, member.mode)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes | None:
    """Return what a plain file in an archive holds; None for what is none."""
    if member is None or not member.isreg():
        return None
    try:
        content = tar.extractfile(member)
        return None if content is None else content.read()
    except (tarfile.TarError, ValueError, EOFError, KeyError):
        return None


def _keep(item: _Item, data: bytes, mode: int) -> None:
    """Write a small file whole or not at all."""
    if item.file.digest and hashlib.sha256(data).hexdigest() != item.file.digest:
        raise _ChangedError(item)
    with _writing(item), item.folder() as folder:
        descriptor, part = open_beside(folder / item.part_name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                os.fchmod(descriptor, mode & 0o777 | 0o600)
            part.replace(folder / item.target.name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _bring_large(transport: Transport, item: _Item, progress: Progress) -> None:
    """Bring a file by itself, or what is missing of it."""
    with _writing(item), item.folder() as folder:
        part = folder / item.part_name
        with open_own(part) as file:
            os.fchmod(file.fileno(), 0o600)
            if file.tell() > item.file.size:
                file.truncate(0)
            offset = file.tell()
            progress.add(offset)

            def write(data: bytes) -> None:
                file.write(data)
                progress.add(len(data))
                if file.tell() > item.file.size:
                    raise _ChangedError(item)

            done = transport.stream(
                f"tail -c +{offset + 1} {quote(item.source)}", write
            )
        has_size = part.stat().st_size == item.file.size
        if not has_size or (item.file.digest and _digest(part) != item.file.digest):
            part.unlink()
            if done.exit_code != 0:
                raise _unreadable(item, done.stderr)
            raise _ChangedError(item)
        part.replace(folder / item.target.name)


@contextlib.contextmanager
def _writing(item: _Item) -> Iterator[None]:
    """Say where a file cannot be written, in place of the system's error."""
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{item.target} cannot be written: {error.strerror}",
            hint="Make room there, or fetch into another folder.",
        ) from error


def _unreadable(item: _Item, said: str) -> CommandError:
    return CommandError(f"{item.source} cannot be read", stderr=said)
