"""What a far host costs: submissions and polls at 50 ms round trip, files against tar and scp, and
pysqa. `make lab` first; needs root.

Everything goes through the real sshd of the lab; the far line is tests/lab/proxy.py with 25 ms each
way. pysqa (with paramiko, one connection, as we have) submits the same held jobs over the same
line; it is installed into .venv/peers (`make bench` does).
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import report, stopwatch, workplace

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from clusterjob import JobScript, submit  # noqa: E402
from clusterjob.files import Upload, upload  # noqa: E402
from clusterjob.script import default_session  # noqa: E402
from clusterjob.session import close_default_sessions  # noqa: E402
from tests.lines import far_line  # noqa: E402

LAB = Path(
    os.environ.get("CLUSTERJOB_LAB")
    or Path(os.environ.get("TMPDIR", "/tmp")) / "clusterjob-lab"
)
PEER = ROOT / ".venv/peers/bin/python"
DELAY = 0.025  # s each way
COUNT, ROUNDS = 500, 3
PYSQA = """
import json, sys, time
from pysqa import QueueAdapter
count, directory, work = int(sys.argv[1]), sys.argv[2], sys.argv[3]
import os
queue = QueueAdapter(directory=directory)
began = time.perf_counter()
for number in range(count):
    folder = f"{work}/{number}"
    os.makedirs(folder)
    # 1.1.1 runs what is given as the command over there: its own line for a submission
    there = queue._adapter._get_remote_working_dir(folder)
    asked = dict(queue="main", job_name=f"peer{number}", working_directory=there, cores=1)
    line = queue._adapter._submit_command(**asked, command_str="true")
    assert queue.submit_job(working_directory=folder, command=line) > 0
print(json.dumps(time.perf_counter() - began))
"""


def clear() -> None:
    """Cancel the held jobs, and let the controller and the disk come to rest."""
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    time.sleep(5)


def jobs(
    count: int, label: str, config: Path, host: str, kind: str
) -> list[JobScript]:
    settings: dict[str, Any] = {
        "backend": "slurm",
        "remote": host,
        "transport": kind,
        "ssh_config": str(config),
        "rootdir": os.getcwd(),
    }
    return [
        JobScript(
            f"true {label} {number}", f"bench{number}", mem=10, hold=True, **settings
        )
        for number in range(count)
    ]


def submitted(count: int, config: Path, host: str, kind: str) -> tuple[float, Any]:
    """Submit a batch over a new connection; return the seconds that took, and a handle."""
    batch = jobs(count, f"{time.time_ns()}", config, host, kind)
    way: Any = batch[0].get_backend() and submit_transport(batch[0])
    way.close()
    if kind == "openssh":
        way.disconnect()
    before = way.trips
    with stopwatch() as watch:
        results = submit(batch)
    assert all(result.job_id for result in results)
    results[0].cluster.trips_of_batch = way.trips - before
    return watch[0], results[0]


def submit_transport(job: JobScript) -> Any:
    scheduler = default_session().engine.scheduler(job.cluster_reference)
    scheduler.transport.state.limit = 10_000  # type: ignore[attr-defined]
    return scheduler.transport


def latency(kind: str, far: Path) -> None:
    """500 jobs at 50 ms, against the same without latency."""
    near_times, far_times = [], []
    for _ in range(ROUNDS):
        seconds, _ = submitted(COUNT, LAB / "ssh/config", "lab-noacct", kind)
        near_times.append(seconds)
        clear()
        seconds, last = submitted(COUNT, far, "far", kind)
        far_times.append(seconds)
        trips = last.cluster.trips_of_batch
        clear()
    _, few = submitted(5, far, "far", kind)
    near, slow = statistics.median(near_times), statistics.median(far_times)
    report(f"{kind}: {COUNT} jobs, no latency, with the login", near, "s", "-")
    report(
        f"{kind}: {COUNT} jobs at 50 ms, with the login",
        slow,
        "s",
        f"<= {1.5 * near + 1:.2f} (1.5 x + 1 s)",
    )
    report(
        f"{kind}: round trips of {COUNT} jobs",
        trips,
        "",
        f"= {few.cluster.trips_of_batch}, those of 5 jobs",
    )
    clear()


def poll(kind: str, far: Path) -> None:
    """One poll of 1,000 jobs."""
    _, last = submitted(1000, far, "far", kind)
    cluster = last.cluster
    cluster.refresh(force=True)
    trips, commands = cluster.scheduler.transport.trips, cluster.scheduler.commands
    with stopwatch() as watch:
        cluster.refresh(force=True)
    report(
        f"{kind}: one poll of 1,000 jobs at 50 ms: commands",
        cluster.scheduler.commands - commands,
        "",
        "<= 2",
    )
    report(
        f"{kind}: one poll of 1,000 jobs at 50 ms: round trips",
        cluster.scheduler.transport.trips - trips,
        "",
        "<= 2",
    )
    report(f"{kind}: one poll of 1,000 jobs at 50 ms", watch[0], "s", "-")
    clear()


def timed(action: Callable[[], object]) -> float:
    with stopwatch() as watch:
        action()
    return watch[0]


def files(kind: str, folder: Path) -> None:
    """1,000 small files against tar, and one of 1 GB against scp, in turns; with a login, and over
    the connection that there is.
    """
    import hashlib

    config = str(LAB / "ssh/config")
    there = folder / "there"
    many = folder / "many"
    many.mkdir(exist_ok=True)
    for number in range(1000):
        (many / f"{number}.dat").write_bytes(os.urandom(1024))
    big = folder / "big"
    if not big.exists():
        with big.open("wb") as file:
            for _ in range(1000):
                file.write(os.urandom(1_000_000))
    # known: the job's key is made of them
    digests = {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*many.iterdir(), big]
    }
    ssh = ["ssh", "-F", config, "-l", "quiet", "lab-plain"]

    way: Any = default_session().connections.open(
        "quiet@lab-plain", kind, config, 10_000
    )

    def ours(paths: list[Path], login: bool = False) -> None:
        if login:
            way.close()
            if kind == "openssh":
                way.disconnect()
        upload(
            way,
            [
                Upload(
                    str(there / "ours" / path.name),
                    path,
                    replace=True,
                    digest=digests[path],
                )
                for path in paths
            ],
        )

    def tar() -> None:
        line = (
            f"tar -C {many} -cf - . | {' '.join(ssh)} 'mkdir -p {there}/tar && tar -C "
            f"{there}/tar -xf -'"
        )
        subprocess.run(["/bin/sh", "-c", line], check=True)

    def scp() -> None:
        (there / "scp").mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["scp", "-q", "-F", config, str(big), f"quiet@lab-plain:{there}/scp/"],
            check=True,
        )

    small = list(many.iterdir())
    times: dict[str, list[float]] = {
        "tar": [],
        "login": [],
        "small": [],
        "scp": [],
        "big": [],
    }
    for _ in range(ROUNDS):
        for name, action in {
            "tar": tar,
            "login": lambda: ours(small, True),
            "small": lambda: ours(small),
            "scp": scp,
            "big": lambda: ours([big], True),
        }.items():
            subprocess.run(["rm", "-rf", str(there)], check=True)
            subprocess.run(["sync", "-f", str(folder)], check=True)
            times[name].append(timed(action))
    found = {name: statistics.median(values) for name, values in times.items()}
    report("tar | ssh tar", found["tar"], "s", "-")
    report(f"{kind}: 1,000 files of 1 KB, connected", found["small"], "s", "-")
    report("ratio", found["small"] / found["tar"], "x", "<= 1")
    report(f"{kind}: 1,000 files of 1 KB, with the login", found["login"], "s", "-")
    report("ratio", found["login"] / found["tar"], "x", "-")
    report(f"{kind}: 1 GB", 1000 / found["big"], "MB/s", "-")
    report("scp", 1000 / found["scp"], "MB/s", "-")
    report("ratio", found["scp"] / found["big"], "x", ">= 0.7")


def peer(far: Path, folder: Path) -> None:
    """50 held jobs by pysqa and by us, over the same line."""
    if not PEER.exists():
        print(f"pysqa is not installed in {PEER}: make bench does that")
        return
    port = far.read_text().split("Port ")[1].split()[0]
    for name in ("local", "remote", "work", "far"):
        (folder / name).mkdir()
    queues = {"main": {"cores_min": 1, "cores_max": 4, "run_time_max": 3600}}
    settings = {
        "queue_type": "REMOTE",
        "queue_primary": "main",
        "ssh_host": "127.0.0.1",
        "ssh_username": "quiet",
        "ssh_key": f"{LAB}/ssh/key",
        "ssh_port": int(port),
        "ssh_remote_config_dir": f"{folder}/remote",
        "ssh_remote_path": f"{folder}/far",
        "ssh_local_path": f"{folder}/work",
        "ssh_continous_connection": True,
        "python_executable": str(PEER),
        "queues": queues,
    }
    (folder / "local/queue.yaml").write_text(json.dumps(settings))  # JSON is YAML
    there = {
        "queue_type": "SLURM",
        "queue_primary": "main",
        "queues": {"main": {**queues["main"], "script": "main.sh"}},
    }
    (folder / "remote/queue.yaml").write_text(json.dumps(there))
    script = (
        "#!/bin/bash\n#SBATCH --job-name={{job_name}}\n#SBATCH "
        "--chdir={{working_directory}}\n#SBATCH --hold\n#SBATCH --mem=10\n{{command}}\n"
    )
    (folder / "remote/main.sh").write_text(script)
    command = [
        str(PEER),
        "-c",
        PYSQA,
        "50",
        str(folder / "local"),
        str(folder / "work"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        print(f"pysqa failed:\n{done.stderr[-2000:]}")
        return
    theirs = json.loads(done.stdout.splitlines()[-1])
    clear()
    seconds, _ = submitted(50, far, "far", "ssh")
    clear()
    report("pysqa: 50 jobs at 50 ms", theirs, "s", "-")
    report("ssh: 50 jobs at 50 ms, with the login", seconds, "s", "-")
    report("ratio", seconds / theirs, "x", "< 1")


@contextlib.contextmanager
def place() -> Iterator[Path]:
    os.environ["SLURM_CONF"] = str(LAB / "noacct" / "slurm.conf")
    # what the disk does is no business of ours
    with workplace("/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        os.environ["XDG_STATE_HOME"], os.environ["XDG_RUNTIME_DIR"] = (
            f"{name}/state",
            name,
        )
        yield Path(name)
        close_default_sessions()


with place() as where, far_line(LAB, "noacct", where, "--delay", DELAY) as slow_line:
    wanted = sys.argv[1:] or ["latency", "poll", "files", "peer"]
    for transport in ("ssh", "openssh"):
        for step in (latency, poll):
            if step.__name__ in wanted:
                step(transport, slow_line)
        if "files" in wanted:
            files(transport, where)
    if "peer" in wanted:
        peer(slow_line, where)
