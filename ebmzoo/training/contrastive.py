"""The update that all contrastive learning shares, wherever its samples come from."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from ebmzoo.losses import contrastive, energy_l2
from ebmzoo.models import Model
from ebmzoo.training.batches import Batch, Batches
from ebmzoo.training.learner import Learner, descend


class ContrastiveLearner(Learner):
    """Lowers the energy of data and raises that of samples.

    Arguments:
        model: The model, whose energy learns.
        optimizer: The optimizer of the energy.
        l2: The coefficient of the energies' squares.
    """

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer, l2: float):
        super().__init__(model, {"optimizer": optimizer})
        self.optimizer, self.l2 = optimizer, l2

    @abstractmethod
    def samples(self, batch: Batch, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns samples of the model for an update's data, and what there is to say of their chains."""

    def energies(self, x: Tensor, batch: Batch) -> Tensor:
        """Returns the energies (N,) of an update's data, or of its samples, (N, *)."""
        del batch
        return self.model.energy(x)

    def seen(self, x: Tensor, rng: Generator) -> Tensor:
        """Returns data as the energy is to see them: as they are."""
        del rng
        return x

    def terms(self, batch: Batch, samples: Tensor, rng: Generator) -> dict[str, Tensor]:
        """Returns what is added to the loss, by name: nothing."""
        del batch, samples, rng
        return {}

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update of the energy."""
        batch = batches.draw()
        samples, chains = self.samples(batch, rng)
        data_energy = self.energies(self.seen(batch.data, rng), batch)
        sample_energy = self.energies(samples, batch)
        loss = contrastive(data_energy, sample_energy)
        terms = self.terms(batch, samples, rng)
        held = self.l2 * energy_l2(data_energy, sample_energy)
        norm = descend(self.optimizer, sum(terms.values(), loss + held))
        return {
            **{f"loss/{name}": term.detach() for name, term in terms.items()},
            "energy_data": data_energy.detach().mean(),
            "energy_samples": sample_energy.detach().mean(),
            "energy_gap": -loss.detach(),
            "gradient_norm": norm,
            **chains,
            "energies/data": data_energy.detach(),
            "energies/samples": sample_energy.detach(),
            "samples": samples,
        }
