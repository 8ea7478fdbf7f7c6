"""Files go up: small ones of a whole batch in one compressed tar stream, large ones each by itself,
from where an earlier try ended.

A file that is to replace another arrives beside it under another name, is checked, and gets its
name at the end. What is there already, by its content, is not sent; what several jobs share is sent
once. The other side needs sh, tar, gzip and, to compare contents, sha256sum or shasum.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import secrets
import shlex
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clusterjob.errors import CommandError
from clusterjob.transport.base import Upload
from clusterjob.transport.progress import Progress

if TYPE_CHECKING:
    from clusterjob.transport.remote import RemoteTransport

LARGE = 4 << 20  # bytes from which on a file travels by itself
_PORTION = (
    32 << 20
)  # bytes of small files that travel together: what arrived stays there when the line breaks
_TINY = (
    4 << 10
    # a file that several jobs share is rather sent again, compressed, than copied by a process of its
    # own
)
_BLOCK = 1 << 20
_NAMES = 500  # of one command line
_FLUSH = 1 << 16  # compressed bytes that are sent in one piece
SUMS = (
    'cj_sum() { if command -v sha256sum >/dev/null; then sha256sum "$@"; elif command -v shasum '
    '>/dev/null; then shasum -a 256 "$@"; '
    "else return 3; fi; }"
)


@dataclass
class _Item:
    """One content and the places it goes to; the first gets it from here, the others a copy over
    there.
    """

    file: Upload
    size: int
    copies: list[Upload] = field(default_factory=list)

    @property
    def part(self) -> str:
        """The name of a large file while it arrives: the same for the same content, so that a later
        try goes on with it.
        """
        return f".clusterjob-part-{self.file.digest[:16] or hashlib.sha256(self.file.path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def put(transport: RemoteTransport, files: Sequence[Upload]) -> None:
    """Write files.

    Raises :class:`CommandError` where one cannot be read here or written there; what carries its
    name is whole.
    """
    progress = Progress(transport.host, sum(_size(file) for file in files))

    def step() -> None:
        wanted, offsets = _missing(transport, files)
        progress.restart(sum(_size(file) for file in wanted))
        items = _gather(wanted)
        for portion in _portions([item for item in items if item.size < LARGE]):
            _send_small(transport, portion, progress)
        large = [item for item in items if item.size >= LARGE]
        for item in large:
            _send_large(transport, item, offsets.get(item.part, 0), progress)
        damaged = _settle(transport, items, [item for item in large if offsets.get(item.part)])
        for item in damaged:  # what was there before was not its beginning
            progress.add(-item.size)
            _send_large(transport, item, 0, progress)
        if damaged and _settle(transport, damaged, damaged):
            raise _unwritten(transport, damaged[0].file.path, 94, "it arrived damaged")

    with progress:
        transport.patiently(step)


def _size(file: Upload) -> int:
    if isinstance(file.content, Path):
        try:
            return file.content.stat().st_size
        except OSError as error:
            raise CommandError(f"{file.content} cannot be read: {error.strerror}") from error
    return len(file.content.encode("utf-8", "surrogateescape"))


def _missing(
    transport: RemoteTransport, files: Sequence[Upload]
) -> tuple[list[Upload], dict[str, int]]:
    """Return the files that are not there yet, and how much of the large ones has arrived; asks
    only about known contents.
    """
    asked = [file for file in files if file.digest]
    if not asked:
        return list(files), {}
    folders: dict[str, list[Upload]] = {}
    for file in asked:
        folders.setdefault(posixpath.dirname(file.path), []).append(file)
    lines = [SUMS]
    for number, (folder, members) in enumerate(folders.items()):
        sums = "\n".join(f"{file.digest}  ./{posixpath.basename(file.path)}" for file in members)
        lines.append(
            f"echo ={number}; ( cd {shlex.quote(folder)} 2>/dev/null || exit 0; cj_sum -c - "
            f"2>/dev/null <<'CJ_SUMS'\n{sums}\nCJ_SUMS"
        )
        parts = {_Item(file, 0).part for file in members if _size(file) >= LARGE}
        lines += [f"[ ! -f {part} ] || echo part {part} $(wc -c <{part})" for part in sorted(parts)]
        lines.append(")")
    there, offsets = set(), {}
    folder = ""
    for line in transport.run("\n".join(lines)).stdout.splitlines():
        if line.startswith("="):
            folder = list(folders)[int(line[1:])]
        elif line.startswith("part "):
            _, part, size = line.split()
            offsets[part] = int(size)
        elif line.endswith(": OK"):
            there.add(posixpath.join(folder, line.removeprefix("./").removesuffix(": OK")))
    return [file for file in files if not file.digest or file.path not in there], offsets


def _gather(files: Iterable[Upload]) -> list[_Item]:
    """Bring together what has the same content."""
    items: list[_Item] = []
    known: dict[str, _Item] = {}
    for file in files:
        size = _size(file)
        first = known.get(file.digest) if file.digest and size > _TINY else None
        if first is None:
            items.append(_Item(file, size))
            if file.digest:
                known[file.digest] = items[-1]
        else:
            first.copies.append(file)
    return items


def _portions(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    portion: list[_Item] = []
    size = 0
    for item in items:
        if portion and size + item.size > _PORTION:
            yield portion
            portion, size = [], 0
        portion.append(item)
        size += item.size
    if portion:
        yield portion


# -- small files -----------------------------------------------------------------------------------


def _send_small(transport: RemoteTransport, items: Sequence[_Item], progress: Progress) -> None:
    part = f".clusterjob-part-{secrets.token_hex(8)}"
    folders = {posixpath.dirname(item.file.path) for item in items}
    base = posixpath.commonpath(folders)
    finish = _finish(items, base, part)
    # the script is part of the archive: what is read byte by byte stays short
    script = f"umask 077; mkdir -p {shlex.quote(base)} && cd {shlex.quote(base)} || exit 1\n" + (
        f"gzip -dc | tar -xpof - || exit\n. ./{part}.sh; cj_code=$?; rm -f ./{part}.sh; exit "
        "$cj_code"
        if finish
        else "gzip -dc | tar -xpof -"
    )
    if "\n.\n" in script:
        raise CommandError(f"{base!r}: the name of this folder cannot be used on {transport.host}")
    done = transport.feed(script, _archive(items, base, part, finish, progress))
    if done.exit_code != 0:
        raise _unwritten(transport, base, done.exit_code, done.stderr)


def _finish(items: Sequence[_Item], base: str, part: str) -> str:
    """Return the script that checks what arrived under other names, and gives it its names; empty
    where nothing did.
    """
    folders: dict[str, list[_Item]] = {}
    for item in items:
        if item.file.replace:
            folders.setdefault(posixpath.dirname(item.file.path), []).append(item)
    if not folders:
        return ""
    lines = [SUMS]
    for folder, members in folders.items():
        names = [posixpath.basename(item.file.path) for item in members]
        sums = "\n".join(
            f"{item.file.digest}  ./{name}"
            for item, name in zip(members, names, strict=True)
            if item.file.digest
        )
        place = posixpath.join(
            ".", posixpath.relpath(folder, base), part
        )  # the name of a folder may begin with a dash
        lines.append(f"( cd {shlex.quote(place)} || exit 1")
        if sums:
            lines.append(f"cj_sum -c - >/dev/null <<'CJ_SUMS'\n{sums}\nCJ_SUMS")
            lines.append("case $? in 0|3) ;; *) echo 'it arrived damaged' >&2; exit 1 ;; esac")
        for start in range(0, len(names), _NAMES):
            lines.append(
                "mv -f "
                f"{' '.join(shlex.quote(f'./{name}') for name in names[start : start + _NAMES])} "
                ".. || exit 1"
            )
        lines.append(f"cd .. && rmdir {part} ) || return 1")
    return "\n".join([*lines, "return 0\n"])


def _archive(
    items: Sequence[_Item], base: str, part: str, finish: str, progress: Progress
) -> Iterator[bytes]:
    """Yield a compressed archive; contents that do not shrink are not squeezed."""
    packer = _Packer()
    for item in items:
        folder, name = posixpath.split(posixpath.relpath(item.file.path, base))
        if item.file.replace:
            folder = posixpath.join(folder, part)
        info = tarfile.TarInfo(posixpath.join(".", folder, name))
        info.size, info.mtime, info.mode = item.size, int(time.time()), _mode(item.file)
        head = _header(info)
        left = item.size
        for block in _blocks(item.file, 0):
            left -= len(block)
            yield from packer.pack(head + block, _level(block))
            progress.add(len(block))
            head = b""
        if left:
            raise CommandError(f"{item.file.content} changed while it was read")
        yield from packer.pack(head + b"\0" * (-item.size % tarfile.BLOCKSIZE))
    if finish:
        text = finish.encode("utf-8", "surrogateescape")
        info = tarfile.TarInfo(f"./{part}.sh")
        info.size, info.mode = len(text), 0o600
        yield from packer.pack(_header(info) + text + b"\0" * (-len(text) % tarfile.BLOCKSIZE))
    yield from packer.pack(b"\0" * tarfile.RECORDSIZE, 6)
    yield packer.end()


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _mode(file: Upload) -> int:
    if isinstance(file.content, Path):
        return file.content.stat().st_mode & 0o777 | 0o400
    return 0o700 if file.executable else 0o600


def _blocks(file: Upload, offset: int) -> Iterator[bytes]:
    if not isinstance(file.content, Path):
        yield file.content.encode("utf-8", "surrogateescape")
        return
    try:
        with open(file.content, "rb", buffering=0) as source:
            source.seek(offset)
            while block := source.read(_BLOCK):
                yield block
    except OSError as error:
        raise CommandError(f"{file.content} cannot be read: {error.strerror}") from error


def _level(block: bytes) -> int:
    """Return how hard to squeeze: not at all what hardly shrinks."""
    sample = block[: 1 << 14]
    if len(zlib.compress(sample, 1)) > 0.7 * len(sample):
        return 0
    return 6 if len(block) < 1 << 16 else 1


class _Packer:
    """Makes a gzip file of members, one after the other, each with a level of its own: RFC 1952,
    2.2.
    """

    def __init__(self) -> None:
        self._level, self._used = 6, False
        self._member = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._waiting = io.BytesIO()

    def pack(self, data: bytes, level: int | None = None) -> Iterator[bytes]:
        if level not in (None, self._level):
            if self._used:
                self._waiting.write(self._member.flush())
            self._member, self._level = zlib.compressobj(level, zlib.DEFLATED, 31), level
        self._used = True
        self._waiting.write(self._member.compress(data))
        if self._waiting.tell() > _FLUSH:
            yield self._taken()

    def end(self) -> bytes:
        self._waiting.write(self._member.flush())
        return self._taken()

    def _taken(self) -> bytes:
        data = self._waiting.getvalue()
        self._waiting = io.BytesIO()
        return data


# -- large files -----------------------------------------------------------------------------------


def _send_large(transport: RemoteTransport, item: _Item, offset: int, progress: Progress) -> None:
    """Send a file, or what is missing of it, to stand beside its place."""
    folder = posixpath.dirname(item.file.path)
    offset = offset if offset <= item.size else 0
    squeeze = _level(next(_blocks(item.file, offset), b"")) > 0
    script = (
        f"umask 077; mkdir -p {shlex.quote(folder)} && cd {shlex.quote(folder)} || exit 1\n"
        f"[ {offset} -gt 0 ] || : >{item.part} || exit 1\n{'gzip -dc' if squeeze else 'cat'} "
        f">>{item.part}"
    )
    if "\n.\n" in script:
        raise CommandError(
            f"{folder!r}: the name of this folder cannot be used on {transport.host}"
        )
    progress.add(offset)
    done = transport.feed(script, _content(item.file, offset, squeeze, progress))
    if done.exit_code != 0:
        raise _unwritten(transport, item.file.path, done.exit_code, done.stderr)


def _settle(
    transport: RemoteTransport, items: Sequence[_Item], doubtful: Sequence[_Item]
) -> list[_Item]:
    """Give large files their names, and copy what several jobs share; return the ones that are not
    what they should be.

    What arrived in one piece is vouched for by SSH, which authenticates every packet, and by its
    size; a ``doubtful`` one, of which an earlier connection left a part, is summed up. The job
    compares the sums of all its inputs before it begins.
    """
    lines = ["umask 077", SUMS]
    for number, item in enumerate(items):
        folder, name = (shlex.quote(part) for part in posixpath.split(item.file.path))
        part = f"{folder}/{item.part}"
        copies = []
        for file in item.copies:
            place, other = (shlex.quote(part) for part in posixpath.split(file.path))
            copy = f"{place}/{item.part}"
            copies.append(
                f"mkdir -p {place} && cp {folder}/{name} {copy} && chmod {_mode(file):o} {copy} "
                f"&& mv -f {copy} {place}/{other} || exit 1"
            )
        if item.size >= LARGE:
            check = (
                f'case $(cj_sum <{part}) in {item.file.digest}*|"") ;; *) false ;; esac'
                if item in doubtful
                else "true"
            )
            lines.append(f"if [ $(wc -c <{part}) -eq {item.size} ] && {check}; then")
            lines.append(
                f"chmod {_mode(item.file):o} {part} && mv -f {part} {folder}/{name} || exit 1"
            )
            lines += [*copies, f"else rm -f {part}; echo damaged {number}; fi"]
        else:
            lines += copies
    if len(lines) == 2:
        return []
    done = transport.run("\n".join(lines))
    if done.exit_code != 0:
        raise _unwritten(transport, items[0].file.path, done.exit_code, done.stderr)
    return [
        items[int(line.split()[1])]
        for line in done.stdout.splitlines()
        if line.startswith("damaged ")
    ]


def _content(file: Upload, offset: int, squeeze: bool, progress: Progress) -> Iterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    before = _stamp(file)
    for block in _blocks(file, offset):
        if not squeeze:
            yield block
        elif data := packer.compress(block):
            yield data
        progress.add(len(block))
    if _stamp(file) != before:
        raise CommandError(f"{file.content} changed while it was sent; submit again")
    if squeeze:
        yield packer.flush()


def _stamp(file: Upload) -> tuple[int, int]:
    status = Path(file.content).stat() if isinstance(file.content, Path) else None
    return (status.st_mtime_ns, status.st_size) if status else (0, 0)


def _unwritten(transport: RemoteTransport, path: str, code: int, stderr: str) -> CommandError:
    return CommandError(
        f"files cannot be written to {path} on {transport.host}",
        exit_code=code,
        stderr=stderr,
        hint="Choose a workdir (or rootdir) that you may write to, or make room there.",
    )
