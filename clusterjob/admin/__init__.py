"""Looking after stores, profiles and hosts."""

from clusterjob.admin.check import Check, run_checks
from clusterjob.admin.doctor import Finding, examine
from clusterjob.admin.hosts import HostReport, connect, survey, transport_of
from clusterjob.admin.pruning import Removed, prune
from clusterjob.admin.transfer import copy_records

__all__ = [
    "Check",
    "Finding",
    "HostReport",
    "Removed",
    "connect",
    "copy_records",
    "examine",
    "prune",
    "run_checks",
    "survey",
    "transport_of",
]
