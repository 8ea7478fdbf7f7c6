"""Files that are written beside the ones whose names they get."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def open_beside(path: str | os.PathLike[str], mode: int = 0o600) -> tuple[int, Path]:
    """Make an empty file beside a path, under a name that nobody can foresee, and open it.

    So neither a file that is there nor a link that somebody put there is written into. Returns the
    descriptor and the name. Raises OSError.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), part
