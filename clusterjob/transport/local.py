"""This machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from typing import IO

from clusterjob.errors import TransportError
from clusterjob.transport.base import Completed, Hooks, Sink

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
        process = _start(stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(
                script.encode("utf-8", "surrogateescape"), timeout
            )
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise _late(script, timeout) from None
        except BaseException:  # an interrupted wait leaves nothing behind
            _kill_group(process)
            raise
        return Completed(
            process.returncode,
            out.decode("utf-8", "replace"),
            err.decode("utf-8", "replace"),
        )

    def stream(
        self, script: str, sink: Sink, timeout: float | None = None
    ) -> Completed:
        """Run a shell script and pass its output on as it comes."""
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as said:
            source.write(script.encode("utf-8", "surrogateescape"))
            source.seek(0)
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
            return Completed(
                process.returncode, "", said.read().decode("utf-8", "replace")
            )

    def resolve(self, path: str) -> str:
        """Return the absolute path; symbolic links are left alone."""
        return os.path.abspath(os.path.expanduser(path))

    def close(self) -> None:
        """Nothing is held open."""


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
