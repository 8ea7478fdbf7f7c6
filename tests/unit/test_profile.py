"""Profiles and backend files: what is right is found, what is wrong is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterjob import JobScript
from clusterjob.backend import find_backend, list_backends, load_backend
from clusterjob.errors import (
    BackendNotFoundError,
    RenderError,
    ResourcesNotSupportedError,
    SettingsError,
)
from clusterjob.profile import read_profile


def profile(text: str, name: str = "cluster.ini") -> str:
    Path(name).write_text(text)
    return name


def test_a_profile_is_read() -> None:
    path = profile(
        "[Attributes]\nbackend = slurm\nrootdir = ~/jobs\nmodule_load =\n    module load intel\n  "
        "  module load mpi\n"
        "[Resources]\nqueue = exec\nnodes = 1\nmem = 10000\ncontiguous = true\nF = x%T\n"
    )
    read = read_profile(path)
    assert read.attributes["module_load"] == "\nmodule load intel\nmodule load mpi"
    assert read.resources == {
        "queue": "exec",
        "nodes": 1,
        "mem": 10000,
        "contiguous": True,
        "F": "x%T",
    }
    job = JobScript("{{ module_load }}\necho {{ queue }} {{ nodes }}", "name")
    job.read_settings(path)
    text = str(job)
    for piece in (
        "#SBATCH --partition=exec",
        "--mem=10000M",
        "--contiguous",
        "-F x%T",
        "module load intel\nmodule load mpi\necho exec 1",
    ):
        assert piece in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[Atributes]\n", ["Atributes", "unknown section", "Attributes"]),
        (
            "[attributes]\nbackend = slurm\n",
            ["attributes", "Did you mean [Attributes]"],
        ),
        (
            "[Attributes]\nbakend = slurm\n",
            ["[Attributes]", "bakend", "Did you mean 'backend'"],
        ),
        ("[Attributes]\nqueue = x\n", ["queue", "[Resources]"]),
        ("[Attributes]\nexport B = 2\n", ["export B", "no name", "indented"]),
        ("[Resources]\nnode = 1\n", ["[Resources]", "node", "Did you mean 'nodes'"]),
        ("[Resources]\nnodes = many\n", ["nodes", "many", "whole number"]),
        ("[Resources]\ntime = soon\n", ["time", "'soon'", "HH:MM:SS"]),
        ("[Resources]\nmem = 4X\n", ["mem", "'4X'", "4G"]),
        ("[Attributes]\nbackend = slrum\n", ["slrum", "Did you mean 'slurm'"]),
        (
            "[Attributes]\nbackend = slurm\n[Comands]\nsubmit = x\n",
            ["Comands", "Did you mean 'Commands'"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Commands]\nsumbit = x\n",
            ["[Commands]", "sumbit", "Did you mean 'submit'"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Commands]\nsubmit = sbatch {scrip}\n",
            ["{scrip}", "Did you mean 'script'"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Commands]\nsubmit = sbatch '{script}'\n",
            ["within quotes"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Limits]\npoll_interval = soon\n",
            ["[Limits]", "poll_interval", "not a number"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Limits]\nsubmit_parallel = 0\n",
            ["submit_parallel", "too small"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Output:submit]\npattern = (\n",
            ["[Output:submit]", "pattern", "not a regular expression"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Output:submit]\npattern = \\d+\n",
            ["(?P<id>"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Output:submit]\nformat = xml\n",
            ["xml", "lines, blocks or json"],
        ),
        ("[Attributes]\nbackend = slurm\n[States]\nDONE = X\n", ["[States]", "DONE"]),
        ("[Attributes]\nbackend = slurm\n[States]\nFAILED:oom = X\n", ["oom"]),
        (
            "[Attributes]\nbackend = slurm\n[Directives]\nmemory = --mem\n",
            ["memory", "Did you mean 'mem'"],
        ),
        (
            "[Attributes]\nbackend = slurm\n[Variables]\nCLUSTERJOB_IDX = X\n",
            ["CLUSTERJOB_IDX", "CLUSTERJOB_ID"],
        ),
        ("[Attributes]\nno equals sign\n", ["line 2", "key = value"]),
        ("key = value\n", ["line 1", "before any [Section]"]),
        ("[Resources]\nmem = 1\nmem = 2\n", ["line 3", "stands twice"]),
        ("[Resources]\n[Resources]\n", ["line 2", "stands twice"]),
    ],
)
def test_what_is_wrong_in_a_profile_is_one_clear_error(
    text: str, words: list[str]
) -> None:
    path = profile(text)
    with pytest.raises(SettingsError) as caught:
        JobScript("true").read_settings(path)
    for word in words:
        assert word in str(caught.value)
    if "slrum" not in text:
        assert "cluster.ini" in str(caught.value)


def test_a_value_goes_on_behind_comments_and_empty_lines() -> None:
    Path("p.ini").write_text(
        "[Attributes]\nsetup =\n    export A=1\n    # threads\n    export B=2\n\n"
        "# at the margin\n    export C=3\n\n[Resources]\nnodes = 1\n"
    )
    profile = read_profile("p.ini")
    exports = [line for line in profile.attributes["setup"].splitlines() if line]
    assert exports == ["export A=1", "export B=2", "export C=3"]
    assert profile.resources == {"nodes": 1}


def test_files_that_cannot_be_read() -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.ini.*no such file"):
        JobScript("true").read_settings("nowhere.ini")
    Path("folder.ini").mkdir()
    with pytest.raises(SettingsError, match="is a folder"):
        JobScript.read_defaults("folder.ini")
    Path("binary.ini").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        JobScript.read_defaults("binary.ini")


def test_defaults_are_class_wide_and_never_leak() -> None:
    JobScript.read_defaults(
        profile("[Attributes]\nbackend = slurm\nT = 3\n[Resources]\nqueue = exec\n")
    )
    first, second = JobScript("a"), JobScript("b")
    first.resources["queue"] = "other"
    first.T = 4
    first.read_settings(profile("[Resources]\naccount = me\n", "second.ini"))
    assert (second.resources, second.T, second.backend) == (
        {"queue": "exec"},
        "3",
        "slurm",
    )
    assert (first.resources, first.T) == ({"queue": "other", "account": "me"}, 4)
    JobScript.read_defaults()
    assert JobScript("c").resources == {}
    assert JobScript("c", queue="mine", backend="sge").resources == {"queue": "mine"}


def test_a_directive_that_a_site_refuses_is_dropped() -> None:
    path = profile("[Attributes]\nbackend = slurm\n[Directives]\nmem =\n")
    job = JobScript("true", mem="4G", nodes=2)
    job.read_settings(path)
    assert "--mem" not in str(job)
    assert "--nodes=2" in str(job)
    job = JobScript("true", mem="4G", nodes=2, ppn=4)
    job.read_settings(
        profile("[Attributes]\nbackend = pbspro\n[Directives]\nmem =\n")
    )
    assert "-l select=2:ncpus=4:mpiprocs=4:ompthreads=1\n" in str(job)
    job = JobScript("true", mem="4G")
    job.read_settings(profile("[Attributes]\nbackend = slurm\n[Resources]\nmem =\n"))
    assert "--mem" not in str(job)


def test_overrides_go_to_one_job_only() -> None:
    job = JobScript("true", nodes=2)
    job.read_settings(
        profile(
            "[Attributes]\nbackend = slurm\n[Directives]\nnodes = --nodes={{ nodes }}-{{ nodes }}\n"
        )
    )
    assert "--nodes=2-2" in str(job)
    assert "--nodes=2\n" in str(JobScript("true", nodes=2, backend="slurm"))


def test_a_site_extends_a_backend_beside_its_profile() -> None:
    folder = Path("backends/ours")
    folder.mkdir(parents=True)
    (folder / "backend.ini").write_text(
        "[Backend]\nextends = slurm\ntitle = Ours\n[Directives]\nqueue = --qos={{ queue }}\n"
        "[States]\nRUNNING = WEIRD\n"
    )
    job = JobScript("true", queue="q", time=5)
    job.read_settings(profile("[Attributes]\nbackend = ours\n"))
    assert "--qos=q" in str(job)
    assert "--time=00:05:00" in str(job)
    backend = job.get_backend()
    assert backend.title == "Ours"
    assert backend.classify("WEIRD") == backend.classify("RUNNING")
    with pytest.raises(BackendNotFoundError):
        JobScript("true", backend="ours").get_backend()
    JobScript.register_backend(folder)
    assert JobScript("true", backend="ours").get_backend().title == "Ours"


def test_the_lookup_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    folder = Path("config/clusterjob/backends/slurm")
    folder.mkdir(parents=True)
    (folder / "backend.ini").write_text("[Backend]\nextends = sge\ntitle = Mine\n")
    assert load_backend("slurm").title == "Mine"
    assert find_backend("config/clusterjob/backends/slurm") == folder.resolve()
    with pytest.raises(BackendNotFoundError, match=r"no backend\.ini"):
        find_backend("./nowhere")
    (folder / "backend.ini").write_text("[Backend]\nextends = slurm\n")
    with pytest.raises(SettingsError, match="extends it in turn"):
        load_backend("slurm")


def test_every_backend_says_what_it_does_with_every_common_resource() -> None:
    values = {
        "jobname": "n",
        "queue": "q",
        "account": "a",
        "time": 300,
        "nodes": 1,
        "ppn": 1,
        "threads": 1,
        "mem": 10,
        "gpus": 1,
        "stdout": "o",
        "stderr": "e",
        "array": "1-1",
    }
    assert set(list_backends()) == {
        "flux",
        "htcondor",
        "local",
        "lpbs",
        "lsf",
        "pbspro",
        "sge",
        "slurm",
        "torque",
    }
    refused = {}
    for name in list_backends():
        for resource, value in values.items():
            try:
                JobScript("true", backend=name, **{resource: value}).render_script()
            except ResourcesNotSupportedError as error:
                refused.setdefault(name, set()).add(str(error).split("'")[3])
    assert refused == {
        "flux": {"mem", "array"},
        "htcondor": {"nodes"},
        "local": {"gpus"},
        "sge": {"gpus"},
    }


def test_an_undefined_variable_is_named_with_its_line() -> None:
    with pytest.raises(
        RenderError,
        match=r"body of job 'x', line 2: 'tmie' is undefined.* Did you mean 'time'",
    ):
        str(JobScript("echo\necho {{ tmie }}", "x"))
    with pytest.raises(RenderError, match="line 2"):
        str(JobScript("echo\n{% if %}", "x"))
    with pytest.raises(RenderError, match="parallel_environment"):
        str(JobScript("true", backend="sge", ppn=4))


def test_impossible_resources() -> None:
    for wrong in (
        {"nodes": 0},
        {"ppn": -1},
        {"threads": 1.5},
        {"gpus": True},
        {"mem": "x"},
        {"time": 0},
        {"jobname": "a\nb"},
        {"queue": ["q"]},
    ):
        with pytest.raises(SettingsError):
            JobScript("true", **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="is not an array"):
        str(JobScript("true", array="1-"))
    with pytest.raises(SettingsError, match="output"):
        str(JobScript("true", outputs=["../x"]))
    with pytest.raises(SettingsError, match="there is no such file"):
        str(JobScript("true", inputs=["missing"]))
    Path("in").touch()
    for name in ("../escape", "/etc/passwd2"):
        with pytest.raises(SettingsError, match="below the workdir"):
            str(JobScript("true", aux_scripts={name: "x"}))


def test_underscores_and_flags_of_pass_through_options() -> None:
    text = str(
        JobScript(
            "true",
            backend="slurm",
            mail_type="END",
            contiguous=True,
            exclusive=False,
            F="nodes.txt",
            V=True,
        )
    )
    for line in (
        "#SBATCH --mail-type=END",
        "#SBATCH --contiguous",
        "#SBATCH -F nodes.txt",
        "#SBATCH -V",
    ):
        assert line in text
    assert "exclusive" not in text
    assert "#$ -hold_jid_ad 7\n" in str(
        JobScript("true", backend="sge", hold_jid_ad=7)
    )
    with pytest.raises(SettingsError, match="line break"):
        str(JobScript("true", backend="slurm", constraint="a\n#SBATCH --evil"))


def test_an_array_that_is_too_large_is_refused() -> None:
    with pytest.raises(ResourcesNotSupportedError, match="takes 1000"):
        str(JobScript("true", backend="slurm", array="1-1001"))
