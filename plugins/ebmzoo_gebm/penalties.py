"""What is added to the energy's criterion to keep the energy smooth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.fields import positive
from ebmzoo.losses import gradient_penalty


@runtime_checkable
class Penalty(Protocol):
    """A penalty of the energy."""

    def value(self, energy: nn.Module, data: Tensor, base: Tensor, rng: Generator) -> Tensor:
        """Returns the penalty, of shape (), for data (N, *) and samples of the base (M, *), M not below N."""
        ...


@dataclass(frozen=True)
class GradientPenalty:
    r"""Holds the energy's slope near *zero* between data and samples of the base.

    .. math:: \lambda \, \mathbb{E} \| \nabla_x E(x) \|^2

    at points drawn uniformly on lines from a datum to a sample.

    References:
        | https://github.com/MichaelArbel/GeneralizedEBM, ``penalty_type: gradient``

    Arguments:
        weight: The weight :math:`\lambda`.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "weight")

    def value(self, energy: nn.Module, data: Tensor, base: Tensor, rng: Generator) -> Tensor:
        """Returns the penalty, of shape ()."""
        size = (len(data), *(1,) * (data.ndim - 1))
        place = torch.rand(size, generator=rng, device=data.device, dtype=data.dtype)
        samples = base[: len(data)]
        return self.weight * gradient_penalty(energy, samples + place * (data - samples), 0.0)


@dataclass(frozen=True)
class ParameterPenalty:
    r"""Holds the energy's parameters near zero.

    .. math:: \lambda \, \frac{\sum_k \| \theta_k \|^2}{\sum_k \sum_i d_{k i}}

    over the parameters :math:`\theta_k`, whose shapes are :math:`(d_{k1}, d_{k2}, \ldots)`. The denominator
    adds the sides of the shapes; it is no number of parameters. So does the official code.

    References:
        | https://github.com/MichaelArbel/GeneralizedEBM, ``penalty_type: gradient_l2``

    Arguments:
        weight: The weight :math:`\lambda`.
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        positive(self, "weight")

    def value(self, energy: nn.Module, data: Tensor, base: Tensor, rng: Generator) -> Tensor:
        """Returns the penalty, of shape ()."""
        del data, base, rng
        parameters = list(energy.parameters())
        squares = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
        return self.weight * squares / sum(sum(parameter.shape) for parameter in parameters)
