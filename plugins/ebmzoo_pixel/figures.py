"""Pictures of energies over data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ebmzoo.data.dataset import KnownDensity
from ebmzoo.fields import FieldError, positive
from ebmzoo.figures import Figure, panels
from ebmzoo.recipes import ModelRecipe
from ebmzoo.store import Store

if TYPE_CHECKING:
    from ebmzoo.figures import Canvas

CELLS = 200
"""How many cells a side of a map has."""


@dataclass(frozen=True)
class DensityMaps(Figure):
    r"""The known density of data of the plane, and those of models.

    .. math:: \pi(x) \propto \rho(x) \, e^{-\beta E(x)}

    Each is shown as its logarithm, from the largest value in its panel down to 8 nats below.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        data: The data set.
        models: The models.
        labels: What stands above the panel of each.
        betas: The inverse temperature :math:`\beta` of each.
        reach: How far the plane is shown from the origin.
    """

    name: str
    title: str
    data: KnownDensity
    models: tuple[ModelRecipe, ...]
    labels: tuple[str, ...]
    betas: tuple[float, ...]
    reach: float

    def __post_init__(self) -> None:
        positive(self, "reach")
        for name in ("labels", "betas"):
            if len(getattr(self, name)) != len(self.models):
                raise FieldError(self, name, f"one for each of the {len(self.models)} models")

    @torch.no_grad()
    def draw(self, store: Store) -> Canvas:
        """Draws the panels in one row."""
        line = self.reach * ((2 * torch.arange(CELLS) + 1) / CELLS - 1)
        points = torch.cartesian_prod(line, line)
        shown = [self.data.log_density(points)]
        for recipe, beta in zip(self.models, self.betas, strict=True):
            model = store.get(recipe)
            shown.append(model.target(beta)(points.to(model.prior.anchor)).cpu())
        canvas, axes = panels(1, len(shown), self.title, size=3.6)
        for axis, values, label in zip(axes[0], shown, ("Data", *self.labels), strict=True):
            self._shade(axis, values)
            axis.set_title(label, fontsize=10)
        return canvas

    def _shade(self, axis: Any, values: Tensor) -> None:
        top = float(values.max())
        extent = (-self.reach, self.reach, -self.reach, self.reach)
        image = values.view(CELLS, CELLS).T.numpy()
        axis.imshow(image, origin="lower", extent=extent, vmin=top - 8, vmax=top, cmap="viridis")
