"""What a campaign remembers of the calls of its steps: which jobs each got, and which it made."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from clusterjob.campaign.memory import Memory
from clusterjob.store import Record, Store

_WORD = "steps"


class Call(NamedTuple):
    """One call of a step's function: with which jobs, and what the function was then."""

    step: str
    inputs: str  # tells the submissions that it got from others
    code: str  # tells the function from others

    @property
    def word(self) -> str:
        return f"{self.inputs}.{self.code}"


class Calls:
    """The calls that were made, by this process or others."""

    def __init__(self, store: Store, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        # of this process: step and word of each call, the places of the jobs that they made
        self._visited: set[tuple[str, str]] = set()
        self._made: set[str] = set()
        self._expected: dict[str, tuple[str, frozenset[str]]] = {}  # by step

    def expect(self, step: str, inputs: str, got: Sequence[Record]) -> bool:
        """Note what the next call of a step will get; say whether that is news."""
        if self._expected.get(step, ("",))[0] == inputs:
            return False
        self._expected[step] = inputs, frozenset(map(_place, got))
        return True

    def made_by(self, call: Call) -> list[Record] | None:
        """Return the jobs that a call made; None for one that there was not."""
        self._visited.add((call.step, call.word))
        known = self._of(call.step).get(call.word)
        if known is None:
            return None
        records = self._store.by_keys(known["made"])
        if len(records) < len(known["made"]):
            return None
        self._made.update(map(_place, records.values()))
        return [records[key] for key in known["made"]]

    def know_other_code(self, call: Call) -> bool:
        """Whether there was a call with the same jobs of a function that was another."""
        words = self._of(call.step)
        return any(word.startswith(f"{call.inputs}.") for word in words)

    def note(self, call: Call, got: Sequence[Record], made: Sequence[Record]) -> None:
        """Write down what a call made; where it was made before, what that was stays known."""
        self._made.update(map(_place, made))
        entry = {
            "of": sorted(set(map(_place, got))),
            "made": [record.key for record in made],
        }

        def add(steps: dict[str, Any] | None) -> dict[str, Any]:
            calls = dict((steps or {}).get(call.step, {}))
            if call.word in calls:
                calls[f"{call.word}.{len(calls)}"] = calls[call.word]
            return {**(steps or {}), call.step: {**calls, call.word: entry}}

        self._memory.change(_WORD, add)

    def all_made(self) -> set[str]:
        """Return the keys of all jobs that steps made."""
        return {key for entry in self._all().values() for key in entry["made"]}

    def replaced(self, step: str) -> tuple[list[Record], set[tuple[str, str]]]:
        """Return the calls in whose places there are others now that a step is over, or what it
        gets next is known; and the jobs that they alone made.

        Such a call of the step got some of the jobs that one of this process got, will get, or
        made: as they were before, for a function that was another, or where a loop ended elsewhere;
        or it made jobs in whose places one of this process made others. So are calls of any step
        that got what such a call made.
        """
        everything = self._all()
        stays = [everything[one] for one in self._visited if one in everything]
        kept = {key for entry in stays for key in entry["made"]}
        gone: dict[tuple[str, str], Any] = {}
        jobs: dict[str, Record] = {}
        lost = {
            place
            for one in self._visited & everything.keys()
            if one[0] == step
            for place in everything[one]["of"]
        }
        lost |= self._made
        if step in self._expected:
            lost |= self._expected[step][1]
        names = {step}
        doubled = self._that_made_in_same_places(step, everything, kept)
        while found := {
            one: entry
            for one, entry in everything.items()
            if one[0] in names
            and one not in self._visited | gone.keys()
            and (one in doubled or not lost.isdisjoint(entry["of"]))
        }:
            gone.update(found)
            made = {key for entry in found.values() for key in entry["made"]} - kept
            parted = self._store.by_keys(sorted(made))
            jobs.update(parted)
            # what those jobs led to is replaced, too, whatever step has made it
            lost = set(map(_place, parted.values()))
            names = {name for name, _ in everything}
        others = [entry for one, entry in everything.items() if one not in gone]
        still_made = {key for entry in others for key in entry["made"]}
        return [job for key, job in jobs.items() if key not in still_made], set(gone)

    def _that_made_in_same_places(
        self,
        step: str,
        everything: Mapping[tuple[str, str], Any],
        kept: Collection[str],
    ) -> set[tuple[str, str]]:
        """Return the calls of a step, not made by this process, in the places of whose jobs calls
        of this process made others.
        """
        earlier = {
            one: entry
            for one, entry in everything.items()
            if one[0] == step and one not in self._visited
        }
        keys = {key for entry in earlier.values() for key in entry["made"]} - set(
            kept
        )
        records = self._store.by_keys(sorted(keys)) if keys else {}
        in_place = {
            key for key, record in records.items() if _place(record) in self._made
        }
        return {
            one
            for one, entry in earlier.items()
            if not in_place.isdisjoint(entry["made"])
        }

    def forget(self, gone: Collection[tuple[str, str]]) -> None:
        """Forget calls, given by their steps and words."""

        def leave(steps: dict[str, Any] | None) -> dict[str, Any]:
            return {
                step: {
                    word: entry
                    for word, entry in calls.items()
                    if (step, word) not in gone
                }
                for step, calls in (steps or {}).items()
            }

        if gone:
            self._memory.change(_WORD, leave)

    def _of(self, step: str) -> dict[str, Any]:
        return dict(self._memory.read().get(_WORD, {}).get(step, {}))

    def _all(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what is known of each call, by its step and word."""
        return {
            (step, word): entry
            for step, calls in self._memory.read().get(_WORD, {}).items()
            for word, entry in calls.items()
        }


def _place(record: Record) -> str:
    """Return what tells a job's place, its name and workdir, from others, in few letters."""
    text = f"{record.workdir}\n{record.name}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:10]
