"""Curves of quality against cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ebmzoo.fields import positive
from ebmzoo.figures import Figure, panels
from ebmzoo.metrics.metric import Metric
from ebmzoo.recipes import ModelRecipe, Samples, Score
from ebmzoo.store import Recipe, Store

if TYPE_CHECKING:
    from ebmzoo.figures import Canvas


@dataclass(frozen=True)
class Curve:
    """One sampler at several budgets.

    Arguments:
        label: What the legend says.
        samples: The samples at each budget, for the first seed.
    """

    label: str
    samples: tuple[Samples, ...]


@dataclass(frozen=True)
class BudgetCurves(Figure):
    """Quality against cost, one curve for each sampler, one panel for each metric.

    The cost of a sample is what was counted when it was drawn. A gradient of the energy counts as
    ``gradient_cost`` evaluations and a pass through the decoder alone as none. Lines are means over seeds,
    bars their standard deviations.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        curves: The curves.
        metrics: The metrics.
        seeds: The number of seeds.
        gradient_cost: How many evaluations a gradient is worth.
        split: The split that samples are compared with.
    """

    name: str
    title: str
    curves: tuple[Curve, ...]
    metrics: tuple[Metric, ...]
    seeds: int = 1
    gradient_cost: float = 3.0
    split: str = "test"

    def __post_init__(self) -> None:
        positive(self, "seeds", "gradient_cost")

    def with_seeds(self, seeds: int) -> BudgetCurves:
        """Returns the figure for another number of seeds."""
        return dataclasses.replace(self, seeds=seeds)

    def needs(self) -> tuple[Recipe, ...]:
        """Returns the scores of every seed."""
        samples = [each for curve in self.curves for each in curve.samples]
        return tuple(
            score for each in samples for metric in self.metrics for score in self._scores(each, metric)
        )

    def _scores(self, samples: Samples, metric: Metric) -> list[Score]:
        return [Score(samples, metric, self.split).reseeded(index) for index in range(self.seeds)]

    def draw(self, store: Store) -> Canvas:
        """Draws the panels in one row."""
        canvas, axes = panels(1, len(self.metrics), self.title, size=4.0)
        for axis, metric in zip(axes[0], self.metrics, strict=True):
            for curve in self.curves:
                axis.errorbar(*self._points(curve, metric, store), label=curve.label, marker="o", capsize=2)
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlabel(
                f"evaluations of the energy for one sample (a gradient is {self.gradient_cost:g})"
            )
            axis.set_ylabel(metric.label)
        axes[0][0].legend(fontsize=8)
        return canvas

    def _points(self, curve: Curve, metric: Metric, store: Store) -> tuple[list[float], ...]:
        """Returns the costs, means and standard deviations along a curve."""
        costs, means, spreads = [], [], []
        for samples in curve.samples:
            scores = self._scores(samples, metric)
            values = torch.tensor([store.get(score) for score in scores], dtype=torch.float64)
            costs.append(sum(self._cost(score.subject, store) for score in scores) / len(scores))
            means.append(float(values.mean()))
            spreads.append(float(values.std()) if len(values) > 1 else 0.0)
        return costs, means, spreads

    def _cost(self, samples: Samples | ModelRecipe, store: Store) -> float:
        assert isinstance(samples, Samples)
        counted = store.run(samples)["evaluations"]
        return (counted["energies"] + self.gradient_cost * counted["gradients"]) / samples.count
