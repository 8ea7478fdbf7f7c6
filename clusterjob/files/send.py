"""Sending files over a connection: the steps of an upload to another host."""

from __future__ import annotations

import hashlib
import posixpath
import secrets
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.errors import CommandError
from clusterjob.fields import require_number
from clusterjob.files.archive import ArchiveWriter, compression_level
from clusterjob.files.outgoing import Upload, blocks_of, encode, size_of
from clusterjob.files.progress import Progress
from clusterjob.shell import in_portions, load_shell, quote, quote_all
from clusterjob.transport import Completed, RemoteTransport

LARGE = 4 << 20  # bytes from which on a file travels by itself
# bytes of small files that travel together: what arrived stays there when the line breaks
_PORTION = 32 << 20
# a file that several jobs share is rather sent again, compressed, than copied by a process of its
# own
_TINY = 4 << 10
_NAMES = 500  # of one command line
_GZIP = 31  # zlib: a gzip header, the largest window
_RECEIVE, _UNPACK, _APPEND = (
    Path(__file__).parent / f"{name}.sh" for name in ("receive", "unpack", "append")
)


@dataclass
class _Item:
    """One content and the places it goes to.

    The first gets it from here, the others a copy over there.
    """

    file: Upload
    size: int
    copies: list[Upload] = field(default_factory=list)

    @property
    def part(self) -> str:
        """The name of a large file while it arrives.

        It is the same for the same content, so that a later try goes on with it.
        """
        word = self.file.digest or hashlib.sha256(encode(self.file.path)).hexdigest()
        return f".clusterjob-part-{word[:16]}"

    @property
    def folder(self) -> str:
        return posixpath.dirname(self.file.path)

    @property
    def name(self) -> str:
        return posixpath.basename(self.file.path)


def send(transport: RemoteTransport, files: Sequence[Upload]) -> None:
    """Write files on another host; a line that breaks is tried again, with what is missing."""
    total = sum(size_of(file.content) for file in files)
    with Progress(transport.host, total, transport.hooks) as progress:
        transport.patiently(lambda: _Sending(transport, progress).send(files))


class _Sending:
    """One try of an upload."""

    def __init__(self, transport: RemoteTransport, progress: Progress) -> None:
        self.transport = transport
        self.progress = progress

    def send(self, files: Sequence[Upload]) -> None:
        """Find out what is missing, send it, and give it its names."""
        wanted, offsets = self._find_missing(files)
        self.progress.restart(sum(size_of(file.content) for file in wanted))
        items = _gather(wanted)
        for portion in _portions([item for item in items if item.size < LARGE]):
            self._send_small(portion)
        large = [item for item in items if item.size >= LARGE]
        for item in large:
            self._send_large(item, offsets.get(item.part, 0))
        damaged = self._settle(
            items, [item for item in large if offsets.get(item.part)]
        )
        for item in damaged:  # what was there before was not its beginning
            self.progress.add(-item.size)
            self._send_large(item, 0)
        if damaged and self._settle(damaged, damaged):
            raise self._unwritten(damaged[0].file.path, 1, "it arrived damaged")

    # -- what is there -----------------------------------------------------------------------------

    def _find_missing(
        self, files: Sequence[Upload]
    ) -> tuple[list[Upload], dict[str, int]]:
        """Return the files that are not there, and how much of the large ones has arrived.

        Only known contents are asked about.
        """
        asked = [file for file in files if file.digest]
        if not asked:
            return list(files), {}
        folders: dict[str, list[Upload]] = {}
        for file in asked:
            folders.setdefault(posixpath.dirname(file.path), []).append(file)
        lines = [load_shell(_RECEIVE)]
        for number, (folder, members) in enumerate(folders.items()):
            parts = {
                _Item(file, 0).part
                for file in members
                if size_of(file.content) >= LARGE
            }
            sums = _sums(
                (posixpath.basename(file.path), file.digest) for file in members
            )
            lines.append(
                f"cj_compare {number} {quote_all([folder, *sorted(parts)])} {sums}"
            )
        done = self.transport.run("\n".join(lines))
        there, offsets = _read_comparison(
            done.stdout, list(folders), self.transport.host
        )
        missing = [
            file for file in files if not file.digest or file.path not in there
        ]
        return missing, offsets

    # -- small files -------------------------------------------------------------------------------

    def _send_small(self, items: Sequence[_Item]) -> None:
        part = f".clusterjob-part-{secrets.token_hex(8)}"
        base = posixpath.commonpath({item.folder for item in items})
        # the script is part of the archive: what is read byte by byte stays short
        finish = _finish_script(items, base, part)
        settings = (
            f"cj_base={quote(base)} cj_finish={f'{part}.sh' if finish else ''}\n"
        )
        script = settings + load_shell(_UNPACK)
        done = self.transport.feed(script, self._archive(items, base, part, finish))
        self._check(done, base)

    def _archive(
        self,
        items: Sequence[_Item],
        base: str,
        part: str,
        finish: str,
    ) -> Iterator[bytes]:
        writer = ArchiveWriter()
        for item in items:
            folder = posixpath.relpath(item.folder, base)
            if item.file.replace:
                folder = posixpath.join(folder, part)
            name = posixpath.join(".", folder, item.name)
            yield from writer.add(
                name, item.file.content, item.size, _mode(item.file)
            )
            self.progress.add(item.size)
        if finish:
            yield from writer.add(f"./{part}.sh", finish, len(encode(finish)), 0o600)
        yield from writer.finish()

    # -- large files -------------------------------------------------------------------------------

    def _send_large(self, item: _Item, offset: int) -> None:
        """Send a file, or what is missing of it, to stand beside its place."""
        if offset > item.size:
            offset = 0
        sample = next(blocks_of(item.file.content, offset), b"")
        squeeze = compression_level(sample) > 0
        settings = (
            f"cj_folder={quote(item.folder)} cj_name={item.part} cj_offset={offset} "
            f"cj_unpack={quote('gzip -dc' if squeeze else 'cat')}\n"
        )
        script = settings + load_shell(_APPEND)
        self.progress.add(offset)
        done = self.transport.feed(script, self._content(item.file, offset, squeeze))
        self._check(done, item.file.path)

    def _content(self, file: Upload, offset: int, squeeze: bool) -> Iterator[bytes]:
        packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
        before = _stamp(file)
        for block in blocks_of(file.content, offset):
            data = packer.compress(block) if squeeze else block
            if data:
                yield data
            self.progress.add(len(block))
        if _stamp(file) != before:
            raise CommandError(
                f"{file.content} changed while it was sent; submit again"
            )
        if squeeze:
            yield packer.flush()

    def _settle(
        self, items: Sequence[_Item], doubtful: Sequence[_Item]
    ) -> list[_Item]:
        """Give large files their names, and copy what several jobs share.

        Returns the ones that are not what they should be. Only a ``doubtful`` one, of which an
        earlier connection left a part, is summed up; the job compares the sums of all its inputs
        before it begins.
        """
        lines = []
        for number, item in enumerate(items):
            copies = [_copy_line(item, file) for file in item.copies]
            if item.size < LARGE:
                lines += copies
                continue
            part = posixpath.join(item.folder, item.part)
            digest = item.file.digest if item in doubtful else ""
            lines.append(
                f"if cj_arrived {quote_all([part, str(item.size), digest])}; then"
            )
            lines.append(
                f"cj_place {quote_all([part, f'{_mode(item.file):o}', item.file.path])}"
            )
            lines += [*copies, f"else rm -f {quote(part)}; echo damaged {number}; fi"]
        if not lines:
            return []
        script = "\n".join(["umask 077", load_shell(_RECEIVE), *lines])
        done = self.transport.run(script)
        self._check(done, items[0].file.path)
        numbers = [
            require_number(line.removeprefix("damaged "), self.transport.host)
            for line in done.stdout.split("\n")
            if line.startswith("damaged ")
        ]
        return [items[number] for number in numbers if number < len(items)]

    # -- errors ------------------------------------------------------------------------------------

    def _check(self, done: Completed, path: str) -> None:
        if done.exit_code != 0:
            raise self._unwritten(path, done.exit_code, done.stderr)

    def _unwritten(self, path: str, code: int, stderr: str) -> CommandError:
        return CommandError(
            f"files cannot be written to {path} on {self.transport.host}",
            exit_code=code,
            stderr=stderr,
            hint="Choose a workdir (or rootdir) that you may write to, or make room there.",
        )


def _gather(files: Iterable[Upload]) -> list[_Item]:
    """Bring together what has the same content."""
    items: list[_Item] = []
    known: dict[str, _Item] = {}
    for file in files:
        size = size_of(file.content)
        first = known.get(file.digest) if file.digest and size > _TINY else None
        if first is not None:
            first.copies.append(file)
            continue
        items.append(_Item(file, size))
        if file.digest:
            known[file.digest] = items[-1]
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


def _sums(files: Iterable[tuple[str, str]]) -> str:
    """Return the here-document that hands names and sums to ``sha256sum -c``."""
    lines = "".join(f"{digest}  ./{name}\n" for name, digest in files)
    return f"<<'CJ_SUMS'\n{lines}CJ_SUMS"


def _read_comparison(
    text: str, folders: Sequence[str], host: str
) -> tuple[set[str], dict[str, int]]:
    """Read what ``cj_compare`` says: the files that are there, and the sizes of parts."""
    there: set[str] = set()
    offsets: dict[str, int] = {}
    folder = ""
    for line in text.split("\n"):
        if line.startswith("="):
            number = require_number(line[1:], host)
            folder = folders[number] if number < len(folders) else ""
        elif line.startswith("part "):
            part, _, size = line.removeprefix("part ").rpartition(" ")
            offsets[part] = require_number(size, host)
        elif line.endswith(": OK"):
            name = line.removeprefix("./").removesuffix(": OK")
            there.add(posixpath.join(folder, name))
    return there, offsets


def _finish_script(items: Sequence[_Item], base: str, part: str) -> str:
    """Return the script that checks what arrived under other names, and gives it its names.

    Empty where nothing did.
    """
    folders: dict[str, list[_Item]] = {}
    for item in items:
        if item.file.replace:
            folders.setdefault(item.folder, []).append(item)
    if not folders:
        return ""
    lines = [load_shell(_RECEIVE)]
    for folder, members in folders.items():
        # the name of a folder may begin with a dash
        below = posixpath.join(".", posixpath.relpath(folder, base), part)
        lines.append(f"( cj_enter {quote(below)}")
        known = [
            (item.name, item.file.digest) for item in members if item.file.digest
        ]
        if known:
            lines.append(f"cj_check {_sums(known)}")
        for names in in_portions([f"./{item.name}" for item in members], _NAMES):
            lines.append(f"cj_move_up {quote_all(names)}")
        lines.append(f"cj_leave {part} ) || return 1")
    return "\n".join([*lines, "return 0\n"])


def _copy_line(item: _Item, file: Upload) -> str:
    folder, name = posixpath.split(file.path)
    mode = f"{_mode(file):o}"
    return f"cj_copy {quote_all([item.file.path, folder, item.part, mode, name])}"


def _mode(file: Upload) -> int:
    if isinstance(file.content, Path):
        return file.content.stat().st_mode & 0o777 | 0o400
    return 0o700 if file.executable else 0o600


def _stamp(file: Upload) -> tuple[int, int]:
    """Return what changes when a local file does."""
    if not isinstance(file.content, Path):
        return (0, 0)
    status = file.content.stat()
    return status.st_mtime_ns, status.st_size
