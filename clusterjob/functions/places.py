"""The folder of a pool, where it is on this machine; and what every such place can do."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clusterjob.errors import CommandError
from clusterjob.runner import Blob, Signed, copy_file, read_signed

FOLDERS = ("todo", "taken", "results", "workers", "shared", "logs", "tmp")
LISTED = (
    "todo",
    "taken",
    "workers",
)  # in the order in which a call goes through them
_PAUSES = (0.002, 0.05)  # s between two looks: the shortest, the longest
_LISTING = 0.5  # s between two looks into the folders that calls go through
_MOST_FILES = 500  # that are collected at a time

# reads a file that is signed with a key, by a label
Reader = Callable[[bytes, str], Signed]


@dataclass
class Haul:
    """What was found in a pool's folder.

    ``listing`` has the names in the folders of ``LISTED``, where it was looked into them;
    ``files`` those of results, with what reads each: it gets key and label, and raises
    :class:`Untrusted` or OSError.
    """

    listing: dict[str, list[str]] | None = None
    files: dict[str, Reader] = field(default_factory=dict)


@dataclass(frozen=True)
class NewFile:
    """A file for a pool: its folder and name in it, and its bytes."""

    folder: str
    name: str
    blobs: Sequence[Blob]

    @property
    def size(self) -> int:
        return sum(map(len, self.blobs))


class Place(Protocol):
    """A pool's folder. Every method raises :class:`CommandError`."""

    folder: str

    def make(self, files: Sequence[NewFile]) -> None:
        """Make the folder with what workers need before they begin."""

    def put(self, files: Sequence[NewFile]) -> None:
        """Write files, each whole or not at all, and none twice."""

    def collect(self, gone: Sequence[str], patience: float) -> Haul:
        """Delete results that were read, and return new ones; wait for them for so many seconds.

        The other folders are looked into now and then.
        """

    def listing(self) -> dict[str, list[str]]:
        """Return the names in the folders that calls go through."""

    def withdraw(self, chunks: Mapping[str, Sequence[str]]) -> set[str]:
        """Put chunks that no worker has taken under other names, several or none, and return which
        ones.
        """

    def move(self, names: Mapping[str, str]) -> None:
        """Put chunks that dead workers had (the keys) back, under other names."""

    def read_log(self, name: str, start: int, end: int | None) -> bytes:
        """Return a part of a log; nothing where it is not there."""

    def stop(self) -> None:
        """Tell all workers to end."""

    def exists(self) -> bool:
        """Whether the folder is there."""

    def remove(self) -> None:
        """Delete the folder with all that is in it."""


@contextlib.contextmanager
def _as_command_error(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"the folder of calls cannot be used: {folder}: {error.strerror}",
            hint="Choose a workdir (or rootdir) that you may write to, or make room there.",
        ) from error


class LocalPlace:
    """A pool's folder on this machine."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._listed = 0.0

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def make(self, files: Sequence[NewFile]) -> None:
        with _as_command_error(self.folder):
            Path(self.folder).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(self.folder).mkdir(mode=0o700, exist_ok=True)
            for name in FOLDERS:
                Path(self._path(name)).mkdir(mode=0o700, exist_ok=True)
        self.put(files)

    def put(self, files: Sequence[NewFile]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with _as_command_error(self.folder):
            for file in files:
                descriptor = os.open(self._path("tmp", file.name), flags, 0o600)
                with open(descriptor, "wb") as stream:
                    stream.writelines(file.blobs)
            # on a disk that is full no worker has seen any of them
            for file in files:
                target = self._path(file.folder, file.name)
                os.rename(self._path("tmp", file.name), target)

    def collect(self, gone: Sequence[str], patience: float) -> Haul:
        with _as_command_error(self.folder):
            for name in gone:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path("results", name))
            names = self._wait(patience)
            readers: dict[str, Reader] = {
                name: _LocalFile(self._path("results", name)).read
                for name in sorted(names)[:_MOST_FILES]
            }
            is_due = time.monotonic() - self._listed > _LISTING
            if is_due:
                self._listed = time.monotonic()
            return Haul(self.listing() if is_due else None, readers)

    def _wait(self, patience: float) -> list[str]:
        """Return the names of results, when there are some or the patience is over."""
        deadline = time.monotonic() + patience
        pause, longest = _PAUSES
        while True:
            names = os.listdir(self._path("results"))
            left = deadline - time.monotonic()
            if names or left <= 0:
                return names
            time.sleep(min(pause, left))
            pause = min(1.2 * pause, longest)

    def listing(self) -> dict[str, list[str]]:
        with _as_command_error(self.folder):
            return {name: os.listdir(self._path(name)) for name in LISTED}

    def withdraw(self, chunks: Mapping[str, Sequence[str]]) -> set[str]:
        taken = set()
        with _as_command_error(self.folder):
            for name, others in chunks.items():
                part = self._path("tmp", name)
                try:
                    os.rename(self._path("todo", name), part)
                except FileNotFoundError:
                    continue
                taken.add(name)
                for other in others:
                    copy_file(part, f"{part}@{other}")
                    os.rename(f"{part}@{other}", self._path("todo", other))
                os.unlink(part)
        return taken

    def move(self, names: Mapping[str, str]) -> None:
        with _as_command_error(self.folder):
            for source, target in names.items():
                with contextlib.suppress(FileNotFoundError):
                    if target:
                        os.rename(
                            self._path("taken", source), self._path("todo", target)
                        )
                    else:
                        os.unlink(self._path("taken", source))

    def read_log(self, name: str, start: int, end: int | None) -> bytes:
        with _as_command_error(self.folder):
            try:
                with open(self._path("logs", name), "rb") as file:
                    file.seek(start)
                    return file.read(-1 if end is None else end - start)
            except FileNotFoundError:
                return b""

    def stop(self) -> None:
        with _as_command_error(self.folder), contextlib.suppress(FileNotFoundError):
            Path(self._path("stop")).touch(mode=0o600)

    def exists(self) -> bool:
        return all(os.path.isdir(self._path(name)) for name in FOLDERS)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are there
            os.rmdir(os.path.dirname(self.folder))


@dataclass(frozen=True)
class _LocalFile:
    path: str

    def read(self, key: bytes, label: str) -> Signed:
        return read_signed(self.path, key, label)
