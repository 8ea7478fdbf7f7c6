"""Conversations that `clusterjob check --record` wrote down with real schedulers, played back: the
same commands, the same verdicts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterjob.admin import run_checks
from clusterjob.errors import TransportError
from clusterjob.script import default_session
from clusterjob.transport import Connections, RecordingTransport, ReplayTransport

RECORDINGS = Path(__file__).parents[2] / "recordings"


@pytest.mark.parametrize(
    ("backend", "folder", "limit", "count", "command"),
    [
        ("slurm", "slurm-22.05.8", False, 11, "sbatch --parsable"),
        ("htcondor", "htcondor-23.9.6", True, 13, "condor_submit -terse"),
    ],
)
def test_a_recorded_session(
    backend: str,
    folder: str,
    limit: bool,
    count: int,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("clusterjob.admin.check._PATIENCE", 5.0)
    Path("profile.ini").write_text(
        f"[Attributes]\nbackend = {backend}\n[Limits]\nfirst_poll = 0.01\npoll_interval = 0.02\n"
    )
    replay = ReplayTransport(RECORDINGS / folder / "check.json")
    monkeypatch.setattr(Connections, "open", lambda *_: replay)
    checks = list(
        run_checks(default_session(), "profile.ini", time_limit=limit, files=False)
    )
    assert [(check.name, check.detail) for check in checks if not check.ok] == []
    assert len(checks) == count
    assert replay.turns == []
    assert sum(command in script for script in replay.asked) == 3 if limit else 2
    with pytest.raises(TransportError, match="conversation is over"):
        replay.run("true")


def test_a_recording_holds_what_was_said(tmp_path: Path) -> None:
    recorder = RecordingTransport(
        ReplayTransport(RECORDINGS / "slurm-22.05.8" / "check.json")
    )
    first = recorder.run("sbatch --version")
    recorder.save("again.json")
    assert ReplayTransport("again.json").run("sbatch --version") == first
    assert first.stdout.startswith("slurm")
