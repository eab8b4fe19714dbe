"""Who makes the scores that a table asks for: what that means, and this process as the simplest answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias

from ebmzoo.recipes import Score
from ebmzoo.runtime import OutOfTime, say, worded
from ebmzoo.store import Store
from ebmzoo.tables import Cell
from ebmzoo.training import Diverged


@dataclass(frozen=True)
class Job:
    """One seed of one cell.

    Arguments:
        seed: The seed's place among the cell's.
        index: The cell's place among those that were asked for.
        cell: The cell.
    """

    seed: int
    index: int
    cell: Cell

    @cached_property
    def score(self) -> Score:
        """What is to be made."""
        return self.cell.score.reseeded(self.seed)

    @property
    def title(self) -> str:
        """Its seed, row, column and metric."""
        cell = self.cell
        return f"seed {self.seed + 1}/{cell.seeds} · {cell.row} · {cell.column} · {cell.metric}"


@dataclass(frozen=True)
class Failure:
    """Why a score could not be made.

    Arguments:
        words: What went wrong, in one paragraph.
        attempts: How many times a training that diverged was tried; 1 for any other reason.
    """

    words: str
    attempts: int = 1


Outcome: TypeAlias = float | Failure


class Executor(Protocol):
    """A way to get through jobs."""

    def outcomes(self, jobs: Sequence[Job], store: Store) -> Iterator[tuple[Job, Outcome]]:
        """Yields every job once, as it is done.

        Raises:
            OutOfTime: If the deadline comes first. What was done is kept.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """One job after the other, in this process.

    Arguments:
        debug: Whether an error ends it all, with its traceback.
    """

    debug: bool = False

    def outcomes(self, jobs: Sequence[Job], store: Store) -> Iterator[tuple[Job, Outcome]]:
        """Yields the jobs in their order; once time is over, those whose score is kept."""
        late = False
        for job in jobs:
            kept = store.state(job.score) == "kept"
            if late and not kept:
                continue
            if not kept:
                say(job.title)
            try:
                yield job, float(store.get(job.score)) if self.debug else attempt(store, job.score)
            except OutOfTime:
                late = True
        if late:
            raise OutOfTime


HERE = InProcess()


def attempt(store: Store, score: Score) -> Outcome:
    """Returns a score, or what went wrong."""
    try:
        return float(store.get(score))
    except OutOfTime:
        raise
    except (Exception, SystemExit) as error:  # a plugin may call for an exit, which is not its to call for
        return Failure(worded(error), error.attempts if isinstance(error, Diverged) else 1)
