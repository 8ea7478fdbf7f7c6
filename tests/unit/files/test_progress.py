"""What takes long says how far it is."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from clusterjob.files import Upload, progress
from clusterjob.files.archive import ArchiveWriter
from clusterjob.files.send import _gather, _Item, _mode
from clusterjob.transport import Hooks


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Progress("host", 10_000_000, Hooks()) as shown:
        shown.add(1_000_000)
        assert screen.getvalue() == ""  # short things say nothing
        clock[0] = 4.0
        shown.add(3_000_000)
        assert "\rhost: 4.0 of 10.0 MB, 1.0 MB/s" in screen.getvalue()
        shown.add(1)
        assert screen.getvalue().count("host") == 1  # and not at every block
    assert screen.getvalue().endswith(" \r")


def test_no_line_in_a_file_and_a_function_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    clock, seen = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Progress("host", 10, Hooks()) as shown:
        clock[0] = 3.0
        shown.add(1)
        assert screen.getvalue() == ""
    hooks = Hooks(on_progress=lambda *news: seen.append(news))
    with progress.Progress("host", 10, hooks) as shown:
        clock[0] = 6.0
        shown.add(3)
    assert seen == [("host", 3, 10)]


def test_an_archive_is_what_tar_reads(tmp_path: Path) -> None:
    """Members that shrink and members that do not, long names, and what comes twice."""
    import os
    import subprocess

    contents = {
        "a": b"x" * 100_000,
        "b" * 150: os.urandom(50_000),
        "dir/c ü": b"",
        "dir/-d": os.urandom(3),
        "e": b"y" * 70_000,
    }
    files = []
    for number, (name, content) in enumerate(contents.items()):
        (tmp_path / str(number)).write_bytes(content)
        files.append(
            Upload(f"/base/{name}", tmp_path / str(number), digest=str(number))
        )
    files.append(Upload("/base/script", "echo ü\n", executable=True))
    items = _gather([*files, Upload("/base/again", tmp_path / "0", digest="0")])
    assert [len(item.copies) for item in items] == [1, 0, 0, 0, 0, 0]
    writer = ArchiveWriter()
    data = b""
    for item in items:
        name = item.file.path.removeprefix("/base/")
        data += b"".join(
            writer.add(name, item.file.content, item.size, _mode(item.file))
        )
    data += b"".join(writer.finish())
    assert len(data) < 60_000
    (tmp_path / "there").mkdir()
    subprocess.run(
        ["sh", "-c", "gzip -dc | tar -xpof -"],
        input=data,
        cwd=tmp_path / "there",
        check=True,
    )
    assert {
        name: (tmp_path / "there" / name).read_bytes() for name in contents
    } == contents
    assert (tmp_path / "there/script").read_text() == "echo ü\n"
    assert os.access(tmp_path / "there/script", os.X_OK)
    assert _Item(files[0], 0).part == ".clusterjob-part-0"
