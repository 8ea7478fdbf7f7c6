"""Chunks of calls as they are written to a pool: signed, and what calls share once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clusterjob.functions.book import PoolRow
from clusterjob.functions.calls import Call
from clusterjob.functions.chunks import Chunk
from clusterjob.functions.claims import runs_of
from clusterjob.functions.payload import Payload
from clusterjob.functions.places import NewFile
from clusterjob.runner import Blob, padded, sign

_SharedFile = tuple[
    str, Mapping[str, object], Sequence[Blob]
]  # digest, header, bytes


class ChunkWriter:
    """Makes the files of one pool."""

    def __init__(self, row: PoolRow) -> None:
        self._row = row

    def files_of(
        self, chunk: Chunk, own: Sequence[Call], shared: set[str]
    ) -> Iterator[NewFile]:
        """Yield the files of a chunk, of which ``own`` are to be called: what they share first,
        unless it is in ``shared``, where it is noted.
        """
        for call in own:
            for digest, header, blobs in _shared_of(call):
                if digest not in shared:
                    shared.add(digest)
                    yield self._file("shared", digest, header, blobs)
        first = chunk.calls[0].number
        name = f"{first:08d}-{chunk.granted}"
        said: list[dict[str, Any]] = []
        pieces: list[Blob] = []
        for call in chunk.calls:
            arguments = _arguments_of(call)
            own_words = {"n": call.number, "f": call.function.digest}
            said.append({**own_words, "v": arguments.said, **arguments.python})
            pieces += arguments.blobs
        for low, high in runs_of(call.number - first for call in own):
            part = f"{name}_{low}_{high}"
            yield self._file("todo", part, {"calls": said}, pieces, name)

    def _file(
        self,
        folder: str,
        name: str,
        header: Mapping[str, object],
        blobs: Sequence[Blob],
        label: str = "",
    ) -> NewFile:
        words = f"{folder}:{self._row.id}:{label or name}"
        signed = sign(self._row.secret, words, dict(header), padded(blobs))
        return NewFile(folder, name, signed)


def _shared_of(call: Call) -> Iterator[_SharedFile]:
    """Yield what a call may have in common with others."""
    function = call.function
    for payload in (function, _arguments_of(call)):
        for digest, blob in payload.shared.items():
            yield digest, {"length": len(blob)}, [blob]
    yield function.digest, {"v": function.said, **function.python}, function.blobs


def _arguments_of(call: Call) -> Payload:
    assert call.arguments is not None
    return call.arguments
