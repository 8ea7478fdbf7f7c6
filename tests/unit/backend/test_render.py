"""What is rendered, for every backend."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from clusterjob import JobScript, plan
from clusterjob.backend import list_backends, load_backend, parse_array, render_text
from clusterjob.backend.render import split_shebang
from clusterjob.errors import RenderError, SettingsError

JOB = {
    "queue": "q",
    "account": "a",
    "time": "1:30:00",
    "nodes": 2,
    "ppn": 4,
    "threads": 2,
    "mem": "4G",
}
EXPECTED = {
    "slurm": "--nodes=2|--ntasks-per-node=4|--cpus-per-task=2|--time=01:30:00|--mem=4096M|"
    "--partition=q",
    "pbspro": "-l select=2:ncpus=8:mpiprocs=4:ompthreads=2:mem=4096mb|-l walltime=01:30:00",
    "torque": "-l nodes=2:ppn=8|-l mem=8192mb|-l walltime=01:30:00",
    "lpbs": "-l nodes=2:ppn=8",
    "lsf": '-n 16 -R "span[ptile=8]"|-W 01:30',
    "sge": "-pe mpi 16|-l h_rt=01:30:00|-l h_vmem=512M",
    "local": "--cores=16|--time=5400|--mem=4096",
    "flux": "--nodes=2|--nslots=8|--cores-per-slot=2|--time-limit=5400s",
    "htcondor": "request_cpus = 8|request_memory = 4096",
}
LEFT_OUT = {"flux": {"mem"}, "htcondor": {"queue", "nodes"}}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_common_model_in_every_scheduler_s_words(name: str) -> None:
    resources = {
        key: value
        for key, value in JOB.items()
        if key not in LEFT_OUT.get(name, set())
    }
    text = str(
        JobScript(
            "true",
            "oct",
            backend=name,
            params={"parallel_environment": "mpi"},
            **resources,
        )
    )
    for piece in EXPECTED[name].split("|"):
        assert piece in text


@pytest.mark.parametrize("name", list_backends())
def test_every_rendered_script_is_valid_shell(name: str) -> None:
    text = str(JobScript("echo 'a' \"b\" ${#a[@]} `x`\n", "oct", backend=name))
    done = subprocess.run(
        ["/bin/sh", "-n"], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_bodies_that_are_no_templates_survive() -> None:
    body = (
        "a=(1 2); echo ${#a[@]} ${a[0]%%x*}; awk '{print $1}' f; printf '{%s}' x; echo 100% ü "
        "{# no comment #}\n"
    )
    assert render_text(body, {}, "here") == body
    assert render_text(body + "{{ x }}", {"x": 1}, "here") == body + "1"
    assert body in str(JobScript(body, "x"))
    assert "{{ raw }} {% if" in str(JobScript("{{ raw }} {% if", "x", verbatim=True))


def test_templates_do_what_jinja_does() -> None:
    text = render_text(
        "{% for n in range(2) %}\nrun {{ n }}\n{% endfor %}\n{=# gone #=}{% raw %}{{ kept }}{% "
        "endraw %}",
        {},
        "here",
    )
    assert text == "run 0\nrun 1\n{{ kept }}"


def test_lines_that_a_scheduler_would_read_are_hidden_from_it() -> None:
    text = str(
        JobScript(
            "true\n#$ -l evil=1\necho '#BSUB -n 99'\n#BSUB -n 99\n",
            "x",
            backend="sge",
        )
    )
    assert "\n#$ -l evil" not in text
    assert "\n|#$ -l evil=1\n" in text
    assert "\n#BSUB -n 99\n" not in str(
        JobScript("true\n#BSUB -n 99\n", "x", backend="lsf")
    )


def test_shebangs() -> None:
    assert split_shebang("#!/usr/bin/env python3 -u\nx", "/bin/sh")[1] == (
        "/usr/bin/env",
        "python3 -u",
    )
    assert split_shebang("x", "/bin/zsh") == ("#!/bin/zsh\nx", ("/bin/zsh",))
    with pytest.raises(RenderError, match="names no interpreter"):
        split_shebang("#!\nx", "/bin/sh")
    with pytest.raises(RenderError, match="NUL"):
        split_shebang("a\0b", "/bin/sh")


def test_arrays() -> None:
    assert parse_array("1-4%2") == [1, 2, 3, 4]
    assert parse_array("0-9:3,20") == [0, 3, 6, 9, 20]
    for huge in ("1-99999999999", "1-3000000,3000001-6000000"):
        with pytest.raises(SettingsError, match="more than 4,000,000 elements"):
            parse_array(huge)
    with pytest.raises(SettingsError, match="is not an array"):
        parse_array("1-" + "9" * 40)
    assert "--array=1-4%2" in str(JobScript("true", backend="slurm", array="1-4%2"))
    assert "-t 1-4 -tc 2" in str(JobScript("true", backend="sge", array="1-4%2"))
    assert '-J "job[1-4]%2"' in str(JobScript("true", backend="lsf", array="1-4%2"))


def test_a_name_that_stands_for_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    job = JobScript(
        "true", "n", aux_scripts={"f": "x"}, inputs=[(str(tmp_path / "mine"), "f")]
    )
    with pytest.raises(SettingsError, match="'f' is an auxiliary script of job 'n'"):
        plan([job])


def test_a_folder_of_settings_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a name that is too long fails for root too, who may read all folders
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ("x" * 300)))
    for look in (list_backends, lambda: load_backend("slurm")):
        with pytest.raises(SettingsError, match=r"cannot be seen .*XDG_CONFIG_HOME"):
            look()


def test_variables_of_a_body() -> None:
    job = JobScript(
        "{{ T }} {{ mem }} {{ time }} {{ queue }} {{ jobname }} {{ remote }}|",
        "n",
        params={"T": 20},
        mem="1G",
        time=90,
    )
    assert "20 1024 01:30:00 None n |" in str(job)
    job.T = 21
    assert "21 1024" in str(job)
    assert job.T == 21
    with pytest.raises(AttributeError):
        _ = job.nothing


def test_the_dry_run_is_the_script() -> None:
    job = JobScript("true", "x")
    assert str(job) == str(job) == job.render_script()
    assert load_backend("local").title in "Embedded scheduler"


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_body_that_cannot_be_written_does_not_run(
    shell: str, tmp_path: Path
) -> None:
    """A full disk must not make an empty body, which would end well."""
    runs = Path(".clusterjob-runs/dry-run")
    runs.mkdir(parents=True)
    for body in ("echo ran", "echo ran" + " # long" * 200):
        script = JobScript(body).render_script()
        for is_full, code, output in ((True, 1, ""), (False, 0, "ran\n")):
            for name in ("TOKEN.exit", "TOKEN.body"):
                (runs / name).unlink(missing_ok=True)
            if is_full:
                (runs / "TOKEN.body").symlink_to("/dev/full")
            environment = {"PATH": os.environ["PATH"], "TMPDIR": "/not/there"}
            done = subprocess.run(
                [shell], input=script, text=True, capture_output=True, env=environment
            )
            assert (done.returncode, done.stdout) == (code, output)
            assert ("is there room" in done.stderr) == bool(code)
            assert f"exit={code}\n" in (runs / "TOKEN.exit").read_text()


def test_a_body_stands_beside_its_exit_record_alone() -> None:
    """It goes when its end is looked at: see the contract."""
    Path(".clusterjob-runs/dry-run").mkdir(parents=True)
    temporary = Path("temporary")
    temporary.mkdir()
    script = JobScript("echo $0; umask").render_script()
    done = subprocess.run(
        ["sh"],
        input=script,
        text=True,
        capture_output=True,
        umask=0o027,
        env={**os.environ, "TMPDIR": str(temporary.absolute())},
    )
    body, mask = done.stdout.split()
    assert body == str(Path(".clusterjob-runs/dry-run/TOKEN.body").absolute())
    assert Path(body).stat().st_mode & 0o077 == 0
    assert mask == "0027"
    assert not os.listdir(temporary)


# -- options of the scheduler's own ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "options", "expected"),
    [
        ("pbspro", {"ncpus": 4, "pmem": "2gb"}, ["-l ncpus=4", "-l pmem=2gb"]),
        ("pbspro", {"m": "ae", "W": "umask=022"}, ["-m ae", "-W umask=022"]),
        ("torque", {"ncpus": 4}, ["-l ncpus=4"]),
        ("lpbs", {"pvmem": "4gb", "M": "me@a"}, ["-l pvmem=4gb", "-M me@a"]),
        ("sge", {"h_vmem": "2G", "slots": 2}, ["-l h_vmem=2G", "-l slots=2"]),
        ("sge", {"pe": "smp 4", "m": "e"}, ["-pe smp 4", "-m e"]),
        ("sge", {"hold_jid_ad": "7", "notify": True}, ["-hold_jid_ad 7", "-notify"]),
        ("sge", {"exclusive": True}, ["-l exclusive=true"]),
        ("slurm", {"ntasks_per_core": 1}, ["--ntasks-per-core=1"]),
    ],
)
def test_names_that_are_no_options_are_resources(
    backend: str, options: dict[str, Any], expected: list[str]
) -> None:
    text = str(JobScript("true", "x", backend=backend, options=options))
    for line in expected:
        assert re.search(rf"^#\S+ {re.escape(line)}$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("backend", "options", "line"),
    [
        ("slurm", {"comment": "two words"}, '--comment="clusterjob:TOKEN two words"'),
        ("slurm", {"--comment": "x"}, '--comment="clusterjob:TOKEN x"'),
        ("pbspro", {"v": "A=1,B"}, "-V -v CLUSTERJOB_TOKEN=TOKEN,A=1,B"),
        ("torque", {"-v": "A=1"}, "-V -v CLUSTERJOB_TOKEN=TOKEN,A=1"),
        ("lsf", {"Jd": "my words"}, '-Jd "clusterjob:TOKEN my words"'),
        ("sge", {"v": "A=1"}, "-v A=1"),
        ("pbspro", {"A": "project"}, "-A project"),
    ],
)
def test_a_users_option_lives_beside_ours(
    backend: str, options: dict[str, Any], line: str
) -> None:
    text = str(JobScript("true", "x", backend=backend, options=options))
    found = re.findall(rf"^#\S+ {re.escape(line)}$", text, re.MULTILINE)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("backend", "name", "value"),
    [
        ("slurm", "--wait", True),
        ("slurm", "-W", True),
        ("slurm", "test-only", True),
        ("sge", "-sync", "y"),
        ("pbspro", "-W", "umask=022,block=true"),
        ("torque", "-I", True),
        ("lsf", "-K", True),
    ],
)
def test_options_with_which_no_id_would_be_read_are_refused(
    backend: str, name: str, value: Any
) -> None:
    with pytest.raises(SettingsError, match="would not just answer"):
        str(JobScript("true", backend=backend, options={name: value}))


def test_options_that_would_undo_ours_are_refused() -> None:
    for backend in ("sge", "pbspro", "torque"):
        with pytest.raises(SettingsError, match=r"'S' is clusterjob's own.*'shell'"):
            str(JobScript("true", "x", backend=backend, options={"S": "/bin/csh"}))
    with pytest.raises(SettingsError, match="must not have"):
        str(JobScript("true", "x", backend="slurm", options={"comment": "a|b"}))
