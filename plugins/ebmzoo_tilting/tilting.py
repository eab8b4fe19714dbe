r"""Exponential tilting of a frozen base generator.

The model is :math:`p(z) \, e^{-E(g(z))} / Z` over latents :math:`z`, with the base's prior :math:`p` and
decoder :math:`g`. Its energy learns by maximum likelihood; the samples that this needs come from short,
non-persistent Langevin chains in latent space that start at the prior.

References:
    | Exponential Tilting of Generative Models: Improving Sample Quality by Training and Sampling from Latent
      Energy (Xiao, Yan & Amit, 2020)
    | https://arxiv.org/abs/2006.08100
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmzoo.energies import Energy
from ebmzoo.fields import not_negative, positive
from ebmzoo.models import Model, check_makes, frozen
from ebmzoo.samplers import FromPrior, Schedule, Start, settle_with_report
from ebmzoo.training import Adam, Batch, ContrastiveLearner, Learner, Method, Optimizer


@dataclass(frozen=True)
class Tilting(Method):
    r"""Learns an energy on a frozen base by contrastive maximum likelihood.

    Each update draws as many chains as there are data in a batch. The paper does not state the optimizer, its
    learning rate or the batch.

    Arguments:
        energy: The architecture of the energy.
        schedule: How the chains move, such as 60 steps of Langevin with :math:`\eta = \epsilon / 2 = 0.005`.
        l2: The coefficient of the energies' squares.
        start: Where the chains begin.
        beta: The inverse temperature :math:`\beta` of the energy in the chains.
        optimizer: The optimizer of the energy.
    """

    energy: Energy
    schedule: Schedule
    l2: float = 0.1
    start: Start = FromPrior()
    beta: float = 1.0
    optimizer: Optimizer = Adam(learning_rate=1e-4)

    def __post_init__(self) -> None:
        positive(self, "beta")
        not_negative(self, "l2")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the base's prior and decoder, frozen, with a fresh energy.

        Raises:
            ValueError: If there is no base, or it makes data of another shape.
        """
        if base is None:
            raise ValueError("Tilting needs a trained base generator; bind Trained.base to one")
        check_makes(base, shape, "Tilting")
        prior, decoder = copy.deepcopy(base.prior), copy.deepcopy(base.decoder)
        return Model(prior, decoder.requires_grad_(False).eval(), self.energy.energy(shape))

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the energy."""
        return TiltingLearner(model, self)


class TiltingLearner(ContrastiveLearner):
    """Learns from short chains in latent space."""

    def __init__(self, model: Model, method: Tilting):
        super().__init__(model, method.optimizer.over(model.energy.parameters()), method.l2)
        self.method = method

    @torch.no_grad()
    def samples(self, batch: Batch, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs one chain for each datum; returns samples (B, *shape) and what to say of the last step."""
        position = self.method.start.position(self.model, len(batch.data), rng)
        with frozen(self.model):
            target = self.model.target(self.method.beta)
            position, report = settle_with_report(self.method.schedule, target, position, rng)
        return self.model.decoder(position), report
