"""Job scripts: what makes two the same, and what cannot be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from clusterjob import JobScript, RenderError, SettingsError, default_session


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


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"--ntasks": 2}, {"--ntasks": 4}),
        ({"export": "ALL,SEED=1"}, {"export": "ALL,SEED=2"}),
        ({}, {"gpus": 1}),
        ({"-n": 2}, {}),
    ],
)
def test_the_schedulers_own_options_are_part_of_the_key(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    jobs = [
        JobScript("echo", "same", backend="slurm", options=given)
        for given in (first, second, first)
    ]
    keys = [key(job) for job in jobs]
    assert keys[0] == keys[2] != keys[1]


def test_who_is_told_and_when_it_runs_is_no_part_of_the_key() -> None:
    plain = key(JobScript("echo", "same", backend="slurm"))
    told = {"mail-type": "END", "--mail_user": "me@x", "qos": "low", "begin": "now"}
    assert key(JobScript("echo", "same", backend="slurm", options=told)) == plain


def test_an_input_that_was_put_back_with_its_time_is_read_again() -> None:
    for name, text in (("in", "AAA"), ("new", "BBB")):
        Path(name).write_text(text)
        os.utime(name, (1e9, 1e9))
    first = key(JobScript("cat in", inputs=["in"]))
    shutil.copyfile("new", "in")  # into the same file
    os.utime("in", (1e9, 1e9))
    assert key(JobScript("cat in", inputs=["in"])) != first


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
        "01:00:00",
        "2G",
        None,
    )
    assert job.render_body() == "2"
    with pytest.raises(AttributeError):
        _ = job.nothing


# -- what a person means ---------------------------------------------------------------------------


def test_reading_a_resource_and_setting_it_again_changes_nothing() -> None:
    job = JobScript("true", "x", backend="slurm", time=5, mem=1500)
    before = str(job)
    job.time, job.mem = job.time, job.mem
    job.resources["time"] = job.resources["time"]
    assert (job.time, job.mem) == ("00:05:00", "1500M")
    assert (
        JobScript("true", "x", backend="slurm", time=job.time, mem=job.mem).time
        == "00:05:00"
    )
    job.resources.update({"mem": job.resources["mem"]})
    assert str(job) == before
    job.resources["time"] = "00:10:00"
    assert "--time=00:10:00" in str(job)
    job.resources = {"time": "2h", "jobname": "x"}
    assert (job.time, job.mem) == ("02:00:00", None)
    with pytest.raises(SettingsError, match="not a time limit"):
        job.resources["time"] = "soon"


@pytest.mark.parametrize(
    ("word", "value", "name"),
    [
        ("walltime", "1h", "time"),
        ("h_rt", "1:00:00", "time"),
        ("partition", "gpu", "queue"),
        ("memory", "2G", "mem"),
        ("name", "n", "jobname"),
        ("output", "o", "stdout"),
        ("error", "e", "stderr"),
        ("cpus_per_task", 3, "threads"),
        ("cpus-per-task", 3, "threads"),
        ("ntasks_per_node", 3, "ppn"),
    ],
)
def test_other_words_for_common_resources(word: str, value: Any, name: str) -> None:
    made = JobScript("true", backend="slurm", options={name: value})
    loose: Any = JobScript
    for job in (
        JobScript("true", backend="slurm", options={word: value}),
        loose("true", backend="slurm", **{word: value}),
    ):
        assert job.resources == made.resources
        assert job.resources[word] == job.resources[name]
    late = JobScript("true", backend="slurm")
    setattr(late, word, value)
    assert late.resources == made.resources
    Path("p.ini").write_text(
        f"[Attributes]\nbackend = slurm\n[Resources]\n{word} = {value}\n"
    )
    read = JobScript("true")
    read.read_settings("p.ini")
    assert read.resources == made.resources


@pytest.mark.parametrize("word", ["cores", "cpus", "ntasks", "gres", "dependency"])
def test_words_that_may_mean_one_thing_or_another_are_refused(word: str) -> None:
    with pytest.raises(
        SettingsError, match=f"{word}' is not a common resource: say .*--{word}"
    ):
        JobScript("true", options={word: 4})
    Path("p.ini").write_text(f"[Resources]\n{word} = 4\n")
    with pytest.raises(SettingsError, match=r"p\.ini.*not a common resource"):
        JobScript("true").read_settings("p.ini")
    job = JobScript("true", backend="slurm", options={f"--{word}": 4})
    assert f"#SBATCH --{word}=4\n" in str(job)


def test_one_resource_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="'time' and 'walltime' are the same"):
        JobScript("true", time="1h", options={"walltime": "2h"})
    Path("p.ini").write_text("[Resources]\nqueue = a\npartition = b\n")
    with pytest.raises(
        SettingsError, match=r"p\.ini.*'queue' and 'partition' are the same"
    ):
        JobScript("true").read_settings("p.ini")
    # what is set later goes over it, whatever the word
    job = JobScript("true", time="1h")
    job.resources["walltime"] = "2h"
    assert job.time == "02:00:00"


def test_the_script_takes_no_other_files_place() -> None:
    Path("mine.sh").write_text("precious\n")
    job = JobScript("true", "x", filename="mine.sh")
    with pytest.raises(SettingsError, match="file of yours"):
        job.submit()
    assert Path("mine.sh").read_text() == "precious\n"


def test_slips_are_told() -> None:
    job = JobScript("echo {{ quene }}", "x")
    job.quene = "a parameter, which the body uses"
    assert job.params == {"quene": "a parameter, which the body uses"}
    other: Any = JobScript("true", "x")
    with pytest.raises(SettingsError, match="Did you mean 'queue'"):
        other.quene = "long"
    with pytest.raises(SettingsError, match="Did you mean 'workdir'"):
        other.worcdir = "/x"
    loose: Any = JobScript
    with pytest.raises(SettingsError, match="argument of submit"):
        loose("true", cache_id="K")
    with pytest.raises(SettingsError, match="Did you mean 'remote'"):
        loose("true", remot="me@host")


def test_parameters_that_nothing_uses_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    str(JobScript("echo {{ T }}", "unused", params={"T": 1, "temperature": 2}))
    assert "no template uses 'temperature'" in caplog.text
    caplog.clear()
    used = JobScript(
        "echo {{ T }}", "used", params={"T": 1, "x": 2}, epilogue="echo {{ x }}"
    )
    assert "echo 1" in str(used)
    assert caplog.text == ""


def test_variables_in_the_spelling_of_2018_are_refused() -> None:
    for text in ("cp {rootdir}/a .", "echo ${A} {workdir}"):
        with pytest.raises(
            RenderError, match=r"line 1: \{\w+\} is how the clusterjob of 2018"
        ):
            str(JobScript(text, "x"))
    with pytest.raises(RenderError, match=r"'X' is undefined.*\$\{X\}"):
        str(JobScript("echo ${{X}}", "x"))
    with pytest.raises(RenderError, match=r"line 1: \{text\} is how the clusterjob"):
        str(JobScript("echo {text}", "x", params={"text": "hello"}))
    used = JobScript("python3 -c 'print(f\"{T}\")' {{ T }}", "x", params={"T": 1})
    assert "{T}" in str(used)
    for text in (
        "echo ${rootdir} ${X} {a,b}",
        "#!/usr/bin/env python3\nprint(f'{workdir}')",
    ):
        assert text.splitlines()[-1] in str(JobScript(text, "x"))
    assert "{rootdir}" in str(JobScript("echo {rootdir}", "x", verbatim=True))


def test_folders_are_what_the_profile_says_and_their_whole_path_has_a_name() -> None:
    job = JobScript(
        "echo {{ workdir }} {{ full_workdir }}",
        "x",
        rootdir="/scratch",
        workdir="run 1",
        backend="slurm",
    )
    assert "echo run 1 /scratch/run 1\n" in str(job)


def test_overrides_are_for_the_backend_of_their_profile() -> None:
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Directives]\nqueue = --qos={{ queue }}\n"
        "[Resources]\nqueue = x\n"
    )
    job = JobScript("true", "x")
    job.read_settings("p.ini")
    assert "#SBATCH --qos=x\n" in str(job)
    job.backend = "lsf"
    assert "#BSUB -q x\n" in str(job)
    job.backend = "slurm"
    assert "#SBATCH --qos=x\n" in str(job)


@pytest.mark.parametrize(
    "values",
    [
        {"jobname": "half\ud800"},
        {"jobname": "file\udce9"},
        {"body": "echo \ud800"},
        {"params": {"v": "\udbff"}, "body": "echo {{ v }}"},
        {"stdout": "a\ud800"},
        {"epilogue": "echo \ud800"},
        {"aux_scripts": {"a\ud800": "x"}},
    ],
    ids=ascii,
)
def test_halves_of_characters_are_refused_in_words(values: dict[str, Any]) -> None:
    body, name = values.pop("body", "true"), values.pop("jobname", "job")
    job = JobScript(body, name, **values)
    with pytest.raises(SettingsError, match="is no character"):
        job.plan()


def test_bytes_that_are_no_text_can_stand_in_a_body() -> None:
    JobScript("cat caf\udce9", "latin").plan()


def write_two_clusters() -> None:
    Path("a.ini").write_text(
        "[Attributes]\nbackend = slurm\nremote = host-a\nrootdir = /a\nsetup = module a\n"
        "workdir = w\n[Resources]\nqueue = main\ntime = 5m\nmem = 50\n--constraint = fast\n"
        "[Limits]\npoll_interval = 7\n"
    )
    Path("b.ini").write_text(
        "[Attributes]\nbackend = sge\nrootdir = /b\n[Resources]\nmem = 70\n"
    )


def test_with_another_profile_what_a_job_says_itself_stays() -> None:
    write_two_clusters()
    job = JobScript("true", mem=150, time="2m", queue="short", workdir="mine")
    job.with_profile("b.ini")
    there = job.with_profile("a.ini")
    assert (there.backend, there.remote, there.rootdir) == ("slurm", "host-a", "/a")
    assert (there.mem, there.time, there.queue) == ("150M", "00:02:00", "short")
    assert (there.workdir, there.setup) == ("mine", "module a")
    assert job.backend is None


def test_what_a_profile_says_of_its_cluster_stays_there() -> None:
    write_two_clusters()
    job = JobScript("true", ppn=2)
    job.read_settings("a.ini")
    there = job.with_profile("b.ini")
    assert (there.backend, there.remote, there.rootdir) == ("sge", None, "/b")
    assert (there.queue, there.setup) == (None, None)
    assert "constraint" not in "".join(there.resources)
    # what is said for any cluster comes along, unless the profile says it
    assert (there.time, there.mem, there.workdir) == ("00:05:00", "70M", "w")
    assert there.ppn == 2
    back = there.with_profile("a.ini")
    assert (back.queue, back.mem, back.rootdir) == ("main", "50M", "/a")
    assert back.get_backend().limits.poll_interval == 7


def test_a_profile_of_no_cluster_changes_what_it_says_alone() -> None:
    write_two_clusters()
    Path("big.ini").write_text("[Resources]\nqueue = big\nmem = 99\n")
    job = JobScript("true", mem=1)
    job.read_settings("a.ini")
    there = job.with_profile("big.ini")
    assert (there.backend, there.remote, there.queue) == ("slurm", "host-a", "big")
    assert there.mem == "99M"  # a.ini went over what the job said
    job.mem = 2
    assert job.with_profile("big.ini").mem == "2M"


def test_what_a_job_does_not_say_any_more_is_the_profiles() -> None:
    write_two_clusters()
    job = JobScript("true", mem=150, queue="short")
    del job.resources["mem"]
    assert job.resources.pop("queue") == "short"
    there = job.with_profile("a.ini")
    assert (there.mem, there.queue) == ("50M", "main")
