"""Wheel, sdist and editable install all find the backends; importing the package loads little."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "backends").glob("*/*")
)
CODE = (
    "import clusterjob.backend as b; print(sorted(b.list_backends())); "
    "print(b.load_backend('slurm').template[:9]); print(b.__file__)"
)


pytestmark = pytest.mark.xdist_group("package")  # built once


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip(
            "not a git checkout: which files belong to the project is not known"
        )
    for name in filter(None, listed.stdout.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "-q",
            "--outdir",
            str(folder / "dist"),
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_and_the_sdist_hold_the_backends(built: Path) -> None:
    names = set(zipfile.ZipFile(next((built / "dist").glob("*.whl"))).namelist())
    assert {f"clusterjob/{name}" for name in FILES} <= names
    assert {
        "clusterjob/py.typed",
        "clusterjob/backend/job.sh.j2",
        "clusterjob/engine/submit.sh",
        "clusterjob/spool.py",
    } <= names
    with tarfile.open(next((built / "dist").glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert (
        set(FILES)
        | {
            "LICENSE",
            "README.md",
            "docs/architecture.md",
            "tests/lab/lab.sh",
            "benchmarks/slurm.py",
        }
        <= packed
    )


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_every_way_of_installing_finds_the_backends(
    built: Path, tmp_path: Path, kind: str
) -> None:
    venv.create(tmp_path / "venv", with_pip=False, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    what = {
        "wheel": next((built / "dist").glob("*.whl")),
        "sdist": next((built / "dist").glob("*.tar.gz")),
        "editable": built / "source",
    }[kind]
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "-q",
        "--no-deps",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*install, *(["-e"] if kind == "editable" else []), str(what)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }
    done = subprocess.run(
        [str(python), "-c", CODE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    found, template, where = done.stdout.splitlines()
    assert found == str(sorted({Path(name).parent.name for name in FILES}))
    assert template == "#!/bin/sh"
    assert where.startswith(
        str(built / "source") if kind == "editable" else str(tmp_path)
    )
    command = tmp_path / "venv" / "bin" / "clusterjob"
    assert command.is_file()


def test_importing_loads_little() -> None:
    code = (
        "import sys, clusterjob; print([name for name in ('paramiko', 'jinja2', 'click', "
        "'sqlite3') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
