"""Where the command line begins, before its modules are loaded."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors are one message, never a traceback."""
    try:
        from clusterjob.cli.group import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # while modules are loaded, or at the very end
        sys.exit(130)
