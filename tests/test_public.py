"""What a person meets who types ``import clusterjob``: names, help, types."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import clusterjob

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clusterjob"


def test_dir_lists_the_public_names() -> None:
    names = [name for name in dir(clusterjob) if not name.startswith("__")]
    assert names == sorted(clusterjob.__all__)
    assert len(clusterjob.__all__) == len(set(clusterjob.__all__))
    for name in names:
        assert getattr(clusterjob, name) is not None
    with pytest.raises(AttributeError):
        _ = clusterjob.nothing  # type: ignore[attr-defined]


def test_no_submodule_hides_behind_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(PACKAGE)])}
    assert modules.isdisjoint(clusterjob.__all__)


def test_help_is_a_page_with_an_example() -> None:
    page = pydoc.render_doc(clusterjob, renderer=pydoc.plaintext)
    assert "from clusterjob import JobScript, as_completed, submit" in page
    assert "cluster.ini" in page
    for name in ("class JobScript", "class Results", "class Session", "submit(jobs"):
        assert name in page
    for helper in ("TYPE_CHECKING", "_HOMES", "annotations ="):
        assert helper not in page


def test_the_example_of_the_page_runs(spool: Path) -> None:
    example = inspect.getdoc(clusterjob).split("::\n\n")[1].split("\n\nWithout")[0]  # type: ignore[union-attr]
    code = (
        inspect.cleandoc(example)
        .replace("./simulate -T", "echo")
        .replace('"1G"', "10")
    )
    code = code.replace("ppn=4", "ppn=1")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("COMPLETED") == 3


def _public(node: ast.AST) -> bool:
    return not getattr(node, "name", "_").startswith("_")


def _signatures() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Return the functions and methods that a user of the public names may call."""
    exported = set(clusterjob.__all__)
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if getattr(node, "name", "") not in exported:
                continue
            inner = node.body if isinstance(node, ast.ClassDef) else [node]
            for item in inner:
                if isinstance(
                    item, (ast.FunctionDef, ast.AsyncFunctionDef)
                ) and _public(item):
                    found.append((f"{path.name}:{item.lineno} {item.name}", item))
    return found


def test_no_public_function_returns_any() -> None:
    signatures = _signatures()
    assert len(signatures) > 50
    for name, function in signatures:
        returns = (
            ast.unparse(function.returns) if function.returns else "nothing said"
        )
        assert "Any" not in returns.replace("AnyStr", ""), f"{name} returns {returns}"
        assert returns != "nothing said", name


def test_public_functions_say_what_they_do() -> None:
    for name, function in _signatures():
        decorators = {ast.unparse(item) for item in function.decorator_list}
        if "overload" not in decorators:
            assert ast.get_docstring(function), name


@pytest.mark.slow
def test_a_users_program_is_checked(tmp_path: Path) -> None:
    """Attributes, resources and what comes back have types that an editor can show."""
    program = tmp_path / "program.py"
    program.write_text(
        "from clusterjob import JobScript, Results, Session, Status, plan, submit\n"
        "job = JobScript('true', 'n', time='2h', mem=100, ppn=4, options={'qos': 'x'})\n"
        "job.T = 20\n"
        "reveal_type(job.time)\n"
        "reveal_type(job.submit())\n"
        "reveal_type(job.submit(block=True))\n"
        "reveal_type(submit([job]))\n"
        "reveal_type(submit([job])[0].tail())\n"
        "reveal_type(submit([job])[0].row()['max_rss'])\n"
        "reveal_type(plan([job])[0].differences)\n"
        "reveal_type(Session('x').results(states=[Status.FAILED]))\n"
        "JobScript('true', tme='2h')\n"
        "JobScript('true', nodes=[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    lines = [line.partition("program.py:")[2] for line in done.stdout.splitlines()]
    shown = [
        line.split('"')[1].split(".")[-1] for line in lines if "Revealed" in line
    ]
    assert shown[1:5] == ["AsyncResult", "Status", "Results", "str"], done.stdout
    assert "float | None" in done.stdout.replace("Union[float, None]", "float | None")
    assert shown[-1] == "Results"
    wrong = [line for line in lines if "error" in line and "Revealed" not in line]
    assert len(wrong) == 2, done.stdout
    assert 'Unexpected keyword argument "tme"' in wrong[0]
    assert 'Argument "nodes"' in wrong[1]
