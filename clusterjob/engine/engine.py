"""What a session works with: a store, and the schedulers and clusters of this process on it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from clusterjob.backend import load_backend
from clusterjob.engine.cluster import Cluster
from clusterjob.engine.neighbours import Neighbours
from clusterjob.engine.offering import Refusal
from clusterjob.engine.poller import Hook
from clusterjob.engine.scheduler import Scheduler
from clusterjob.engine.submission import refusal_error, submit_records
from clusterjob.engine.watcher import Watcher
from clusterjob.errors import (
    ClusterJobError,
    CommandError,
    StoreError,
    SubmissionError,
)
from clusterjob.store import (
    Again,
    ClusterReference,
    Phase,
    Record,
    Store,
    foreign_error,
)
from clusterjob.transport import Connections

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Batch:
    """What became of a submission: for each record the one that holds its key, None if refused.

    ``refused`` are the refusals, each batch of them by the scheduler that said no.
    """

    winners: list[Record | None]
    refused: list[tuple[Scheduler, list[Refusal]]] = field(default_factory=list)

    def error(self, results: Iterable[object]) -> SubmissionError | None:
        """Return the error to raise, with the handles of what was accepted; None where all was."""
        if not self.refused:
            return None
        scheduler = self.refused[0][0]
        refusals = [refusal for _, items in self.refused for refusal in items]
        return refusal_error(scheduler, refusals, results)


class Companion(Protocol):
    """What lives as long as an engine is used."""

    def close(self) -> None: ...


class Engine:
    """A store, and the schedulers, clusters and connections that work on it.

    It holds all that this process remembers of them besides the store; two engines share nothing
    but the connections that they are given. Safe to use from several threads.
    """

    def __init__(self, store: Store, connections: Connections) -> None:
        self.store = store
        self.connections = connections
        self.watcher = Watcher()
        self.neighbours = Neighbours(store)
        self._schedulers: dict[str, Scheduler] = {}
        self._clusters: dict[str, Cluster] = {}
        self._lock = threading.RLock()
        self.hooks: list[Hook] = []  # shared by the pollers of all clusters
        # what rooms above keep as long as this engine is used, by names of their own
        self.companions: dict[str, Companion] = {}
        self._has_recovered = False
        self._finishes = True

    @functools.cached_property
    def owner(self) -> str:
        """The other user that the store belongs to; empty where it is one's own.

        A record names commands and hosts: those of others are looked at, and nothing is done with
        them. Raises :class:`StoreError`.
        """
        return self.store.owner

    def only_look(self) -> None:
        """From now on leave the open submissions of processes that are gone to others."""
        self._finishes = False
        for cluster in self._clusters.values():
            cluster.poller.finishes = False

    def _check_owner(self) -> None:
        if self.owner:
            raise foreign_error(self.store.url, self.owner)

    # -- clusters ----------------------------------------------------------------------------------

    def scheduler(self, reference: ClusterReference) -> Scheduler:
        """Return the scheduler of a cluster; there is one for each way to it.

        Raises :class:`SettingsError`.
        """
        with self._lock:
            scheduler = self._schedulers.get(reference.identity)
            if scheduler is None:
                scheduler = self._make_scheduler(reference)
                self._schedulers[reference.identity] = scheduler
            return scheduler

    def _make_scheduler(self, reference: ClusterReference) -> Scheduler:
        backend = load_backend(
            reference.name,
            reference.overrides,
            map(Path, reference.beside),
            reference.source or None,
        )
        transport = self.connections.open(
            reference.host,
            reference.transport,
            reference.ssh_config,
            backend.limits.connections,
        )
        return Scheduler(backend, transport)

    def cluster(self, reference: ClusterReference, latest: bool = False) -> Cluster:
        """Return the cluster that a reference means.

        With ``latest`` it goes the reference's way to its host from now on. Raises
        :class:`SettingsError`, and :class:`StoreError` where the store is somebody else's.
        """
        self._check_owner()
        scheduler = self.scheduler(reference)
        with self._lock:
            cluster = self._clusters.get(reference.cluster_id)
            if cluster is None:
                cluster = Cluster(self.store, scheduler, reference.cluster_id)
                cluster.poller.finishes = self._finishes
                cluster.poller.hooks = self.hooks
                self._clusters[reference.cluster_id] = cluster
            elif latest:
                cluster.use(scheduler)
            return cluster

    def cluster_of(self, record: Record) -> Cluster:
        """Return the cluster of a record; where it is known the spec, which is large, is not read.

        Raises :class:`SettingsError` where its backend is gone.
        """
        known = self._clusters.get(record.cluster_id)
        return known or self.cluster(record.spec.cluster)

    # -- submitting --------------------------------------------------------------------------------

    def submit(
        self,
        records: Sequence[Record],
        again: Again,
        parents: Collection[str] = (),
    ) -> Batch:
        """Submit records of any number of clusters; ``again`` says whether a holder makes room.

        ``parents`` are the tokens of those that others will come after.
        """
        groups: dict[str, list[int]] = {}
        for position, record in enumerate(records):
            identity = record.spec.cluster.identity
            groups.setdefault(identity, []).append(position)
        batch = Batch([None] * len(records))
        for positions in groups.values():
            members = [records[position] for position in positions]
            winners = self._submit_to_one(members, again, parents, batch)
            for position, winner in zip(positions, winners, strict=True):
                batch.winners[position] = winner
        own = {record.token for record in records}
        if any(
            winner is not None and winner.token in own for winner in batch.winners
        ):
            self.neighbours.forget()
        return batch

    def hold(self, records: Sequence[Record], again: Again) -> list[Record | None]:
        """Write records of a campaign down, to be submitted when it lets them go; return who holds
        their keys, None where that one is damaged.
        """
        self._check_owner()
        for record in records:
            record.phase = Phase.HELD
            record.task.words = f"held by the campaign {record.campaign!r}"
        winners: list[Record | None] = []
        for record, winner in zip(
            records, self.store.claim(records, again), strict=True
        ):
            if winner is not None:
                cluster = self.cluster(winner.spec.cluster)
                winner = cluster.track(winner)
                if winner.token != record.token:
                    cluster.want_outputs(winner, record)
            winners.append(winner)
        return winners

    def _submit_to_one(
        self,
        records: Sequence[Record],
        again: Again,
        parents: Collection[str],
        batch: Batch,
    ) -> list[Record | None]:
        """Submit records of one cluster; return who holds their keys, None for a refused one."""
        reference = records[0].spec.cluster
        cluster = self.cluster(reference, latest=True)
        # where nothing can come after an element, these go alone
        can_wait = cluster.scheduler.backend.bundles.after
        alone = () if can_wait else parents
        done = submit_records(self.store, cluster.scheduler, records, again, alone)
        gone = {refusal.record.token for refusal in done.refused}
        winners: list[Record | None] = []
        for record, winner in zip(records, done.winners, strict=True):
            if winner.token in gone:
                winners.append(None)
                continue
            tracked = cluster.track(winner)
            winners.append(tracked)
            if winner.token != record.token:
                cluster.want_outputs(tracked, record)
        cluster.pace.reset_backoff()
        if done.refused:
            batch.refused.append((cluster.scheduler, done.refused))
        return winners

    def changed_programs(self, records: Iterable[Record]) -> dict[str, list[Record]]:
        """Return the programs, by their paths, that have changed since the jobs were submitted.

        One round trip a cluster; one that cannot be asked says nothing.
        """
        groups: dict[Cluster, list[Record]] = {}
        for record in records:
            if record.programs:
                groups.setdefault(self.cluster_of(record), []).append(record)
        changed: dict[str, list[Record]] = {}
        for cluster, members in groups.items():
            paths = {path for record in members for path, _ in record.programs}
            try:
                now = cluster.scheduler.digests(sorted(paths))
            except CommandError as error:
                _log.info("programs could not be compared: %s", error)
                continue
            for record in members:
                for path, digest in record.programs:
                    if now.get(path, digest) != digest:
                        changed.setdefault(path, []).append(record)
        return changed

    def recover(self) -> None:
        """Finish the submissions that processes which are gone left open, once a session.

        What cannot be done now is logged. Raises :class:`StoreError`.
        """
        with self._lock:
            if self._has_recovered:
                return
            self._has_recovered = True
        self.finish_submissions()

    def finish_submissions(self) -> None:
        """Finish the submissions that are open and whose owner is gone, on any cluster.

        What cannot be done now is logged. Raises :class:`StoreError`.
        """
        if self.owner or not self._finishes:
            return
        unsent = self.store.select(unsent=True)
        references = {record.cluster_id: record.spec.cluster for record in unsent}
        for reference in references.values():
            try:
                self.cluster(reference).poller.finish_submissions()
            except StoreError:
                raise
            except ClusterJobError as error:
                _log.warning("open submissions could not be finished: %s", error)

    # -- cancelling --------------------------------------------------------------------------------

    def cancel(self, records: Iterable[Record]) -> None:
        """Cancel jobs: one command a cluster.

        Raises :class:`CommandError` where a cluster could not be asked, after all the others were.
        Who does not list the jobs is sent no ids: it may be another scheduler, with commands of the
        same names.
        """
        groups: dict[Cluster, list[Record]] = {}
        for record in records:
            groups.setdefault(self.cluster_of(record), []).append(record)
        failed: CommandError | None = None
        for cluster, members in groups.items():
            cluster.refresh(force=True)  # one that ended unseen is no job to cancel
            try:
                _check_answered(cluster, members)
                cluster.cancel(members)
            except CommandError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Stop watching, and let go of the store's files and connections."""
        for companion in self.companions.values():
            companion.close()
        self.companions.clear()
        self.watcher.stop()
        self.store.close()


def _check_answered(cluster: Cluster, records: Iterable[Record]) -> None:
    """Raises :class:`CommandError` where the question about jobs to be cancelled failed."""
    has_live = any(record.job_id and not record.finished for record in records)
    if has_live and cluster.poller.stale_since is not None:
        title = cluster.scheduler.backend.title
        raise CommandError(
            f"{title} could not be asked about the jobs, so nothing was cancelled: "
            f"{cluster.poller.error}"
        )
