r"""Langevin dynamics with a velocity (underdamped), without a Metropolis test.

Both kernels integrate :math:`du = v \, dt`,
:math:`dv = \nabla \log \pi(u) \, dt - \kappa v \, dt + \sqrt{2 \kappa} \, dW`, whose stationary law is
:math:`\pi(u) \, \mathcal{N}(v \mid 0, I)`. They split it into a drift A of the position, a kick B of the
velocity and the exact Ornstein-Uhlenbeck move O of the velocity, and differ in the order of the three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ebmzoo.fields import not_negative, positive
from ebmzoo.models import Target, value_and_grad
from ebmzoo.samplers.kernel import Info, Noise, Reparametrised, accepted


class KineticState(NamedTuple):
    r"""A :class:`~ebmzoo.samplers.kernel.State` with the velocities :math:`v`, of shape (B, *)."""

    position: Tensor
    log_prob: Tensor
    score: Tensor
    velocity: Tensor


class Kinetic(Reparametrised):
    """A kernel whose chains have velocities and start at rest."""

    def init(self, position: Tensor, target: Target) -> KineticState:
        """Puts chains at rest at ``position``, of shape (B, *)."""
        return KineticState(position, *value_and_grad(target, position), torch.zeros_like(position))


def _ornstein_uhlenbeck(velocity: Tensor, time: float, friction: float, noise: Tensor) -> Tensor:
    keep = math.exp(-friction * time)
    return (keep * velocity).add_(noise, alpha=math.sqrt(1 - keep**2))


@dataclass(frozen=True)
class KineticLangevin(Kinetic):
    r"""Kinetic Langevin in the order A B O B A, half a drift first, as in Generalized Energy Based Models.

    .. math::
        \bar u &= u + \tfrac{h}{2} v, \qquad \bar v = v + \tfrac{h}{2} \nabla \log \pi(\bar u) \\
        \tilde v &= e^{-\kappa h} \bar v + \sqrt{1 - e^{-2 \kappa h}} \, \xi \\
        v' &= \tilde v + \tfrac{h}{2} \nabla \log \pi(\bar u), \qquad u' = \bar u + \tfrac{h}{2} v'

    The gradient is that of the midpoint :math:`\bar u`; hence ``log_prob`` and ``score`` of the state are
    those of the last midpoint, not of the position. Chains start at rest, as in the paper's code. One
    gradient a step.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Appendix on kinetic Langevin sampling
        | https://arxiv.org/abs/2003.05033

    Arguments:
        step_size: The time :math:`h` of a step. The paper's :math:`\lambda` is :math:`h^2 / 4`.
        friction: The friction :math:`\kappa`.
    """

    step_size: float
    friction: float

    def __post_init__(self) -> None:
        positive(self, "step_size")
        not_negative(self, "friction")

    def move(self, state: KineticState, target: Target, noise: Noise) -> tuple[KineticState, Info]:
        """Moves every chain once, as the noise says."""
        half = 0.5 * self.step_size
        midpoint = torch.add(state.position, state.velocity, alpha=half)
        log_prob, score = value_and_grad(target, midpoint)
        velocity = torch.add(state.velocity, score, alpha=half)
        velocity = _ornstein_uhlenbeck(velocity, self.step_size, self.friction, noise[0])
        velocity = velocity.add_(score, alpha=half)
        position = torch.add(midpoint, velocity, alpha=half)
        state = KineticState(position, log_prob, score, velocity)
        return state, accepted(state.log_prob)


@dataclass(frozen=True)
class BAOAB(Kinetic):
    r"""Kinetic Langevin in the order B A O A B.

    On a Gaussian target the positions' stationary law is exact at every stable step size. The gradient at the
    end of one step is the one the next begins with: one gradient a step. Chains start at rest.

    References:
        | Rational Construction of Stochastic Numerical Methods for Molecular Sampling (Leimkuhler & Matthews,
          2013), Section 2

    Arguments:
        step_size: The time :math:`h` of a step.
        friction: The friction :math:`\kappa`.
    """

    step_size: float
    friction: float

    def __post_init__(self) -> None:
        positive(self, "step_size")
        not_negative(self, "friction")

    def move(self, state: KineticState, target: Target, noise: Noise) -> tuple[KineticState, Info]:
        """Moves every chain once, as the noise says."""
        half = 0.5 * self.step_size
        velocity = torch.add(state.velocity, state.score, alpha=half)
        midpoint = torch.add(state.position, velocity, alpha=half)
        velocity = _ornstein_uhlenbeck(velocity, self.step_size, self.friction, noise[0])
        position = midpoint.add_(velocity, alpha=half)
        log_prob, score = value_and_grad(target, position)
        state = KineticState(position, log_prob, score, velocity.add_(score, alpha=half))
        return state, accepted(state.log_prob)
