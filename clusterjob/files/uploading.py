"""Files go up: small ones of a whole batch in one compressed tar stream, large ones by themselves.

A file that is to replace another arrives beside it under another name, is checked, and gets its
name at the end. What is there already, by its content, is not sent; what several jobs share is sent
once; a large file goes on from where an earlier try ended. The other side needs sh, tar, gzip and,
to compare contents, sha256sum or shasum.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from clusterjob.errors import CommandError
from clusterjob.files.outgoing import Upload, encode
from clusterjob.plain_files import open_beside
from clusterjob.transport import RecordingTransport, RemoteTransport, Transport

_HINT = (
    "Choose a workdir (or rootdir) that you may write to, or make room there. Where several people "
    "work in one folder, its .clusterjob-runs is the first one's: each uses a folder below it."
)


def upload(transport: Transport, files: Sequence[Upload]) -> None:
    """Write files on a transport's host; missing folders are made for their owner only.

    Raises :class:`CommandError` where one cannot be read here or written there; what carries its
    name is whole.
    """
    if isinstance(transport, RecordingTransport):
        transport = transport.inner
    if isinstance(transport, RemoteTransport):
        from clusterjob.files.send import (
            send,
        )  # tar and zlib are for other hosts alone

        send(transport, files)
    else:
        write_here(files)


def write_here(files: Sequence[Upload]) -> None:
    """Write files on this machine; a folder is made once."""
    made: set[str] = set()
    for file in files:
        try:
            folder = os.path.dirname(file.path)
            if folder not in made:
                _make_folder(folder)
                made.add(folder)
            _write(file)
        except OSError as error:
            why = error.strerror or error
            if isinstance(file.content, Path) and error.filename == str(file.content):
                raise CommandError(f"{file.content} cannot be read: {why}") from error
            raise CommandError(
                f"{file.path} cannot be written: {why}", hint=_HINT
            ) from error


def _make_folder(folder: str) -> None:
    """Make a folder, and the one that it is in, for their owner only."""
    if os.path.isdir(folder):
        return
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    os.makedirs(folder, mode=0o700, exist_ok=True)


def _write(file: Upload) -> None:
    """Write one file, and that into no file or link that is there; no part of it stays where
    something goes wrong.
    """
    mode = 0o700 if file.executable else 0o600
    if file.replace:
        descriptor, part = open_beside(file.path, mode)
        path = str(part)
    else:
        path = file.path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        if isinstance(file.content, Path):
            with (
                os.fdopen(descriptor, "wb") as target,
                file.content.open("rb") as source,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
            shutil.copymode(file.content, path)
        else:
            _write_text(descriptor, file.content)
        if file.replace:
            os.replace(path, file.path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _write_text(descriptor: int, text: str) -> None:
    """Write and close, without the buffers of a file object: there are thousands of these."""
    content = encode(text)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)
