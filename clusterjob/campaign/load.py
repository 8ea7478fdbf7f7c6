"""Which of several clusters a job goes to: by what waits there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from clusterjob.engine import Cluster
from clusterjob.status import Status
from clusterjob.store import Record


class Load:
    """How many jobs there are on each cluster, all campaigns of the store counted, and those that
    are just being let go.
    """

    def __init__(
        self,
        live: Mapping[tuple[str, int], int],
        weights: Mapping[str, float],
    ) -> None:
        self._weights = weights
        self._live: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        for (cluster_id, status), count in live.items():
            self._live[cluster_id] += count
            if status == Status.PENDING:
                self._waiting[cluster_id] += count

    def choose(
        self, record: Record, cluster_at: Callable[[str, Record], Cluster]
    ) -> str | None:
        """Return the cluster that a job goes to now, and count it there; None where none has room.

        A job with one cluster alone goes there also where that does not answer: it waits for it.
        """
        others = [
            item["cluster"] for item in record.elsewhere if "profile" not in item
        ]
        places = [record.cluster_id, *others]
        free = []
        for cluster_id in places:
            cluster = cluster_at(cluster_id, record)
            most = cluster.scheduler.backend.limits.max_jobs
            has_room = not most or self._live[cluster_id] < most
            if has_room and (len(places) == 1 or cluster.answers()):
                free.append(cluster_id)
        if not free:
            return None
        chosen = min(free, key=self._burden)
        self._live[chosen] += 1
        self._waiting[chosen] += 1
        return chosen

    def _burden(self, cluster_id: str) -> float:
        """Return how many would wait there for its weight."""
        waiting = self._waiting[cluster_id] + 1
        return waiting / self._weights.get(cluster_id, 1.0)
