"""The likelihood of data under a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.losses import log_mean_exp
from ebmzoo.metrics.metric import Metric, Subject
from ebmzoo.models import (
    Model,
    NoEnergy,
    Normalised,
    chunk_sizes,
    dequantised,
    evaluated,
    in_chunks,
    log_base,
    rebased,
)
from ebmzoo.store import Recipe


@runtime_checkable
class Partition(Protocol):
    r"""How the log-partition :math:`\log Z = \log \mathbb{E}_b e^{-E}` of a model is found.

    Over a flat prior, whose density is one everywhere, it is :math:`\log \int e^{-E}`.
    """

    def log(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns :math:`\log Z`, of shape ()."""
        ...


@dataclass(frozen=True)
class ExactPartition:
    """The log-partition in closed form, where there is one."""

    def log(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns :math:`\log Z`, of shape ().

        Raises:
            ValueError: If the energy does not say it.
        """
        del rng
        if isinstance(model.energy, NoEnergy):
            return model.prior.anchor.new_zeros(())
        if isinstance(model.energy, Normalised):
            return model.energy.log_partition()
        raise ValueError(
            "the log-partition of this energy has no closed form; estimate it with "
            "NegativeLogLikelihood.partition = @SampledPartition() or @AnnealedPartition()"
        )


@dataclass(frozen=True)
class SampledPartition:
    r"""The log-partition from samples of the base.

    .. math:: \log \hat Z = \log \frac{1}{n} \sum_{i=1}^{n} e^{-E(g(u_i))}, \qquad u_i \sim \rho

    By Jensen's inequality it is too small on average, so that the likelihood looks better than it is; by much
    where few samples carry the sum. A flat prior is no distribution: there samples are of the normal law that
    chains begin at, and weighed by its density.

    Arguments:
        count: The number :math:`n` of samples.
    """

    count: int = 100_000

    def __post_init__(self) -> None:
        positive(self, "count")

    def log(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns :math:`\log \hat Z`, of shape ()."""
        model = rebased(model, model.prior.law())
        sizes = chunk_sizes(self.count, 10_000)
        energies = [evaluated(model, model.prior.draw(size, rng))[1] for size in sizes]
        return log_mean_exp(-torch.cat(energies).double())


@dataclass(frozen=True)
class NegativeLogLikelihood(Metric):
    r"""The mean negative log-likelihood of the data of a split, in nats.

    .. math:: -\mathbb{E}_p \left[ \log b(x) - E(x) - \log Z \right]

    with the density :math:`b` of what the prior decodes to. The decoder must be a flow, or the identity.

    Arguments:
        partition: How :math:`\log Z` is found.
    """

    lower_is_better: ClassVar[bool] = True
    ratio_scale: ClassVar[bool] = False
    scores: ClassVar[Subject] = "model"
    partition: Partition = ExactPartition()

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "NLL"

    @torch.no_grad()
    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the negative log-likelihood of one datum, in nats.

        Raises:
            FieldError: If samples are scored.
            ValueError: If the model's density is not known.
        """
        check_model(self, subject)
        x = data.load(split).to(subject.prior.anchor)
        return negative_log_likelihood(subject, x, self.partition, rng)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"unit": "nats", "partition": type(self.partition).__name__}


@dataclass(frozen=True)
class BitsPerDimension(Metric):
    r"""How many bits a coordinate of discrete data takes under a model of continuous data, at most.

    .. math:: -\frac{1}{d \log 2} \, \mathbb{E}_p \left[ \log \pi(x + w \epsilon) + d \log w \right]

    with one uniform draw of the noise :math:`\epsilon` for each datum of the split.

    References:
        | A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016), Section 3.1
        | https://arxiv.org/abs/1511.01844

    Arguments:
        width: The distance :math:`w` between two values of a coordinate, such as 2 / 255 of images of bytes.
        partition: How the model's log-partition is found.
        count: How many data are looked at, the first of the split; None for all of it.
    """

    lower_is_better: ClassVar[bool] = True
    scores: ClassVar[Subject] = "model"
    width: float = 2 / 255
    partition: Partition = ExactPartition()
    count: int | None = None

    def __post_init__(self) -> None:
        positive(self, "width")
        if self.count is not None:
            positive(self, "count")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "bits/dim"

    @torch.no_grad()
    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the bits of one coordinate.

        Raises:
            FieldError: If samples are scored.
            ValueError: If the model's density is not known.
        """
        check_model(self, subject)
        x = data.load(split)[: self.count].to(subject.prior.anchor)
        x = dequantised(x, self.width, rng)
        nats = negative_log_likelihood(subject, x, self.partition, rng)
        return nats / (math.prod(data.shape) * math.log(2)) - math.log2(self.width)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        compared = "the whole split" if self.count is None else f"the first {self.count} of the split"
        return {"width": self.width, "partition": type(self.partition).__name__, "data": compared}


def check_model(metric: Metric, subject: Any) -> None:
    """Raises FieldError, in the name of a metric that has a ``partition``, unless a model is scored."""
    if not isinstance(subject, Model):
        raise FieldError(metric, "partition", "used on a trained model, not on samples of one")


def negative_log_likelihood(model: Model, x: Tensor, partition: Partition, rng: Generator) -> float:
    """Returns the mean negative log-likelihood of data (N, *) under a model, in nats."""
    likelihoods = log_base(model, x).double() - in_chunks(model.energy, x).double()
    return float(partition.log(model, rng).double() - likelihoods.mean())
