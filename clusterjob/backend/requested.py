"""What one job asks for, as people read and write it."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Mapping
from typing import Any

from clusterjob import units
from clusterjob.backend.names import common_name
from clusterjob.backend.resources import ResourceValue, check_resource
from clusterjob.errors import SettingsError


class Quantity(str):
    """A time limit (``02:00:00``) or an amount of memory (``4G``), as people write it.

    ``amount`` is the same in seconds, or in MB of 1024 * 1024 bytes.
    """

    amount: int

    def __new__(cls, text: str, amount: int) -> Quantity:
        quantity = super().__new__(cls, text)
        quantity.amount = amount
        return quantity

    def __reduce__(self) -> tuple[object, ...]:
        return Quantity, (str(self), self.amount)


def readable(name: str, value: ResourceValue | None) -> ResourceValue | None:
    """Return a resource, which is in the form it has inside, as people write it."""
    if name == "time" and isinstance(value, int):
        return Quantity(units.clock(value), value)
    if name == "mem" and isinstance(value, int):
        return Quantity(units.memory(value), value)
    return value


class Resources(UserDict[str, ResourceValue | None]):
    """The resources of a job by their names; other words for a common one are taken for it.

    Values are checked when they are set. Times and memory read as people write them, and setting
    what was read changes nothing. Raises :class:`SettingsError`.

    ``said`` are the names of those that were set one by one, not by a profile or a directive.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.said: set[str] = set()
        super().__init__(given)

    def __setitem__(self, name: str, value: object) -> None:
        name = common_name(name)
        self.data[name] = readable(name, check_resource(name, value))
        self.said.add(name)

    def __getitem__(self, name: str) -> ResourceValue | None:
        return self.data[common_name(name)]

    def __delitem__(self, name: str) -> None:
        name = common_name(name)
        del self.data[name]
        self.said.discard(name)

    def __contains__(self, name: object) -> bool:
        return name in self.data

    def put(self, amounts: Mapping[str, ResourceValue | None]) -> None:
        """Set resources that are in the form they have inside already."""
        for name, value in amounts.items():
            self.data[name] = readable(name, value)
        self.said.difference_update(amounts)

    def twin(self) -> Resources:
        """Return the same, to be changed alone."""
        twin = Resources()
        twin.data, twin.said = dict(self.data), set(self.said)
        return twin

    def amounts(self) -> dict[str, ResourceValue]:
        """Return what is asked for, in the form that it has inside."""
        return {
            name: value.amount if isinstance(value, Quantity) else value
            for name, value in self.data.items()
            if value is not None
        }


def check_once(names: Iterable[str], file: object = None) -> None:
    """Refuse two words for one resource. Raises :class:`SettingsError`."""
    seen: dict[str, str] = {}
    for name in names:
        common = common_name(name)
        if common in seen:
            raise SettingsError(
                f"{seen[common]!r} and {name!r} are the same resource, {common!r}; keep one",
                file=file,
                section=None if file is None else "Resources",
            )
        seen[common] = name
