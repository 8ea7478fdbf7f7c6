"""Backend and transport: the one place that submits, queries and cancels.

Command lines are made and answers read here; the transport runs them. N jobs cost a constant number
of round trips.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.answers import Answer, ExitRecord, Reading, read_exit_record, read_output
from clusterjob.backend import Backend
from clusterjob.errors import CommandError, TransportError
from clusterjob.shell import Ticket, marked, new_mark, prelude, scrub, split, submission_script
from clusterjob.transport import Completed, Transport, Upload

_IDS = 1000  # ids of one command line
_FILES = 500  # files of one command line
_SPOOL = Path(__file__).parent / "spool.py"
_SPOOL_THERE = f".local/share/clusterjob/spool-{zlib.crc32(_SPOOL.read_bytes()):08x}.py"


@dataclass(frozen=True)
class Receipt:
    """What the scheduler answered to one submission.

    ``exit_code`` None: it was not asked, after it had refused others.
    """

    token: str
    exit_code: int | None
    said: str  # both streams
    job_id: str | None = None
    cluster: str | None = None


@dataclass
class Submission:
    """The answers to a batch, and when they were given (s since the epoch, by the clock of the
    scheduler's host).
    """

    receipts: dict[str, Receipt] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0


@dataclass
class Listing:
    """One command's answers by ``(job id, array index or None)``.

    Not ``complete``: what is missing may be there all the same.
    """

    answers: dict[tuple[str, int | None], Answer] = field(default_factory=dict)
    complete: bool = False
    error: str = ""
    asked: bool = False


@dataclass
class Findings:
    """What exit records and accounting say about jobs that are no longer active."""

    records: dict[str, ExitRecord] = field(
        default_factory=dict
    )  # by file name without ".exit": token, or token.index
    unreadable: set[str] = field(default_factory=set)  # folders of runs that could not be entered
    history: Listing = field(default_factory=Listing)


class Scheduler:
    """The scheduler of one host.

    ``commands`` counts the scheduler's commands that were given, ``trips`` the round trips.
    """

    def __init__(self, backend: Backend, transport: Transport) -> None:
        self.backend, self.transport = backend, transport
        self.commands = 0
        self.trips = 0
        self.accounting = bool(backend.commands.get("finished"))  # until it says that there is none
        self._far_spool = bool(transport.host) and any(
            "{spool}" in command for command in backend.commands.values()
        )

    # -- submitting --------------------------------------------------------------------------------

    def submit(self, tickets: Sequence[Ticket]) -> Submission:
        """Submit jobs whose scripts are in place, in one round trip; a ticket with a receipt in its
        folder is not submitted again.

        Raises :class:`TransportError` where it is not known what happened, another
        :class:`CommandError` where nothing did.
        """
        self.commands += len(tickets)
        mark = new_mark()
        script = submission_script(
            self.backend, self._fill("submit", script='"$cj_script"'), tickets, mark
        )
        answer = self._run(script, timeout=self._limit("command_timeout") * (1 + len(tickets) / 4))
        parts = split(answer.stdout, mark)
        if answer.exit_code == 96:
            raise CommandError(
                "the batch could not be submitted: no temporary folder can be made",
                exit_code=96,
                stderr=answer.stderr,
            )
        if answer.exit_code == 98:
            raise TransportError(
                f"another process is submitting this batch: {answer.stderr.strip()}"
            )
        if "done" not in parts:
            raise TransportError(
                "the submission was cut off", exit_code=answer.exit_code, stderr=answer.stderr
            )
        began, ended, bad = (parts["done"] + " ").split(" ", 2)
        submission = Submission(began=float(began), ended=float(ended))
        for token, receipt in _receipts(parts.get("receipts", "")).items():
            submission.receipts[token] = self._identify(receipt)
        if (
            bad.strip()
        ):  # the folder of some jobs could not be entered or written: those were not submitted
            for ticket in tickets:
                submission.receipts.setdefault(
                    ticket.token,
                    Receipt(
                        ticket.token, 97, f"{ticket.runs} cannot be used: {answer.stderr.strip()}"
                    ),
                )
        return submission

    def _identify(self, receipt: Receipt) -> Receipt:
        if receipt.exit_code != 0:
            return receipt
        pattern = self.backend.outputs["submit"].pattern
        for line in reversed(receipt.said.splitlines()):  # banners come first
            if pattern is not None and (match := pattern.search(line)):
                words = match.groupdict()
                return Receipt(receipt.token, 0, receipt.said, words["id"], words.get("cluster"))
        return receipt

    def find(
        self, tokens: Mapping[str, Sequence[str]], strangers: bool = False
    ) -> dict[str, Receipt]:
        """Look for submissions whose answer was lost; ``tokens`` are those of each batch, by its
        folder.

        Receipts count, then the scheduler's own list by token, then exit records: of jobs that have
        come and gone meanwhile. One round trip. With ``strangers`` also what else of clusterjob's
        the scheduler has. Raises :class:`CommandError` where the scheduler could not be asked about
        a job that neither receipt nor exit record tells of.
        """
        mark = new_mark()
        command = self._fill("find") if self.backend.commands.get("find") else "true"
        self.commands += 1
        lines = [f"export LC_ALL=C\n{scrub(self.backend)}\nprintf '\\n%s\\n' {mark}:receipts"]
        lines += [f"cat {shlex.quote(folder + '/receipts')} 2>/dev/null" for folder in tokens]
        # the list before the exit records: a job that ends between the two is in one of them
        lines.append(
            f"printf '\\n%s\\n' {mark}:find; ( {command}\n)\ncj_code=$?; printf '\\n%s\\n' "
            f"{mark}:ran"
        )
        for folder, names in tokens.items():
            files = " ".join(f"{name}*.exit" for name in names)
            lines.append(
                f"(cd {shlex.quote(folder)} 2>/dev/null && grep '^job=' /dev/null {files} "
                "2>/dev/null)"
            )
        lines.append(f"printf '\\n%s\\n%s\\n' {mark}:done $cj_code")
        answer = self._run("\n".join(lines))
        parts = split(answer.stdout, mark)
        known = {
            token: self._identify(receipt)
            for token, receipt in _receipts(parts.get("receipts", "")).items()
        }
        found = {token: receipt for token, receipt in known.items() if receipt.job_id}
        reading = (
            read_output(self.backend.outputs["find"], parts.get("find", ""))
            if command != "true"
            else Reading()
        )
        for entry in reading.answers:
            if entry.token:
                found.setdefault(entry.token, Receipt(entry.token, 0, "", entry.id, entry.cluster))
        for token, job_id in re.findall(
            r"^(\w+?)(?:\.\d+)?\.exit:job=(\d+(?:\[\])?)", parts.get("ran", ""), re.MULTILINE
        ):
            found.setdefault(token, Receipt(token, 0, "", job_id))
        wanted = {token for names in tokens.values() for token in names}
        if not strangers:
            found = {token: receipt for token, receipt in found.items() if token in wanted}
        asked = not reading.unread and (
            parts.get("done", "").strip() == "0" or self.backend.matches("unknown", answer.stderr)
        )
        if not asked and not found.keys() >= wanted:
            raise CommandError(
                "the scheduler's list could not be read",
                command=command,
                exit_code=answer.exit_code,
                stderr=answer.stderr,
            )
        return found

    # -- knowing -----------------------------------------------------------------------------------

    def active(self, clusters: Iterable[str | None] = (None,)) -> Listing:
        """List the user's jobs; one command for each cluster of a multi-cluster scheduler."""
        commands = [self._fill("active", cluster=cluster) for cluster in dict.fromkeys(clusters)]
        self.commands += len(commands)
        mark = new_mark()
        try:
            answer = self._run(
                prelude(self.backend)
                + "\n".join(marked(command, mark, "active") for command in commands)
            )
        except CommandError as error:
            return Listing(error=str(error))
        return self._listing("active", answer, mark, len(commands))

    def ended(
        self, runs: Mapping[str, Sequence[str]], ids: Mapping[str | None, Sequence[str]], age: float
    ) -> Findings:
        """Read the exit records of jobs (``runs``: folder to file names without ``.exit``), and ask
        accounting about them.

        One round trip. ``ids`` are the job ids by cluster, ``age`` the seconds since the oldest of
        them was submitted.
        """
        mark = new_mark()
        lines = [prelude(self.backend)]
        for number, (folder, names) in enumerate(runs.items()):
            gone = (
                f"[ ! -e {shlex.quote(folder)} ] && [ -d "
                f"{shlex.quote(os.path.dirname(os.path.dirname(folder)))} ]"
            )
            lines.append(
                f"printf '\\n%s\\n' {mark}:records-{number}; ({gone} && printf '.\\n' && exit; cd "
                f"{shlex.quote(folder)} || exit; echo ."
            )
            for start in range(0, len(names), _FILES):
                lines.append(
                    "grep '' /dev/null "
                    f"{' '.join(f'{name}.exit' for name in names[start : start + _FILES])} "
                    "2>/dev/null"
                )
            lines.append(") 2>/dev/null")
        commands = []
        if self.accounting:
            for cluster, members in ids.items():
                commands += [
                    self._fill("finished", ids=members[at : at + _IDS], cluster=cluster, age=age)
                    for at in range(0, len(members), _IDS)
                ]
        self.commands += len(commands)
        lines += [marked(command, mark, "finished") for command in commands]
        try:
            answer = self._run("\n".join(lines))
        except CommandError as error:
            return Findings(unreadable=set(runs), history=Listing(error=str(error)))
        findings = Findings(
            history=self._listing("finished", answer, mark, len(commands))
            if commands
            else Listing()
        )
        parts = split(answer.stdout, mark)
        for number, folder in enumerate(runs):
            text = parts.get(f"records-{number}", "")
            if not text.startswith(".\n"):
                findings.unreadable.add(folder)
            findings.records |= _exit_records(text)
        if findings.history.error and self.backend.matches("no_accounting", findings.history.error):
            self.accounting = False
        return findings

    def _listing(self, kind: str, answer: Completed, mark: str, expected: int) -> Listing:
        parts = split(answer.stdout, mark)
        codes = parts.get(f"{kind}-codes", "").split()
        errors = split(answer.stderr, mark).get(kind, "").strip()
        listing = Listing(asked=True)
        failed = any(code != "0" for code in codes) and not self.backend.matches("unknown", errors)
        if (
            len(codes) != expected or failed or self.backend.matches("no_accounting", errors)
        ):  # PBS says the latter with exit code 0
            said = "\n".join(
                line for line in answer.stderr.splitlines() if mark not in line
            ).strip()
            listing.error = (
                errors
                or said
                or f"a command ended with exit code {' '.join(codes) or answer.exit_code}"
            )
            listing.asked = False
        reading: Reading = read_output(self.backend.outputs[kind], parts.get(kind, ""))
        for entry in reading.answers:
            place = (entry.id, entry.task)
            if entry.step:
                whole = listing.answers.get(place)
                if whole is not None:
                    _add_usage(whole, entry)
            else:
                listing.answers[place] = entry
        listing.complete = listing.asked and not reading.unread
        if reading.unread and not listing.error:
            listing.error = (
                f"{len(reading.unread)} lines could not be read, the first: {reading.unread[0]!r}"
            )
        return listing

    # -- cancelling --------------------------------------------------------------------------------

    def cancel(self, ids: Mapping[str | None, Sequence[str]]) -> None:
        """Cancel jobs, by cluster; ones that have ended meanwhile are no error.

        Raises :class:`CommandError`.
        """
        mark = new_mark()
        commands = [
            self._fill("cancel", ids=members[at : at + _IDS], cluster=cluster, separator=" ")
            for cluster, members in ids.items()
            for at in range(0, len(members), _IDS)
        ]
        self.commands += len(commands)
        answer = self._run(
            prelude(self.backend)
            + "\n".join(marked(command, mark, "cancel") for command in commands)
        )
        codes = split(answer.stdout, mark).get("cancel-codes", "").split()
        errors = split(answer.stderr, mark).get("cancel", "").strip()
        said = errors or split(answer.stdout, mark).get("cancel", "").strip()
        if (
            any(code != "0" for code in codes) or len(codes) != len(commands)
        ) and not self.backend.matches("ended", said):
            raise CommandError(
                "the jobs could not be cancelled",
                command=commands[0],
                exit_code=answer.exit_code,
                stderr=said,
            )

    def remove(self, folders: Mapping[str, Sequence[str]]) -> None:
        """Remove the files of jobs, given by token, from the folders of their batches; an empty
        folder goes too. One round trip.

        Raises :class:`CommandError` where something stays.
        """
        lines = ["cj_bad=0"]
        for folder, tokens in folders.items():
            lines.append(
                f"if [ -d {shlex.quote(folder)} ]; then cd {shlex.quote(folder)} || exit 1"
            )
            for start in range(0, len(tokens), _FILES):
                lines.append(
                    f"rm -f {' '.join(f'{token}.*' for token in tokens[start : start + _FILES])} "
                    "|| cj_bad=1"
                )
            lines.append(
                "case $(ls -A) in receipts|'') rm -f receipts; cd / && rmdir "
                f"{shlex.quote(folder)} || cj_bad=1 ;; esac; fi"
            )
        answer = self._run("\n".join([*lines, "exit $cj_bad"]))
        if answer.exit_code != 0:
            raise CommandError(
                "files of jobs could not be removed",
                exit_code=answer.exit_code,
                stderr=answer.stderr,
            )

    # -- helpers -----------------------------------------------------------------------------------

    def version(self) -> str:
        """Return what the scheduler says of its version.

        Raises :class:`CommandError` where it is not installed.
        """
        command = self._fill("version" if self.backend.commands.get("version") else "active")
        self.commands += 1
        answer = self._run(prelude(self.backend) + command)
        if answer.exit_code != 0:
            raise CommandError(
                f"the commands of {self.backend.title} do not work here",
                command=command,
                exit_code=answer.exit_code,
                stderr=answer.stderr,
                hint="Is the scheduler installed on this host, and its commands on PATH? Or "
                "choose another backend or remote in the profile.",
            )
        return (answer.stdout.strip() or answer.stderr.strip()).split("\n")[0]

    def _limit(self, name: str) -> float:
        return self.backend.limits[name]

    def _run(self, script: str, timeout: float | None = None) -> Completed:
        self.trips += 1
        if self._far_spool:
            script = f'cj_spool=$HOME/{_SPOOL_THERE}; [ -f "$cj_spool" ] || exit 94\n{script}'
        done = self.transport.run(script, timeout or self._limit("command_timeout"))
        if done.exit_code == 94 and self._far_spool:  # the embedded scheduler is not there yet
            self.transport.put(
                [
                    Upload(
                        self.transport.resolve(f"~/{_SPOOL_THERE}"),
                        _SPOOL.read_text(encoding="utf-8"),
                        replace=True,
                    )
                ]
            )
            done = self.transport.run(script, timeout or self._limit("command_timeout"))
        return done

    def _fill(
        self,
        command: str,
        *,
        ids: Sequence[str] = (),
        cluster: str | None = None,
        script: str = "",
        separator: str = ",",
        age: float = 0.0,
    ) -> str:
        """Fill a command's placeholders; every value is quoted here and nowhere else."""
        option = (
            self.backend.general["clusters"].replace("{cluster}", shlex.quote(cluster))
            if cluster
            else ""
        )
        values = {
            "script": script,
            "ids": shlex.quote(separator.join(ids))
            if separator == ","
            else " ".join(map(shlex.quote, ids)),
            "user": '"$(id -un)"',
            "clusters": option,
            "age": str(int(age)),
            "spool": 'python3 -I -S "$cj_spool"'
            if self._far_spool
            else f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(_SPOOL))}",
        }
        return re.sub(
            r"(?<!\$)\{(\w+)\}",
            lambda match: values.get(match[1], match[0]),
            self.backend.commands[command],
        )


def _receipts(text: str) -> dict[str, Receipt]:
    found: dict[str, Receipt] = {}
    for line in text.split("\n"):
        match = re.fullmatch(r"=(\w+) (\d+|-) (.*)", line)
        if not match:
            continue
        token, code, rest = match.groups()
        receipt = Receipt(
            token, None if code == "-" else int(code), rest.replace("\037", "\n").strip()
        )
        if token not in found or receipt.exit_code == 0:
            found[token] = receipt
    return found


def _exit_records(text: str) -> dict[str, ExitRecord]:
    contents: dict[str, list[str]] = {}
    for line in text.split("\n"):
        name, colon, rest = line.partition(".exit:")
        if colon:
            contents.setdefault(name, []).append(rest)
    return {
        name: record
        for name, lines in contents.items()
        if (record := read_exit_record("\n".join(lines)))
    }


def _add_usage(whole: Answer, step: Answer) -> None:
    for name in ("max_rss",):
        if name in step.usage:
            whole.usage[name] = max(whole.usage.get(name, 0.0), step.usage[name])
