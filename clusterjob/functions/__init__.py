"""Python functions as jobs: an executor, ``map``, and processes."""

from clusterjob.functions.calling import (
    RemoteFunction,
    map,
    map_unordered,
    remote,
    starmap,
)
from clusterjob.functions.calls import CallFuture
from clusterjob.functions.executor import ClusterExecutor
from clusterjob.functions.leftovers import prune_pools
from clusterjob.functions.process import Process

__all__ = [
    "CallFuture",
    "ClusterExecutor",
    "Process",
    "RemoteFunction",
    "map",
    "map_unordered",
    "prune_pools",
    "remote",
    "starmap",
]
