"""What a scheduler's host answered: receipts of submissions, listings, exit records."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from clusterjob.backend import Answer, ExitRecord, read_exit_record

_RECEIPT = re.compile(r"=(\w+) ([0-9]{1,9}|-) (.*)")
_OWNER = re.compile(
    r"^(\w+?)(?:\.\d+)?\.exit:job=([0-9]{1,30}(?:\[\])?)", re.MULTILINE
)


@dataclass(frozen=True)
class Receipt:
    """What the scheduler answered to one submission.

    ``exit_code`` None: it was not asked, after it had refused others.
    """

    token: str
    exit_code: int | None
    said: str  # both streams
    job_id: str | None = None
    member: str | None = None  # the cluster of a multi-cluster scheduler

    @property
    def words(self) -> str:
        """What to tell a person."""
        return self.said or f"exit code {self.exit_code}"


@dataclass
class Submission:
    """The answers to a batch, and when they were given.

    Times are in s since the epoch, by the clock of the scheduler's host.
    """

    receipts: dict[str, Receipt] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0
    digests: dict[str, str] = field(
        default_factory=dict
    )  # of programs, by their paths


@dataclass
class Listing:
    """One command's answers by ``(job id, array index or None)``: ids are not unique.

    Not ``complete``: what is missing may be there all the same.
    """

    answers: dict[tuple[str, int | None], list[Answer]] = field(default_factory=dict)
    complete: bool = False
    error: str = ""
    asked: bool = False

    def add(self, answer: Answer) -> None:
        """Take in one answer; a step of a job counts for the job's peak memory alone."""
        key = (answer.id, answer.task)
        before = self.answers.get(key, [])
        if not answer.step:
            self.answers[key] = [*before, answer]
        elif before and "max_rss" in answer.usage:
            whole = before[-1]
            known = whole.usage.get("max_rss", 0.0)
            whole.usage["max_rss"] = max(known, answer.usage["max_rss"])


@dataclass
class EndReport:
    """What exit records and accounting say about jobs that are no longer active."""

    # by file name without ".exit": token, or token.index
    records: dict[str, ExitRecord] = field(default_factory=dict)
    # folders of runs that could not be entered
    unreadable: set[str] = field(default_factory=set)
    history: Listing = field(default_factory=Listing)
    answered: bool = True  # the host could be asked


def parse_receipts(text: str) -> dict[str, Receipt]:
    """Read receipts, by token; of several of one token the one that was accepted counts."""
    found: dict[str, Receipt] = {}
    for line in text.split("\n"):
        match = _RECEIPT.fullmatch(line)
        if not match:
            continue
        token, code, rest = match.groups()
        said = rest.replace("\037", "\n").strip()
        receipt = Receipt(token, None if code == "-" else int(code), said)
        if token not in found or receipt.exit_code == 0:
            found[token] = receipt
    return found


def parse_owners(text: str) -> dict[str, str]:
    """Read which job ran, by token, from the first lines of exit records."""
    found: dict[str, str] = {}
    for token, job_id in _OWNER.findall(text):
        found.setdefault(token, job_id)
    return found


def parse_exit_records(text: str) -> dict[str, ExitRecord]:
    """Read exit records, by file name without ``.exit``."""
    contents: dict[str, list[str]] = {}
    for line in text.split("\n"):
        name, colon, rest = line.partition(".exit:")
        if colon:
            contents.setdefault(name, []).append(rest)
    found = {}
    for name, lines in contents.items():
        record = read_exit_record("\n".join(lines))
        if record is not None:
            found[name] = record
    return found
