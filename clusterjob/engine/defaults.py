"""The engines that are used where nobody names a session: one a store."""

from __future__ import annotations

import atexit
import os
import threading

from clusterjob.engine.engine import Engine
from clusterjob.store import locate_store, open_store
from clusterjob.transport import Connections


class DefaultEngines:
    """The default engines of this process.

    They share their connections: a login may cost a person a one-time code.
    """

    def __init__(self) -> None:
        self.connections = Connections()
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def get(self, where: str | os.PathLike[str] | None = None) -> Engine:
        """Return the engine of the store that :func:`locate_store` finds.

        Raises :class:`StoreError`.
        """
        url = locate_store(where)
        with self._lock:
            engine = self._engines.get(url)
            if engine is None:
                engine = self._engines[url] = Engine(
                    open_store(where), self.connections
                )
            return engine

    def at_hand(self, where: str | os.PathLike[str] | None = None) -> Engine:
        """Return an engine for who needs its schedulers alone: to render writes nothing down.

        So it is not looked up which store is meant where there is any engine.
        """
        with self._lock:
            for engine in self._engines.values():
                return engine
        return self.get(where)

    def close(self) -> None:
        """Close them all, and the connections; the next use makes them anew."""
        with self._lock:
            engines = list(self._engines.values())
            self._engines.clear()
        for engine in engines:
            engine.close()
        self.connections.close()


default_engines = DefaultEngines()
atexit.register(default_engines.connections.close)
