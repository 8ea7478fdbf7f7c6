"""A conversation that `clusterjob check --record` wrote down with a real Slurm 22.05.8, played back: the same commands, the same verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterjob import JobScript
from clusterjob.conformance import run_checks
from clusterjob.errors import TransportError
from clusterjob.monitor import scheduler_for
from clusterjob.transport.recording import RecordingTransport, ReplayTransport

RECORDING = Path(__file__).parent.parent / "recordings" / "slurm-22.05.8" / "check.json"


def test_a_recorded_session_with_slurm() -> None:
    Path("slurm.ini").write_text("[Attributes]\nbackend = slurm\n[Limits]\nfirst_poll = 0.01\npoll_interval = 0.02\n")
    job = JobScript("true")
    job.read_settings("slurm.ini")
    replay = ReplayTransport(RECORDING)
    scheduler_for(job.backend_reference, replay)
    checks = list(run_checks("slurm.ini"))
    assert [(check.name, check.detail) for check in checks if not check.ok] == []
    assert len(checks) == 11
    assert replay.turns == []
    assert sum("sbatch --parsable" in script for script in replay.asked) == 2
    with pytest.raises(TransportError, match="conversation is over"):
        replay.run("true")


def test_a_recording_holds_what_was_said(tmp_path: Path) -> None:
    recorder = RecordingTransport(ReplayTransport(RECORDING))
    first = recorder.run("sbatch --version")
    recorder.save("again.json")
    assert ReplayTransport("again.json").run("sbatch --version") == first
    assert first.stdout.startswith("slurm")
