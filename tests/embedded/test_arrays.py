"""Arrays whose elements have parameters of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterjob import ArrayElement, JobScript, Results, SettingsError, Status

ODD = ["a b", "it's", "$HOME `id`", "two\nlines", "", "ünï"]


def test_each_element_has_its_parameters() -> None:
    job = JobScript(
        'printf \'%s|%s|%s\\n\' $CLUSTERJOB_ARRAY_INDEX "$T" "$x"', "rows"
    )
    result = job.submit_array(
        [{"T": number, "x": text} for number, text in enumerate(ODD)], max_running=2
    )
    assert result.wait(30)
    assert result.status == Status.COMPLETED, result.explain()
    for number, text in enumerate(ODD):
        assert result.stdout(number + 1) == f"{number + 1}|{number}|{text}\n"
    again = job.submit_array(
        [{"T": number, "x": text} for number, text in enumerate(ODD)], max_running=5
    )
    assert again == result
    rows = Results([result]).table()
    assert [row["T"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row["array_index"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1]["stdout"] == result.log_path(index=2)


def test_only_elements_that_failed_run_again_under_one_handle() -> None:
    job = JobScript("echo $T >> ran; [ $T != 2 ] || [ -e repaired ]", "part")
    rows = [{"T": number} for number in (1, 2, 3)]
    first = job.submit_array(rows)
    assert first.wait(30)
    assert first.status == Status.FAILED
    Path("repaired").touch()
    second = job.submit_array(rows)
    assert second.wait(30)
    assert second.status == Status.COMPLETED
    assert sorted(Path("ran").read_text().split()) == ["1", "2", "2", "3"]
    assert second.tasks is not None
    assert {task.status for task in second.tasks.values()} == {Status.COMPLETED}
    assert second.log_path(index=1) == first.log_path(index=1)
    assert second.log_path(index=2) != first.log_path(index=2)
    # what comes after it finds all its exit records
    child = JobScript("true", "child").submit(after=second)
    assert child.wait(30)
    assert child.status == Status.COMPLETED
    forced = job.submit_array(rows, force=True)
    assert forced.wait(30)
    assert len(Path("ran").read_text().split()) == 7


def test_a_table_reads_each_element() -> None:
    body = (
        "test $n = 3 && exit 2; echo $((n * n)) | tee square.$n; echo {{ unit }} >&2"
    )
    job = JobScript(body, "squares", params={"unit": "eV"})
    array = job.submit_array([{"n": n} for n in (1, 2, 3, 4)])
    array.wait(30)

    def read(element: ArrayElement) -> dict[str, object]:
        assert (element.name, element.status) == ("squares", Status.COMPLETED)
        return {
            "E": int(element.stdout()),
            "twice": 2 * int(str(element.params["n"])),
            "unit_read": element.stderr().strip(),
        }

    rows = Results([array]).table(read)
    assert [(row["n"], row["E"], row["twice"]) for row in rows] == [
        ("1", 1, 2),
        ("2", 4, 4),
        ("3", None, None),
        ("4", 16, 8),
    ]
    assert {row["unit_read"] for row in rows} == {"eV", None}
    assert [row["exit_code"] for row in rows] == [0, 0, 2, 0]


def test_the_longest_value_arrives() -> None:
    result = JobScript("echo ${#T}").submit_array([{"T": "x" * 131069}])
    assert result.wait(30)
    assert result.stdout(1) == "131069\n"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "there are none"),
        ([{}], "there are none"),
        ([{"T": 1}, {"x": 1}], "'T' is not in both elements 1 and 2"),
        ([{"a-b": 1}], "'a-b' is no name"),
        ([{"PATH": "x"}], "means something else"),
        ([{"RANDOM": 42}], "means something else"),
        ([{"LINENO": 1}], "means something else"),
        ([{"cj_x": "x"}], "means something else"),
        ([{"T": [1]}], "expected a text or a number"),
        ([5], "expected a mapping"),
        ([{"T": "x" * 131070}], "T has 131072 bytes"),
    ],
)
def test_parameters_that_cannot_be(rows: list[object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        JobScript("true").submit_array(rows)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="array of its own"):
        JobScript("true", array="1-3").submit_array([{"T": 1}])
    assert not Path(".clusterjob").exists()
