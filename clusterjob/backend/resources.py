"""What a job may ask for: the common resources, and the form that each has inside.

``time`` is kept in seconds, ``mem`` in MB of 1024 * 1024 bytes, counts as ``int``.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

from clusterjob import units
from clusterjob.backend.ini import parse_boolean
from clusterjob.errors import SettingsError

ResourceValue = str | int | float | bool

# what [Resources] of a profile and [Directives] of a backend both speak of
COMMON_RESOURCES = (
    "jobname",
    "queue",
    "account",
    "time",
    "nodes",
    "ppn",
    "threads",
    "mem",
    "gpus",
    "stdout",
    "stderr",
    "array",
)
_COUNTS = ("nodes", "ppn", "threads", "gpus")
_TEXTS = ("jobname", "queue", "account", "stdout", "stderr", "array")
# the most that any known scheduler can be set up to take: MaxArraySize, slurm.conf(5), 24.11
_MOST_ELEMENTS = 4_000_000
# resources of schedulers that are nearly the names of common ones
_NO_SLIPS = ("pmem", "vmem", "pvmem")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_N = r"\d{1,15}"
_ARRAY = re.compile(
    rf"((?:{_N}(?:-{_N}(?::{_N})?)?)(?:,{_N}(?:-{_N}(?::{_N})?)?)*)(?:%[1-9]\d*)?"
)
_ARRAY_PART = re.compile(rf"({_N})(?:-({_N}))?(?::({_N}))?")


def check_resource(name: str, value: object) -> ResourceValue | None:
    """Return a resource in the one form it has inside; None for an empty one.

    Resources that are not common ones stay as they are; the words true and false become flags.
    Raises :class:`SettingsError`.
    """
    if name not in COMMON_RESOURCES:
        _check_name(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, (str, int, float, bool)):
        raise SettingsError(
            f"resource {name!r} is {value!r}; expected a word, a number, True or False"
        )
    if name in ("time", "mem"):
        return _check_quantity(name, value)
    if name in _COUNTS:
        return _check_count(name, value)
    if name in _TEXTS:
        return _check_text(name, value)
    if isinstance(value, str):
        flag = parse_boolean(value)
        return value if flag is None else flag
    return value


@functools.lru_cache(maxsize=1024, typed=True)
def _check_quantity(name: str, value: ResourceValue) -> int:
    try:
        return (
            units.parse_time(value) if name == "time" else units.parse_memory(value)
        )
    except SettingsError as error:
        raise SettingsError(f"resource {name!r}: {error}") from None


def _check_count(name: str, value: ResourceValue) -> int:
    number = 0
    try:
        if not isinstance(value, bool) and float(value) == int(value):
            number = int(value)
    except (ValueError, OverflowError):
        pass
    if number < 1:
        raise SettingsError(
            f"resource {name!r} is {value!r}; expected a whole number from 1 on"
        )
    return number


def _check_text(name: str, value: ResourceValue) -> str:
    if isinstance(value, bool):
        raise SettingsError(f"resource {name!r} is {value!r}; expected a word")
    text = str(value)
    if _CONTROL_CHARACTER.search(text):
        raise SettingsError(
            f"resource {name!r} is {text!r}; "
            "it must not hold line breaks or other control characters"
        )
    return text


def _check_name(name: object) -> None:
    """Refuse what cannot be an option of a scheduler, or is a slip of a common resource."""
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{name!r} is not the name of a resource")
    has_space = any(character.isspace() for character in name.strip("-"))
    if has_space and not name.startswith("-"):
        raise SettingsError(f"{name!r} is not the name of a resource")
    check_spelling(name, COMMON_RESOURCES)


def check_spelling(
    key: str,
    known: Iterable[str],
    *,
    file: object = None,
    section: str | None = None,
    cutoff: float = 0.85,
) -> None:
    """Raise :class:`SettingsError` for a word that is nearly one of the known words.

    It is a slip, and would be taken for something new. ``cutoff`` is how alike words must be, from
    0 to 1.
    """
    near = "" if key in _NO_SLIPS else _nearest(key, tuple(known), cutoff)
    if not near:
        return
    message = f"unknown key. Did you mean {near!r}?"
    if section != "Attributes":
        message += f" (Written as '-{key}' it is passed to the scheduler as it is.)"
    raise SettingsError(message, file=file, section=section, key=key)


@functools.lru_cache(maxsize=1024)
def _nearest(key: str, known: tuple[str, ...], cutoff: float) -> str:
    """Return the known word that a key is a slip of; empty where it is none."""
    if key in known or key.startswith("-"):
        return ""
    letters = sorted(key.lower())
    for word in known:  # letters that changed places
        if sorted(word) == letters:
            return word
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=cutoff)
    return close[0] if close else ""


def derive_resources(resources: Mapping[str, object]) -> dict[str, int | None]:
    """Return what directives may use besides the resources.

    ``cores`` of a node, ``slots`` (cores) of all nodes, ``tasks`` (processes) of all nodes,
    ``mem_total`` of all nodes and ``mem_per_core``, in MB; None where no memory is asked for.
    """
    nodes, ppn, threads = (
        _count(resources, name) for name in ("nodes", "ppn", "threads")
    )
    cores = ppn * threads
    mem = resources.get("mem")
    known = mem if isinstance(mem, int) else None
    return {
        "cores": cores,
        "slots": nodes * cores,
        "tasks": nodes * ppn,
        "mem_total": None if known is None else known * nodes,
        "mem_per_core": None if known is None else -(-known // cores),
    }


def _count(resources: Mapping[str, object], name: str) -> int:
    value = resources.get(name)
    return value if isinstance(value, int) and value else 1


def parse_array(spec: str) -> list[int]:
    """Return the indices of an array: ``"0-9"``, ``"1-10:2"``, ``"1,5,7-9"``.

    Each with an optional ``%max_running``. Raises :class:`SettingsError` for anything else.
    """
    match = _ARRAY.fullmatch(spec)
    if not match:
        raise SettingsError(
            f"{spec!r} is not an array: expected for example '1-10', '0-98:2' or '1,5,7-9', "
            "and '%4' for at most 4 at once"
        )
    indices: dict[int, None] = {}
    for part in match[1].split(","):
        elements = _parse_range(part, spec)
        if len(indices) + len(elements) > _MOST_ELEMENTS:
            raise SettingsError(
                f"the array {spec!r} has more than {_MOST_ELEMENTS:,} elements, which no scheduler "
                "takes: submit it in parts"
            )
        indices.update(dict.fromkeys(elements))
    return list(indices)


def format_array(indices: Sequence[int], as_list: bool = True) -> str:
    """Return indices as an array has them; not ``as_list`` one range with all of them in it, of two
    indices at least: PBS takes no other.
    """
    wanted = sorted(indices)
    if not as_list:
        return f"{wanted[0]}-{max(wanted[-1], wanted[0] + 1)}"
    runs: list[list[int]] = []
    for index in wanted:
        if runs and runs[-1][-1] == index - 1:
            runs[-1] = [runs[-1][0], index]
        else:
            runs.append([index])
    return ",".join("-".join(map(str, run)) for run in runs)


def _parse_range(part: str, spec: str) -> range:
    match = _ARRAY_PART.fullmatch(part)
    assert match is not None  # the whole was checked before
    first = int(match[1])
    last = int(match[2] or first)
    step = int(match[3] or 1)
    if step < 1 or last < first:
        raise SettingsError(f"{part!r} in the array {spec!r} is empty or has no step")
    return range(first, last + 1, step)
