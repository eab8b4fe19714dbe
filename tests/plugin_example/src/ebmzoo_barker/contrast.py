r"""Noise contrast: an energy in data space, learnt by telling data from noise of a known density.

References:
    | Noise-contrastive estimation: A new estimation principle for unnormalized statistical models (Gutmann &
      Hyvärinen, 2010)
    | https://proceedings.mlr.press/v9/gutmann10a.html
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

from ebmzoo.energies import Energy
from ebmzoo.models import Model, StandardNormal
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend


@dataclass(frozen=True)
class NoiseContrast(Method):
    r"""Learns :math:`E` of :math:`\pi(x) = \mathcal{N}(x \mid 0, I) \, e^{-E(x)}` by noise contrast.

    The prior is the noise, so :math:`-E` is the logit of "this is data": its best value is the logarithm of
    the ratio of data and noise, which is normalised.

    Arguments:
        energy: The architecture of the energy.
        optimizer: The optimizer.
    """

    energy: Energy
    optimizer: Optimizer = Adam(learning_rate=1e-3)

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds a fresh energy in data space."""
        del base
        return Model(StandardNormal(shape), nn.Identity(), self.energy.energy(shape))

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the energy."""
        return Contrast(model, self.optimizer)


class Contrast(Learner):
    """Lowers the error of telling data from noise."""

    def __init__(self, model: Model, optimizer: Optimizer):
        self.optimizer = optimizer.over(model.energy.parameters())
        super().__init__(model, {"optimizer": self.optimizer})

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update."""
        data = batches.draw().data
        noise = self.model.prior.draw(len(data), rng)
        data_energy, noise_energy = self.model.energy(data), self.model.energy(noise)
        loss = softplus(data_energy).mean() + softplus(-noise_energy).mean()
        norm = descend(self.optimizer, loss)
        return {"loss": loss.detach(), "gradient_norm": norm, "energies/data": data_energy.detach()}
