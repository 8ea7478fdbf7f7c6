"""The stream of small files: a compressed tar archive.

What does not shrink is not squeezed.
"""

from __future__ import annotations

import io
import tarfile
import time
import zlib
from collections.abc import Iterator

from clusterjob.errors import CommandError
from clusterjob.files.outgoing import Content, blocks_of

_FLUSH = 1 << 16  # compressed bytes that are sent in one piece
_SAMPLE = 1 << 14
_GZIP = 31  # zlib: a gzip header, the largest window


def compression_level(block: bytes) -> int:
    """Return how hard to squeeze: not at all what hardly shrinks."""
    sample = block[:_SAMPLE]
    if len(zlib.compress(sample, 1)) > 0.7 * len(sample):
        return 0
    return 6 if len(block) < _FLUSH else 1


class ArchiveWriter:
    """Makes the archive piece by piece: each method yields the bytes that are ready to be sent.

    It is a gzip file of members, one after the other, each with a level of its own (RFC 1952, 2.2).
    """

    def __init__(self) -> None:
        self._level = 6
        self._used = False
        self._member = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
        self._waiting = io.BytesIO()

    def add(
        self,
        name: str,
        content: Content,
        size: int,
        mode: int,
    ) -> Iterator[bytes]:
        """Add a file. Raises :class:`CommandError` for one that is not as long as it was."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, mode, int(time.time())
        head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        left = size
        for block in blocks_of(content):
            left -= len(block)
            yield from self._pack(head + block, compression_level(block))
            head = b""
        if left:
            raise CommandError(f"{content} changed while it was read")
        yield from self._pack(head + b"\0" * (-size % tarfile.BLOCKSIZE))

    def finish(self) -> Iterator[bytes]:
        """End the archive."""
        yield from self._pack(b"\0" * tarfile.RECORDSIZE, 6)
        self._waiting.write(self._member.flush())
        yield self._take()

    def _pack(self, data: bytes, level: int | None = None) -> Iterator[bytes]:
        if level is not None and level != self._level:
            if self._used:
                self._waiting.write(self._member.flush())
            self._member = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
            self._level = level
        self._used = True
        self._waiting.write(self._member.compress(data))
        if self._waiting.tell() > _FLUSH:
            yield self._take()

    def _take(self) -> bytes:
        data = self._waiting.getvalue()
        self._waiting = io.BytesIO()
        return data
