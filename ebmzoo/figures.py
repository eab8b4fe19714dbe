"""Pictures of what a table's cells are made of.

A figure is a value of the table. It is drawn from what is on the shelf and trains nothing. matplotlib is
imported here alone, and only when something is drawn.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.models import Model, decoded, frozen
from ebmzoo.recipes import ModelRecipe, Samples
from ebmzoo.samplers import Chains, evolve
from ebmzoo.store import Recipe, Store, canonical, describe, recipes_within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

POINT: dict[str, Any] = {"s": 2.0, "linewidths": 0, "alpha": 0.5}


class Figure(ABC):
    """A picture. A frozen dataclass with a field ``name``, which names the file."""

    name: str

    def needs(self) -> tuple[Recipe, ...]:
        """Returns the recipes that must be on the shelf before the figure can be drawn."""
        return tuple(dict.fromkeys(recipes_within(self)))

    def with_seeds(self, seeds: int) -> Figure:
        """Returns the figure for another number of seeds; most show the first seed only."""
        del seeds
        return self

    @abstractmethod
    def draw(self, store: Store) -> Canvas:
        """Draws the figure from what is on the shelf."""


@dataclass(frozen=True)
class Comparison(Figure):
    """Data and samples side by side: points of the plane, or grids of images.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        data: The data set.
        samples: What is shown beside the data.
        labels: What stands above each panel of samples.
        count: How many points or images a panel shows.
        split: The split of the data that is shown.
    """

    name: str
    title: str
    data: Dataset
    samples: tuple[Samples, ...]
    labels: tuple[str, ...]
    count: int = 2000
    split: str = "test"

    def __post_init__(self) -> None:
        positive(self, "count")
        if len(self.labels) != len(self.samples):
            raise FieldError(self, "labels", f"one for each of the {len(self.samples)} samples")

    def draw(self, store: Store) -> Canvas:
        """Draws the panels in one row."""
        shown = [self.data.load(self.split), *(store.get(samples) for samples in self.samples)]
        canvas, axes = panels(1, len(shown), self.title)
        for axis, panel, label in zip(axes[0], shown, ("Data", *self.labels), strict=True):
            _show(axis, panel[: self.count].cpu())
            axis.set_title(label, fontsize=10)
        _share_limits(axes[0], shown[0])
        return canvas


@dataclass(frozen=True)
class LatentPath(Figure):
    """The way of a few chains through latent space.

    For points of the plane: the chains over the log-density of the latent variable, if that lies in a plane
    too, and what they decode to over the data. For images: one line of images for each chain, from its start
    on the left to its end.

    Arguments:
        name: The name of the file, without its ending.
        title: What stands above the picture.
        model: The model.
        sampler: The chains.
        chains: How many chains are shown.
        shots: How many states of each are shown as images.
    """

    name: str
    title: str
    model: ModelRecipe
    sampler: Chains
    chains: int = 8
    shots: int = 10

    def __post_init__(self) -> None:
        positive(self, "chains", "shots")

    def draw(self, store: Store) -> Canvas:
        """Runs the chains and draws their way."""
        model = store.get(self.model)
        path = self._path(model, store)
        return self._plane(model, path) if self.model.data.shape == (2,) else self._images(model, path)

    def _path(self, model: Model, store: Store) -> Tensor:
        """Returns every state of the chains, of shape (T, chains, *)."""
        rng = self.model.rng(f"figure {self.name}", store.runtime.torch_device())
        with frozen(model):
            start = self.sampler.start.position(model, self.chains, rng)
            moves = evolve(self.sampler.schedule, model.target(self.sampler.beta), start, rng)
            return torch.stack([start, *(state.position for state, _ in moves)])

    def _plane(self, model: Model, path: Tensor) -> Canvas:
        two = path.shape[2:] == (2,)  # other latents have no picture
        canvas, axes = panels(1, 2 if two else 1, self.title)
        if two:
            _density(axes[0][0], model, self.sampler.beta, reach=3.0)
            _trace(axes[0][0], path.cpu())
            axes[0][0].set_title("latents, over their log-density", fontsize=10)
        axes[0][-1].scatter(*_across_and_up(self.model.data.load("test")[:2000]), color="0.8", **POINT)
        _trace(axes[0][-1], decoded(model, path.flatten(0, 1)).unflatten(0, path.shape[:2]).cpu())
        axes[0][-1].set_title("decoded, over the data", fontsize=10)
        return canvas

    def _images(self, model: Model, path: Tensor) -> Canvas:
        _check_drawable(self.model.data.shape)
        shots = torch.linspace(0, len(path) - 1, self.shots).round().long().to(path.device)
        images = decoded(model, path[shots].transpose(0, 1).flatten(0, 1)).cpu()
        canvas, axes = panels(1, 1, self.title, size=0.55 * self.shots)
        axes[0][0].imshow(tiled(images, self.shots), cmap="gray", vmin=0, vmax=1)
        steps = ", ".join(str(int(shot)) for shot in shots)
        axes[0][0].set_title(f"after {steps} steps", fontsize=10)
        axes[0][0].axis("off")
        return canvas


def _trace(axis: Axes, points: Tensor) -> None:
    """Draws the ways of chains (T, chains, 2), from a white dot to a black one."""
    for chain in points.unbind(1):
        axis.plot(*_across_and_up(chain), linewidth=0.7)
    for ends, color in ((points[0], "white"), (points[-1], "black")):
        across, up = _across_and_up(ends)
        axis.scatter(across, up, color=color, edgecolors="black", s=16, zorder=3)


def _across_and_up(points: Tensor) -> tuple[Any, Any]:
    """Returns the coordinates of points (N, 2) as matplotlib takes them."""
    return points[:, 0].numpy(), points[:, 1].numpy()


def tiled(images: Tensor, across: int) -> Any:
    """Returns images (N, C, H, W) in [-1, 1] as one picture (height, width[, 3]) in [0, 1].

    Line by line, ``across`` in each, with a grey pixel between any two and around all.
    """
    from torchvision.utils import make_grid

    grid = make_grid((images.float().clamp(-1, 1) + 1) / 2, nrow=across, padding=1, pad_value=0.5).numpy()
    return grid[0] if images.shape[1] == 1 else grid.transpose(1, 2, 0)


def drawable(shape: Sequence[int]) -> bool:
    """Whether data of this shape can be drawn: points of the plane, and grey or coloured images."""
    return tuple(shape) == (2,) or (len(shape) == 3 and shape[0] in (1, 3))


def picture(points: Tensor, title: str) -> Canvas:
    """Draws one set of samples: points of the plane (N, 2) or images (N, C, H, W)."""
    canvas, axes = panels(1, 1, title)
    _show(axes[0][0], points.cpu())
    return canvas


def save(canvas: Canvas, path: Path) -> None:
    """Writes a drawn figure; equal figures make equal files."""
    part = path.with_name(path.name + ".part")
    canvas.savefig(
        part, format="png", dpi=130, metadata={"Software": None}, bbox_inches="tight", pad_inches=0.1
    )
    part.replace(path)


def panels(rows: int, columns: int, title: str, size: float = 3.2) -> tuple[Canvas, Any]:
    """Returns an empty figure and its axes, as an array (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(size * columns, size * rows + 0.9), layout="compressed")
    FigureCanvasAgg(canvas)
    canvas.suptitle(f"{title}\n", fontsize=11)  # the empty line keeps it off the panels' titles
    return canvas, canvas.subplots(rows, columns, squeeze=False)


def _show(axis: Axes, points: Tensor) -> None:
    _check_drawable(points.shape[1:])
    if points.ndim == 4:
        axis.imshow(tiled(points, math.isqrt(len(points) - 1) + 1), cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
    else:
        axis.scatter(*_across_and_up(points), **POINT)
        axis.set_aspect("equal")


def _check_drawable(shape: Sequence[int]) -> None:
    if not drawable(shape):
        raise ValueError(
            f"only points of the plane and images can be drawn, not data of shape {tuple(shape)}"
        )


def _share_limits(axes: Sequence[Axes], data: Tensor) -> None:
    """Gives panels of points the limits of the data, with a margin."""
    if data.ndim != 2:
        return
    low, high = data.min(0).values, data.max(0).values
    margin = 0.15 * (high - low)
    for axis in axes:
        axis.set_xlim(float(low[0] - margin[0]), float(high[0] + margin[0]))
        axis.set_ylim(float(low[1] - margin[1]), float(high[1] + margin[1]))


@torch.no_grad()
def _density(axis: Axes, model: Model, beta: float, reach: float) -> None:
    """Shades the log-density of a two-dimensional latent variable."""
    line = torch.linspace(-reach, reach, 120, device=model.prior.anchor.device)
    grid = torch.cartesian_prod(line, line)
    value = model.target(beta)(grid).view(120, 120).T.cpu().numpy()
    top = float(value.max())
    extent = (-reach, reach, -reach, reach)
    axis.imshow(value, origin="lower", extent=extent, vmin=top - 8, vmax=top, cmap="viridis", aspect="equal")


def due(figures: Sequence[Figure], store: Store, folder: Path) -> Iterator[Path]:
    """Draws each figure whose recipes are all on the shelf, unless it was drawn before; yields all paths."""
    for figure in figures:
        if any(store.state(need) != "kept" for need in figure.needs()):
            continue
        path, stamp = folder / f"{figure.name}.png", folder / f"{figure.name}.key"
        key = figure_key(figure)
        if not (path.exists() and stamp.exists() and stamp.read_text() == key):
            folder.mkdir(parents=True, exist_ok=True)
            save(figure.draw(store), path)
            stamp.write_text(key)
        yield path


def figure_key(figure: Figure) -> str:
    """Returns a hash of everything that a figure shows."""
    return hashlib.sha256(canonical(describe(figure)).encode()).hexdigest()


__all__ = [
    "Comparison",
    "Figure",
    "LatentPath",
    "drawable",
    "due",
    "panels",
    "picture",
    "save",
    "tiled",
]
