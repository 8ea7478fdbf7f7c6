"""Which store is meant, and opening it."""

from __future__ import annotations

import os
from pathlib import Path

from clusterjob.errors import StoreError
from clusterjob.store.base import Store

_FOLDER = ".clusterjob"
_FILE = "store.sqlite"


def locate_store(where: str | os.PathLike[str] | None = None) -> str:
    """Return the URL of a store; nothing is opened or made.

    ``where`` is a folder or ``sqlite:///PATH`` (one SQLite file), ``file:///FOLDER`` (a JSON file a
    record), or ``postgresql://...``. Without it it is ``$CLUSTERJOB_STORE``, else the folder
    ``.clusterjob`` of the working directory or the nearest one above it, else a new one in the
    working directory.
    """
    text = (
        os.fspath(where)
        if where is not None
        else os.environ.get("CLUSTERJOB_STORE", "")
    )
    kind, separator, rest = text.partition("://")
    if not text:
        return f"sqlite://{_nearest()}/{_FILE}"
    if not separator:
        return f"sqlite://{(Path(text).expanduser() / _FILE).absolute()}"
    if kind not in ("sqlite", "file"):
        return text
    # sqlite:///relative and sqlite:////absolute, as SQLAlchemy has it; file:///absolute
    if rest.startswith("//") or (kind == "sqlite" and rest.startswith("/")):
        rest = rest[1:]
    return f"{kind}://{Path(rest).absolute()}"


def open_store(where: str | os.PathLike[str] | None = None) -> Store:
    """Open the store that :func:`locate_store` finds. Raises :class:`StoreError`.

    The object is made anew each time; files and connections are opened when they are needed.
    """
    url = locate_store(where)
    kind, _, rest = url.partition("://")
    if kind == "sqlite":
        from clusterjob.store.sqlite import SqliteStore

        return SqliteStore(Path(rest))
    if kind == "file":
        from clusterjob.store.json_files import FileStore

        return FileStore(Path(rest))
    if kind in ("postgresql", "postgres"):
        from clusterjob.store.postgres import PostgresStore

        return PostgresStore(url)
    raise StoreError(
        f"{url}: stores of this kind are not known; expected a folder, sqlite:///PATH, "
        "file:///FOLDER or postgresql://..."
    )


def _nearest() -> str:
    """Return the nearest folder that has a store; else where a new one would be.

    Every script that is rendered asks: names are strings here, which cost a fifth of paths.
    """
    try:
        folder = here = os.getcwd().rstrip("/")
    except FileNotFoundError:
        raise StoreError(
            "the working directory is gone: change into one that is there"
        ) from None
    while not os.path.isfile(f"{folder}/{_FOLDER}/{_FILE}"):
        if not folder:  # that was the root
            return f"{here}/{_FOLDER}"
        folder = folder.rpartition("/")[0]
    return f"{folder}/{_FOLDER}"
