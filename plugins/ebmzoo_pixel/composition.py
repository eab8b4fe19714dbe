r"""Energies put together: what an energy can do and a sampler alone cannot.

A product of laws is a sum of energies, a mixture their soft minimum, and what a law should keep away from is
taken off. The parts are learnt apart.

References:
    | Compositional Visual Generation with Energy Based Models (Du, Li & Mordatch, 2020)
    | https://arxiv.org/abs/2004.06030
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebmzoo.data import Dataset
from ebmzoo.fields import FieldError, not_negative
from ebmzoo.models import Model
from ebmzoo.recipes import ModelRecipe
from ebmzoo.store import Recipe, Store, unfinished
from ebmzoo_pixel.conditional import given


@runtime_checkable
class Rule(Protocol):
    """How energies are put together."""

    def check(self, parts: int) -> None:
        """Raises FieldError unless the rule is for so many parts."""
        ...

    def joined(self, energies: Tensor) -> Tensor:
        """Returns energies (B,), for those of each part (parts, B)."""
        ...


@dataclass(frozen=True)
class Product:
    r"""The product of laws, each to a power.

    .. math:: E(x) = \sum_k w_k E_k(x)

    A power above one sharpens a law; a negative one keeps away from it: :math:`p_1 / p_2^\alpha` is "one and
    not two". What comes out may have no finite mass then.

    Arguments:
        powers: The powers :math:`w_k`, or nothing for ones.
    """

    powers: tuple[float, ...] = ()

    def check(self, parts: int) -> None:
        """Raises FieldError unless there is one power for each part, or none at all."""
        if self.powers and len(self.powers) != parts:
            raise FieldError(self, "powers", f"empty or of {parts} numbers, one for each part")

    def joined(self, energies: Tensor) -> Tensor:
        """Returns the sum."""
        if not self.powers:
            return energies.sum(0)
        return energies.new_tensor(self.powers) @ energies


@dataclass(frozen=True)
class Mixture:
    r"""The mixture of laws, as far as their partition functions are alike.

    .. math:: E(x) = - \log \sum_k w_k e^{-E_k(x)}

    Energies are known up to a constant of their own, which a mixture weighs with: a part whose energies are
    lower throughout wins.

    Arguments:
        weights: The weights :math:`w_k`, or nothing for ones.
    """

    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for weight in self.weights:
            if not weight > 0:
                raise FieldError(self, "weights", "numbers above zero")

    def check(self, parts: int) -> None:
        """Raises FieldError unless there is one weight for each part, or none at all."""
        if self.weights and len(self.weights) != parts:
            raise FieldError(self, "weights", f"empty or of {parts} numbers, one for each part")

    def joined(self, energies: Tensor) -> Tensor:
        """Returns the soft minimum."""
        if not self.weights:
            return -torch.logsumexp(-energies, 0)
        return -torch.logsumexp(energies.new_tensor(self.weights).log()[:, None] - energies, 0)


@dataclass(frozen=True)
class Composed(ModelRecipe):
    """A model whose energy is put together of those of others, in the space of the first.

    Nothing is learnt, and nothing but the keys of the parts is kept.

    Arguments:
        parts: The models.
        rule: How their energies are put together.
        data: What samples are compared with.
    """

    artifact: ClassVar[str] = "artifact.json"

    parts: tuple[ModelRecipe, ...]
    rule: Rule
    data: Dataset

    def __post_init__(self) -> None:
        if not self.parts:
            raise FieldError(self, "parts", "one model or more")
        self.rule.check(len(self.parts))

    def reseeded(self, index: int) -> Composed:
        """Returns the same recipe for the parts with ``index`` added to their seeds."""
        return dataclasses.replace(self, parts=tuple(part.reseeded(index) for part in self.parts))

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Makes the parts, and notes them."""
        self._joined(store)
        return noted(self, folder, self.parts)

    def open(self, store: Store, kept: Path) -> Model:
        """Returns the model, frozen and in evaluation mode, on the runtime's device."""
        return self._joined(store)

    def _joined(self, store: Store) -> Model:
        models = [store.get(part) for part in self.parts]
        first = models[0]
        for part, model in zip(self.parts, models, strict=True):
            in_data_space(part, model)
            if model.prior.shape != first.prior.shape:
                raise ValueError(
                    f"energies of data of shapes {first.prior.shape} and {model.prior.shape} cannot be put "
                    "together; let all parts of Composed be models of one shape"
                )
        energy = Joined([model.energy for model in models], self.rule)
        joined = Model(first.prior, first.decoder, energy, first.chains).running_like(first)
        return joined.requires_grad_(False).eval()


class Joined(nn.Module):
    """The energy of :class:`Composed`."""

    def __init__(self, energies: list[nn.Module], rule: Rule):
        super().__init__()
        self.energies, self.rule = nn.ModuleList(energies), rule

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return self.rule.joined(torch.stack([energy(x) for energy in self.energies]))


@dataclass(frozen=True)
class OfClass(ModelRecipe):
    r"""What an energy of classes says of one class: :math:`E(x, y)`; of a classifier, :math:`-f_y(x)`.

    References:
        | Your classifier is secretly an energy based model and you should treat it like one (Grathwohl et
          al., 2020), Section 3

    Arguments:
        model: The model, whose energy is one of classes.
        label: The class :math:`y`.
    """

    artifact: ClassVar[str] = "artifact.json"

    model: ModelRecipe
    label: int

    def __post_init__(self) -> None:
        not_negative(self, "label")

    @property
    def data(self) -> Dataset:  # type: ignore[override]
        """What the model's samples are compared with."""
        return self.model.data

    def reseeded(self, index: int) -> OfClass:
        """Returns the same recipe for the model with ``index`` added to its seeds."""
        return dataclasses.replace(self, model=self.model.reseeded(index))

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Makes the model, and notes it."""
        self._one(store)
        return noted(self, folder, (self.model,))

    def open(self, store: Store, kept: Path) -> Model:
        """Returns the model, frozen and in evaluation mode, on the runtime's device."""
        return self._one(store)

    def _one(self, store: Store) -> Model:
        model = store.get(self.model)
        label = torch.tensor([self.label], device=model.prior.anchor.device)
        return given(model, label).requires_grad_(False).eval()


def in_data_space(recipe: Recipe, model: Model) -> None:
    """Raises ValueError unless a model samples data themselves, whose energies can be put together."""
    if not isinstance(model.decoder, nn.Identity):
        raise ValueError(f"{recipe.kind} samples latents; only energies over data can be put together")


def noted(recipe: Recipe, folder: Path, parts: tuple[Recipe, ...]) -> dict[str, Any]:
    """Keeps the keys of the parts for an artifact, and returns what is to be recorded."""
    unfinished(folder, recipe).write_text(json.dumps([part.key for part in parts]))
    return {"seconds": 0.0}
