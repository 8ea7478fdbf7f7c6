"""What inputs and outputs name."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterjob.errors import SettingsError
from clusterjob.files import Order, download, list_files
from clusterjob.files.patterns import (
    expand_inputs,
    local_name,
    matches,
    parse_files,
    parse_outputs,
)
from clusterjob.transport import LocalTransport


def targets(files: object) -> list[str]:
    return [target for target, _, _ in expand_inputs(files)]  # type: ignore[arg-type]


def test_inputs(tmp_path: Path) -> None:
    for name in ("a/b/c.dat", "a/d.dat", "e.dat", "[1].dat", "-x"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    (tmp_path / "away").mkdir()
    (tmp_path / "away/far.txt").write_text("far")
    Path("link").symlink_to("a")
    assert targets(["a"]) == ["a/b/c.dat", "a/d.dat"]
    assert targets(["a/"]) == ["a/b/c.dat", "a/d.dat"]
    assert targets("e.dat") == ["e.dat"]
    assert targets([Path("e.dat"), "-x", "[1].dat"]) == ["e.dat", "-x", "[1].dat"]
    assert targets(["*.dat"]) == ["[1].dat", "e.dat"]
    assert targets(["**/*.dat"]) == [
        "[1].dat",
        "a/b/c.dat",
        "a/d.dat",
        "e.dat",
        "link/b/c.dat",
        "link/d.dat",
    ]
    assert targets(["link"]) == ["link/b/c.dat", "link/d.dat"]
    assert targets([tmp_path / "away"]) == ["away/far.txt"]
    assert targets([tmp_path / "away/far.txt"]) == ["far.txt"]
    assert targets([("a", "new")]) == ["new/b/c.dat", "new/d.dat"]
    assert targets({"e.dat": "new/name", "-x": "folder/"}) == [
        "new/name",
        "folder/-x",
    ]
    assert targets([("*.dat", "all")]) == ["all/[1].dat", "all/e.dat"]
    assert targets([("../" + tmp_path.name + "/e.dat", "e")]) == ["e"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["missing"], "no such file"),
        (["no*ne"], "no such file"),
        (["../up"], "no such file"),
        ([("here", "../up")], "below the workdir"),
        ([("here", "/abs")], "below the workdir"),
        ([1], "neither a path nor a pair"),
        ([("a", "b", "c")], "neither a path nor"),
        ([""], "no name"),
        (["broken"], "not there"),
        (["round"], "is in itself"),
        (["here", ("other", "here")], "would both be"),
        (["back\\slash"], "backslash"),
        (["pipe"], "neither a file nor a folder"),
        (["new\nline"], "control characters"),
    ],
)
def test_inputs_that_cannot_be(files: object, words: str) -> None:
    Path("here").write_text("x")
    Path("other").write_text("y")
    Path("back\\slash").write_text("z")
    Path("new\nline").write_text("z")
    Path("broken").symlink_to("nowhere")
    Path("round").mkdir()
    Path("round/again").symlink_to("../round")
    os.mkfifo("pipe")
    with pytest.raises(SettingsError, match=words):
        targets(files)


def test_outputs_that_cannot_be() -> None:
    for wrong in (
        "/etc/passwd",
        "../x",
        "a/../../b",
        ".",
        "new\nline",
        ("x", "../y"),
        ("x", "/y"),
    ):
        with pytest.raises(SettingsError, match="below the workdir"):
            parse_outputs([wrong])
    assert parse_outputs(["..a", "a/../b"]) == (("..a", ""), ("b", ""))
    assert parse_files({"a": "b"}, "output") == [("a", "b")]


@pytest.mark.parametrize(
    ("pattern", "path", "is_meant"),
    [
        ("*.dat", "a.dat", True),
        ("*.dat", ".a.dat", False),
        (".*", ".a.dat", True),
        ("?a", ".a", False),
        ("a**/b", "ac/b", True),
        ("*.dat", "b/a.dat", False),
        ("a/*", "a/b/c", True),
        ("a", "a/b", True),
        ("a", "ab", False),
        ("?.txt", "é.txt", True),
        ("[ab]?", "b1", True),
        ("[!ab]1", "c1", True),
        ("[!ab]1", "a1", False),
        ("**/x", "x", True),
        ("**/x", "a/b/x", True),
        ("**", "a/b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/c/d/b", True),
        ("a/**/b", "c/b", False),
        ("**/x", "a/.hidden/x", False),
        ("**", "a/.b", False),
        ("a/**/*", "a/b/.c", False),
        ("**/d", "a/d/.x", True),
        ("a/*", "a/b/.c", True),
        ("a+(b)", "a+(b)", True),
        ("[", "[", True),
        ("a[b", "a[b", True),
    ],
)
def test_patterns(pattern: str, path: str, is_meant: bool) -> None:
    assert matches(pattern, path) is is_meant


@pytest.mark.parametrize(
    ("pattern", "name", "path", "local"),
    [
        ("x", "", "x", "x"),
        ("d", "", "d/e/f", "d/e/f"),
        ("x", "y", "x", "y"),
        ("x", "y/", "x", "y/x"),
        ("d", "n", "d/e/f", "n/e/f"),
        ("d/*.t", "n", "d/a.t", "n/a.t"),
        ("d/**", "n", "d/e/f", "n/e/f"),
        ("**/f", "n/", "d/e/f", "n/d/e/f"),
    ],
)
def test_new_names(pattern: str, name: str, path: str, local: str) -> None:
    assert local_name(pattern, name, path) == local


NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/\\"),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=5),
    st.data(),
)
def test_files_of_any_name_come_back(
    tmp_path: Path, names: list[list[str]], data: st.DataObject
) -> None:
    """Whatever the names: what is named by itself, and what a pattern finds, arrives under its
    name, and nothing is executed.
    """
    root = tmp_path / uuid.uuid4().hex
    made = {}
    for parts in names:
        path = root / "far" / Path(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(20))
        except OSError:
            continue  # a name that is a folder's already
        made[str(path.relative_to(root / "far"))] = path.read_bytes()
    one = data.draw(st.sampled_from(sorted(made))) if made else None
    if one is None:
        return
    order = Order(str(root / "far"), parse_outputs(["**"]), root / "near")
    download(LocalTransport(), [order])
    shown = {
        name: content
        for name, content in made.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }
    assert {
        str(path.relative_to(root / "near")): path.read_bytes()
        for path in order.paths
    } == shown
    if not any(character in one for character in "*?["):
        single = Order(
            str(root / "far"), parse_outputs([(one, "single")]), root / "near"
        )
        download(LocalTransport(), [single])
        assert (root / "near/single").read_bytes() == made[one]


def test_a_file_here_that_is_the_same_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/x").write_text("same")
    order = Order(str(tmp_path / "far"), parse_outputs(["x"]), tmp_path / "near")
    download(LocalTransport(), [order])
    monkeypatch.setattr(LocalTransport, "stream", None)
    download(LocalTransport(), [order])
    assert order.paths == [tmp_path / "near/x"]
    assert list_files(LocalTransport(), [order])[0][0][0].size == 4


def test_outputs_in_place_stay_in_place(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("same")
    before = (tmp_path / "x").stat().st_ino
    order = Order(str(tmp_path), parse_outputs(["x"]), tmp_path)
    download(LocalTransport(), [order])
    assert (tmp_path / "x").stat().st_ino == before


def test_a_file_that_cannot_come_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    for name in ("blocked", "good", "changing", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "small").write_text(name)
        (tmp_path / name / "large").write_bytes(name.encode() * (2 << 20))
        orders.append(
            Order(
                str(tmp_path / name),
                parse_outputs([("small", "d/small"), ("large", "d/large")]),
                tmp_path / f"near-{name}",
            )
        )
    (tmp_path / "near-blocked").mkdir()
    (tmp_path / "near-blocked/d").write_text("a file where a folder should be")
    stream = LocalTransport.stream

    def change(
        self: LocalTransport, script: str, sink: Any, timeout: float | None = None
    ) -> Any:
        with (tmp_path / "changing/small").open("a") as file:
            file.write("!")
        (tmp_path / "gone/small").unlink(missing_ok=True)
        return stream(self, script, sink, timeout)

    monkeypatch.setattr(
        sys.modules["clusterjob.files.downloading"], "_WAITS", (0.01,)
    )
    monkeypatch.setattr(LocalTransport, "stream", change)
    download(LocalTransport(), orders)
    assert "cannot be written" in orders[0].error
    assert [path.read_bytes()[:4] for path in orders[1].paths] == [b"good"] * 2
    assert orders[1].error == ""
    assert "changes while it is fetched" in orders[2].error
    assert (tmp_path / "near-changing/d/large").stat().st_size == 8 * (2 << 20)
    assert "gone/small" in orders[3].error or orders[3].missing == ["small"]


def test_a_large_file_goes_on_and_a_wrong_beginning_is_noticed(
    tmp_path: Path,
) -> None:
    content = os.urandom(9 << 20)
    (tmp_path / "far").mkdir()
    (tmp_path / "far/x").write_bytes(content)
    digest = subprocess.run(
        ["sha256sum", str(tmp_path / "far/x")], capture_output=True, text=True
    ).stdout.split()[0]
    (tmp_path / "near").mkdir()
    for begun in (content[: 5 << 20], b"wrong" * (1 << 20), content + b"longer"):
        (tmp_path / "near/x").unlink(missing_ok=True)
        (tmp_path / f"near/.clusterjob-part-{digest[:16]}").write_bytes(begun)
        order = Order(str(tmp_path / "far"), parse_outputs(["x"]), tmp_path / "near")
        download(LocalTransport(), [order])
        assert (tmp_path / "near/x").read_bytes() == content
        assert os.listdir(tmp_path / "near") == ["x"]
