"""Several Python processes at once, as of people who run one script twice."""

from __future__ import annotations

import subprocess
import sys

PATIENCE = 180  # s


def outputs_of_three(program: str) -> list[str]:
    """Run a program in three processes at the same time; return what each printed.

    Each must end well.
    """
    command = [sys.executable, "-c", program]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    outputs = []
    for process in processes:
        output, complaints = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, complaints
        outputs.append(output)
    return outputs
