"""Records in PostgreSQL, for people who share a store or run many processes on it.

Needs the extra ``postgres`` (psycopg).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from clusterjob.errors import StoreError
from clusterjob.store.base import VERSION, Damaged, Rebuilt, newer_version_error
from clusterjob.store.rows import (
    SCHEMA,
    Connection,
    make_newest_current,
    migrate,
)
from clusterjob.store.sql import SqlStore

if TYPE_CHECKING:
    import psycopg

_LOCK = 0x636C7573  # the advisory lock of whoever writes


class PostgresStore(SqlStore):
    """The store of one PostgreSQL database, in a schema ``clusterjob`` of its own.

    ``url`` is a connection URI as libpq reads it (PostgreSQL manual, 34.1.1.2). Passwords belong in
    ``~/.pgpass``; one that stands in the URI is used, and never shown or kept.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            import psycopg  # noqa: F401
        except ImportError as error:
            raise StoreError(
                "a store in PostgreSQL needs psycopg: pip install 'clusterjob[postgres]'"
            ) from error
        self._dsn = url
        self.url = _without_password(url)
        self._revision: int | None = None
        self._changes = 0

    def changes(self) -> int:
        with self._transaction(write=False) as connection:
            revision = connection.execute(
                "SELECT revision FROM clusterjob.state"
            ).fetchone()[0]
        with self._lock:
            self._changes += revision != self._revision
            self._revision = revision
            return self._changes

    def quarantine(self, damaged: Damaged) -> str:
        with self._transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS damaged (token TEXT, raw TEXT)"
            )
            connection.execute(
                "INSERT INTO damaged VALUES (?, ?)", (damaged.token, damaged.raw)
            )
            connection.execute(
                "DELETE FROM records WHERE token = ?", (damaged.token,)
            )
            make_newest_current(connection, [damaged.key])
        return "the table clusterjob.damaged"

    def rebuild(self) -> Rebuilt:
        raise StoreError(
            f"{self.url}: mending a broken database is PostgreSQL's own business; see its manual, "
            "chapter 'Backup and Restore'"
        )

    def exists(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self._dsn, connect_timeout=10) as database:
                row = database.execute(
                    "SELECT to_regclass('clusterjob.state')"
                ).fetchone()
        except psycopg.Error as error:
            raise StoreError(
                f"the store {self.url} cannot be used: {str(error).strip()}"
            ) from error
        return row is not None and row[0] is not None

    @contextlib.contextmanager
    def _transaction(self, write: bool = True) -> Iterator[Connection]:
        import psycopg

        with self._lock:
            try:
                database = self._connect()
                with database.transaction():
                    connection = _Questions(database)
                    if write:
                        connection.execute(
                            "SELECT pg_advisory_xact_lock(?)", (_LOCK,)
                        )
                    yield connection
                    if write:
                        self._count(connection)
            except psycopg.Error as error:
                if self._connection is not None and self._connection.closed:
                    # the server was restarted: the next call connects again
                    self._connection = None
                raise StoreError(
                    f"the store {self.url} cannot be used: "
                    f"{str(error).strip() or type(error).__name__}"
                ) from error

    def _count(self, connection: Connection) -> None:
        """Count this change, so that others see there was one."""
        revision = connection.execute(
            "UPDATE clusterjob.state SET revision = revision + 1 RETURNING revision"
        ).fetchone()[0]
        if self._revision == revision - 1:
            self._revision = revision

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        if self._is_open() and not self._connection.closed:
            open_one: psycopg.Connection[Any] = self._connection
            return open_one
        database = psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=10,
            options="-c search_path=clusterjob",
        )
        self._prepare(database)
        self._connection, self._pid = database, os.getpid()
        return database

    def _prepare(self, database: psycopg.Connection[Any]) -> None:
        with database.transaction():
            connection = _Questions(database)
            connection.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
            if (
                connection.execute(
                    "SELECT to_regclass('clusterjob.state')"
                ).fetchone()[0]
                is None
            ):
                connection.execute("CREATE SCHEMA IF NOT EXISTS clusterjob")
                for statement in _sorted_by_bytes(SCHEMA).split(";"):
                    connection.execute(statement)
                connection.execute(
                    "CREATE TABLE state (version INTEGER, revision BIGINT)"
                )
                connection.execute("INSERT INTO state VALUES (?, 0)", (VERSION,))
            version = connection.execute("SELECT version FROM state").fetchone()[0]
            if version > VERSION:
                raise newer_version_error(self.url, version)
            if version < VERSION:
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS records_version_{int(version)} AS TABLE records"
                )
                migrate(connection, version)
                connection.execute("UPDATE state SET version = ?", (VERSION,))

    def _facts(self, connection: Connection) -> dict[str, str]:
        server = connection.execute("SHOW server_version").fetchone()[0]
        began = time.time()
        theirs = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp())"
        ).fetchone()[0]
        return {
            "version": str(VERSION),
            "postgresql": str(server),
            "clock": f"{float(theirs) - began:+.1f} s against this machine",
        }


class _Questions:
    """A connection that takes ``?`` for values, as SQLite does."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self._database = database

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Any:
        return self._database.execute(statement.replace("?", "%s"), values or None)

    def executemany(
        self, statement: str, rows: Iterable[Sequence[object]], /
    ) -> None:
        with self._database.cursor() as cursor:
            cursor.executemany(statement.replace("?", "%s"), list(rows))


def _sorted_by_bytes(schema: str) -> str:
    """Give the columns that are searched by their beginnings the order of SQLite's."""
    schema = schema.replace("key TEXT", 'key TEXT COLLATE "C"')
    return schema.replace("name TEXT PRI", 'name TEXT COLLATE "C" PRI')


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}@{host}"))
