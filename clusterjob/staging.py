"""What the inputs and outputs of a job name: files, folders, globs, renames.

Pure but for looking at local files.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterjob.errors import SettingsError

Files = (
    Iterable[Any] | Mapping[Any, Any]
)  # paths, pairs of a path and a new name, or a mapping of the one to the other
_MAGIC = re.compile(r"[*?\[]")
_WILD = re.compile(r"(\*\*/|\*+|\?|\[[^\]/]+\])")


def pairs(files: Files, what: str) -> list[tuple[str, str]]:
    """Return what was named, and the name it shall have on the other side (empty: the same).

    Raises :class:`SettingsError`.
    """
    items: Iterable[Any] = (
        files.items()
        if isinstance(files, Mapping)
        else [files]
        if isinstance(files, (str, os.PathLike))
        else files
    )
    found = []
    for item in items:
        pair = item if isinstance(item, (tuple, list)) else (item, "")
        if len(pair) != 2 or not all(isinstance(part, (str, os.PathLike)) for part in pair):
            raise SettingsError(
                f"{what} {item!r} is neither a path nor a pair of a path and its new name"
            )
        source, name = (str(os.fspath(part)) for part in pair)
        if not source:
            raise SettingsError(f"{what} {item!r} has no name")
        found.append((source, name))
    return found


def inside(name: str, what: str) -> str:
    """Check that a file name stays in the folder it is relative to, and return it in its plain
    form.
    """
    path = os.path.normpath(name)
    if (
        os.path.isabs(path)
        or path.split("/")[0] == ".."
        or path in ("", ".")
        or any(ord(character) < 32 for character in name)
    ):
        raise SettingsError(
            f"{what} {name!r} is not a file below the workdir: expected a relative path without "
            "'..' and control characters"
        )
    return path


def _deep(pattern: str) -> bool:
    """Whether a pattern finds files at any depth: a folder that it finds does not bring what is in
    it once more, with its hidden files.
    """
    return "**" in pattern and _MAGIC.search(posixpath.basename(pattern)) is not None


# -- inputs ----------------------------------------------------------------------------------------


def expand_inputs(files: Files) -> list[list[str]]:
    """Return path in the workdir, sha256 and absolute local path of each input file; folders and
    globs bring many, symlinks what they point to.

    Raises :class:`SettingsError` for what is not there, what would leave the workdir, and two files
    of one name.
    """
    found: dict[str, list[str]] = {}
    for source, name in pairs(files, "input"):
        for local, relative in _expand(os.path.expanduser(source), name, source):
            if "\\" in relative:
                raise SettingsError(
                    f"input {relative!r}: a name with a backslash cannot be checked on the other "
                    "side; rename the file"
                )
            target = inside(relative, "input")
            path = os.path.abspath(local)
            if target in found and found[target][2] != path:
                raise SettingsError(
                    f"inputs {found[target][2]} and {path} would both be {target!r} in the workdir"
                )
            try:
                status = os.stat(path)
                found[target] = [
                    target,
                    _digest(path, status.st_mtime_ns, status.st_size, status.st_ino),
                    path,
                ]
            except OSError as error:
                raise SettingsError(
                    f"input {source!r}: {path} cannot be read: {error.strerror}"
                ) from error
    return list(found.values())


def _expand(source: str, name: str, written: str) -> Iterator[tuple[str, str]]:
    """Yield each file, and the name it has in the workdir."""
    if os.path.lexists(source):
        own = os.path.basename(os.path.abspath(source)) if os.path.isabs(source) else source
        target = os.path.join(name, os.path.basename(own)) if name.endswith("/") else name or own
        yield from _walk(source, target, written, set())
        return
    matches = sorted(glob.glob(source, recursive=True)) if _MAGIC.search(source) else []
    if not matches:
        raise SettingsError(f"input {written!r}: there is no such file in {os.getcwd()}")
    for match in matches:
        if not (_deep(source) and os.path.isdir(match)):
            own = os.path.basename(match) if os.path.isabs(match) else match
            yield from _walk(
                match, os.path.join(name, os.path.basename(match)) if name else own, written, set()
            )


def _walk(source: str, target: str, written: str, above: set[str]) -> Iterator[tuple[str, str]]:
    if not os.path.exists(source):
        raise SettingsError(
            f"input {written!r}: {source} is a symbolic link to something that is not there"
        )
    if not os.path.isdir(source):
        if not os.path.isfile(source):
            raise SettingsError(f"input {written!r}: {source} is neither a file nor a folder")
        yield source, target
        return
    real = os.path.realpath(source)
    if real in above:
        raise SettingsError(
            f"input {written!r}: {source} is a symbolic link to a folder that it is in itself"
        )
    for entry in sorted(os.listdir(source)):
        yield from _walk(
            os.path.join(source, entry), os.path.join(target, entry), written, above | {real}
        )


@functools.lru_cache(maxsize=16384)
def _digest(source: str, mtime: int, size: int, inode: int) -> str:
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -- outputs ---------------------------------------------------------------------------------------


def check_outputs(files: Files) -> list[list[str]]:
    """Return pattern and new name of each output.

    Raises :class:`SettingsError` for one that would leave the workdir.
    """
    found = []
    for pattern, name in pairs(files, "output"):
        if name:
            inside(name, "output")
        found.append([inside(pattern, "output"), name])
    return found


def find_roots(pattern: str, folder: str) -> str:
    """Return shell words that name, in a folder, what a pattern stands for and perhaps more: shells
    differ in what a character is.
    """
    place = "./" if folder == "." else f"./{folder}/"
    if "**" in pattern:
        return shlex.quote(f"{place}{fixed(pattern)}".rstrip("/"))
    return shlex.quote(place) + "".join(
        "*" if _WILD.fullmatch(part) else shlex.quote(part) for part in _WILD.split(pattern) if part
    )


def fixed(pattern: str) -> str:
    """Return the folder that a pattern's first wildcard is in, with a slash at its end; empty for
    the workdir.
    """
    match = _MAGIC.search(pattern)
    return pattern if match is None else pattern[: pattern.rfind("/", 0, match.start()) + 1]


def matches(pattern: str, path: str) -> bool:
    """Whether a file is meant by a pattern, or is in a folder that is; ``**`` stands for any
    folders, as in :func:`glob.glob`.
    """
    return (
        re.fullmatch(_expression(pattern) + ("" if _deep(pattern) else "(?:/.*)?"), path)
        is not None
    )


@functools.lru_cache(maxsize=256)
def _expression(pattern: str) -> str:
    text, begins = "", True  # a name, which a wildcard does not begin with a dot
    for part in filter(None, _WILD.split(pattern)):
        visible = r"(?!\.)" if begins else ""
        if begins and part in ("**/", "**"):
            text += r"(?:[^/.][^/]*/)*" + ("" if part == "**/" else r"[^/.][^/]*")
        elif part.startswith("*"):
            text += visible + "[^/]*" + part.lstrip("*")
        elif part == "?":
            text += visible + "[^/]"
        elif part.startswith("[") and len(part) > 1:
            inner = part[1:-1].replace("\\", "\\\\")
            text += (
                visible
                + "["
                + (inner.replace("!", "^", 1) if inner.startswith("!") else inner)
                + "]"
            )
        else:
            text += re.escape(part)
        begins = part.endswith("/")
    return text


def local_name(pattern: str, name: str, path: str) -> str:
    """Return the name, below the local folder, of a file that a pattern brought.

    Without a new name it is that of the workdir. A new name stands for the one file or folder that
    was named; where it ends with a slash, or the pattern has wildcards, it is a folder that the
    files go into.
    """
    if not name:
        return path
    if _MAGIC.search(pattern):
        return posixpath.join(name, path.removeprefix(fixed(pattern)))
    below = path.removeprefix(pattern).lstrip("/")
    whole = posixpath.join(name, posixpath.basename(pattern)) if name.endswith("/") else name
    return posixpath.join(whole, below) if below else whole
