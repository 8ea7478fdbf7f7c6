"""What others print, cut, doubled and changed: it is read or told, and never raises.

Begins with answers of real schedulers. ``make fuzz`` gives it more time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clusterjob import SettingsError
from clusterjob.backend import load_backend, read_exit_record, read_native
from clusterjob.backend.parse import read_output
from clusterjob.engine.replies import parse_exit_records, parse_owners, parse_receipts
from clusterjob.files.listing import _read_listing
from clusterjob.shell import split_reply
from clusterjob.store import JobSpec, Record
from clusterjob.units import parse_memory, parse_time

RECORDINGS = Path(__file__).parent.parent / "recordings"
# 15 s is what the command line gets in CI; these get a share of it each
EXAMPLES = int(100 * float(os.environ.get("CLUSTERJOB_FUZZ_SECONDS", "15")) / 15)
SCHEDULERS = {
    "slurm": "slurm-22.05.8/*.txt",
    "sge": "sge-8.1.9/*.txt",
    "pbspro": "pbspro-23.06.06/q*",
    "torque": "torque/*",
    "lsf": "lsf/*",
    "htcondor": "htcondor-23.9.6/*",
    "flux": "flux-0.88.0/*",
}
ODD = [
    *(
        "²",
        "7" * 5000,
        "-1",
        "1e400",
        "NaN",
        "\0",
        "\x1b[2J",
        "\n",
        "|",
        "=",
        "[",
        "{",
        '"',
        "\\",
    ),
    *(
        "\u2028",
        "\r",
        "\udcff",
        "null",
        "true",
        "[[[[",
        "9999-99-99T99:99:99",
        "(",
        "%",
        ":",
        "",
    ),
]
EXIT_RECORD = (
    "job=12\nhost=n1\nstart=1795000000\nlimit=60\nwarned=TERM 1795000050\n"
    "0m0.01s 0m0.02s\n1m2.5s 0m3,25s\nreason=dependency\nexit=3\nend=1795000060\n"
)
LISTING = "-rw-r--r-- 1 a b 12 ./a.txt\n" + "ab" * 32 + "  ./a.txt\n"
RECEIPTS = "=0123456789abcdef 0 12\x1f\n=fedcba9876543210 1 no such queue\x1f\n"
NATIVE = (
    "#!/bin/bash\n#SBATCH --time=1-02:03:04 -n 4\n#SBATCH --mem=4G\n#PBS -l select=2:ncpus=4\n"
    "#$ -l h_rt=1:0:0 -pe smp 4\n#BSUB -W 10 -n 4\n#MSUB -l nodes=2:ppn=4\ntrue\n"
)

budget = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@st.composite
def changed(draw: st.DrawFn, text: str) -> str:
    """Draw the text with some of it cut, doubled, moved or replaced."""
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        piece = draw(
            st.sampled_from([*ODD, text[start:end] * 2]) | st.text(max_size=5)
        )
        text = text[:start] + piece + text[end:]
    return text


def check_all(text: str, deed: Callable[[str], object]) -> None:
    """Do it with many changes of a text."""

    @budget
    @given(changed(text))
    def attempt(found: str) -> None:
        deed(found)

    attempt()


@pytest.mark.parametrize("backend", SCHEDULERS)
def test_answers_of_schedulers(backend: str) -> None:
    outputs = load_backend(backend).outputs
    samples = [
        path.read_text(errors="replace")[:6000]
        for path in sorted(RECORDINGS.glob(SCHEDULERS[backend]))
    ]
    assert samples
    for output in (outputs.active, outputs.finished):
        if output.pattern is None and output.format not in ("json", "blocks"):
            continue  # there is no such command
        for sample in samples[:4]:
            check_all(sample, lambda text, output=output: read_output(output, text))  # type: ignore[misc]


def test_exit_records_and_receipts() -> None:
    check_all(EXIT_RECORD, read_exit_record)
    check_all(EXIT_RECORD, parse_exit_records)
    check_all(RECEIPTS, parse_receipts)
    check_all(RECEIPTS, parse_owners)
    check_all(
        f"\nmark active\n{RECEIPTS}mark done\n",
        lambda text: split_reply(text, "mark"),
    )


def test_listings_never_lead_out() -> None:
    def check(text: str) -> None:
        for file in _read_listing(text):
            assert not file.path.startswith(("/", "../"))
            assert file.path != ".."
            assert file.size >= 0

    check_all(LISTING, check)


def test_directives_and_units_are_read_or_refused() -> None:
    for name in ("slurm", "sge", "pbspro", "torque", "lsf"):
        backend = load_backend(name)

        def read(text: str, backend: object = backend) -> None:
            try:
                read_native(backend, text)  # type: ignore[arg-type]
            except SettingsError:
                return

        check_all(NATIVE, read)

    def parse(text: str) -> None:
        for parser in (parse_time, parse_memory):
            try:
                assert parser(text) >= 0
            except SettingsError:
                continue

    check_all("1-02:03:04", parse)
    check_all("4.5 GiB", parse)


def test_records_are_read_or_refused() -> None:
    made = Record(
        "k", "t", "n", "slurm", "/w", "/r", spec_json=JobSpec(body="x").to_json()
    )
    made.task.note_event(1.0, "PENDING", "submitted")
    made.task.usage = {"cpu": 1.0}
    spec = json.dumps(json.loads(made.spec_json), indent=1)

    def read_state(text: str) -> None:
        try:
            found = Record.from_json(text, made.spec_json)
        except ValueError:
            return
        assert (
            Record.from_json(found.to_json(), found.spec_json).to_json()
            == found.to_json()
        )

    def read_spec(text: str) -> None:
        try:
            found = Record.from_json(made.to_json(), text)
        except ValueError:
            return
        assert JobSpec.from_json(found.spec.to_json()) == found.spec

    check_all(made.to_json(), read_state)
    check_all(spec, read_spec)
