"""What the command line prints."""

from __future__ import annotations

import json

import pytest

from clusterjob.cli.output import print_json_rows


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1200])
def test_json_has_an_object_a_line(
    capsys: pytest.CaptureFixture[str], count: int
) -> None:
    odd = 'a"}, {"b\n},\n{\\"'
    rows = [
        {"name": odd, "number": number, odd: {"x": [odd]}} for number in range(count)
    ]
    print_json_rows(rows)
    printed = capsys.readouterr().out
    assert json.loads(printed) == rows
    assert printed.count("\n") == max(count, 1)
