"""A pool: the folder of calls on one cluster, and the workers that take them from it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from clusterjob.errors import CallError
from clusterjob.functions.book import Book, PoolRow
from clusterjob.functions.calls import Call, Tell, Told
from clusterjob.functions.outcomes import reason_of, take_in, value_of, where
from clusterjob.functions.places import NewFile, Place, Reader
from clusterjob.functions.workers import Workers, log_of
from clusterjob.result import AsyncResult
from clusterjob.runner import Blob, Untrusted, padded, parts_of, sign
from clusterjob.status import Reason, Status
from clusterjob.store import Task

_log = logging.getLogger(__name__)
# s for which a worker's files may come later than the word that it has ended
_SETTLE = 1.0
_LOSS = 2.0  # s between two looks for calls that are nowhere

Listing = Mapping[str, Sequence[str]]
Stored = dict[str, tuple[dict[str, Any], Sequence[Blob]]]  # results by keys


class Claim(NamedTuple):
    """The name of a part of a chunk: calls from ``first`` on, before ``end``, as they are numbered
    in their pool; ``granted`` of them may be begun before anything is written.
    """

    name: str
    chunk: str
    base: int
    first: int
    end: int
    granted: int
    worker: str

    @classmethod
    def parse(cls, name: str) -> Claim | None:
        """Return None for a name of anybody else's."""
        body, _, worker = name.partition("@")
        chunk, _, ends = body.partition("_")
        first, _, end = ends.partition("_")
        base, _, granted = chunk.partition("-")
        if not all(word.isdigit() for word in (first, end, base, granted)):
            return None
        at = int(base)
        low, high = at + int(first), at + int(end)
        return cls(
            name,
            chunk,
            at,
            low,
            high,
            min(high, low + int(granted)),
            worker,
        )

    def part(self, first: int, end: int) -> str:
        """Return the name of some of its calls."""
        return f"{self.chunk}_{first - self.base}_{end - self.base}"

    def covers(self, number: int) -> bool:
        return self.first <= number < self.end


@dataclass
class _Death:
    """A claim whose worker is gone."""

    task: Task | None
    result: AsyncResult | None
    since: float
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
        self.row, self.place, self.book, self._tell = row, place, book, tell
        self._settle = settle
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
        self._looked = 0.0
        self.listed = 0.0  # when it was last looked who runs, on the monotonic clock
        self.todo = 0  # chunks that nobody had taken when that was looked at

    # -- sending -----------------------------------------------------------------------------------

    def send(self, chunks: Sequence[tuple[int, Sequence[Call]]]) -> list[Call]:
        """Send chunks of calls, each with how many of it may be begun at once.

        Returns calls that another program has sent meanwhile. Raises :class:`StoreError` and
        :class:`CommandError`; then none was sent.
        """
        calls = [call for _, members in chunks for call in members]
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
            self.calls.update(
                {
                    call.number: call
                    for call in calls
                    if call.key not in taken or not call.key
                }
            )
        shared = set(self._shared)
        files = []
        for granted, members in chunks:
            own = [call for call in members if not (call.key and call.key in taken)]
            if own:
                files += self._files_of(
                    members,
                    own,
                    granted,
                    shared,
                )
        try:
            self.place.put(files)
        except BaseException:
            self._take_back(calls)
            raise
        self._shared = shared
        return [call for call in calls if call.key in taken and call.key]

    def _take_back(self, calls: Iterable[Call]) -> None:
        with self.lock:
            for call in calls:
                self.calls.pop(call.number, None)
        self.book.forget([call.key for call in calls if call.key])

    def _files_of(
        self,
        members: Sequence[Call],
        own: Sequence[Call],
        granted: int,
        shared: set[str],
    ) -> list[NewFile]:
        """Return the files of a chunk: what its calls share, unless it is in ``shared``, first."""
        files = []
        for call in own:
            assert call.arguments
            payloads = (call.function, call.arguments)
            for digest, blob in {**payloads[0].shared, **payloads[1].shared}.items():
                if digest not in shared:
                    files.append(
                        self._file(
                            "shared",
                            digest,
                            {},
                            [blob],
                        )
                    )
                    shared.add(digest)
            function = call.function
            if function.digest not in shared:
                header = {"v": function.said, **function.python}
                files.append(
                    self._file(
                        "shared",
                        function.digest,
                        header,
                        function.blobs,
                    )
                )
                shared.add(function.digest)
        chunk = f"{members[0].number:08d}-{granted}"
        said: list[dict[str, Any]] = []
        blobs: list[Blob] = []
        for call in members:
            assert call.arguments
            said.append(
                {
                    "n": call.number,
                    "f": call.function.digest,
                    "v": call.arguments.said,
                    **call.arguments.python,
                }
            )
            blobs += call.arguments.blobs
        names = _runs([call.number - members[0].number for call in own])
        for low, high in names:
            name = f"{chunk}_{low}_{high}"
            files.append(
                self._file(
                    "todo",
                    name,
                    {"calls": said},
                    blobs,
                    chunk,
                )
            )
        return files

    def _file(
        self,
        folder: str,
        name: str,
        header: Mapping[str, object],
        blobs: Sequence[Blob],
        label: str = "",
    ) -> NewFile:
        words = f"{folder}:{self.row.id}:{label or name}"
        signed = sign(
            self.row.secret,
            words,
            dict(header),
            padded(blobs),
        )
        return NewFile(folder, name, signed)

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
                self._read(
                    name,
                    read,
                    told,
                    stored,
                )
            if haul.listing is not None:
                told += self._bury(haul.listing, bool(haul.files))
                told += self._find_lost(haul.listing, bool(haul.files))
            failed = [item.call.key for item in told if item.error and item.call.key]
            if stored:
                self.book.finish(stored)
            if failed:
                self.book.forget(failed)
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
            for number in range(claim.first, claim.end):
                call = self.calls.get(number)
                if call is not None and not call.worker:
                    self._note_worker(call, claim.worker)
                    _set_running(call)

    def _note_worker(self, call: Call, worker: str) -> None:
        call.worker = worker
        call.job_id, call.host = self._about(worker)

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
        self._next[claim] = max(self._next.get(claim, 0), header["next"])
        if self.workers is not None:
            self.workers.note_work()
        at = 0
        for said in header["calls"]:
            parts: list[memoryview] = []
            if said["v"] is not None:
                parts, at = parts_of(said["v"], body, at)
            said.update(host=header["host"], job=header["job"])
            self._take_in(
                said,
                parts,
                header["worker"],
                told,
                stored,
            )

    def _take_in(
        self,
        said: dict[str, Any],
        parts: list[memoryview],
        worker: str,
        told: list[Told],
        stored: Stored,
    ) -> None:
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
            return
        self._note_worker(call, worker)
        take_in(call, said)
        try:
            told.append(Told(call, value_of(said, parts, call)))
        except BaseException as error:
            told.append(
                Told(
                    call,
                    None,
                    error,
                    reason_of(said),
                )
            )

    # -- what does not come ------------------------------------------------------------------------

    def _bury(self, listing: Listing, has_files: bool) -> list[Told]:
        """Deal with what dead workers had: calls that they may have begun have failed, the others
        are put back.
        """
        told: list[Told] = []
        taken = [Claim.parse(name) for name in listing["taken"]]
        claims = [claim for claim in taken if claim is not None]
        newest = _newest(listing["workers"])
        for claim in claims:
            death = self._deaths.get(claim.name) or self._death_of(claim, newest)
            if death is None:
                continue
            self._deaths[claim.name] = death
            death.looks = 0 if has_files else death.looks + 1
            if death.looks < 2 or time.monotonic() - death.since < self._settle:
                continue
            others = [
                other
                for other in map(Claim.parse, (*listing["todo"], *listing["taken"]))
                if other is not None and other.chunk == claim.chunk and other != claim
            ]
            told += self._bury_one(claim, others, death)
        return told

    def _death_of(self, claim: Claim, newest: Mapping[str, int]) -> _Death | None:
        """Return the death of a claim's worker; None where it lives, as far as is known."""
        base, _, turn = claim.worker.partition(".")
        if turn.isdigit() and int(turn) < newest.get(base, 0):
            return _Death(
                None, None, time.monotonic()
            )  # its scheduler started it over
        if self.workers is None:
            return None
        task, result = self.workers.find(claim.worker)
        if task is None or not task.status.finished:
            return None
        return _Death(task, result, time.monotonic())

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
        target = claim.part(rest[0], rest[-1] + 1) if rest else ""
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
        for name in (*listing["todo"], *listing["taken"]):
            claim = Claim.parse(name)
            if claim is not None:
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
        for name in self.place.listing()["todo"]:
            claim = Claim.parse(name)
            if claim is None:
                continue
            out = [number for number in wanted if claim.covers(number)]
            if out:
                stay = [n for n in range(claim.first, claim.end) if n not in wanted]
                runs = _runs(stay)
                names[name] = [claim.part(low, high) for low, high in runs]
                inside[name] = out
        taken = self.place.withdraw(names) if names else set()
        found = [wanted[number] for name in taken for number in inside[name]]
        with self.lock:
            for call in found:
                self.calls.pop(call.number, None)
        self.book.forget([call.key for call in found if call.key])
        return found


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the runs of numbers that follow each other: from, and before what."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = runs[-1][0], number + 1
        else:
            runs.append((number, number + 1))
    return runs


def _newest(workers: Iterable[str]) -> dict[str, int]:
    """Return how often each worker was started over."""
    newest: dict[str, int] = {}
    for name in workers:
        base, _, turn = name.removesuffix(".ended").partition(".")
        if turn.isdigit():
            newest[base] = max(newest.get(base, 0), int(turn))
    return newest


def _set_running(call: Call) -> None:
    if not call.is_told and not call.future.running():
        call.future.set_running_or_notify_cancel()


def _lost(call: Call, claim: Claim, death: _Death) -> Told:
    """Return what is told of a call whose worker is gone."""
    task = death.task
    if task is None or death.result is None:
        reason = Reason.PREEMPTED
        words = (
            "its worker was started over by the scheduler while it was at this call"
        )
    else:
        # a worker that ends in order leaves no calls: what ended it is what counts
        completed = task.status is Status.COMPLETED
        reason = Reason.LOST if completed else task.reason or Reason.LOST
        call.host = task.host or call.host
        words = f"its worker ended before the call did: {reason.value}"
        words += f" ({task.words})" if task.words else ""
        if reason is Reason.TIMEOUT:
            words += ". More time (time=...) may help"
        words += f". Its log: {log_of(death.result, claim.worker)}"
    if claim.end - claim.first > 1:
        words += ". It is one of some calls of which one was being made then"
    error = CallError(f"{call.title}: {words}{where(call)}", reason)
    return Told(
        call,
        None,
        error,
        reason,
    )
