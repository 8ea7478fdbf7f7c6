"""The folder of a pool on another host."""

from __future__ import annotations


class RemotePlace:
    def __init__(self, transport: object, folder: str) -> None:
        self.transport, self.folder = transport, folder
