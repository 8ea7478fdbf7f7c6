"""How a batch gets to its scheduler, and what became of it."""

from clusterjob.engine.bundles import element_id, note_id, pack_id, why_alone
from clusterjob.engine.cluster import Cluster
from clusterjob.engine.conflicts import find_conflicts, tell_shared
from clusterjob.engine.defaults import default_engines
from clusterjob.engine.engine import Batch, Engine
from clusterjob.engine.job_files import RUNS, new_batch, render_by_hand, render_record
from clusterjob.engine.lease import (
    BEAT,
    LEASE,
    heartbeats,
    is_abandoned,
    is_gone,
    process_name,
)
from clusterjob.engine.neighbours import (
    Neighbour,
    Neighbours,
    places_of,
    sweeps_apart,
)
from clusterjob.engine.recovery import find_submissions
from clusterjob.engine.replies import Receipt
from clusterjob.engine.scheduler import Scheduler

__all__ = [
    "BEAT",
    "LEASE",
    "RUNS",
    "Batch",
    "Cluster",
    "Engine",
    "Neighbour",
    "Neighbours",
    "Receipt",
    "Scheduler",
    "default_engines",
    "element_id",
    "find_conflicts",
    "find_submissions",
    "heartbeats",
    "is_abandoned",
    "is_gone",
    "new_batch",
    "note_id",
    "pack_id",
    "places_of",
    "process_name",
    "render_by_hand",
    "render_record",
    "sweeps_apart",
    "tell_shared",
    "why_alone",
]
