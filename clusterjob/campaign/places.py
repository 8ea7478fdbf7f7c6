"""More than one cluster for a campaign: where a job fits, and where it goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from clusterjob.engine import Engine
from clusterjob.errors import (
    ClusterJobError,
    ResourcesNotSupportedError,
    SettingsError,
)
from clusterjob.script import JobScript
from clusterjob.status import Dependency
from clusterjob.store import Record
from clusterjob.terms import Terms

# paths of profiles; a mapping gives each a weight
Profiles: TypeAlias = (
    Iterable[str | os.PathLike[str]] | Mapping[str | os.PathLike[str], float]
)


@dataclass(frozen=True)
class Place:
    """A profile that jobs may go by, and how many of them it gets compared with others."""

    profile: Path
    weight: float = 1.0


def read_places(profiles: Profiles) -> list[Place]:
    """Return the places that are named. Raises :class:`SettingsError`."""
    if isinstance(profiles, (str, os.PathLike)):
        raise SettingsError(
            f"profiles = {profiles!r}: expected a list of profiles, [{profiles!r}] for one alone"
        )
    pairs = (
        profiles.items()
        if isinstance(profiles, Mapping)
        else ((profile, 1.0) for profile in profiles)
    )
    places = []
    for profile, weight in pairs:
        is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not is_number or not weight > 0:
            raise SettingsError(
                f"profiles: the weight of {os.fspath(profile)!r} is {weight!r}; expected a number "
                "above 0"
            )
        places.append(Place(Path(profile), float(weight)))
    if not places:
        raise SettingsError("profiles: there are none")
    return places


def weights_of(places: Iterable[Place]) -> dict[str, float]:
    """Return the weights of clusters. Raises :class:`SettingsError`."""
    weights = {}
    for place in places:
        job = JobScript("true")
        job.read_settings(place.profile)
        weights[job.cluster_reference.cluster_id] = place.weight
    return weights


@dataclass(eq=False)
class JobAnywhere:
    """A job that may go by any of several profiles: prepared for each that it fits."""

    job: JobScript
    places: Sequence[Place]
    _twins: list[JobScript] = field(default_factory=list)

    def prepare(
        self,
        engine: Engine,
        *,
        cache_id: str | None = None,
        parents: Sequence[tuple[Record, Dependency]] = (),
        batch: str = "",
        terms: Terms = Terms(),  # noqa: B008  # it never changes
    ) -> Record:
        """Return the record for the first profile that the job fits, which knows the others.

        Raises :class:`ResourcesNotSupportedError` with the reason for each where it fits none.
        """
        found: list[Record] = []
        reasons = []
        for place in self.places:
            try:
                record = self.job.with_profile(place.profile).prepare(
                    engine,
                    cache_id=cache_id,
                    parents=parents,
                    batch=batch,
                    terms=terms,
                )
                found.append(record)
            except ClusterJobError as error:
                reasons.append(f"{place.profile}: {error}")
        if not found:
            name = self.job.jobname or "job"
            raise ResourcesNotSupportedError(
                f"job {name!r} fits nowhere:\n  " + "\n  ".join(reasons)
            )
        first = found[0]
        others = (record.place() for record in found[1:])
        first.elsewhere = (*first.elsewhere, *others)
        return first
