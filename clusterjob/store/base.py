"""What every kind of store can do.

A store holds records, and *notes*: small times under a name, by which processes that share it tell
each other that they live and when they asked a cluster. Every method is one transaction: done
whole, or not at all, also where the power goes off; safe to call from several threads and
processes, on one machine or on several.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from clusterjob.errors import StoreError, printable
from clusterjob.status import Status
from clusterjob.store.listed import Listed
from clusterjob.store.record import Record
from clusterjob.store.shape import read_values

log = logging.getLogger(__name__)
Begun = Literal["prologue", "epilogue"]
# what a write does to a record; False where there is nothing to write
Change = Callable[[Record], object]
# whether the record that holds a key makes room for another one
Again = Callable[[Record, Record], bool]
# what becomes of what is remembered of a campaign; None where there is nothing
CampaignChange = Callable[[dict[str, Any] | None], dict[str, Any] | None]
# what is still to be said of records before they are written
Settle = Callable[[Sequence[Record]], object]
VERSION = 5  # of what is stored, whatever the kind of store
VERSION_OF_KEYS = 3  # since then keys are those of the rules of today
# the note of a store that has records with keys of the first rules: see clusterjob.keys
OLD_KEYS = "keys:1"
SHORTEST_KEY = (
    6  # characters that name a job by its key: fewer may be the id of another
)


@dataclass(frozen=True, eq=False)
class Damaged:
    """A record that cannot be read: what is known of it, and why.

    ``raw`` is all of it as it stands; ``is_closed``: the system does not let it be read, so it may
    be whole; ``own_key``: the key that the record itself says, where it stands under another.
    """

    token: str
    why: str
    key: str = ""
    name: str = ""
    job_id: str | None = None
    raw: str = ""
    is_closed: bool = False
    own_key: str = ""


class End(NamedTuple):
    """How far a job has come: its state, whether its scheduler has it, and whose it is."""

    status: int
    is_submitted: bool
    cluster_id: str


@dataclass(frozen=True)
class Note:
    """A time (s since the epoch) under a name, and a number beside it."""

    at: float
    value: float | None = None


@dataclass(eq=False)
class Report:
    """What :meth:`Store.examine` found.

    Facts by name, damaged records, and what is wrong with the store as a whole.
    """

    facts: dict[str, str] = field(default_factory=dict)
    damaged: list[Damaged] = field(default_factory=list)
    # keys of which no submission counts: the column that says so was changed
    unheld: list[str] = field(default_factory=list)
    # tokens of records that are searched by something else than they say: so were those columns
    misfiled: list[str] = field(default_factory=list)
    broken: str = ""
    corrupt: bool = False  # it can only be made anew; else it cannot be read now


class Rebuilt(NamedTuple):
    """A store that was made anew: where the old one was put, and how many records were saved and
    lost; None where that cannot be told.
    """

    old: str
    saved: int
    lost: int | None

    def __str__(self) -> str:
        lost = "how many were lost cannot be told"
        if self.lost is not None:
            lost = f"{self.lost} were lost"
        return f"{self.old}; {self.saved} records were saved, {lost}"


class Store(ABC):
    """Where records live.

    Every method raises :class:`StoreError` where the store cannot be read or written.
    """

    #: how the store is named in ``$CLUSTERJOB_STORE``
    url: str

    def __init__(self) -> None:
        self._told: set[str] = set()

    # -- submitting --------------------------------------------------------------------------------

    @abstractmethod
    def claim(
        self,
        records: Sequence[Record],
        again: Again,
        settle: Settle = lambda records: None,
    ) -> list[Record | None]:
        """Make each record the one of its key, unless the key has one already and ``again(holder,
        record)`` does not say to replace it. ``settle`` is called with those that get their keys,
        and may still change them.

        Returns for each record the one that holds its key now: itself where it was written, else
        the earlier one; None where that one is damaged. What ``again`` raises leaves the store as
        it was.
        """

    @abstractmethod
    def update(self, records: Iterable[Record], change: Change) -> None:
        """Apply a change to the newest state of records, and write what it changed.

        A copy that is behind what another process wrote is brought up to date first, so that a
        write takes back nothing that it does not know of. ``change`` is called once for each record
        that is in the store, and returns False where there is nothing to write. A state that is
        final stays, whatever it does. What goes wrong leaves store and copies as they were.
        """

    @abstractmethod
    def refresh(self, records: Iterable[Record]) -> None:
        """Bring copies up to date with what other processes wrote."""

    @abstractmethod
    def discard(self, records: Iterable[Record]) -> list[Record]:
        """Delete records, and return those that were deleted; the one before of the same key counts
        again.

        A record that another process wrote since this copy was read stays, and the copy is brought
        up to date.
        """

    @abstractmethod
    def take_over(
        self, records: Sequence[Record], owner: str, now: float
    ) -> list[Record]:
        """Take over open submissions, and return the ones that were still as they were seen; of two
        takers one gets each.

        They become SUBMITTING, by ``owner``, from ``now`` on. The others are brought up to date.
        """

    @abstractmethod
    def begin(self, record: Record, what: Begun) -> bool:
        """Mark the ``prologue`` or ``epilogue`` of a record as started; False where it was not due
        any more.
        """

    # -- looking -----------------------------------------------------------------------------------

    @abstractmethod
    def by_keys(self, keys: Sequence[str]) -> dict[str, Record]:
        """Return the current record of each key that has one."""

    @abstractmethod
    def by_tokens(self, tokens: Iterable[str]) -> dict[str, Record]:
        """Return the records of these submissions."""

    @abstractmethod
    def select(
        self,
        *,
        statuses: Iterable[int] | None = None,
        name: str | None = None,
        earlier: bool = False,
        unsent: bool = False,
        begun: bool = False,
        campaign: str | None = None,
    ) -> list[Record]:
        """Return records, the oldest first: the current ones, or with ``earlier`` also those that
        were replaced.

        ``unsent``: only those whose submission is open; ``begun``: only those whose epilogue began
        and has not ended; ``campaign``: only those of one. Damaged ones are left out, and named in
        the log once.
        """

    @abstractmethod
    def listed(
        self, statuses: Iterable[int] | None = None, earlier: bool = False
    ) -> Iterator[Listed]:
        """Yield what :meth:`select` returns, one after the other and as plain values, which takes
        little memory and time where there are very many. About the oldest come first.
        """

    def counts(self) -> dict[Status, int]:
        """Return how many current records there are in each state."""
        found = Counter(listed.status for listed in self.listed())
        return {status: found[status] for status in Status}

    @abstractmethod
    def live(self, cluster_id: str) -> list[str]:
        """Return the tokens of all jobs of a cluster that have not ended, but for those that their
        campaigns hold.
        """

    @abstractmethod
    def named(self, word: str, earlier: bool = False) -> list[Record]:
        """Return the current records that a word names: a job id, a name, or the first characters
        of a key, ``SHORTEST_KEY`` at least; the first kind that fits counts. ``earlier`` adds
        submissions that were replaced.
        """

    @abstractmethod
    def changes(self) -> int:
        """Return a number that is another one whenever anybody else may have written."""

    # -- campaigns ---------------------------------------------------------------------------------

    @abstractmethod
    def campaigns(self) -> dict[str, dict[str, Any]]:
        """Return what is remembered of each campaign, as plain values."""

    @abstractmethod
    def change_campaign(
        self, name: str, change: CampaignChange
    ) -> dict[str, Any] | None:
        """Write what a change makes of what is remembered of a campaign (None: nothing), and return
        it.
        """

    @abstractmethod
    def held(self, campaign: str) -> list[str]:
        """Return the tokens of jobs that a campaign has not let go, the oldest first."""

    @abstractmethod
    def campaign_counts(self, campaign: str) -> dict[Status, int]:
        """Return how many jobs of a campaign there are in each state."""

    @abstractmethod
    def live_counts(self, campaign: str | None) -> dict[tuple[str, int], int]:
        """Return how many jobs were let go and have not ended, by cluster and state; of one
        campaign, or of the whole store.
        """

    @abstractmethod
    def ends(self, keys: Sequence[str]) -> dict[str, End]:
        """Return how far the jobs of keys have come, without reading their records."""

    # -- notes -------------------------------------------------------------------------------------

    @abstractmethod
    def notes(self, prefix: str) -> dict[str, Note]:
        """Return the notes whose names begin so."""

    @abstractmethod
    def note(self, name: str, note: Note | None) -> None:
        """Write a note, or with None delete it."""

    @abstractmethod
    def begin_poll(self, cluster_id: str, interval: float, now: float) -> Note | None:
        """Note that a cluster is asked now, and return None; where it was asked less than
        ``interval`` seconds ago, return that note.
        """

    # -- care --------------------------------------------------------------------------------------

    @abstractmethod
    def examine(self) -> Report:
        """Read everything and say what is wrong. Raises nothing."""

    @abstractmethod
    def quarantine(self, damaged: Damaged) -> str:
        """Take a damaged record out of the store, keep it as a file or in a table of its own, and
        return where.
        """

    @abstractmethod
    def hold_again(self, keys: Sequence[str]) -> None:
        """Make the newest submission of each key the one that counts."""

    @abstractmethod
    def refile(self, tokens: Sequence[str]) -> None:
        """Search records by what they say."""

    @abstractmethod
    def rebuild(self) -> Rebuilt:
        """Make a broken store anew of all that can be read.

        Raises :class:`StoreError` for one that is not proven to be broken.
        """

    @abstractmethod
    def import_records(self, records: Sequence[Record]) -> int:
        """Add records as they are, oldest first; return how many were not there before.

        The newest of a key is its current one.
        """

    @abstractmethod
    def exists(self) -> bool:
        """Whether the store has been made; asking does not make it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; the next call opens them again."""

    @property
    def owner(self) -> str:
        """The other user that it belongs to, whose jobs are looked at only; empty for an own one.

        Raises :class:`StoreError` for a store that anybody may write to.
        """
        return ""

    def warn_of(self, damaged: Damaged) -> None:
        """Name a damaged record in the log, once."""
        if damaged.token not in self._told:
            self._told.add(damaged.token)
            what = printable(
                f"{damaged.token} (job {damaged.name!r}, id {damaged.job_id})"
            )
            log.warning(
                "%s: the record %s is damaged and left out: %s. 'clusterjob doctor' says more",
                self.url,
                what,
                printable(damaged.why),
            )


@dataclass(eq=False)
class Claims:
    """What :func:`decide_claims` decided."""

    # the holder of each record's key
    winners: list[Record | None] = field(default_factory=list)
    fresh: list[Record] = field(default_factory=list)  # to be written
    replaced: list[str] = field(default_factory=list)  # keys whose holders make room


def decide_claims(
    records: Sequence[Record],
    held: Mapping[str, Record | Damaged],
    again: Again,
) -> Claims:
    """Decide which records get their keys; ``held`` are the holders that there are now."""
    claims = Claims()
    holders = dict(held)
    # keys claimed just now: the second job of that key in the batch is the first
    claimed: set[str] = set()
    for record in records:
        holder = holders.get(record.key)
        if isinstance(holder, Damaged):
            claims.winners.append(None)
            continue
        if holder is None or (record.key not in claimed and again(holder, record)):
            if holder is not None:
                claims.replaced.append(record.key)
            claims.fresh.append(record)
            claimed.add(record.key)
            holders[record.key] = holder = record
        claims.winners.append(holder)
    return claims


def _place(record: Record) -> tuple[str, str, str]:
    return record.key, record.campaign, record.cluster_id


class Edits:
    """Changes to copies of records, which are taken back where they could not be written."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self._before: list[tuple[Record, Record]] = []
        self.changed: list[Record] = []
        # those whose key, campaign or cluster is another one
        self.moved: list[Record] = []

    def apply(self, record: Record, newest: Record | None = None) -> None:
        """Change a record, after it was brought up to date with the newest reading."""
        before = now = record.snapshot()
        self._before.append((record, before))
        if newest is not None:
            record.update_from(newest)
            now = record.snapshot()
        if self._change(record) is False:
            return
        if now.finished and record.status != now.status:
            record.task, record.tasks = now.task, now.tasks
        record.version += 1
        self.changed.append(record)
        if _place(record) != _place(now):
            self.moved.append(record)

    def take_back(self) -> None:
        """Make the copies what they were."""
        for record, before in self._before:
            record.update_from(before)


def _hands(record: Record) -> tuple[object, ...]:
    """Return what another process changes when it takes a submission, or moves it."""
    return record.phase, record.owner, record.leased, record.cluster_id


def take_over_one(stored: Record, seen: Record, owner: str, now: float) -> bool:
    """Take over ``stored`` where it is as it was ``seen``; either way ``seen`` is brought up to
    date.
    """
    same = not stored.finished and _hands(stored) == _hands(seen)
    if same:
        stored.take_over(owner, now)
        stored.version += 1
    seen.update_from(stored)
    return same


def read_campaign(text: object) -> dict[str, Any]:
    """Read what is remembered of a campaign; nothing where that cannot be read."""
    try:
        data = read_values(text)
    except ValueError:
        return {}
    return data if type(data) is dict else {}


def has_old_keys(records: Iterable[Record]) -> bool:
    """Whether any of the records was written with a key of the first rules."""
    return any(record.spec.rules == 1 for record in records)


def newer_version_error(url: str, version: int) -> StoreError:
    """Return the error for a store that a newer clusterjob wrote."""
    return StoreError(
        f"the store {url} was written by a newer clusterjob (version {version} of the store, this "
        f"one reads up to {VERSION}): upgrade clusterjob, or name another store with "
        "JobScript.cache_folder or $CLUSTERJOB_STORE"
    )
