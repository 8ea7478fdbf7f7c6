"""What is known about a scheduler: its directives, commands, states and variables.

A backend is data. The grammar of its file is in ``docs/backends.md``;
:mod:`clusterjob.backend.load` reads and checks it.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from clusterjob.backend.resources import COMMON_RESOURCES
from clusterjob.errors import SettingsError
from clusterjob.plain_files import read_text
from clusterjob.status import Dependency, Reason, Status

# What is read from files is neither compared nor printed: dataclasses without the methods for that
# are made in half the time, at every start.

# In [States]. A reason: one word for two limits; the time used tells which.
TIMEOUT_OR_MEMORY = "timeout_or_memory"
# In [States]. A state: the job ended by itself, and its exit code says how.
EXITED = "EXITED"

# What commands and outputs may name.
PLACEHOLDERS = (
    "script",
    "jobs",
    "ids",
    "id_list",
    "user",
    "clusters",
    "spool",
    "age",
)
FIELDS = (
    "id",
    "task",
    "step",
    "state",
    "why",
    "exit",
    "signal",
    "wait_status",
    "submitted",
    "started",
    "ended",
    "elapsed",
    "cpu",
    "max_rss",
    "token",
    "name",
    "cluster",
)
VARIABLES = (
    "CLUSTERJOB_ID",
    "CLUSTERJOB_NAME",
    "CLUSTERJOB_WORKDIR",
    "CLUSTERJOB_SUBMIT_HOST",
    "CLUSTERJOB_NODELIST",
    "CLUSTERJOB_ARRAY_INDEX",
)
_TEMPLATE_NAME = re.compile(r"{[{%]-?\s*(?:if\s+)?([a-z]\w*)")
_NOT_ATTRIBUTES = {
    *COMMON_RESOURCES,
    "after",
    "dependencies",
    "exclude",
    "for",
    "endif",
    "endfor",
    "else",
}


class Quoting(str, Enum):
    """How a scheduler takes words with odd characters in its directives."""

    REFUSE = "refuse"
    DOUBLE = "double"
    POSIX = "posix"
    LINE = "line"  # none: a value is the rest of its line, in which $ begins a macro


class AfterForm(str, Enum):
    """Who sees to it that a job starts only when its predecessors completed."""

    NATIVE = "native"  # the scheduler
    # the job itself: the scheduler starts it whatever became of them
    GUARDED = "guarded"
    # the job itself where a predecessor is an array, else the scheduler
    GUARDED_ARRAYS = "guarded-arrays"


class ErrorKind(str, Enum):
    """What the words of a command that failed mean: the keys of [Errors]."""

    RETRY = "retry"  # not now
    LIMIT = "limit"  # the user has too many jobs
    UNKNOWN = "unknown"  # the scheduler does not know the job
    NO_ACCOUNTING = "no_accounting"
    ENDED = "ended"  # a job to cancel has ended


@dataclass(frozen=True, eq=False, repr=False)
class General:
    """[Backend]: how the scheduler's directives are written, and what its jobs see."""

    title: str = ""
    template: str = "submit.sh.j2"  # a path
    extension: str = "sh"  # of a script's file name
    extends: str = ""
    option: str = "--{key}={value}"
    flag: str = "--{key}"
    resource: str = ""  # of a name that is no option; empty: all are options
    options: tuple[str, ...] = ()  # names of more than a letter that are options
    # options that are ours too: the template joins them
    shared: tuple[str, ...] = ()
    # options that would undo ours: what to say in their place
    reserved: tuple[tuple[str, str], ...] = ()
    # options with which the submit command waits or submits nothing, so that no id could be read;
    # where only some values do, what is in those
    refused: tuple[tuple[str, str], ...] = ()
    underscore: str = "_"  # what stands for "_" in an option's name
    quoting: Quoting = Quoting.REFUSE
    job_variables: tuple[str, ...] = ()  # patterns; "!" before one that is kept
    # the variable of a job's start, in s since the epoch; behind it " env" where env(1) knows
    # --default-signal
    started: str = ""
    # the variable of the node's name, where the scheduler may call it otherwise than the machine
    node: str = ""
    forward: str = ""  # signals that the scheduler sends to the script alone
    # finds one more such signal in an option (NAME=VALUE) of a user's
    forward_option: re.Pattern[str] | None = None
    jobname: re.Pattern[str] = re.compile(r"[^\n]+")
    workdir: re.Pattern[str] = re.compile(r"[^\0]*")
    array_task: str = ""  # the index of an array's element in file names
    # in file names: pattern, what it stands for
    patterns: tuple[tuple[str, str], ...] = ()
    array_lists: bool = True
    clusters: str = ""  # the option that names one of several clusters
    after: AfterForm = AfterForm.NATIVE
    # what the directive "after" can express
    dependencies: tuple[Dependency, ...] = (Dependency.AFTER_OK,)
    scan: re.Pattern[str] | None = (
        None  # lines that the scheduler finds in bodies too
    )


class NativeStyle(str, Enum):
    """How the options of a scheduler's directives are told from their values."""

    GETOPT = "getopt"  # -N2, --nodes=2, --nodes 2
    WORDS = "words"  # -pe smp 4: a dash, a word, and its values
    PAIRS = "pairs"  # key = value


class NativeTime(str, Enum):
    """What a time limit without a unit means to a scheduler."""

    MINUTES = "minutes"  # MM, MM:SS, HH:MM:SS, D-HH:MM:SS
    SECONDS = "seconds"  # SS, MM:SS, HH:MM:SS
    HOURS_MINUTES = "hours:minutes"  # MM, HH:MM
    UNITS = "units"  # 30m, 2h; a bare number is minutes


@dataclass(frozen=True, eq=False, repr=False)
class Native:
    """[Native]: how directives that people wrote for the scheduler are read.

    ``prefix`` marks a directive, and with ``whole`` they are looked for in the whole script.
    ``given`` are options that clusterjob's own directives give anyway. ``aliases`` give options
    that mean the same one name, ``lists`` are options whose values are lists, ``chunks`` values
    whose parts are divided by colons. ``also`` and ``nearly`` are more templates, like those of
    [Directives]: for the same, and for what nearly is. ``memory`` is the unit of bare numbers;
    ``spare`` says whose cores are that nobody names; where it ``merges``, the standard error of
    who names a file for the standard output alone goes there too.
    """

    prefix: re.Pattern[str] | None = None
    whole: bool = False
    style: NativeStyle = NativeStyle.GETOPT
    time: NativeTime = NativeTime.MINUTES
    memory: str = "M"
    spare: str = "ppn"
    aliases: Mapping[str, str] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    chunks: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    nearly: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    merges: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Commands:
    """[Commands]: shell, with placeholders; empty where the scheduler has none."""

    submit: str
    active: str
    cancel: str
    finished: str = ""
    find: str = ""
    # takes many jobs at once, and answers a line each: =TOKEN EXIT-CODE WORDS; the same token is
    # the same job
    submit_batch: str = ""
    # must succeed before anything is submitted; its words say what is missing
    require: str = ""
    version: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Bundles:
    """[Bundles]: how single jobs go as one array, each as a job of its own.

    ``id`` is what the scheduler calls an element: ``{id}_{task}``, or with ``{process}`` for a
    count from 0; empty where jobs always go alone. ``array`` is what it calls the whole. ``unset``
    are variables that an element has, with ``=`` and what a job that is none has in its place;
    ``submit_dir`` is the one of the folder that a job was submitted from. A job goes ``alone`` that
    has one of these options, or whose texts name a variable that elements ``share``. ``after``: a
    job can come after an element. An array has ``least`` so many.
    """

    id: str = ""
    array: str = "{id}"
    unset: tuple[tuple[str, str | None], ...] = ()
    submit_dir: str = ""
    alone: tuple[str, ...] = ()
    share: tuple[str, ...] = ()
    after: bool = False
    least: int = 1


@dataclass(frozen=True, eq=False, repr=False)
class Limits:
    """[Limits], each with its unit."""

    poll_interval: float = 10.0  # s between two polls of one cluster, at the least
    first_poll: float = 0.5  # s from which the interval grows to poll_interval
    submit_parallel: int = 4  # submit commands at once
    array_size: int = 1000  # elements of one array
    command_timeout: float = 120.0  # s for one of the scheduler's commands
    settle: float = (
        20.0  # s in which exit record and accounting may lag behind an end
    )
    lost_after: float = 300.0  # s after which a job that no source knows is lost
    # logins to a host in a minute, by all processes of this machine
    connections: int = 10
    # what one job may ask for, and how many jobs there may be at once; 0: as many as the scheduler
    # takes
    max_cores: int = 0
    max_mem: int = 0  # MB a node
    max_time: int = 0  # s
    max_jobs: int = 0
    # s before jobs are offered again that were refused for now
    retry_wait: float = 15.0


@dataclass(frozen=True, eq=False, repr=False)
class Output:
    """How one command's answer is read: ``lines``, ``blocks`` of key and value, or ``json``."""

    format: str = "lines"
    pattern: re.Pattern[str] | None = None
    ignore: re.Pattern[str] | None = None
    start: re.Pattern[str] | None = None
    entry: re.Pattern[str] | None = None
    continuation: re.Pattern[str] | None = None
    token: re.Pattern[str] | None = None
    task: re.Pattern[str] | None = None
    jobs: str = ""
    state: str = "{state}"
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Outputs:
    """The [Output:...] sections."""

    submit: Output = Output()
    active: Output = Output()
    finished: Output = Output()
    find: Output = Output()


@dataclass(frozen=True, eq=False, repr=False)
class Directive:
    """One line of [Directives]: the resources it expresses and the template of the option.

    An empty template drops them.
    """

    resources: tuple[str, ...]
    template: str


class StateMeaning(NamedTuple):
    """What a word of the scheduler's means."""

    status: Status | str  # or EXITED
    reason: Reason | str | None  # or TIMEOUT_OR_MEMORY


@dataclass(frozen=True, eq=False, repr=False)
class StateRule:
    """One pattern of [States], and what a state that matches it means."""

    pattern: str
    meaning: StateMeaning


@dataclass(frozen=True, eq=False, repr=False)
class Backend:
    """A scheduler, as its folder in ``backends/`` and the overrides of a profile describe it."""

    name: str
    path: Path
    general: General
    commands: Commands
    outputs: Outputs
    states: tuple[StateRule, ...]
    directives: tuple[Directive, ...]
    native: Native
    bundles: Bundles
    variables: Mapping[str, str]
    limits: Limits
    errors: Mapping[ErrorKind, re.Pattern[str]]
    sections: Mapping[str, Mapping[str, str]]  # as read, for people to look at

    @property
    def title(self) -> str:
        """The scheduler's name for people."""
        return self.general.title or self.name

    def classify(self, state: str) -> StateMeaning | None:
        """Map the scheduler's word(s) for a state; None where nobody has seen the word before."""
        return self._meaning_of(state)

    @functools.cached_property
    def _meaning_of(self) -> Callable[[str], StateMeaning | None]:
        """Of the words that were seen it is remembered."""

        @functools.lru_cache(maxsize=256)
        def meaning_of(state: str) -> StateMeaning | None:
            for rule in self.states:
                if fnmatch.fnmatchcase(state, rule.pattern):
                    return rule.meaning
            return None

        return meaning_of

    def matches(self, kind: ErrorKind, text: str) -> bool:
        """Whether a command's words are those of [Errors] ``kind``."""
        pattern = self.errors.get(kind)
        return pattern is not None and pattern.search(text) is not None

    @functools.cached_property
    def has_arrays(self) -> bool:
        """Whether the scheduler has arrays."""
        return any(
            "array" in item.resources and item.template for item in self.directives
        )

    @functools.cached_property
    def can_exclude(self) -> bool:
        """Whether a job can be kept from nodes."""
        return any("exclude" in item.resources for item in self.directives)

    @functools.cached_property
    def attributes(self) -> frozenset[str]:
        """The names in directives that are neither resources nor derived from them.

        A profile gives them as attributes.
        """
        names = (
            name
            for directive in self.directives
            for name in _TEMPLATE_NAME.findall(directive.template)
        )
        return frozenset(names) - _NOT_ATTRIBUTES

    @functools.cached_property
    def template(self) -> str:
        """The text of the template that renders a job script. Raises :class:`SettingsError`."""
        try:
            return read_text(self.general.template)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"the template cannot be read: {error}",
                file=self.path / "backend.ini",
                section="Backend",
                key="template",
            ) from None
