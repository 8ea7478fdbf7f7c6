"""Records in one SQLite file: the store that needs nothing."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clusterjob.errors import StoreError
from clusterjob.plain_files import open_beside
from clusterjob.store.base import (
    VERSION,
    Damaged,
    Rebuilt,
    Report,
    newer_version_error,
)
from clusterjob.store.owner import (
    check_not_public,
    foreign_error,
    foreign_owner,
    is_missing,
    unusable_error,
    user_name,
)
from clusterjob.store.record import Record
from clusterjob.store.rows import (
    PORTION,
    SCHEMA,
    Connection,
    insert,
    is_storable,
    make_newest_current,
    migrate,
)
from clusterjob.store.sql import SqlStore
from clusterjob.store.sqlite_file import BEGINNING, as_text, count_rows, salvage

# File systems of several machines. Writing ahead needs memory that all openers share.
_SHARED = (
    *(
        "nfs",
        "cifs",
        "smb",
        "lustre",
        "gpfs",
        "beegfs",
        "afs",
        "ceph",
        "glusterfs",
        "fuse.",
    ),
    *("9p", "orangefs", "pvfs", "panfs", "wekafs", "gfs2", "ocfs2"),
)


_MOST_COPIED = 4 << 30  # bytes
_CACHE = 32000  # kB; the 2 MB that SQLite takes by itself are the work of 1,000 jobs
_LOG_PAGES = 4000  # of 4 KB, before they are copied into the database
# what SQLite says of a file that is broken, or none of its own
_CORRUPT = (
    "malformed",
    "not a database",
    "corrupt",
    "no such table",
    "no such column",
)


class SqliteStore(SqlStore):
    """The store of one folder.

    On a local disk it writes ahead (SQLite's WAL). On a file system that several machines share it
    keeps a rollback journal, because WAL needs shared memory (sqlite.org/wal.html, section 1);
    there it is as safe as that file system's locks.
    """

    _place = "rowid"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.url = f"sqlite:///{path}"
        # as the open connection counts; another one counts from elsewhere
        self._data_version: int | None = None
        self._changes = 0
        # of the file that was opened
        self._identity: tuple[int, int] | None = None
        # whom it belonged to when that was asked first: it does not change hands later
        self._owner: str | None = None
        # where the store is another user's
        self._copy: tempfile.TemporaryDirectory[str] | None = None

    def _scan(
        self, select: str, condition: str, values: Sequence[object]
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """Yield them in the order in which they were written, which needs no sorting."""
        last = 0
        while True:
            with self._transaction(write=False) as connection:
                rows = _fetch(
                    connection,
                    f"{select}, rowid FROM records "
                    f"WHERE rowid > ? AND {condition} ORDER BY rowid LIMIT {PORTION}",
                    [last, *values],
                )
            if not rows:
                return
            yield rows
            last = rows[-1][-1]

    def changes(self) -> int:
        with self._lock:
            try:
                connection = self._connect(write=False)
                version = connection.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error as error:
                raise self._explain(error) from error
            self._changes += version != self._data_version
            self._data_version = version
            return self._changes

    def quarantine(self, damaged: Damaged) -> str:
        name = re.sub(r"[^\w-]", "_", damaged.token, flags=re.ASCII)[:64]
        target = self.path.parent / "damaged" / f"{name}.json"
        token = damaged.token.encode("utf-8", "surrogateescape")
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor, part = open_beside(target)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(damaged.raw)
            part.replace(target)
        except OSError as error:
            raise StoreError(
                f"{target} cannot be written: {error.strerror}"
            ) from error
        with self._transaction() as connection:
            connection.execute(
                "DELETE FROM records WHERE CAST(token AS BLOB) = ?", (token,)
            )
            if is_storable(damaged.key):
                make_newest_current(connection, [damaged.key])
        return str(target)

    def rebuild(self) -> Rebuilt:
        if not self.examine().corrupt:
            raise StoreError(
                f"the store {self.path} is not broken: it stays as it is"
            )
        with self._lock:
            self.close()
            records = list(salvage(self.path))
            if not records:
                raise StoreError(
                    f"nothing can be read of the store {self.path}, so it stays as it is: restore "
                    "it from a backup; or see to it that no job of it runs any more, and delete it"
                )
            there = count_rows(self.path)
            new = self._make_anew(records)
            old = self.path.with_name(
                f"{self.path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}"
            )
            for suffix in ("-wal", "-shm", "-journal", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(old.with_name(old.name + suffix))
            new.rename(self.path)
        lost = None if there is None else max(0, there - len(records))
        return Rebuilt(str(old), len(records), lost)

    def _make_anew(self, records: Sequence[Record]) -> Path:
        """Write a whole store beside this one; where that fails, nothing of it stays."""
        descriptor, new = open_beside(self.path)
        os.close(descriptor)
        try:
            connection = sqlite3.connect(new, isolation_level=None)
            with contextlib.closing(connection):
                connection.execute("PRAGMA synchronous = FULL")
                self._prepare(connection)
                connection.execute("BEGIN IMMEDIATE")
                insert(connection, records, current=None)
                make_newest_current(connection, {record.key for record in records})
                connection.execute("COMMIT")
        except BaseException as error:
            new.unlink(missing_ok=True)
            if isinstance(error, sqlite3.Error):
                raise self._explain(error) from error
            raise
        return new

    @property
    def owner(self) -> str:
        if self._owner is None:
            self._owner = self._owner_now()
        return self._owner

    def _owner_now(self) -> str:
        check_not_public((self.path, self.path.parent))
        suffixes = ("", "-wal", "-shm", "-journal")
        return foreign_owner([f"{self.path}{suffix}" for suffix in suffixes])

    def _check_hands(self, owner: str) -> None:
        """Raise :class:`StoreError` where it is not whose it was: somebody exchanges files."""
        if owner != self.owner:
            raise StoreError(
                f"the store {self.path} belongs to {owner or 'you'} now, and belonged to "
                f"{self.owner or 'you'} when it was looked at: it is not used. See to who may "
                "write to the folders above it"
            )

    def exists(self) -> bool:
        return not is_missing(self.path) and self.path.is_file()

    @contextlib.contextmanager
    def _transaction(self, write: bool = True) -> Iterator[Connection]:
        with self._lock:
            try:
                connection = self._connect(write)
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                try:
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def _connect(self, write: bool) -> sqlite3.Connection:
        """Return the connection; who only reads makes no store."""
        if self._is_open():
            open_one: sqlite3.Connection = self._connection
            if write and self._copy is not None:
                raise foreign_error(self.url, self.owner)
            if write:
                self._check_there()
            return open_one
        owner = self._owner_now()
        self._check_hands(owner)
        if write and owner:
            raise foreign_error(self.url, owner)
        if not write and is_missing(self.path):
            return _empty()
        if owner:
            return self._open_copy()
        self._make()
        before = _open_files()
        connection = sqlite3.connect(
            self.path, timeout=60, isolation_level=None, check_same_thread=False
        )
        self._check_hands(_owner_of_opened(before))
        connection.text_factory = as_text
        _set_journal(connection, "delete" if is_shared(self.path) else "wal")
        # a claim is on disk before anything is submitted
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA cache_size = {-_CACHE}")
        self._prepare(connection)
        self._connection, self._pid = connection, os.getpid()
        self._identity = _identity(self.path)
        self._data_version = None
        return connection

    def _make(self) -> None:
        """Make folder and file, where they are not there. Nothing else is changed.

        The file is a whole store when it gets its name: one of no bytes was emptied since.
        """
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._check_not_emptied()
            if not self.path.exists():
                new = self._make_anew([])
                with contextlib.suppress(
                    FileExistsError
                ):  # another process was first
                    _give_name(new, self.path)
                new.unlink(missing_ok=True)
        except FileExistsError:
            if not self.path.exists():
                raise StoreError(
                    f"{folder} is no folder, so no store can be in it"
                ) from None
        except OSError as error:
            raise unusable_error(self.path, error) from error

    def _check_not_emptied(self) -> None:
        """Raises :class:`StoreError` for a file of no bytes: to SQLite it is a good database."""
        if self.path.exists() and self.path.stat().st_size == 0:
            raise StoreError(
                f"the store {self.path} is a file of no bytes: what was in it is lost. Restore it "
                "from a backup; or see to it that no job of it runs any more, and delete it"
            )

    def _check_there(self) -> None:
        """Raises :class:`StoreError` where the file was deleted or replaced since it was opened."""
        if _identity(self.path) != self._identity:
            raise StoreError(
                f"the store {self.path} was deleted or replaced while it was in use, so nothing is "
                "written. Put it back, or close the session and begin again with what is there now"
            )

    def _open_copy(self) -> sqlite3.Connection:
        """Open a copy of another user's store: to open it would write beside it."""
        self._copy = tempfile.TemporaryDirectory(prefix="clusterjob-")
        target = Path(self._copy.name, self.path.name)
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                self._copy_part(Path(f"{self.path}{suffix}"), f"{target}{suffix}")
        connection = sqlite3.connect(
            target, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = as_text
        self._prepare(connection)
        self._connection, self._pid = connection, os.getpid()
        self._data_version = None
        return connection

    def _copy_part(self, source: Path, target: str) -> None:
        if source.stat().st_size > _MOST_COPIED:
            raise StoreError(
                f"{source} has more than {_MOST_COPIED >> 30} GB, and is of another user's: it is "
                "not copied to be looked at"
            )
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"{source} cannot be copied, to be looked at: {error.strerror}"
            ) from error

    def close(self) -> None:
        super().close()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = _version(connection)
        if version < 0 or version > VERSION:
            connection.close()
            raise newer_version_error(str(self.path), version)
        if 0 < version < VERSION:
            self._back_up(connection, version)
        if version < VERSION:
            connection.execute("BEGIN IMMEDIATE")
            try:
                version = _version(connection)  # another process may have been first
                if version == 0:
                    for statement in SCHEMA.split(";"):
                        connection.execute(statement)
                elif version < VERSION:
                    migrate(connection, version)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _back_up(self, connection: sqlite3.Connection, version: int) -> None:
        target = self.path.with_name(f"{self.path.name}.version-{version}")
        if not target.exists():
            descriptor, part = open_beside(target)
            os.close(descriptor)
            copy = sqlite3.connect(part)
            try:
                connection.backup(copy)
            finally:
                copy.close()
            part.rename(target)

    def _facts(self, connection: Connection) -> dict[str, str]:
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        kind = filesystem(self.path)
        why = (
            "several machines may share it" if is_shared(self.path) else "a local one"
        )
        return {
            "version": str(VERSION),
            "journal": f"{mode}, on a file system of type {kind or 'unknown'} ({why})",
            "sqlite": sqlite3.sqlite_version,
        }

    def examine(self) -> Report:
        with ThreadPoolExecutor(1) as pool:
            try:
                if not self.exists():
                    return Report(
                        {"store": self.url, "records": "0, it is not there"}
                    )
                with self._lock:
                    self._connect(write=False)
            except (sqlite3.Error, StoreError):
                return super().examine()  # which says it
            # beside the reading, because it takes as long
            checking = pool.submit(self._check_file)
            report = super().examine()
            if not report.broken:
                report.broken = checking.result()
                report.corrupt = bool(report.broken)
        return report

    def _check_file(self) -> str:
        """Return what SQLite says is wrong with the file."""
        path = Path(self._copy.name, self.path.name) if self._copy else self.path
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        connection.text_factory = as_text
        with contextlib.closing(connection):
            try:
                rows = connection.execute("PRAGMA integrity_check(5)").fetchall()
            except sqlite3.Error as error:
                return str(self._explain(error))
        said = [row[0] for row in rows]
        return "" if said == ["ok"] else "; ".join(said)

    def _explain(self, error: sqlite3.Error) -> StoreError:
        """Say what an error of the database means, and what to do about it."""
        words = str(error)
        if isinstance(error, sqlite3.OperationalError):
            if any(word in words for word in ("locked", "busy")):
                return StoreError(
                    f"the store {self.path} was locked by another process for a minute; "
                    "try again when that one is done"
                )
            if any(
                word in words for word in ("full", "readonly", "open", "disk I/O")
            ):
                return StoreError(
                    f"the store {self.path} cannot be written: {words}. "
                    "Make room or mend the permissions, and run again"
                )
        if not any(word in words for word in _CORRUPT):
            return StoreError(f"the store {self.path} cannot be used: {words}")
        found = StoreError(
            f"the store {self.path} is damaged or no store ({words}). Nothing was changed. "
            "'clusterjob doctor --fix' makes a new one of what can be read of it; "
            "or restore it from a backup"
        )
        found.is_corrupt = True
        return found


def _give_name(new: Path, path: Path) -> None:
    """Give a file its name, where nothing has it. Raises FileExistsError."""
    try:
        os.link(new, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        new.rename(path)


def _fetch(
    connection: Any, statement: str, values: Sequence[object]
) -> list[tuple[Any, ...]]:
    """Return what a statement finds; texts are read in the fast way where all of them can be."""
    connection.text_factory = str
    try:
        return list(connection.execute(statement, values))
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    finally:
        connection.text_factory = as_text
    return list(connection.execute(statement, values))


def filesystem(path: Path) -> str:
    """Return the type of the file system that a path is on: ``ext4``, ``nfs4``.

    Empty where it cannot be told.
    """
    try:
        mounts = (
            Path("/proc/mounts")
            .read_text(encoding="utf-8", errors="replace")
            .splitlines()
        )
    except OSError:
        return ""
    best, kind = -1, ""
    where = os.path.realpath(path)
    for line in mounts:
        fields = line.split(" ")
        point = fields[1].encode().decode("unicode_escape", "replace")
        if (where == point or where.startswith(point.rstrip("/") + "/")) and len(
            point
        ) >= best:
            best, kind = len(point), fields[2]
    return kind


def is_shared(path: Path) -> bool:
    """Whether a path is on a file system that other machines may use at the same time."""
    return filesystem(path).startswith(_SHARED)


def _open_files() -> dict[int, os.stat_result]:
    """Return the files that this process has open, by their numbers, where that can be told."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing itself was one of them
                found[int(name)] = os.fstat(int(name))
    return found


def _owner_of_opened(before: Mapping[int, os.stat_result]) -> str:
    """Return the other user whom a database belongs to that was opened since; empty for one's own.

    A path that was looked at may lead elsewhere when it is opened; what is open stays what it is.
    """
    for number, status in _open_files().items():
        if number in before or status.st_uid == os.geteuid():
            continue
        with contextlib.suppress(OSError):
            if os.pread(number, 16, 0) == BEGINNING:
                return user_name(status.st_uid)
    return ""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _empty() -> sqlite3.Connection:
    """Return what a store that is not there has."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return connection


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _set_journal(connection: sqlite3.Connection, mode: str) -> None:
    """Switch the file to a journal mode, once; SQLite does not wait for other openers by itself
    here.
    """
    deadline = time.monotonic() + 60
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != mode:
                connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
