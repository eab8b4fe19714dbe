r"""Barker's proposal: a random walk whose every coordinate prefers the way uphill.

It looks at the gradient only through a sigmoid, and so does not break where gradients are large, as
:class:`~ebmzoo.samplers.MALA` does.

References:
    | The Barker proposal: combining robustness and efficiency in gradient-based MCMC (Livingstone & Zanella,
      2022)
    | https://arxiv.org/abs/1908.11812
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from ebmzoo.fields import positive
from ebmzoo.models import Target, value_and_grad
from ebmzoo.samplers import Info, Noise, Reparametrised, State
from ebmzoo.samplers.kernel import noise_like, uniforms
from ebmzoo.samplers.metropolis import metropolis


@dataclass(frozen=True)
class Barker(Reparametrised):
    r"""Barker's proposal with a Metropolis test, which leaves the target exactly invariant.

    Each coordinate moves by :math:`b_i z_i`, where :math:`z_i \sim \mathcal{N}(0, s^2)` and the sign
    :math:`b_i` is +1 with probability :math:`1 / (1 + \exp(-z_i \, \partial_i \log \pi(u)))`. With
    :math:`w = u' - u`, the ratio of the test is

    .. math:: \frac{\pi(u')}{\pi(u)} \prod_i
        \frac{1 + \exp(-w_i \, \partial_i \log \pi(u))}{1 + \exp(w_i \, \partial_i \log \pi(u'))}

    One gradient a step.

    References:
        | The Barker proposal (Livingstone & Zanella, 2022), Algorithm 2

    Arguments:
        scale: The standard deviation :math:`s` of the moves.
    """

    scale: float

    def __post_init__(self) -> None:
        positive(self, "scale")

    def draw_noise(self, position: Tensor, rng: Generator) -> Noise:
        """Draws the moves' sizes and what decides on their signs, (B, *), and on the moves, of shape (B,)."""
        signs = torch.rand(position.shape, generator=rng, device=position.device, dtype=position.dtype)
        return noise_like(position, rng), signs, uniforms(position, rng)

    def move(self, state: State, target: Target, noise: Noise) -> tuple[State, Info]:
        """Moves every chain once, or leaves it where it is, as the noise says."""
        normal, signs, uniform = noise
        size = self.scale * normal
        move = torch.where(signs < (size * state.score).sigmoid(), size, -size)
        position = state.position + move
        proposal = State(position, *value_and_grad(target, position))
        forward, backward = logsigmoid(move * state.score), logsigmoid(-move * proposal.score)
        log_ratio = proposal.log_prob - state.log_prob + (backward - forward).flatten(1).sum(1)
        return metropolis(state, proposal, log_ratio, uniform)
