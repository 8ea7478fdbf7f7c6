"""What `import clusterjob` costs over bare Python, and what it loads."""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import report, stopwatch


def seconds(code: str) -> float:
    """Return the median of 21 runs."""
    times = []
    for _ in range(21):
        with stopwatch() as watch:
            subprocess.run([sys.executable, "-c", code], check=True)
        times.append(watch[0])
    return statistics.median(times)


report(
    "import clusterjob, over bare Python",
    (seconds("import clusterjob") - seconds("pass")) * 1000,
    "ms",
    "< 60",
)
report(
    "from clusterjob import JobScript, over bare Python",
    (seconds("from clusterjob import JobScript") - seconds("pass")) * 1000,
    "ms",
    "-",
)
code = (
    "import sys, clusterjob; print([name for name in ('paramiko', 'jinja2', 'click') if name "
    "in sys.modules])"
)
print(
    "loaded by it:",
    subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip(),
)
