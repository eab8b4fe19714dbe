r"""Contrastive learning of an energy over data.

The model is :math:`\pi(x) \propto e^{-E(x)}`. Its energy learns by maximum likelihood; the samples that this
needs come from short chains in data space, which begin anew or where earlier ones ended.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
    | https://arxiv.org/abs/1903.08689
    | On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al., 2020)
    | https://arxiv.org/abs/1903.12370
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ebmzoo.energies import Energy
from ebmzoo.fields import FieldError, added, not_negative, positive
from ebmzoo.models import Model, frozen
from ebmzoo.samplers import Schedule, settle_with_report
from ebmzoo.samplers.kernel import noise_like
from ebmzoo.training import Adam, Batch, ContrastiveLearner, Learner, Method, Optimizer
from ebmzoo_pixel.conditional import Conditioning, Unconditional
from ebmzoo_pixel.memory import FromBatch, Memory, Replay
from ebmzoo_pixel.spaces import InBox, Space
from ebmzoo_pixel.terms import Moved, Term


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
        data_noise: The standard deviation of the noise that is added to data before the energy sees them;
            zero where chains begin at data, which would be others than it sees.
        terms: What is added to the loss, no two of one class.
        conditioning: Whether data and chains belong to classes.
    """

    energy: Energy
    schedule: Schedule
    space: Space = InBox()
    memory: Memory = Replay()
    chains: int = 1
    l2: float = 0.0
    beta: float = 1.0
    optimizer: Optimizer = Adam(1e-4)
    data_noise: float = added(0.0)
    terms: tuple[Term, ...] = added(())
    conditioning: Conditioning = added(Unconditional())

    def __post_init__(self) -> None:
        positive(self, "chains", "beta")
        not_negative(self, "l2", "data_noise")
        if self.data_noise and isinstance(self.memory, FromBatch):
            raise FieldError(self, "data_noise", "zero where chains begin at data")
        if len({type(term) for term in self.terms}) < len(self.terms):
            raise FieldError(self, "terms", "terms of different classes")

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
        self.places: Tensor | None = None  # of the kept chains that an update has moved

    def seen(self, x: Tensor, rng: Generator) -> Tensor:
        """Returns data with the noise that is added to them."""
        if not self.method.data_noise:
            return x
        return torch.add(x, noise_like(x, rng), alpha=self.method.data_noise)

    def energies(self, x: Tensor, batch: Batch) -> Tensor:
        """Returns the energies (N,) of an update's data, or of its samples, (N, *)."""
        return self._law(batch, len(x)).energy(x)

    def _law(self, batch: Batch, count: int) -> Model:
        return self.method.conditioning.law(self.model, batch.labels, count)

    @torch.no_grad()
    def samples(self, batch: Batch, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Moves chains on; returns where they end, (chains B, *), and what to say of the last step."""
        method, count = self.method, self.method.chains * len(batch.data)
        position, self.places = method.memory.begin(self.model, batch.data, count, rng)
        with frozen(self.model):
            target = self._law(batch, count).target(method.beta)
            position, report = settle_with_report(method.schedule, target, position, rng)
        if self.places is not None:
            method.memory.keep(self.model, self.places, position)
        return position, report

    def terms(self, batch: Batch, samples: Tensor, rng: Generator) -> dict[str, Tensor]:
        """Returns the terms that are added to the loss, by the names of their classes."""
        model = self._law(batch, len(samples))
        moved = Moved(samples, self.places)
        return {type(t).__name__: t.value(model, batch, moved, rng) for t in self.method.terms}
