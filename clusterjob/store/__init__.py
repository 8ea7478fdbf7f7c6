"""Where records live."""

from __future__ import annotations

import os
from pathlib import Path

from clusterjob.errors import StoreError
from clusterjob.store.base import Damaged, Note, Report, Store
from clusterjob.store.record import Phase, Record, Task, encode_spec, place_of
from clusterjob.store.sqlite import SqliteStore

__all__ = [
    "Damaged",
    "Note",
    "Phase",
    "Record",
    "Report",
    "Store",
    "Task",
    "encode_spec",
    "open_store",
    "place_of",
]

FOLDER = ".clusterjob"
_open: dict[str, Store] = {}


def open_store(where: str | os.PathLike[str] | None = None) -> Store:
    """Open a store; one object a place in a process.

    ``where`` is a folder or ``sqlite:///PATH`` (one SQLite file), ``file:///FOLDER`` (a JSON file a
    record), or ``postgresql://...``. Without it it is ``$CLUSTERJOB_STORE``, else the folder
    ``.clusterjob`` of the working directory or the nearest one above it, else a new one in the
    working directory. Raises :class:`StoreError`.
    """
    text = os.fspath(where) if where is not None else os.environ.get("CLUSTERJOB_STORE", "")
    kind, separator, rest = text.partition("://")
    if not separator:
        kind, rest = (
            "sqlite",
            str((Path(text).expanduser() if text else _nearest()) / "store.sqlite"),
        )
    elif kind in (
        "sqlite",
        "file",
    ):  # sqlite:///relative and sqlite:////absolute, as SQLAlchemy has it; file:///absolute
        rest = (
            rest[1:]
            if rest.startswith("//") or (kind == "sqlite" and rest.startswith("/"))
            else rest
        )
    if kind in ("sqlite", "file"):
        text = f"{kind}://{Path(rest).absolute()}"
    store = _open.get(text)
    if store is None:
        store = _open[text] = _make(kind, text, rest)
    return store


def _make(kind: str, text: str, rest: str) -> Store:
    if kind == "sqlite":
        return SqliteStore(Path(rest).absolute())
    if kind == "file":
        from clusterjob.store.files import FileStore

        return FileStore(Path(rest).absolute())
    if kind in ("postgresql", "postgres"):
        from clusterjob.store.postgres import PostgresStore

        return PostgresStore(text)
    raise StoreError(
        f"{text}: stores of this kind are not known; expected a folder, sqlite:///PATH, "
        "file:///FOLDER or postgresql://..."
    )


def _nearest() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER / "store.sqlite").is_file():
            return folder / FOLDER
    return here / FOLDER
