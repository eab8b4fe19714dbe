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
from ebmzoo.metrics.metric import Metric
from ebmzoo.models import Model, NoEnergy, Normalised, evaluated, in_chunks, log_base
from ebmzoo.store import Recipe


@runtime_checkable
class Partition(Protocol):
    r"""How the log-partition :math:`\log Z = \log \mathbb{E}_b e^{-E}` of a model is found."""

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
            "NegativeLogLikelihood.partition = @SampledPartition()"
        )


@dataclass(frozen=True)
class SampledPartition:
    r"""The log-partition from samples of the base.

    .. math:: \log \hat Z = \log \frac{1}{n} \sum_{i=1}^{n} e^{-E(g(u_i))}, \qquad u_i \sim \rho

    By Jensen's inequality it is too small on average, so that the likelihood looks better than it is; by much
    where few samples carry the sum.

    Arguments:
        count: The number :math:`n` of samples.
    """

    count: int = 100_000

    def __post_init__(self) -> None:
        positive(self, "count")

    def log(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns :math:`\log \hat Z`, of shape ()."""
        sizes = [min(10_000, self.count - done) for done in range(0, self.count, 10_000)]
        energies = [evaluated(model, model.prior.draw(size, rng))[1] for size in sizes]
        return torch.logsumexp(-torch.cat(energies).double(), 0) - math.log(self.count)


@dataclass(frozen=True)
class NegativeLogLikelihood(Metric):
    r"""The mean negative log-likelihood of the data of a split, in nats.

    .. math:: -\mathbb{E}_p \left[ \log b(x) - E(x) - \log Z \right]

    with the density :math:`b` of what the prior decodes to. The decoder must be a flow, or the identity.

    Arguments:
        partition: How :math:`\log Z` is found.
    """

    lower_is_better: ClassVar[bool] = True
    of_model: ClassVar[bool] = True
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
        if not isinstance(subject, Model):
            raise FieldError(self, "partition", "used on a trained model, not on samples of one")
        x = data.load(split).to(subject.prior.anchor)
        energies = in_chunks(subject.energy, x)
        likelihoods = log_base(subject, x).double() - energies.double()
        return float(self.partition.log(subject, rng).double() - likelihoods.mean())

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"unit": "nats", "partition": type(self.partition).__name__}
