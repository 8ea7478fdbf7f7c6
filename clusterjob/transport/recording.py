"""A transport that writes down a conversation, and one that plays it back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from clusterjob.errors import TransportError
from clusterjob.transport.base import Completed, Transport, Upload


class RecordingTransport:
    """Passes everything on to another transport, and keeps what was asked and answered."""

    def __init__(self, inner: Transport) -> None:
        self.inner, self.host = inner, inner.host
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
        self, script: str, sink: Callable[[bytes], object], timeout: float | None = None
    ) -> Completed:
        return self.inner.stream(script, sink, timeout)

    def put(self, files: Sequence[Upload]) -> None:
        self.inner.put(files)

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
        self.turns = json.loads(Path(path).read_text(encoding="utf-8"))
        self.asked: list[str] = []
        self._names: dict[str, str] = {}

    def run(self, script: str, timeout: float | None = None) -> Completed:
        if not self.turns:
            raise TransportError("the recorded conversation is over", command=script)
        turn = self.turns.pop(0)
        self.asked.append(script)
        self._names |= zip(_made_names(turn["script"]), _made_names(script), strict=False)
        return Completed(
            turn["exit_code"], self._renamed(turn["stdout"]), self._renamed(turn["stderr"])
        )

    def stream(
        self, script: str, sink: Callable[[bytes], object], timeout: float | None = None
    ) -> Completed:
        done = self.run(script, timeout)
        sink(done.stdout.encode())
        return Completed(done.exit_code, "", done.stderr)

    def put(self, files: Sequence[Upload]) -> None:
        """Take files and forget them."""

    def resolve(self, path: str) -> str:
        return str(Path(path).expanduser().absolute())

    def close(self) -> None:
        """Nothing is open."""

    def _renamed(self, text: str) -> str:
        return _NAME.sub(lambda match: self._names.get(match[0], match[0]), text)


_NAME = re.compile(r"\b[0-9a-f]{16}\b")


def _made_names(script: str) -> list[str]:
    return list(dict.fromkeys(_NAME.findall(script)))
