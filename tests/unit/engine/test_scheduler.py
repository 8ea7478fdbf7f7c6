"""Every backend's commands, where the scheduler's programs fail: whichever of them does, there is
no answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterjob.backend import list_backends, load_backend
from clusterjob.engine import Scheduler
from clusterjob.engine.scripts import Ticket
from clusterjob.errors import CommandError
from clusterjob.transport import LocalTransport

# counts its calls; the one whose number is in `fail` fails, the others print an id, or an empty
# list
PROGRAM = """#!/bin/sh
echo x >>{folder}/calls
if [ "$(grep -c x {folder}/calls)" = "$(cat {folder}/fail)" ]; then
    echo 'cannot connect to server' >&2; exit 1
fi
echo '{says}'
"""
NAMES = re.compile(
    r"(?<![\w-])(?:q(?:sub|stat|select|del|acct)|lq\w+|sbatch|squeue|sacct|scancel|bsub|bjobs|bkill|condor_\w+|flux)(?![\w-])"
)
QUESTIONS: dict[str, Callable[[Scheduler], bool]] = {
    "active": lambda scheduler: scheduler.active().asked,
    "finished": lambda scheduler: (
        scheduler.ended({}, {None: ["7"]}, age=60).history.asked
    ),
    "find": lambda scheduler: _raises_nothing(
        lambda: scheduler.find({str(Path.cwd()): ["0123456789abcdef"]})
    ),
    "cancel": lambda scheduler: _raises_nothing(
        lambda: scheduler.cancel({None: ["7"]})
    ),
    "version": lambda scheduler: _raises_nothing(scheduler.version),
    "submit": lambda scheduler: _submitted(scheduler),
}


def _raises_nothing(call: Callable[[], object]) -> bool:
    try:
        call()
    except CommandError:
        return False
    return True


def _submitted(scheduler: Scheduler) -> bool:
    Path("script").write_text("#CONDOR queue\n")
    Path("receipts").unlink(missing_ok=True)
    token = "0123456789abcdef"
    ticket = Ticket(token, str(Path.cwd()), str(Path.cwd()), "script")
    return scheduler.submit([ticket]).receipts[token].exit_code == 0


def test_a_list_that_cannot_be_read_is_no_answer() -> None:
    backend = load_backend("htcondor", {"Commands": {"find": "echo '[{\"Clus'"}})
    assert not QUESTIONS["find"](Scheduler(backend, LocalTransport()))


def _commands() -> list[tuple[str, str]]:
    names = sorted(set(list_backends()) - {"local"})
    return [
        (name, question)
        for name in names
        for question in QUESTIONS
        if getattr(load_backend(name).commands, question)
    ]


@pytest.mark.parametrize(("name", "question"), _commands())
def test_a_program_that_fails_is_no_answer(
    name: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = load_backend(name)
    programs = set(NAMES.findall(getattr(backend.commands, question)))
    output = getattr(backend.outputs, question, None)
    says = (
        "7"
        if output is None or output.format != "json"
        else '{"RECORDS": []}'
        if output.jobs
        else "[]"
    )
    assert programs
    folder = Path("programs").resolve()
    folder.mkdir()
    for program in programs:
        (folder / program).write_text(PROGRAM.format(folder=folder, says=says))
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    (folder / "fail").write_text("0")
    assert QUESTIONS[question](Scheduler(backend, LocalTransport()))
    calls = (folder / "calls").read_text().count("x")
    for number in range(1, calls + 1):
        (folder / "calls").write_text("")
        (folder / "fail").write_text(str(number))
        assert not QUESTIONS[question](Scheduler(backend, LocalTransport())), (
            f"call {number} of {calls} failed"
        )
