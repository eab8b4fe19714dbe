r"""How well an energy tells strange data from those that it learnt.

A score :math:`s` says how much a datum is one of the model's own. The area under the receiver operating
characteristic is the probability that a datum of the model's own has a higher score than a strange one,

.. math:: P(s(x) > s(y)) + \tfrac{1}{2} P(s(x) = s(y)), \qquad x \ \text{of its own}, \ y \ \text{strange}

so one half is what guessing has, and no threshold is chosen.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
    | https://arxiv.org/abs/1903.08689
    | Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One
    | (Grathwohl et al., 2020), https://arxiv.org/abs/1912.03263
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.data import Dataset
from ebmzoo.data.files import FromFiles
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics import Metric, Subject
from ebmzoo.models import Model, in_chunks, value_and_grad
from ebmzoo.store import Recipe, describe
from ebmzoo_pixel.outliers import Interpolated


@runtime_checkable
class Familiarity(Protocol):
    """How much a model takes data for its own."""

    def of(self, model: Model, x: Tensor, data: Dataset) -> Tensor:
        """Returns one score a datum, (N,), higher for what is more the model's own.

        Arguments:
            model: The model.
            x: The data to be judged, of shape (N, *shape).
            data: The model's own data set.
        """
        ...


@dataclass(frozen=True)
class LogDensity:
    r"""The log-density up to a constant, :math:`s(x) = -E(x)`, where the model's prior is flat."""

    @torch.no_grad()
    def of(self, model: Model, x: Tensor, data: Dataset) -> Tensor:
        """Returns the scores, of shape (N,)."""
        del data
        return -in_chunks(model.energy, x)


@dataclass(frozen=True)
class Typicality:
    r"""How near the energy is to that of data which the model learnt.

    .. math:: s(x) = -\left| E(x) - \mathbb{E}_{\text{train}} E \right|

    In many dimensions a law's own points are not where its density is largest, so too low an energy is as
    strange as too high a one.

    References:
        | Detecting Out-of-Distribution Inputs to Deep Generative Models Using Typicality
        | (Nalisnick et al., 2019), https://arxiv.org/abs/1906.02994, with one datum at a time

    Arguments:
        count: How many data the mean is over, the first of the train split; None for all of it.
    """

    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None:
            positive(self, "count")

    @torch.no_grad()
    def of(self, model: Model, x: Tensor, data: Dataset) -> Tensor:
        """Returns the scores, of shape (N,)."""
        learnt = data.load("train")[: self.count]
        typical = in_chunks(lambda part: model.energy(part.to(x)), learnt).double().mean()
        return -(in_chunks(model.energy, x).double() - typical).abs()


@dataclass(frozen=True)
class GradientNorm:
    r"""The approximate mass: a law's own points lie where its log-density is not steep.

    .. math:: s(x) = -\| \nabla_x E(x) \|

    References:
        | Your Classifier is Secretly an Energy Based Model and You Should Treat it Like One
        | (Grathwohl et al., 2020), Section 5.3, https://arxiv.org/abs/1912.03263
    """

    def of(self, model: Model, x: Tensor, data: Dataset) -> Tensor:
        """Returns the scores, of shape (N,)."""
        del data
        return -in_chunks(lambda part: value_and_grad(model.energy, part)[1].flatten(1).norm(dim=1), x)


@dataclass(frozen=True)
class OutOfDistribution(Metric):
    r"""The area under the ROC curve by which a score tells a model's own data from others.

    The first ``count`` data of both are compared, of the split that is scored. One is perfect, one half is
    guessing, and less means that the other data are taken for the more familiar ones.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
        | https://arxiv.org/abs/1903.08689

    Arguments:
        name: What follows ``AUROC`` in tables, such as the name of the other data.
        other: The other data, of the shape of the model's own.
        score: The score.
        count: How many data there are of each.
    """

    lower_is_better: ClassVar[bool] = False
    scores: ClassVar[Subject] = "model"
    name: str
    other: Dataset
    score: Familiarity = LogDensity()
    count: int = 10_000

    def __post_init__(self) -> None:
        positive(self, "count")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"AUROC {self.name}"

    def check_ready(self) -> None:
        """Raises DataError if files of the other data are absent."""
        read = self.other.data if isinstance(self.other, Interpolated) else self.other
        if isinstance(read, FromFiles):
            read.folder()

    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the area, from 0 to 1.

        Raises:
            FieldError: If samples are scored.
            ValueError: If the other data have another shape, if there are too few of either, or if a score is
                no number.
        """
        del get, rng
        if not isinstance(subject, Model):
            raise FieldError(self, "score", "used on a trained model, not on samples of one")
        if tuple(self.other.shape) != tuple(data.shape):
            raise ValueError(
                f"{self.label!r} compares data of one shape, but {type(self.other).__name__} holds "
                f"{tuple(self.other.shape)} and {type(data).__name__} {tuple(data.shape)}"
            )
        x = torch.cat([self._first(each, split) for each in (data, self.other)]).to(subject.prior.anchor)
        own, strange = self.score.of(subject, x, data).detach().double().cpu().split(self.count)
        return auroc(own, strange)

    def _first(self, data: Dataset, split: str) -> Tensor:
        held = data.load(split)
        if len(held) < self.count:
            raise ValueError(
                f"{self.label!r} asks for {self.count} data of each, but the split {split!r} of "
                f"{type(data).__name__} has {len(held)}; lower OutOfDistribution.count"
            )
        return held[: self.count]

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {
            "other": describe(self.other),
            "score": describe(self.score),
            "count": self.count,
            "ties": "half",
        }


def auroc(own: Tensor, strange: Tensor) -> float:
    r"""Returns the area under the ROC curve, as the Mann-Whitney statistic of the scores.

    .. math:: \frac{1}{n m} \left( \sum_{i=1}^{n} R_i - \frac{n (n + 1)}{2} \right)

    with the ranks :math:`R_i` of the own scores among all, of which equal ones share their mean rank.

    Arguments:
        own: The scores of the model's own data, of shape (n,).
        strange: The scores of strange data, of shape (m,).

    Raises:
        ValueError: If a score is no number.
    """
    from scipy.stats import rankdata

    scores = torch.cat([own, strange])
    wrong = int(scores.isnan().sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(scores)} scores are no numbers; look at the model's energies")
    n, m = len(own), len(strange)
    return float((rankdata(scores.numpy())[:n].sum() - n * (n + 1) / 2) / (n * m))
