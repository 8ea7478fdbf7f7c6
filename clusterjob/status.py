"""The five states of a job, and the reasons for which one ends badly.

A state says *where* a job is, a reason says *what went wrong*: the two are separate, so that a new
cause never needs a new state.
"""

from enum import Enum, IntEnum


class Status(IntEnum):
    """State of a job.

    The numbers and their order are those of the 2018 package: unfinished < 0 <= finished.
    """

    PENDING = -2
    RUNNING = -1
    COMPLETED = 0
    CANCELLED = 1
    FAILED = 2

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self >= Status.COMPLETED

    def __str__(self) -> str:
        return self.name


class Reason(str, Enum):
    """Why a job did not complete.

    Its value is the word stored in records and printed by the command line.
    """

    EXIT = "exit"  # non-zero exit code
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    DEPENDENCY = "dependency"  # a job it waited for did not complete
    SUBMISSION = "submission"  # the scheduler accepted it and could not start it
    CANCELLED = "cancelled"
    LOST = "lost"  # no source knows it

    def __str__(self) -> str:
        return self.value


PENDING = Status.PENDING
RUNNING = Status.RUNNING
COMPLETED = Status.COMPLETED
CANCELLED = Status.CANCELLED
FAILED = Status.FAILED


class Dependency(str, Enum):
    """When a job may start after another one, in the words of Slurm and PBS."""

    AFTER_OK = "afterok"  # when it completed
    AFTER_ANY = "afterany"  # when it ended, however that was
    AFTER_NOT_OK = "afternotok"  # when it failed or was cancelled
    # each element of an array when the one of the same index completed
    AFTER_CORRESPONDING = "aftercorr"

    def is_met(self, status: Status) -> bool:
        """Whether a job that came to this end is what another one waits for."""
        if self is Dependency.AFTER_ANY:
            return status.finished
        if self is Dependency.AFTER_NOT_OK:
            return status > Status.COMPLETED
        return status is Status.COMPLETED

    def __str__(self) -> str:
        return self.value
