"""What templates leave of their lines."""

from __future__ import annotations

import pytest

from clusterjob import JobScript


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("./run{% if hot %} --hot{% endif %}\n./next\n", "./run\n./next\n"),
        ("./run {% if not hot %}a{% endif %}\n./next\n", "./run a\n./next\n"),
        ("{% if hot %}\nhot\n{% endif %}\ncold\n", "cold\n"),
        (
            "{% for n in range(2) %}\n  {% if n %}\n n{{ n }}\n  {% endif %}\n{% endfor %}\n",
            " n1\n",
        ),
        ("{=# a word #=}\na{=# b #=}\nc\n", "a\nc\n"),
        (
            "{% raw %}{{ x }}{% endraw %}\n{% if hot %}{% endif %}\nend\n",
            "{{ x }}\nend\n",
        ),
        ("printf '{%s}\\n' {% if hot %}x{% endif %}\nb\n", "printf '{%s}\\n' \nb\n"),
    ],
)
def test_a_line_break_goes_with_a_line_of_blocks_alone(
    body: str, expected: str
) -> None:
    assert JobScript(body, "job", params={"hot": False}).render_body() == expected
