"""Plain files: read within bounds, and written so that nobody else's is touched."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from clusterjob.errors import SettingsError

_MOST = 1 << 26  # bytes of a text that a person wrote


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced. Raises :class:`SettingsError`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingsError(
            f"{os.fspath(path)!r}: there is no such user, or none with a home; write the path out"
        ) from None


def read_text(
    path: str | os.PathLike[str],
    encoding: str = "utf-8",
    errors: str = "strict",
    most: int = _MOST,
) -> str:
    """Return the text of a file: a plain one, or a pipe that was handed to this process.

    Other pipes and devices may never end. Raises OSError, and ValueError for what is no text or has
    more than ``most`` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(
                errno.EISDIR, os.strerror(errno.EISDIR), str(path)
            )
        is_handed = stat.S_ISFIFO(kind) and os.path.realpath(path).startswith(
            "/proc/"
        )
        if not stat.S_ISREG(kind) and not is_handed:
            raise ValueError("it is a pipe or a device, and no plain file")
        os.set_blocking(descriptor, True)
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MB")
    return data.decode(encoding, errors)


@contextlib.contextmanager
def held_folder(
    base: str | os.PathLike[str], below: str | os.PathLike[str]
) -> Iterator[Path]:
    """Make a folder below another, hold it open, and give a path to it.

    Whoever renames it meanwhile, or puts a link in its place, changes nothing: the path leads to
    what was opened. No link below ``base`` is followed. Raises OSError.
    """
    Path(base).mkdir(parents=True, exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY
    held = os.open(base, flags)
    try:
        for name in Path(below).parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=held)
            outer = held
            try:
                held = os.open(name, flags | os.O_NOFOLLOW, dir_fd=outer)
            finally:
                if held != outer:
                    os.close(outer)
        by_descriptor = Path(f"/proc/self/fd/{held}")
        yield by_descriptor if by_descriptor.exists() else Path(base, below)
    finally:
        os.close(held)


def foreign_link(base: str, path: str) -> str:
    """Return a link of another user on the way from a folder to a path below it, if there is one.

    Such a link may lead to files of ours, which would be written over. Root's are followed.
    """
    step = path
    while step.startswith(f"{base}/"):
        if os.path.islink(step) and os.lstat(step).st_uid not in (0, os.geteuid()):
            return step
        step = os.path.dirname(step)
    return ""


def open_beside(path: str | os.PathLike[str], mode: int = 0o600) -> tuple[int, Path]:
    """Make an empty file beside a path, under a name that nobody can foresee, and open it.

    So neither a file that is there nor a link that somebody put there is written into. Returns the
    descriptor and the name. Raises OSError.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), part


def open_own(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file of ours to add to it; it is made where there is none.

    Its name can be foreseen, so somebody may have put something else there. Raises OSError for a
    link, for what is no plain file, and for the file of another user.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    status = os.fstat(descriptor)
    is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    if not is_own or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(
            errno.EPERM, "a file of somebody else's is in the way", str(path)
        )
    return os.fdopen(descriptor, "ab")
