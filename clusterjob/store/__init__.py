"""Where records live: SQLite, a folder of JSON files, PostgreSQL."""

from clusterjob.store.base import (
    OLD_KEYS,
    Again,
    Change,
    Damaged,
    End,
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
    Bundle,
    Phase,
    Record,
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
from clusterjob.store.task import (
    ONCE_DONE,
    ONCE_DUE,
    ONCE_NONE,
    ONCE_STARTED,
    Event,
    Once,
    OnceState,
    Task,
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
    "End",
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
