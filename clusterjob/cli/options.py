"""The options that make a job of a script file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

import click

from clusterjob.cli.output import echo
from clusterjob.native_script import script_dialect
from clusterjob.profile import read_profile
from clusterjob.script import JobScript, JobSettings

Command = TypeVar("Command", bound=Callable[..., Any])


class ScriptOptions(TypedDict):
    """The values of :func:`script_options`."""

    script: str
    profile: str | None
    resources: Sequence[str]
    params: Sequence[str]
    backend: str | None
    name: str | None
    workdir: str | None
    inputs: Sequence[str]
    outputs: Sequence[str]
    verbatim: bool
    convert: bool


_OPTIONS = [
    click.argument("script", type=click.Path(exists=True, dir_okay=False)),
    click.option(
        "-p",
        "--profile",
        metavar="INI",
        help="The profile: which backend, where, with which resources.",
    ),
    click.option(
        "-r",
        "--resource",
        "resources",
        multiple=True,
        metavar="NAME=VALUE",
        help="A resource, for example time=5m; may be repeated.",
    ),
    click.option(
        "-d",
        "--define",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A variable of the body; may be repeated.",
    ),
    click.option("-b", "--backend", help="The backend, in place of the profile's."),
    click.option(
        "-n", "--name", help="The job's name; by default the script's file name."
    ),
    click.option(
        "-w", "--workdir", help="The working directory, in place of the profile's."
    ),
    click.option(
        "-i",
        "--input",
        "inputs",
        multiple=True,
        metavar="FILE",
        help="A file or folder the job reads; may be repeated.",
    ),
    click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        metavar="PATTERN",
        help="What to fetch when the job has ended; may be repeated.",
    ),
    click.option(
        "--verbatim",
        is_flag=True,
        help="Take the script as it stands: it is no Jinja template.",
    ),
    click.option(
        "--convert",
        is_flag=True,
        help="Read the directives of another scheduler (#SBATCH, #PBS, ...) for this one.",
    ),
]


def script_options(command: Command) -> Command:
    """Add the argument and the options that make a job of a script file."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_job(options: ScriptOptions) -> JobScript:
    """Make the job that the options describe."""
    backend = options["backend"]
    if backend is None and options["profile"] is not None:
        backend = read_profile(options["profile"]).attributes.get("backend")
    settings: JobSettings = {} if backend is None else {"backend": backend}
    dialect = (
        script_dialect(options["script"], backend) if options["convert"] else None
    )
    job = JobScript.from_script(
        options["script"],
        dialect=dialect,
        inputs=options["inputs"],
        outputs=options["outputs"],
        params=read_pairs(options["params"]),
        verbatim=options["verbatim"],
        **settings,
    )
    if options["profile"] is not None:
        job.read_settings(options["profile"])
    for key, value in map(split_pair, options["resources"]):
        job.set_resource(key, value)
    if options["backend"] is not None:
        job.backend = options["backend"]
    if options["workdir"] is not None:
        job.workdir = options["workdir"]
    if options["name"] is not None:
        job.jobname = options["name"]
    for option in job.left_out:
        echo(f"no equivalent for {job.get_backend().title}: {option}", err=True)
    return job


def read_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return the values of ``-d NAME=VALUE`` by their names, each of which is said once."""
    found: dict[str, str] = {}
    for name, value in map(split_pair, texts):
        if name in found:
            raise click.UsageError(
                f"-d {name} is said twice: {found[name]!r} and {value!r}; of sweep all values "
                f"stand in one, -d {name}=A,B"
            )
        found[name] = value
    return found


def split_pair(text: str) -> tuple[str, str]:
    """Return name and value of ``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip("-"):
        raise click.UsageError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value
