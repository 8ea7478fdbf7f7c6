"""A file on its way to the other side, and its content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clusterjob.errors import CommandError

_BLOCK = 1 << 20
# a text, the local file that has it, or pieces of bytes
Content = str | Path | Sequence[bytes | bytearray | memoryview]


@dataclass(frozen=True)
class Upload:
    """One file for the other side: its absolute path there, and its content.

    That is a text, or the local file that has it.
    """

    path: str
    content: str | Path
    executable: bool = False
    replace: bool = False  # whole or not at all, over a file that may be there
    # the sha256 of its content, where it is known: a file that is there already is not sent
    digest: str = ""


def size_of(content: Content) -> int:
    """Return a content's length in bytes. Raises :class:`CommandError`."""
    if isinstance(content, str):
        return len(encode(content))
    if not isinstance(content, Path):
        return sum(map(len, content))
    try:
        return content.stat().st_size
    except OSError as error:
        raise _unreadable(content, error) from error


def encode(text: str) -> bytes:
    """Return the bytes of a text; names that are no text come through as they were."""
    return text.encode("utf-8", "surrogateescape")


def _unreadable(path: Path, error: OSError) -> CommandError:
    return CommandError(f"{path} cannot be read: {error.strerror}")


def blocks_of(content: Content, offset: int = 0) -> Iterator[bytes]:
    """Yield a content in pieces. Raises :class:`CommandError`."""
    if isinstance(content, str):
        yield encode(content)
        return
    if not isinstance(content, Path):
        assert not offset
        for piece in content:
            for start in range(0, len(piece), _BLOCK):
                yield bytes(piece[start : start + _BLOCK])
        return
    try:
        with open(content, "rb", buffering=0) as source:
            source.seek(offset)
            while block := source.read(_BLOCK):
                yield block
    except OSError as error:
        raise _unreadable(content, error) from error
