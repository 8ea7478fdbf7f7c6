"""A login node that lies, floods and stalls: it gets nothing, and costs one clear error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterjob import AsyncResult, ClusterJobError, JobScript, Session, Status
from clusterjob.transport import base
from tests.conftest import namespace

MODES = [
    *(
        "flood",
        "flood-errors",
        "line",
        "stall",
        "drip",
        "silent",
        "refuse",
        "garbage",
    ),
    *("digits", "zeros", "escapes", "twice", "cut", "swapped", "outside", "success"),
]
LONGEST = 60  # s of one call
SECRET = "what nobody else should read"


@pytest.fixture(params=["ssh", "openssh"])
def profile(lab: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The profile of jobs on the liar's host; the fixture's world is the lab's network."""
    with namespace(lab):
        Path("p.ini").write_text(
            "[Attributes]\nbackend = local\nremote = lab-liar\n"
            f"transport = {request.param}\nssh_config = {lab}/ssh/config\n"
            f"rootdir = {lab}/ssh/home/liar\nworkdir = {Path.cwd().name}-{request.param}\n"
            "[Limits]\nfirst_poll = 0\npoll_interval = 0\ncommand_timeout = 20\nretry_wait = 0.1\n"
            "lost_after = 2\nconnections = 1000\n"
        )
        short = (
            Path("p.ini")
            .read_text()
            .replace("command_timeout = 20", "command_timeout = 1")
        )
        Path("short.ini").write_text(short)
        yield Path("p.ini")


@pytest.fixture
def set_mode(lab: Path) -> Iterator[Callable[[str], None]]:
    path = lab / "ssh/home/liar/mode"

    def write(mode: str) -> None:
        path.write_text(mode)
        path.chmod(0o644)

    write("honest")
    yield write
    write("honest")


def attempt(deed: Callable[[], object]) -> str:
    """Do something, in time; return what it was told that went wrong."""
    began = time.monotonic()
    try:
        deed()
    except ClusterJobError as error:
        said = str(error)
        assert "\x1b" not in said
        assert len(said) < 20_000
        return said
    finally:
        assert time.monotonic() - began < LONGEST
    return ""


@pytest.mark.xdist_group("liar")  # there is one, and it has one mode at a time
@pytest.mark.parametrize("mode", MODES)
def test_whatever_it_says(
    mode: str,
    profile: Path,
    set_mode: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("precious").write_text(SECRET)
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    into = Path("into").absolute()
    with Session("store") as session:
        body = "mkdir -p out; echo 1 >out/a; echo 2 >out/b; echo done"
        job = JobScript(body, "before")
        job.read_settings(str(profile))
        first = session.submit([job])[0]
        assert first.wait(60)
        assert first.status is Status.COMPLETED
        set_mode(mode)
        session.connections.close()
        with monkeypatch.context() as patch:
            be_short(patch)
            said = meet(session, first, into)
        if mode in ("flood", "line", "stall", "drip", "silent", "refuse", "garbage"):
            assert all(said)
        for path, content in before.items():
            assert path.read_bytes() == content, path
        inside = [*into.rglob("*")] if into.exists() else []
        assert all(path.resolve().is_relative_to(into) for path in inside)
        set_mode("honest")
        session.connections.close()
        assert first.stdout() == "done\n"
        assert first.status is Status.COMPLETED
        for result in session.results():
            result.wait(60)
            assert result.status.finished, result.words


def be_short(patch: pytest.MonkeyPatch) -> None:
    """Make the bounds small, so that they are met."""
    assert base.MOST_OUTPUT > 8 << 20
    for name in ("remote", "local"):
        patch.setattr(f"clusterjob.transport.{name}.MOST_OUTPUT", 8 << 20)
        patch.setattr(f"clusterjob.transport.{name}.MOST_ERRORS", 1 << 20)
    patch.setattr("clusterjob.transport.remote.IDLE", 0.5)
    patch.setattr("clusterjob.files.logs._PATIENCE", 0.5)


def meet(session: Session, first: AsyncResult, into: Path) -> list[str]:
    """Ask the liar for all there is; return what was told of the log, the list and the files."""
    another = JobScript("echo another", "another")
    another.read_settings("short.ini")
    said = [
        attempt(first.stdout),
        attempt(lambda: first.files("out/**")),
        attempt(lambda: first.fetch(["out/"], into)),
    ]
    attempt(lambda: first.tail(5))
    attempt(first.explain)
    attempt(lambda: session.submit([another]))
    for result in session.results():
        if result.name == "another":
            attempt(result.refresh)
            attempt(result.cancel)
    return said
