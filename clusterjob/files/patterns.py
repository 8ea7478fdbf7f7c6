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

from clusterjob.errors import SettingsError
from clusterjob.store import InputFile, OutputPattern

Path = str | os.PathLike[str]
# paths, pairs of a path and a new name, or a mapping of the one to the other
Files = Path | Iterable[Path | tuple[Path, Path]] | Mapping[Path, Path]
# they change while jobs are submitted
_OUR_FOLDERS = {".clusterjob", ".clusterjob-runs"}
_MAGIC = re.compile(r"[*?\[]")
_WILD = re.compile(r"(\*\*/|\*+|\?|\[[^\]/]+\])")


def parse_files(files: Files, what: str) -> list[tuple[str, str]]:
    """Return what was named, and the name it shall have on the other side (empty: the same).

    ``what`` names it in errors: ``input`` or ``output``. Raises :class:`SettingsError`.
    """
    items: Iterable[object]
    if isinstance(files, Mapping):
        items = files.items()
    elif isinstance(files, (str, os.PathLike)):
        items = [files]
    else:
        items = files
    return [_parse_pair(item, what) for item in items]


def _parse_pair(item: object, what: str) -> tuple[str, str]:
    pair = item if isinstance(item, (tuple, list)) else (item, "")
    if len(pair) != 2 or not all(
        isinstance(part, (str, os.PathLike)) for part in pair
    ):
        raise SettingsError(
            f"{what} {item!r} is neither a path nor a pair of a path and its new name"
        )
    source, name = (str(os.fspath(part)) for part in pair)
    if not source:
        raise SettingsError(f"{what} {item!r} has no name")
    return source, name


def check_inside(name: str, what: str) -> str:
    """Check that a file name stays in the folder it is relative to; return its plain form.

    ``what`` names it in errors. Raises :class:`SettingsError`.
    """
    path = os.path.normpath(name)
    leads_out = os.path.isabs(path) or path.split("/")[0] == ".." or path in ("", ".")
    if leads_out or any(ord(character) < 32 for character in name):
        raise SettingsError(
            f"{what} {name!r} is not a file below the workdir: "
            "expected a relative path without '..' and control characters"
        )
    return path


def _deep(pattern: str) -> bool:
    """Whether a pattern finds files at any depth: a folder that it finds does not bring what is in
    it once more, with its hidden files.
    """
    return "**" in pattern and _MAGIC.search(posixpath.basename(pattern)) is not None


# -- inputs ----------------------------------------------------------------------------------------


def expand_inputs(files: Files, may_lack: bool = False) -> tuple[InputFile, ...]:
    """Return the input files that are meant, with their contents' sha256.

    With ``may_lack`` a plain name may be that of a file that is not there yet, and has no sum then.

    Folders and globs bring many, symlinks what they point to. Raises :class:`SettingsError` for
    what is not there, what would leave the workdir, and two files of one name.
    """
    found: dict[str, InputFile] = {}
    for source, name in parse_files(files, "input"):
        if may_lack and not os.path.lexists(source) and not _MAGIC.search(source):
            target = check_inside(name or source, "input")
            found[target] = InputFile(target, "", "")
            continue
        for local, relative in _expand(os.path.expanduser(source), name, source):
            item = _input_file(local, relative, source)
            other = found.setdefault(item.path, item)
            if other.source != item.source:
                raise SettingsError(
                    f"inputs {other.source} and {item.source} would both be {item.path!r} "
                    "in the workdir"
                )
    return tuple(found.values())


def _input_file(local: str, relative: str, written: str) -> InputFile:
    if "\\" in relative:
        raise SettingsError(
            f"input {relative!r}: a name with a backslash cannot be checked on the other side; "
            "rename the file"
        )
    target = check_inside(relative, "input")
    path = os.path.abspath(local)
    try:
        digest = _digest_of(path)
    except OSError as error:
        raise SettingsError(
            f"input {written!r}: {path} cannot be read: {error.strerror}"
        ) from error
    return InputFile(target, digest, path)


def has_changed(item: InputFile) -> bool:
    """Whether an input is there, and other than it was."""
    try:
        return bool(item.source) and _digest_of(item.source) != item.digest
    except OSError:
        return False


def _expand(source: str, name: str, written: str) -> Iterator[tuple[str, str]]:
    """Yield each file, and the name it has in the workdir."""
    if os.path.lexists(source):
        own = (
            os.path.basename(os.path.abspath(source))
            if os.path.isabs(source)
            else source
        )
        is_folder = name.endswith("/")
        target = (
            os.path.join(name, os.path.basename(own)) if is_folder else name or own
        )
        yield from _walk(source, target, written, set())
        return
    matches = (
        sorted(glob.glob(source, recursive=True)) if _MAGIC.search(source) else []
    )
    if not matches:
        raise SettingsError(
            f"input {written!r}: there is no such file in {os.getcwd()}"
        )
    for match in matches:
        if _deep(source) and os.path.isdir(match):
            continue
        base = os.path.basename(match)
        own = base if os.path.isabs(match) else match
        yield from _walk(
            match, os.path.join(name, base) if name else own, written, set()
        )


def _walk(
    source: str, target: str, written: str, above: set[str]
) -> Iterator[tuple[str, str]]:
    """Yield the files of a folder, or a file itself; ``above`` are the folders that it is in."""
    if not os.path.exists(source):
        raise SettingsError(
            f"input {written!r}: {source} is a symbolic link to something that is not there"
        )
    if os.path.isfile(source):
        yield source, target
        return
    if not os.path.isdir(source):
        raise SettingsError(
            f"input {written!r}: {source} is neither a file nor a folder"
        )
    real = os.path.realpath(source)
    if real in above:
        raise SettingsError(
            f"input {written!r}: {source} is a symbolic link to a folder that it is in itself"
        )
    for entry in sorted(set(os.listdir(source)) - _OUR_FOLDERS):
        below = os.path.join(source, entry)
        yield from _walk(below, os.path.join(target, entry), written, above | {real})


def _digest_of(path: str) -> str:
    status = os.stat(path)
    return _digest(
        path,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
        status.st_ino,
    )


@functools.lru_cache(maxsize=16384)
def _digest(source: str, mtime: int, changed: int, size: int, inode: int) -> str:
    digest = hashlib.sha256()
    with open(source, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -- outputs ---------------------------------------------------------------------------------------


def parse_outputs(files: Files) -> tuple[OutputPattern, ...]:
    """Return pattern and new name of each output.

    Raises :class:`SettingsError` for one that would leave the workdir.
    """
    found = []
    for pattern, name in parse_files(files, "output"):
        if name:
            check_inside(name, "output")
        found.append(OutputPattern(check_inside(pattern, "output"), name))
    return tuple(found)


def find_roots(pattern: str, folder: str) -> str:
    """Return shell words that name, in a folder, what a pattern stands for and perhaps more.

    Shells differ in what a character is.
    """
    start = "./" if folder == "." else f"./{folder}/"
    if "**" in pattern:
        return shlex.quote(f"{start}{fixed_part(pattern)}".rstrip("/"))
    words = [shlex.quote(start)]
    for part in filter(None, _WILD.split(pattern)):
        words.append("*" if _WILD.fullmatch(part) else shlex.quote(part))
    return "".join(words)


def fixed_part(pattern: str) -> str:
    """Return the folder that a pattern's first wildcard is in, with a slash at its end.

    Empty for the workdir; the whole of what has no wildcards.
    """
    match = _MAGIC.search(pattern)
    return (
        pattern
        if match is None
        else pattern[: pattern.rfind("/", 0, match.start()) + 1]
    )


def matches(pattern: str, path: str) -> bool:
    """Whether a file is meant by a pattern, or is in a folder that is.

    ``**`` stands for any folders, as in :func:`glob.glob`.
    """
    whole = _expression(pattern) + ("" if _deep(pattern) else "(?:/.*)?")
    return re.fullmatch(whole, path) is not None


@functools.lru_cache(maxsize=256)
def _expression(pattern: str) -> str:
    """Translate a pattern to a regular expression; a wildcard begins no hidden name."""
    text, begins_name = "", True
    for part in filter(None, _WILD.split(pattern)):
        visible = r"(?!\.)" if begins_name else ""
        if begins_name and part == "**/":
            text += r"(?:[^/.][^/]*/)*"
        elif begins_name and part == "**":
            text += r"(?:[^/.][^/]*/)*[^/.][^/]*"
        elif part.startswith("*"):
            text += visible + "[^/]*" + part.lstrip("*")
        elif part == "?":
            text += visible + "[^/]"
        elif part.startswith("[") and len(part) > 1:
            text += visible + _character_class(part[1:-1])
        else:
            text += re.escape(part)
        begins_name = part.endswith("/")
    return text


def _character_class(inner: str) -> str:
    escaped = inner.replace("\\", "\\\\").replace("[", "\\[")
    if escaped.startswith(("!", "^")):
        escaped = "^" + escaped[1:]
    try:
        re.compile(f"[{escaped}]")
    except re.error:  # "[!]", "[z-a]": the characters as they stand, as in a shell
        return re.escape(f"[{inner}]")
    return f"[{escaped}]"


def local_name(pattern: str, name: str, path: str) -> str:
    """Return the name, below the local folder, of a file that a pattern brought.

    Without a new name it is that of the workdir. A new name stands for the one file or folder that
    was named; where it ends with a slash, or the pattern has wildcards, it is a folder that the
    files go into.
    """
    if not name:
        return path
    if _MAGIC.search(pattern):
        return posixpath.join(name, path.removeprefix(fixed_part(pattern)))
    below = path.removeprefix(pattern).lstrip("/")
    whole = (
        posixpath.join(name, posixpath.basename(pattern))
        if name.endswith("/")
        else name
    )
    return posixpath.join(whole, below) if below else whole
