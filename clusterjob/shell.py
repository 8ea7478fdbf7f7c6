"""The shell text that goes to a scheduler's host: clean environments, marked replies, the loop that
submits a batch.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clusterjob.backend import Backend, job_variable_patterns

_GIVE_UP = 3  # refusals of the same words after which a submission asks no more


@dataclass(frozen=True)
class Ticket:
    """One job of a batch on its way to the scheduler."""

    token: str
    workdir: str
    runs: str  # the folder of the batch, absolute
    script: str  # relative to the workdir, or absolute


def submission_script(backend: Backend, command: str, tickets: Sequence[Ticket], mark: str) -> str:
    """Return the shell script that submits a batch with ``command``, a few at a time, and prints
    its receipts.
    """
    if re.search(r"[|&;<>()\n]", command):  # a simple command is redirected after the fork
        command = f"( {command}\n    )"
    workers = max(1, min(int(backend.limits["submit_parallel"]), len(tickets)))
    lines = [
        scrub(backend),
        # in memory where that is to be had: two files a job on a disk cost more than all the rest.
        # Nobody may be listening any more at the end: that must not keep it from tidying up (a
        # caught signal is none for what is started here, an ignored one would be)
        "cj_tmp=$(mktemp -d /dev/shm/clusterjob.XXXXXX 2>/dev/null || mktemp -d) || exit 96; trap "
        "'rm -rf \"$cj_tmp\"; cj_unlock' EXIT; trap : PIPE",
        "cj_us=$(printf '\\037'); cj_began=$(date +%s)",
        *_locks(dict.fromkeys(ticket.runs for ticket in tickets)),
        "cj_submit() {",
        '    cj_token=$1 cj_script=$2; case $cj_known in *"$cj_nl=$cj_token "*) return;; esac',
        f'    if [ $cj_same -ge {_GIVE_UP} ]; then printf "=%s - %s\\n" "$cj_token" "$cj_last" '
        ">&3; return; fi",
        f"    {command} >$cj_tmp/$cj_me.out 2>&1; cj_code=$?",
        '    cj_all=; while IFS= read -r cj_line || [ -n "$cj_line" ]; do '
        "cj_all=$cj_all$cj_line$cj_us; done <$cj_tmp/$cj_me.out",
        # the receipt is on disk before anything else happens
        "    if [ $cj_code -eq 0 ]; then cj_same=0",
        '        printf "=%s 0 %s\\n" "$cj_token" "$cj_all" >&4 || printf "=%s 0 %s\\n" '
        '"$cj_token" "$cj_all" >&3; return; fi',
        '    if [ "$cj_all" = "$cj_last" ]; then cj_same=$((cj_same + 1)); else cj_same=1 '
        "cj_last=$cj_all; fi",
        '    printf "=%s %s %s\\n" "$cj_token" $cj_code "$cj_all" >&3',
        "}",
        'cj_in() { cj_runs=$2; cd "$1" && (umask 077; : >>"$2/receipts") || exit 97; exec '
        '4>>"$2/receipts"; cj_known=; '
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
        f"printf '\\n%s\\n%s %s %s\\n' {mark}:done $cj_began $(date +%s) \"$cj_bad\"",
    ]
    return "\n".join(lines)


def new_mark() -> str:
    """A line that no banner and no scheduler prints; replies stand between such lines."""
    return f"clusterjob-{secrets.token_hex(8)}"


def marked(command: str, mark: str, name: str) -> str:
    return (
        f"printf '\\n%s\\n' {mark}:{name}; printf '\\n%s\\n' {mark}:{name} >&2\n( {command}\n)\n"
        f"cj_code=$?; printf '\\n%s\\n%s\\n' {mark}:{name}-codes $cj_code; printf '\\n%s\\n' "
        f"{mark}:end >&2"
    )


def split(text: str, mark: str) -> dict[str, str]:
    """Return what stands after each marked line, by the name in it; texts of the same name are
    joined.
    """
    parts: dict[str, str] = {}
    for piece in text.split(f"\n{mark}:")[1:]:
        name, _, body = piece.partition("\n")
        parts[name] = parts.get(name, "") + body
    return parts


def prelude(backend: Backend) -> str:
    return f"export LC_ALL=C\n{scrub(backend)}\n"


# A batch is submitted by one shell at a time, also where one that was cut off from its client goes
# on. The lock is a symbolic link, made at once or not at all; it names its holder. One of a process
# that is gone, or under which nothing has happened for a quarter of an hour, is broken.
_LOCK = r"""cj_host=$(uname -n)
cj_lock() {
    cj_tries=0
    until ln -s "$cj_host:$$" "$1/lock" 2>/dev/null; do
        [ -d "$1" ] && [ -w "$1" ] || return 0
        cj_holder=$(readlink "$1/lock") || { cj_tries=$((cj_tries + 20)); [ "$cj_tries" -lt 100 ] && continue; return 0; }  # no room for it
        case $cj_holder in
            "$cj_host":*) kill -0 "${cj_holder##*:}" 2>/dev/null || { rm -f "$1/lock"; continue; } ;;
        esac
        [ -n "$(find "$1/lock" "$1/receipts" -prune -mmin -15 2>/dev/null)" ] || { rm -f "$1/lock"; continue; }
        cj_tries=$((cj_tries + 1))
        [ "$cj_tries" -lt 100 ] || { echo "$cj_holder" >&2; exit 98; }
        sleep 0.3
    done
}
"""


def _locks(folders: Iterable[str]) -> list[str]:
    """Return shell lines that lock the folders of batches, and a function that lets go of them."""
    words = [shlex.quote(folder) for folder in folders]
    unlock = "; ".join(
        f'[ "$(readlink {word}/lock)" != "$cj_host:$$" ] || rm -f {word}/lock' for word in words
    )
    return [
        *_LOCK.splitlines(),
        f"cj_unlock() {{ {unlock}; }}",
        *(f"cj_lock {word}" for word in words),
    ]


def scrub(backend: Backend) -> str:
    """Return shell lines that unset the variables of a surrounding job, of whatever scheduler, so
    that it does not shape the new one.
    """
    patterns = f"{backend.general['job_variables']} {job_variable_patterns()}".split()
    take = [word for word in dict.fromkeys(patterns) if not word.startswith("!")]
    keep = [word[1:] for word in dict.fromkeys(patterns) if word.startswith("!")]
    cases = f"{'|'.join(keep)}) ;; " if keep else ""
    return (
        "for cj_v in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do "
        "case $cj_v in "
        f"{cases}{'|'.join([*take, 'CLUSTERJOB_ID', 'CLUSTERJOB_NAME', 'CLUSTERJOB_WORKDIR', 'CLUSTERJOB_ARRAY_INDEX'])}) "
        'unset "$cj_v" ;; esac; done'
    )
