"""The documentation builds without a warning, and the demo shows what the README says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_documentation_builds(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            str(ROOT / "docs"),
            str(tmp_path / "html"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for page in ("tutorial", "profiles", "backends", "architecture"):
        assert (tmp_path / "html" / f"{page}.html").is_file()


def test_the_demo(spool: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "demo.py")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "2.439363" in done.stdout
    assert "the same jobs, 0 scheduler commands" in done.stdout


def test_every_key_of_the_grammar_is_documented() -> None:
    from clusterjob.backend import load

    text = (ROOT / "docs" / "backends.md").read_text()
    for section, names in load._KEYS.items():
        if section != "Variables":
            for name in names:
                word = name.removeprefix("field.")
                assert f"`{word}" in text or f"{word} =" in text, name


def test_the_first_example_of_the_readme_runs_as_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a machine of two cores."""
    readme = (ROOT / "README.md").read_text()
    example = readme.split("```python\n")[1].split("```")[0]
    Path("example.py").write_text(example)
    environment = {
        **os.environ,
        "CLUSTERJOB_SPOOL": str(tmp_path / "spool"),
        "CLUSTERJOB_SPOOL_CORES": "2",
    }
    done = subprocess.run(
        [sys.executable, "example.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if "square" in line)
    assert [line.split()[:2] for line in lines] == [
        [f"square-{T}", "COMPLETED"] for T in (10, 20, 30)
    ]
    assert {"100", "400", "900"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("functions", ["10000", "30000", "[5.0, 10.0]", "0 5000"]),
        ("from-gridengine", ["[1, 4, 9, 16, 25]", "[36, 49] [0, 0]"]),
    ],
)
def test_the_examples_about_functions_run(
    spool: Path, page: str, expected: list[str]
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    Path("page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "page.py"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert set(expected) <= set(done.stdout.splitlines())


def test_the_examples_about_many_jobs_run(tmp_path: Path) -> None:
    """All of a page, one after the other."""
    page = (ROOT / "docs" / "campaigns.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    Path("page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "page.py"],
        env={**os.environ, "CLUSTERJOB_SPOOL": str(tmp_path / "spool")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("10 1 COMPLETED")
    assert lines[0].endswith(" 10")
    assert "it's three: 9" in lines
    order = (
        "[('prepare', 'completed'), ('solve', 'completed'), ('clean', 'completed'), "
    )
    assert order + "('alarm', 'cancelled')]" in done.stdout.lower()
    assert "6 COMPLETED" in lines[-1]
    assert "'time': 900" in done.stdout
