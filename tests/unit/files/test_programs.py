"""The programs that a body calls, and files that it merely mentions."""

from __future__ import annotations

import pytest

from clusterjob.files import programs_in


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("python3 sim.py -T 3 > out.txt", ["sim.py"]),
        ("./simulate input.dat", ["./simulate"]),
        ("Rscript a.R", ["a.R"]),
        ("cd x && srun -n 4 ./mpi_prog in.nml", ["./mpi_prog"]),
        ("mpirun -np 4 python -u scripts/run.py a.json", ["scripts/run.py"]),
        (
            "OMP_NUM_THREADS=4 time ./a.out; bash post.sh | tee log/x",
            ["./a.out", "post.sh"],
        ),
        ("for i in 1 2; do ./run_$i.sh; /opt/bin/x $i; done", ["/opt/bin/x"]),
        ("if [ -e data/x ]; then perl fix.pl; fi", ["fix.pl"]),
        ("python -m package.tool data/x", []),
        ("python3 -c 'print(1)'", []),
        ("cat data/in.dat > results/out.dat", []),
        ("# ./not_this\necho './nor this'", []),
        ("echo 'unbalanced", []),
        ("#!/usr/bin/env python3\nimport os", []),
        ("#!/bin/bash -l\n./yes", ["./yes"]),
        ("#!/usr/bin/env bash\n./yes", ["./yes"]),
        ("#!/bin/bash\n./yes \\\n  --long", ["./yes"]),
        ("", []),
        ("source env.sh; . ./more.sh\nsource activate", ["env.sh", "./more.sh"]),
        ("python3 -W ignore -X dev sim.py", ["sim.py"]),
        ('python3 "$PWD/sim.py"; ${PWD}/run.sh', ["sim.py", "run.sh"]),
        ("python3 $CLUSTERJOB_WORKDIR/sub/sim.py", ["sub/sim.py"]),
        ("gawk -F , -f prog.awk data.csv", ["prog.awk"]),
    ],
)
def test_programs_of_a_body(body: str, expected: list[str]) -> None:
    assert list(programs_in(body)) == expected
