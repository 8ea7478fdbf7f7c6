"""Inputs go up and outputs come back: whole, under their names, and no more often than needed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from clusterjob import AsyncResult, Status, submit, wait
from clusterjob.errors import (
    CommandError,
    JobFailedError,
    SettingsError,
    TransportError,
)
from clusterjob.files.outgoing import blocks_of
from clusterjob.files.send import LARGE
from clusterjob.store import ONCE_DONE
from clusterjob.transport import RemoteTransport

from .conftest import Flavour, on
from .test_contract import until

EVERYWHERE = ("local", "local@ssh", "local@openssh", "slurm@ssh", "sge@openssh")
FAR = ("local@ssh", "local@openssh")


@pytest.fixture
def far(cluster: Flavour, tmp_path: Path) -> Path:
    """A root folder that is not the folder of the submission: as if it were on another machine."""
    root = tmp_path / "far away"
    cluster.profile.write_text(
        cluster.profile.read_text().replace(
            f"rootdir = {Path.cwd()}", f"rootdir = {root}"
        )
    )
    if not cluster.way:
        profile = Path("far.ini")
        profile.write_text(
            cluster.profile.read_text().replace(
                "[Attributes]", f"[Attributes]\nrootdir = {root}"
            )
        )
        cluster.profile = profile.absolute()
    return root


def trips(result: AsyncResult) -> int:
    return getattr(result.cluster.scheduler.transport, "trips", 0)


@on(*EVERYWHERE)
def test_files_folders_globs_and_renames_go_up_and_come_back(
    cluster: Flavour, far: Path
) -> None:
    Path("data/sub").mkdir(parents=True)
    for name in (
        "data/one.dat",
        "data/sub/two words.dat",
        "data/sub/ünï.dat",
        "-dash",
        "plain",
    ):
        Path(name).write_text(f"{name}\n")
    Path("link").symlink_to("data/one.dat")
    os.chmod("plain", 0o755)
    big = os.urandom(LARGE + 12345)
    Path("big").write_bytes(big)
    body = """set -e
test -x plain
cat data/one.dat 'data/sub/two words.dat' data/sub/ünï.dat ./-dash link renamed/to/me all/one.dat
mkdir -p out/deep; cp big out/deep/; echo one > './out/-a b.txt'; echo two > out/é.txt
ln -s ../big out/linked; echo r > result
"""
    result = cluster.run(
        body,
        workdir="w",
        inputs=[
            "data",
            "-dash",
            "plain",
            "link",
            ("plain", "renamed/to/me"),
            ("data/*.dat", "all"),
            "big",
        ],
        outputs=["out", ("result", "got/it"), ("out/*.txt", "texts")],
    )
    assert result.wait(90)
    assert result.get() == Status.COMPLETED
    lines = [
        "data/one.dat",
        "data/sub/two words.dat",
        "data/sub/ünï.dat",
        "-dash",
        "data/one.dat",
        "plain",
        "data/one.dat",
    ]
    assert result.stdout().split("\n")[:7] == lines
    assert Path("w/out/deep/big").read_bytes() == big
    assert Path("w/out/linked").read_bytes() == big
    assert not Path("w/out/linked").is_symlink()
    assert Path("w/got/it").read_text() == "r\n"
    assert sorted(os.listdir("w/texts")) == ["-a b.txt", "é.txt"]
    assert not [
        path
        for path in Path.cwd().rglob("*")
        if path.name.startswith(".clusterjob-part")
    ]
    files = {file.path: file.size for file in result.files("out/**", "result")}
    assert files == {
        "out/deep/big": len(big),
        "out/-a b.txt": 4,
        "out/é.txt": 4,
        "out/linked": len(big),
        "result": 2,
    }
    assert [file.path for file in result.files("**/*.txt")] == [
        "out/-a b.txt",
        "out/é.txt",
    ]
    assert result.fetch([("out/?.txt", "other/")], into="elsewhere") == [
        Path.cwd() / "elsewhere/other/é.txt"
    ]


@on(*FAR)
def test_what_is_there_is_not_sent_again_and_what_is_shared_is_sent_once(
    cluster: Flavour, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    feed = RemoteTransport.feed

    def counting(self: Any, script: str, data: Any) -> Any:
        def counted() -> Any:
            for block in data:
                sent.append(len(block))
                yield block

        return feed(self, script, counted())

    monkeypatch.setattr(RemoteTransport, "feed", counting)
    Path("shared").write_bytes(os.urandom(1 << 20))
    Path("large").write_bytes(os.urandom(6 << 20))
    jobs = [
        cluster.job(
            f"cmp shared large | tail -n 1; echo {number}",
            workdir=f"w{number}",
            inputs=["shared", "large"],
        )
        for number in range(4)
    ]
    results = cluster.batch(jobs)
    assert sum(sent) < 7.2 * (1 << 20)
    wait(results, 60)
    assert [result.status for result in results] == [Status.COMPLETED] * 4
    sent.clear()
    again = cluster.batch(
        [
            cluster.job(
                "cmp shared large; true", workdir="w2", inputs=["shared", "large"]
            )
        ]
    )
    assert sum(sent) < 10_000
    assert again[0].wait(60)
    Path("shared").write_bytes(b"new")
    sent.clear()
    third = cluster.batch(
        [cluster.job("cat shared", workdir="w2", inputs=["shared", "large"])]
    )
    assert sum(sent) < 10_000
    assert third[0].wait(60)
    assert third[0].stdout() == "new"


@on(*FAR)
def test_a_large_file_goes_on_where_the_line_broke(
    cluster: Flavour, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(16 << 20)
    Path("large").write_bytes(content)
    total = [0]

    def breaking(content: Any, offset: int = 0) -> Any:
        for number, data in enumerate(blocks_of(content, offset)):
            if isinstance(content, Path) and offset == 0 and number == 9:
                time.sleep(0.5)  # what was sent is over there
                transport._drop() if cluster.way == "ssh" else transport.disconnect()
                time.sleep(0.2)
            if isinstance(content, Path):
                total[0] += len(data)
            yield data

    result = cluster.finish("true")
    transport: Any = result.cluster.scheduler.transport
    connections = transport.connections
    for module in ("archive", "send"):
        monkeypatch.setattr(f"clusterjob.files.{module}.blocks_of", breaking)
    result = cluster.finish(
        "sha256sum large", workdir="w", inputs=["large"], outputs=["large"]
    )
    assert result.stdout().split()[0] == hashlib.sha256(content).hexdigest()
    assert transport.connections > connections
    assert total[0] < 30 << 20  # of 16 MB, and 2 MB that are looked at before
    assert Path("w/large").read_bytes() == content


@on(*FAR)
def test_outputs_of_many_jobs_come_in_few_round_trips(
    cluster: Flavour, far: Path
) -> None:
    counts = []
    for size in (2, 12):
        results = cluster.batch(
            [
                cluster.job(
                    f"echo {number} {size} > out.dat",
                    workdir=f"n{number}",
                    outputs=["out.dat"],
                )
                for number in range(size)
            ]
        )
        until(
            lambda results=results: all(
                result.record.finished or (not result.cluster.refresh() and False)
                for result in results
            ),
            60,
        )  # type: ignore[misc]
        before = trips(results[0])
        _, left = wait(results, 60)
        counts.append(trips(results[0]) - before)
        assert left == []
        assert [Path(f"n{number}/out.dat").read_text() for number in range(size)] == [
            f"{number} {size}\n" for number in range(size)
        ]
    assert counts[0] == counts[1] <= 2


@on("local", "local@ssh")
def test_outputs_that_are_not_there(cluster: Flavour, far: Path) -> None:
    result = cluster.run("echo x > there", outputs=["there", "miss*ing"])
    assert result.wait(60)
    assert result.status == Status.COMPLETED
    with pytest.raises(JobFailedError, match=r"not found in .*: miss\*ing"):
        result.get()
    assert Path("there").read_text() == "x\n"
    failed = cluster.finish("echo x > part; exit 1", outputs=["part", "missing"])
    assert failed.record.outputs is ONCE_DONE
    assert Path("part").exists()
    with pytest.raises(CommandError, match="not found"):
        failed.fetch(["nothing"])


@on("local", "local@ssh")
def test_outputs_that_are_named_later_come_without_running_again(
    cluster: Flavour, far: Path
) -> None:
    job = cluster.job("echo run >> runs; cp runs a; cp runs b", outputs=["a"])
    first = job.submit()
    assert first.wait(60)
    assert Path("a").exists()
    job.outputs = ["b"]
    second = job.submit()
    assert second.job_id == first.job_id
    assert second.wait(60)
    assert second.get() == Status.COMPLETED
    assert Path("b").read_text() == "run\n"
    again = cluster.job(
        "echo run >> runs; cp runs a; cp runs b", job.jobname
    ).submit()
    assert (again.job_id, again.record.outputs) == (first.job_id, ONCE_DONE)


@on("local@ssh", "local@openssh")
def test_names_that_lead_out_are_refused(
    cluster: Flavour, far: Path, tmp_path: Path
) -> None:
    for wrong in ("../up", "/etc/passwd", "a/../../b"):
        with pytest.raises(SettingsError, match="below the workdir"):
            cluster.job("true", outputs=[wrong]).submit()
        Path("x").write_text("")
        with pytest.raises(SettingsError, match="below the workdir"):
            cluster.job("true", inputs=[("x", wrong)]).submit()
    outside = tmp_path / "outside"
    outside.mkdir()
    Path("w").mkdir()
    Path("w/trap").symlink_to(outside)
    result = cluster.run(
        "mkdir trap; echo x > trap/file; echo y > good",
        workdir="w",
        outputs=["trap", "good"],
    )
    assert result.wait(60)
    assert "outside of" in result.record.outputs.error
    assert list(outside.iterdir()) == []
    assert Path("w/good").read_text() == "y\n"


@on(*EVERYWHERE)
def test_a_running_log_is_followed(cluster: Flavour) -> None:
    go = Path("go").absolute()
    result = cluster.run(
        f"echo line 1; until [ -e {go} ]; do sleep 0.1; done; "
        "for i in 2 3 4; do echo line $i; done; printf 'ü end'"
    )
    until(lambda: "line 1" in result.stdout())
    transport: Any = result.cluster.scheduler.transport
    connections = getattr(transport, "connections", 0)
    following = result.follow()
    assert next(following) == "line 1\n"
    go.touch()
    assert "".join(following) == "line 2\nline 3\nline 4\nü end"
    assert result.tail(2) == "line 4\nü end"
    assert getattr(transport, "connections", 0) == connections
    assert "".join(result.follow(1)) == "ü end"


@on("local@ssh", "local@openssh")
def test_an_unreadable_folder_is_an_error_that_loses_nothing(
    cluster: Flavour,
) -> None:
    Path("file").write_text("in the way")
    with pytest.raises(CommandError, match="cannot be written"):
        cluster.job("true", workdir="file/below").submit()
    assert cluster.job("true").submit().store.select()[0].workdir == str(Path.cwd())
    assert not isinstance(CommandError("x"), TransportError)


@on("slurm@ssh")
def test_a_host_without_python_bash_and_rsync(cluster: Flavour, far: Path) -> None:
    """Only sh and what POSIX has (busybox's, here), and the scheduler's commands."""
    cluster.profile.write_text(
        cluster.profile.read_text().replace("lab-slurm", "lab-bare")
    )
    Path("in put").write_text("given\n")
    Path("large").write_bytes(os.urandom(5 << 20))
    job = {
        "inputs": ["in put", "large"],
        "outputs": ["out*"],
        "workdir": "bare",
        "shell": "/bin/sh",
    }
    results = submit(
        [
            cluster.job(
                f"cat 'in put'; wc -c <large; echo {number} > 'out {number}'", **job
            )
            for number in range(3)
        ]
    )
    _, left = wait(results, 90)
    assert left == []
    assert [result.get() for result in results] == [Status.COMPLETED] * 3
    assert results[2].stdout() == f"given\n{5 << 20}\n"
    assert Path("bare/out 2").read_text() == "2\n"
    assert [file.path for file in results[0].files("large")] == ["large"]
    slow = cluster.job("sleep 600", shell="/bin/sh").submit()
    until(lambda: slow.status == Status.RUNNING)
    slow.cancel()
    assert slow.wait(60)
    assert slow.status == Status.CANCELLED
