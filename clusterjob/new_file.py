"""Files that are written beside the ones whose names they get."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO


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
