"""Packs: very short jobs that run one after another in one job of the scheduler's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from clusterjob import units
from clusterjob.errors import ResourcesNotSupportedError, SettingsError

_START = 60  # s that a pack has for starting its jobs
# what jobs that run at the same time need as many times
_TOGETHER = ("ppn", "mem", "gpus")


@dataclass(frozen=True)
class Pack:
    """How many jobs one of the scheduler's runs: ``jobs`` of them, or as many as have room in
    ``seconds`` with the time that each asks for; ``slots`` of them at a time.
    """

    jobs: int = 0
    seconds: int = 0
    slots: int = 1

    @classmethod
    def of(cls, pack: int | str | None, slots: int = 1) -> Pack | None:
        """Return what ``pack`` and ``pack_slots`` of a call say. Raises :class:`SettingsError`."""
        if not _is_count(slots):
            raise SettingsError(
                f"pack_slots = {slots!r}: expected how many jobs of a pack run at a time"
            )
        if pack is None:
            if slots != 1:
                raise SettingsError(f"pack_slots = {slots}: expected pack beside it")
            return None
        if _is_count(pack):
            return cls(jobs=int(pack), slots=slots)
        if isinstance(pack, str) and not pack.strip().isdigit():
            try:
                return cls(seconds=units.parse_time(pack), slots=slots)
            except SettingsError:
                pass
        raise SettingsError(
            f"pack = {pack!r}: expected how many jobs run in one of the scheduler's (50), or how "
            'long it may take ("30m")'
        )

    def to_json(self) -> dict[str, int]:
        """Return the numbers that a record keeps."""
        return asdict(self)

    def size(self, resources: Mapping[str, Any]) -> int:
        """Return how many jobs with these resources go in one pack."""
        if self.jobs:
            return self.jobs
        return max(1, self.seconds // int(resources["time"])) * self.slots

    def resources(self, one: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Return what a pack of ``count`` jobs asks for, each of which asks for ``one``."""
        found = dict(one)
        slots = min(self.slots, count)
        if found.get("time"):
            rounds = -(-count // slots)
            found["time"] = rounds * found["time"] + _START
        if slots > 1:
            found["ppn"] = found.get("ppn") or 1
            for name in _TOGETHER:
                if found.get(name):
                    found[name] *= slots
        return found

    def check(self, name: str, resources: Mapping[str, Any]) -> None:
        """Refuse what cannot go in such a pack. Raises :class:`SettingsError`."""
        time = resources.get("time") or 0
        if self.seconds and not time:
            raise SettingsError(
                f"job {name!r}: a pack of {units.clock(self.seconds)} needs to know how long its "
                "jobs take: give them a time, or say how many go in a pack"
            )
        if self.seconds and time > self.seconds:
            raise SettingsError(
                f"job {name!r} asks for {units.clock(time)}, and a pack has "
                f"{units.clock(self.seconds)}"
            )
        if self.slots > 1 and (resources.get("nodes") or 1) > 1:
            raise ResourcesNotSupportedError(
                f"job {name!r} asks for {resources['nodes']} nodes; jobs of a pack run beside each "
                "other on one (pack_slots)"
            )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
