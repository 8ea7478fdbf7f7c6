"""Shell text: files of it, quoting, and replies that can be told from what else a host prints."""

from clusterjob.shell.replies import new_mark, run_marked, split_reply, start_replies
from clusterjob.shell.text import (
    ExitCode,
    in_portions,
    lines_of,
    load_shell,
    quote,
    quote_all,
)

__all__ = [
    "ExitCode",
    "in_portions",
    "lines_of",
    "load_shell",
    "new_mark",
    "quote",
    "quote_all",
    "run_marked",
    "split_reply",
    "start_replies",
]
