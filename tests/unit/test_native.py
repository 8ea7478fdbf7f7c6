"""Native scripts are read back into resources.

The heads of scripts in ``tests/recordings/scripts`` are those of public repositories, each named
there; the first six are what the clusterjob of 2018 rendered.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from clusterjob import JobScript, RenderError, SettingsError
from clusterjob.backend import (
    Backend,
    ResourceValue,
    find_dialect,
    list_backends,
    load_backend,
    read_native,
)
from clusterjob.backend.directives import DirectiveWriter
from clusterjob.native_script import read_script

HEADS = Path(__file__).parents[1] / "recordings" / "scripts" / "heads.txt"
PREFIXES = {
    "slurm": "#SBATCH",
    "sge": "#$",
    "pbspro": "#PBS",
    "torque": "#PBS",
    "lpbs": "#PBS",
    "lsf": "#BSUB",
    "flux": "# flux:",
    "htcondor": "#CONDOR",
    "local": "#CLUSTERJOB",
}
GIVEN: dict[str, ResourceValue] = {
    "jobname": "n",
    "queue": "q",
    "account": "a",
    "time": 5400,
    "nodes": 2,
    "ppn": 4,
    "threads": 2,
    "mem": 4096,
    "gpus": 1,
    "stdout": "o.out",
    "stderr": "e.err",
    "array": "1-9:2%3",
}


def heads() -> dict[str, str]:
    """Return the head of each script, by where it comes from."""
    parts = re.split(r"^## ", HEADS.read_text(), flags=re.MULTILINE)[1:]
    found = (part.partition("\n") for part in parts)
    return {where: head for where, _, head in found}


def script_of(lines: list[str], prefix: str) -> str:
    return (
        "#!/bin/bash\n" + "".join(f"{prefix} {line}\n" for line in lines) + "true\n"
    )


def write(
    backend: Backend,
    resources: dict[str, Any],
    attributes: dict[str, str] | None = None,
) -> str:
    lines = DirectiveWriter(backend).write(resources, (), attributes or {})
    return script_of(lines, PREFIXES[backend.name])


def test_every_backend_can_be_read() -> None:
    assert PREFIXES.keys() == list_backends().keys()


@pytest.mark.parametrize("name", PREFIXES)
def test_what_a_backend_writes_it_reads(name: str) -> None:
    """Every resource comes back, or is written again as it was."""
    backend = load_backend(name)
    known = {item for line in backend.directives for item in line.resources}
    given = {key: value for key, value in GIVEN.items() if key in known}
    if name == "htcondor":  # which cannot bound how many run at once
        given["array"] = "1,3,5"
    written = write(backend, given, {"parallel_environment": "smp"})
    read = read_native(backend, written)
    assert read.options == []
    again = write(backend, {**read.resources}, read.attributes)
    assert again == written
    alike = {key for key in given if read.resources.get(key) == given[key]}
    assert alike >= known & {"jobname", "time", "stdout", "array"}
    if name in ("slurm", "pbspro", "flux"):
        assert read.resources == given


def test_there_are_enough_scripts_of_others() -> None:
    ours = [where for where in heads() if where.startswith("2018 ")]
    assert (len(ours), len(heads()) - len(ours)) == (6, 30)


@pytest.mark.parametrize("where", heads())
def test_scripts_of_others_are_written_again_as_they_are_read(where: str) -> None:
    native = read_script("#!/bin/bash\n" + heads()[where] + "true\n")
    assert native.dialect is not None
    backend = native.dialect
    more = native.more_resources(backend, {})
    resources = {**native.resources, **{k: v for k, v in more.items() if v != ""}}
    again = read_native(backend, write(backend, resources, dict(native.attributes)))
    # what nobody says is one
    assert {"threads": 1, **native.resources} == {"threads": 1, **again.resources}
    assert again.attributes == native.attributes
    assert sorted(map(str, again.options)) == sorted(map(str, native.options))


@pytest.mark.parametrize(
    ("where", "dialect", "resources", "options"),
    [
        (
            "2018 goerz/clusterjob tests/test_workflow/pbs_copper_remote.rendered.sh",
            "pbspro",
            {"time": 300, "nodes": 1, "ppn": 32, "threads": 1, "account": "X" * 13},
            ["-j oe"],
        ),
        (
            "2018 goerz/clusterjob tests/test_workflow/lsf_ds.rendered.sh",
            "lsf",
            {"time": 300, "jobname": "test_clj"},
            ["-n 1", "-M 20"],
        ),
        (
            "WebVision-Capstone/WebVision-Cap maneframe/example_job.sh",
            "slurm",
            {"time": 604800, "mem": 61440, "queue": "gpgpu-1"},
            [
                "--gres=gpu:8",
                "--mail-user=user_name@smu.edu",
                "--mail-type=ALL",
                "--oversubscribe",
            ],
        ),
        (
            "Delphinite/sge2slurm examples/example2.sh",
            "sge",
            {"time": 900, "mem": 4096 * 48, "ppn": 48, "array": "10-100:5"},
            [
                "-j y",
                "-M test@example.com",
                "-m be",
                "-l m_mem_free=3G,vendor=test,gpu=2",
            ],
        ),
        (
            "biocore/mg-scripts sequence_processing_pipeline/tests/data/qcjob_output/QCJob_3.sh",
            "torque",
            {"mem": 8192, "ppn": 16, "array": "1-9%30"},
            [
                "-o localhost:out.log.${PBS_ARRAYID}",
                "-e localhost:err.log.${PBS_ARRAYID}",
            ],
        ),
        (
            "HarborneD/ARCCA_Python_Tool test_arcca_scripts/test_array_job.sh",
            "slurm",
            {"ppn": 40, "array": "0-4"},
            ["--ntasks=1 --ntasks=80"],
        ),
        (
            "zhengli233/ProteinDocking eintcal_opt_david/lsf.sh",
            "lsf",
            {"queue": "windfall", "jobname": "module2"},
            ["-n 1", '-R gpu -R "span[ptile=2]"'],
        ),
    ],
)
def test_what_scripts_of_others_say(
    where: str, dialect: str, resources: dict[str, Any], options: list[str]
) -> None:
    native = read_script("#!/bin/bash\n" + heads()[where] + "true\n")
    assert native.dialect is not None
    assert native.dialect.name == dialect
    assert resources.items() <= native.resources.items()
    counts = {"nodes", "ppn", "threads"} - resources.keys()
    if dialect == "lsf":
        assert counts.isdisjoint(native.resources)
    assert sorted(map(str, native.options)) == sorted(options)


@pytest.mark.parametrize(
    ("prefix", "line", "expected"),
    [
        ("#SBATCH", "-t 90", {"time": 5400}),
        ("#SBATCH", "-t1-2", {"time": 26 * 3600}),
        ("#SBATCH", "--time=0", ["--time=0"]),
        ("#SBATCH", "--time=UNLIMITED", ["--time=UNLIMITED"]),
        ("#SBATCH", "--mem=0", ["--mem=0"]),
        ("#SBATCH", "--mem 1500M", {"mem": 1500}),
        ("#SBATCH", "--nodes=2-4", ["--nodes=2-4"]),
        ("#SBATCH", "-N2 --exclusive", {"nodes": 2}),
        ("#SBATCH", '--comment="two words" # why', ['--comment="two words"']),
        ("#SBATCH", "--dependency=afterok:12", ["--dependency=afterok:12"]),
        ("#PBS", "-l walltime=3600,select=1:ncpus=4", {"time": 3600, "threads": 4}),
        ("#PBS", "-l select=1:ncpus=4:host=a", ["-l select=1:ncpus=4:host=a"]),
        ("#PBS", "-l select=1:ncpus=4+2:ncpus=1", ["-l select=1:ncpus=4+2:ncpus=1"]),
        ("#PBS", "-lmem=48gb -lncpus=1", {"mem": 48 * 1024}),
        ("#$", "-l h_rt=3600", {"time": 3600}),
        ("#$", "-pe smp 4-8", ["-pe smp 4-8"]),
        ("#BSUB", "-W 90", {"time": 5400}),
        ("#BSUB", "-W 1:30", {"time": 5400}),
        ("#BSUB", '-J "a[1-3]%2"', {"jobname": "a", "array": "1-3%2"}),
        ("# flux:", "-t 90", {"time": 5400}),
        ("# flux:", "-t 2h -N 2", {"time": 7200, "nodes": 2}),
    ],
)
def test_options_as_their_schedulers_read_them(
    prefix: str, line: str, expected: dict[str, Any] | list[str]
) -> None:
    native = read_script(script_of([line], prefix))
    if isinstance(expected, dict):
        assert expected.items() <= native.resources.items()
    else:
        assert list(map(str, native.options)) == expected


# -- jobs ------------------------------------------------------------------------------------------


def slurm_script(path: str = "sim.slurm") -> str:
    Path(path).write_text(
        "#!/bin/bash\n#SBATCH --time=10\n#SBATCH --mem=1G --array=1-3\n#SBATCH -n 4\n"
        "#SBATCH --output=sim_%A_%a.out\n\necho ${#PATH} {{ x }}\n"
    )
    return path


def test_a_script_becomes_a_job() -> None:
    job = JobScript.from_script(slurm_script(), backend="slurm")
    text = str(job)
    for line in (
        "--time=00:10:00",
        "--mem=1024M",
        "--array=1-3",
        "--output=sim_%A_%a.out",
        "--ntasks=4",
        "--job-name=sim",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "{{ x }}" in text
    # the lines of the body keep their numbers
    assert job.body.splitlines()[6] == "echo ${#PATH} {{ x }}"
    with_params = JobScript.from_script(
        slurm_script(), backend="slurm", params={"x": 3}
    )
    assert "echo ${#PATH} 3" in str(with_params)


def test_what_is_set_later_goes_over_it() -> None:
    Path("p.ini").write_text(
        "[Attributes]\nbackend = slurm\n[Resources]\ntime = 2h\n--ntasks = 8\n"
    )
    job = JobScript.from_script(slurm_script(), mem="2G")
    job.read_settings("p.ini")
    text = str(job)
    assert "--time=02:00:00" in text
    assert "--mem=2048M" in text
    assert "--ntasks=8" in text
    assert "--ntasks=4" not in text


@pytest.mark.parametrize(
    ("dialect", "backend", "script", "written", "left"),
    [
        (
            "slurm",
            "pbspro",
            "#SBATCH --ntasks=40\n#SBATCH --ntasks-per-node=20\n",
            ["select=2:ncpus=20:mpiprocs=20"],
            [],
        ),
        (
            "slurm",
            "slurm",
            "#SBATCH -o all.txt\n",
            ["--output=all.txt\n", "!--error"],
            [],
        ),
        (
            "slurm",
            "sge",
            "#SBATCH -a 1-3\n#SBATCH -o o/%x.%A_%a\n",
            ["$JOB_NAME.$JOB_ID_$TASK_ID"],
            [],
        ),
        (
            "sge",
            "pbspro",
            "#$ -o out.$JOB_ID\n",
            ["!out.$JOB", "TOKEN.out"],
            ["stdout in 'out.$JOB_ID'"],
        ),
        (
            "pbspro",
            "slurm",
            "cd $PBS_O_WORKDIR\n",
            [],
            ["$PBS_O_WORKDIR in the body"],
        ),
        (
            "slurm",
            "pbspro",
            "echo ${SLURM_ARRAY_TASK_ID:-none} $SLURM_CONF\n",
            [],
            ["$SLURM_ARRAY_TASK_ID in the body"],
        ),
        (
            "pbspro",
            "pbspro",
            "#PBS -l nodes=1:ppn=2\n#PBS -l mem=200mb\n",
            ["select=1:ncpus=2:mpiprocs=2:ompthreads=1:mem=200mb", "!nodes="],
            [],
        ),
    ],
)
def test_what_scripts_mean_under_another_scheduler(
    dialect: str, backend: str, script: str, written: list[str], left: list[str]
) -> None:
    mark = {"slurm": "#SBATCH", "sge": "#$", "pbspro": "#PBS"}[dialect]
    Path("x.sh").write_text(f"#!/bin/bash\n{mark} -p 7\n{script}true\n")
    job = JobScript.from_script("x.sh", dialect=dialect, backend=backend)
    text = str(job)
    for words in written:
        assert (words.lstrip("!") in text) != words.startswith("!"), text
    found = [item for item in job.left_out if " -p" not in f" {item}"]
    assert len(found) == len(left)
    assert all(
        item.startswith(words) for item, words in zip(found, left, strict=True)
    )


def test_directives_of_another_scheduler_are_refused_or_converted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = JobScript.from_script(slurm_script())
    with pytest.raises(
        SettingsError, match=r"directives of Slurm.*goes to Embedded.*--convert"
    ):
        str(job)
    converted = JobScript.from_script(slurm_script(), dialect="slurm")
    text = str(converted)
    assert "#CLUSTERJOB --time=600" in text
    assert "#CLUSTERJOB --cores=4" in text
    # the embedded scheduler has no sign for the id of an array
    assert [left.split(",")[0] for left in converted.left_out] == [
        "stdout in 'sim_%A_%a.out'"
    ]
    assert "sim_%A" not in text
    Path("more.slurm").write_text(
        "#SBATCH --qos=x --nodes=2\n#SBATCH -C fast\ntrue\n"
    )
    with caplog.at_level(logging.WARNING, "clusterjob"):
        other = JobScript.from_script("more.slurm", dialect="slurm", backend="pbspro")
        assert "-l select=2" in str(other)
    assert other.left_out == ("--qos=x (line 1)", "--constraint=fast (line 2)")


def test_a_script_for_several_schedulers_goes_to_each() -> None:
    Path("both.sh").write_text(
        "#!/bin/sh\n#SBATCH -t 5\n#PBS -l walltime=600\ntrue\n"
    )
    slurm = JobScript.from_script("both.sh", backend="slurm")
    assert "--time=00:05:00" in str(slurm)
    pbs = JobScript.from_script("both.sh", backend="pbspro")
    assert "-l walltime=00:10:00" in str(pbs)
    with pytest.raises(SettingsError, match=r"several schedulers: .*line 3.*line 2"):
        JobScript.from_script("both.sh")


def test_a_body_with_directives_is_refused() -> None:
    """Nobody would read them there."""
    for backend in ("slurm", "local"):
        with pytest.raises(
            SettingsError, match=r"line 2 .*Slurm.*'--time=5'.*from_script"
        ):
            str(
                JobScript("#!/bin/sh\n#SBATCH --time=5\ntrue\n", "x", backend=backend)
            )
    # behind the first command it is a comment for Slurm too
    assert str(JobScript("#!/bin/sh\ntrue\n#SBATCH --time=5\n", "x", backend="slurm"))


def test_a_dependency_is_not_left_out_in_a_conversion() -> None:
    Path("x.sh").write_text("#SBATCH --dependency=afterok:12\ntrue\n")
    job = JobScript.from_script("x.sh", dialect="slurm", backend="sge")
    with pytest.raises(SettingsError, match=r"line 1.*--after"):
        str(job)


def test_a_mark_of_the_byte_order_hides_no_directive() -> None:
    Path("bom.slurm").write_bytes(b"\xef\xbb\xbf#!/bin/bash\n#SBATCH -t 4\ntrue\n")
    job = JobScript.from_script("bom.slurm", backend="slurm")
    assert job.time == "00:04:00"
    assert job.body.startswith("#!/bin/bash\n")


def test_a_script_without_directives_is_a_body() -> None:
    Path("plain.sh").write_text("#!/bin/sh\n# PBS is not here\necho {{ x }}\n")
    job = JobScript.from_script("plain.sh")
    assert job.jobname == "plain"
    assert "echo {{ x }}" in str(job)
    with pytest.raises(RenderError, match="'x' is undefined"):
        str(JobScript.from_script("plain.sh", verbatim=False))
    with pytest.raises(SettingsError, match="cannot be read"):
        JobScript.from_script("missing.sh")


def test_a_shell_that_a_directive_names_runs_the_body() -> None:
    Path("a.sge").write_text(
        "#!/bin/sh\n#$ -S /bin/bash\n#$ -cwd -N a\necho $SHELL\n"
    )
    job = JobScript.from_script("a.sge", backend="sge")
    assert job.body.startswith("#!/bin/bash\n")
    assert find_dialect(job.body) is None


def test_directives_that_cannot_be_read_are_named() -> None:
    Path("odd.slurm").write_text("#SBATCH --time=5\n#SBATCH --comment='half\ntrue\n")
    with pytest.raises(SettingsError, match=r"line 2: .*No closing quotation"):
        JobScript.from_script("odd.slurm", backend="slurm")
    Path("odd.slurm").write_text("#SBATCH time=5\ntrue\n")
    with pytest.raises(SettingsError, match=r"line 1: 'time=5' is no option"):
        JobScript.from_script("odd.slurm", backend="slurm")
    Path("odd.sge").write_text("#$ -N a\n#$ -N b\ntrue\n")
    with pytest.raises(
        SettingsError, match=r"lines 1 and 2: 'jobname' is given twice"
    ):
        JobScript.from_script("odd.sge", backend="sge")
