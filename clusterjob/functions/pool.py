"""A pool: the folder of calls on one cluster, and the workers that take them from it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clusterjob.errors import CallError, StoreError
from clusterjob.functions.backoff import Backoff
from clusterjob.functions.book import Book, PoolRow
from clusterjob.functions.calls import Call, Tell, Told
from clusterjob.functions.chunk_files import ChunkWriter
from clusterjob.functions.chunks import Chunk
from clusterjob.functions.claims import (
    Claim,
    ended_workers,
    newest_turns,
    parsed,
    runs_of,
)
from clusterjob.functions.outcomes import reason_of, take_in, value_of, where
from clusterjob.functions.places import NewFile, Place, Reader
from clusterjob.functions.workers import Workers, log_of
from clusterjob.runner import Blob, Said, Untrusted, padded, parts_of
from clusterjob.status import Reason, Status
from clusterjob.store import Task

_log = logging.getLogger(__name__)
# s for which a worker's files may come later than the word that it has ended
_SETTLE = 1.0
_UNWRITTEN = 30.0  # s for which results wait for a book that cannot be written
_LOSS = 2.0  # s between two looks for calls that are nowhere

Listing = Mapping[str, Sequence[str]]
Stored = dict[str, tuple[dict[str, Any], Sequence[Blob]]]  # results by keys


@dataclass
class _Death:
    """What became of the worker that had a claim."""

    reason: Reason
    words: str
    host: str = ""
    since: float = field(default_factory=time.monotonic)
    looks: int = 0


class Pool:
    """Calls on one cluster. Its methods may be called from several threads.

    ``tell`` gets what becomes of each call. A pool without ``workers`` is one of an earlier
    program: what comes of its calls is collected, and no more are sent.
    """

    def __init__(
        self,
        row: PoolRow,
        place: Place,
        book: Book,
        tell: Tell,
        settle: float = _SETTLE,
    ) -> None:
        self.row = row
        self.place = place
        self.book = book
        self._tell = tell
        self._settle = settle
        self._writer = ChunkWriter(row)
        self.workers: Workers | None = None
        self.calls: dict[int, Call] = {}
        self.lock = threading.RLock()
        self._keys: dict[int, str] = {}  # of calls of an earlier program
        self._shared: set[str] = set()
        self._gone: list[str] = []  # results that were read, and are to be deleted
        self._next: dict[str, int] = {}  # how far claims may have come
        self._deaths: dict[str, _Death] = {}
        self._running: set[str] = set()  # claims that were seen
        self._known: dict[str, tuple[str, str]] = {}  # job and host of workers
        self._refused: dict[str, str] = {}
        self._missing: set[int] = set()
        self._unwritten = Backoff(1.0, 1.0)  # results that could not be remembered
        # calls whose results were told all the same
        self.unremembered: set[str] = set()
        self._looked = 0.0
        self.listed = 0.0  # when it was last looked who runs, on the monotonic clock
        self.todo = 0  # chunks that nobody had taken when that was looked at

    # -- sending -----------------------------------------------------------------------------------

    def send(self, chunks: Sequence[Chunk]) -> list[Call]:
        """Send chunks of calls.

        Returns calls that another program has sent meanwhile. Raises :class:`StoreError` and
        :class:`CommandError`; then none was sent.
        """
        calls = [call for chunk in chunks for call in chunk.calls]
        with self.lock:
            first = self.row.number + 1
            for number, call in enumerate(calls, first):
                call.number = number
            self.row.number += len(calls)
            remembered = [
                (call.key, call.number, call.title) for call in calls if call.key
            ]
            again = any(call.attempt > 1 for call in calls)
            # also where none is remembered: no number is given twice, whoever has the pool
            taken = self.book.send(self.row, remembered, again)

            def is_anothers(call: Call) -> bool:
                return bool(call.key) and call.key in taken

            for call in calls:
                if not is_anothers(call):
                    self.calls[call.number] = call
        shared = set(self._shared)
        files: list[NewFile] = []
        for chunk in chunks:
            own = [call for call in chunk.calls if not is_anothers(call)]
            if own:
                files += self._writer.files_of(chunk, own, shared)
        try:
            self.place.put(files)
        except BaseException:
            self._take_back(calls)
            raise
        self._shared = shared
        return [call for call in calls if is_anothers(call)]

    def _take_back(self, calls: Iterable[Call]) -> None:
        with self.lock:
            for call in calls:
                self.calls.pop(call.number, None)
        self.book.forget([call.key for call in calls if call.key])

    # -- collecting --------------------------------------------------------------------------------

    def collect(self, patience: float) -> bool:
        """Take in what has come, and tell it; return whether anything has.

        ``patience`` is how many s to wait for something. Raises :class:`CommandError`,
        :class:`StoreError`.
        """
        haul = self.place.collect(self._gone, patience)
        self._gone = []
        told: list[Told] = []
        stored: Stored = {}
        with self.lock:
            if haul.listing is not None:
                self._note_listing(haul.listing)
            for name, read in haul.files.items():
                self._read(name, read, told, stored)
            if haul.listing is not None:
                told += self._bury(haul.listing, bool(haul.files))
                told += self._find_lost(haul.listing, bool(haul.files))
            failed = [item.call.key for item in told if item.error and item.call.key]
            self._remember(stored, failed)
            # what is in the book may go
            self._gone = list(haul.files)
            for number, key in list(self._keys.items()):
                if key in stored:
                    del self._keys[number]
            for item in told:
                if self.calls.get(item.call.number) is item.call:
                    del self.calls[item.call.number]
        if told:
            self._tell(told)
        return bool(haul.files)

    def _remember(self, stored: Stored, failed: Sequence[str]) -> None:
        """Write into the book what has come. Raises :class:`StoreError`; when nothing could be
        written for a while, go on without it.
        """
        try:
            if stored:
                self.book.finish(stored)
            if failed:
                self.book.forget(failed)
            self._unwritten.succeed()
        except StoreError as error:
            if self._unwritten.failing() < _UNWRITTEN:
                self._unwritten.fail()
                raise
            _log.warning("results are told, and not remembered: %s", error)
            self.unremembered.update(stored)

    def _note_listing(self, listing: Listing) -> None:
        """Take in who works, and which calls have been taken."""
        self.listed = time.monotonic()
        self.todo = len(listing["todo"])
        if self.workers is not None:
            self.workers.note(listing["workers"])
        for name in listing["taken"]:
            claim = None if name in self._running else Claim.parse(name)
            if claim is None:
                continue
            self._running.add(name)
            about = self._about(claim.worker)
            for number in range(claim.first, claim.end):
                call = self.calls.get(number)
                if call is not None and not call.worker:
                    call.worker = claim.worker
                    call.job_id, call.host = about
                    _set_running(call)

    def _about(self, worker: str) -> tuple[str, str]:
        """Return the id of a worker's job, and its host, as far as they are known."""
        if worker in self._known or self.workers is None:
            return self._known.get(worker, ("", ""))
        task, _ = self.workers.find(worker)
        found = self.workers.job_id(worker), task.host if task is not None else ""
        if all(found):
            self._known[worker] = found
        return found

    def _read(
        self,
        name: str,
        read: Reader,
        told: list[Told],
        stored: Stored,
    ) -> None:
        """Read a file of results."""
        claim = name.rpartition(".")[0]
        try:
            header, body = read(self.row.secret, f"results:{self.row.id}:{name}")
        except (Untrusted, OSError, ValueError) as error:
            _log.warning("a result was refused: %s", error)
            self._refused[claim] = str(error)
            return
        if "refused" in header:
            self._refused[claim] = header["why"]
            return
        before = self._next.get(claim, 0)
        self._next[claim] = max(before, header["next"])
        if self.workers is not None:
            self.workers.note_work()
        at = 0
        for said in header["calls"]:
            parts: list[memoryview] = []
            if said["v"] is not None:
                parts, at = parts_of(said["v"], body, at)
            said.update({name: header[name] for name in ("host", "job", "worker")})
            item = self._take_in(said, parts, stored)
            if item is not None:
                told.append(item)

    def _take_in(
        self, said: Said, parts: list[memoryview], stored: Stored
    ) -> Told | None:
        """Take in the result of a call; it is kept also where nobody waits for it."""
        number = said["n"]
        call = self.calls.get(number)
        key = call.key if call is not None else self._keys.get(number, "")
        if key and said["ok"]:
            stored[key] = said, list(padded(parts))
        if call is None:
            if key and not said["ok"]:
                self.book.forget([key])
                del self._keys[number]
            return None
        take_in(call, said)
        try:
            return Told(call, value_of(said, parts, call))
        except BaseException as error:
            return Told(call, None, error, reason_of(said))

    # -- what does not come ------------------------------------------------------------------------

    def _bury(self, listing: Listing, has_files: bool) -> list[Told]:
        """Deal with what dead workers had: calls that they may have begun have failed, the others
        are put back.
        """
        told: list[Told] = []
        claims = parsed(listing["taken"])
        turns = newest_turns(listing["workers"])
        ended = ended_workers(listing["workers"])
        everywhere = [*parsed(listing["todo"]), *claims]
        for claim in claims:
            death = self._deaths.get(claim.name)
            death = death or self._death_of(claim, turns, ended)
            if death is None:
                continue
            self._deaths[claim.name] = death
            death.looks = 0 if has_files else death.looks + 1
            if death.looks < 2 or time.monotonic() - death.since < self._settle:
                continue
            others = [
                other
                for other in everywhere
                if other.chunk == claim.chunk and other != claim
            ]
            told += self._bury_one(claim, others, death)
        return told

    def _death_of(
        self, claim: Claim, turns: Mapping[str, int], ended: Collection[str]
    ) -> _Death | None:
        """Return the death of a claim's worker; None where it lives, as far as is known."""
        again = (
            "its worker was started over by the scheduler while it was at this call"
        )
        base, _, turn = claim.worker.partition(".")
        if turn.isdigit() and int(turn) < turns.get(base, 0):
            return _Death(Reason.PREEMPTED, again)
        if self.workers is None:
            return None
        if self.workers.is_forgotten(claim.worker):
            return _Death(Reason.LOST, "the record of its worker's job was deleted")
        task, result = self.workers.find(claim.worker)
        if task is None or result is None:
            return None
        if base in ended and task.status is Status.PENDING:
            return _Death(Reason.PREEMPTED, again)
        if not task.status.finished:
            return None
        log = log_of(result, claim.worker)
        return _Death(_reason_of_end(task), _end_of_worker(task, log), task.host)

    def _bury_one(
        self, claim: Claim, others: Sequence[Claim], death: _Death
    ) -> list[Told]:
        begun = self._next.get(claim.name, 0) + claim.base
        begun = max(begun, claim.granted)
        told: list[Told] = []
        rest = []
        for number in range(claim.first, claim.end):
            is_elsewhere = any(other.covers(number) for other in others)
            is_known = number in self.calls or number in self._keys
            if is_elsewhere or not is_known:
                continue
            if number >= begun:
                rest.append(number)
                continue
            call = self.calls.get(number)
            if call is None:
                self.book.forget([self._keys.pop(number)])
                continue
            told.append(_lost(call, claim, death))
        del self._deaths[claim.name]
        target = ""
        if rest:
            target = claim.part(rest[0], rest[-1] + 1)
        self.place.move({claim.name: target})
        return told

    def _find_lost(self, listing: Listing, has_files: bool) -> list[Told]:
        """Tell of calls that are nowhere: their chunk or their result was refused, or deleted.

        What is moved while it is looked for may be missing from one listing, and not from two.
        """
        if has_files or time.monotonic() - self._looked < _LOSS:
            return []
        self._looked = time.monotonic()
        found: set[int] = set()
        for claim in parsed((*listing["todo"], *listing["taken"])):
            found.update(range(claim.first, claim.end))
        missing = self.calls.keys() - found
        lost, self._missing = missing & self._missing, missing
        return [
            Told(self.calls[number], None, self._lost_error(number))
            for number in sorted(lost)
        ]

    def _lost_error(self, number: int) -> CallError:
        call = self.calls[number]
        for name, why in self._refused.items():
            claim = Claim.parse(name)
            if claim is not None and claim.covers(number):
                return CallError(f"{call.title}: {why}, and is not used")
        return CallError(
            f"{call.title} is not in its folder any more, and neither is a result: somebody "
            f"deleted it? {self.place.folder}"
        )

    # -- taking over -------------------------------------------------------------------------------

    def adopt(self) -> bool:
        """Take over the calls that an earlier program sent; return whether the folder is there."""
        if not self.place.exists():
            return False
        self._keys = self.book.on_their_way(self.row)
        return True

    def attach(self, call: Call, number: int) -> bool:
        """Wait for a call that was sent before; return False where it is on its way no more: what
        came of it stands in the book.
        """
        with self.lock:
            if self._keys.pop(number, None) is None:
                return False
            call.number = number
            self.calls[number] = call
        return True

    def has_open(self) -> bool:
        """Whether calls are on their way, also such as nobody waits for."""
        return bool(self.calls or self._keys)

    # -- withdrawing -------------------------------------------------------------------------------

    def withdraw(self, calls: Collection[Call]) -> list[Call]:
        """Take calls back that no worker has taken, and return them."""
        with self.lock:
            wanted = {
                call.number: call
                for call in calls
                if self.calls.get(call.number) is call
            }
        if not wanted:
            return []
        names: dict[str, list[str]] = {}
        inside: dict[str, list[int]] = {}
        listing = self.place.listing()
        with self.lock:
            self._note_listing(listing)
        for claim in parsed(listing["todo"]):
            out = [number for number in wanted if claim.covers(number)]
            if out:
                own = range(claim.first, claim.end)
                runs = runs_of(number for number in own if number not in wanted)
                names[claim.name] = [claim.part(low, high) for low, high in runs]
                inside[claim.name] = out
        taken = self.place.withdraw(names) if names else set()
        found = [wanted[number] for name in taken for number in inside[name]]
        with self.lock:
            for call in found:
                self.calls.pop(call.number, None)
        self.book.forget([call.key for call in found if call.key])
        return found


def end_pool(place: Place, book: Book, row: PoolRow) -> None:
    """Tell workers of a pool in which no call is left to end, delete its folder, and forget it.

    Raises :class:`CommandError`, :class:`StoreError`.
    """
    place.stop()
    place.remove()
    book.forget_pool(row)


def _set_running(call: Call) -> None:
    if not call.is_told and not call.future.running():
        call.future.set_running_or_notify_cancel()


def _reason_of_end(task: Task) -> Reason:
    """Return why calls of a worker that ended have failed."""
    if task.status is Status.COMPLETED:  # one that ends in order leaves no calls
        return Reason.LOST
    return task.reason or Reason.LOST


def _end_of_worker(task: Task, log: str) -> str:
    reason = _reason_of_end(task)
    words = f"its worker ended before the call did: {reason.value}"
    if task.words:
        words += f" ({task.words})"
    if reason is Reason.TIMEOUT:
        words += ". More time (time=...) may help"
    return f"{words}. Its log: {log}"


def _lost(call: Call, claim: Claim, death: _Death) -> Told:
    """Return what is told of a call whose worker is gone."""
    call.host = death.host or call.host
    words = death.words
    if claim.end - claim.first > 1:
        words += ". It is one of some calls of which one was being made then"
    error = CallError(f"{call.title}: {words}{where(call)}", death.reason)
    return Told(call, None, error, death.reason)
