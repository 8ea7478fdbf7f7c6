"""The folder of a pool on another host: each question is one round trip."""

from __future__ import annotations

import secrets
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clusterjob.errors import CommandError
from clusterjob.files import ArchiveWriter
from clusterjob.functions.places import FOLDERS, LISTED, Haul, NewFile
from clusterjob.runner import Signed, open_signed
from clusterjob.shell import in_portions, load_shell, quote, quote_all
from clusterjob.transport import Completed, RemoteTransport

_PUT, _SETTLE, _COLLECT, _WITHDRAW = (
    Path(__file__).parent / f"{name}.sh"
    for name in ("put", "settle", "collect", "withdraw")
)
_LISTING = 2.0  # s between two looks into the folders that calls go through
_IN_MEMORY = 8 << 20  # bytes of an answer that is not put on the disk
_GONE = 4  # exit code: the folder is not there
_NAMES = 200  # of a line
_SECOND = 10  # looks for results in one


class RemotePlace:
    """A pool's folder on another host."""

    def __init__(self, transport: RemoteTransport, folder: str) -> None:
        self.transport = transport
        self.folder = folder
        self._before = "none"  # the last upload
        self._listed = 0.0

    def _script(self, file: Path, settings: Mapping[str, str], *lines: str) -> str:
        given = {"cj_pool": self.folder, **settings}
        heads = [f"{name}={quote(value)}" for name, value in given.items()]
        return "\n".join([*heads, load_shell(file), *lines, ""])

    def _check(self, done: Completed, what: str) -> Completed:
        if done.exit_code != 0:
            words = (
                "is not there any more"
                if done.exit_code == _GONE
                else "cannot be used"
            )
            raise CommandError(
                f"the folder of calls {words}: {self.folder} on {self.transport.host} ({what})",
                exit_code=done.exit_code,
                stderr=done.stderr,
                hint="Choose a workdir (or rootdir) that you may write to, or make room there.",
            )
        return done

    def make(self, files: Sequence[NewFile]) -> None:
        self.put(files)
        self._run("unset_stop", "rm -f stop stop-*")

    def put(self, files: Sequence[NewFile]) -> None:
        number = secrets.token_hex(8)
        settings = {"cj_id": number, "cj_before": self._before}
        script = load_shell(_SETTLE) + self._script(_PUT, settings)
        done = self.transport.patiently(
            lambda: self.transport.feed(script, _archive(files))
        )
        self._check(done, "sending calls")
        self._before = number

    def collect(self, gone: Sequence[str], patience: float) -> Haul:
        is_due = time.monotonic() - self._listed > _LISTING
        settings = {
            "cj_looks": str(max(1, round(patience * _SECOND))),
            "cj_list": "yes" if is_due else "",
        }
        forget = [
            f"printf '%s\\n' {quote_all(names)} | cj_forget"
            for names in in_portions(list(gone), _NAMES)
        ]
        script = self._script(
            _COLLECT,
            settings,
            *forget,
            "cj_print",
        )
        file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # it is kept
        done = self.transport.stream(script, file.write, patience + 120.0)
        self._check(done, "collecting results")
        if is_due:
            self._listed = time.monotonic()
        return self._read(file, is_due)

    def _read(self, file: IO[bytes], has_listing: bool) -> Haul:
        file.seek(0)
        listing = _listing_of(_lines_before_files(file))
        start = file.tell()
        haul = Haul(listing if has_listing else None)
        if file.read(1):
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r|") as archive:
                for member in archive:
                    at = start + member.offset_data
                    haul.files[member.name] = _Member(file, at, member.size).read
        return haul

    def listing(self) -> dict[str, list[str]]:
        lines = [f"echo ={name}; ls {name}" for name in LISTED]
        done = self._run("looking", *lines)
        return _listing_of(done.stdout.splitlines())

    def _run(self, what: str, *lines: str) -> Completed:
        head = f"cd {quote(self.folder)} 2>/dev/null || exit {_GONE}"
        done = self.transport.run("\n".join([head, *lines]), 120.0)
        return self._check(done, what)

    def withdraw(self, chunks: Mapping[str, Sequence[str]]) -> set[str]:
        lines = [
            f"cj_withdraw {quote_all([name, *others])} || exit"
            for name, others in chunks.items()
        ]
        said = bytearray()
        script = self._script(_WITHDRAW, {}, *lines)
        done = self.transport.stream(script, said.extend, 120.0)  # never twice
        self._check(done, "taking calls back")
        return set(said.decode("utf-8", "replace").split())

    def move(self, names: Mapping[str, str]) -> None:
        lines = [f"cj_move {quote_all(pair)}" for pair in names.items()]
        done = self.transport.run(self._script(_WITHDRAW, {}, *lines), 120.0)
        self._check(done, "putting calls back")

    def read_log(self, name: str, start: int, end: int | None) -> bytes:
        most = "" if end is None else f" | head -c {end - start}"
        path = quote(f"{self.folder}/logs/{name}")
        said = bytearray()
        script = f"[ ! -f {path} ] || tail -c +{start + 1} {path}{most}"
        self.transport.stream(script, said.extend, 120.0)
        return bytes(said)

    def stop(self) -> None:
        self._run("ending workers", ": >stop")

    def exists(self) -> bool:
        """Whether the folder is there. What an upload left there, whole, gets its places."""
        script = "\n".join(
            [
                f"cd {quote(self.folder)} 2>/dev/null || exit {_GONE}",
                f"for cj_one in {quote_all(FOLDERS)}; do [ -d $cj_one ] || exit {_GONE}; done",
                load_shell(_SETTLE),
                'for cj_one in tmp/in-*; do cj_settle "${cj_one#tmp/in-}" || exit 1; done',
            ]
        )
        done = self.transport.run(script, 120.0)
        if done.exit_code == _GONE:
            return False
        self._check(done, "looking")
        return True

    def remove(self) -> None:
        folder = quote(self.folder)
        script = f'rm -rf {folder}; rmdir "$(dirname {folder})" 2>/dev/null; :'
        self.transport.run(script, 120.0)


@dataclass(frozen=True)
class _Member:
    """A file in an archive that was fetched."""

    file: IO[bytes]
    at: int
    size: int

    def read(self, key: bytes, label: str) -> Signed:
        self.file.seek(self.at)
        data = bytearray(self.file.read(self.size))
        return open_signed(
            data,
            key,
            label,
            label.rpartition(":")[2],
        )


def _lines_before_files(file: IO[bytes]) -> Iterator[str]:
    for line in iter(file.readline, b""):
        if line == b"=files\n":
            return
        yield line.decode("utf-8", "replace")


def _listing_of(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return the names in each folder, which stand under ``=FOLDER``."""
    found: dict[str, list[str]] = {name: [] for name in LISTED}
    folder = ""
    for line in lines:
        word = line.rstrip("\n")
        if word.startswith("="):
            folder = word[1:]
        elif folder in found:
            found[folder].append(word)
    return found


def _archive(files: Sequence[NewFile]) -> Iterator[bytes]:
    """Yield the archive of files, and of one that says that it came whole."""
    writer = ArchiveWriter()
    for file in files:
        name = f"{file.folder or 'root'}/{file.name}"
        yield from writer.add(
            name,
            file.blobs,
            file.size,
            0o600,
        )
    yield from writer.add(
        "end",
        "",
        0,
        0o600,
    )
    yield from writer.finish()
