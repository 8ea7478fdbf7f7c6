"""Backend and transport: the one place that submits, queries and cancels.

Command lines are made and answers read here; the transport runs them. N jobs cost a constant number of round trips.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterjob.answers import Answer, ExitRecord, Reading, read_exit_record, read_output
from clusterjob.backend import Backend, job_variable_patterns
from clusterjob.errors import CommandError
from clusterjob.transport import Completed, Transport

_IDS = 1000  # ids of one command line
_FILES = 500  # files of one command line
_GIVE_UP = 3  # refusals of the same words after which a submission asks no more


@dataclass(frozen=True)
class Ticket:
    """One job of a batch on its way to the scheduler."""

    token: str
    workdir: str
    runs: str  # the folder of the batch, absolute
    script: str  # relative to the workdir, or absolute


@dataclass(frozen=True)
class Receipt:
    """What the scheduler answered to one submission. ``exit_code`` None: it was not asked, after it had refused others."""

    token: str
    exit_code: int | None
    said: str  # both streams
    job_id: str | None = None
    cluster: str | None = None


@dataclass
class Submission:
    """The answers to a batch, and when they were given (s since the epoch, by the clock of the scheduler's host)."""

    receipts: dict[str, Receipt] = field(default_factory=dict)
    began: float = 0.0
    ended: float = 0.0


@dataclass
class Listing:
    """One command's answers by ``(job id, array index or None)``. Not ``complete``: what is missing may be there all the same."""

    answers: dict[tuple[str, int | None], Answer] = field(default_factory=dict)
    complete: bool = False
    error: str = ""
    asked: bool = False


@dataclass
class Findings:
    """What exit records and accounting say about jobs that are no longer active."""

    records: dict[str, ExitRecord] = field(default_factory=dict)  # by file name without ".exit": token, or token.index
    unreadable: set[str] = field(default_factory=set)  # folders of runs that could not be entered
    history: Listing = field(default_factory=Listing)


class Scheduler:
    """The scheduler of one host. ``commands`` counts the scheduler's commands that were given, ``trips`` the round trips."""

    def __init__(self, backend: Backend, transport: Transport) -> None:
        self.backend, self.transport = backend, transport
        self.commands = 0
        self.trips = 0
        self.accounting = bool(backend.commands.get("finished"))  # until it says that there is none

    # -- submitting -------------------------------------------------------------------------------------------------

    def submit(self, tickets: Sequence[Ticket]) -> Submission:
        """Submit jobs whose scripts are in place, in one round trip; a ticket with a receipt in its folder is not submitted again.

        Raises :class:`TransportError` where it is not known what happened.
        """
        self.commands += len(tickets)
        mark = _mark()
        answer = self._run(self._submit_script(tickets, mark), timeout=self._limit("command_timeout") * (1 + len(tickets) / 4))
        parts = _split(answer.stdout, mark)
        if "done" not in parts:
            hint = "Choose a workdir (or rootdir) that you may write to." if "workdir" in parts else ""
            raise CommandError("the batch could not be submitted", exit_code=answer.exit_code, stderr=answer.stderr, hint=hint)
        began, _, ended = parts["done"].partition(" ")
        submission = Submission(began=float(began), ended=float(ended))
        for token, receipt in _receipts(parts.get("receipts", "")).items():
            submission.receipts[token] = self._identify(receipt)
        return submission

    def _submit_script(self, tickets: Sequence[Ticket], mark: str) -> str:
        command = self._fill("submit", script='"$cj_script"')
        if re.search(r"[|&;<>()\n]", command):  # a simple command is redirected after the fork
            command = f"( {command}\n    )"
        workers = max(1, min(int(self._limit("submit_parallel")), len(tickets)))
        lines = [
            _scrub(self.backend),
            # in memory where that is to be had: two files a job on a disk cost more than all the rest
            "cj_tmp=$(mktemp -d /dev/shm/clusterjob.XXXXXX 2>/dev/null || mktemp -d) || exit 96; trap 'rm -rf \"$cj_tmp\"' EXIT",
            "cj_us=$(printf '\\037'); cj_began=$(date +%s)",
            "cj_submit() {",
            '    cj_token=$1 cj_script=$2; case $cj_known in *"$cj_nl=$cj_token "*) return;; esac',
            f'    if [ $cj_same -ge {_GIVE_UP} ]; then printf "=%s - %s\\n" "$cj_token" "$cj_last" >&3; return; fi',
            f"    {command} >$cj_tmp/$cj_me.out 2>&1; cj_code=$?",
            '    cj_all=; while IFS= read -r cj_line || [ -n "$cj_line" ]; do cj_all=$cj_all$cj_line$cj_us; done <$cj_tmp/$cj_me.out',
            # the receipt is on disk before anything else happens
            '    if [ $cj_code -eq 0 ]; then printf "=%s 0 %s\\n" "$cj_token" "$cj_all" >&4; cj_same=0; return; fi',
            '    if [ "$cj_all" = "$cj_last" ]; then cj_same=$((cj_same + 1)); else cj_same=1 cj_last=$cj_all; fi',
            '    printf "=%s %s %s\\n" "$cj_token" $cj_code "$cj_all" >&3',
            "}",
            'cj_in() { cj_runs=$2; cd "$1" && (umask 077; : >>"$2/receipts") || exit 97; exec 4>>"$2/receipts"; cj_known=; '
            '[ ! -s "$2/receipts" ] || cj_known=$cj_nl$(cat "$2/receipts"); }',
            "cj_nl='\n'",
        ]
        for worker in range(workers):
            lines.append(f"( cj_me={worker} cj_same=0 cj_last=; exec 3>$cj_tmp/{worker}.answers")
            place = None
            for ticket in tickets[worker::workers]:
                if (ticket.workdir, ticket.runs) != place:
                    place = (ticket.workdir, ticket.runs)
                    lines.append(f"cj_in {shlex.quote(ticket.workdir)} {shlex.quote(ticket.runs)}")
                lines.append(f"cj_submit {ticket.token} {shlex.quote(ticket.script)}")
            lines.append(") &")
            lines.append(f"cj_pid{worker}=$!")
        waits = "; ".join(f"wait $cj_pid{worker} || cj_bad=1" for worker in range(workers))
        folders = " ".join(dict.fromkeys(shlex.quote(f"{ticket.runs}/receipts") for ticket in tickets))
        lines += [
            f"cj_bad=; {waits}",
            f"printf '\\n%s\\n' {mark}:receipts; cat $cj_tmp/*.answers; cat {folders} 2>/dev/null",
            f"[ -z \"$cj_bad\" ] || {{ printf '\\n%s\\n' {mark}:workdir; exit 97; }}",
            f"printf '\\n%s\\n%s %s\\n' {mark}:done $cj_began $(date +%s)",
        ]
        return "\n".join(lines)

    def _identify(self, receipt: Receipt) -> Receipt:
        if receipt.exit_code != 0:
            return receipt
        pattern = self.backend.outputs["submit"].pattern
        for line in reversed(receipt.said.splitlines()):  # banners come first
            if pattern is not None and (match := pattern.search(line)):
                words = match.groupdict()
                return Receipt(receipt.token, 0, receipt.said, words["id"], words.get("cluster"))
        return receipt

    def find(self, tokens: Iterable[str], runs: Iterable[tuple[str, str]]) -> dict[str, Receipt]:
        """Look for submissions whose answer was lost: in the receipts of the batches, then in the scheduler's own list, by token.

        ``runs`` are the ``(workdir, folder)`` of the batches. Raises :class:`CommandError` where either could not be looked at.
        """
        mark = _mark()
        command = self._fill("find") if self.backend.commands.get("find") else "true"
        self.commands += 1
        files = " ".join(shlex.quote(f"{folder}/receipts") for _, folder in runs)
        answer = self._run(
            f"export LC_ALL=C\n{_scrub(self.backend)}\nprintf '\\n%s\\n' {mark}:receipts; cat {files} /dev/null 2>/dev/null\n"
            f"printf '\\n%s\\n' {mark}:find; {command}\ncj_code=$?; printf '\\n%s\\n%s\\n' {mark}:done $cj_code"
        )
        parts = _split(answer.stdout, mark)
        if parts.get("done", "").strip() != "0" and not self.backend.matches("unknown", answer.stderr):
            raise CommandError("the scheduler's list could not be read", command=command, exit_code=answer.exit_code, stderr=answer.stderr)
        known = {token: self._identify(receipt) for token, receipt in _receipts(parts.get("receipts", "")).items()}
        found = {token: receipt for token, receipt in known.items() if receipt.job_id}
        for entry in read_output(self.backend.outputs["find"], parts.get("find", "")).answers if command != "true" else ():
            if entry.token:
                found.setdefault(entry.token, Receipt(entry.token, 0, "", entry.id, entry.cluster))
        wanted = set(tokens)
        return {token: receipt for token, receipt in found.items() if token in wanted}

    # -- knowing ----------------------------------------------------------------------------------------------------

    def active(self, clusters: Iterable[str | None] = (None,)) -> Listing:
        """List the user's jobs; one command for each cluster of a multi-cluster scheduler."""
        commands = [self._fill("active", cluster=cluster) for cluster in dict.fromkeys(clusters)]
        self.commands += len(commands)
        mark = _mark()
        try:
            answer = self._run(_prelude(self.backend) + "\n".join(_marked(command, mark, "active") for command in commands))
        except CommandError as error:
            return Listing(error=str(error))
        return self._listing("active", answer, mark, len(commands))

    def ended(self, runs: Mapping[str, Sequence[str]], ids: Mapping[str | None, Sequence[str]], age: float) -> Findings:
        """Read the exit records of jobs (``runs``: folder to file names without ``.exit``), and ask accounting about them.

        One round trip. ``ids`` are the job ids by cluster, ``age`` the seconds since the oldest of them was submitted.
        """
        mark = _mark()
        lines = [_prelude(self.backend)]
        for number, (folder, names) in enumerate(runs.items()):
            gone = f"[ ! -e {shlex.quote(folder)} ] && [ -d {shlex.quote(os.path.dirname(os.path.dirname(folder)))} ]"
            lines.append(f"printf '\\n%s\\n' {mark}:records-{number}; ({gone} && printf '.\\n' && exit; cd {shlex.quote(folder)} || exit; echo .")
            for start in range(0, len(names), _FILES):
                lines.append(f"grep '' /dev/null {' '.join(f'{name}.exit' for name in names[start : start + _FILES])} 2>/dev/null")
            lines.append(") 2>/dev/null")
        commands = []
        if self.accounting:
            for cluster, members in ids.items():
                commands += [self._fill("finished", ids=members[at : at + _IDS], cluster=cluster, age=age) for at in range(0, len(members), _IDS)]
        self.commands += len(commands)
        lines += [_marked(command, mark, "finished") for command in commands]
        try:
            answer = self._run("\n".join(lines))
        except CommandError as error:
            return Findings(unreadable=set(runs), history=Listing(error=str(error)))
        findings = Findings(history=self._listing("finished", answer, mark, len(commands)) if commands else Listing())
        parts = _split(answer.stdout, mark)
        for number, folder in enumerate(runs):
            text = parts.get(f"records-{number}", "")
            if not text.startswith(".\n"):
                findings.unreadable.add(folder)
            findings.records |= _exit_records(text)
        if findings.history.error and self.backend.matches("no_accounting", findings.history.error):
            self.accounting = False
        return findings

    def _listing(self, kind: str, answer: Completed, mark: str, expected: int) -> Listing:
        parts = _split(answer.stdout, mark)
        codes = parts.get(f"{kind}-codes", "").split()
        errors = _split(answer.stderr, mark).get(kind, "").strip()
        listing = Listing(asked=True)
        unknown = self.backend.matches("unknown", errors)
        if len(codes) != expected or (any(code != "0" for code in codes) and not unknown):
            listing.error = errors or answer.stderr.strip() or f"exit code {' '.join(codes) or answer.exit_code}"
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
            listing.error = f"{len(reading.unread)} lines could not be read, the first: {reading.unread[0]!r}"
        return listing

    # -- cancelling -------------------------------------------------------------------------------------------------

    def cancel(self, ids: Mapping[str | None, Sequence[str]]) -> None:
        """Cancel jobs, by cluster; ones that have ended meanwhile are no error. Raises :class:`CommandError`."""
        mark = _mark()
        commands = [
            self._fill("cancel", ids=members[at : at + _IDS], cluster=cluster, separator=" ")
            for cluster, members in ids.items()
            for at in range(0, len(members), _IDS)
        ]
        self.commands += len(commands)
        answer = self._run(_prelude(self.backend) + "\n".join(_marked(command, mark, "cancel") for command in commands))
        codes = _split(answer.stdout, mark).get("cancel-codes", "").split()
        errors = _split(answer.stderr, mark).get("cancel", "").strip()
        said = errors or _split(answer.stdout, mark).get("cancel", "").strip()
        if (any(code != "0" for code in codes) or len(codes) != len(commands)) and not self.backend.matches("ended", said):
            raise CommandError("the jobs could not be cancelled", command=commands[0], exit_code=answer.exit_code, stderr=said)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Return what the scheduler says of its version. Raises :class:`CommandError` where it is not installed."""
        command = self._fill("version" if self.backend.commands.get("version") else "active")
        self.commands += 1
        answer = self._run(_prelude(self.backend) + command)
        if answer.exit_code != 0:
            raise CommandError(
                f"the commands of {self.backend.title} do not work here", command=command, exit_code=answer.exit_code, stderr=answer.stderr,
                hint="Is the scheduler installed on this host, and its commands on PATH? Or choose another backend or remote in the profile.",
            )  # fmt: skip
        return (answer.stdout.strip() or answer.stderr.strip()).split("\n")[0]

    def _limit(self, name: str) -> float:
        return self.backend.limits[name]

    def _run(self, script: str, timeout: float | None = None) -> Completed:
        self.trips += 1
        return self.transport.run(script, timeout or self._limit("command_timeout"))

    def _fill(
        self, command: str, *, ids: Sequence[str] = (), cluster: str | None = None, script: str = "", separator: str = ",", age: float = 0.0
    ) -> str:  # fmt: skip
        """Fill a command's placeholders; every value is quoted here and nowhere else."""
        option = self.backend.general["clusters"].replace("{cluster}", shlex.quote(cluster)) if cluster else ""
        values = {
            "script": script,
            "ids": shlex.quote(separator.join(ids)) if separator == "," else " ".join(map(shlex.quote, ids)),
            "user": '"$(id -un)"',
            "clusters": option,
            "age": str(int(age)),
            "spool": f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(Path(__file__).parent / 'spool.py'))}",
        }
        return re.sub(r"(?<!\$)\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.backend.commands[command])


def _mark() -> str:
    """A line that no banner and no scheduler prints; replies stand between such lines."""
    return f"clusterjob-{secrets.token_hex(8)}"


def _marked(command: str, mark: str, name: str) -> str:
    return (
        f"printf '\\n%s\\n' {mark}:{name}; printf '\\n%s\\n' {mark}:{name} >&2\n( {command}\n)\n"
        f"cj_code=$?; printf '\\n%s\\n%s\\n' {mark}:{name}-codes $cj_code; printf '\\n%s\\n' {mark}:end >&2"
    )


def _split(text: str, mark: str) -> dict[str, str]:
    """Return what stands after each marked line, by the name in it; texts of the same name are joined."""
    parts: dict[str, str] = {}
    for piece in text.split(f"\n{mark}:")[1:]:
        name, _, body = piece.partition("\n")
        parts[name] = parts.get(name, "") + body
    return parts


def _prelude(backend: Backend) -> str:
    return f"export LC_ALL=C\n{_scrub(backend)}\n"


def _scrub(backend: Backend) -> str:
    """Return shell lines that unset the variables of a surrounding job, of whatever scheduler, so that it does not shape the new one."""
    patterns = f"{backend.general['job_variables']} {job_variable_patterns()}".split()
    take = [word for word in dict.fromkeys(patterns) if not word.startswith("!")]
    keep = [word[1:] for word in dict.fromkeys(patterns) if word.startswith("!")]
    cases = f"{'|'.join(keep)}) ;; " if keep else ""
    return (
        "for cj_v in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do "
        f"case $cj_v in {cases}{'|'.join([*take, 'CLUSTERJOB_ID', 'CLUSTERJOB_NAME', 'CLUSTERJOB_WORKDIR', 'CLUSTERJOB_ARRAY_INDEX'])}) "
        'unset "$cj_v" ;; esac; done'
    )


def _receipts(text: str) -> dict[str, Receipt]:
    found: dict[str, Receipt] = {}
    for line in text.split("\n"):
        match = re.fullmatch(r"=(\w+) (\d+|-) (.*)", line)
        if not match:
            continue
        token, code, rest = match.groups()
        receipt = Receipt(token, None if code == "-" else int(code), rest.replace("\037", "\n").strip())
        if token not in found or receipt.exit_code == 0:
            found[token] = receipt
    return found


def _exit_records(text: str) -> dict[str, ExitRecord]:
    contents: dict[str, list[str]] = {}
    for line in text.split("\n"):
        name, colon, rest = line.partition(".exit:")
        if colon:
            contents.setdefault(name, []).append(rest)
    return {name: record for name, lines in contents.items() if (record := read_exit_record("\n".join(lines)))}


def _add_usage(whole: Answer, step: Answer) -> None:
    for name in ("max_rss",):
        if name in step.usage:
            whole.usage[name] = max(whole.usage.get(name, 0.0), step.usage[name])
