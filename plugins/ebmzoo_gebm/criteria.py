r"""What the energy of a generalized energy-based model minimises.

Both criteria bound :math:`\mathrm{KL}(p \| b)` from below by the energy :math:`E` of data from :math:`p` and
of samples of the base :math:`b`, and are tight at :math:`E = -\log dp/db`.

References:
    | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Section 3
    | https://arxiv.org/abs/2003.05033
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebmzoo.losses import donsker_varadhan, kale


@runtime_checkable
class Criterion(Protocol):
    """A criterion of energies, with what it does to the amortised log-partition."""

    def loss(self, data: Tensor, base: Tensor, log_z: Tensor) -> Tensor:
        """Returns the loss, of shape (), for energies of data (N,) and of the base's samples (M,)."""
        ...

    def prepare(self, log_z: nn.Parameter, sampled: Tensor) -> None:
        r"""Changes the gradient of the amortised log-partition, or itself, before the optimizer's step.

        Arguments:
            log_z: The amortised log-partition, of shape (), with its gradient.
            sampled: The log-partition :math:`\log \hat Z` of the samples of this update, of shape ().
        """
        ...


@runtime_checkable
class PartitionUpdate(Protocol):
    """How the amortised log-partition moves."""

    def direction(self, gradient: Tensor) -> Tensor:
        """Returns what the optimizer takes for its gradient."""
        ...


@dataclass(frozen=True)
class PlainPartition:
    r"""The log-partition follows its gradient.

    .. math:: 1 - \hat Z e^{-c}
    """

    def direction(self, gradient: Tensor) -> Tensor:
        """Returns the gradient."""
        return gradient


@dataclass(frozen=True)
class PreconditionedPartition:
    r"""The log-partition follows a preconditioned gradient.

    .. math:: \frac{g}{1 - g} = \frac{e^{c}}{\hat Z} - 1 \qquad \text{for} \quad g = 1 - \hat Z e^{-c}

    This is what the official code does unless its gradient clipping is turned off. Where :math:`c` is too
    large the gradient is at most one, and this direction grows like the error of :math:`Z`; where it is
    too small, the other way round. Where no sample has any weight left, the gradient is one to machine
    precision, and the direction is bounded by the inverse of that.

    References:
        | https://github.com/MichaelArbel/GeneralizedEBM, ``grad_clip`` in the trainer
    """

    def direction(self, gradient: Tensor) -> Tensor:
        """Returns the direction."""
        return gradient / (1 - gradient).clamp_min(torch.finfo(gradient.dtype).eps)


@dataclass(frozen=True)
class FenchelKALE:
    r"""KALE in its Fenchel form, with an amortised log-partition :math:`c` that is learnt with the energy.

    .. math:: \mathbb{E}_p [E + c] + \mathbb{E}_b [e^{-(E + c)}] - 1

    Arguments:
        partition: How :math:`c` moves.
    """

    partition: PartitionUpdate = PlainPartition()

    def loss(self, data: Tensor, base: Tensor, log_z: Tensor) -> Tensor:
        """Returns the loss, of shape ()."""
        return kale(data, base, log_z)

    def prepare(self, log_z: nn.Parameter, sampled: Tensor) -> None:
        """Changes the gradient of the log-partition."""
        del sampled
        assert log_z.grad is not None
        log_z.grad.copy_(self.partition.direction(log_z.grad))


@dataclass(frozen=True)
class DonskerVaradhan:
    r"""The Donsker-Varadhan bound, whose log-partition is that of the samples at hand.

    .. math:: \mathbb{E}_p E + \log \mathbb{E}_b e^{-E}

    The gradient of the logarithm of a mean over few samples is biased; that of :class:`FenchelKALE` is not.
    """

    def loss(self, data: Tensor, base: Tensor, log_z: Tensor) -> Tensor:
        """Returns the loss, of shape ()."""
        del log_z
        return donsker_varadhan(data, base)

    @torch.no_grad()
    def prepare(self, log_z: nn.Parameter, sampled: Tensor) -> None:
        """Sets the log-partition, which nothing else moves, to that of the samples."""
        log_z.copy_(sampled)
