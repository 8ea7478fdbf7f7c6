"""What a scheduler's host answered."""

from __future__ import annotations

import pytest

from clusterjob.backend import Answer
from clusterjob.engine.replies import Listing, Receipt, parse_owners, parse_receipts

ACCEPTED = "=token 0 12\037"
REFUSED = "=token 1 not now\037"
NOT_ASKED = "=token - not now\037"


@pytest.mark.parametrize("doubt", [REFUSED, NOT_ASKED])
def test_of_several_receipts_the_one_that_was_accepted_counts(doubt: str) -> None:
    for lines in ([ACCEPTED, doubt], [doubt, ACCEPTED]):
        found = parse_receipts("\n".join(lines))
        assert found == {"token": Receipt("token", 0, "12")}


def test_a_receipt_keeps_every_line_that_was_said() -> None:
    found = parse_receipts("noise\n=a 1 first\037second\037\n=b - x\037\n=broken\n")
    assert found == {
        "a": Receipt("a", 1, "first\nsecond"),
        "b": Receipt("b", None, "x"),
    }


def test_exit_records_name_the_job_that_ran() -> None:
    text = "t1.exit:job=12\nt2.3.exit:job=13[]\nt2.4.exit:job=14[]\nt3.exit:host=n\n"
    assert parse_owners(text) == {"t1": "12", "t2": "13[]"}


def test_a_step_counts_for_the_peak_memory_alone() -> None:
    listing = Listing()
    listing.add(Answer("1", state="COMPLETED", usage={"max_rss": 5.0, "cpu": 1.0}))
    listing.add(
        Answer("1", state="FAILED", usage={"max_rss": 9.0, "cpu": 7.0}, step=True)
    )
    listing.add(Answer("1", state="FAILED", usage={"max_rss": 2.0}, step=True))
    listing.add(Answer("2", state="FAILED", usage={"max_rss": 2.0}, step=True))
    assert list(listing.answers) == [("1", None)]
    assert listing.answers["1", None][0].usage == {"max_rss": 9.0, "cpu": 1.0}
    assert listing.answers["1", None][0].state == "COMPLETED"
