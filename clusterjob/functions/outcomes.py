"""What came of a call: its value, or the error that its future raises."""

from __future__ import annotations

import signal

from clusterjob.errors import CallError
from clusterjob.functions.calls import Call
from clusterjob.runner import Said, load_value
from clusterjob.status import Reason

_MOST = 4000  # characters of a traceback within a message


class RemoteTraceback(Exception):
    """The cause of an error that a function raised: how it looked over there."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace)
        self.trace = trace

    def __str__(self) -> str:
        return f'\n"""\n{self.trace}"""'


def take_in(call: Call, said: Said) -> None:
    """Note where and when a call was made, and what it printed."""
    call.worker = said.get("worker", "")
    call.started, call.seconds = said["t"]
    call.host = said.get("host") or call.host
    call.job_id = said.get("job") or call.job_id
    for name in ("out", "err"):
        if said.get(name):
            call.logs[name] = tuple(said[name])


def value_of(said: Said, parts: list[memoryview], call: Call) -> object:
    """Return what a function returned, or raise what it raised.

    Raises :class:`CallError` where there is neither.
    """
    if said["ok"]:
        try:
            return load_value(said["v"], parts)
        except BaseException as error:  # whatever reading it calls
            raise CallError(
                f"{call.title}: what it returned cannot be read here: "
                f"{type(error).__name__}: {error}"
            ) from error
    if said["phase"] in ("died", "write"):
        raise CallError(
            f"{call.title}: {said['why']}{_reason_words(said)}{where(call)}",
            reason_of(said),
            said.get("code"),
        )
    trace = RemoteTraceback(said["trace"])
    if said["v"] is None:
        raise CallError(
            f"{call.title} raised {said['why']}, which cannot be pickled "
            f"({said.get('unpickled', '')}){where(call)}",
            Reason.EXIT,
        ) from trace
    try:
        raised = load_value(said["v"], parts)
    except Exception as error:
        raise CallError(
            f"{call.title} raised {said['why']}, which cannot be read here: "
            f"{type(error).__name__}: {error}{where(call)}",
            Reason.EXIT,
        ) from trace
    if said["phase"] != "call":
        raise _unprepared(said, raised, call) from trace
    if isinstance(raised, SystemExit):
        code = exit_code_of(raised)
        raise CallError(
            f"{call.title} ended with sys.exit({raised.code!r}){where(call)}",
            Reason.EXIT,
            code,
        ) from trace
    if isinstance(raised, StopIteration) or not isinstance(raised, Exception):
        raise CallError(
            f"{call.title} raised {said['why']}{where(call)}", Reason.EXIT
        ) from trace
    if isinstance(raised, ModuleNotFoundError) and raised.name:
        words = f"{raised}{where(call)}. {_about_module(raised.name)}"
        raised = ModuleNotFoundError(words, name=raised.name, path=raised.path)
    raised.__cause__ = trace
    raise raised


def _unprepared(said: Said, raised: BaseException, call: Call) -> BaseException:
    """Return the error for a call whose function could not be made there, or whose result could
    not be pickled.
    """
    if said["phase"] == "dump":
        return CallError(
            f"{call.title}: what it returned cannot be pickled: {said['why']}{where(call)}"
        )
    if isinstance(raised, ModuleNotFoundError) and raised.name:
        return CallError(
            f"{call.title} could not be called: there is no module {raised.name!r} where it "
            f"runs{where(call)}. {_about_module(raised.name)}",
            Reason.EXIT,
        )
    return CallError(
        f"{call.title} could not be called: {said['why']}{where(call)}", Reason.EXIT
    )


def exit_code_of(error: SystemExit) -> int:
    """Return the exit code that Python makes of a SystemExit: sys.exit in its library reference."""
    if error.code is None:
        return 0
    return int(error.code) & 0xFF if isinstance(error.code, int) else 1


def _about_module(name: str) -> str:
    top = name.partition(".")[0]
    return (
        f"If it is yours, include=[{top!r}] sends it along; a package is to be installed there, "
        "in the Python that the profile names (python = ...)"
    )


def reason_of(said: Said) -> Reason | None:
    """Return why a call came to no value, in the words of jobs."""
    if said["ok"]:
        return None
    if said["phase"] == "died":
        if said["oom"]:
            return Reason.OUT_OF_MEMORY
        code = said["code"]
        return Reason.SIGNAL if code is not None and code < 0 else Reason.EXIT
    return Reason.EXIT


def _reason_words(said: Said) -> str:
    if said["phase"] != "died":
        return ""
    if said["oom"]:
        return ": out of memory. More of it (mem=...) may help"
    if said["code"] == -signal.SIGKILL:
        return ", as the system does where memory runs out"
    return ""


def where(call: Call) -> str:
    """Return the words that say where a call was made, and the end of what it said."""
    words = f" on {call.host}" if call.host else ""
    words += f" (job {call.job_id})" if call.job_id else ""
    text = call.logs.get("err", (0, 0, ""))[2].strip()
    if text:
        words += f"; it said: {text[-_MOST:]}"
    return words
