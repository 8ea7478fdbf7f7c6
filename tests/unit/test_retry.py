"""What a job that failed asks for when it is tried again."""

from __future__ import annotations

import pytest

from clusterjob import Retry
from clusterjob.retry import changed_resources


@pytest.mark.parametrize(
    "host", ["", "-x", "a b", "node1;reboot", "a\nb", "node1,node2"]
)
def test_only_the_name_of_a_node_is_left_out(host: str) -> None:
    """The name is what the job wrote into its exit record, and goes into a directive."""
    rules = Retry(1, exit={"exclude": True}).rules()
    assert changed_resources(rules, {"exclude": True}, {}, host) == {}


def test_nodes_are_left_out_once_each() -> None:
    rules = Retry(3, exit={"exclude": True}).rules()
    left_out: dict[str, object] = {}
    for host in ("node1", "node2.lab", "node1"):
        changed = changed_resources(rules, {"exclude": True}, left_out, host)
        assert changed is not None
        left_out = changed
    assert left_out == {"exclude": ["node1", "node2.lab"]}
