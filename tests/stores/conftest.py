"""The kinds of store that the contract suite runs over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterjob.store import Store, open_store, sqlite

KINDS = [
    "sqlite",
    "journal",
    "file",
    pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql")),
]


@pytest.fixture(params=KINDS)
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of an empty store of each kind; ``journal`` is SQLite as it is used on a file system
    of several machines.
    """
    if request.param == "postgresql":
        found: str = request.getfixturevalue("database")
        return found
    if request.param == "file":
        return f"file://{tmp_path}/records-of-jobs"
    if request.param == "journal":
        monkeypatch.setattr(sqlite, "is_shared", lambda path: True)
    return f"sqlite:///{tmp_path}/store.sqlite"


@pytest.fixture
def another(url: str) -> Iterator[Callable[[], Store]]:
    """Opens the store once more, as another process would."""
    opened: list[Store] = []

    def open_it() -> Store:
        opened.append(open_store(url))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def store(another: Callable[[], Store]) -> Store:
    return another()
