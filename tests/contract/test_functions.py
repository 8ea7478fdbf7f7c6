"""Calls of functions, on every live scheduler and from afar."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterjob import CallError, ClusterExecutor, Process, Reason, Retry
from tests.contract import functions_there
from tests.contract.conftest import FAR, SECOND, SOME, Flavour
from tests.contract.test_contract import until
from tests.contract.test_requeue import requeue, rerunnable

# as a module of the user's own, which is sent along
_MODULE = Path(functions_there.__file__)
sys.path.append(str(_MODULE.parent))
there = importlib.import_module("functions_there")

pytestmark = pytest.mark.skipif(
    SECOND,
    reason="its workers have another Python than the tests of the other machine",
)
# a host without a scheduler too
WAYS = (*SOME, *(f"{name}@openssh" for name in FAR if name == "local"))
LONG = 90.0  # s that a queue may take


@pytest.fixture
def executor(cluster: Flavour) -> Iterator[Callable[..., ClusterExecutor]]:
    made: list[ClusterExecutor] = []

    def make(**settings: Any) -> ClusterExecutor:
        settings = {"max_workers": 2, "include": [_MODULE], **settings}
        made.append(ClusterExecutor(cluster.profile, **settings))
        return made[-1]

    yield make
    for one in made:
        one.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("place", WAYS, indirect=True)
def test_calls_are_made_in_jobs(executor: Callable[..., ClusterExecutor]) -> None:
    base = 7

    def closure(number: int) -> int:
        if number == 5:
            raise ValueError(f"no {number}")
        return base * number

    with executor() as pool:
        one = pool.submit(there.describe, 3)
        square, job_id, _ = one.result(LONG)
        assert square == 9
        assert job_id.split("_")[0].split("[")[0] in str(one.job_id)
        assert one.stdout() == "this is 3\n"
        assert one.stderr() == "so it is said\n"
        assert one.seconds is not None
        found = list(pool.map(closure, range(12), return_exceptions=True))
        assert [item for item in found if isinstance(item, int)] == [
            7 * number for number in range(12) if number != 5
        ]
        error = found[5]
        assert isinstance(error, ValueError)
        assert "closure" in str(error.__cause__)
    assert not list(Path.cwd().rglob(".clusterjob-calls/*")), "it is left behind"


@pytest.mark.parametrize("place", WAYS, indirect=True)
@pytest.mark.parametrize("whom", ["child", "worker"])
def test_a_call_that_kills_its_worker(
    executor: Callable[..., ClusterExecutor], whom: str
) -> None:
    """It alone fails, and the error says so; those behind it in its chunk are made."""
    with executor() as pool:
        found = list(
            pool.map(
                there.die,
                range(8),
                [whom] * 8,
                chunksize=4,
                return_exceptions=True,
                timeout=LONG,
            )
        )
    assert [item for item in found if isinstance(item, int)] == [0, 1, 2, 4, 5, 6, 7]
    error = found[3]
    assert isinstance(error, CallError)
    assert "die(3" in str(error)
    if whom == "child":
        assert error.reason is Reason.SIGNAL


@pytest.mark.parametrize("place", WAYS, indirect=True)
def test_what_may_be_tried_again(
    executor: Callable[..., ClusterExecutor], tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "tries").touch(0o666)
    (tmp_path / "tries").chmod(0o666)
    with executor(retry=Retry(times=3, signal={})) as pool:
        assert pool.submit(there.flaky, str(tmp_path)).result(LONG) == 3


@pytest.mark.parametrize("place", WAYS, indirect=True)
def test_a_process(cluster: Flavour) -> None:
    settings: Any = {"profile": cluster.profile, "include": [_MODULE]}
    good = Process(target=there.describe, args=(4,), **settings)
    bad = Process(target=sys.exit, args=(7,), **settings)
    long = Process(target=time.sleep, args=(300,), **settings)
    for process in (good, bad, long):
        process.start()
    good.join(LONG)
    assert good.exitcode == 0
    assert good.result()[0] == 16
    bad.join(LONG)
    assert bad.exitcode == 7
    assert long.is_alive()
    long.terminate()
    long.join(LONG)
    assert long.exitcode == -signal.SIGTERM, long.future.exception()


@pytest.mark.parametrize("place", ["slurm", "noacct", "sge", "pbspro"], indirect=True)
def test_a_worker_that_is_started_over(
    executor: Callable[..., ClusterExecutor], cluster: Flavour, tmp_path: Path
) -> None:
    """What it was at fails, unless it may be tried again; what it had not begun goes on."""
    retry = Retry(times=2, preempted={})
    ways: list[dict[str, Any]] = [{}, {"retry": retry}]
    for settings in ways:
        mark = tmp_path / f"begun {len(settings)}"
        options = rerunnable(cluster)
        with executor(max_workers=1, options=options, **settings) as pool:
            future = pool.submit(there.first_time_long, str(mark))
            others = [pool.submit(abs, -number) for number in range(20)]
            until(lambda mark=mark, future=future: mark.exists() and future.job_id)
            requeue(cluster, str(future.job_id))
            if cluster.family == "slurm":  # it would wait for two minutes
                time.sleep(3)
                start = [
                    "scontrol",
                    "update",
                    f"jobid={future.job_id}",
                    "starttime=now",
                ]
                subprocess.run(start, check=True)
            assert [other.result(LONG) for other in others] == list(range(20))
            if settings:
                assert future.result(LONG) == "again"
            else:
                error = future.exception(LONG)
                assert isinstance(error, CallError)
                assert error.reason in (Reason.PREEMPTED, Reason.LOST), error


@pytest.mark.parametrize("place", ["local", "sge", "pbspro"], indirect=True)
def test_a_worker_at_its_time_limit(executor: Callable[..., ClusterExecutor]) -> None:
    with executor(time="6s") as pool:
        long = pool.submit(time.sleep, 100)
        short = pool.submit(abs, -1)
        assert short.result(LONG) == 1
        error = long.exception(LONG)
        assert isinstance(error, CallError)
        assert error.reason is Reason.TIMEOUT
        assert "More time" in str(error)


@pytest.mark.parametrize("place", ["local", "slurm"], indirect=True)
def test_a_call_that_needs_too_much_memory(
    executor: Callable[..., ClusterExecutor],
) -> None:
    with executor(mem=200) as pool:
        large = pool.submit(there.fill, 600)
        small = pool.submit(there.fill, 1)
        assert small.result(LONG) == 1
        error = large.exception(LONG)
        assert isinstance(error, (CallError, MemoryError))
        if isinstance(error, CallError):
            assert error.reason is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "place", [name for name in WAYS if name == "slurm@ssh"], indirect=True
)
def test_many_calls_cost_the_round_trips_of_few(
    executor: Callable[..., ClusterExecutor],
) -> None:
    trips = []
    for count in (50, 5000):
        with executor(cache=False) as pool:
            transport = pool._dispatch.stations[0].site.transport
            before = transport.trips
            found = pool.map(abs, range(count), timeout=LONG)
            assert list(found) == list(range(count))
            trips.append(transport.trips - before)
    # on a busy machine the many take longer, and it is asked more often meanwhile: each look may
    # take 5 s; were it a trip for each chunk or each hundred calls, it would be 50 more
    assert trips[1] <= trips[0] + 40, trips


PROGRAM = """
import sys, time
from pathlib import Path
from clusterjob import ClusterExecutor

def note(number, folder):
    with open(f"{folder}/{number}", "a") as file:
        file.write("x")
    time.sleep(0.3)
    return number

with ClusterExecutor(sys.argv[1], max_workers=2) as executor:
    futures = [executor.submit(note, number, sys.argv[2]) for number in range(12)]
    for future in futures:
        print(future.result(90), flush=True)
"""


@pytest.mark.parametrize("place", WAYS, indirect=True)
@pytest.mark.parametrize("after", [0.2, 1.5])
def test_a_program_that_is_killed_is_run_again(
    cluster: Flavour, tmp_path: Path, after: float
) -> None:
    """Each call is made once, and told once a program."""
    folder = tmp_path / "notes"
    folder.mkdir()
    folder.chmod(0o777)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(cluster.profile), str(folder)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(after + 0.6)
    first.kill()
    first.communicate()
    second = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert second.stdout.split() == [str(number) for number in range(12)], (
        second.stderr
    )
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        str(number): "x" for number in range(12)
    }
