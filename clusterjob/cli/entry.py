"""Where the command line begins, before its modules are loaded."""

from __future__ import annotations

import gc
import sys

# objects made before the collector looks for cycles: it is costly in lists of very many jobs
_GC_THRESHOLD = 50_000


def main() -> None:
    """Run the command line; errors are one message, never a traceback."""
    gc.set_threshold(_GC_THRESHOLD)
    try:
        from clusterjob.cli.group import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:  # while modules are loaded, or at the very end
        sys.exit(130)
