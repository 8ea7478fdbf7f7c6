"""What the words of commands that failed mean; each was seen on the scheduler itself."""

from __future__ import annotations

import pytest

from clusterjob.backend import ErrorKind, load_backend


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        # Grid Engine 8.1.9, qstat -u me -j '*' where there is no job at all
        ("sge", ErrorKind.UNKNOWN, "Following jobs do not exist: \n*"),
        # Slurm 22.05, in a shell that does not say where its configuration is
        (
            "slurm",
            ErrorKind.RETRY,
            "sbatch: error: fetch_config: DNS SRV lookup failed\n"
            "sbatch: fatal: Could not establish a configuration source",
        ),
        (
            "slurm",
            ErrorKind.RETRY,
            "sbatch: fatal: Unable to process configuration file",
        ),
        (
            "sge",
            ErrorKind.RETRY,
            "Unable to run job: unable to send message to qmaster using port 6444",
        ),
    ],
)
def test_words_of_commands_that_failed(
    name: str, kind: ErrorKind, words: str
) -> None:
    backend = load_backend(name)
    assert backend.matches(kind, words)
    others = {ErrorKind.RETRY, ErrorKind.LIMIT, ErrorKind.UNKNOWN} - {kind}
    assert not any(backend.matches(other, words) for other in others)
