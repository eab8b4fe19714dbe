"""Kernels with a Metropolis test, which leave the target exactly invariant."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmzoo.fields import positive
from ebmzoo.models import Target, value_and_grad
from ebmzoo.samplers.kernel import Info, Noise, Reparametrised, State, chosen, noise_like, uniforms


def metropolis(state: State, proposal: State, log_ratio: Tensor, uniform: Tensor) -> tuple[State, Info]:
    r"""Takes each chain to its proposal with probability :math:`\min(1, e^r)`.

    A ratio that is not a number rejects, and its acceptance is reported as not a number.

    Arguments:
        state: Where the chains are.
        proposal: Where they might go.
        log_ratio: The logarithms :math:`r` of the Metropolis-Hastings ratios, of shape (B,).
        uniform: Numbers uniform on [0, 1), of shape (B,).
    """
    moves = uniform.log() < log_ratio
    parts = [chosen(moves, new, old) for new, old in zip(proposal, state, strict=True)]
    acceptance = log_ratio.clamp(max=0.0).exp()
    return State(*parts), Info(acceptance, torch.zeros_like(acceptance))


def square_norm(u: Tensor) -> Tensor:
    """Returns the squared Euclidean norm of each entry of a batch (B, *), of shape (B,)."""
    return u.flatten(1).square().sum(1)


class Tested(Reparametrised):
    """A kernel with a Metropolis test, whose proposals are made from normal noise."""

    def draw_noise(self, position: Tensor, rng: Generator) -> Noise:
        """Draws the noise of the proposals, of shape (B, *), and what decides on them, of shape (B,)."""
        return noise_like(position, rng), uniforms(position, rng)


@dataclass(frozen=True)
class MALA(Tested):
    r"""The Metropolis-adjusted Langevin algorithm.

    The proposal is the step of :class:`~ebmzoo.samplers.langevin.Langevin`, accepted with the probability
    that makes :math:`\pi` exactly invariant. One gradient a step, since the state keeps that of its position.

    References:
        | Exponential convergence of Langevin distributions (Roberts & Tweedie, 1996), Section 1.4

    Arguments:
        step_size: The step size :math:`\eta` of the proposal.
    """

    step_size: float

    def __post_init__(self) -> None:
        positive(self, "step_size")

    def move(self, state: State, target: Target, noise: Noise) -> tuple[State, Info]:
        """Moves every chain once, or leaves it where it is, as the noise says."""
        eta, (normal, uniform) = self.step_size, noise
        position = torch.add(state.position, state.score, alpha=eta).add_(normal, alpha=math.sqrt(2 * eta))
        proposal = State(position, *value_and_grad(target, position))
        back = (state.position - position).sub_(proposal.score, alpha=eta)
        log_forward = -0.5 * square_norm(normal)
        log_backward = -square_norm(back) / (4 * eta)
        log_ratio = proposal.log_prob - state.log_prob + log_backward - log_forward
        return metropolis(state, proposal, log_ratio, uniform)


@dataclass(frozen=True)
class HMC(Tested):
    r"""Hamiltonian Monte Carlo with unit masses and a fresh momentum for each step.

    Leapfrog steps of size :math:`h` from :math:`(u, p)`, :math:`p \sim \mathcal{N}(0, I)`, then a Metropolis
    test on :math:`\log \pi(u) - \|p\|^2 / 2`. One gradient for each leapfrog step.

    References:
        | MCMC using Hamiltonian dynamics (Neal, 2011), Section 3

    Arguments:
        step_size: The size :math:`h` of a leapfrog step.
        leapfrog_steps: The number of leapfrog steps between two Metropolis tests.
    """

    step_size: float
    leapfrog_steps: int

    def __post_init__(self) -> None:
        positive(self, "step_size", "leapfrog_steps")

    @property
    def gradients_per_step(self) -> int:
        """As many as there are leapfrog steps."""
        return self.leapfrog_steps

    def move(self, state: State, target: Target, noise: Noise) -> tuple[State, Info]:
        """Moves every chain along one trajectory, or leaves it where it is, as the noise says."""
        start, uniform = noise
        proposal, momentum, half = state, start, 0.5 * self.step_size
        for _ in range(self.leapfrog_steps):
            momentum = torch.add(momentum, proposal.score, alpha=half)
            position = torch.add(proposal.position, momentum, alpha=self.step_size)
            proposal = State(position, *value_and_grad(target, position))
            momentum.add_(proposal.score, alpha=half)
        kinetic = 0.5 * (square_norm(start) - square_norm(momentum))
        return metropolis(state, proposal, proposal.log_prob - state.log_prob + kinetic, uniform)
