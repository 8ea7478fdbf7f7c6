"""Modules that travel along: the user's own, and cloudpickle."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from clusterjob.errors import SettingsError

_LEFT_OUT = {"__pycache__", ".git", ".ipynb_checkpoints", ".mypy_cache"}
_MOST = 1 << 28  # bytes of a package
_WHEN = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # of all files, so that the same ones give the same archive


def pack_modules(names: Iterable[str | os.PathLike[str]]) -> list[bytes]:
    """Return an archive for each module, package or folder that is named.

    A name is looked for as ``import`` does; a path is that of a ``.py`` file or of a package's
    folder. Raises :class:`SettingsError`.
    """
    if isinstance(names, (str, os.PathLike)):
        raise SettingsError(
            f"include = {names!r}: expected a list of modules or paths"
        )
    return [_pack(_locate(name)) for name in names]


@functools.cache
def cloudpickle_archive() -> bytes:
    """Return cloudpickle as it is installed here; nothing where it is not."""
    found = importlib.util.find_spec("cloudpickle")
    if found is None or found.origin is None:
        return b""
    return _pack(Path(found.origin).parent)


def _locate(name: str | os.PathLike[str]) -> Path:
    path = Path(name).expanduser()
    if isinstance(name, os.PathLike) or os.sep in str(name) or path.suffix == ".py":
        if path.exists():
            return path.absolute()
        raise SettingsError(f"include: there is no file or folder {str(name)!r}")
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is not None and found.submodule_search_locations:
        return Path(next(iter(found.submodule_search_locations)))
    if found is not None and found.origin and found.origin.endswith(".py"):
        return Path(found.origin)
    raise SettingsError(
        f"include: there is no module {name!r} of Python here; a path of a folder or of a .py file "
        "is one with a slash in it"
    )


def _pack(path: Path) -> bytes:
    """Return a package or a module as a zip file, which Python imports from."""
    stream, size = io.BytesIO(), 0
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(_files_of(path)):
            data = file.read_bytes()
            size += len(data)
            if size > _MOST:
                raise SettingsError(
                    f"include: {path} has more than {_MOST >> 20} MB; name the modules that are "
                    "needed, and bring data there in another way"
                )
            name = file.relative_to(path.parent).as_posix()
            archive.writestr(zipfile.ZipInfo(name, _WHEN), data)
    return stream.getvalue()


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        for name in names:
            file = Path(folder, name)
            if file.suffix != ".pyc" and file.is_file():
                yield file


def digest(data: bytes) -> str:
    """Return the digest that an archive is known by."""
    return hashlib.sha256(data).hexdigest()
