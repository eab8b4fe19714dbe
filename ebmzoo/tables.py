"""Tables as values: what a paper published, what is measured, and what is claimed.

A table is the one value that a gin file builds. It makes nothing: :mod:`ebmzoo.execution` measures its cells,
:mod:`ebmzoo.verdicts` judges them and :mod:`ebmzoo.rendering` prints them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ebmzoo.fields import FieldError, not_negative, positive
from ebmzoo.figures import Figure
from ebmzoo.metrics.metric import Metric
from ebmzoo.recipes import ModelRecipe, Samples, Score

STATUSES = ("verified", "secondary", "unverified")
"""How a published number was seen: in the paper or its code, quoted by another source, or neither."""


@dataclass(frozen=True)
class Published:
    """A number that somebody published.

    Arguments:
        value: The number.
        source: Where it stands: paper, table or page.
        status: One of :data:`STATUSES`. An unverified number is shown in parentheses and never compared.
        std: The spread that was published with it, or None.
        underspecified: What the source leaves out although the number depends on it, and what is done here
            instead; or nothing.
    """

    value: float
    source: str
    status: str
    std: float | None = None
    underspecified: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise FieldError(self, "status", f"one of {', '.join(STATUSES)}")
        if not self.source:
            raise FieldError(self, "source", "a paper, table or page")
        if self.std is not None:
            not_negative(self, "std")


@dataclass(frozen=True)
class Cell:
    """One number of a table, measured over several seeds.

    Arguments:
        row: The name of its row, usually a method.
        column: The name of its column, usually a data set.
        score: The score for the first seed; the others differ in nothing but the seeds.
        published: What was published, or None.
        seeds: The number of seeds.
    """

    row: str
    column: str
    score: Score
    published: Published | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        positive(self, "seeds")

    @property
    def metric(self) -> str:
        """The label of the metric."""
        return self.score.label

    @property
    def models(self) -> int:
        """How many trained models there are for the seeds."""
        subject = self.score.subject
        fewer = subject.models if isinstance(subject, Samples) else None
        return self.seeds if fewer is None else min(self.seeds, fewer)

    def scores(self) -> tuple[Score, ...]:
        """Returns the score of every seed."""
        return tuple(self.score.reseeded(index) for index in range(self.seeds))

    def cells(self) -> tuple[Cell, ...]:
        """Returns the cell itself."""
        return (self,)


@dataclass(frozen=True)
class Cells:
    """Several metrics of one subject: as many cells, side by side.

    Arguments:
        row: The name of the row.
        column: The name of the column.
        subject: The samples, or the model, that all the metrics score.
        metrics: The metrics.
        published: What was published for each metric, or nothing at all.
        seeds: The number of seeds.
        split: The split that the subject is compared with.
    """

    row: str
    column: str
    subject: Samples | ModelRecipe
    metrics: tuple[Metric, ...]
    published: tuple[Published | None, ...] = ()
    seeds: int = 1
    split: str = "test"

    def __post_init__(self) -> None:
        positive(self, "seeds")
        if self.published and len(self.published) != len(self.metrics):
            raise FieldError(self, "published", f"empty or of the length of metrics, {len(self.metrics)}")

    def cells(self) -> tuple[Cell, ...]:
        """Returns one cell for each metric."""
        published = self.published or (None,) * len(self.metrics)
        return tuple(
            Cell(self.row, self.column, Score(self.subject, metric, self.split), value, self.seeds)
            for metric, value in zip(self.metrics, published, strict=True)
        )


@dataclass(frozen=True)
class Better:
    """The claim that one row beats another, judged over seeds in pairs.

    It holds if the 95 % interval of the mean logarithm of the ratio of the two rows' values, paired by seed,
    lies on the better side of one; or, where the metric is on no ratio scale, that of their mean difference
    on the better side of zero.

    Arguments:
        claim: The claim in words.
        row: The row that is claimed to be better.
        than: The row that it is compared with.
        column: The column.
        metric: The label of the metric.
    """

    claim: str
    row: str
    than: str
    column: str
    metric: str

    def __post_init__(self) -> None:
        if self.row == self.than:
            raise FieldError(self, "than", "another row")

    def mentions(self) -> tuple[tuple[str, str, str], ...]:
        """Returns the row, column and metric of each cell that the claim is about."""
        return ((self.row, self.column, self.metric), (self.than, self.column, self.metric))


@dataclass(frozen=True)
class Reaches:
    """The claim that a row reaches a value with every seed.

    Arguments:
        claim: The claim in words.
        row: The row.
        column: The column.
        metric: The label of the metric.
        value: The value; what is better than it counts too.
    """

    claim: str
    row: str
    column: str
    metric: str
    value: float

    def mentions(self) -> tuple[tuple[str, str, str], ...]:
        """Returns the row, column and metric of the cell that the claim is about."""
        return ((self.row, self.column, self.metric),)


@dataclass(frozen=True)
class Fraction:
    """The claim that one row's value is at most a fraction of another's, in each pair of seeds.

    Arguments:
        claim: The claim in words.
        row: The row that is claimed to have the smaller value.
        than: The row that it is compared with.
        column: The column.
        metric: The label of the metric.
        at_most: The fraction.
    """

    claim: str
    row: str
    than: str
    column: str
    metric: str
    at_most: float

    def __post_init__(self) -> None:
        positive(self, "at_most")
        if self.row == self.than:
            raise FieldError(self, "than", "another row")

    def mentions(self) -> tuple[tuple[str, str, str], ...]:
        """Returns the row, column and metric of each cell that the claim is about."""
        return ((self.row, self.column, self.metric), (self.than, self.column, self.metric))


Claim = Better | Reaches | Fraction


@dataclass(frozen=True)
class Table:
    """A table of a paper, or of ours.

    Arguments:
        source: Where the table stands, or that it is ours.
        cells: The cells, as :class:`Cell` or :class:`Cells`.
        claims: What the paper, or we, claim of the cells.
        figures: Pictures of what the cells are made of.
        tolerance: The relative difference from a published number that still counts as reproduced, besides
            the interval over seeds.
        absolute_tolerance: The same where the metric is on no ratio scale: a difference, in nats of
            likelihoods.
    """

    source: str
    cells: tuple[Cell | Cells, ...]
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    tolerance: float = 0.05
    absolute_tolerance: float = 0.1

    def __post_init__(self) -> None:
        not_negative(self, "tolerance", "absolute_tolerance")
        places = [(cell.row, cell.column, cell.metric) for cell in self.flat()]
        if not places:
            raise FieldError(self, "cells", "one cell or more")
        for place in places:
            if places.count(place) > 1:
                raise FieldError(
                    self, "cells", f"one cell for each place, but {' · '.join(place)} comes twice"
                )
        for figure in self.figures:
            if not re.fullmatch(r"\w[\w.-]*", figure.name):
                raise FieldError(figure, "name", "of letters, digits, '-' and '.'")
        self._check_claims()

    def _check_claims(self) -> None:
        """Raises FieldError unless claims are about cells of the table, and make sense of their metrics."""
        metrics = {(cell.row, cell.column, cell.metric): cell.score.metric for cell in self.flat()}
        for claim in self.claims:
            for place in claim.mentions():
                if place not in metrics:
                    raise FieldError(
                        self, "claims", f"about cells of the table, and {' · '.join(place)} is none"
                    )
                if isinstance(claim, Fraction) and not metrics[place].ratio_scale:
                    raise FieldError(self, "claims", f"Better, not Fraction: no {claim.metric} has a ratio")

    def flat(self) -> Iterator[Cell]:
        """Yields every cell."""
        for source in self.cells:
            yield from source.cells()

    def allowed(self, cell: Cell) -> float:
        """Returns the difference of a cell from what was published that counts as none."""
        if cell.score.metric.ratio_scale and cell.published is not None:
            return self.tolerance * abs(cell.published.value)
        return self.absolute_tolerance

    def with_seeds(self, seeds: int) -> Table:
        """Returns the table with another number of seeds in every cell.

        Where samples are drawn of fewer models than that, what scores models has no more of them either.
        """
        sampled = [samples for samples in map(_samples, self.cells) if samples is not None]
        fixed = [samples.models for samples in sampled if samples.models is not None]
        models = min([seeds, *fixed])
        cells = tuple(
            dataclasses.replace(source, seeds=seeds if _samples(source) else models) for source in self.cells
        )
        figures = tuple(figure.with_seeds(seeds) for figure in self.figures)
        return dataclasses.replace(self, cells=cells, figures=figures)


def _samples(source: Cell | Cells) -> Samples | None:
    """Returns the samples that cells are about, or None if they are about a model."""
    subject = source.score.subject if isinstance(source, Cell) else source.subject
    return subject if isinstance(subject, Samples) else None
