"""What travels to the cluster: functions and arguments, pickled and summed up."""

from __future__ import annotations

import copyreg
import functools
import hashlib
import json
import pickle
import sys
import types
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

from clusterjob.code import is_own
from clusterjob.errors import CallError, SettingsError
from clusterjob.runner import Blob, Said, dump_value, process_base

SHARED = (
    1 << 20
)  # bytes from which on a buffer is sent once, however many calls have it
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_PROCESS = "clusterjob.functions.process"  # the module whose class stays here
_REMADE = (type(functools.lru_cache(abs)), functools.cached_property)
_NAMELESS = "<dynamic-code>"  # cloudpickle's word for the file of a function
_BY_VALUE = b"cloudpickle.cloudpickle"  # in every pickle that has code in it


@dataclass
class Payload:
    """A value on its way: what is said of it, and its bytes.

    ``shared`` are the buffers that stand elsewhere, by their digests.
    """

    said: Said
    blobs: list[Blob]
    shared: dict[str, Blob] = field(default_factory=dict)
    has_code: bool = False  # which another version of Python cannot read
    # functions and classes of the user's own that it names, or has in it
    own: list[object] = field(default_factory=list)

    @functools.cached_property
    def digest(self) -> str:
        """What tells it from others; which buffer stands where counts too."""
        return _sum([json.dumps(self.said).encode(), *self.blobs])

    @property
    def python(self) -> dict[str, str]:
        """What is said of the Python that can read it: nothing where any can."""
        return {"python": "{}.{}".format(*sys.version_info)} if self.has_code else {}

    @property
    def size(self) -> int:
        """Bytes, without what is shared."""
        return sum(map(len, self.blobs))


class Pickler:
    """Pickles functions and arguments for one burst of calls.

    A large array that several calls of a burst have is summed up once, and once more at the end of
    the burst, where it must be what it was.
    """

    def __init__(self) -> None:
        self._own: list[object] = []
        self._make = _pickler(self._own)
        # large buffers by the objects that they are of, which are kept meanwhile
        self._known: dict[int, tuple[object, Blob, str, Blob]] = {}
        self._again: set[int] = set()

    def dump(self, value: object) -> Payload:
        """Pickle a value. Raises whatever pickling it raises."""
        self._own.clear()
        said, blobs = dump_value(value, self._make)
        payload = self._with_shared(said["b"], blobs)
        own = {id(item): item for item in self._own}
        payload.own = list(own.values())
        return payload

    def dump_arguments(
        self, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Payload:
        """Pickle the arguments of a call; plain ones without further ado."""
        if kwargs or not all(type(arg) in _PLAIN for arg in args):
            return self.dump((args, kwargs))
        text = pickle.dumps((args, kwargs), 5)
        return Payload({"p": len(text), "b": []}, [text])

    def _with_shared(self, lengths: list[int], blobs: list[Blob]) -> Payload:
        """Take large buffers out, to be sent by themselves."""
        text, *buffers = blobs
        marks: list[int | str] = []
        own, shared = [text], {}
        for length, buffer in zip(lengths, buffers, strict=True):
            if length < SHARED:
                marks.append(length)
                own.append(
                    bytes(buffer)
                )  # the array may be changed before it is sent
                continue
            digest, copy = self._taken(buffer)
            marks.append(digest)
            shared[digest] = copy
        said = {"p": len(text), "b": marks}
        return Payload(said, own, shared, has_code=_BY_VALUE in text)

    def _taken(self, buffer: memoryview) -> tuple[str, Blob]:
        """Return the digest of a large buffer, and its bytes as they are now."""
        key = id(buffer.obj)
        known = self._known.get(key)
        if known is not None and len(known[1]) == len(buffer):
            self._again.add(key)
            return known[2], known[3]
        copy = bytes(buffer)
        digest = _sum([copy])
        self._known[key] = buffer.obj, buffer, digest, copy
        return digest, copy

    def finish(self) -> None:
        """End a burst. Raises :class:`CallError` where an array that several calls of it were given
        is not what it was.
        """
        for key in self._again:
            _, buffer, digest, _ = self._known[key]
            if _sum([buffer]) != digest:
                raise CallError(
                    "an array was changed in place after it was given to a call, so that the calls "
                    "of before would get what it is now: give each call an array of its own "
                    "(a.copy())"
                )
        self._known.clear()
        self._again.clear()


def _sum(blobs: list[Blob]) -> str:
    digest = hashlib.sha256()
    for blob in blobs:
        digest.update(blob)
    return digest.hexdigest()


@functools.cache
def _cloudpickle() -> type[pickle.Pickler] | None:
    """Return its pickler, where it is installed."""
    try:
        import cloudpickle
    except ImportError:
        return None
    found: type[pickle.Pickler] = cloudpickle.Pickler
    return found


def _pickler(own: list[object]) -> type[pickle.Pickler]:
    """Return a pickler that notes functions and classes of the user's own: their names travel, and
    what they do may change.
    """
    base: Any = _cloudpickle() or pickle.Pickler

    class Noting(base):  # type: ignore[misc]
        dispatch_table = _with_file_names(base)

        def reducer_override(self, value: object) -> Any:
            # of a class derived from ours the other side has what it is there
            if isinstance(value, type) and value.__module__ == _PROCESS:
                return process_base, ()
            if is_own(value):
                own.append(value)
            if isinstance(value, _REMADE) and base is not pickle.Pickler:
                return _as_made(value)
            if base is pickle.Pickler:
                return NotImplemented
            return super().reducer_override(value)

    return Noting


def _as_made(value: Any) -> Any:
    """Say how a cached function or property is made; its cache stays here. One of a module that can
    be imported goes by its name.
    """
    if isinstance(value, functools.cached_property):
        return functools.cached_property, (value.func,), {"attrname": value.attrname}
    name = value.__qualname__
    if value.__module__ != "__main__" and "<" not in name:
        return NotImplemented
    given = value.cache_parameters()
    kind = functools._CacheInfo
    parts = value.__wrapped__, given["maxsize"], given["typed"], kind
    words = {"__module__": value.__module__, "__qualname__": name}
    return type(value), parts, {**words, "__wrapped__": value.__wrapped__}


def _with_file_names(base: Any) -> Any:
    """Return how a pickler takes objects apart: of code the name of its file is kept, which
    cloudpickle replaces, and a traceback needs.
    """
    table = getattr(base, "dispatch_table", copyreg.dispatch_table)
    take_apart = table.get(types.CodeType)
    if take_apart is None:
        return table

    def reduced(code: types.CodeType) -> tuple[Any, tuple[object, ...]]:
        make, arguments = take_apart(code)
        named = [code.co_filename if one == _NAMELESS else one for one in arguments]
        return make, tuple(named)

    return ChainMap({types.CodeType: reduced}, table)


def has_cloudpickle() -> bool:
    """Whether functions of a notebook can travel."""
    return _cloudpickle() is not None


def check_function(function: object) -> None:
    """See that a function can travel. Raises :class:`SettingsError`."""
    if not callable(function):
        raise SettingsError(f"{function!r} cannot be called: expected a function")
    if has_cloudpickle():
        return
    module = getattr(function, "__module__", None)
    name = str(getattr(function, "__qualname__", ""))
    if module == "__main__" or "<" in name:
        raise SettingsError(
            f"{name or function!r} is a function of this program itself, which travels by "
            "cloudpickle only, and that is not installed: pip install 'clusterjob[functions]'. "
            "Without it, functions of modules that can be imported there can be called"
        )
