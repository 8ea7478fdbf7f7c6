"""Programs that call functions, killed again and again, and two of them at once: each call is made
once, and its result told once.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contract.conftest import FAR, SECOND, Flavour, on

from .conftest import LONG

pytestmark = pytest.mark.skipif(
    SECOND, reason="its workers have another Python than the tests"
)
CALLS = 60 if LONG else 24
KILLS = 12 if LONG else 3
# from afar one with and one without a scheduler
AFAR = [name for name in ("slurm@ssh", "local@openssh") if name.split("@")[0] in FAR]
PLACES = ("local", "slurm", "sge", "pbspro", *AFAR) if LONG else ("local", *AFAR)
PROGRAM = """
import sys, time
import clusterjob

def note(number, folder):
    with open(f"{folder}/{number}", "a") as file:
        file.write("x")
    time.sleep(0.2)
    return number

if __name__ == "__main__":
    _, profile, folder, count = sys.argv
    count = int(count)
    calls = clusterjob.map(note, range(count), [folder] * count, profile=profile, max_workers=2)
    for number in calls:
        print(number, flush=True)
"""


@pytest.fixture
def command(cluster: Flavour, tmp_path: Path) -> list[str]:
    """What makes the calls; each leaves an x in the file of its number."""
    folder = tmp_path / "notes"
    folder.mkdir()
    folder.chmod(0o777)  # on another host they are made as another user
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return [
        sys.executable,
        str(program),
        str(cluster.profile),
        str(folder),
        str(CALLS),
    ]


def made(command: list[str]) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(command[3]).iterdir()}


@on(*PLACES)
def test_a_program_that_is_killed_again_and_again(command: list[str]) -> None:
    chance = random.Random(len(command[2]))
    for _ in range(KILLS):
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        time.sleep(chance.uniform(0.3, 3.0))
        program.kill()
        program.communicate()
    last = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert last.stdout.split() == [str(number) for number in range(CALLS)], (
        last.stderr
    )
    assert made(command) == {str(number): "x" for number in range(CALLS)}


@on(*PLACES)
def test_two_programs_make_the_same_calls(command: list[str]) -> None:
    """One of them is killed: the other takes over what it had sent."""
    programs = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    time.sleep(2.0)
    programs[0].kill()
    programs[0].communicate()
    for program in programs[1:]:
        out, err = program.communicate(timeout=300)
        assert out.split() == [str(number) for number in range(CALLS)], err
    assert made(command) == {str(number): "x" for number in range(CALLS)}
