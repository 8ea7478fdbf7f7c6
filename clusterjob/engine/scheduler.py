"""Backend and transport: the one place that submits, queries and cancels.

Command lines are made and answers read here; the transport runs them. N jobs cost a constant number
of round trips.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from clusterjob.backend import Backend, ErrorKind, Renderer, read_output
from clusterjob.engine.replies import (
    EndReport,
    Listing,
    Receipt,
    Submission,
    parse_exit_records,
    parse_owners,
    parse_receipts,
)
from clusterjob.engine.scripts import (
    Ticket,
    cancel_script,
    clean_environment,
    ended_script,
    find_script,
    listing_script,
    removal_script,
    submission_script,
)
from clusterjob.errors import CommandError, TransportError, shorten, show
from clusterjob.fields import epoch_of
from clusterjob.files import Upload, digest_script, read_digests, upload
from clusterjob.shell import (
    ExitCode,
    in_portions,
    new_mark,
    quote,
    quote_all,
    split_reply,
)
from clusterjob.transport import Completed, Transport

_IDS = 1000  # ids of one command line
_SPOOL = Path(__file__).parent.parent / "spool.py"
_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")

# ids by the cluster of a multi-cluster scheduler; None: it has only one
IdsByMember = Mapping[str | None, Sequence[str]]


class Scheduler:
    """The scheduler of one host.

    ``commands`` counts the scheduler's commands that were given, ``trips`` the round trips.
    """

    def __init__(self, backend: Backend, transport: Transport) -> None:
        self.backend = backend
        self.transport = transport
        self.renderer = Renderer(backend)
        self.commands = 0
        self.trips = 0
        # the most jobs that it is given as one array: less where it refused more
        self.array_size = backend.limits.array_size
        # until it says that there is none
        self.accounting = bool(backend.commands.finished)
        self._resolved: dict[tuple[str, str], str] = {}
        uses_spool = any(
            "{spool}" in command for command in vars(backend.commands).values()
        )
        self._remote_spool = _remote_spool() if transport.host and uses_spool else ""

    def resolve(self, path: str, here: str) -> str:
        """Return the absolute form of a path on the scheduler's host; ``here`` is our own folder.

        Raises :class:`TransportError` where the host must be asked and cannot be.
        """
        key = (path, here)
        if key not in self._resolved:
            self._resolved[key] = self.transport.resolve(path)
        return self._resolved[key]

    # -- submitting --------------------------------------------------------------------------------

    def submit(
        self, tickets: Sequence[Ticket], programs: Sequence[str] = ()
    ) -> Submission:
        """Submit jobs whose scripts are in place, and sum up ``programs``, in one round trip.

        A ticket with a receipt in its folder is not submitted again. Raises
        :class:`TransportError` where it is not known what happened, another :class:`CommandError`
        where nothing did.
        """
        is_batch = bool(self.backend.commands.submit_batch)
        self.commands += 1 if is_batch else len(tickets)
        mark = new_mark()
        command = self._fill(self.backend.commands.submit, script='"$cj_script"')
        batch = self._fill(self.backend.commands.submit_batch, script="", jobs='"$@"')
        script = submission_script(self.backend, command, tickets, mark, batch)
        if programs:
            script += f"\ncj_part programs\n{digest_script(programs)}"
        timeout = self.backend.limits.command_timeout * (1 + len(tickets) / 4)
        answer = self._run(script, timeout)
        parts = split_reply(answer.stdout, mark)
        _check_submission(answer, parts)
        began, ended, failed = (parts["done"].strip() + "   ").split(" ", 2)
        submission = Submission(
            began=self._read_time(began), ended=self._read_time(ended)
        )
        submission.digests = read_digests(parts.get("programs", ""))
        for token, receipt in parse_receipts(parts.get("receipts", "")).items():
            submission.receipts[token] = self._identify(receipt)
        if failed.strip():
            _note_unusable(submission, tickets, answer.stderr.strip())
        return submission

    def _read_time(self, text: str) -> float:
        """Read a time of the host's clock: s since the epoch. Raises :class:`TransportError`."""
        seconds = epoch_of(text.strip())
        if seconds is None:
            host = self.transport.host or "this machine"
            raise TransportError(f"{host} says {show(text)} for the time")
        return seconds

    def _identify(self, receipt: Receipt) -> Receipt:
        """Look for the job id in what the scheduler said; banners come before it."""
        pattern = self.backend.outputs.submit.pattern
        if receipt.exit_code != 0 or pattern is None:
            return receipt
        for line in reversed(receipt.said.split("\n")):
            match = pattern.search(line)
            if match:
                words = match.groupdict()
                return Receipt(
                    receipt.token, 0, receipt.said, words["id"], words.get("cluster")
                )
        return receipt

    def find(
        self,
        tokens: Mapping[str, Sequence[str]],
        elements: Mapping[str, Mapping[str, str]] | None = None,
        strangers: bool = False,
    ) -> dict[str, Receipt]:
        """Look for submissions whose answer was lost.

        ``tokens`` are those of each batch, by its folder; ``elements``, by their folders too, the
        tokens of single jobs that went in arrays, with those of the arrays. Receipts count, then
        the scheduler's own list by token, then exit records: of jobs that have come and gone
        meanwhile. One round trip. With ``strangers`` also what else of clusterjob's the
        scheduler has. Raises :class:`CommandError` where the scheduler could not be asked
        about a job that neither receipt nor exit record tells of.
        """
        mark = new_mark()
        asks = bool(self.backend.commands.find)
        command = self._fill(self.backend.commands.find) if asks else "true"
        self.commands += 1
        members = elements or {}
        owners = {
            folder: [*tokens.get(folder, ()), *members.get(folder, ())]
            for folder in dict.fromkeys((*tokens, *members))
        }
        answer = self._run(find_script(self.backend, command, tokens, owners, mark))
        parts = split_reply(answer.stdout, mark)
        found = self._accepted(parts.get("receipts", ""))
        listed_all = True
        if asks:
            reading = read_output(self.backend.outputs.find, parts.get("find", ""))
            listed_all = not reading.unread
            for entry in reading.answers:
                if entry.token:
                    receipt = Receipt(entry.token, 0, "", entry.id, entry.member)
                    found.setdefault(entry.token, receipt)
        arrays: dict[str, str] = {}
        for tokens_of_arrays in members.values():
            arrays |= tokens_of_arrays
        for job, job_id in parse_owners(parts.get("owners", "")).items():
            token = arrays.get(job, job)
            found.setdefault(token, Receipt(token, 0, "", job_id))
        wanted = {token for names in tokens.values() for token in names}
        if not found.keys() >= wanted:
            self._check_found(answer, parts, listed_all, command, mark)
        if strangers:
            return found
        return {token: receipt for token, receipt in found.items() if token in wanted}

    def _accepted(self, receipts: str) -> dict[str, Receipt]:
        """Return the receipts of submissions that the scheduler took, by token."""
        known = {
            token: self._identify(receipt)
            for token, receipt in parse_receipts(receipts).items()
        }
        return {token: receipt for token, receipt in known.items() if receipt.job_id}

    def _check_found(
        self,
        answer: Completed,
        parts: Mapping[str, str],
        listed_all: bool,
        command: str,
        mark: str,
    ) -> None:
        """Raise :class:`CommandError` unless the scheduler's list says what it does not have."""
        worked = parts.get("find-codes", "").strip() == "0" and "done" in parts
        knows_none = self.backend.matches(ErrorKind.UNKNOWN, answer.stderr)
        if not listed_all or not (worked or knows_none):
            raise CommandError(
                "the scheduler's list could not be read",
                command=command,
                exit_code=answer.exit_code,
                stderr=_without_marks(answer.stderr, mark),
            )

    def digests(self, programs: Sequence[str]) -> dict[str, str]:
        """Return the sha256 of programs, by their paths; what is not there has none.

        One round trip. Raises :class:`CommandError`.
        """
        return read_digests(self._run(digest_script(programs)).stdout)

    # -- knowing -----------------------------------------------------------------------------------

    def active(self, members: Iterable[str | None] = (None,)) -> Listing:
        """List the user's jobs; one command for each cluster of a multi-cluster scheduler."""
        text = self.backend.commands.active
        asked = list(dict.fromkeys(members))
        commands = [self._fill(text, member=member) for member in asked]
        self.commands += len(commands)
        mark = new_mark()
        try:
            answer = self._run(listing_script(self.backend, commands, mark))
        except CommandError as error:
            return Listing(error=str(error))
        return self._listing("active", answer, mark, asked)

    def ended(
        self,
        runs: Mapping[str, Sequence[str]],
        ids: IdsByMember,
        age: float,
        going: Collection[str] = (),
    ) -> EndReport:
        """Read the exit records of jobs, and ask accounting about them; one round trip.

        ``runs`` are file names without ``.exit``, by folder; ``age`` is the number of seconds since
        the oldest of the jobs was submitted. Jobs whose files are named in ``going`` may need them.
        """
        questions = self._accounting_commands(ids, age) if self.accounting else []
        commands = [command for _, command in questions]
        self.commands += len(commands)
        mark = new_mark()
        try:
            answer = self._run(
                ended_script(self.backend, runs, commands, mark, going)
            )
        except CommandError as error:
            nothing = Listing(error=str(error))
            return EndReport(unreadable=set(runs), history=nothing, answered=False)
        report = EndReport()
        if commands:
            asked = [member for member, _ in questions]
            report.history = self._listing("finished", answer, mark, asked)
        parts = split_reply(answer.stdout, mark)
        for number, folder in enumerate(runs):
            text = parts.get(f"records-{number}", "")
            if not text.startswith(".\n"):
                report.unreadable.add(folder)
            report.records |= parse_exit_records(text)
        complaint = report.history.error
        if complaint and self.backend.matches(ErrorKind.NO_ACCOUNTING, complaint):
            self.accounting = False
        return report

    def _accounting_commands(
        self, ids: IdsByMember, age: float
    ) -> list[tuple[str | None, str]]:
        """Return the commands, each with the cluster that it asks."""
        text = self.backend.commands.finished
        return [
            (member, self._fill(text, ids=portion, member=member, age=age))
            for member, members in ids.items()
            for portion in in_portions(members, _IDS)
        ]

    def _listing(
        self,
        kind: str,
        answer: Completed,
        mark: str,
        members: Sequence[str | None],
    ) -> Listing:
        """Read the answers of commands, one for each of ``members``.

        The output of the first is the part ``kind-0``.
        """
        parts = split_reply(answer.stdout, mark)
        said = split_reply(answer.stderr, mark)
        names = [f"{kind}-{number}" for number in range(len(members))]
        codes = [
            code for name in names for code in parts.get(f"{name}-codes", "").split()
        ]
        errors = "\n".join(said.get(name, "").strip() for name in names).strip()
        listing = Listing(asked=self._answered(codes, len(members), errors))
        if not listing.asked:
            words = _without_marks(answer.stderr, mark)
            code = " ".join(codes) or answer.exit_code
            listing.error = shorten(
                errors or words or f"a command ended with exit code {code}"
            )
        unread = []
        for name, member in zip(names, members, strict=True):
            output = getattr(self.backend.outputs, kind)
            reading = read_output(output, parts.get(name, ""))
            unread += reading.unread
            for entry in reading.answers:
                entry.member = member or entry.member
                listing.add(entry)
        listing.complete = listing.asked and not unread
        if unread and not listing.error:
            listing.error = (
                f"{len(unread)} lines could not be read, the first: {unread[0]}"
            )
        return listing

    def _answered(self, codes: Sequence[str], expected: int, errors: str) -> bool:
        """Whether all commands ran, and what they say is an answer."""
        if len(codes) != expected:
            return False
        # PBS: with exit code 0
        if self.backend.matches(ErrorKind.NO_ACCOUNTING, errors):
            return False
        all_well = all(code == "0" for code in codes)
        return all_well or self.backend.matches(ErrorKind.UNKNOWN, errors)

    # -- cancelling --------------------------------------------------------------------------------

    def cancel(
        self, ids: IdsByMember, packed: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Cancel jobs; ones that have ended meanwhile are no error.

        ``packed`` are jobs whose packs go on: their files without endings, and their ids. Raises
        :class:`CommandError`.
        """
        mark = new_mark()
        text = self.backend.commands.cancel
        commands = [
            self._fill(text, ids=portion, member=member)
            for member, members in ids.items()
            for portion in in_portions(members, _IDS)
        ]
        self.commands += len(commands)
        answer = self._run(cancel_script(self.backend, commands, mark, packed))
        parts = split_reply(answer.stdout, mark)
        codes = parts.get("cancel-codes", "").split()
        if packed and "done" not in parts:
            raise CommandError(
                "jobs in packs could not be cancelled: their files cannot be written",
                exit_code=answer.exit_code,
                stderr=_without_marks(answer.stderr, mark),
            )
        errors = split_reply(answer.stderr, mark).get("cancel", "").strip()
        said = errors or parts.get("cancel", "").strip()
        failed = [code for code in codes if code != "0"]
        all_well = len(codes) == len(commands) and not failed
        if not all_well and not self._only_ended(said):
            raise CommandError(
                "the jobs could not be cancelled",
                command=commands[0],
                exit_code=int(failed[0]) if failed else answer.exit_code,
                stderr=said,
            )

    def _only_ended(self, said: str) -> bool:
        """Whether a cancel failed for jobs that have ended alone."""
        has_failed = self.backend.matches(ErrorKind.RETRY, said)
        return self.backend.matches(ErrorKind.ENDED, said) and not has_failed

    def remove(
        self, folders: Mapping[str, Sequence[str]], needed: Collection[str] = ()
    ) -> None:
        """Remove the files of jobs, given by token, from the folders of their batches.

        An empty folder goes too, unless it is ``needed``. One round trip. Raises
        :class:`CommandError` where something stays.
        """
        answer = self._run(removal_script(folders, needed))
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
        commands = self.backend.commands
        command = self._fill(commands.version or commands.active)
        self.commands += 1
        answer = self._run(clean_environment(self.backend) + command)
        if answer.exit_code != 0:
            raise CommandError(
                f"the commands of {self.backend.title} do not work here",
                command=command,
                exit_code=answer.exit_code,
                stderr=answer.stderr,
                hint="Is the scheduler installed on this host, and its commands on PATH? "
                "Or choose another backend or remote in the profile.",
            )
        return (answer.stdout.strip() or answer.stderr.strip()).split("\n")[0]

    def _run(self, script: str, timeout: float | None = None) -> Completed:
        """Run a script; the embedded scheduler of another host is put there where it is missing."""
        self.trips += 1
        limit = timeout or self.backend.limits.command_timeout
        if not self._remote_spool:
            return self.transport.run(script, limit)
        script = (
            f"cj_spool=$HOME/{self._remote_spool}; "
            f'[ -f "$cj_spool" ] || exit {ExitCode.NO_SPOOL:d}\n{script}'
        )
        done = self.transport.run(script, limit)
        if done.exit_code == ExitCode.NO_SPOOL:
            path = self.transport.resolve(f"~/{self._remote_spool}")
            content = _SPOOL.read_text(encoding="utf-8")
            upload(self.transport, [Upload(path, content, replace=True)])
            done = self.transport.run(script, limit)
        return done

    def _fill(
        self,
        command: str,
        *,
        ids: Sequence[str] = (),
        member: str | None = None,
        script: str = "",
        jobs: str = "",
        age: float = 0.0,
    ) -> str:
        """Fill a command's placeholders; every value is quoted here and nowhere else."""
        clusters = self.backend.general.clusters.replace(
            "{cluster}", quote(member or "")
        )
        values = {
            "script": script,
            "jobs": jobs,
            "ids": quote_all(ids),
            "id_list": quote(",".join(ids)),
            "user": '"$(id -un)"',
            "clusters": clusters if member else "",
            "age": str(int(age)),
            "spool": self._spool_command(),
        }
        return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), command)

    def _spool_command(self) -> str:
        if self._remote_spool:
            return 'python3 -I -S "$cj_spool"'
        return f"{quote(sys.executable)} -I -S {quote(str(_SPOOL))}"


def _remote_spool() -> str:
    """Return the path of the embedded scheduler on other hosts, below the home folder."""
    return f".local/share/clusterjob/spool-{zlib.crc32(_SPOOL.read_bytes()):08x}.py"


def _check_submission(answer: Completed, parts: Mapping[str, str]) -> None:
    """Raise what a submission's exit code means, and for one that did not get to its end."""
    if answer.exit_code == ExitCode.NO_TEMPORARY_FOLDER:
        raise CommandError(
            "the batch could not be submitted: no temporary folder can be made",
            exit_code=answer.exit_code,
            stderr=answer.stderr,
        )
    if answer.exit_code == ExitCode.UNMET and "done" not in parts:
        raise CommandError(answer.stderr.strip() or "the scheduler lacks something")
    if answer.exit_code == ExitCode.LOCKED:
        raise TransportError(
            f"another process is submitting this batch: {answer.stderr.strip()}"
        )
    if "done" not in parts:
        raise TransportError(
            "the submission was cut off",
            exit_code=answer.exit_code,
            stderr=answer.stderr,
        )


def _note_unusable(
    submission: Submission, tickets: Sequence[Ticket], words: str
) -> None:
    """Note that some folders could not be entered: their jobs were not submitted."""
    for ticket in tickets:
        if ticket.token in submission.receipts:
            continue
        said = f"{ticket.folder} cannot be used: {words}"
        refusal = Receipt(ticket.token, ExitCode.FOLDER_UNUSABLE, said)
        submission.receipts[ticket.token] = refusal


def _without_marks(text: str, mark: str) -> str:
    return "\n".join(line for line in text.split("\n") if mark not in line).strip()
