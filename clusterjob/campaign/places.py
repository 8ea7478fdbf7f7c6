"""More than one cluster for a campaign: where a job fits, and where it goes."""

from __future__ import annotations

import json
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
from clusterjob.store import Record, Store
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
        keys = json.dumps({record.cluster_id: record.key for record in found})
        others = ({**record.place(), "keys": keys} for record in found[1:])
        first.elsewhere = (*first.elsewhere, *others)
        return first


def take_keys_of_known(
    store: Store, campaign: str, records: Sequence[Record]
) -> None:
    """Give jobs of a campaign the keys that they had with other profiles.

    They are the same where they would be on the cluster that the earlier one went to, or, where
    that is none of the profiles any more, on another that both may go to.
    """
    known = store.by_keys([record.key for record in records])
    new = [record for record in records if record.key not in known]
    if not new or not any(store.campaign_counts(campaign).values()):
        return
    names = {record.name for record in new}
    tokens = [
        item.token
        for item in store.listed()
        if item.campaign == campaign and item.name in names
    ]
    earlier: dict[str, list[Record]] = {}
    for record in store.by_tokens(tokens).values():
        if not record.is_held:  # it goes by the profiles of now
            earlier.setdefault(record.name, []).append(record)
    for record in new:
        candidates = earlier.get(record.name, [])
        for old in candidates:
            if _is_same(old, record):
                record.key = old.key
                candidates.remove(old)
                break


def _is_same(old: Record, new: Record) -> bool:
    before, now = _keys_by_cluster(old), _keys_by_cluster(new)
    if old.cluster_id in now:
        return before.get(old.cluster_id) == now[old.cluster_id]
    return any(before.get(cluster) == key for cluster, key in now.items())


def _keys_by_cluster(record: Record) -> dict[str, str]:
    """Return the keys that a job has on each cluster that it may go to."""
    for place in record.elsewhere:
        if "keys" in place:
            return dict(json.loads(place["keys"]))
    return {record.cluster_id: record.key}
