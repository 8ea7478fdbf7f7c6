"""Python functions as jobs: an executor, ``map``, and processes."""

from clusterjob.functions.calls import CallFuture
from clusterjob.functions.executor import ClusterExecutor

__all__ = ["CallFuture", "ClusterExecutor"]
