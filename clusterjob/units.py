"""Times and amounts of memory: parsed once, written in each scheduler's own form."""

from __future__ import annotations

import math
import re

from clusterjob.errors import SettingsError

_N = "[0-9]{1,15}"  # nobody's number has more digits
_SECONDS = {
    "s": 1,
    "sec": 1,
    "m": 60,
    "min": 60,
    "h": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
}
_MEGABYTES = {"": 1.0, "K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}

_TIME_HELP = (
    "expected minutes (90), a number with a unit ('5m', '1h30m', '2d'), '[D-]HH:MM:SS', "
    "'MM:SS' or 'D-HH[:MM]'"
)
_MEMORY_HELP = (
    "expected a number of MB (100) or a number with a unit ('4G', '500 MB', '1.5T')"
)


def parse_time(value: int | float | str) -> int:
    """Convert a time limit to seconds.

    A bare number is minutes, and ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``
    mean what they mean to Slurm (``--time`` in sbatch(1), 22.05); ``5m``, ``1h30m``, ``90s`` and
    ``2d`` are understood as well.

    Raises :class:`SettingsError` for anything else, and for zero and negative times.
    """
    seconds = _parse_time(value)
    if seconds is None or not math.isfinite(seconds) or seconds <= 0:
        raise SettingsError(f"{value!r} is not a time limit: {_TIME_HELP}")
    return max(1, math.ceil(seconds))


def _parse_time(value: int | float | str) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value * 60
    text = value.strip().lower()
    if re.fullmatch(rf"{_N}(\.[0-9]+)?", text):
        return float(text) * 60
    if match := re.fullmatch(rf"(?:({_N})-)?({_N})(?::({_N}))?(?::({_N}))?", text):
        days, *parts = match.groups()
        numbers = [int(part) for part in parts if part is not None]
        if days is not None:  # D-HH[:MM[:SS]]
            hours, minutes, seconds = (*numbers, 0, 0)[:3]
            return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
        # [HH:]MM:SS
        return float(
            sum(number * 60**power for power, number in enumerate(reversed(numbers)))
        )
    pieces = re.findall(rf"({_N}(?:\.[0-9]+)?)\s*([a-z]+)\s*", text)
    if (
        pieces
        and re.fullmatch(rf"({_N}(\.[0-9]+)?\s*[a-z]+\s*)+", text)
        and all(unit in _SECONDS for _, unit in pieces)
    ):
        return sum(float(number) * _SECONDS[unit] for number, unit in pieces)
    return None


def parse_memory(value: int | float | str) -> int:
    """Convert an amount of memory to MB of 1024 * 1024 bytes, rounded up; a bare number is MB.

    Units are K, M, G, T, also as ``KB``, ``KiB`` and so on, in either case. Raises
    :class:`SettingsError` for anything else.
    """
    megabytes: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        megabytes = value
    elif isinstance(value, str) and (
        match := re.fullmatch(
            rf"({_N}(?:\.[0-9]+)?)\s*([KMGT]?)(?:I?B)?", value.strip().upper()
        )
    ):
        megabytes = float(match[1]) * _MEGABYTES[match[2]]
    if megabytes is None or not math.isfinite(megabytes) or megabytes <= 0:
        raise SettingsError(f"{value!r} is not an amount of memory: {_MEMORY_HELP}")
    return math.ceil(megabytes)


def memory(megabytes: int) -> str:
    """Write MB with the largest unit that makes a whole number: ``4G``, ``1500M``."""
    for unit, size in (("T", 1024 * 1024), ("G", 1024)):
        if megabytes % size == 0:
            return f"{megabytes // size}{unit}"
    return f"{megabytes}M"


def clock(seconds: int) -> str:
    """Write seconds as ``HH:MM:SS``; hours may exceed 24."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def day_clock(seconds: int) -> str:
    """Write seconds as ``D-HH:MM:SS``, without the days where there are none."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-{clock(rest)}" if days else clock(rest)


def minutes(seconds: int) -> int:
    """Write seconds as whole minutes, rounded up: a limit is never made shorter."""
    return math.ceil(seconds / 60)


def hour_minutes(seconds: int) -> str:
    """Write seconds as ``HH:MM`` (LSF's ``-W``), rounded up to the minute."""
    return f"{minutes(seconds) // 60:02d}:{minutes(seconds) % 60:02d}"


def seconds_of(text: str) -> float | None:
    """Read a duration that a scheduler printed: ``12.5``, ``3s``, ``3 second(s)``, ``MM:SS.mmm``,
    ``[D-]HH:MM:SS``. None if it is none.
    """
    match = re.fullmatch(
        rf"(?:({_N})-)?(?:({_N}):)?(?:({_N}):)?({_N}(?:\.[0-9]+)?)\s*(?:s|second\(s\))?",
        text.strip(),
    )
    if not match:
        return None
    days, first, second, last = match.groups()
    parts = [part for part in (first, second) if part is not None]
    total = float(last)
    for power, part in enumerate(reversed(parts), start=1):
        total += int(part) * 60**power
    return total + int(days or 0) * 86400


def megabytes_of(text: str, default_unit: str = "B") -> float | None:
    """Read an amount of memory that a scheduler printed: ``1234K``, ``4.777M``, ``512kb``, ``5.2
    Gbytes``, ``0.000B``. None if it is none.
    """
    match = re.fullmatch(
        rf"({_N}(?:\.[0-9]+)?)\s*([KMGTB]?)(?:I?B(?:YTE)?)?S?", text.strip().upper()
    )
    if not match:
        return None
    unit = match[2] or default_unit.upper()
    return float(match[1]) * (1 / 1024**2 if unit == "B" else _MEGABYTES[unit])
