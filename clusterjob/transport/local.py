"""This machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from clusterjob.errors import CommandError, TransportError
from clusterjob.transport.base import Completed, Upload

# eval has no limit on the length of a script, as the argument of an exec would; what the script
# runs reads nothing
_RUNNER = ["/bin/sh", "-c", 'eval "$(cat)" </dev/null']


class LocalTransport:
    """Runs commands in a shell of this machine, and writes files where they belong."""

    host = ""

    def run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a shell script; it and all its children are killed when ``timeout`` seconds are over."""
        try:
            process = subprocess.Popen(
                _RUNNER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise TransportError(f"no shell could be started: {error}") from error
        try:
            out, err = process.communicate(script.encode("utf-8", "surrogateescape"), timeout)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise TransportError(f"no answer within {timeout:g} s", command=script[:2000]) from None
        except BaseException:  # an interrupted wait leaves nothing behind
            _kill_group(process)
            raise
        return Completed(
            process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
        )

    def stream(
        self, script: str, sink: Callable[[bytes], object], timeout: float | None = None
    ) -> Completed:
        """Run a shell script and pass its output on as it comes."""
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as said:
            source.write(script.encode("utf-8", "surrogateescape"))
            source.seek(0)
            try:
                process = subprocess.Popen(
                    _RUNNER,
                    stdin=source,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    start_new_session=True,
                )
            except OSError as error:
                raise TransportError(f"no shell could be started: {error}") from error
            late = threading.Timer(timeout or threading.TIMEOUT_MAX, _kill_group, [process])
            late.daemon = True
            if timeout is not None:
                late.start()
            try:
                assert process.stdout is not None
                with process.stdout as output:
                    while data := output.read1(1 << 18):  # type: ignore[attr-defined]
                        sink(data)
                process.wait()
            except BaseException:
                _kill_group(process)
                raise
            finally:
                late.cancel()
            if timeout is not None and process.returncode == -signal.SIGKILL:
                raise TransportError(f"no answer within {timeout:g} s", command=script[:2000])
            said.seek(0)
            return Completed(process.returncode, "", said.read().decode("utf-8", "replace"))

    def put(self, files: Sequence[Upload]) -> None:
        """Write files; a folder is made once."""
        made: set[str] = set()
        for file in files:
            try:
                folder = os.path.dirname(file.path)
                if folder not in made:
                    os.makedirs(folder, mode=0o700, exist_ok=True)
                    made.add(folder)
                _write(file)
            except OSError as error:
                if isinstance(file.content, Path) and error.filename == str(file.content):
                    raise CommandError(
                        f"{file.content} cannot be read: {error.strerror or error}"
                    ) from error
                raise CommandError(
                    f"{file.path} cannot be written: {error.strerror or error}",
                    hint="Choose a workdir (or rootdir) that you may write to, or make room there.",
                ) from error

    def resolve(self, path: str) -> str:
        """Return the absolute path; symbolic links are left alone."""
        return os.path.abspath(os.path.expanduser(path))

    def close(self) -> None:
        """Nothing is held open."""


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ValueError):  # its pipes are closed already
        process.communicate()


def _write(file: Upload) -> None:
    mode = 0o700 if file.executable else 0o600
    path = f"{file.path}.part{os.getpid()}" if file.replace else file.path
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if file.replace else os.O_EXCL), mode
        )
        if isinstance(file.content, Path):
            with os.fdopen(descriptor, "wb") as target, file.content.open("rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
            shutil.copymode(file.content, path)
        else:
            content = file.content.encode("utf-8", "surrogateescape")
            try:
                while content:
                    content = content[os.write(descriptor, content) :]
            finally:
                os.close(descriptor)
        if file.replace:
            os.replace(path, file.path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
