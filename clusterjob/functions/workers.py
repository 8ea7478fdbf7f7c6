"""The workers of a pool: arrays of jobs, submitted as any other."""

from __future__ import annotations

import hashlib
import importlib
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from clusterjob.errors import WorkersFailedError
from clusterjob.functions.book import Book, PoolRow
from clusterjob.functions.claims import ended_workers
from clusterjob.plain_files import read_text
from clusterjob.result import AsyncResult
from clusterjob.script import JobScript
from clusterjob.session import Session
from clusterjob.shell import quote, quote_all
from clusterjob.status import Reason, Status
from clusterjob.store import Task

_log = logging.getLogger(__name__)
# of one generation after the other that called nothing; nodes fail, and may do so once more
_MOST_BARREN = 3
_MOST_IDLE = 4  # submissions of workers, none of which made a call
# reads the runner, which must be what was sent, and runs it under its own name
_START = (
    "import sys,hashlib,types;p,d=sys.argv[1:3];s=open(p,'rb').read();"
    "hashlib.sha256(s).hexdigest()==d or sys.exit('clusterjob: '+p+' is not what was sent');"
    "m=types.ModuleType('clusterjob.runner');m.__file__=p;sys.modules[m.__name__]=m;"
    "exec(compile(s,p,'exec'),m.__dict__);sys.exit(m.main(sys.argv[3:]))"
)


@dataclass
class Generation:
    """Workers that were submitted together."""

    number: int
    elements: int
    result: AsyncResult
    seen: set[str] = field(default_factory=set)  # who said that they run
    ended: float = 0.0  # when that was found out, on the monotonic clock

    def tasks(self) -> Iterator[tuple[str, Task]]:
        """Yield the name that each worker has, but for its last part, with what became of it."""
        tasks = self.result.record.tasks
        if tasks is None:
            yield f"{self.number}-0", self.result.record.task
            return
        for index, task in tasks.items():
            yield f"{self.number}-{index}", task


class Workers:
    """The workers of one pool.

    ``job`` has the settings and resources of each; without it there will be no more of them.
    """

    def __init__(
        self,
        session: Session,
        job: JobScript | None,
        row: PoolRow,
        book: Book,
    ) -> None:
        self.session = session
        self.job = job
        self.row = row
        self.book = book
        self.generations: list[Generation] = []
        self._ended: set[str] = set()  # in order, by their own word
        self._surplus: set[str] = set()  # told to end
        self._forgotten: set[str] = (
            set()
        )  # generations whose jobs the store does not have
        self._barren = 0
        self._idle_rounds = 0  # submissions since a call was made

    # -- submitting --------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take over the workers that an earlier process submitted, or was about to."""
        rows = sorted(self.book.workers(self.row))
        records = self.session.store.by_tokens(token for *_, token in rows if token)
        for number, elements, token in rows:
            if token in records:
                result = AsyncResult(records[token], self.session.engine)
                generation = Generation(number, elements, result)
                if result.record.finished:  # whatever they did is told
                    generation.seen.add("")
                self.generations.append(generation)
            elif not token and self.job is not None:
                self._submit(number, elements)
            else:
                self._forgotten.add(str(number))

    def submit(self, elements: int) -> None:
        """Submit some more workers. Raises whatever a submission does, and
        :class:`WorkersFailedError` where many came and went, and called nothing.
        """
        if self._idle_rounds >= _MOST_IDLE:
            raise WorkersFailedError(
                f"workers come and go, and call nothing: {self.row.folder}. Is there a file "
                "'stop' in it?"
            )
        self._submit(self.book.add_workers(self.row, elements), elements)
        self._idle_rounds += 1

    def _submit(self, number: int, elements: int) -> None:
        """Submit a generation, unless it was before."""
        assert self.job is not None
        job = self.job.copy()
        job.body = worker_body(
            str(job.attributes.get("python")),
            self.row.folder,
            self.row.secret,
            number,
        )
        if elements > 1:
            job.set_resource("array", f"1-{elements}")
        results = self.session.submit(
            [job], cache_ids=[f"{self.row.id}-{number}"], retry=False, bundle=False
        )
        self.book.note_workers(self.row, number, results[0].record.token)
        self.generations.append(Generation(number, elements, results[0]))

    # -- looking -----------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Ask what became of the workers, where that is due."""
        for generation in self.generations:
            if not generation.result.record.finished:
                generation.result.refresh()

    def note(self, names: Collection[str]) -> None:
        """Take in which workers said that they run, or that they ended."""
        self._ended = ended_workers(names)
        by_number = {item.number: item for item in self.generations}
        for name in names:
            number, _, rest = name.partition("-")
            element, _, _ = rest.partition(".")
            generation = by_number.get(int(number)) if number.isdigit() else None
            if generation is None:
                continue
            generation.seen.add(element)

    def _is_out(self, name: str) -> bool:
        return name in self._ended or name in self._surplus

    def alive(self) -> int:
        """Return how many workers run, or wait in the queue, as far as is known."""
        return sum(
            not task.status.finished and not self._is_out(name)
            for generation in self.generations
            for name, task in generation.tasks()
        )

    def are_running(self, names: Collection[str]) -> bool:
        """Whether any of the workers that said so runs, and is not known to have ended."""
        for name in names:
            base, _, ending = name.partition(".")
            if ending.endswith("ended") or self._is_out(base):
                continue
            task, _ = self.find(name)
            if task is None or not task.status.finished:
                return True
        return False

    def surplus(self, most: int) -> list[str]:
        """Return the workers that are too many, the newest; they count as ended from now on."""
        live = [
            name
            for generation in self.generations
            for name, task in generation.tasks()
            if not task.status.finished and not self._is_out(name)
        ]
        self._surplus.update(live[most:])
        return live[most:]

    def running(self) -> int:
        """Return how many have said that they run, and not that they ended."""
        seen = sum(len(generation.seen - {""}) for generation in self.generations)
        return seen - len(self._ended | self._surplus)

    def have_run(self) -> bool:
        """Whether any of them has said that it runs."""
        return any(generation.seen - {""} for generation in self.generations)

    def find(self, worker: str) -> tuple[Task | None, AsyncResult | None]:
        """Return what became of a worker, and the job that it belongs to."""
        base = worker.partition(".")[0]
        for generation in self.generations:
            for name, task in generation.tasks():
                if name == base:
                    return task, generation.result
        return None, None

    def is_forgotten(self, worker: str) -> bool:
        """Whether nobody can tell what becomes of a worker: the record of its job was deleted."""
        return worker.partition("-")[0] in self._forgotten

    def job_id(self, worker: str) -> str:
        """Return the scheduler's id of a worker's job; empty where there is none."""
        _, result = self.find(worker)
        if result is None or not result.job_id:
            return ""
        element = worker.partition(".")[0].partition("-")[2]
        return result.job_id if element == "0" else f"{result.job_id}_{element}"

    def check(self, listed: float, settle: float) -> None:
        """Raise :class:`WorkersFailedError` where workers end before they call anything.

        ``listed`` is when it was last looked who runs, on the monotonic clock; what a worker wrote
        may be seen ``settle`` s later.
        """
        for generation in self.generations:
            record = generation.result.record
            if not record.finished or generation.seen:
                continue
            generation.ended = generation.ended or time.monotonic()
            if listed < generation.ended + settle:
                continue
            worst = max((task for _, task in generation.tasks()), key=_badness)
            generation.seen.add("")  # it counts once
            self._barren += 1
            is_whole = worst.status is Status.COMPLETED  # the folder was not there
            may_pass = is_whole or worst.reason in (
                Reason.NODE_FAILURE,
                Reason.PREEMPTED,
            )
            if may_pass and self._barren < _MOST_BARREN:
                continue
            raise WorkersFailedError(
                "the workers end before they call anything, so that no call is made: "
                + generation.result.explain()
            )

    def is_in_doubt(self) -> bool:
        """Whether it is not known yet if workers that ended have done anything."""
        return any(
            generation.result.record.finished and not generation.seen
            for generation in self.generations
        )

    def note_work(self) -> None:
        """Note that a call was made: workers get on."""
        self._barren = self._idle_rounds = 0

    def cancel(self) -> None:
        """Cancel workers that have not ended. Raises :class:`CommandError`."""
        records = [generation.result.record for generation in self.generations]
        self.session.engine.cancel(
            record for record in records if not record.finished
        )


def _badness(task: Task) -> int:
    return int(task.status)


def worker_body(python: str, folder: str, secret: bytes, generation: int) -> str:
    """Return the script that runs a worker; it ends at once where the pool is gone."""
    runner = f"{folder}/runner.py"
    word = quote(python)
    if python.startswith("~/"):
        word = f'"$HOME"/{quote(python[2:])}'
    key_sum = hashlib.sha256(secret).hexdigest()
    arguments = [runner, runner_digest(), folder, key_sum]
    return (
        "{% raw %}"  # the folder's name is no template
        f"[ -f {quote(runner)} ] || exit 0\n"
        f"exec {word} -c {quote(_START)} {quote_all([*arguments, str(generation)])}\n"
        "{% endraw %}"
    )


def runner_text() -> str:
    """Return the runner, as it travels."""
    # a worker, which may submit workers of its own, is that module, and no attribute of the package
    runner = importlib.import_module("clusterjob.runner")
    assert runner.__file__
    return read_text(runner.__file__)


def runner_digest() -> str:
    """Return its digest."""
    return hashlib.sha256(runner_text().encode()).hexdigest()


def log_of(result: AsyncResult, worker: str) -> str:
    """Return the path of a worker's own log."""
    element = worker.partition(".")[0].partition("-")[2]
    return result.log_path("stderr", int(element) or None)
