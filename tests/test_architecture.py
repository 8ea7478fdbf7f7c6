"""The floors of the house: data flows down, and a module imports only from floors below its own."""

from __future__ import annotations

import ast
import configparser
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clusterjob"
FLOORS = [
    ["errors", "status"],
    ["inifile", "units"],
    ["backend", "settings", "store", "transport"],
    ["answers", "lease", "render", "shell", "staging"],
    ["fetch", "scheduler", "verdict"],
    ["logs", "monitor", "submission"],
    ["ending"],
    ["result"],
    ["script", "plan"],
    ["care", "conformance", "reach"],
    ["cli"],
    ["__main__", "__init__"],
]
# spool.py travels to other hosts as one file: it imports nothing of ours, and is as long as a
# scheduler must be
ALONE = ["spool"]
MOST_LINES, MOST_FUNCTION = 400, 60


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clusterjob."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("clusterjob.")
            }
    return found


def test_every_module_has_a_floor() -> None:
    assert {_room(path) for path in _modules()} == {
        room for floor in FLOORS for room in floor
    } | set(ALONE)


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    if room in ALONE:
        assert not _imports(path)
        return
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    below = {name for rooms in FLOORS[:floor] for name in rooms} | {room}
    lazy = {("script", "plan")}  # the plan of a submission is made where it is asked for
    assert {name for name in _imports(path) if (room, name) not in lazy} <= below


def test_rooms_are_not_crowded() -> None:
    for path in _modules():
        if _room(path) not in ALONE:
            assert len(path.read_text().splitlines()) <= MOST_LINES, path


def test_functions_are_short() -> None:
    lengths = {}
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths[f"{path.name}:{node.name}"] = (node.end_lineno or 0) - node.lineno + 1
    sizes = sorted(lengths.values())
    assert statistics.median(sizes) <= 10
    assert sizes[int(len(sizes) * 0.9)] <= 35
    assert {name: size for name, size in lengths.items() if size > MOST_FUNCTION} == {}


def test_the_package_data_holds_every_backend_file() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = config["options"]["packages"].split()
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in PACKAGE.rglob("*.py")
    }
    assert set(packages) == folders | {"clusterjob.backends"}
    patterns = config["options.package_data"]["clusterjob.backends"].split()
    for path in (ROOT / "backends").glob("*/*"):
        assert any(path.match(pattern) for pattern in patterns), path
    assert not list((ROOT / "backends").rglob("*.py"))
