"""Calls are made of functions and arguments: pickled, named, and told from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from clusterjob.functions.calls import (
    Call,
    CallFuture,
    Keeper,
    name_of,
    short_arguments,
)
from clusterjob.functions.identity import Identities
from clusterjob.functions.mapping import Arguments
from clusterjob.functions.payload import Payload, Pickler, check_function


class Prepared(NamedTuple):
    """A function that is to be sent: pickled, what it does as a digest, and its name."""

    payload: Payload
    identity: str
    name: str


class Preparer:
    """Makes the calls of one executor; without ``identities`` none is remembered."""

    def __init__(self, identities: Identities | None) -> None:
        self._identities = identities

    def start_over(self) -> None:
        """Count equal calls from one again."""
        if self._identities is not None:
            self._identities.start_over()

    def function(self, function: Callable[..., object]) -> Prepared:
        """Return a function as it is now. Raises :class:`SettingsError`, and whatever pickling it
        raises.
        """
        check_function(function)
        identity = ""
        try:
            if self._identities is not None:
                identity = self._identities.of_function(function)
            return Prepared(Pickler().dump(function), identity, name_of(function))
        except Exception as error:
            _add_note(
                error,
                f"{name_of(function)}, or something that it uses, cannot be sent. What cannot be "
                "pickled can stand in a module of your own, which travels by its name: "
                "include=[...] sends it along",
            )
            raise

    def calls(
        self, prepared: Prepared, arguments: Iterable[Arguments], keeper: Keeper
    ) -> list[Call]:
        """Return a call for each pair of arguments; one that cannot be pickled has failed, and has
        none. Raises :class:`CallError`.
        """
        pickler = Pickler()
        made = []
        for args, kwargs in arguments:
            title = short_arguments(args, kwargs)
            call = Call(prepared.payload, prepared.name, None, title)
            call.future = CallFuture(call, keeper)
            try:
                self._fill(call, prepared.identity, pickler, (args, kwargs))
            except Exception as error:  # whatever its __reduce__ raises
                _add_note(error, f"the arguments of {call.title} cannot be sent")
                call.arguments = None
                call.future.set_running_or_notify_cancel()
                call.future.set_exception(error)
            made.append(call)
        pickler.finish()
        return made

    def _fill(
        self,
        call: Call,
        identity: str,
        pickler: Pickler,
        arguments: Arguments,
    ) -> None:
        """Pickle the arguments of a call, and say which one it is."""
        call.arguments = pickler.dump_arguments(*arguments)
        if self._identities is not None:
            call.key = self._identities.of_call(identity, call.arguments, arguments)


def _add_note(error: Exception, words: str) -> None:
    """Say more about an error, where Python can (3.11)."""
    if hasattr(error, "add_note"):
        error.add_note(words)
