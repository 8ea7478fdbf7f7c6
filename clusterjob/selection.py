"""Which jobs of a store are meant: by campaign, tag, state, reason, name, user and time."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

from clusterjob.errors import SettingsError
from clusterjob.status import Reason, Status
from clusterjob.store import Listed


@dataclass(frozen=True)
class Selection:
    """What is asked of jobs; of several words of one kind one must fit.

    ``names`` are patterns (``sim-*``); ``since`` and ``until`` bound the time of the submission, in
    s since the epoch.
    """

    states: frozenset[Status] | None = None
    reasons: frozenset[Reason] = frozenset()
    names: tuple[str, ...] = ()
    campaign: str | None = None
    tags: frozenset[str] = frozenset()
    user: str | None = None
    since: float | None = None
    until: float | None = None

    def fits(self, job: Listed) -> bool:
        """Whether a job is meant."""
        return (
            (self.states is None or job.status in self.states)
            and (not self.reasons or job.reason in self.reasons)
            and (not self.names or self._fits_name(job.name))
            and self.campaign in (None, job.campaign)
            and (not self.tags or not self.tags.isdisjoint(job.tags))
            and self.user in (None, job.user)
            and (self.since is None or job.created >= self.since)
            and (self.until is None or job.created <= self.until)
        )

    def _fits_name(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)

    @property
    def is_all(self) -> bool:
        """Whether nothing is asked but a state: the store knows that by itself."""
        return self == Selection(states=self.states)


def check_states(states: object) -> frozenset[Status]:
    """Raises :class:`SettingsError`."""
    found: set[Status] = set()
    for state in states if isinstance(states, Iterable) else [states]:
        if not isinstance(state, Status):
            names = ", ".join(f"Status.{status.name}" for status in Status)
            raise SettingsError(f"{state!r} is no state; expected a list of {names}")
        found.add(state)
    return frozenset(found)


def check_reasons(reasons: object) -> frozenset[Reason]:
    """Return reasons, which may be given by their words. Raises :class:`SettingsError`."""
    given = [reasons] if isinstance(reasons, str) else reasons
    found = []
    for reason in given if isinstance(given, Iterable) else [given]:
        try:
            found.append(Reason(reason))
        except ValueError:
            known = ", ".join(item.value for item in Reason)
            raise SettingsError(
                f"{reason!r} is no reason; expected one of {known}"
            ) from None
    return frozenset(found)
