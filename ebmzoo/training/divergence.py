"""What counts as divergence, and what is done about it.

Training an energy-based model diverges; so a recipe declares what it watches and what happens then. Nothing
is done in silence: each attempt is recorded with what was seen, where training went back to and what was
changed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator

from ebmzoo.fields import positive, within
from ebmzoo.training.learner import Learner, scale_learning_rates


class Diverged(RuntimeError):
    """Training diverged, and the recipe's policy allows no further attempt.

    Arguments:
        message: What was seen, and what can be done.
        attempts: How many times it was tried, the first included.
    """

    def __init__(self, message: str, attempts: int = 1):
        super().__init__(message)
        self.attempts = attempts


@dataclass(frozen=True)
class Limit:
    """A bound on the absolute value of something that a learner reports.

    Arguments:
        name: The name under which the learner reports it, from its first update on. Those of ``LIMITS`` need
            not be reported, and watch nothing then.
        bound: The largest absolute value that is not divergence.
    """

    name: str
    bound: float

    def __post_init__(self) -> None:
        positive(self, "bound")


LIMITS = (
    Limit("energy_data", 1e5),
    Limit("energy_samples", 1e5),
    Limit("energy_gap", 1e4),
    Limit("gradient_norm", 1e7),
    Limit("at_box", 0.999),
)
"""What is watched where a recipe does not say otherwise, besides every value being finite."""


def check_reported(limits: tuple[Limit, ...], values: Collection[str]) -> None:
    """Raises ValueError if there is a limit on what is not among the values that a learner reports."""
    known = {limit.name for limit in LIMITS}
    for limit in limits:
        if limit.name not in known.union(values):
            raise ValueError(
                f"nothing called {limit.name!r} is reported by what learns here, so a limit on it would be "
                f"none; there are {', '.join(sorted(values))}"
            )


def trouble(values: Mapping[str, float], limits: tuple[Limit, ...]) -> str | None:
    """Returns what is wrong with an update, in words, or None."""
    for name, value in values.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    for limit in limits:
        value = values.get(limit.name, 0.0)
        if abs(value) > limit.bound:
            return f"{limit.name} is {value:.4g}, beyond {limit.bound:g}"
    return None


@runtime_checkable
class Change(Protocol):
    """One thing that is changed before training goes on from an earlier point."""

    def apply(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Makes the change for the given attempt, counted from 1, and returns what it was, in words."""
        ...


@dataclass(frozen=True)
class LowerLearningRate:
    """Multiplies the learning rate of every optimizer.

    Arguments:
        factor: What it is multiplied by, below one.
    """

    factor: float = 0.5

    def __post_init__(self) -> None:
        positive(self, "factor")
        within(self, "factor", 0.0, 1.0)

    def apply(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Lowers the learning rates."""
        scale_learning_rates(learner, self.factor)
        return f"learning rates × {self.factor:g}"


@dataclass(frozen=True)
class FreshNoise:
    """Goes on with other random numbers and the same settings."""

    def apply(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Moves the generator to a stream of its own for this attempt."""
        seed = int(torch.randint(2**62, (attempt,), generator=rng, device=rng.device)[-1])
        rng.manual_seed(seed)
        return f"random numbers of attempt {attempt + 1}"


@runtime_checkable
class Policy(Protocol):
    """What a recipe does about divergence."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What is watched, besides every value being finite."""
        ...

    @property
    def attempts(self) -> int:
        """How many times training may go back."""
        ...

    @property
    def every(self) -> int | None:
        """How many updates lie between the points that training can go back to; None for no points."""
        ...

    @property
    def settles(self) -> bool:
        """Whether a run that may not go back any more ends with its best model, instead of failing."""
        ...

    def amend(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Changes what the policy changes, once; returns what it was, in words."""
        ...


@dataclass(frozen=True)
class Stop:
    """Stops at the first sign of divergence.

    Arguments:
        limits: What is watched, besides every value being finite.
    """

    limits: tuple[Limit, ...] = LIMITS

    @property
    def attempts(self) -> int:
        """None at all."""
        return 0

    @property
    def every(self) -> None:
        """There is no point to go back to."""
        return

    @property
    def settles(self) -> bool:
        """It does not."""
        return False

    def amend(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Is never asked."""
        raise AssertionError("a policy without attempts amends nothing")


@dataclass(frozen=True)
class GoBack:
    """Goes back to a point where all was well, changes one recorded thing, and tries again.

    That is the last of the points that are kept which ``every`` good updates followed, or the beginning.

    Arguments:
        change: What is changed; applied once more for each attempt since that point.
        every: How many updates lie between the points that are kept.
        attempts: How many times training may go back.
        limits: What is watched, besides every value being finite.
    """

    change: Change = LowerLearningRate()
    every: int = 100
    attempts: int = 3
    limits: tuple[Limit, ...] = LIMITS

    def __post_init__(self) -> None:
        positive(self, "every", "attempts")

    @property
    def settles(self) -> bool:
        """It does not."""
        return False

    def amend(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Makes the change."""
        return self.change.apply(learner, rng, attempt)


@dataclass(frozen=True)
class SettleForBest:
    """Does what another policy does, and ends with the best model where that one would fail.

    Many energies learn until they diverge, and the best of them came before. Which one that is,
    ``Trained.selection`` says; that the run ended so is in its record and in the table.

    Arguments:
        policy: The other policy.
    """

    policy: Policy = GoBack()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What the other policy watches."""
        return self.policy.limits

    @property
    def attempts(self) -> int:
        """How many times the other policy may go back."""
        return self.policy.attempts

    @property
    def every(self) -> int | None:
        """How many updates lie between the other policy's points."""
        return self.policy.every

    @property
    def settles(self) -> bool:
        """It does."""
        return True

    def amend(self, learner: Learner, rng: Generator, attempt: int) -> str:
        """Makes the other policy's change."""
        return self.policy.amend(learner, rng, attempt)
