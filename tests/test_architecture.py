"""The floors of the house and the doors of its rooms.

Data flows down: a module imports only from floors below its own, and of a room (a folder) only what
its ``__init__`` says. No modules import each other in a circle, not inside a room either.
"""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from clusterjob.shell import ExitCode
from tests.style import measure

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clusterjob"
FLOORS = [
    ["errors", "status"],
    ["fields", "plain_files", "shell", "units"],
    ["backend", "store", "transport"],
    ["packing", "retry", "rows"],
    ["files", "profile", "native_script", "dumped", "selection", "terms"],
    ["engine"],
    ["keys"],
    ["waiting", "reuse", "preparing", "attempts", "job_rows", "renewing"],
    ["result", "planning"],
    ["elements"],
    ["results", "dependencies", "code"],
    ["batch", "class_defaults"],
    ["session"],
    ["script"],
    ["sweeping"],
    ["admin", "campaign", "functions"],
    ["cli"],
    ["__init__", "__main__"],
]
# they travel to other hosts as one file each: they import nothing of ours
ALONE = ["spool", "runner"]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# what reads and writes the files of a runner uses its words
FLOOR_OF["runner"] = -1


@dataclass(frozen=True)
class Import:
    """One import of ours: the module that is named, and what is taken from it."""

    module: str  # without "clusterjob."; "" for the package itself
    names: tuple[str, ...] = ()

    @property
    def room(self) -> str:
        return self.module.split(".")[0] or "__init__"


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def _room(path: Path) -> str:
    return _name(path).split(".")[0]


@cache
def _imports(path: Path) -> list[Import]:
    """Return all imports of ours, also those inside functions and for type checkers."""
    return list(_find_imports(ast.parse(path.read_text())))


def _find_imports(tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            if module == "clusterjob" or module.startswith("clusterjob."):
                names = tuple(alias.name for alias in node.names)
                yield Import(module.removeprefix("clusterjob").lstrip("."), names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "clusterjob" or alias.name.startswith("clusterjob."):
                    yield Import(alias.name.removeprefix("clusterjob").lstrip("."))


def _expanded(found: Import) -> list[str]:
    """``from clusterjob import units`` names a module, not a thing of the package's."""
    if found.module:
        return [found.module]
    return [name for name in found.names if name in FLOOR_OF] or ["__init__"]


def test_every_module_has_a_floor() -> None:
    assert {_room(path) for path in _modules()} == {*FLOOR_OF, *ALONE}


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_point_down(path: Path) -> None:
    room = _room(path)
    imported = {
        name.split(".")[0] for found in _imports(path) for name in _expanded(found)
    }
    if room in ALONE:
        assert imported == set()
        return
    below = {name for name in FLOOR_OF if FLOOR_OF[name] < FLOOR_OF[room]}
    package = {"__init__"} if room == "cli" else set()  # the version
    assert imported - {room} <= below | package


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_nobody_reaches_past_a_door(path: Path) -> None:
    for found in _imports(path):
        if found.room == _room(path) or "." not in found.module:
            continue
        raise AssertionError(
            f"{_name(path)} imports clusterjob.{found.module}, past the door"
        )


def test_a_door_says_what_may_be_used() -> None:
    for door in PACKAGE.glob("*/__init__.py"):
        tree = ast.parse(door.read_text())
        taken = {name for found in _imports(door) for name in found.names}
        listed = next(
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") == "__all__"
        )
        assert taken == set(listed), door
        modules = {path.stem for path in door.parent.glob("*.py")}
        assert not modules & taken, door


def test_what_others_use_is_offered_at_the_door() -> None:
    for path in _modules():
        for found in _imports(path):
            door = PACKAGE / found.module / "__init__.py"
            if found.module and door.is_file() and found.room != _room(path):
                offered = {name for item in _imports(door) for name in item.names}
                assert set(found.names) <= offered, f"{_name(path)}: {found}"


def test_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for path in _modules():
        name = _name(path).removesuffix(".__init__")
        targets = {module for found in _imports(path) for module in _expanded(found)}
        graph[name] = targets - {name, "__init__"}
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name in order:
            return
        for target in sorted(graph.get(name, ())):
            # a room's own door is loaded with it; what it takes from inside is no way back
            if target.split(".")[0] == name.split(".")[0] and "." not in target:
                continue
            visit(target, (*above, name))
        order.append(name)

    for name in sorted(graph):
        visit(name, ())


def test_room_to_breathe() -> None:
    assert list(measure(PACKAGE).complaints()) == []


def test_exit_codes_have_one_name() -> None:
    """The shell files give the exit codes the names that they have in Python."""
    found = {}
    for path in PACKAGE.rglob("*.sh"):
        for name, code in re.findall(
            r"^cj_exit_(\w+)=(\d+)$", path.read_text(), re.MULTILINE
        ):
            found[name.upper()] = int(code)
    assert found == {name: ExitCode[name].value for name in found}
    assert set(found) == {"NO_TEMPORARY_FOLDER", "FOLDER_UNUSABLE", "LOCKED"}


def test_the_package_data_holds_every_file() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = config["options"]["packages"].split()
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in PACKAGE.rglob("*.py")
    }
    assert set(packages) == folders | {"clusterjob.backends"}
    data = config["options.package_data"]
    for path in (ROOT / "backends").glob("*/*"):
        patterns = data["clusterjob.backends"].split()
        assert any(path.match(pattern) for pattern in patterns), path
    assert not list((ROOT / "backends").rglob("*.py"))
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".sh", ".j2", ".typed"):
            package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            assert any(path.match(pattern) for pattern in data[package].split()), path
