"""Prologues and epilogues: scripts of a job that run here, in the folder it was submitted from."""

from __future__ import annotations

import logging
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

from clusterjob.errors import SubmissionError
from clusterjob.store import (
    ONCE_DONE,
    ONCE_DUE,
    ONCE_STARTED,
    Once,
    OnceState,
    Record,
    Store,
)

_log = logging.getLogger(__name__)


class WrongMachineError(SubmissionError):
    """A prologue belongs to another machine."""


def run_local_script(record: Record, which: Literal["prologue", "epilogue"]) -> None:
    """Run a job's prologue or epilogue. Raises :class:`SubmissionError`."""
    text = record.spec.prologue if which == "prologue" else record.spec.epilogue
    if not text:
        return
    if not text.startswith("#!"):
        text = f"#!{record.spec.shell}\n{text}"
    with tempfile.TemporaryDirectory(prefix="clusterjob-") as folder:
        script = Path(folder) / which
        script.write_text(text, encoding="utf-8")
        script.chmod(0o700)
        try:
            done = subprocess.run(
                [str(script)],
                cwd=record.spec.cwd or None,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
        except OSError as error:
            raise SubmissionError(
                f"the {which} of {record.name!r} cannot be run: {error}"
            ) from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).strip()
        raise SubmissionError(
            f"the {which} of {record.name!r} ended with exit code {done.returncode}:\n{output}"
        )


def run_prologue(store: Store, record: Record) -> None:
    """Run a job's prologue, if it has one that did not run to its end.

    Raises :class:`SubmissionError`.
    """
    if record.prologue.state not in (OnceState.DUE, OnceState.STARTED):
        return
    folder = record.spec.cwd or "."
    if not os.path.isdir(folder):
        raise WrongMachineError(
            f"the prologue of {record.name!r} runs in {folder}, which is not on this machine: "
            "run the notebook or script again there"
        )
    store.begin(record, "prologue")
    run_local_script(record, "prologue")
    store.update([record], lambda stored: setattr(stored, "prologue", ONCE_DONE))


def run_epilogue(store: Store, record: Record) -> None:
    """Run an epilogue unless somebody has begun it already.

    What goes wrong is kept in the record, and does not change the state.
    """
    if not store.begin(record, "epilogue"):
        store.refresh([record])
        if record.epilogue is ONCE_DUE:  # the record was deleted
            record.epilogue = ONCE_STARTED
        return
    outcome = ONCE_DONE
    try:
        run_local_script(record, "epilogue")
    except SubmissionError as error:
        outcome = Once.failed(str(error))
        _log.warning("%s", error)
    store.update([record], lambda stored: setattr(stored, "epilogue", outcome))
