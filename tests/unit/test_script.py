"""Job scripts: what makes two the same, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterjob import JobScript, SettingsError, default_session


def key(job: JobScript) -> str:
    return job.prepare(default_session().engine).key


def test_the_contents_of_inputs_are_part_of_the_key() -> None:
    Path("in").write_text("one")
    first = key(JobScript("cat in", inputs=["in"]))
    assert key(JobScript("cat in", inputs=["in"])) == first
    Path("in").write_text("two!")
    assert key(JobScript("cat in", inputs=["in"])) != first
    assert key(JobScript("cat in", inputs=[("in", "other")])) != first


def test_where_inputs_lie_is_not() -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "in").write_text("same")
    keys = {
        key(JobScript("cat in", inputs=[(f"{folder}/in", "in")]))
        for folder in ("a", "b")
    }
    assert len(keys) == 1


@pytest.mark.parametrize("name", ["-x\n#SBATCH --wrap=evil", "-a\x07", "-tab\n"])
def test_a_control_character_in_the_name_of_an_option_is_refused(name: str) -> None:
    job = JobScript("true", backend="slurm", options={name: "value"})
    with pytest.raises(SettingsError, match="control character"):
        str(job)


def test_options_are_the_schedulers_own() -> None:
    job = JobScript(
        "true", backend="slurm", options={"constraint": "gpu", "-w": "node1"}
    )
    assert "#SBATCH --constraint=gpu\n" in str(job)
    assert "#SBATCH -w node1\n" in str(job)
    job.set_resource("exclusive", True)
    assert "#SBATCH --exclusive\n" in str(job)


def test_a_slip_in_a_keyword_is_found() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'queue'"):
        JobScript("true", quue="main")  # type: ignore[call-arg]


def test_attributes_resources_and_parameters_are_found_by_name() -> None:
    job = JobScript("{{ T }}", "n", workdir="w", time="1h", params={"T": 1})
    job.T = 2
    job.mem = "2G"
    assert (job.T, job.workdir, job.time, job.mem, job.queue) == (
        2,
        "w",
        3600,
        2048,
        None,
    )
    assert job.render_body() == "2"
    with pytest.raises(AttributeError):
        _ = job.nothing
