"""Samplers: how data are drawn from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, not_negative, positive
from ebmzoo.models import Model, as_points, decoded, frozen
from ebmzoo.samplers.kernel import noise_like
from ebmzoo.samplers.schedule import Schedule, settle


@runtime_checkable
class Sampler(Protocol):
    """Draws data from a model, whose parts are frozen and in evaluation mode.

    Chains move the variable that is sampled and decode it in the end; others choose among data, or move them.
    """

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` data, of shape (count, *)."""
        ...


@dataclass(frozen=True)
class Direct:
    """Draws from the prior. For a base generator this is exact; of an energy it knows nothing."""

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns what ``count`` points of the prior decode to."""
        return decoded(model, model.prior.draw(count, rng))


@runtime_checkable
class Start(Protocol):
    """Where chains begin."""

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` starting points, of shape (count, *)."""
        ...


@dataclass(frozen=True)
class FromPrior:
    """Chains begin at points of the prior."""

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` points of the prior."""
        return model.prior.draw(count, rng)


@dataclass(frozen=True)
class FromNoise:
    r"""Chains begin at :math:`\mathcal{N}(0, s^2 I)`, whatever the prior.

    Arguments:
        scale: The standard deviation :math:`s`.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "scale")

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` points of the noise."""
        return noise_like(model.prior.draw(count, rng), rng).mul_(self.scale)


@dataclass(frozen=True)
class FromData:
    """Chains begin at data drawn with replacement; for models whose decoder is the identity.

    Arguments:
        data: The data set.
        split: The split that is drawn from.
    """

    data: Dataset
    split: str = "train"

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` points of the data.

        Raises:
            FieldError: If the model does not sample in data space.
        """
        points = self.data.load(self.split)
        if points.shape[1:] != model.prior.shape:
            raise FieldError(self, "data", f"data of the shape {model.prior.shape} that the model samples")
        return _with_replacement(points.to(rng.device), count, rng)


@dataclass(frozen=True)
class FromKept:
    """Chains begin where chains that are kept with the model ended, such as those of a replay buffer."""

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` of the model's chains, with replacement.

        Raises:
            ValueError: If the model keeps none.
        """
        if model.chains is None:
            raise ValueError("FromKept needs a model that keeps its chains, and this one keeps none")
        return as_points(_with_replacement(model.chains, count, rng), model.prior, rng)


def _with_replacement(points: Tensor, count: int, rng: Generator) -> Tensor:
    index = torch.randint(len(points), (count,), generator=rng, device=rng.device)
    return points[index]


@dataclass(frozen=True)
class Chains:
    r"""Draws the last states of Markov chains on :math:`\rho(u) \exp(-\beta E(g(u)))`.

    Arguments:
        schedule: The kernels and their numbers of steps.
        start: Where the chains begin.
        beta: The inverse temperature :math:`\beta` of the energy.
    """

    schedule: Schedule
    start: Start = FromPrior()
    beta: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "beta")

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns what the last states of ``count`` chains decode to."""
        with frozen(model):
            return decoded(model, self.ends(model, count, rng)[1])

    def ends(self, model: Model, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """Returns the first and the last states of ``count`` chains over a model whose parts do not learn."""
        start = self.start.position(model, count, rng)
        return start, settle(self.schedule, model.target(self.beta), start, rng)
