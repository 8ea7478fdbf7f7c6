"""What a campaign remembers of the calls of its steps: which jobs each got, and which it made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
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
        self._store, self._memory = store, memory
        self._visited: set[tuple[str, str]] = set()  # by this process: step, word

    def made_by(self, call: Call) -> list[str] | None:
        """Return the keys of the jobs that a call made; None for one that there was not."""
        self._visited.add((call.step, call.word))
        known = self._of(call.step).get(call.word)
        return None if known is None else list(known["made"])

    def know_other_code(self, call: Call) -> bool:
        """Whether there was a call with the same jobs of a function that was another."""
        words = self._of(call.step)
        return any(word.startswith(f"{call.inputs}.") for word in words)

    def note(self, call: Call, got: Iterable[Record], made: Iterable[Record]) -> None:
        """Write down what a call made; where it was made before, what that was stays known."""
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
        return {key for _, _, entry in self._all() for key in entry["made"]}

    def forget_replaced(self, step: str) -> list[Record]:
        """Forget the calls in whose places there are others now; return the jobs of those alone.

        Such a call got some of the jobs that one of this process got, as they were before, or those
        of a function that was changed since; or it got what another such call had made.
        """
        everything = list(self._all())
        stays = [item for item in everything if item[:2] in self._visited]
        others = [item for item in everything if item[:2] not in self._visited]
        kept = {key for _, _, entry in stays for key in entry["made"]}
        lost = {
            place for name, _, entry in stays if name == step for place in entry["of"]
        }
        replaced: dict[str, list[str]] = {}
        jobs: dict[str, Record] = {}
        names = {step}
        while found := [
            item for item in others if item[0] in names and lost & set(item[2]["of"])
        ]:
            others = [item for item in others if item not in found]
            keys = {key for _, _, entry in found for key in entry["made"]} - kept
            gone = self._store.by_keys(sorted(keys - jobs.keys()))
            jobs.update(gone)
            for name, word, _ in found:
                replaced.setdefault(name, []).append(word)
            # what those jobs led to is replaced, too, whatever step has made it
            lost = set(map(_place, gone.values()))
            names = {name for name, _, _ in others}
        if replaced:
            self._forget(replaced)
        still_made = {key for _, _, entry in others for key in entry["made"]}
        return [record for key, record in jobs.items() if key not in still_made]

    def _forget(self, replaced: Mapping[str, list[str]]) -> None:
        def leave(steps: dict[str, Any] | None) -> dict[str, Any]:
            return {
                name: {
                    word: entry
                    for word, entry in calls.items()
                    if word not in replaced.get(name, ())
                }
                for name, calls in (steps or {}).items()
            }

        self._memory.change(_WORD, leave)

    def _of(self, step: str) -> dict[str, Any]:
        return dict(self._memory.read().get(_WORD, {}).get(step, {}))

    def _all(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield each call: its step, its word, what is known of it."""
        for step, calls in self._memory.read().get(_WORD, {}).items():
            for word, entry in calls.items():
                yield step, word, entry


def _place(record: Record) -> str:
    """Return what tells a job's place, its name and workdir, from others, in few letters."""
    text = f"{record.workdir}\n{record.name}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:10]
