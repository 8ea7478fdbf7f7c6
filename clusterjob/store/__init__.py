"""Where records live: SQLite, a folder of JSON files, PostgreSQL."""

from clusterjob.store.base import (
    OLD_KEYS,
    Again,
    Change,
    Damaged,
    Note,
    Rebuilt,
    Report,
    Settle,
    Store,
)
from clusterjob.store.listed import Listed
from clusterjob.store.open import locate_store, open_store
from clusterjob.store.owner import foreign_error, foreign_owner
from clusterjob.store.record import (
    ONCE_DONE,
    ONCE_DUE,
    ONCE_NONE,
    ONCE_STARTED,
    Bundle,
    Event,
    Once,
    OnceState,
    Phase,
    Record,
    Task,
    attempt_token,
    full_job_id,
)
from clusterjob.store.spec import (
    ClusterReference,
    InputFile,
    JobSpec,
    OutputPattern,
    Parent,
)

__all__ = [
    "OLD_KEYS",
    "ONCE_DONE",
    "ONCE_DUE",
    "ONCE_NONE",
    "ONCE_STARTED",
    "Again",
    "Bundle",
    "Change",
    "ClusterReference",
    "Damaged",
    "Event",
    "InputFile",
    "JobSpec",
    "Listed",
    "Note",
    "Once",
    "OnceState",
    "OutputPattern",
    "Parent",
    "Phase",
    "Rebuilt",
    "Record",
    "Report",
    "Settle",
    "Store",
    "Task",
    "attempt_token",
    "foreign_error",
    "foreign_owner",
    "full_job_id",
    "locate_store",
    "open_store",
]
