"""Single fields of what schedulers and jobs write: read within bounds, or not at all.

Others can make these words. So a number has so many digits at most, digits are those of ASCII, and
what is shown of the rest is cut.
"""

from __future__ import annotations

import calendar
import functools
import re
import time

from clusterjob.errors import TransportError, show

_WHOLE = re.compile(r"-?[0-9]{1,15}")
# s since the epoch, up to the year 5138: what a date can be made of
_EPOCH = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")
_TIME_FORMATS = (
    "%Y-%m-%dT%H:%M:%S",
    "%a %b %d %H:%M:%S %Y",
    "%m/%d/%Y %H:%M:%S",
    "%Y-%m-%d %H:%M:%S",
)


def number_of(text: str) -> int | None:
    """Read a whole number; None for anything else."""
    return int(text) if _WHOLE.fullmatch(text) else None


def require_number(text: str, host: str) -> int:
    """Read a number, from 0 on, that a script of ours prints.

    Raises :class:`TransportError` for anything else: then it is not our script that answers.
    """
    number = number_of(text.strip())
    if number is None or number < 0:
        raise TransportError(
            f"{host or 'this machine'} answers {show(text)} where a number was expected"
        )
    return number


def epoch_of(text: str) -> float | None:
    """Read seconds since the epoch; None for anything else."""
    return float(text) if _EPOCH.fullmatch(text) else None


@functools.lru_cache(maxsize=8192)
def time_of(text: str) -> float | None:
    """Read a time of a scheduler's: seconds since the epoch, or a date in UTC.

    The commands are asked for that. None for anything else; a small number is a count of something.
    """
    seconds = epoch_of(text)
    if seconds is not None:
        return seconds if len(text) >= 9 else None
    for form in _TIME_FORMATS:
        try:
            return float(calendar.timegm(time.strptime(text, form)))
        except ValueError:
            continue
    return None
