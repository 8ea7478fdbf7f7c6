"""The notebooks run from top to bottom, and again in a new kernel without submitting anything."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(
    path: Path, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("matplotlib")
    # the Python that runs the tests, whatever kernels the user has
    kernels = tmp_path / "kernels" / "python3"
    kernels.mkdir(parents=True)
    command = (
        f'{{"argv": ["{sys.executable}", "-m", "ipykernel_launcher", "-f", '
        '"{connection_file}"], "display_name": "Python 3", "language": "python"}'
    )
    (kernels / "kernel.json").write_text(command)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    texts = []
    for _ in range(2):
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            resources={"metadata": {"path": str(tmp_path)}},
        ).execute()
        texts.append(
            "".join(
                output.get("text", "")
                for cell in notebook.cells
                for output in cell.get("outputs", [])
            )
        )
        assert any(
            "image/png" in output.get("data", {})
            for cell in notebook.cells
            for output in cell.get("outputs", [])
        )
    assert texts[0].count("submit ") == 5
    assert texts[1].count("cached ") == 5
    assert "True 0" in texts[1]
    with sqlite3.connect(tmp_path / ".clusterjob" / "store.sqlite") as database:
        assert database.execute("SELECT count(*) FROM records").fetchone() == (6,)
    database.close()
