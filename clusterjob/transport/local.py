"""This machine."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping
from typing import IO, cast

from clusterjob.errors import TransportError
from clusterjob.transport.base import (
    MOST_ERRORS,
    MOST_OUTPUT,
    Completed,
    Hooks,
    Patience,
    Sink,
    check_bounds,
)

_BLOCK = 1 << 18
# eval has no limit on the length of a script, as the argument of an exec would. What the script
# runs reads nothing.
_RUN = ["/bin/sh", "-c", 'eval "$(cat)" </dev/null']


class LocalTransport:
    """Runs commands in a shell of this machine."""

    host = ""

    def __init__(self, hooks: Hooks | None = None) -> None:
        self.hooks = hooks or Hooks()

    def run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a shell script; it and all its children are killed after ``timeout`` seconds."""
        stdout = Said(MOST_OUTPUT)
        patience = Patience(math.inf if timeout is None else timeout)
        exit_code, stderr = _converse(script, stdout.add, patience)
        return Completed(exit_code, stdout.text(), stderr)

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        """Run a shell script and pass its output on as it comes."""
        patience = Patience(math.inf if timeout is None else timeout, resets=True)
        exit_code, stderr = _converse(script, sink, patience)
        return Completed(exit_code, "", stderr)

    def resolve(self, path: str) -> str:
        """Return the absolute path; symbolic links are left alone."""
        return os.path.abspath(os.path.expanduser(path))

    def close(self) -> None:
        """Nothing is held open."""


class Said:
    """What a command says, up to so many bytes. Raises :class:`TransportError` for more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        self._data += data
        check_bounds("a command", self._data, self._most)

    def text(self) -> str:
        return self._data.decode("utf-8", "replace")


def _converse(script: str, sink: Sink, patience: Patience) -> tuple[int, str]:
    """Run a script, and return its exit code and its standard error."""
    process = _start()
    assert process.stdin
    assert process.stdout
    assert process.stderr
    stderr = Said(MOST_ERRORS)
    sinks = {process.stdout: sink, process.stderr: stderr.add}
    try:
        _feed(
            process.stdin,
            script.encode("utf-8", "surrogateescape"),
            sinks,
            patience,
        )
        left = patience.left()
        process.wait(None if math.isinf(left) else left)
    except (TimeoutError, subprocess.TimeoutExpired):
        _kill_group(process)
        raise TransportError(
            f"no answer within {patience.seconds:g} s", command=script[:2000]
        ) from None
    except BaseException:  # an interrupted wait leaves nothing behind
        _kill_group(process)
        raise
    finally:
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
    return process.returncode, stderr.text()


def _feed(
    stdin: IO[bytes],
    script: bytes,
    sinks: Mapping[IO[bytes], Sink],
    patience: Patience,
) -> None:
    """Write the script, and read what is said meanwhile, until all pipes have ended.

    Raises TimeoutError.
    """
    rest = memoryview(script)
    os.set_blocking(stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        for pipe in sinks:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = patience.left()
            for key, _ in selector.select(None if math.isinf(left) else left):
                pipe = cast("IO[bytes]", key.fileobj)
                if pipe is stdin:
                    rest = _written(stdin, rest)
                    ended = not rest
                else:
                    data = os.read(key.fd, _BLOCK)
                    ended = not data
                    if data:
                        patience.went_on()
                        sinks[pipe](data)
                if ended:
                    selector.unregister(pipe)
                    pipe.close()


def _written(stdin: IO[bytes], rest: memoryview) -> memoryview:
    """Write as much as goes now, and return what is left: nothing where nobody reads any more."""
    try:
        return rest[os.write(stdin.fileno(), rest) :]
    except BrokenPipeError:
        return rest[len(rest) :]


def _start() -> subprocess.Popen[bytes]:
    """Start a shell in a group of processes of its own. Raises :class:`TransportError`."""
    try:
        return subprocess.Popen(
            _RUN,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise TransportError(f"no shell could be started: {error}") from error


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
