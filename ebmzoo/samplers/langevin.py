r"""Langevin dynamics without a Metropolis test.

There is one convention in this package, which :class:`Langevin` states. Papers write the step in many ways;
``docs/langevin.md`` translates each of them, and every row of its table is a test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ebmzoo.fields import FieldError, not_negative, positive
from ebmzoo.models import Target, value_and_grad
from ebmzoo.samplers.kernel import Info, Noise, Reparametrised, State, accepted


@dataclass(frozen=True)
class Langevin(Reparametrised):
    r"""The unadjusted Langevin algorithm.

    .. math:: u' = u + \eta \, \nabla \log \pi(u) + \sqrt{2 \eta} \, \xi, \qquad \xi \sim \mathcal{N}(0, I)

    The temperature is one. The chain's stationary law is :math:`\pi` as :math:`\eta \to 0`; on
    :math:`\mathcal{N}(0, 1)` its variance is :math:`1 / (1 - \eta / 2)`. One gradient a step.

    References:
        | Exponential convergence of Langevin distributions (Roberts & Tweedie, 1996), Section 1.4

    Arguments:
        step_size: The step size :math:`\eta`.
    """

    step_size: float

    def __post_init__(self) -> None:
        positive(self, "step_size")

    def move(self, state: State, target: Target, noise: Noise) -> tuple[State, Info]:
        """Moves every chain once, as the noise says."""
        position = torch.add(state.position, state.score, alpha=self.step_size)
        position.add_(noise[0], alpha=math.sqrt(2 * self.step_size))
        state = State(position, *value_and_grad(target, position))
        return state, accepted(state.log_prob)


@dataclass(frozen=True)
class SGLD(Reparametrised):
    r"""Noisy ascent whose gradient and noise are chosen apart.

    .. math:: u' = \mathrm{box}\left( u + a \, \mathrm{clip}_c(\nabla \log \pi(u)) + s \, \xi \right)

    Without clip and box this is :class:`Langevin` with :math:`\eta = s^2 / 2` on :math:`\pi^{1/T}`, at the
    temperature :math:`T = s^2 / (2 a)` that :attr:`temperature` gives. Energy-based models of images are
    mostly trained so: Du & Mordatch (2019) at :math:`T \approx 10^{-6}`, Grathwohl et al. (2020) at
    :math:`T = 5 \cdot 10^{-5}`, Nijkamp et al. (2019) at :math:`T = 5 \cdot 10^{-5}`. With a clip there is no
    such temperature, since the drift is no longer a gradient.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 3.1

    Arguments:
        gradient: The coefficient :math:`a` of the gradient.
        noise: The standard deviation :math:`s` of the noise.
        clip: The largest absolute value :math:`c` that any coordinate of the gradient keeps, or None.
        box: The interval (low, high) into which every coordinate is put back after the move, or None.
    """

    gradient: float
    noise: float
    clip: float | None = None
    box: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        positive(self, "gradient")
        not_negative(self, "noise")
        if self.clip is not None:
            positive(self, "clip")
        if self.box is not None and not self.box[0] < self.box[1]:
            raise FieldError(self, "box", "an interval (low, high)")

    @property
    def temperature(self) -> float:
        """The temperature at which noise and drift match, where there is no clip and no box."""
        return self.noise**2 / (2 * self.gradient)

    def move(self, state: State, target: Target, noise: Noise) -> tuple[State, Info]:
        """Moves every chain once, as the noise says."""
        drift = state.score if self.clip is None else state.score.clamp(-self.clip, self.clip)
        position = torch.add(state.position, drift, alpha=self.gradient)
        position.add_(noise[0], alpha=self.noise)
        if self.box is None:
            state = State(position, *value_and_grad(target, position))
            return state, accepted(state.log_prob)
        low, high = self.box
        position.clamp_(low, high)
        held = ((position == low) | (position == high)).flatten(1).to(position.dtype).mean(1)
        state = State(position, *value_and_grad(target, position))
        return state, Info(torch.ones_like(held), held)
