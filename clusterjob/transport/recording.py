"""A transport that writes down a conversation, and one that plays it back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from clusterjob.errors import TransportError
from clusterjob.plain_files import expand, read_text
from clusterjob.transport.base import Completed, Hooks, Sink, Transport


class RecordingTransport:
    """Passes everything on to another transport, and keeps what was asked and answered."""

    def __init__(self, inner: Transport) -> None:
        self.inner, self.host, self.hooks = inner, inner.host, inner.hooks
        self.turns: list[dict[str, object]] = []

    def run(self, script: str, timeout: float | None = None) -> Completed:
        done = self.inner.run(script, timeout)
        self.turns.append(
            {
                "script": script,
                "exit_code": done.exit_code,
                "stdout": done.stdout,
                "stderr": done.stderr,
            }
        )
        return done

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        return self.inner.stream(script, sink, timeout)

    def resolve(self, path: str) -> str:
        return self.inner.resolve(path)

    def close(self) -> None:
        self.inner.close()

    def save(self, path: str | Path) -> None:
        """Write the conversation as JSON."""
        Path(path).write_text(json.dumps(self.turns, indent=1), encoding="utf-8")


class ReplayTransport:
    """Answers as a recorded conversation did, turn by turn; nothing is run.

    Tokens and markers are made anew each time: those of the recording are replaced by the ones that
    stand in their places now.
    """

    host = ""

    def __init__(self, path: str | Path) -> None:
        self.hooks = Hooks()
        self.turns: list[dict[str, Any]] = json.loads(read_text(path))
        self.asked: list[str] = []
        self._names: dict[str, str] = {}

    def run(self, script: str, timeout: float | None = None) -> Completed:
        if not self.turns:
            raise TransportError("the recorded conversation is over", command=script)
        turn = self.turns.pop(0)
        self.asked.append(script)
        for kind in (_MARK, _TOKEN):
            names = zip(
                _found(kind, turn["script"]), _found(kind, script), strict=False
            )
            self._names |= names
        return Completed(
            turn["exit_code"],
            self._renamed(turn["stdout"]),
            self._renamed(turn["stderr"]),
        )

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        done = self.run(script, timeout)
        sink(done.stdout.encode())
        return Completed(done.exit_code, "", done.stderr)

    def resolve(self, path: str) -> str:
        return str(expand(path).absolute())

    def close(self) -> None:
        """Nothing is open."""

    def _renamed(self, text: str) -> str:
        return _NAME.sub(lambda match: self._names.get(match[0], match[0]), text)


_NAME = re.compile(r"\b[0-9a-f]{16}\b")
_MARK = re.compile(r"(?<=clusterjob-)[0-9a-f]{16}\b")
_TOKEN = re.compile(r"(?<!clusterjob-)\b[0-9a-f]{16}\b")


def _found(kind: re.Pattern[str], script: str) -> list[str]:
    """Return the names of a kind that stand in a script, in their order."""
    return list(dict.fromkeys(kind.findall(script)))
