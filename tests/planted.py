"""Cells and results whose numbers are planted, so that what becomes of them is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator, Tensor
from toys import Blob, Chase

from ebmzoo.data.dataset import Dataset
from ebmzoo.metrics import Metric
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.samplers import Direct
from ebmzoo.store import Recipe
from ebmzoo.tables import Cell, Published
from ebmzoo.verdicts import Result

SUBJECT = Samples(Trained(Chase(), Blob(), steps=2, batch_size=16), Direct(), count=8)
"""Samples that take milliseconds to make."""


@dataclass(frozen=True)
class Planted(Metric):
    """A metric that knows its value beforehand.

    Arguments:
        name: Its label.
        number: Its value.
        higher: Whether higher values are better.
        fault: The name of the exception that it raises instead, ``nan``, ``inf``, or nothing.
    """

    name: str = "EMD"
    number: float = 1.0
    higher: bool = False
    fault: str = ""

    @property
    def lower_is_better(self) -> bool:
        return not self.higher

    @property
    def label(self) -> str:
        return self.name

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        if self.fault in ("nan", "inf"):
            return float(self.fault)
        if self.fault:
            raise FAULTS[self.fault]
        return self.number

    def protocol(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class PlantedLikelihood(Planted):
    """The same, of values whose zero means nothing."""

    ratio_scale: ClassVar[bool] = False


FAULTS = {
    "value": ValueError("the metric\nmakes no sense here"),
    "type": TypeError("this is no number"),
    "disk": OSError(28, "No space left on device", "somewhere/artifact.part"),
    "silent": AssertionError(),
    "exit": SystemExit(0),
}


def cell(
    row: str = "ours",
    column: str = "toy",
    metric: Metric = Planted(),
    published: Published | None = None,
    seeds: int = 1,
) -> Cell:
    return Cell(row, column, Score(SUBJECT, metric), published, seeds)


def result(
    values: tuple[float, ...], of: Cell | None = None, missing: int = 0, protocol: str = "p"
) -> Result:
    """Returns what was measured of a cell: a value for each of its seeds but for the missing ones."""
    of = of or cell()
    of = Cell(of.row, of.column, of.score, of.published, len(values) + missing)
    artifacts = tuple(f"score-{index:012d}" for index in range(len(values)))
    return Result(of, values, 1.5, 100, 1, protocol, artifacts)


def published(value: float, status: str = "verified", std: float | None = None, omits: str = "") -> Published:
    return Published(value, "Table 1", status, std, omits)
