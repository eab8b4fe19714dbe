"""Ensembles of earlier states of an energy."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ebmzoo.fields import positive
from ebmzoo.models import Model
from ebmzoo.training import Batches, Learner, Method


@dataclass(frozen=True)
class Snapshots(Method):
    r"""Keeps states of the energy that another method learns, and takes their mean for the energy.

    .. math:: E(x) = \frac{1}{n} \sum_{k=1}^n E_{\theta_k}(x)

    over the last ``count`` states :math:`\theta_k` that were kept, one every ``every`` updates. Training goes
    on with the last state alone. Until the first is kept, the energy is that of the beginning.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 3.2
        | https://arxiv.org/abs/1903.08689

    Arguments:
        method: The method that learns.
        every: How many updates lie between two states.
        count: How many states are kept.
    """

    method: Method
    every: int
    count: int = 10

    def __post_init__(self) -> None:
        positive(self, "every", "count")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the method's model, with as many copies of its energy as are kept."""
        single = self.method.model(shape, base)
        ensemble = Ensemble([copy.deepcopy(single.energy) for _ in range(self.count)])
        return Model(single.prior, single.decoder, ensemble, single.chains, single.posterior)

    def learner(self, model: Model) -> Learner:
        """Returns the method's learner, on a copy of the first energy."""
        assert isinstance(model.energy, Ensemble)
        energy = copy.deepcopy(model.energy.members[0])
        prior, decoder = copy.deepcopy(model.prior), copy.deepcopy(model.decoder)
        single = Model(prior, decoder, energy, model.chains).running_like(model)
        return SnapshotsLearner(model, self.method.learner(single), self.every)


class Ensemble(nn.Module):
    """The mean of energies.

    Arguments:
        members: The energies.
    """

    kept: Tensor

    def __init__(self, members: list[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("kept", torch.ones(len(members)))  # on the device, so that it asks for no answer

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        energies = torch.stack([member(x) for member in self.members])
        return self.kept @ energies / self.kept.sum()

    @torch.no_grad()
    def keep(self, energy: nn.Module, place: int, count: int) -> None:
        """Keeps the state of an energy in a place, as the ``count``-th one ever."""
        self.members[place].load_state_dict(energy.state_dict())
        self.kept.copy_(torch.arange(len(self.members), device=self.kept.device) < count)


class SnapshotsLearner(Learner):
    """Lets another learner learn, and keeps states of its energy."""

    def __init__(self, model: Model, learner: Learner, every: int):
        self.updates = torch.zeros((), dtype=torch.long)
        inner = {f"kept/{name}": part for name, part in learner.parts.items()}
        model.chains = learner.model.chains  # one tensor, so that nothing needs to follow it
        super().__init__(model, {"learning": learner.model, "updates": self.updates, **inner})
        self.learner, self.every = learner, every

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update of the learner, and keeps its energy if it is time to."""
        report = self.learner.step(batches, rng)
        self.updates += 1
        kept, rest = divmod(int(self.updates), self.every)
        if not rest:
            ensemble = self.model.energy
            assert isinstance(ensemble, Ensemble)
            ensemble.keep(self.learner.model.energy, (kept - 1) % len(ensemble.members), kept)
        return report
