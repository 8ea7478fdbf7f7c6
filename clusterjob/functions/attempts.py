"""Calls that failed are tried again, by the rules of :class:`Retry`."""

from __future__ import annotations

from collections.abc import Mapping

from clusterjob.functions.calls import Told
from clusterjob.retry import Retry, changed_resources, changes_after


def delay_of(retry: Retry) -> float:
    """Return the s before the next attempt."""
    delay = retry.rules()["delay"]
    assert isinstance(delay, (int, float))
    return delay


def begin_next_attempt(retry: Retry, told: Told, own: Mapping[str, object]) -> bool:
    """Make a call that failed one that is to be tried again; return whether that is wanted.

    ``own`` is what a worker of its cluster asks for.
    """
    call, _, error, reason = told
    if reason is None:
        return False
    rules = retry.rules()
    code = getattr(error, "exit_code", None)
    wanted = changes_after(rules, call.reasons, reason, code)
    if wanted is None:
        return False
    if wanted:
        asked = {**own, **call.changes}
        changes = changed_resources(rules, wanted, asked, call.host)
        if changes is None:  # no more can be had
            return False
        call.changes = {**call.changes, **changes}
        if profile := wanted.get("profile"):
            call.changes["profile"] = profile
    call.reasons.append(reason)
    call.attempt += 1
    call.worker = ""
    return True
