"""Where the chains of an update begin, and what is kept of them.

Contrastive divergence, persistent and short-run learning are one loss; this is what tells them apart.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.fields import added, positive, within
from ebmzoo.models import Model, Prior, as_bytes, from_bytes
from ebmzoo.samplers import FromPrior, Start


@runtime_checkable
class Memory(Protocol):
    """Where the chains of an update begin, and what is kept of them."""

    def kept(self, prior: Prior, rng: Generator) -> Tensor | None:
        """Returns the chains that are kept from the beginning, of shape (N, *), or None."""
        ...

    @abstractmethod
    def begin(self, model: Model, x: Tensor, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns where chains begin.

        Arguments:
            model: The model, with the chains that it keeps.
            x: The data of this update, of shape (B, *).
            count: The number of chains.
            rng: The generator of all that is random.

        Returns:
            The points (count, *), and the places (count,) of the kept chains that they go on from, or None.
        """
        ...

    def keep(self, model: Model, places: Tensor, position: Tensor) -> None:
        """Keeps where chains ended, (count, *), in their places (count,)."""
        ...


class Forgetful:
    """A memory that keeps nothing."""

    def kept(self, prior: Prior, rng: Generator) -> Tensor | None:
        """Returns None."""
        return None

    def keep(self, model: Model, places: Tensor, position: Tensor) -> None:
        """Keeps nothing."""


@dataclass(frozen=True)
class Fresh(Forgetful):
    """Chains begin anew each time: non-persistent, short-run learning.

    References:
        | Learning Non-Convergent Non-Persistent Short-Run MCMC (Nijkamp et al., 2019)
        | https://arxiv.org/abs/1904.09770

    Arguments:
        start: Where they begin.
    """

    start: Start = added(FromPrior())

    def begin(self, model: Model, x: Tensor, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns points of the start."""
        return self.start.position(model, count, rng), None


@dataclass(frozen=True)
class FromBatch(Forgetful):
    """Chains begin at the data of the update: contrastive divergence.

    References:
        | Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002)
    """

    def begin(self, model: Model, x: Tensor, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns the data, over and over if there are fewer than chains."""
        return x.repeat(-(-count // len(x)), *[1] * (x.ndim - 1))[:count], None


@dataclass(frozen=True)
class Replay:
    """Chains begin where one of many kept ones ended, and its place takes where they end.

    With ``fresh = 0`` and as many chains as an update moves this is persistent contrastive divergence.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 3.2
        | Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient (Tieleman,
          2008)

    Arguments:
        capacity: How many chains are kept.
        fresh: With what probability a chain begins at the prior instead.
    """

    capacity: int = 10_000
    fresh: float = 0.05

    def __post_init__(self) -> None:
        positive(self, "capacity")
        within(self, "fresh", 0.0, 1.0)

    def kept(self, prior: Prior, rng: Generator) -> Tensor | None:
        """Returns points of the prior."""
        return prior.draw(self.capacity, rng)

    def begin(self, model: Model, x: Tensor, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns kept chains, no one twice, some of them begun anew.

        Raises:
            ValueError: If more are asked for than are kept.
        """
        chains = model.chains
        assert chains is not None
        if count > len(chains):
            raise ValueError(
                f"{count} chains cannot be taken from a replay buffer of {len(chains)}; raise "
                f"{type(self).__name__}.capacity"
            )
        places = torch.randperm(len(chains), generator=rng, device=chains.device)[:count]
        position = self._taken(chains.index_select(0, places), model.prior, rng)
        if self.fresh:
            anew = torch.rand(count, generator=rng, device=chains.device) < self.fresh
            fresh = model.prior.draw(count, rng)
            position = torch.where(anew.view(-1, *[1] * (position.ndim - 1)), fresh, position)
        return position, places

    def keep(self, model: Model, places: Tensor, position: Tensor) -> None:
        """Keeps where chains ended in their places."""
        assert model.chains is not None
        model.chains.index_copy_(0, places, position)

    def _taken(self, chains: Tensor, prior: Prior, rng: Generator) -> Tensor:
        return chains


@dataclass(frozen=True)
class ByteReplay(Replay):
    """A replay buffer that keeps bytes, a quarter of the memory; a chain goes on from a dequantised point.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), official code

    Arguments:
        capacity: How many chains are kept.
        fresh: With what probability a chain begins at the prior instead.
    """

    def kept(self, prior: Prior, rng: Generator) -> Tensor | None:
        """Returns points of the prior, as bytes.

        Raises:
            ValueError: If data are not in a box.
        """
        return as_bytes(prior.draw(self.capacity, rng), prior)

    def keep(self, model: Model, places: Tensor, position: Tensor) -> None:
        """Keeps where chains ended in their places, as bytes."""
        super().keep(model, places, as_bytes(position, model.prior))

    def _taken(self, chains: Tensor, prior: Prior, rng: Generator) -> Tensor:
        return from_bytes(chains, prior, rng)
