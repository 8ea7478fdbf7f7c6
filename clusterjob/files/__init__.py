"""Inputs, outputs and logs: what is meant, and how it goes there and comes back."""

from clusterjob.files.archive import ArchiveWriter
from clusterjob.files.downloading import download
from clusterjob.files.listing import Order, RemoteFile, list_files
from clusterjob.files.logs import (
    LogFollower,
    Stream,
    attempt_log_path,
    count_elements,
    explain,
    log_folders,
    log_path,
    log_path_of_listed,
    lost_logs,
    read_log,
    stream_log,
    summarize,
)
from clusterjob.files.outgoing import Upload, encode
from clusterjob.files.patterns import (
    Files,
    check_inside,
    expand_inputs,
    has_changed,
    parse_files,
    parse_outputs,
)
from clusterjob.files.programs import digest_script, programs_in, read_digests
from clusterjob.files.progress import Count
from clusterjob.files.uploading import upload

__all__ = [
    "ArchiveWriter",
    "Count",
    "Files",
    "LogFollower",
    "Order",
    "RemoteFile",
    "Stream",
    "Upload",
    "attempt_log_path",
    "check_inside",
    "count_elements",
    "digest_script",
    "download",
    "encode",
    "expand_inputs",
    "explain",
    "has_changed",
    "list_files",
    "log_folders",
    "log_path",
    "log_path_of_listed",
    "lost_logs",
    "parse_files",
    "parse_outputs",
    "programs_in",
    "read_digests",
    "read_log",
    "stream_log",
    "summarize",
    "upload",
]
