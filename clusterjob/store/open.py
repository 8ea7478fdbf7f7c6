"""Which store is meant, and opening it."""

from __future__ import annotations

import functools
import logging
import os
import re
from pathlib import Path

from clusterjob.errors import StoreError, printable
from clusterjob.plain_files import expand
from clusterjob.store.base import Store
from clusterjob.store.owner import check_not_public, foreign_owner

_log = logging.getLogger(__name__)
_FOLDER = ".clusterjob"
_FILE = "store.sqlite"


def locate_store(where: str | os.PathLike[str] | None = None) -> str:
    """Return the URL of a store; nothing is opened or made.

    ``where`` is a folder or ``sqlite:///PATH`` (one SQLite file), ``file:///FOLDER`` (a JSON file a
    record), or ``postgresql://...``. Without it it is ``$CLUSTERJOB_STORE``, else the folder
    ``.clusterjob`` of the working directory or the nearest one above it, else a new one in the
    working directory. Those of other users are passed over, with a warning: only who names such a
    store looks into it. Raises :class:`StoreError` for one that anybody may write to.
    """
    text = (
        os.fspath(where)
        if where is not None
        else os.environ.get("CLUSTERJOB_STORE", "")
    )
    kind, separator, rest = text.partition("://")
    if not text:
        return f"sqlite://{_nearest()}/{_FILE}"
    if not separator and re.match(r"(sqlite|file|postgres(ql)?):", text):
        raise StoreError(
            f"{text!r} is no store: expected {text.partition(':')[0]}://..., or a folder"
        )
    if not separator:
        return f"sqlite://{(expand(text) / _FILE).absolute()}"
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
    """Return the nearest folder that has a store of this user's; else where a new one would be.

    Every script that is rendered asks: names are strings here, which cost a fifth of paths.
    """
    try:
        folder = here = os.getcwd().rstrip("/")
    except FileNotFoundError:
        raise StoreError(
            "the working directory is gone: change into one that is there"
        ) from None
    while True:
        found = f"{folder}/{_FOLDER}"
        if os.path.isfile(f"{found}/{_FILE}") and _is_own(found):
            return found
        if not folder:  # that was the root
            _check_free(f"{here}/{_FOLDER}")
            return f"{here}/{_FOLDER}"
        folder = folder.rpartition("/")[0]


def _check_free(folder: str) -> None:
    """Raise :class:`StoreError` where another user has the place of a new store."""
    owner = foreign_owner([folder, f"{folder}/{_FILE}"])
    if owner:
        raise StoreError(
            f"{folder} belongs to {owner}, so it is no place for a store of yours: work in another "
            "folder, or name a store with --store or $CLUSTERJOB_STORE"
        )


def _is_own(folder: str) -> bool:
    """Whether a store that was found belongs to this user."""
    paths = (folder, f"{folder}/{_FILE}")
    owner = foreign_owner(paths)
    if owner:
        _warn_of_foreign(folder, owner)
        return False
    check_not_public(paths)
    return True


@functools.lru_cache(maxsize=256)
def _warn_of_foreign(folder: str, owner: str) -> None:
    """Say it once."""
    _log.warning(
        "the store %s belongs to %s and is passed over; to look into it, name it: --store %s",
        *map(printable, (folder, owner, folder)),
    )
