"""clusterjob: batch jobs from Python.

Written once, run under any scheduler, never lost and never repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clusterjob.status import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, Reason, Status

if TYPE_CHECKING:
    from clusterjob.errors import ClusterJobError
    from clusterjob.plan import Plan
    from clusterjob.reach import connect
    from clusterjob.result import AsyncResult, as_completed, cancel, wait
    from clusterjob.script import JobScript, submit

__version__ = "3.0.0.dev0"

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "PENDING",
    "RUNNING",
    "AsyncResult",
    "ClusterJobError",
    "JobScript",
    "Plan",
    "Reason",
    "Status",
    "as_completed",
    "cancel",
    "connect",
    "submit",
    "wait",
]

_HOME = {
    "AsyncResult": "result",
    "as_completed": "result",
    "cancel": "result",
    "wait": "result",
    "JobScript": "script",
    "submit": "script",
    "Plan": "plan",
    "ClusterJobError": "errors",
    "connect": "reach",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: importing the package alone stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'clusterjob' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"clusterjob.{_HOME[name]}"), name)
    globals()[name] = value
    return value
