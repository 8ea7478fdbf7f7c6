"""The standard library's own tests of executors, those that are true of any executor."""

from __future__ import annotations

import importlib
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clusterjob import ClusterExecutor

# Debian has them in a package of their own, libpython3.N-testsuite
_FOLDERS = (
    sysconfig.get_path("stdlib"),
    "/usr/lib/python{}.{}".format(*sys.version_info),
)
_NAME = "executors_of_the_library"
TESTS = {
    "WaitTests": (
        "test_20369",
        "test_first_exception_one_already_failed",
        "test_all_completed",
        "test_timeout",
        "test_first_completed",
        "test_first_exception",
    ),
    "AsCompletedTests": (
        "test_no_timeout",
        "test_zero_timeout",
        "test_duplicate_futures",
        "test_free_reference_yielded_future",
        "test_correct_timeout_exception_msg",
    ),
    "ExecutorTest": (
        "test_submit",
        "test_submit_keyword",
        "test_map",
        "test_map_exception",
        "test_map_timeout",
        "test_shutdown_race_issue12456",
        "test_no_stale_references",
        "test_max_workers_negative",
        "test_free_reference",
    ),
    "ExecutorShutdownTest": (
        "test_run_after_shutdown",
        "test_hang_issue12364",
    ),
    # of processes
    "ProcessPoolExecutorTest": ("test_map_chunksize",),
    "ExecutorDeadlockTest": (
        "test_error_at_task_pickle",
        "test_error_during_func_exec_on_worker",
    ),
}


class Anonymous(ClusterExecutor):
    """Its calls are made anew each time, as those of any other executor."""

    def __init__(self, max_workers: int | None = None, **settings: Any) -> None:
        settings.pop("mp_context", None)
        super().__init__(max_workers=max_workers, cache=False, **settings)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tests as a module that workers can import, too."""
    found = [
        path
        for folder in _FOLDERS
        if (path := Path(folder, "test", "test_concurrent_futures.py")).is_file()
    ]
    if not found:
        pytest.skip("the standard library's tests are not installed here")
    shutil.copyfile(found[0], tmp_path / f"{_NAME}.py")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(_NAME)
    sys.modules.pop(_NAME, None)


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group, names in TESTS.items() for name in names],
)
def test_of_the_library(
    library: ModuleType, spool: Path, group: str, name: str
) -> None:
    members = {"executor_type": Anonymous, "ctx": "spawn"}
    bases = (library.ExecutorMixin, getattr(library, group), library.BaseTestCase)
    case = type("Case", bases, members)(name)
    result = case.run()
    problems = [text for _, text in (*result.errors, *result.failures)]
    assert not problems, "\n".join(problems)
    assert not result.skipped
    assert result.testsRun == 1
