"""Learning rates that change from update to update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.fields import FieldError, positive
from ebmzoo.models import Model
from ebmzoo.training.batches import Batches
from ebmzoo.training.learner import Learner, Method, scale_learning_rates


@runtime_checkable
class Rates(Protocol):
    """What learning rates are multiplied by as training goes on."""

    def factor(self, update: int) -> float:
        """Returns the factor of the update with this number, the first being 0. It must be above zero."""
        ...


@dataclass(frozen=True)
class Milestones:
    r"""Multiplies the learning rates by ``factor`` after each of some numbers of updates.

    Arguments:
        at: After how many updates, in their order.
        by: What the rates are multiplied by each time.
    """

    at: tuple[int, ...]
    by: float

    def __post_init__(self) -> None:
        positive(self, "by")
        if not self.at or list(self.at) != sorted(set(self.at)) or self.at[0] < 1:
            raise FieldError(self, "at", "numbers of updates above zero, in rising order")

    def factor(self, update: int) -> float:
        """Returns the factor of an update."""
        return float(self.by ** sum(update >= milestone for milestone in self.at))


@dataclass(frozen=True)
class LinearDecay:
    r"""Lowers the learning rates in a straight line, from the first update to zero after the last.

    .. math:: 1 - t / T

    Arguments:
        updates: The number :math:`T` of updates. Training must not be longer.
    """

    updates: int

    def __post_init__(self) -> None:
        positive(self, "updates")

    def factor(self, update: int) -> float:
        """Returns the factor of an update.

        Raises:
            ValueError: If no learning rate is left.
        """
        if update >= self.updates:
            raise ValueError(
                f"the learning rate has come down to zero after {self.updates} updates; lower Trained.steps, "
                "or raise LinearDecay.updates"
            )
        return 1 - update / self.updates


@dataclass(frozen=True)
class LinearRise:
    r"""Raises the learning rates in a straight line until they are what they should be.

    .. math:: \min(1, (t + 1) / T)

    In the beginning Adam moves all weights by the same amount, which a deep network may not stand.

    Arguments:
        updates: The number :math:`T` of updates.
    """

    updates: int

    def __post_init__(self) -> None:
        positive(self, "updates")

    def factor(self, update: int) -> float:
        """Returns the factor of an update."""
        return min(1.0, (update + 1) / self.updates)


@dataclass(frozen=True)
class Scheduled(Method):
    """Lets the learning rates of another method change as it learns.

    Updates are counted as the method counts them. What else changes a rate, such as a step back after
    divergence, is kept: each update multiplies the rates by the ratio of its factor to the one before.

    Arguments:
        method: The method that learns.
        rates: What its learning rates are multiplied by.
    """

    method: Method
    rates: Rates

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the method's model."""
        return self.method.model(shape, base)

    def learner(self, model: Model) -> Learner:
        """Returns the method's learner."""
        return ScheduledLearner(self.method.learner(model), self.rates)


class ScheduledLearner(Learner):
    """Lets another learner learn, and sets its learning rates."""

    def __init__(self, learner: Learner, rates: Rates):
        updates = torch.zeros((), dtype=torch.long)
        name = "scheduled_updates"
        while name in learner.parts:  # one schedule on top of another
            name = f"outer_{name}"
        super().__init__(learner.model, {**learner.parts, name: updates})
        self.learner, self.rates, self.updates = learner, rates, updates

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Sets the learning rates, and makes one update of the learner."""
        update = int(self.updates)
        before = self.rates.factor(update - 1) if update else 1.0
        ratio = self.rates.factor(update) / before
        if ratio != 1.0:
            scale_learning_rates(self, ratio)
        self.updates += 1
        return self.learner.step(batches, rng)
