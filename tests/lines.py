"""Far lines for tests and benchmarks: a proxy before the lab's sshd, and the ssh configuration that
goes through it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PORTS = {
    "slurm": 2201,
    "noacct": 2202,
    "sge": 2203,
    "bare": 2204,
    "local": 2205,
    "pbspro": 2206,
}
_PROXY = Path(__file__).parent / "lab" / "proxy.py"


@contextlib.contextmanager
def far_line(lab: Path, name: str, folder: Path, *options: object) -> Iterator[Path]:
    """Start a proxy before one of the hosts; give the ssh configuration in which ``Host far`` leads
    through it.
    """
    command = [sys.executable, str(_PROXY), str(PORTS[name]), *map(str, options)]
    proxy = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert proxy.stdout is not None
        port = int(proxy.stdout.readline())
        config = folder / f"ssh-{port}"
        config.write_text(
            f"Host far\n    Port {port}\n    HostKeyAlias [127.0.0.1]:{PORTS[name]}\nInclude "
            f"{lab}/ssh/config\n"
        )
        yield config
    finally:
        proxy.kill()
        proxy.communicate()
