"""The update that all contrastive learning shares, wherever its samples come from."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from ebmzoo.losses import contrastive, energy_l2
from ebmzoo.models import Model
from ebmzoo.training.batches import Batches
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
    def samples(self, count: int, rng: Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns samples of the model for ``count`` data, and what there is to say of their chains."""

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update of the energy."""
        x = batches.draw().data
        samples, chains = self.samples(len(x), rng)
        data_energy, sample_energy = self.model.energy(x), self.model.energy(samples)
        loss = contrastive(data_energy, sample_energy)
        norm = descend(self.optimizer, loss + self.l2 * energy_l2(data_energy, sample_energy))
        return {
            "energy_data": data_energy.detach().mean(),
            "energy_samples": sample_energy.detach().mean(),
            "energy_gap": -loss.detach(),
            "gradient_norm": norm,
            **chains,
            "energies/data": data_energy.detach(),
            "energies/samples": sample_energy.detach(),
            "samples": samples,
        }
