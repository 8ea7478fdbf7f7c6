"""How the jobs of a call are submitted: what is no part of the jobs themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from clusterjob.errors import SettingsError
from clusterjob.packing import Pack
from clusterjob.retry import Retry


@dataclass(frozen=True)
class Terms:
    """Without ``bundle`` a job never goes with others in an array; with a ``pack`` it runs in one
    job of the scheduler's with others; ``retry`` goes over the profile's rules; a job of a
    ``campaign`` is held until that lets it go.
    """

    bundle: bool = True
    retry: Retry | None = None
    campaign: str = ""
    tags: tuple[str, ...] = ()
    pack: Pack | None = None
    # it is prepared for a cluster that it goes to only where it fails
    is_elsewhere: bool = False

    @property
    def is_held(self) -> bool:
        """Whether a job is not submitted at once: it can come after jobs of other clusters."""
        return bool(self.campaign) or self.is_elsewhere

    @property
    def pack_numbers(self) -> dict[str, int]:
        """What a record keeps of the pack; empty where there is none."""
        return {} if self.pack is None else self.pack.to_json()

    def __post_init__(self) -> None:
        check_switch("bundle", self.bundle)
        if self.pack is not None and not self.bundle:
            raise SettingsError(
                "pack and bundle=False: a pack is jobs that go together"
            )


def check_switch(name: str, value: object) -> None:
    """Refuse what is neither True nor False: a text like "no" would be true."""
    if not isinstance(value, bool):
        raise SettingsError(f"{name} = {value!r}: expected True or False")


def check_retry(retry: object) -> None:
    """Refuse what neither says whether failed jobs are submitted again, nor by which rules."""
    if not isinstance(retry, (bool, Retry)):
        raise SettingsError(
            f"retry = {retry!r}: expected True, False, or rules: Retry(times=3)"
        )


def check_rules(retry: object) -> None:
    """Refuse what are no rules of retries."""
    if not isinstance(retry, Retry | None):
        raise SettingsError(f"retry = {retry!r}: expected rules: Retry(times=3)")


def check_tags(tags: object) -> tuple[str, ...]:
    """Return tags, each once. Raises :class:`SettingsError` for what is no list of words."""
    given = [tags] if isinstance(tags, str) else tags
    if not isinstance(given, Iterable):
        raise SettingsError(f"tags = {tags!r}: expected a list of words")
    found = list(given)
    for tag in found:
        if not isinstance(tag, str) or not tag.strip() or not tag.isprintable():
            raise SettingsError(f"tags: {tag!r} is no word")
    return tuple(dict.fromkeys(found))
