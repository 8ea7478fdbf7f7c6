"""What makes two calls the same: all that the outcome can depend on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from clusterjob.code import code_digest
from clusterjob.errors import SettingsError
from clusterjob.functions.payload import Payload, Pickler
from clusterjob.functions.sites import Site

RULES = 1  # changes when equal calls would get other keys
_SETS = (
    b"\x8f",
    b"\x91",
)  # opcodes of sets, which have another order in each process


class Identities:
    """The keys of the calls of one executor: the second of equal calls has one of its own.

    ``common`` are the words that all of them have.
    """

    def __init__(self, common: Sequence[object]) -> None:
        self._common = common
        self._counts: Counter[str] = Counter()

    @classmethod
    def at(cls, sites: Sequence[Site], version: str | int | None) -> Identities:
        """Return the identities of calls that are made on some clusters."""
        if version is not None and not isinstance(version, (str, int)):
            raise SettingsError(
                f"version = {version!r}: expected a text or a whole number"
            )
        python = "{}.{}".format(*sys.version_info)
        places = sorted(site.means for site in sites)
        archives = sorted({name for site in sites for name in site.names})
        return cls([RULES, python, places, archives, version])

    def of_function(self, function: Callable[..., object]) -> str:
        """Return what a function does, as a digest."""
        return code_digest(function, _digest_of_object)

    def of_call(self, function: str, payload: Payload, arguments: object) -> str:
        """Return the key of the next call of a function with such arguments."""
        digest = _digest_of(payload, arguments)
        words = json.dumps([*self._common, function, digest])
        base = hashlib.sha256(words.encode()).hexdigest()
        self._counts[base] += 1
        turn = self._counts[base]
        if turn == 1:
            return base
        return hashlib.sha256(f"{base} {turn}".encode()).hexdigest()

    def start_over(self) -> None:
        """Count equal calls from one again."""
        self._counts.clear()


def _digest_of(payload: Payload, value: object) -> str:
    """Return a digest of a value that was pickled, the same in every process.

    Pickles of sets, and those with code in them, are others each time: what they are made of counts
    then. So does what functions and classes of the user's own do that go by their names.
    """
    text = bytes(payload.blobs[0])
    if payload.has_code or any(opcode in text for opcode in _SETS):
        return code_digest(value, _digest_of_object)
    return _with_own(payload)


def _digest_of_object(value: object) -> str:
    """Return a digest of an object of a library's; nothing where it cannot be pickled, so that it
    does not travel, either.
    """
    try:
        payload = Pickler().dump(value)
    except Exception:  # whatever its __reduce__ raises
        return ""
    if payload.has_code and hasattr(value, "__dict__"):
        return code_digest(vars(value), _digest_of_object)
    return _with_own(payload)


def _with_own(payload: Payload) -> str:
    """Return the digest of a pickle, with what functions and classes do that it names."""
    if not payload.own:
        return payload.digest
    return payload.digest + code_digest(payload.own, _digest_of_object)
