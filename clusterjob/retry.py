"""When a job that failed is submitted again by itself, and with what."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from clusterjob import units
from clusterjob.backend import check_resource
from clusterjob.errors import SettingsError, suggest
from clusterjob.status import Reason

# what resources are changed by: a factor, or another value
Changes = Mapping[str, object]

_SCALED = ("time", "mem")
EXCLUDE = "exclude"  # the nodes on which it failed
PROFILE = "profile"  # by which it goes then
_BY_NAME = ("timeout", "out_of_memory", "node_failure", "preempted", "exit", "signal")
# a name of a node that may stand in a directive; a job writes its own into its exit record
_HOST = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
# failures that are nobody's fault, and count apart
INFRASTRUCTURE = (Reason.NODE_FAILURE, Reason.PREEMPTED)


@dataclass(frozen=True)
class Retry:
    """How often a job that failed is submitted again, for which reasons, and with what.

    ``times`` is how often in all; failures of nodes and preemptions count apart, up to
    ``infrastructure``. The reasons are those of :class:`Reason`; each has changes: a factor for
    ``time`` and ``mem``, another value for any resource (``{"queue": "long"}``), ``{"exclude":
    True}`` to leave out the nodes on which it failed, ``{"profile": "other.ini"}`` to go to another
    cluster (a single job, whose inputs go there too). ``exit_codes`` are changes by exit code.
    Without any reason all of them count, and nothing is changed. ``delay`` is the time before the
    next attempt (s, or ``"1m"``), ``most`` what no factor goes beyond; a job that had that much
    already is not tried again. Raises :class:`SettingsError`.

    ::

        Retry(times=3, timeout={"time": 1.5}, out_of_memory={"mem": 2}, most={"mem": "64G"})
    """

    times: int = 3
    timeout: Changes | None = None
    out_of_memory: Changes | None = None
    node_failure: Changes | None = None
    preempted: Changes | None = None
    exit: Changes | None = None
    signal: Changes | None = None
    exit_codes: Mapping[int, Changes] = field(default_factory=dict)
    delay: int | float | str = 0
    most: Changes = field(default_factory=dict)
    infrastructure: int = 5

    def __post_init__(self) -> None:
        for name in ("times", "infrastructure"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise SettingsError(
                    f"Retry: {name} = {count!r}; expected a whole number from 0 on"
                )
        if not isinstance(self.exit_codes, Mapping):
            raise SettingsError(
                f"Retry: exit_codes = {self.exit_codes!r}; expected changes by exit code: "
                "{75: {}}"
            )
        for name, changes in self._changes():
            _check_changes(name, changes)
        for code in self.exit_codes:
            if isinstance(code, bool) or code not in range(1, 256):
                raise SettingsError(
                    f"Retry: exit_codes has {code!r}; expected codes from 1 to 255"
                )
        for name in self.most:
            if name not in _SCALED:
                raise SettingsError(f"Retry: most has {name!r}; expected time or mem")
        _ = self.rules()

    def _changes(self) -> Iterable[tuple[str, Changes]]:
        for name in _BY_NAME:
            changes = getattr(self, name)
            if changes is not None:
                yield name, changes
        for code, changes in self.exit_codes.items():
            yield f"exit code {code}", changes

    def rules(self) -> dict[str, object]:
        """Return it as plain values, which a record keeps."""
        by_reason = {
            name: dict(getattr(self, name))
            for name in _BY_NAME
            if getattr(self, name) is not None
        }
        by_code = {str(code): dict(what) for code, what in self.exit_codes.items()}
        if not by_reason and not by_code:
            by_reason = {name: {} for name in _BY_NAME}
        return {
            "times": self.times,
            "infrastructure": self.infrastructure,
            "delay": _seconds(self.delay),
            "reasons": by_reason,
            "codes": by_code,
            "most": {
                name: check_resource(name, value) for name, value in self.most.items()
            },
        }

    def scaled(self) -> set[str]:
        """Return the resources that are multiplied: a job must ask for them."""
        return {
            name
            for _, changes in self._changes()
            for name, value in changes.items()
            if is_factor(name, value)
        }

    def profiles(self) -> list[str]:
        """Return the profiles by which a job may go that failed."""
        named = [changes.get(PROFILE) for _, changes in self._changes()]
        return list(dict.fromkeys(str(path) for path in named if path))

    def excludes(self) -> bool:
        """Whether it leaves out nodes on which a job failed."""
        return any(changes.get(EXCLUDE) for _, changes in self._changes())


def _seconds(delay: object) -> float:
    """Return a delay in s."""
    if isinstance(delay, str) and not delay.strip().isdigit():
        return units.parse_time(delay)
    is_number = isinstance(delay, (int, float)) and not isinstance(delay, bool)
    if is_number and math.isfinite(delay) and delay >= 0:  # type: ignore[arg-type,operator]
        return float(delay)  # type: ignore[arg-type]
    raise SettingsError(
        f"Retry: delay = {delay!r}; expected seconds, or '30s', '1m', '2h'"
    )


def is_factor(name: str, value: object) -> bool:
    """Whether a change is a factor: a bare number, for times and memory."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return name in _SCALED and is_number


def _check_changes(where: str, changes: object) -> None:
    if not isinstance(changes, Mapping):
        raise SettingsError(
            f"Retry: {where} = {changes!r}; expected changes of resources, for example "
            "{'mem': 2}, or {} for none"
        )
    for name, value in changes.items():
        if name == EXCLUDE:
            if not isinstance(value, bool):
                raise SettingsError(f"Retry: {where}: exclude is True or False")
        elif name == PROFILE:
            if not isinstance(value, str) or not value:
                raise SettingsError(
                    f"Retry: {where}: profile = {value!r}; expected the path of a profile"
                )
        elif name in ("array", "jobname"):
            raise SettingsError(
                f"Retry: {where}: {name} says which job it is, and cannot be another one"
            )
        elif is_factor(name, value):
            if not (math.isfinite(value) and value >= 1):
                raise SettingsError(
                    f"Retry: {where}: {name} is multiplied by {value!r}; expected a factor from 1 "
                    "on (an amount is a text: '8G', '2h')"
                )
        else:
            check_resource(name, value)


def changes_after(
    rules: Mapping[str, object],
    past: Sequence[Reason | None],
    reason: Reason | None,
    exit_code: int | None,
) -> Changes | None:
    """Return what to change after a failure for a reason; None where it is not tried again.

    ``past`` are the reasons of the attempts before.
    """
    if reason is None:
        return None
    is_infrastructure = reason in INFRASTRUCTURE
    before = sum((item in INFRASTRUCTURE) == is_infrastructure for item in past)
    most = rules["infrastructure" if is_infrastructure else "times"]
    if not isinstance(most, int) or before >= most:
        return None
    by_code, by_reason = rules["codes"], rules["reasons"]
    assert isinstance(by_code, Mapping)
    assert isinstance(by_reason, Mapping)
    if reason is Reason.EXIT and str(exit_code) in by_code:
        return _mapping(by_code[str(exit_code)])
    found = by_reason.get(reason.value)
    return None if found is None else _mapping(found)


def _mapping(value: object) -> Changes:
    assert isinstance(value, Mapping)
    return value


def changed_resources(
    rules: Mapping[str, object],
    changes: Changes,
    resources: Mapping[str, object],
    host: str,
) -> dict[str, object] | None:
    """Return the resources that are other ones in the next attempt; None where no factor helps any
    more. ``host`` is where the job failed.
    """
    most = _mapping(rules["most"])
    found: dict[str, object] = {}
    is_at_most = False
    for name, value in changes.items():
        now = resources.get(name)
        if name == EXCLUDE:
            nodes = [str(node) for node in _nodes(now)]
            if value and _HOST.fullmatch(host):
                found[name] = list(dict.fromkeys([*nodes, host]))
        elif name == PROFILE:
            continue
        elif is_factor(name, value) and isinstance(value, (int, float)):
            if not isinstance(now, int):
                continue
            limit = most.get(name)
            wanted = math.ceil(now * value)
            if isinstance(limit, int):
                wanted = max(now, min(wanted, limit))
            is_at_most = is_at_most or (wanted == now and value > 1)
            found[name] = wanted
        else:
            found[name] = check_resource(name, value)
    grows = any(
        is_factor(name, changes[name]) and found.get(name) != resources.get(name)
        for name in changes
    )
    return None if is_at_most and not grows else found


def _nodes(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def read_retry(section: Mapping[str, str], file: object = None) -> Retry:
    """Read the section [Retry] of a profile, the file.

    ::

        [Retry]
        times         = 3
        delay         = 1m
        timeout       = time*1.5
        out_of_memory = mem*2
        node_failure  = exclude
        preempted     = profile=other.ini
        exit 75       = queue=long
        most          = mem=64G time=24h

    Raises :class:`SettingsError`.
    """
    names = [item.name for item in fields(Retry) if item.name != "exit_codes"]
    given: dict[str, Any] = {}
    codes: dict[int, Changes] = {}
    for key, text in section.items():
        word, _, code = key.partition(" ")
        try:
            if word == "exit" and code.strip().isdigit():
                codes[int(code)] = _read_changes(text, file)
            elif key not in names:
                hint = suggest(key, [*names, "exit 75"])
                raise SettingsError(f"unknown key.{hint}")
            elif key in ("times", "infrastructure"):
                given[key] = int(text) if text.strip().isdigit() else text
            elif key == "delay":
                given[key] = text
            else:
                given[key] = _read_changes(text, file)
            Retry(**{key: given[key]} if key in given else {"exit_codes": codes})
        except SettingsError as error:
            message = str(error).removeprefix("Retry: ")
            raise SettingsError(
                message, file=file, section="Retry", key=key
            ) from None
    return Retry(**given, exit_codes=codes)


def _read_changes(text: str, file: object) -> Changes:
    """Read ``mem*2 queue=long exclude``; a profile is named from the folder of this one."""
    changes: dict[str, object] = {}
    for word in text.split():
        name, star, factor = word.partition("*")
        if star:
            try:
                changes[name] = float(factor)
            except ValueError:
                raise SettingsError(f"{word!r}: {factor!r} is no factor") from None
            continue
        name, equals, value = word.partition("=")
        if equals and name == PROFILE and value and file is not None:
            changes[name] = os.path.join(os.path.dirname(str(file)), value)
        elif equals:
            changes[name] = value
        elif word == EXCLUDE:
            changes[name] = True
        else:
            raise SettingsError(
                f"{word!r} is no change; expected time*1.5, queue=long or exclude"
            )
    return changes
