"""The contract on HTCondor and on a newer Slurm, under a newer Python: the machine that
``tests/lab/second.sh`` makes runs this folder's tests.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .conftest import SECOND

SCRIPT = Path(__file__).parents[1] / "lab" / "second.sh"
FOLDER = Path(
    os.environ.get("CLUSTERJOB_SECOND")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-second"
)


@pytest.mark.skipif(SECOND, reason="this is the second machine")
def test_the_contract_on_the_second_machine() -> None:
    if os.geteuid() != 0 or not (FOLDER / "packages").exists():
        missing = "no second machine: tests/lab/second.sh install makes one, as root"
        if os.environ.get("CLUSTERJOB_REQUIRE_LAB"):
            pytest.fail(missing)
        pytest.skip(missing)
    tests = ["tests/unit", "tests/contract", "-k", "'not local'"]
    try:
        done = subprocess.run(
            [str(SCRIPT), "test", "-q", "-n", "4", "--dist", "loadgroup", *tests],
            capture_output=True,
            text=True,
            timeout=1800,
        )
    finally:
        subprocess.run([str(SCRIPT), "down"], check=False, timeout=30)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
