r"""Discriminator optimal transport (DOT): samples of the base, moved uphill on its critic, not far.

With a critic :math:`D = -E` whose Lipschitz constant is :math:`K`, a sample :math:`y` of the base goes to a
minimum of

.. math:: T(y) \in \arg\min_x \; \| x - y + \delta \|_2 - D(x) / K

in the space of data, or of the same with :math:`D \circ g` in the space of latents. It is a deterministic map
of each sample. Where :math:`D` is an optimal critic of the Wasserstein distance it is an optimal transport to
the law of the data (the minimum need not be unique, say the paper's errata); **it does not sample**
:math:`p_g e^{D}`, and given the logit of an optimal classifier it returns another law than that of the data.

The paper's code adds :math:`\delta = 0.001` to every coordinate, which keeps the norm differentiable at the
start, and stops after a fixed number of steps.

References:
    | Discriminator optimal transport (Tanaka, 2019), Algorithms 1-2
    | https://arxiv.org/abs/1910.06832
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.fields import FieldError, positive, share
from ebmzoo.models import Model, decoded, evaluated, frozen, value_and_grad
from ebmzoo.samplers.diagnostics import note

OFFSET = 1e-3
r"""The paper's :math:`\delta`."""

PAIRS = 100
"""Of how many pairs of points the largest slope is taken as the Lipschitz constant."""


@runtime_checkable
class Region(Protocol):
    """Where latents may go."""

    def direction(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Returns the part of a gradient (B, D) along which latents (B, D) may move."""
        ...

    def point(self, z: Tensor) -> Tensor:
        """Returns the latents, back in the region."""
        ...


@dataclass(frozen=True)
class Anywhere:
    """Latents may go anywhere."""

    def direction(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Returns the gradient itself."""
        return gradient

    def point(self, z: Tensor) -> Tensor:
        """Returns the latents themselves."""
        return z


@dataclass(frozen=True)
class Sphere:
    r"""Latents keep their distance from the origin, where a normal prior has its mass.

    The gradient :math:`h` loses its radial part, :math:`h - z \, (h \cdot z) / \|z\|^2`.
    """

    def direction(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Returns the tangential part of the gradient."""
        return gradient - z * (gradient * z).sum(1, keepdim=True) / z.square().sum(1, keepdim=True)

    def point(self, z: Tensor) -> Tensor:
        """Returns the latents themselves; steps along the tangent hardly leave the sphere."""
        return z


@dataclass(frozen=True)
class SphereAsPublished:
    r"""What DOT's public code has in the place of :class:`Sphere`.

    The gradient becomes :math:`h - z \, (h \cdot z) / \sqrt{d}`. What is taken away is :math:`\sqrt{d}` times
    the radial part where :math:`\|z\|^2 = d`, so latents are pushed outwards or inwards.
    """

    def direction(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Returns the gradient as the code has it."""
        return gradient - z * (gradient * z).sum(1, keepdim=True) / z.shape[1] ** 0.5

    def point(self, z: Tensor) -> Tensor:
        """Returns the latents themselves."""
        return z


@dataclass(frozen=True)
class Interval:
    """Every coordinate is put back into an interval, as for a uniform prior.

    Arguments:
        low: The lower end.
        high: The upper end.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise FieldError(self, "high", f"above low, {self.low}")

    def direction(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Returns the gradient itself."""
        return gradient

    def point(self, z: Tensor) -> Tensor:
        """Returns the latents, clamped."""
        return z.clamp(self.low, self.high)


@dataclass(frozen=True)
class LatentTransport:
    r"""DOT in latent space, by gradient descent.

    Arguments:
        steps: The number of steps.
        learning_rate: Their size.
        region: Where latents may go.
    """

    steps: int = 100
    learning_rate: float = 0.01
    region: Region = Anywhere()

    def __post_init__(self) -> None:
        positive(self, "steps", "learning_rate")

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` transported samples of the base."""
        with frozen(model):
            pairs = model.prior.draw(2 * PAIRS, rng)
            constant = steepest(pairs, evaluated(model, pairs)[1])
            note({"lipschitz": float(constant)})
            begin = model.prior.draw(count, rng)
            value = _objective(begin, lambda z: model.energy(model.decoder(z)), constant)
            z = begin
            for _ in range(self.steps):
                _, gradient = value_and_grad(value, z)
                z = self.region.point(z - self.learning_rate * self.region.direction(z, gradient))
            return decoded(model, z)


@dataclass(frozen=True)
class DataTransport:
    r"""DOT in the space of data, by Adam.

    Its cost is counted in gradients of the energy, although none goes through the decoder.

    Arguments:
        steps: The number of steps.
        learning_rate: The learning rate of Adam.
        beta1: The decay of the mean of gradients.
        beta2: The decay of the mean of squared gradients.
        low: The lower end of the interval into which every coordinate is put back, or None.
        high: Its upper end, or None.
    """

    steps: int = 100
    learning_rate: float = 0.01
    beta1: float = 0.0
    beta2: float = 0.9
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        positive(self, "steps", "learning_rate")
        share(self, "beta1", "beta2")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise FieldError(self, "high", f"above low, {self.low}")

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` transported samples of the base."""
        with frozen(model):
            constant = self._constant(model, rng)
            note({"lipschitz": float(constant)})
            begin = decoded(model, model.prior.draw(count, rng))
            value = _objective(begin, model.energy, constant)
            x = begin.clone()
            optimizer = torch.optim.Adam([x], self.learning_rate, (self.beta1, self.beta2))
            for _ in range(self.steps):
                x.grad = value_and_grad(value, x)[1]
                optimizer.step()
                if self.low is not None or self.high is not None:
                    x.clamp_(self.low, self.high)
            return x.detach()

    def _constant(self, model: Model, rng: Generator, repeats: int = 10) -> Tensor:
        """Returns the mean over repeats of the steepest slope, as the paper's code has it."""
        slopes = [steepest(*evaluated(model, model.prior.draw(2 * PAIRS, rng))) for _ in range(repeats)]
        return torch.stack(slopes).mean()


def steepest(points: Tensor, values: Tensor) -> Tensor:
    """Returns the largest slope between the first half of points (2 N, *) and the second, of shape ().

    Arguments:
        points: The points, of shape (2 N, *).
        values: The values of a function there, of shape (2 N,).
    """
    (a, b), (at_a, at_b) = points.flatten(1).chunk(2), values.chunk(2)
    return ((at_a - at_b).abs() / (a - b).norm(dim=1).clamp_min(1e-12)).max()


def _objective(
    begin: Tensor, energy: Callable[[Tensor], Tensor], constant: Tensor
) -> Callable[[Tensor], Tensor]:
    """Returns what each point minimises: (B, *) to (B,)."""
    return lambda x: (x - begin + OFFSET).flatten(1).norm(dim=1) + energy(x) / constant
