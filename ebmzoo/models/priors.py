"""Priors of the variable that is sampled."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn


class Prior(nn.Module, ABC):
    r"""A distribution :math:`\rho` that can be drawn from and whose log-density is known.

    Arguments:
        shape: The shape of one point, without the batch.
    """

    anchor: Tensor

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # knows the device and the dtype

    @abstractmethod
    def log_prob(self, u: Tensor) -> Tensor:
        r"""Returns :math:`\log \rho(u)`, of shape (B,), for points of shape (B, *shape)."""

    def plus_score(self, gradient: Tensor, u: Tensor) -> Tensor:
        r"""Returns ``gradient`` :math:`+ \nabla \log \rho(u)`, all three of shape (B, *shape).

        Every step of a chain asks for it, so a prior that knows its score in closed form says so. Here it is
        derived from :meth:`log_prob`.
        """
        return gradient + torch.func.grad(lambda point: self.log_prob(point).sum())(u)

    @abstractmethod
    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""

    def law(self) -> Prior:
        """Returns the distribution of the points that are drawn: this one, where it is a distribution."""
        return self


class StandardNormal(Prior):
    r""":math:`\rho = \mathcal{N}(0, I)`."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,)."""
        constant = 0.5 * math.log(2 * math.pi) * math.prod(self.shape)
        return -0.5 * u.flatten(1).square().sum(1) - constant

    def plus_score(self, gradient: Tensor, u: Tensor) -> Tensor:
        """Returns ``gradient - u``."""
        return gradient - u

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""
        return _noise(self, count, rng)


class Normal(Prior):
    r""":math:`\rho = \mathcal{N}(0, s^2 I)`.

    Arguments:
        shape: The shape of one point.
        scale: The standard deviation :math:`s` of every coordinate.
    """

    def __init__(self, shape: Sequence[int], scale: float = 1.0):
        super().__init__(shape)
        self.scale = scale

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,)."""
        constant = math.log(self.scale * math.sqrt(2 * math.pi)) * math.prod(self.shape)
        return -0.5 * (u / self.scale).flatten(1).square().sum(1) - constant

    def plus_score(self, gradient: Tensor, u: Tensor) -> Tensor:
        r"""Returns ``gradient`` :math:`- u / s^2`."""
        return torch.sub(gradient, u, alpha=self.scale**-2)

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""
        return self.scale * _noise(self, count, rng)


class Box(Prior):
    r"""Flat on the box :math:`[l, h]^d`, normalised there; :math:`-\infty` outside.

    Arguments:
        shape: The shape of one point.
        low: The lower bound :math:`l` of every coordinate.
        high: The upper bound :math:`h`.
    """

    def __init__(self, shape: Sequence[int], low: float = -1.0, high: float = 1.0):
        super().__init__(shape)
        if not low < high:
            raise ValueError(f"a box should have low below high, not low={low} and high={high}")
        self.low, self.high = low, high

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,). They carry no graph."""
        points = u.detach().flatten(1)
        inside = (points.clamp(self.low, self.high) == points).all(1)
        density = -math.log(self.high - self.low) * math.prod(self.shape)
        return inside.to(points.dtype).log_().add_(density)  # log 0 = -inf

    def plus_score(self, gradient: Tensor, u: Tensor) -> Tensor:
        """Returns ``gradient``: the density is flat inside, and has no slope outside."""
        return gradient

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""
        unit = torch.rand(
            count, *self.shape, generator=rng, device=self.anchor.device, dtype=self.anchor.dtype
        )
        return self.low + (self.high - self.low) * unit


class Flat(Prior):
    r""":math:`\rho = 1` everywhere: no prior at all, and no distribution, since it has no finite mass.

    The energy alone must be normalisable. Where chains begin is a choice of its own.

    Arguments:
        start: The distribution of the points that are drawn.
    """

    def __init__(self, start: Prior):
        super().__init__(start.shape)
        self.start = start

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns zeros, of shape (B,)."""
        return u.new_zeros(len(u))

    def plus_score(self, gradient: Tensor, u: Tensor) -> Tensor:
        """Returns ``gradient``."""
        return gradient

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points to begin at, of shape (count, *shape)."""
        return self.start.draw(count, rng)

    def law(self) -> Prior:
        """Returns the distribution of the points that are drawn."""
        return self.start


def _noise(prior: Prior, count: int, rng: Generator) -> Tensor:
    anchor = prior.anchor
    return torch.randn(count, *prior.shape, generator=rng, device=anchor.device, dtype=anchor.dtype)
