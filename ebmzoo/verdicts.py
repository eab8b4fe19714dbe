"""What measurements say of a published number, and of a claim."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ebmzoo.tables import Better, Cell, Claim, Fraction, Reaches, Table

CONFIDENCE = 0.95
"""The level of every interval."""

NOT_ASKED = "not all cells that it is about were asked for"
"""Why a claim is open when a part of the table was made."""


@dataclass(frozen=True)
class Choice:
    """The model that a selection kept, beside the last one; means over seeds.

    Arguments:
        metric: The label of what it chose by.
        split: The split that it chose on.
        kept: After how many updates the model was kept.
        last: After how many updates it looked for the last time.
        scores: What the kept model and the last one scored, by split.
        diverged: How many of the runs ended since they diverged.
    """

    metric: str
    split: str
    kept: float
    last: float
    scores: Mapping[str, tuple[float, float]]
    diverged: int = 0


@dataclass(frozen=True)
class Result:
    """What was measured for a cell.

    Arguments:
        cell: The cell.
        values: The values, one for each seed that was measured.
        seconds: The time that everything behind the values took when it was made, or None if not all of it is
            on record.
        gradient_evaluations: The number of gradients of targets, one per chain, behind the values.
        attempts: The largest number of attempts that any training behind the values took; 1 if none diverged.
        protocol: The identity of the score's protocol.
        artifacts: The folder names of the scores.
        error: Why a seed has no value, or None.
        cost: How often the model was evaluated for one sample, by kind (the fields of
            :class:`~ebmzoo.models.Evaluations`); or None for what is no sample, or was not recorded.
        choice: Which model the selection kept, if there was one.
        diagnostics: What samplers said of themselves, on average over seeds: acceptance, for example.
    """

    cell: Cell
    values: tuple[float, ...] = ()
    seconds: float | None = 0.0
    gradient_evaluations: int = 0
    attempts: int = 1
    protocol: str = ""
    artifacts: tuple[str, ...] = ()
    error: str | None = None
    cost: Mapping[str, float] | None = None
    choice: Choice | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every seed has a value."""
        return len(self.values) == self.cell.seeds

    @property
    def mean(self) -> float | None:
        """The mean over seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds, or None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Judgement:
    """What became of a claim.

    Arguments:
        claim: The claim in words.
        ratio: The ratio of the better row to the other, or to the claimed value.
        low: The lower end of its interval; or, where each seed is judged, the least of any.
        high: The upper end, likewise.
        holds: Whether the claim holds; None if that cannot be told.
        open: Why it cannot be told, or nothing.
        difference: Where the metric is on no ratio scale, their difference instead, with its interval.
    """

    claim: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    holds: bool | None = None
    open: str = ""
    difference: float | None = None


def half_width(values: Sequence[float]) -> float:
    """Returns half the width of the t-interval of a mean; infinite for fewer than two values."""
    if len(values) < 2:
        return math.inf
    from scipy.stats import t

    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def verdict(result: Result, comparable: bool, allowed: float) -> str | None:
    """Judges a cell against what was published.

    Arguments:
        result: The measurement.
        comparable: Whether it was made at the paper's scale with nothing overridden.
        allowed: The difference that counts as none.

    Returns:
        ``reproduced``, ``better``, ``not reproduced``, ``not comparable`` or ``underspecified``; None where
        there is nothing to judge.
    """
    published = result.cell.published
    if published is None or published.status == "unverified" or result.mean is None:
        return None
    if not comparable or not result.complete:
        return "not comparable"
    difference = result.mean - published.value
    spread = half_width(result.values) if len(result.values) > 1 else 0.0
    if abs(difference) <= spread + allowed:
        return "reproduced"
    if (difference < 0) == result.cell.score.metric.lower_is_better:
        return "better"
    return "underspecified" if published.underspecified else "not reproduced"


Place = tuple[str, str, str]


def judge(claim: Claim, results: Mapping[Place, Result]) -> Judgement:
    """Judges a claim.

    Arguments:
        claim: The claim.
        results: The measurements by row, column and metric.
    """
    found = [results.get(place) for place in claim.mentions()]
    if None in found:
        return Judgement(claim.claim, open=NOT_ASKED)
    measured = [result for result in found if result is not None and result.complete]
    if len(measured) < len(found):
        return Judgement(claim.claim, open="not enough cells were made to tell")
    if len({result.protocol for result in measured}) > 1:
        return Judgement(claim.claim, open="the rows were scored by different protocols")
    if isinstance(claim, Better):
        return _judge_better(claim, *measured)
    if isinstance(claim, Fraction):
        return _judge_fraction(claim, *measured)
    return _judge_reaches(claim, *measured)


def _judge_better(claim: Better, row: Result, than: Result) -> Judgement:
    metric = row.cell.score.metric
    if metric.ratio_scale and min(*row.values, *than.values) <= 0:
        return Judgement(claim.claim, open="not all values are above zero, so they have no ratios")
    pairs = zip(row.values, than.values, strict=False)  # seeds that only one row has are in no pair
    apart = [math.log(a / b) if metric.ratio_scale else a - b for a, b in pairs]
    mean, half = statistics.fmean(apart), half_width(apart)
    low, high = mean - half, mean + half
    holds = high < 0 if metric.lower_is_better else low > 0
    found = Judgement(claim.claim, difference=mean, low=low, high=high, holds=holds)
    if math.isinf(half):
        found = Judgement(claim.claim, difference=mean, open="one seed has no interval")
    return _of_ratios(found) if metric.ratio_scale else found


def _of_ratios(found: Judgement) -> Judgement:
    """Returns what was found of the logarithms of ratios as what it says of the ratios."""
    ratio, low, high = (
        None if log is None else math.exp(min(log, 700.0))  # or one of the largest numbers that there are
        for log in (found.difference, found.low, found.high)
    )
    return dataclasses.replace(found, ratio=ratio, difference=None, low=low, high=high)


def _judge_fraction(claim: Fraction, row: Result, than: Result) -> Judgement:
    if min(than.values) <= 0:
        return Judgement(claim.claim, open="not all values are above zero, so they have no ratios")
    ratios = [a / b for a, b in zip(row.values, than.values, strict=False)]
    low, high = min(ratios), max(ratios)
    return Judgement(claim.claim, statistics.fmean(ratios), low, high, high <= claim.at_most)


def _judge_reaches(claim: Reaches, row: Result) -> Judgement:
    if row.cell.score.metric.lower_is_better:
        holds = max(row.values) <= claim.value
    else:
        holds = min(row.values) >= claim.value
    if not row.cell.score.metric.ratio_scale:
        apart = [value - claim.value for value in row.values]
        mean, low, high = statistics.fmean(apart), min(apart), max(apart)
        return Judgement(claim.claim, difference=mean, low=low, high=high, holds=holds)
    if claim.value == 0:
        return Judgement(claim.claim, holds=holds)
    ratios = [value / claim.value for value in row.values]
    return Judgement(claim.claim, statistics.fmean(ratios), min(ratios), max(ratios), holds)


@dataclass(frozen=True)
class MeasuredTable:
    """A table, as far as it was measured.

    Arguments:
        name: The name of the table.
        scale: The scale it was made at.
        table: The table.
        results: One result for each cell that was asked for.
        overrides: The bindings in which the settings differ from the paper scale.
    """

    name: str
    scale: str
    table: Table
    results: tuple[Result, ...]
    overrides: tuple[str, ...] = ()

    def verdicts(self) -> tuple[str | None, ...]:
        """Returns the verdict on each result."""
        comparable = self.scale == "paper" and not self.overrides
        return tuple(verdict(result, comparable, self.table.allowed(result.cell)) for result in self.results)

    def judgements(self) -> tuple[Judgement, ...]:
        """Returns what became of each claim."""
        places = {(r.cell.row, r.cell.column, r.cell.metric): r for r in self.results}
        return tuple(judge(claim, places) for claim in self.table.claims)
