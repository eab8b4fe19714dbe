"""Densities of data under a model, where the decoder can be inverted."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.models.model import Model
from ebmzoo.models.priors import Prior


@runtime_checkable
class Invertible(Protocol):
    """A decoder that can be undone."""

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the points (B, *) that data decode from, and the log-determinants of that map, (B,)."""
        ...


@runtime_checkable
class Normalised(Protocol):
    r"""An energy whose log-partition :math:`\log \mathbb{E}_b e^{-E}` over its base is known."""

    def log_partition(self) -> Tensor:
        """Returns the log-partition, of shape ()."""
        ...


@torch.no_grad()
def log_base(model: Model, x: Tensor, chunk: int = 1000) -> Tensor:
    r"""Returns the log-density :math:`\log b(x)` of what the prior decodes to, of shape (N,).

    .. math:: \log b(x) = \log \rho(g^{-1}(x)) + \log |\det \partial g^{-1} / \partial x|

    Arguments:
        model: The model. Its decoder must be invertible, or the identity.
        x: The data, of shape (N, *).
        chunk: How many are looked at at once.

    Raises:
        ValueError: If the decoder is neither.
    """
    return torch.cat([_log_base(model, part) for part in x.split(chunk)])


def _log_base(model: Model, x: Tensor) -> Tensor:
    if isinstance(model.decoder, nn.Identity):
        return model.prior.log_prob(x)
    if not isinstance(model.decoder, Invertible):
        raise ValueError(
            "the density of data is known only where the decoder is a flow or the identity, and this one is "
            "neither; score samples instead"
        )
    u, log_det = model.decoder.inverse(x)
    return model.prior.log_prob(u) + log_det


def rebased(model: Model, prior: Prior) -> Model:
    r"""Returns the same law over :math:`u`, written with another prior :math:`r`.

    .. math:: \rho(u) \, e^{-E(g(u))} = r(u) \, e^{-E'(u)}, \qquad E'(u) = E(g(u)) - \log \rho(u) + \log r(u)

    Both integrate to the same :math:`Z`; where :math:`\beta` is not one, their laws differ. A model with a
    :class:`~ebmzoo.models.priors.Flat` prior, over which nothing can be averaged, becomes one whose prior can
    be drawn from.

    Arguments:
        model: The model, whose networks the other one shares.
        prior: The prior :math:`r`. A model that has it already is returned as it is.
    """
    if prior is model.prior:
        return model
    return Model(prior, nn.Identity(), _Rebased(model, prior)).running_like(model)


class _Rebased(nn.Module):
    def __init__(self, model: Model, prior: Prior):
        super().__init__()
        self.model, self.prior = model, prior

    def forward(self, u: Tensor) -> Tensor:
        energy = self.model.energy(self.model.decoder(u))
        return energy - self.model.prior.log_prob(u) + self.prior.log_prob(u)


def dequantised(x: Tensor, width: float, rng: Generator) -> Tensor:
    r"""Returns :math:`x + w \epsilon` with :math:`\epsilon` uniform on [-1/2, 1/2), of the shape of x.

    The density of discrete data with such noise bounds their probability:
    :math:`\mathbb{E} \log p(x + w \epsilon) + d \log w \leq \log P(x)` in :math:`d` dimensions. Noise on
    both sides of a value is what rounding a sample to the nearest one undoes.

    References:
        | A note on the evaluation of generative models (Theis, van den Oord & Bethge, 2016), Section 3.1
        | https://arxiv.org/abs/1511.01844

    Arguments:
        x: The data, of shape (N, *).
        width: The distance :math:`w` between two values.
        rng: The generator of the noise.
    """
    return torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype).sub_(0.5).mul_(width).add_(x)
