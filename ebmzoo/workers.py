"""Several processes that make the scores of a table.

They put what they make on the same shelf, and end with the process that started them, however it ends: one
that finds the line to it cut comes to the next safe point, keeps what it has, and goes.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ebmzoo.executors import Failure, Job, Outcome, attempt
from ebmzoo.recipes import Score
from ebmzoo.runtime import Deadline, OutOfTime, Runtime, keep_freed_memory, say, speaking_of
from ebmzoo.store import Store, everything_behind
from ebmzoo.training.processes import ended_from_outside


@dataclass(frozen=True)
class Processes:
    """As many jobs at a time as there are processes, which share the threads that this one has.

    Jobs are begun in their order, but for those that need what is being made for another. With ``cuda`` as
    their device the processes take the devices in turn.

    Arguments:
        count: The number of processes.
    """

    count: int

    def outcomes(self, jobs: Sequence[Job], store: Store) -> Iterator[tuple[Job, Outcome]]:
        """Yields the jobs as they are done; those whose score is kept already, or cannot be made, at once."""
        left, crew = list(jobs), _Crew(store, self.count)
        failed: dict[str, Failure] = {}
        try:
            while left or crew.busy:
                for job in list(left):
                    outcome = _known(job, store, failed)
                    if outcome is None and not crew.take(job):
                        continue
                    left.remove(job)
                    if outcome is not None:
                        yield job, outcome
                for job, report in crew.reports():
                    if report.outcome is None:
                        left.append(job)
                        continue
                    if isinstance(report.outcome, Failure):
                        failed = dict.fromkeys(report.failed, report.outcome) | failed
                    yield job, report.outcome
                if crew.stopping and not crew.busy and left:
                    raise OutOfTime
        finally:
            crew.dismiss()


def _known(job: Job, store: Store, failed: dict[str, Failure]) -> Outcome | None:
    """Returns what comes of a job, if that is known without making anything."""
    if store.state(job.score) == "kept":
        return attempt(store, job.score)
    behind = everything_behind([job.score]) if failed else []
    return next((failed[each.key] for each in behind if each.key in failed), None)


@dataclass(frozen=True)
class _Report:
    """What a process says of a job.

    Arguments:
        outcome: What came of it, or None if time ran out.
        failed: The keys of the recipes that could not be made.
    """

    outcome: Outcome | None
    failed: tuple[str, ...] = ()


class _Crew:
    """The processes that work at jobs, which are started as they are needed."""

    def __init__(self, store: Store, count: int):
        self._store, self._count = store, count
        self._workers: list[_Worker] = []
        self.stopping = False

    @property
    def busy(self) -> bool:
        """Whether any of them is at work."""
        return any(worker.job for worker in self._workers)

    def take(self, job: Job) -> bool:
        """Gives a job to one of them; returns False if none is free, or what it needs is being made."""
        at_work = [worker for worker in self._workers if worker.job]
        if self.stopping or len(at_work) == self._count:
            return False
        needs = {each.key for each in everything_behind([job.score]) if self._store.state(each) != "kept"}
        if any(worker.makes & needs for worker in at_work):
            return False
        say(job.title)
        self._idle().begin(job, needs)
        return True

    def _idle(self) -> _Worker:
        self._workers = [worker for worker in self._workers if worker.job or worker.process.is_alive()]
        for worker in self._workers:
            if not worker.job:
                return worker
        ranks = set(range(self._count)) - {worker.rank for worker in self._workers}
        self._workers.append(_Worker(self._store, min(ranks), self._count))
        return self._workers[-1]

    def reports(self) -> Iterator[tuple[Job, _Report]]:
        """Waits until something is done, and yields that; tells all to stop when it is time."""
        at_work = [worker for worker in self._workers if worker.job]
        done: Collection[object] = ()
        while at_work and not done:
            if self._store.runtime.deadline.passed:
                self._stop()
            done = connection.wait([worker.line for worker in at_work], timeout=0.2)
        for worker in at_work:
            if worker.line in done:
                job, report = worker.end(self.stopping)
                if not worker.process.is_alive():
                    self._workers.remove(worker)
                if report.outcome is None:
                    self._stop()
                yield job, report

    def _stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            for worker in self._workers:
                worker.stop()

    def dismiss(self) -> None:
        """Lets all go, and ends those that do not."""
        for worker in self._workers:
            worker.line.close()
        for worker in self._workers:
            worker.process.join(10.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


class _Worker:
    """One of a crew's processes, as the process that started it sees it."""

    def __init__(self, store: Store, rank: int, count: int):
        context = get_context("spawn")
        self.rank = rank
        self.line, theirs = context.Pipe()
        runtime = store.runtime
        settings = _Settings(
            store.root,
            dataclasses.replace(runtime, device=_device(runtime.device, rank)),
            max(1, torch.get_num_threads() // count),
        )
        self.process = context.Process(target=_serve, args=(theirs, settings))
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.makes: set[str] = set()

    def begin(self, job: Job, makes: set[str]) -> None:
        """Hands over a job, which makes the recipes with these keys."""
        self.job, self.makes = job, makes
        with suppress(OSError):  # a process that is gone is noticed when its report is due
            self.line.send((job.title, job.score))

    def end(self, stopping: bool) -> tuple[Job, _Report]:
        """Returns the job and the report on it, which is there."""
        assert self.job is not None
        job, self.job = self.job, None
        try:
            report: _Report = self.line.recv()
        except (EOFError, OSError):
            self.process.join()
            words = ended_from_outside("the process that made it", self.process.exitcode)
            report = _Report(None if stopping else Failure(words))
        return job, report

    def stop(self) -> None:
        """Says that it is time to stop."""
        with suppress(OSError):
            self.line.send(None)


@dataclass(frozen=True)
class _Settings:
    """What a process of a crew begins with.

    Arguments:
        root: The folder of the shelf.
        runtime: How work is done. Its deadline is on the clock that all processes of a machine share.
        threads: The number of torch's threads.
    """

    root: Path
    runtime: Runtime
    threads: int


class _Leash(Deadline):
    """A deadline that comes also when there is word from the process that gave the work, or that is gone."""

    def __init__(self, deadline: Deadline, line: Connection):
        super().__init__()
        self.end = deadline.end
        self._line, self._looked = line, 0.0

    @property
    def passed(self) -> bool:
        """Whether the moment has come. The line is looked at ten times a second, which costs nothing."""
        now = time.monotonic()
        if now > self._looked + 0.1:
            self._looked = now
            self.asked = self.asked or self._line.poll()
        return super().passed


def _serve(line: Connection, settings: _Settings) -> None:
    """Is what the processes of a crew run: makes one score after the other, until there are no more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one hears them, and says so
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    leash = _Leash(settings.runtime.deadline, line)
    store = Store(settings.root, dataclasses.replace(settings.runtime, deadline=leash))
    with suppress(EOFError, OSError):  # whoever asked is gone
        while (report := _next_report(line, store)) is not None:
            line.send(report)


def _next_report(line: Connection, store: Store) -> _Report | None:
    """Makes the next score and returns what is to be said of it, or None if there are no more."""
    try:
        task: tuple[str, Score] | None = line.recv()
    except (AttributeError, ImportError) as error:
        words = (
            f"another process cannot import what it is to make ({error}); have the classes of recipes at the "
            "top of a module that can be imported, or make the table in one process"
        )
        return _Report(Failure(words))
    if task is None:
        return None
    title, score = task
    try:
        with speaking_of(title):
            return _Report(attempt(store, score), store.failed)
    except OutOfTime:
        return _Report(None)


def _device(name: str, rank: int) -> str:
    """Returns the device of one of a crew's processes."""
    return f"cuda:{rank % torch.cuda.device_count()}" if name == "cuda" else name
