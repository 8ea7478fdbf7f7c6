"""Which jobs of a campaign may go next: those whose parents allow, in their order, as many as there
is room for. What has ended costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from clusterjob.status import Dependency, Status
from clusterjob.store import End, Record


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A job that comes after others: its cluster, and the keys of these."""

    cluster_id: str
    parents: tuple[tuple[str, Dependency, bool], ...]


@dataclass
class Queue:
    """The jobs that a campaign holds, by their tokens.

    ``ready`` are those that nothing keeps but the room there is. The others wait for jobs that are
    known by their keys.
    """

    ready: dict[str, None] = field(default_factory=dict)
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _children: dict[str, dict[str, None]] = field(default_factory=dict)  # by key

    def add(self, records: Iterable[Record]) -> None:
        """Add jobs that are held."""
        for record in records:
            if not record.is_held:
                continue
            parents = tuple(
                (parent.key, parent.how, parent.late)
                for parent in record.after
                if parent.key
            )
            if not parents:
                self.ready[record.token] = None
                continue
            self._waiting[record.token] = _Waiting(record.cluster_id, parents)
            for key, _, _ in parents:
                self._children.setdefault(key, {})[record.token] = None

    def __len__(self) -> int:
        return len(self.ready) + len(self._waiting)

    def has_children(self, key: str) -> bool:
        """Whether any job waits for that of a key."""
        return key in self._children

    def forget(self, tokens: Iterable[str]) -> None:
        """Forget jobs that are held no more."""
        for token in tokens:
            self.ready.pop(token, None)
            self._stop_waiting(token)

    def settle(self, ends: Callable[[Sequence[str]], Mapping[str, End]]) -> list[str]:
        """Look what became of the jobs that others wait for.

        Those whose parents allow become ready; returns the tokens of those that cannot be met any
        more.
        """
        known = ends(list(self._children))
        dead = []
        for token, waiting in list(self._waiting.items()):
            answers = {
                _answer(known.get(key), how, waiting.cluster_id, is_late)
                for key, how, is_late in waiting.parents
            }
            if "never" in answers:
                dead.append(token)
            elif answers == {"now"}:
                self.ready[token] = None
            else:
                continue
            self._stop_waiting(token)
        return dead

    def _stop_waiting(self, token: str) -> None:
        waiting = self._waiting.pop(token, None)
        for key, _, _ in waiting.parents if waiting else ():
            children = self._children.get(key, {})
            children.pop(token, None)
            if not children:
                self._children.pop(key, None)


def _answer(end: End | None, how: Dependency, cluster_id: str, is_late: bool) -> str:
    """Say whether a job may be submitted, as far as one of its parents is concerned.

    Where both are with one scheduler, that one sees to the order, unless it may be ``is_late``
    known what the parent comes to: see :class:`Parent`.
    """
    if end is None:
        return "never"
    status = Status(end.status)
    if not status.finished:
        is_together = end.is_submitted and end.cluster_id == cluster_id
        return "now" if is_together and not is_late else "later"
    # of an array some elements may have come to it: they are looked at one by one
    is_met = how.is_met(status) or how is Dependency.AFTER_CORRESPONDING
    return "now" if is_met else "never"
