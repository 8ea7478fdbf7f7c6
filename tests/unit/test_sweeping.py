"""Sweeps: rows of parameters, and the names and settings of their jobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterjob import JobScript, SettingsError, sweep
from clusterjob.keys import plain_params


class Frame:
    """A data frame, as far as a sweep is concerned."""

    def to_dict(self, orient: str) -> object:
        assert orient == "records"
        return [{"T": 1}, {"T": 2}]


def rows(*args: object, **values: object) -> list[dict[str, object]]:
    job = JobScript("echo {{ T }} {{ x }}", "s", params={"x": 0})
    return [made.params for made in sweep(job, *args, **values)]  # type: ignore[arg-type]


def test_all_combinations_of_lists() -> None:
    job = JobScript("echo {{ T }} {{ x }}", "oct")
    jobs = list(sweep(job, T=[10, 20], x=[0.5, "a/b"]))
    assert [made.params for made in jobs] == [
        {"T": 10, "x": 0.5},
        {"T": 10, "x": "a/b"},
        {"T": 20, "x": 0.5},
        {"T": 20, "x": "a/b"},
    ]
    assert jobs[0].jobname == "oct_T10_x0.5"
    assert str(jobs[1].jobname).startswith("oct_T10_xa-b_")
    assert job.params == {}
    assert jobs[1].render_body() == "echo 10 a/b"


def test_other_kinds_of_rows() -> None:
    Path("p.csv").write_text(
        "T,x\n1,0.5\n007,1.50\n1_0,-1e-3\n+5,.5\n1e999,-0\nTrue,true\n"
    )
    assert rows([{"T": 1}, {"T": 2}]) == [{"x": 0, "T": 1}, {"x": 0, "T": 2}]
    assert rows("p.csv") == [
        {"x": 0.5, "T": 1},
        {"x": 1.5, "T": "007"},
        {"x": -0.001, "T": "1_0"},
        {"x": 0.5, "T": "+5"},
        {"x": 0, "T": "1e999"},
        {"x": "true", "T": True},
    ]
    assert rows(Frame(), x=[5]) == [{"x": 5, "T": 1}, {"x": 5, "T": 2}]
    assert rows(T=[1, 2], x=[3, 4], zipped=True) == [
        {"x": 3, "T": 1},
        {"x": 4, "T": 2},
    ]


def test_jobs_are_made_one_by_one() -> None:
    def endless() -> Iterator[dict[str, object]]:
        yield from ({"T": number} for number in itertools.count())

    jobs = sweep(JobScript("echo {{ T }}"), endless())
    assert [made.params["T"] for made in itertools.islice(jobs, 3)] == [0, 1, 2]


def test_attributes_and_resources_vary_too() -> None:
    job = JobScript(
        "mpirun {{ n }} {{ ppn }}",
        "mpi",
        workdir="run{{ ppn }}",
        outputs="{{ n }}.dat",
    )
    one, two = sweep(job, ppn=[1, 2], n=[7])
    assert (one.ppn, two.ppn, two.params) == (1, 2, {"n": 7})
    two.stdout = "{{ n }}.log"
    text = str(two)
    assert "--output=7.log" in text
    assert "run2" in text
    assert job.ppn is None


def test_a_row_may_name_its_job() -> None:
    for word in ("name", "jobname"):
        jobs = sweep(JobScript("true {{ T }}", "s"), [{"T": 1, word: "alpha"}])
        assert [made.jobname for made in jobs] == ["alpha"]
    # where the body uses the word, it is a parameter
    (made,) = sweep(JobScript("true {{ name }}", "s"), [{"name": "alpha"}])
    assert made.jobname == "s_namealpha"


def test_numbers_of_numpy_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    values = [np.int64(8), np.float32(0.5), np.bool_(True), np.array([1, 2])]
    assert plain_params(dict(zip("abcd", values, strict=True))) == {
        "a": 8,
        "b": 0.5,
        "c": True,
        "d": [1, 2],
    }


def test_names_of_rows_that_differ_do_too() -> None:
    texts = ["a b", "a/b", "a-b", "ä", "ö", "../x", "..-x"]
    names = {made.jobname for made in sweep(JobScript("true", "s"), text=texts)}
    assert len(names) == len(texts)


def test_long_names_end_with_a_sum() -> None:
    (made,) = sweep(JobScript("echo {{ text }}", "s"), text=["x" * 200])
    assert len(str(made.jobname)) == 80
    (other,) = sweep(JobScript("echo {{ text }}", "s"), text=["x" * 201])
    assert made.jobname != other.jobname


@pytest.mark.parametrize(
    ("args", "values", "words"),
    [
        ((), {}, "needs parameters"),
        ((), {"T": "abc"}, r"expected a list of values, \['abc'\]"),
        ((), {"T": 5}, "expected a list of values"),
        ((), {"T": []}, "no values"),
        ((), {"T": [1], "x": [1, 2], "zipped": True}, "T 1, x 2"),
        (([1, 2],), {}, "is no row"),
        ((5,), {}, "are no rows"),
        (("missing.csv",), {}, "missing.csv"),
        ((), {"params": [1]}, "params = 1: expected a mapping"),
        ((), {"resources": ["4G"]}, "resources = '4G': expected a mapping"),
    ],
)
def test_what_is_no_sweep(
    args: tuple[object, ...], values: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        rows(*args, **values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line"),
        ("T,T\n1,2\n", "first line"),
        ("a b\n1\n", "'a b'"),
        ("T\n", "no rows"),
        ("T,x\n1\n", "line 2 has 1 values"),
        ('T,x\n1,"a\n2,b\n', "line 3: .*is a quote not closed"),
    ],
)
def test_csv_files_that_are_none(text: str, words: str) -> None:
    Path("p.csv").write_text(text)
    with pytest.raises(SettingsError, match=words):
        rows("p.csv")
