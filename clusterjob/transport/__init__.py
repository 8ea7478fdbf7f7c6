"""How commands and bytes reach the machine where the scheduler's commands are.

A transport runs scripts and moves bytes. How files go up and come back stands above it, in
:mod:`clusterjob.files`.
"""

from clusterjob.transport.base import Completed, Hooks, Sink, Transport
from clusterjob.transport.connections import Connections
from clusterjob.transport.host_state import KnownHost, list_hosts, make_state_folder
from clusterjob.transport.local import LocalTransport
from clusterjob.transport.recording import RecordingTransport, ReplayTransport
from clusterjob.transport.remote import RemoteTransport

__all__ = [
    "Completed",
    "Connections",
    "Hooks",
    "KnownHost",
    "LocalTransport",
    "RecordingTransport",
    "RemoteTransport",
    "ReplayTransport",
    "Sink",
    "Transport",
    "list_hosts",
    "make_state_folder",
]
