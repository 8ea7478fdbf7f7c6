"""A way to the lab's sshd, with nothing of the user's who runs the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterjob.script import default_session
from clusterjob.transport import Connections, RemoteTransport
from tests.conftest import namespace

Reach = Callable[..., Any]


@pytest.fixture
def far(lab: Path) -> Iterator[Path]:
    """The folder of the lab's ssh files, seen from inside its network."""
    with namespace(lab):
        yield lab / "ssh"


@pytest.fixture(params=["ssh", "openssh"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def reach(far: Path, kind: str) -> Iterator[Reach]:
    """Make transports of one kind; they are closed at the end."""
    made: list[RemoteTransport] = []

    def make(host: str, config: Path | None = None, limit: int = 1000) -> Any:
        found: Any = open_transport(host, kind, str(config or far / "config"), limit)
        if kind == "openssh":
            found.disconnect()
        made.append(found)
        return found

    yield make
    for item in made:
        item.close()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers to the prompts, in their order; what was asked takes their places."""
    given: list[str] = []
    hooks = default_session().connections.hooks
    monkeypatch.setattr(hooks, "prompt", lambda question, echo: given.pop(0))
    return given


def open_transport(host: str, kind: str, config: str, limit: int = 10) -> Any:
    """Return a new way to a host; it asks what the default session asks."""
    return Connections(default_session().connections.hooks).open(
        host, kind, config, limit
    )
