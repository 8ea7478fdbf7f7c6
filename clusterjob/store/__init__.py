"""Where records live."""

from __future__ import annotations

import os
from pathlib import Path

from clusterjob.errors import StoreError
from clusterjob.store.record import Phase, Record, Task, encode_spec
from clusterjob.store.sqlite import SqliteStore

__all__ = ["Phase", "Record", "SqliteStore", "Task", "encode_spec", "open_store"]

FOLDER = ".clusterjob"
_open: dict[str, SqliteStore] = {}


def open_store(where: str | os.PathLike[str] | None = None) -> SqliteStore:
    """Open the store at a folder or a ``sqlite:///PATH`` URL; one object a place in a process.

    Without an argument it is ``$CLUSTERJOB_STORE``, else the folder ``.clusterjob`` of the working directory or the nearest one
    above it, else a new one in the working directory. Raises :class:`StoreError`.
    """
    text = os.fspath(where) if where is not None else os.environ.get("CLUSTERJOB_STORE", "")
    if text.startswith("sqlite:///"):
        path = Path(text[len("sqlite://") :] if text.startswith("sqlite:////") else text[len("sqlite:///") :])
    elif "://" in text:
        raise StoreError(f"{text}: stores of this kind are not known; expected a folder or sqlite:///PATH")
    else:
        path = (Path(text).expanduser() if text else _nearest()) / "store.sqlite"
    path = path.absolute()
    store = _open.get(str(path))
    if store is None:
        store = _open[str(path)] = SqliteStore(path)
    return store


def _nearest() -> Path:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / FOLDER / "store.sqlite").is_file():
            return folder / FOLDER
    return here / FOLDER
