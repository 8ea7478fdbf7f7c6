"""Ten thousand finished records: a fresh process submits the same jobs again, and asks nobody.

And 5,000 running handles.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import report, stopwatch, workplace

from clusterjob import JobScript, Status, submit

COUNT = 10_000
AGAIN = f"""
from clusterjob import JobScript, Status, submit
JobScript.read_defaults("p.ini")
results = submit([
    JobScript("./run --T {{{{ T }}}}", f"job{{n}}", params={{"T": n}}) for n in range({COUNT})
])
assert all(result.status == Status.COMPLETED for result in results)
print(results[0].cluster.scheduler.commands, results[0].cluster.scheduler.trips)
"""
PROFILE = (
    "[Attributes]\nbackend = slurm\n[Commands]\nsubmit = . ./count.sh\nactive = cat "
    "listing; echo asked >> asked\n"
)

with workplace():
    Path("count.sh").write_text("cj_n=$((cj_n + 1)); echo $cj_n$cj_me\n")
    Path("p.ini").write_text(PROFILE)
    JobScript.read_defaults("p.ini")
    results = submit(
        [
            JobScript("./run --T {{ T }}", f"job{n}", params={"T": n})
            for n in range(COUNT)
        ]
    )
    half = results[: COUNT // 2]
    Path("listing").write_text(
        "".join(
            f"{result.job_id}|RUNNING|0|0|clusterjob:{result.record.token}||\n"
            for result in results
        )
    )
    with stopwatch() as watch:
        states = {result.status for result in half}
    asked = Path("asked").read_text().count("asked") if Path("asked").exists() else 0
    assert states == {Status.RUNNING}
    report(f"status of {len(half)} running handles: commands", asked, "", "<= 1")
    report("... and its time", watch[0] * 1000, "ms", "-")
    results[0].store.update(
        [result.record for result in results],
        lambda record: setattr(record.task, "status", Status.COMPLETED),
    )
    with stopwatch() as watch:
        done = subprocess.run(
            [sys.executable, "-c", AGAIN], check=True, capture_output=True, text=True
        )
    report(
        f"{COUNT} finished jobs submitted again by a fresh process",
        watch[0],
        "s",
        "< 2",
    )
    report("... with scheduler commands", float(done.stdout.split()[0]), "", "0")
