r"""Contrastive learning of an energy over data.

The model is :math:`\pi(x) \propto e^{-E(x)}`. Its energy learns by maximum likelihood; the samples that this
needs come from short chains in data space, which begin anew or where earlier ones ended.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
    | https://arxiv.org/abs/1903.08689
    | Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient (Tieleman, 2008)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.energies import Energy
from ebmzoo.fields import FieldError, not_negative, positive, within
from ebmzoo.models import Box, Flat, Model, Prior, frozen
from ebmzoo.samplers import Schedule, settle_with_report
from ebmzoo.training import Adam, ContrastiveLearner, Learner, Method, Optimizer


@runtime_checkable
class Space(Protocol):
    """Where data, and hence chains, may be."""

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns a flat prior over data of a shape, from which fresh chains begin."""
        ...


@dataclass(frozen=True)
class Unbounded:
    r"""Everywhere; fresh chains begin at :math:`\mathcal{N}(0, s^2 I)`.

    Arguments:
        scale: The standard deviation :math:`s`.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "scale")

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns the prior."""
        return Flat(shape, self.scale)


@dataclass(frozen=True)
class InBox:
    """In a box, where fresh chains begin uniformly.

    Arguments:
        low: The lower bound of every coordinate.
        high: The upper bound.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise FieldError(self, "high", f"above low, {self.low:g}")

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns the prior."""
        return Box(shape, self.low, self.high)


@runtime_checkable
class Memory(Protocol):
    """Where the chains of an update begin, and where they are kept."""

    def kept(self, prior: Prior, rng: Generator) -> Tensor | None:
        """Returns the chains that are kept from the beginning, of shape (N, *), or None."""
        ...

    def begin(self, model: Model, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns starting points (count, *), and the places (count,) that they were taken from, or None."""
        ...


@dataclass(frozen=True)
class Fresh:
    """Chains begin at the prior each time, and nothing is kept: non-persistent, short-run learning."""

    def kept(self, prior: Prior, rng: Generator) -> Tensor | None:
        """Returns None."""
        return None

    def begin(self, model: Model, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns points of the prior."""
        return model.prior.draw(count, rng), None


@dataclass(frozen=True)
class Replay:
    """Chains begin where one of many kept ones ended, and its place takes where they end.

    With ``fresh = 0`` and as many chains as an update moves this is persistent contrastive divergence.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 3.2

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

    def begin(self, model: Model, count: int, rng: Generator) -> tuple[Tensor, Tensor | None]:
        """Returns kept chains, no one twice, some of them begun anew.

        Raises:
            ValueError: If more are asked for than are kept.
        """
        chains = model.chains
        assert chains is not None
        if count > len(chains):
            raise ValueError(
                f"{count} chains cannot be taken from a replay buffer of {len(chains)}; raise Replay.capacity"
            )
        places = torch.randperm(len(chains), generator=rng, device=chains.device)[:count]
        position = chains.index_select(0, places)
        if self.fresh:
            anew = torch.rand(count, generator=rng, device=chains.device) < self.fresh
            fresh = model.prior.draw(count, rng)
            position = torch.where(anew.view(-1, *[1] * (position.ndim - 1)), fresh, position)
        return position, places


@dataclass(frozen=True)
class ContrastiveLearning(Method):
    r"""Learns an energy over data by maximum likelihood, with samples from chains.

    Arguments:
        energy: The architecture of the energy.
        schedule: How the chains move in one update.
        space: Where data may be.
        memory: Where the chains begin, and where they are kept.
        chains: How many chains move for one datum of a batch.
        l2: The coefficient of the energies' squares.
        beta: The inverse temperature :math:`\beta` of the energy in the chains.
        optimizer: The optimizer of the energy.
    """

    energy: Energy
    schedule: Schedule
    space: Space = InBox()
    memory: Memory = Replay()
    chains: int = 1
    l2: float = 0.0
    beta: float = 1.0
    optimizer: Optimizer = Adam(1e-4)

    def __post_init__(self) -> None:
        positive(self, "chains", "beta")
        not_negative(self, "l2")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds a fresh energy over the space, with the chains that are kept."""
        del base
        prior = self.space.prior(shape)
        seed = int(torch.randint(2**62, ()))  # weights and chains come from torch's global generator
        chains = self.memory.kept(prior, Generator().manual_seed(seed))
        return Model(prior, nn.Identity(), self.energy.energy(shape), chains)

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the energy."""
        return DataChainsLearner(model, self)


class DataChainsLearner(ContrastiveLearner):
    """Learns from chains in data space."""

    def __init__(self, model: Model, method: ContrastiveLearning):
        super().__init__(model, method.optimizer.over(model.energy.parameters()), method.l2)
        self.method = method

    @torch.no_grad()
    def samples(self, count: int, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Moves chains on; returns where they end, (chains count, *), and what to say of the last step."""
        position, places = self.method.memory.begin(self.model, self.method.chains * count, rng)
        with frozen(self.model):
            target = self.model.target(self.method.beta)
            position, report = settle_with_report(self.method.schedule, target, position, rng)
        if places is not None:
            assert self.model.chains is not None
            self.model.chains.index_copy_(0, places, position)
        return position, report
