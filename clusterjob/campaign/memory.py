"""What the store remembers of a campaign besides its jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from clusterjob.store import Store


class Memory:
    """Things by name: how it was set up, which functions may be called yet, and the like."""

    def __init__(self, store: Store, campaign: str) -> None:
        self._store = store
        self._campaign = campaign

    def read(self) -> dict[str, Any]:
        return self._store.campaigns().get(self._campaign, {})

    def note(self, name: str, value: object) -> None:
        """Write one of them down."""
        self.change(name, lambda _: value)

    def change(self, name: str, change: Callable[[Any], object]) -> None:
        """Change one of them; None is one that is not there."""

        def change_all(data: dict[str, Any] | None) -> dict[str, Any]:
            known = data or {"created": time.time()}
            return {**known, name: change(known.get(name))}

        self._store.change_campaign(self._campaign, change_all)
