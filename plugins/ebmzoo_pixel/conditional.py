r"""Energies of classes: one law for each, :math:`\pi(x \mid y) \propto e^{-E(x, y)}`.

A chain belongs to the class that it is to be a sample of, for as long as it runs.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 4
    | https://arxiv.org/abs/1903.08689
    | The authors' code, https://github.com/openai/ebm_code_release
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.models import Model
from ebmzoo.samplers import Chains, FromPrior, Schedule, Start


@runtime_checkable
class EnergyOfClasses(Protocol):
    """An energy that can be asked for one class at a time."""

    @property
    def classes(self) -> int:
        """The number K of classes."""
        ...

    def given(self, x: Tensor, labels: Tensor) -> Tensor:
        """Returns the energies (B,) of data (B, *) as members of the classes that labels (B,) name."""
        ...


class Given(nn.Module):
    """The energy of points whose classes are known.

    Arguments:
        energy: The energy of classes.
        labels: The class of every point, of shape (B,), or that of all of them, of shape (1,).
    """

    def __init__(self, energy: nn.Module, labels: Tensor):
        super().__init__()
        self.energy, self.labels = energy, labels

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return self.energy.given(x, self.labels.expand(len(x)))  # type: ignore[operator]


def given(model: Model, labels: Tensor) -> Model:
    """Returns the model of points whose classes are known, which shares the model's networks and chains.

    Arguments:
        model: The model.
        labels: The class of every point, of shape (B,), or that of all of them, of shape (1,).

    Raises:
        ValueError: If its energy is not one of classes, or has not so many.
    """
    energy, last = model.energy, int(labels.max())
    if not isinstance(energy, EnergyOfClasses):
        raise ValueError(
            "what is asked of a class needs an energy of classes, such as JEMEnergy or "
            "ConditionalIGEBMEnergy; this model's is of data alone"
        )
    if last >= energy.classes:
        raise ValueError(
            f"there is no class {last} among the {energy.classes} of this energy, which are counted from 0; "
            "let it have as many as the data"
        )
    made = Model(model.prior, model.decoder, Given(energy, labels), model.chains)
    return made.running_like(model)


@runtime_checkable
class Conditioning(Protocol):
    """Whether data and chains of an update belong to classes."""

    def law(self, model: Model, labels: Tensor | None, count: int) -> Model:
        """Returns the model of points of an update.

        Arguments:
            model: The model that learns.
            labels: The classes of the update's data, of shape (B,), or None.
            count: The number of points, a multiple of B.
        """
        ...


@dataclass(frozen=True)
class Unconditional:
    """They do not."""

    def law(self, model: Model, labels: Tensor | None, count: int) -> Model:
        """Returns the model."""
        return model


@dataclass(frozen=True)
class Conditional:
    """Each datum belongs to its class, and so do the chains that move for it.

    A kept chain goes on as one of the class that it is needed for, whatever it was before, as in the authors'
    code.
    """

    def law(self, model: Model, labels: Tensor | None, count: int) -> Model:
        """Returns the model of points of the data's classes, over and over if there are more of them.

        Raises:
            ValueError: If the data have no classes, or the energy has not so many.
        """
        if labels is None:
            raise ValueError("Conditional needs data with classes, such as MNIST")
        return given(model, labels.repeat(count // len(labels)))


@dataclass(frozen=True)
class ClassChains:
    r"""Draws the last states of chains on :math:`\rho(u) \exp(-\beta E(g(u), y))`, every class as often.

    Arguments:
        schedule: The kernels and their numbers of steps.
        start: Where the chains begin.
        beta: The inverse temperature :math:`\beta` of the energy.
    """

    schedule: Schedule
    start: Start = FromPrior()
    beta: float = 1.0

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns what the last states of ``count`` chains decode to, the classes in turns.

        Raises:
            ValueError: If the model's energy is not one of classes.
        """
        classes = model.energy.classes if isinstance(model.energy, EnergyOfClasses) else 1
        conditioned = given(model, torch.arange(count, device=rng.device) % classes)
        return Chains(self.schedule, self.start, self.beta).draw(conditioned, count, rng)
