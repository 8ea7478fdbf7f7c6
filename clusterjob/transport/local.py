"""This machine."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, cast

from clusterjob.errors import TransportError
from clusterjob.transport.base import MOST_ERRORS, MOST_OUTPUT, Completed, Hooks, Sink

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
        deadline = None if timeout is None else time.monotonic() + timeout
        with _as_input(script) as source:
            process = _start(stdin=source, stderr=subprocess.PIPE)
        try:
            with process.stdout as out, process.stderr as err:
                said = _receive({out: MOST_OUTPUT, err: MOST_ERRORS}, deadline)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            process.wait(left)
        except (TimeoutError, subprocess.TimeoutExpired):
            _kill_group(process)
            raise _late(script, timeout) from None
        except BaseException:  # an interrupted wait leaves nothing behind
            _kill_group(process)
            raise
        stdout, stderr = (data.decode("utf-8", "replace") for data in said)
        return Completed(process.returncode, stdout, stderr)

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        """Run a shell script and pass its output on as it comes."""
        with _as_input(script) as source, tempfile.TemporaryFile() as said:
            process = _start(stdin=source, stderr=said)
            late = threading.Timer(
                timeout or threading.TIMEOUT_MAX, _kill_group, [process]
            )
            late.daemon = True
            if timeout is not None:
                late.start()
            try:
                assert process.stdout is not None
                with process.stdout as output:
                    while data := os.read(output.fileno(), _BLOCK):
                        sink(data)
                process.wait()
            except BaseException:
                _kill_group(process)
                raise
            finally:
                late.cancel()
            if timeout is not None and process.returncode == -signal.SIGKILL:
                raise _late(script, timeout)
            said.seek(0)
            words = said.read(MOST_ERRORS).decode("utf-8", "replace")
            return Completed(process.returncode, "", words)

    def resolve(self, path: str) -> str:
        """Return the absolute path; symbolic links are left alone."""
        return os.path.abspath(os.path.expanduser(path))

    def close(self) -> None:
        """Nothing is held open."""


def _as_input(script: str) -> IO[bytes]:
    """Return a file of a script, to be read: a pipe of a long one would have to be fed."""
    file = tempfile.TemporaryFile()
    file.write(script.encode("utf-8", "surrogateescape"))
    file.seek(0)
    return file


def _receive(
    most: Mapping[IO[bytes], int], deadline: float | None
) -> list[bytearray]:
    """Read pipes until they end, each up to so many bytes.

    Raises TimeoutError, and :class:`TransportError` for more bytes.
    """
    said = {pipe: bytearray() for pipe in most}
    with selectors.DefaultSelector() as selector:
        for pipe in most:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                pipe = cast("IO[bytes]", key.fileobj)
                data = os.read(key.fd, _BLOCK)
                said[pipe] += data
                if not data:
                    selector.unregister(pipe)
                if len(said[pipe]) > most[pipe]:
                    start = bytes(said[pipe][:200]).decode("utf-8", "replace")
                    raise TransportError(
                        f"a command prints more than {most[pipe] >> 20} MB for an answer, which "
                        f"begins: {start!r}"
                    )
    return list(said.values())


def _start(
    stdin: int | IO[bytes], stderr: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a shell in a group of processes of its own. Raises :class:`TransportError`."""
    try:
        return subprocess.Popen(
            _RUN,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    except OSError as error:
        raise TransportError(f"no shell could be started: {error}") from error


def _late(script: str, timeout: float | None) -> TransportError:
    return TransportError(f"no answer within {timeout:g} s", command=script[:2000])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError):  # its pipes are closed already
        process.communicate()
