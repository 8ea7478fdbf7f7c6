"""Driving a campaign: asking its clusters, and letting jobs go as far as limits and order allow."""

from __future__ import annotations

import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clusterjob.campaign.calls import Calls
from clusterjob.campaign.load import Load
from clusterjob.campaign.memory import Memory
from clusterjob.campaign.queue import Queue
from clusterjob.engine import (
    Cluster,
    find_conflicts,
    new_batch,
    places_of,
    sweeps_apart,
)
from clusterjob.errors import ClusterJobError, SettingsError, StoreError, first_of
from clusterjob.renewing import parent_keys, renew
from clusterjob.result import AsyncResult
from clusterjob.session import Session
from clusterjob.shell import in_portions
from clusterjob.status import Reason, Status
from clusterjob.store import Record

_log = logging.getLogger(__name__)
_SHORTEST, _LONGEST = 0.01, 60.0  # s between two steps
_PORTION = 5000  # jobs that are let go at once
_PARTS = 10  # of max_pending: jobs are let go when so much of it is free
_LOADED = 500  # records that are read at once


class Driver:
    """The inside of a campaign: what it holds, and its clusters."""

    def __init__(
        self, session: Session, name: str, settings: Mapping[str, Any]
    ) -> None:
        self.session = session
        self.name = name
        self.settings = settings
        self.store, self.engine = session.store, session.engine
        self.memory = Memory(session.store, name)
        self.calls = Calls(session.store, self.memory)
        self._queue: Queue | None = None
        self._clusters: dict[str, Cluster] = {}
        self._given: set[str] = set()  # keys of the jobs that the script has
        # those of them that were not compared yet with what was there before
        self._new: list[Record] = []
        # jobs that others take the places of, which have not ended; by token
        self._leaving: dict[str, Record] = {}
        # tokens of jobs that this process has parted with: the script may add them yet
        self.parted: set[str] = set()
        self._apart: set[str] = set()  # sweeps whose rows have a workdir each
        # tokens of jobs that may not go yet: others are at work in their places, or on their files
        self._kept_back: set[str] = set()

    # -- its jobs ----------------------------------------------------------------------------------

    @property
    def queue(self) -> Queue:
        """What is held, as the store has it when it is first asked for."""
        if self._queue is None:
            self._queue = Queue()
            for portion in in_portions(self.store.held(self.name), _LOADED):
                records = self.store.by_tokens(portion)
                in_order = [records[token] for token in portion if token in records]
                self._queue.add(in_order)
            for record in self.store.by_keys(sorted(self.joined)).values():
                self._queue.add([record])
                self._clusters[record.cluster_id] = self.engine.cluster_of(record)
        return self._queue

    def add(self, results: Iterable[AsyncResult]) -> None:
        """Take in jobs of the script, which were written down or were there before."""
        records = [result.record for result in results]
        self._given.update(record.key for record in records)
        self._new += records
        self._take_in(records)

    def _take_in(self, records: Sequence[Record]) -> None:
        self.queue.add(records)
        for record in records:
            self._clusters[record.cluster_id] = self.engine.cluster_of(record)
        others = [record for record in records if not record.campaign]

        def join(record: Record) -> bool:
            if record.campaign:
                return False
            record.campaign, record.left = self.name, ""
            return True

        if others:
            self.store.update(others, join)
        foreign = {item.key for item in records if item.campaign != self.name}
        if not foreign <= self.joined:
            self.joined |= foreign
            self.memory.note("joined", sorted(self.joined))

    @functools.cached_property
    def joined(self) -> set[str]:
        """The keys of its jobs that belong to another campaign, which had them first."""
        return set(self.memory.read().get("joined", ()))

    def counts(self) -> tuple[dict[Status, int], int]:
        """Return the jobs by state, and how many of them are held."""
        found = Counter(self.store.campaign_counts(self.name))
        ends = self.store.ends(sorted(self.joined)) if self.joined else {}
        found.update(Status(end.status) for end in ends.values())
        return dict(found), len(self.queue)

    def part_with_replaced(self) -> None:
        """Part with jobs in whose places the script has others now: it was changed. They are of the
        same workdir and name, or rows of the same sweep (see :class:`Neighbours`). What was not
        submitted yet never is; what runs goes on.
        """
        new, self._new = self._new, []
        if not new or not self._before:
            return
        candidates: list[Record] = []
        for workdir in {record.workdir for record in new}:
            tokens = list(self._before.get(workdir, ()))
            candidates += self.store.by_tokens(tokens).values()
        self._apart |= sweeps_apart(new)
        taken = {place for record in new for place in places_of(record, self._apart)}
        replaced = [
            old
            for old in candidates
            if not taken.isdisjoint(places_of(old, self._apart))
        ]
        for old in replaced:
            self._before[old.workdir].discard(old.token)
        self._part_with(replaced)

    def part_with_calls(self, step: str) -> None:
        """Part with the jobs of calls of a step's in whose places there are others now."""
        records, calls = self.calls.replaced(step)
        self._part_with(records)
        self.calls.forget(calls)

    def _part_with(self, records: Sequence[Record]) -> None:
        """Let jobs that the script does not have be no part of the campaign any more."""
        if not records:
            return
        replaced = [record for record in records if record.key not in self._given]
        self.parted.update(record.token for record in replaced)
        held = [record for record in replaced if record.is_held]
        if held:
            _log.warning(
                "campaign %r: %s waited to be submitted, and will not be: the script has others in "
                "their places now",
                self.name,
                first_of([repr(record.name) for record in held], 3),
            )
            self._drop([record.token for record in held], Reason.CANCELLED)
        self._leaving.update({record.token: record for record in replaced})
        self._see_off()
        going = [item for item in replaced if item.token in self._leaving]
        if going:
            _log.warning(
                "campaign %r: %s of an earlier version of the script have not ended; what takes "
                "their places is submitted when they have ('clusterjob cancel' ends them)",
                self.name,
                first_of([f"{item.name!r} ({item.job_id})" for item in going], 3),
            )

    def _see_off(self) -> None:
        """Let replaced jobs that have ended be no part of the campaign any more."""

        def leave(record: Record) -> bool:
            if not record.finished or record.key in self._given:
                return False
            record.leave_campaign()
            return True

        leaving = list(self.store.by_tokens(list(self._leaving)).values())
        self.store.update(leaving, leave)
        self._leaving = {
            record.token: record
            for record in leaving
            if not record.finished and record.key not in self._given
        }

    @functools.cached_property
    def _before(self) -> dict[str, set[str]]:
        """The jobs, by workdir, that an earlier run of the script has left and this one has not
        given; those that steps made are not among them. It is read once.
        """
        made = self.calls.all_made()
        found: dict[str, set[str]] = {}
        for item in self.store.listed():
            is_own = item.campaign == self.name
            if is_own and item.key not in made and item.key not in self._given:
                found.setdefault(item.workdir, set()).add(item.token)
        return found

    # -- a step ------------------------------------------------------------------------------------

    def step(self) -> None:
        """Ask the clusters that are due, and let go what may go."""
        self.session.recover()
        self.part_with_replaced()
        for cluster in self._known_clusters():
            cluster.refresh(everyone=True)
        if self._leaving:
            self._see_off()
        self.let_go()

    def let_go(self) -> None:
        """Submit what may go by what is known."""
        self._settle()
        if not self.is_stopped:
            self._release()

    def _settle(self) -> None:
        """See what became of the jobs that others wait for; those that wait in vain end."""
        while dead := self.queue.settle(self.store.ends):
            self._drop(dead, Reason.DEPENDENCY)

    @property
    def is_stopped(self) -> bool:
        """Whether a job has failed, and the campaign ends with the first."""
        if not self.settings.get("stop_on_failure"):
            return False
        return bool(self.store.campaign_counts(self.name).get(Status.FAILED))

    def _known_clusters(self) -> list[Cluster]:
        """Return the clusters that have jobs of the campaign, also of other processes."""
        for cluster_id, _ in self.store.live_counts(self.name):
            if cluster_id not in self._clusters:
                tokens = self.store.live(cluster_id)[:1]
                for record in self.store.by_tokens(tokens).values():
                    try:
                        self._clusters[cluster_id] = self.engine.cluster_of(record)
                    except ClusterJobError as error:
                        _log.warning("%s", str(error).partition("\n")[0])
        return list(self._clusters.values())

    def _release(self) -> None:
        """Let jobs go until there is no more room; with a job its children become ready."""
        self._kept_back.clear()
        while self.queue.ready:
            room = self._room()
            ready = (
                token for token in self.queue.ready if token not in self._kept_back
            )
            tokens = list(itertools.islice(ready, max(0, min(room, _PORTION))))
            if not tokens:
                return
            kept_back = len(self._kept_back)
            gone = self._let_go(tokens)
            self._settle()
            if not gone and len(self._kept_back) == kept_back:
                return

    def _room(self) -> int:
        """Return how many jobs may go now."""
        counts = {Status.PENDING: 0, Status.RUNNING: 0}
        for (_, status), count in self.store.live_counts(self.name).items():
            counts[Status(status)] += count
        most_pending = self.settings.get("max_pending")
        most_running = self.settings.get("max_running")
        ready = room = len(self.queue.ready)
        if most_running is not None:
            room = min(room, most_running - sum(counts.values()))
        if most_pending is not None:
            free = most_pending - counts[Status.PENDING]
            # a few at a time would be a command each, where many are one
            is_worth_it = free >= min(ready, most_pending // _PARTS)
            room = min(room, free) if is_worth_it else 0
        return room

    def _let_go(self, tokens: Sequence[str]) -> int:
        """Submit jobs; return how many are held no more."""
        records = self.store.by_tokens(tokens)
        in_order = [records[token] for token in tokens if token in records]
        gone = [token for token in tokens if token not in records]
        # another process may have let them go
        gone += [record.token for record in in_order if not record.is_held]
        free = self._without_occupied(in_order)
        for cluster, members in self._choose(free).items():
            self._clusters[cluster.jobs.cluster_id] = cluster
            tracked = [cluster.track(record) for record in members]
            alone = self._alone(cluster, tracked)
            try:
                cluster.release(tracked, alone)
            except StoreError:
                raise
            except ClusterJobError as error:
                _log.warning("%s", str(error).partition("\n")[0])
            gone += [record.token for record in tracked if not record.is_held]
            self.engine.neighbours.forget()
        self.queue.forget(gone)
        return len(gone)

    def _without_occupied(self, records: Sequence[Record]) -> list[Record]:
        """Return the jobs that may go now: others are at work neither in their places nor on their
        files. The rest is kept back.
        """
        occupied = {
            place
            for item in self._leaving.values()
            for place in places_of(item, self._apart)
        }
        kept_back = {
            record.token
            for record in records
            if record.is_held
            and not occupied.isdisjoint(places_of(record, self._apart))
        }
        rest = [record for record in records if record.token not in kept_back]
        kept_back.update(
            item.token for _, item, _ in find_conflicts(self.store, rest)
        )
        self._kept_back |= kept_back
        return [record for record in rest if record.token not in kept_back]

    def _choose(self, records: Sequence[Record]) -> dict[Cluster, list[Record]]:
        """Return where jobs go now: to a cluster that answers, that has room for more, and of these
        the one with the fewest jobs waiting for its weight. The others stay held.
        """
        weights = self.settings.get("weights") or {}
        load = Load(self.store.live_counts(None), weights)
        chosen: dict[str, list[Record]] = {}
        for record in records:
            cluster_id = load.choose(record, self._cluster_at)
            if cluster_id is not None:
                chosen.setdefault(cluster_id, []).append(record)
        found = {}
        for cluster_id, members in chosen.items():
            moving = [item for item in members if item.cluster_id != cluster_id]
            self.store.update(moving, functools.partial(_move, cluster_id))
            # another process may have been quicker
            going = [
                item
                for item in members
                if item.is_held and item.cluster_id == cluster_id
            ]
            if going:
                found[self._cluster_at(cluster_id, going[0])] = going
        return found

    def _cluster_at(self, cluster_id: str, record: Record) -> Cluster:
        """Return a cluster that a job may go to."""
        if cluster_id not in self._clusters:
            twin = record.snapshot()
            if twin.cluster_id != cluster_id:
                twin.move(cluster_id)
            self._clusters[cluster_id] = self.engine.cluster_of(twin)
        return self._clusters[cluster_id]

    def _alone(self, cluster: Cluster, records: Sequence[Record]) -> set[str]:
        """Return the tokens of jobs that others come after, where nothing waits for an element."""
        if cluster.scheduler.backend.bundles.after:
            return set()
        return {
            record.token for record in records if self.queue.has_children(record.key)
        }

    def pause(self) -> float:
        """Return the seconds until the next step is worth it."""
        waits = [cluster.pace.wait_time() for cluster in self._clusters.values()]
        return min(_LONGEST, max(_SHORTEST, min(waits, default=_SHORTEST)))

    # -- changing one's mind -----------------------------------------------------------------------

    def drop_held(self) -> None:
        """Cancel what is held."""
        self._drop(self.store.held(self.name), Reason.CANCELLED)

    def remove(self, records: Sequence[Record]) -> None:
        """Put jobs that are not on their way out of the campaign."""
        self.store.refresh(records)
        for record in records:
            if record.campaign != self.name and record.key not in self.joined:
                raise SettingsError(
                    f"{record.name!r} ({record.key[:10]}) is no job of campaign {self.name!r}"
                )
            if not record.finished and not record.is_held:
                raise SettingsError(
                    f"{record.name!r} ({record.job_id}) is {record.status}: cancel it first, or "
                    "wait for its end"
                )
        self._drop(
            [record.token for record in records if record.is_held], Reason.CANCELLED
        )

        def leave(record: Record) -> bool:
            if record.campaign != self.name or not record.finished:
                return False
            record.leave_campaign()
            return True

        self.store.update(records, leave)
        left = self.joined - {record.key for record in records}
        if left != self.joined:
            self.joined = left
            self.memory.note("joined", sorted(left))

    def _drop(self, tokens: Sequence[str], reason: Reason) -> None:
        def drop(record: Record) -> bool:
            if not record.is_held:
                return False
            record.drop(reason)
            return True

        for portion in in_portions(tokens, _LOADED):
            records = list(self.store.by_tokens(portion).values())
            tracked = [
                self.engine.cluster_of(record).track(record) for record in records
            ]
            self.store.update(tracked, drop)
        self.queue.forget(tokens)

    def hold_again(self) -> list[AsyncResult]:
        """Hold jobs that did not complete for another submission."""
        ended = [Status.FAILED, Status.CANCELLED]
        left = self.store.select(statuses=ended, campaign=self.name)
        folder = new_batch()
        held: dict[str, Record] = {}  # by key
        while left:
            keys = {record.key for record in left}
            # those that come after others of them are held after these
            ready = [item for item in left if not keys & parent_keys(item)] or left
            anew = renew(self.engine, ready, folder, held, held=True)
            winners = self.engine.hold(anew, lambda before, now: before.finished)
            held.update({winner.key: winner for winner in winners if winner})
            left = [record for record in left if record not in ready]
        self._take_in(list(held.values()))
        return [AsyncResult(winner, self.engine) for winner in held.values()]


def _move(cluster_id: str, record: Record) -> bool:
    """Let a job go to another cluster, unless it has gone meanwhile."""
    if not record.is_held:
        return False
    record.move(cluster_id)
    return True
