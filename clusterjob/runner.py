"""A worker that calls Python functions, in one file of the standard library (Python 3.8 and later).

It runs as a job, in a folder that the submitting side made, the *pool*. Nothing listens anywhere:
all goes through files, each of which appears whole, by a rename::

    key, pool           a secret of this pool, and its settings
    shared/DIGEST       functions, and large values that several calls have in common
    todo/CHUNK          calls that nobody has taken: 00000012-5_0_40 are those from 0 on, before
                        40, of which 5 may be begun before anything is written
    taken/CHUNK@WORKER  ... that a worker has taken, by a rename, which one of several can make
    results/CHUNK@WORKER.N  results, from those of call N on
    workers/WORKER      who runs; it goes when the worker ends in order
    logs/WORKER.out .err  what functions print
    stop, stop-WORKER   no more calls are to be taken, by anybody or by this one

The worker is two processes. One minds the files, and loads nothing of the user's; its child calls
the functions. Whatever becomes of the child, the other tells which call it was at, and starts
another. What it has not begun it gives back where a call takes long, or where the worker is told to
end. Of what it may have begun the newest file of results says: ``next`` is the first call that it
may not begin before another such file is there.

Every file is signed with the key, and what it is goes into the signature with what it says, so that
none is taken for another. None that is not ours is read.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import io
import json
import mmap
import os
import pickle
import random
import select
import signal
import socket
import stat
import struct
import sys
import tempfile
import time
import traceback
from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Tuple

MAGIC = b"cj-call1"
_SUM = 32  # bytes of a signature
_ALIGN = 64  # what buffers begin at a multiple of
_OUT_OF_BAND = 4096  # bytes from which on a buffer stands beside its pickle
_MAPPED = (
    4 << 20
)  # bytes from which on a file is mapped, so that workers of a node share it
_LARGE = 1 << 20  # bytes of a result that gets a file of its own
_TOLD = 1 << 16  # bytes of each of a call's two logs that come with its result
_FLUSH = 0.25  # s after which results are written
_LONG = 1.0  # s that a call may take before what is behind it is given back
_SHORTEST, _LONGEST = 0.01, 2.0  # s between two looks for work
_DISK_PATIENCE = (
    1800.0  # s for which results are tried to be written, on a disk that is full
)
_PIPE = 1 << 20  # bytes that a pipe may hold
_GATHER = 0.03  # s in which more results may come, where there are more to come
_NO_ENTRY, _REFUSED = 0, 3  # exit codes
_RENEW = 93  # of a child whose modules were changed since it imported them

_MESSAGE = struct.Struct("<QdQQ")
Blob = Any  # bytes, bytearray or memoryview
Said = Dict[str, Any]  # what is said of a file, a call or a value, as JSON
Signed = Tuple[Said, memoryview]  # header and body of a file


class Untrusted(Exception):
    """A file that is not signed, or is not what it should be."""


# -- files that are signed -------------------------------------------------------------------------


def _header_text(header: Said | bytes) -> bytes:
    """Return a header, values or what :func:`json.dumps` made of them, so that the body begins
    where arrays may.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return text + b" " * (-(len(MAGIC) + _SUM + 4 + len(text)) % _ALIGN)


def write_signed(
    path: str,
    key: bytes,
    label: str,
    header: Said | bytes,
    blobs: Iterable[Blob],
) -> None:
    """Write a signed file, for its owner only; its name is for the caller to give at the end."""
    text = _header_text(header)
    digest = hmac.new(key, label.encode() + b"\0", "sha256")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(MAGIC + bytes(_SUM))
        for blob in (struct.pack("<I", len(text)), text, *blobs):
            digest.update(blob)
            file.write(blob)
        file.seek(len(MAGIC))
        file.write(digest.digest())


def sign(
    key: bytes, label: str, header: Said | bytes, blobs: Iterable[Blob]
) -> list[Blob]:
    """Return what :func:`write_signed` writes, in pieces: large ones are not copied."""
    text = _header_text(header)
    pieces = [struct.pack("<I", len(text)) + text, *blobs]
    digest = hmac.new(key, label.encode() + b"\0", "sha256")
    for piece in pieces:
        digest.update(piece)
    return [MAGIC + digest.digest(), *pieces]


def read_signed(
    path: str, key: bytes, label: str, checked: dict[str, _Stamp] | None = None
) -> Signed:
    """Return header and body of a signed file. Raises OSError, and :class:`Untrusted`.

    ``checked`` remembers files whose signature was right: as long as they are the same files, it is
    not computed again.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Untrusted(f"{path} is not a file of this user's")
        if status.st_size > _MAPPED:
            # what is written to it stays in this process
            data: Any = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        else:
            data = bytearray(file.read())
    stamp = _stamp_of(status)
    if checked is not None and checked.get(path) == stamp:
        return _header_and_body(memoryview(data))
    found = open_signed(data, key, label, path)
    if checked is not None:
        checked[path] = stamp
    return found


_Stamp = Tuple[int, ...]


def _stamp_of(status: os.stat_result) -> _Stamp:
    """Return what is another one when a file was replaced, or written to."""
    place = status.st_dev, status.st_ino, status.st_size
    return (*place, status.st_mtime_ns, status.st_ctime_ns)


def open_signed(data: Blob, key: bytes, label: str, what: str) -> Signed:
    """Return header and body of what was signed. Raises :class:`Untrusted`."""
    view = memoryview(data)
    start = len(MAGIC) + _SUM
    digest = hmac.new(key, label.encode() + b"\0", "sha256")
    digest.update(view[start:])
    is_whole = len(view) >= start + 4 and view[: len(MAGIC)] == MAGIC
    if not is_whole or not hmac.compare_digest(
        digest.digest(), bytes(view[len(MAGIC) : start])
    ):
        raise Untrusted(
            f"{what} does not have the signature that it should: it was changed, or cut off"
        )
    return _header_and_body(view)


def _header_and_body(view: memoryview) -> Signed:
    start = len(MAGIC) + _SUM
    (length,) = struct.unpack("<I", view[start : start + 4])
    header = json.loads(bytes(view[start + 4 : start + 4 + length]))
    return header, view[start + 4 + length :]


# -- values ----------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Pickles what is of ``__main__`` by its name: the reader's own class is meant."""

    def reducer_override(self, value: Any) -> Any:
        name = getattr(value, "__qualname__", "")
        is_of_program = isinstance(value, type) and value.__module__ == "__main__"
        if not is_of_program or not name.isidentifier():
            return NotImplemented
        # this side, where it came as code, finds it by its name too
        sys.modules["__main__"].__dict__.setdefault(name, value)
        return _find_in_main, (name,)


def _find_in_main(name: str) -> Any:
    return getattr(sys.modules["__main__"], name)


def dump_value(
    value: Any, make: Callable[..., pickle.Pickler] = pickle.Pickler
) -> tuple[Said, list[Blob]]:
    """Return what is said of a value, and its bytes: the pickle, then large buffers beside it.

    They are to be written as :func:`padded` yields them.
    """
    blobs: list[Blob] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _OUT_OF_BAND:
            return True  # it stays in the pickle
        blobs.append(raw)
        return False

    stream = io.BytesIO()
    make(stream, protocol=5, buffer_callback=keep).dump(value)
    text = stream.getvalue()
    said = {"p": len(text), "b": [blob.nbytes for blob in blobs]}
    return said, [text, *blobs]


def padded(blobs: Iterable[Blob]) -> Iterator[Blob]:
    """Yield bytes with what is between them, so that each begins where arrays may begin; small ones
    in one piece.
    """
    small = bytearray()
    for blob in blobs:
        gap = bytes(-len(blob) % _ALIGN)
        if len(blob) < _OUT_OF_BAND:
            small += blob
            small += gap
            continue
        yield from (small, blob, gap)
        small = bytearray()
    yield small


def parts_of(
    said: Said, body: memoryview, at: int = 0
) -> tuple[list[memoryview], int]:
    """Return the pickle and the buffers that stand beside it, and where the next value begins.

    Buffers that are shared have a digest for a length, and stand elsewhere.
    """
    found = []
    for length in (said["p"], *said["b"]):
        if isinstance(length, int):
            found.append(body[at : at + length])
            at += length + (-length % _ALIGN)
    return found, at


def load_value(
    said: Said,
    parts: list[memoryview],
    shared: Callable[[str], memoryview] | None = None,
) -> Any:
    """Return a value. Raises whatever loading it raises."""
    rest = iter(parts)
    text = next(rest)
    buffers = [
        shared(length) if isinstance(length, str) and shared else next(rest)
        for length in said["b"]
    ]
    return pickle.loads(text, buffers=buffers)


class ProcessBase:
    """What a process on a cluster is over there: see ``clusterjob.Process``."""

    def __init__(self, target: Any, name: str, args: Any, kwargs: Any) -> None:
        self._target = target
        self.name = name
        self._args, self._kwargs = tuple(args), dict(kwargs or {})

    def run(self) -> Any:
        """Call the target; a derived class does what it likes."""
        if self._target is not None:
            return self._target(*self._args, **self._kwargs)
        return None


def process_base() -> type:
    """Return the class that stands for ``clusterjob.Process`` over there."""
    return ProcessBase


# -- the worker ------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """The folder, its key, and what the submitting side wants."""

    folder: str
    key: bytes
    name: str
    settings: Said

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def read_shared(self, digest: str, checked: dict[str, _Stamp]) -> Signed:
        """Return what several calls have in common: see :func:`read_signed`."""
        path, label = self.path("shared", digest), self.label("shared", digest)
        return read_signed(path, self.key, label, checked)

    def label(self, kind: str, name: str) -> str:
        return f"{kind}:{self.name}:{name}"

    def publish(
        self,
        kind: str,
        name: str,
        header: Said | bytes,
        blobs: Iterable[Blob],
    ) -> None:
        """Write a file of the pool, whole or not at all."""
        part = self.path("tmp", name)
        label = self.label(kind, name)
        try:
            write_signed(
                part,
                self.key,
                label,
                header,
                blobs,
            )
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise
        os.rename(part, self.path(kind, name))


def open_pool(folder: str, key_sum: str) -> Pool:
    """Open the pool. Raises :class:`Untrusted`, OSError."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise Untrusted(f"{folder} is not a folder of this user's")
    if status.st_mode & 0o077:
        raise Untrusted(f"others may look into {folder}, or write to it")
    descriptor = os.open(os.path.join(folder, "key"), os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        key = file.read()
    if hashlib.sha256(key).hexdigest() != key_sum:
        raise Untrusted(f"{folder}/key is not the one of this job")
    name = os.path.basename(folder)
    settings, _ = read_signed(os.path.join(folder, "pool"), key, f"pool:{name}:pool")
    return Pool(
        folder,
        key,
        name,
        settings,
    )


class _Claim(NamedTuple):
    """A part of a chunk that this worker has taken."""

    name: str  # CHUNK@WORKER
    chunk: str
    first: int
    end: int
    calls: list[Said]
    places: list[int]  # where the bytes of each call begin
    body: memoryview

    @property
    def granted(self) -> int:
        """The first call that may not be begun before anything is written."""
        _, _, count = self.chunk.partition("-")
        return min(self.end, self.first + int(count))


class _Modules:
    """The files of imported modules, but for those of Python and of installed packages."""

    def __init__(self) -> None:
        self._stamps: dict[str, tuple[int, int]] = {}
        self._count = 0

    def look(self) -> None:
        """Note the files of modules that are new."""
        if len(sys.modules) == self._count:
            return
        self._count = len(sys.modules)
        base = os.path.dirname(os.__file__)
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if not isinstance(path, str) or path in self._stamps:
                continue
            if not path.startswith(base) and "-packages" not in path:
                self._stamps[path] = self._stamp(path)

    def _stamp(self, path: str) -> tuple[int, int]:
        try:
            status = os.stat(path)
        except OSError:  # in an archive
            return 0, 0
        return status.st_mtime_ns, status.st_size

    def have_changed(self) -> bool:
        """Whether any of them is another one now."""
        return any(self._stamp(path) != stamp for path, stamp in self._stamps.items())


class _Limit:
    """How far a child may go, in memory that both processes see, under a lock."""

    def __init__(self) -> None:
        self._cells = mmap.mmap(-1, 16)
        descriptor, path = tempfile.mkstemp(prefix="clusterjob-")
        os.unlink(path)
        self._lock = descriptor

    def __enter__(self) -> _Limit:
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *error: object) -> None:
        fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def get(self) -> tuple[int, int]:
        """Return how many calls were begun, and how many may be."""
        begun, limit = struct.unpack("<QQ", self._cells[:16])
        return begun, limit

    def set(self, begun: int, limit: int) -> None:
        self._cells[:16] = struct.pack("<QQ", begun, limit)

    def begin(self, number: int) -> bool:
        """Note that a call is begun, where it may be."""
        with self:
            _, limit = self.get()
            if number >= limit:
                return False
            self.set(number + 1, limit)
            return True


# -- the process that calls ------------------------------------------------------------------------


class Caller:
    """Calls functions, in a process of its own. Results go to the other one over a pipe."""

    def __init__(self, pool: Pool, worker: str, limit: _Limit) -> None:
        self.pool = pool
        self.worker = worker
        self.limit = limit
        self.about = _about(worker)
        self._process = 0
        self._here = os.getcwd()
        self._functions: Said = {}
        self._checked: dict[str, _Stamp] = {}
        self._modules = _Modules()
        self._logs = (1, 2)
        self._pickler: Callable[..., pickle.Pickler] | None = None

    def set_up(self) -> None:
        """Make the process what a function expects: paths of modules, streams, logging."""
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        for descriptor in self._logs:
            self._open_log(descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)
        settings = self.pool.settings
        self._add_paths(settings)
        # names of the user's that are looked for there are not those of this file
        sys.modules["__main__"] = type(sys)("__main__")
        sys.argv = ["-c"]
        random.seed()  # its state is that of the other process
        level = settings.get("log_level")
        if level is not None:
            import logging

            form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
            logging.basicConfig(level=level, format=form)

    def _open_log(self, descriptor: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        opened = os.open(self._log_of(descriptor), flags, 0o600)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
        self._open_stream(descriptor)

    def _log_of(self, descriptor: int) -> str:
        suffix = ".out" if descriptor == 1 else ".err"
        return self.pool.path("logs", self.worker + suffix)

    def _add_paths(self, settings: Said) -> None:
        """Make modules known: those that travelled along first, those of the other side last."""
        own = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [path for path in sys.path if path and path != own]
        for name, digest in settings.get("archives", ()):
            path = self.pool.path(name)
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                found = hashlib.sha256(file.read()).hexdigest()
            if found != digest:
                raise Untrusted(f"{path} is not what was sent")
            sys.path.insert(0, path)
        sys.path += [
            path for path in settings.get("path", ()) if path not in sys.path
        ]

    def run(
        self,
        claim: _Claim,
        send: Callable[[bytes], None],
        next_order: Callable[[], bytes],
    ) -> bytes:
        """Call what a claim has, from where the limit says that nobody was yet.

        Returns the next order, which is another claim, or nothing where there is none yet.
        """
        with self.limit:
            number, _ = self.limit.get()
        if self._modules.have_changed():
            os._exit(_RENEW)  # with nothing begun: another process imports them anew
        while number < claim.end:
            if self.limit.begin(number):
                self._call(claim, number, send)
                number += 1
                continue
            order = next_order()
            if order != b"\n":  # else there is another limit
                return order
        return next_order()

    def _call(
        self, claim: _Claim, number: int, send: Callable[[bytes], None]
    ) -> None:
        call = claim.calls[number]
        self._restore()
        before = [self._log_end(descriptor) for descriptor in self._logs]
        started = time.time()
        clock = time.perf_counter()
        said, blobs = self._outcome(claim, number)
        seconds = time.perf_counter() - clock
        _flush_streams()
        self._modules.look()
        said.update(n=call["n"], t=[started, seconds])
        self._add_logs(said, before)
        size = sum(map(len, blobs))
        if size <= _LARGE:
            send(_message(number, said, blobs))
            return
        name = f"{claim.name}.{number}r"
        header = {**self.about, "next": number + 1, "calls": [said]}
        try:
            part = self.pool.path("tmp", name)
            label = self.pool.label("results", name)
            write_signed(
                part,
                self.pool.key,
                label,
                header,
                blobs,
            )
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(part)
            words = (
                f"the result ({size / 1e6:,.1f} MB) could not be written to "
                f"{self.pool.folder}: {error.strerror}"
            )
            said = {**said, "ok": False, "v": None, "why": words, "phase": "write"}
            send(_message(number, said, ()))
            return
        send(_message(number, None, ()))

    def _restore(self) -> None:
        """Undo what the call before may have done to this process: each begins in one folder, with
        streams that are open.
        """
        with contextlib.suppress(OSError):
            os.chdir(self._here)
        for descriptor, stream in zip(self._logs, (sys.stdout, sys.stderr)):
            if stream is None or getattr(stream, "closed", True):
                self._open_stream(descriptor)

    def _open_stream(self, descriptor: int) -> None:
        stream = open(
            descriptor, "w", buffering=1, closefd=False, errors="backslashreplace"
        )
        if descriptor == 1:
            sys.stdout = stream
        else:
            sys.stderr = stream

    def _outcome(self, claim: _Claim, number: int) -> tuple[Said, list[Blob]]:
        """Call a function, and return what came of it. Whatever goes wrong is the call's."""
        phase = "load"
        try:
            call = claim.calls[number]
            _check_python(call)
            function = self._function(call["f"])
            parts, _ = parts_of(call["v"], claim.body, claim.places[number])
            given, named = load_value(call["v"], parts, self._shared)
            del parts
            phase = "call"
            value = function(*given, **named)
            if os.getpid() != self._process:
                _end_fork(None)
            del given, named
            phase = "dump"
            said, blobs = self._dumped(value)
            return {"ok": True, "v": said}, blobs
        except BaseException as error:  # also SystemExit, as of a process
            if os.getpid() != self._process:
                _end_fork(error)
            return self._failure(error, phase)

    def _failure(self, error: BaseException, phase: str) -> tuple[Said, list[Blob]]:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        said: Said = {"ok": False, "phase": phase, "trace": text}
        said["why"] = f"{kind.replace('builtins.', '')}: {_text_of(error)}"
        if isinstance(error, ModuleNotFoundError):
            said["module"] = error.name
        try:
            described, blobs = self._dumped(error)
            parts, _ = parts_of(described, memoryview(b"".join(map(bytes, blobs))))
            load_value(described, parts)
        except BaseException as other:
            return {**said, "v": None, "unpickled": _text_of(other)}, []
        return {**said, "v": described}, blobs

    def _dumped(self, value: Any) -> tuple[Said, list[Blob]]:
        """Pickle a value, with cloudpickle where it is there and needed."""
        try:
            said, blobs = dump_value(value, _Pickler)
        except (pickle.PicklingError, AttributeError, TypeError):
            try:
                import cloudpickle
            except ImportError:
                cloudpickle = None
            if cloudpickle is None:
                raise
            said, blobs = dump_value(value, cloudpickle.Pickler)
        return said, list(padded(blobs))

    def _function(self, digest: str) -> Any:
        """Return a function; the last few are kept."""
        if digest not in self._functions:
            header, body = self.pool.read_shared(digest, self._checked)
            _check_python(header)
            parts, _ = parts_of(header["v"], body)
            if len(self._functions) > 7:
                self._functions.clear()
            self._functions[digest] = load_value(header["v"], parts, self._shared)
        return self._functions[digest]

    def _shared(self, digest: str) -> memoryview:
        """Return a buffer that several calls have; what they change in it is their own."""
        header, body = self.pool.read_shared(digest, self._checked)
        return body[: header["length"]]  # what is behind it makes the file longer

    def _log_end(self, descriptor: int) -> int:
        try:
            return os.lseek(descriptor, 0, os.SEEK_END)
        except OSError:  # the function closed it
            self._open_log(descriptor)
            return os.lseek(descriptor, 0, os.SEEK_END)

    def _add_logs(self, said: Said, before: list[int]) -> None:
        """Say where in the logs the call's own part stands, and what it says."""
        for descriptor, start, name in zip(self._logs, before, ("out", "err")):
            end = self._log_end(descriptor)
            if end == start:
                continue
            with open(self._log_of(descriptor), "rb") as file:
                file.seek(start)
                text = file.read(min(end - start, _TOLD)).decode("utf-8", "replace")
            said[name] = [start, end, text]


def _end_fork(error: BaseException | None) -> None:
    """End a process that a function forked, and that came back as if it were the call's."""
    code = 0
    if isinstance(error, SystemExit):
        code = (
            error.code if isinstance(error.code, int) else int(error.code is not None)
        )
    elif error is not None:
        traceback.print_exception(type(error), error, error.__traceback__)
        code = 1
    _flush_streams()
    os._exit(code & 0xFF)


def _check_python(said: Said) -> None:
    """Refuse code that another version of Python made."""
    wanted, own = said.get("python"), "%d.%d" % sys.version_info[:2]
    if wanted not in (None, own):
        raise RuntimeError(
            f"code that Python {wanted} pickled cannot be read by Python {own} "
            f"({sys.executable})"
        )


def _flush_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the function may have closed it
            stream.flush()


def _about(worker: str) -> Said:
    """Return who a worker is, and where."""
    job = os.environ.get("CLUSTERJOB_ID", "")
    return {"worker": worker, "host": socket.gethostname(), "job": job}


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:
        return f"(its text cannot be made: {type(other).__name__})"


def _message(number: int, said: Said | None, blobs: Iterable[Blob]) -> bytes:
    """Return what goes over the pipe for a call: how long it took, what it says, its result."""
    text = json.dumps(said).encode()
    body = b"".join(blobs)
    seconds = said["t"][1] if said is not None else 0.0
    return (
        _MESSAGE.pack(
            number,
            seconds,
            len(text),
            len(body),
        )
        + text
        + body
    )


# -- the process that minds the files --------------------------------------------------------------


class _Child:
    """The process that calls, as the other one sees it."""

    def __init__(self, pool: Pool, worker: str, limit: _Limit) -> None:
        orders, self._orders = os.pipe()
        self.results, results = os.pipe()
        with contextlib.suppress(AttributeError, OSError):  # before Python 3.10
            fcntl.fcntl(results, fcntl.F_SETPIPE_SZ, _PIPE)
        self._said = bytearray()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._orders)
            os.close(self.results)
            _serve(Caller(pool, worker, limit), orders, results)
        os.close(orders)
        os.close(results)

    def give(self, path: str) -> None:
        """Hand it a claim, by its path."""
        with contextlib.suppress(BrokenPipeError):  # it ends, which is seen elsewhere
            os.write(self._orders, path.encode("utf-8", "surrogateescape") + b"\n")

    def poke(self) -> None:
        """Tell it to look at the limit again."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, b"\n")

    def hear(self, patience: float) -> Iterator[tuple[int, float, bytes, bytes]]:
        """Yield the results that came within so many seconds: the number of the call, how long it
        took, what is said of it, and its bytes.
        """
        ready, _, _ = select.select(
            [self.results],
            [],
            [],
            patience,
        )
        if ready:
            data = os.read(self.results, _PIPE)
            if not data:
                self._reap()
            self._said += data
        view, at = bytes(self._said), 0
        while len(view) - at >= _MESSAGE.size:
            number, seconds, text, body = _MESSAGE.unpack_from(view, at)
            start = at + _MESSAGE.size
            end = start + text + body
            if len(view) < end:
                break
            at = end
            yield (
                number,
                seconds,
                view[start : start + text],
                view[start + text : end],
            )
        del self._said[:at]

    def _reap(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        is_killed = os.WIFSIGNALED(status)
        self.code = -os.WTERMSIG(status) if is_killed else os.WEXITSTATUS(status)

    def end(self) -> None:
        """Let it end, which it does between two calls."""
        os.close(self._orders)
        if self.code is None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        os.close(self.results)


def _serve(caller: Caller, orders: int, results: int) -> None:
    """Be the child: take claims until the other end of the pipe is closed."""
    code = 1
    try:
        caller.set_up()
        stream = open(orders, "rb")

        def send(data: bytes) -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(results, view) :]

        order = stream.readline()
        while order:
            name = order.strip().decode("utf-8", "surrogateescape")
            if name:
                claim = read_claim(caller.pool, name)
                order = caller.run(claim, send, stream.readline)
            else:  # about another limit, which came late
                order = stream.readline()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _flush_streams()
        os._exit(code)


def read_claim(pool: Pool, name: str) -> _Claim:
    """Read a claim that was taken. Raises :class:`Untrusted`, OSError."""
    chunk = name.partition("@")[0]
    number, first, end = chunk.split("_")
    path, label = pool.path("taken", name), pool.label("todo", number)
    header, body = read_signed(path, pool.key, label)
    calls = header["calls"]
    places, at = [], 0
    for call in calls:
        places.append(at)
        _, at = parts_of(call["v"], body, at)
    last = min(int(end), len(calls))
    return _Claim(
        name,
        number,
        int(first),
        last,
        calls,
        places,
        body,
    )


class Worker:
    """Takes calls, has them called, and writes what came of them."""

    def __init__(self, pool: Pool, generation: str) -> None:
        self.pool = pool
        self.settings = pool.settings
        self.limit = _Limit()
        self.child: _Child | None = None
        self.ending = 0  # the signal that told it to end
        self.started = time.time()
        self.longest = 0.0  # s that a call took
        self.kills = _out_of_memory_kills()
        self._unstarted = 0  # children that ended before they called anything
        self._has_left_call = False
        element = os.environ.get("CLUSTERJOB_ARRAY_INDEX") or "0"
        self.name = self._register(f"{generation}-{element}")
        self.about = _about(self.name)
        self._names: list[str] = []  # chunks that were there when it looked last

    def _register(self, name: str) -> str:
        """Write down who runs. A worker that its scheduler starts once more has another name."""
        said = json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "job": os.environ.get("CLUSTERJOB_ID", ""),
                "python": "%d.%d.%d" % sys.version_info[:3],
                "started": self.started,
            }
        ).encode()
        for turn in range(1000):
            own = f"{name}.{turn}"
            if os.path.exists(self.pool.path("workers", f"{own}.ended")):
                continue
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            try:
                descriptor = os.open(self.pool.path("workers", own), flags, 0o600)
            except FileExistsError:
                continue
            with open(descriptor, "wb") as file:
                file.write(said)
            return own
        raise OSError(errno.EEXIST, "too many workers", name)

    def run(self) -> int:
        """Work until there is nothing to do any more; return the exit code."""
        for number in (
            signal.SIGTERM,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGXCPU,
        ):
            signal.signal(number, self._told_to_end)
        last_work = time.monotonic()
        pause = _SHORTEST
        while (claim := self._next()) is not None or not self._is_over():
            if claim is not None:
                self._begin(claim)
                while claim is not None:
                    claim = self._work(claim)
                last_work, pause = time.monotonic(), _SHORTEST
                continue
            idle = time.monotonic() - last_work
            if idle > self.settings.get("idle", 60.0):
                break
            time.sleep(pause)
            pause = self._next_pause(pause, idle)
        if self.child is not None:
            self.child.end()
        with contextlib.suppress(OSError):
            os.rename(
                self.pool.path("workers", self.name),
                self.pool.path("workers", f"{self.name}.ended"),
            )
        return 128 + self.ending if self._has_left_call else 0

    def _told_to_end(self, number: int, frame: object) -> None:
        self.ending = number

    def _next_pause(self, pause: float, idle: float) -> float:
        """Return the s until the next look: all workers together look some hundred times a s, and
        less often when nothing came for long.
        """
        workers = self.settings.get("workers", 1)
        longest: float = 0.02 * workers if idle < 10 else 0.1 * workers
        return max(_SHORTEST, min(1.5 * pause, longest, _LONGEST))

    def _is_over(self) -> bool:
        """Whether no more calls are to be taken: the other side says so, or time is short."""
        if self.ending:
            return True
        own = f"stop-{self.name.partition('.')[0]}"
        for name in ("stop", own):
            if os.path.exists(self.pool.path(name)):
                return True
        limit = self.settings.get("limit")
        if not limit:
            return False
        left = self.started + limit - time.time()
        spare = min(60.0, 0.05 * limit)
        return bool(left < max(spare, 1.2 * self.longest))

    def _next(self) -> _Claim | None:
        """Take a chunk, where one may be taken and there is one."""
        return None if self._is_over() else self._take()

    def _take(self) -> _Claim | None:
        """Take a chunk, the oldest that there is."""
        if not self._names:
            found = os.listdir(self.pool.path("todo"))
            self._names = sorted(found, reverse=True)
        while self._names:
            name = self._names.pop()
            claim = f"{name}@{self.name}"
            taken = self.pool.path("taken", claim)
            try:
                os.rename(self.pool.path("todo", name), taken)
            except FileNotFoundError:
                # on NFS an answer that was lost may have been a yes
                if not os.path.exists(taken):
                    continue
            try:
                return read_claim(self.pool, claim)
            except (Untrusted, ValueError, KeyError, TypeError) as error:
                self._refuse(claim, str(error))
        return None

    def _refuse(self, claim: str, why: str) -> None:
        """Tell that a chunk is not what it should be, and put it out of the way."""
        header = {**self.about, "refused": claim, "why": why}
        self.pool.publish(
            "results",
            f"{claim}.refused",
            header,
            (),
        )
        taken = self.pool.path("taken", claim)
        os.rename(taken, self.pool.path("tmp", claim))

    # -- one claim ---------------------------------------------------------------------------------

    def _begin(self, claim: _Claim) -> None:
        with self.limit:
            self.limit.set(claim.first, claim.granted)
        self._give(claim)

    def _work(self, claim: _Claim) -> _Claim | None:
        """Have the calls of a claim called, which is begun. Returns the next one, begun too."""
        part = _Part(self, claim)
        while part.told < part.end:
            self._hear(claim, part)
            child = self.child
            is_gone = child is not None and child.code is not None
            if is_gone and self._has_lost_child(claim, part):
                return None
        following = self._next()
        if following is not None:
            self._begin(following)  # while the results of this one are written
        part.flush()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.pool.path("taken", claim.name))
        return following

    def _give(self, claim: _Claim) -> None:
        if self.child is None:
            self.child = _Child(self.pool, self.name, self.limit)
        self.child.give(claim.name)

    def _hear(self, claim: _Claim, part: _Part) -> None:
        """Take in results, write them when it is time, and let the child go on."""
        assert self.child
        time.sleep(part.leisure())  # to be woken for each call would slow them down
        for number, seconds, said, body in self.child.hear(part.patience()):
            part.add(number, said, body)
            self.longest = max(self.longest, seconds)
        with self.limit:
            begun, limit = self.limit.get()
        is_out = begun >= limit and part.told >= min(limit, part.end)
        if part.is_due() or is_out:
            part.flush()
            self._grant(part)
            if part.is_too_much():
                part.give_back(half=True)
        if self.ending or part.is_stuck():
            part.give_back()

    def _grant(self, part: _Part) -> None:
        """Let the child begin what the file that was just written says that it may."""
        with self.limit:
            begun, limit = self.limit.get()
            if min(part.next, part.end) <= limit:
                return
            self.limit.set(begun, min(part.next, part.end))
        assert self.child
        self.child.poke()

    def _has_lost_child(self, claim: _Claim, part: _Part) -> bool:
        """Tell which call the child was at when it ended, and go on after it. True where this
        worker is being ended too: what becomes of the call is the scheduler's to say.
        """
        assert self.child
        code = self.child.code
        self.child.end()
        self.child = None
        with self.limit:
            begun, _ = self.limit.get()
        deadline = time.monotonic() + 1.0
        while code is not None and code < 0 and not self.ending:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        if self.ending:
            part.give_back()
            part.flush()
            self._has_left_call = True
            return True
        has_begun = begun > part.told or code == _RENEW
        self._unstarted = 0 if has_begun else self._unstarted + 1
        if (begun > part.told and code != _RENEW) or self._unstarted > 2:
            said = self._death(claim, part.told, code)
            part.add(part.told, json.dumps(said).encode(), b"")
        if part.told < part.end:
            part.flush()
            may_begin = min(part.next, part.end)
            with self.limit:
                self.limit.set(part.told, max(part.told, may_begin))
            self._give(claim)
        return False

    def _death(self, claim: _Claim, number: int, code: int | None) -> Said:
        said = {
            "n": claim.calls[number]["n"],
            "ok": False,
            "v": None,
            "phase": "died",
        }
        said["code"] = code
        kills = _out_of_memory_kills()
        said["oom"] = code == -signal.SIGKILL and kills > self.kills
        self.kills = kills
        said["t"] = [time.time(), 0.0]
        said["why"] = f"its process ended with exit code {code}"
        if code is not None and code < 0:
            said["why"] = f"its process was killed by signal {-code}"
        return said


def _out_of_memory_kills() -> int:
    """Return how many processes of this control group were killed for want of memory.

    See cgroups(7), and memory.events in the kernel's cgroup-v2.rst.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _lines_of("/proc/self/cgroup"):
            number, names, path = line.split(":", 2)
            base, name = "/sys/fs/cgroup", "memory.events"
            if number != "0":
                if "memory" not in names.split(","):
                    continue
                base, name = "/sys/fs/cgroup/memory", "memory.oom_control"
            for event in _lines_of(f"{base}{path}/{name}"):
                if event.startswith("oom_kill "):
                    return int(event.split()[1])
    return 0


def _lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


class _Part:
    """The results of a claim that are not written yet."""

    def __init__(self, worker: Worker, claim: _Claim) -> None:
        self.worker = worker
        self.claim = claim
        self.end = claim.end  # of what is still this worker's
        self.told = claim.first  # the first call without a result
        # what the files that are there say of how far the child may go
        self.next = claim.granted
        self._said: list[bytes] = []
        self._bodies: list[bytes] = []
        self._size = 0
        self._files = 0
        self._began = self._flushed = self._heard = time.monotonic()

    def patience(self) -> float:
        """Return the s until something is to be done, whether or not a result comes."""
        now = time.monotonic()
        to_flush = self._flushed + _FLUSH - now if self._said else _LONG
        to_give_back = (
            self._heard + _LONG - now if self.told + 1 < self.end else _LONG
        )
        return max(0.0, min(to_flush, to_give_back, 0.5))

    def leisure(self) -> float:
        """Return the s for which results may gather, because more are to come."""
        told = self.told - self.claim.first
        if not told:
            return 0.0
        pace = (time.monotonic() - self._began) / told
        return min(_GATHER, 0.5 * pace * (self.end - self.told - 1))

    def add(self, number: int, said: bytes, body: bytes) -> None:
        """Take in the result of a call; one without words stands in a file of its own."""
        self._heard = time.monotonic()
        if said != b"null":
            self.told = number + 1
            self._said.append(said)
            self._bodies.append(body)
            self._size += len(body)
            return
        self.flush()  # what came before
        self.told = number + 1
        pool = self.worker.pool
        name = f"{self.claim.name}.{number}r"
        os.rename(pool.path("tmp", name), pool.path("results", name))

    def is_due(self) -> bool:
        """Whether it is time to write what there is."""
        is_late = time.monotonic() - self._flushed > _FLUSH
        return bool(self._said) and (is_late or self._size > _LARGE)

    def flush(self) -> None:
        """Write what there is, and with it how far the child may go from then on."""
        now = time.monotonic()
        pace = (self.told - self.claim.first) / max(1e-4, now - self._began)
        ahead = max(1, int(pace * 2 * _FLUSH))
        wanted = max(self.next, min(self.end, self.told + ahead))
        if self._said or wanted > self.next:
            head = {**self.worker.about, "next": wanted, "calls": []}
            start = json.dumps(head)[: -len("]}")].encode()
            header = start + b", ".join(self._said) + b"]}"
            self._publish(f"{self.claim.name}.{self._files}", header)
            self._files += 1
        self.next = wanted
        self._said, self._bodies, self._size = [], [], 0
        self._flushed = time.monotonic()

    def _publish(self, name: str, header: bytes) -> None:
        """Write a file of results; on a disk that is full it is tried for long: each took time."""
        deadline = time.monotonic() + _DISK_PATIENCE
        while True:
            try:
                return self.worker.pool.publish(
                    "results",
                    name,
                    header,
                    self._bodies,
                )
            except OSError as error:
                is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if not is_full or time.monotonic() > deadline:
                    raise
                sys.stderr.write(f"clusterjob: {error}; tried again\n")
                time.sleep(2.0)

    def is_stuck(self) -> bool:
        """Whether a call takes long, so that what is behind it should go to another worker."""
        waits = self.told + 1 < self.end
        return waits and time.monotonic() - self._heard > _LONG

    def is_too_much(self) -> bool:
        """Whether what is left takes long, and others have nothing to do."""
        spent = time.monotonic() - self._began
        rest = self.end - self.told
        pace = spent / max(1, self.told - self.claim.first)
        if spent < _LONG or rest * pace < _LONG:
            return False
        return not os.listdir(self.worker.pool.path("todo"))

    def give_back(self, half: bool = False) -> None:
        """Put calls that were not begun where others find them: all, or half of them."""
        limit = self.worker.limit
        with limit:
            begun, granted = limit.get()
            keep = max(begun, self.told)
            if half:
                keep += (self.end - keep + 1) // 2
            if keep >= self.end:
                return
            limit.set(begun, min(granted, keep))
        pool = self.worker.pool
        rest = f"{self.claim.chunk}_{keep}_{self.end}"
        part = pool.path("tmp", f"{rest}@{self.worker.name}")
        copy_file(pool.path("taken", self.claim.name), part)
        os.rename(part, pool.path("todo", rest))
        self.end = keep
        self.next = min(self.next, keep)


def copy_file(source: str, target: str) -> None:
    """Give a file another name too, or where that cannot be, its content."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    try:
        os.link(source, target)
    except OSError:
        import shutil

        shutil.copyfile(source, target)


def main(arguments: list[str]) -> int:
    """Run a worker: the arguments are the pool's folder, the digest of its key, and a number."""
    folder, key_sum, generation = arguments
    if not os.path.isdir(folder):
        return _NO_ENTRY  # it is over, and was cleared away
    try:
        pool = open_pool(folder, key_sum)
    except FileNotFoundError:
        return _NO_ENTRY
    except (Untrusted, OSError, ValueError) as error:
        sys.stderr.write(f"clusterjob: {error}; nothing was called\n")
        return _REFUSED
    return Worker(pool, generation).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
