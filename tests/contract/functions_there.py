"""Functions that the tests of calls have called: nothing but the standard library is there."""

import os
import signal
import sys
import time
from pathlib import Path


def describe(number: int) -> tuple:
    print("this is", number)
    print("so it is said", file=sys.stderr)
    return number * number, os.environ.get("CLUSTERJOB_ID", ""), os.getppid()


def die(number: int, whom: str) -> int:
    if number == 3:
        time.sleep(0.5)
        os.kill(os.getpid() if whom == "child" else os.getppid(), signal.SIGKILL)
        time.sleep(60)
    time.sleep(0.05)
    return number


def flaky(folder: str) -> int:
    tries = Path(folder, "tries")
    with tries.open("a") as file:
        file.write("x")
    if len(tries.read_text()) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(tries.read_text())


def first_time_long(mark: str) -> str:
    if Path(mark).exists():
        return "again"
    Path(mark).touch()
    time.sleep(100)
    return "at once"


def fill(megabytes: int) -> int:
    block = b"x" * (megabytes << 20)
    time.sleep(2)  # who watches looks now and then
    return len(block) >> 20
