"""Weight averaging: keeping a moving average of what is learnt, in place of its last state."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ebmzoo.fields import share
from ebmzoo.models import Model
from ebmzoo.training.batches import Batches
from ebmzoo.training.learner import Learner, Method


@dataclass(frozen=True)
class Averaged(Method):
    r"""Keeps an exponential moving average of the weights that another method learns.

    .. math:: \bar\theta_t = \bar\theta_{t-1} + (1 - d_t) (\theta_t - \bar\theta_{t-1}), \qquad
        d_t = \min(d, t / (t + 9))

    An energy that learns from short chains swings about its optimum, since its samples lag behind it; the
    average does not. Training goes on with the weights themselves, which the average does not touch. The
    decay begins small, so that the initial weights are soon forgotten. Parameters are averaged; buffers, such
    as running statistics, the vectors of a spectral norm and chains that are kept, are those of the last
    update.

    Arguments:
        method: The method that learns.
        decay: The decay :math:`d`; about the last :math:`1 / (1 - d)` updates count.
    """

    method: Method
    decay: float = 0.99

    def __post_init__(self) -> None:
        share(self, "decay")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the method's model."""
        return self.method.model(shape, base)

    def learner(self, model: Model) -> Learner:
        """Returns the method's learner, on a copy of ``model``; ``model`` becomes the average."""
        return AveragedLearner(model, self.method.learner(copy.deepcopy(model)), self.decay)


class AveragedLearner(Learner):
    """Lets another learner learn, and averages its model."""

    def __init__(self, average: Model, learner: Learner, decay: float):
        updates = torch.zeros((), dtype=torch.long)
        inner = {f"averaged/{name}": part for name, part in learner.parts.items()}
        average.chains = learner.model.chains  # one tensor, so that nothing needs to follow it
        super().__init__(average, {"learning": learner.model, "updates": updates, **inner})
        self.learner, self.decay, self.updates = learner, decay, updates

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update of the learner, and follows it."""
        report = self.learner.step(batches, rng)
        self.updates += 1
        count = int(self.updates)
        self._follow(min(self.decay, count / (count + 9)))
        return report

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for average, learning in zip(self.model.parameters(), self.learner.model.parameters(), strict=True):
            average.lerp_(learning, 1 - decay)
        for kept, last in zip(self.model.buffers(), self.learner.model.buffers(), strict=True):
            if kept is not last:
                kept.copy_(last)
