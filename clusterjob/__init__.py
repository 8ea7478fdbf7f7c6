"""Batch jobs from Python: written once, run under any scheduler, never lost and never repeated.

A job is a script with resources. Submitting it gives a handle; submitting the same job again gives
the same handle, so that a notebook that died can be run again from the top::

    from clusterjob import JobScript, as_completed, submit

    jobs = [
        JobScript("./simulate -T {{ T }}", f"sim-{T}", params={"T": T}, time="2h", mem="1G")
        for T in (10, 20, 30)
    ]
    for result in as_completed(submit(jobs)):
        print(result.name, result.status, result.usage, result.stdout())

Without anything else the jobs run on this machine. With a profile they run on a cluster::

    JobScript.read_defaults("cluster.ini")

where ``cluster.ini`` says which scheduler, and on which host::

    [Attributes]
    backend = slurm
    remote  = me@login.cluster.edu

    [Resources]
    queue = main

What to look at next: ``help(JobScript)`` and ``help(JobSettings)`` for what a job may ask for,
``help(AsyncResult)`` and ``help(Results)`` for what is known of it, ``help(Session)`` for a store
of one's own, ``plan(jobs)`` for what a submission would do. At a terminal: ``clusterjob --help``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clusterjob.status import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    Reason,
    Status,
)

if TYPE_CHECKING:
    from clusterjob.admin import connect
    from clusterjob.attempts import Attempt
    from clusterjob.campaign import Campaign, Outcome, Step
    from clusterjob.dependencies import (
        AfterJobs,
        afterany,
        aftercorr,
        afternotok,
        afterok,
    )
    from clusterjob.elements import ArrayElement
    from clusterjob.errors import (
        BackendNotFoundError,
        CallError,
        ClusterJobError,
        CommandError,
        HostKeyError,
        JobFailedError,
        JobNotFoundError,
        LineBrokenError,
        LoginError,
        RenderError,
        ResourcesNotSupportedError,
        SettingsError,
        StoreError,
        SubmissionError,
        TransportError,
        WaitTimeoutError,
        WorkersFailedError,
    )
    from clusterjob.files import RemoteFile
    from clusterjob.functions import (
        CallFuture,
        ClusterExecutor,
        Process,
        RemoteFunction,
        map,
        map_unordered,
        remote,
        starmap,
    )
    from clusterjob.job_rows import JobRow
    from clusterjob.planning import Action, Plan, PlannedJob
    from clusterjob.result import AsyncResult
    from clusterjob.results import Results, WaitOutcome, as_completed, cancel, wait
    from clusterjob.retry import Retry
    from clusterjob.script import (
        JobScript,
        JobSettings,
        default_session,
        plan,
        submit,
    )
    from clusterjob.session import Session
    from clusterjob.store import Event, Task
    from clusterjob.sweeping import sweep
    from clusterjob.transport import Connections, Hooks

__version__ = "3.0.0.dev0"

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "PENDING",
    "RUNNING",
    "Action",
    "AfterJobs",
    "ArrayElement",
    "AsyncResult",
    "Attempt",
    "BackendNotFoundError",
    "CallError",
    "CallFuture",
    "Campaign",
    "ClusterExecutor",
    "ClusterJobError",
    "CommandError",
    "Connections",
    "Event",
    "Hooks",
    "HostKeyError",
    "JobFailedError",
    "JobNotFoundError",
    "JobRow",
    "JobScript",
    "JobSettings",
    "LineBrokenError",
    "LoginError",
    "Outcome",
    "Plan",
    "PlannedJob",
    "Process",
    "Reason",
    "RemoteFile",
    "RemoteFunction",
    "RenderError",
    "ResourcesNotSupportedError",
    "Results",
    "Retry",
    "Session",
    "SettingsError",
    "Status",
    "Step",
    "StoreError",
    "SubmissionError",
    "Task",
    "TransportError",
    "WaitOutcome",
    "WaitTimeoutError",
    "WorkersFailedError",
    "afterany",
    "aftercorr",
    "afternotok",
    "afterok",
    "as_completed",
    "cancel",
    "connect",
    "default_session",
    "map",
    "map_unordered",
    "plan",
    "remote",
    "starmap",
    "submit",
    "sweep",
    "wait",
]

# where each public name lives; what is not here is an error of clusterjob.errors
_HOMES = {
    "Action": "planning",
    "AfterJobs": "dependencies",
    "ArrayElement": "elements",
    "AsyncResult": "result",
    "Attempt": "attempts",
    "CallFuture": "functions",
    "Campaign": "campaign",
    "ClusterExecutor": "functions",
    "Connections": "transport",
    "Outcome": "campaign",
    "Step": "campaign",
    "Event": "store",
    "Hooks": "transport",
    "JobRow": "job_rows",
    "JobScript": "script",
    "JobSettings": "script",
    "Plan": "planning",
    "PlannedJob": "planning",
    "Process": "functions",
    "RemoteFile": "files",
    "RemoteFunction": "functions",
    "Results": "results",
    "Retry": "retry",
    "Session": "session",
    "Task": "store",
    "WaitOutcome": "results",
    **dict.fromkeys(
        ("aftercorr", "afterany", "afternotok", "afterok"), "dependencies"
    ),
    "as_completed": "results",
    "cancel": "results",
    "connect": "admin",
    "default_session": "script",
    **dict.fromkeys(("map", "map_unordered", "remote", "starmap"), "functions"),
    "plan": "script",
    "submit": "script",
    "sweep": "sweeping",
    "wait": "results",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: importing the package alone stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'clusterjob' has no attribute {name!r}")
    import importlib

    home = importlib.import_module(f"clusterjob.{_HOMES.get(name, 'errors')}")
    value: object = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__doc__", "__version__"]
