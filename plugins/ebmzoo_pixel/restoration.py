"""Restoring images by chains: of a part that is missing while the rest is held, and of noise.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 4
    | https://arxiv.org/abs/1903.08689
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.blocks import image_shape
from ebmzoo.data import Dataset
from ebmzoo.fields import FieldError, within
from ebmzoo.models import Box, Flat, Model, Normal, Prior, frozen
from ebmzoo.samplers import FromData, Schedule, settle


@runtime_checkable
class Region(Protocol):
    """A part of an image."""

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """Returns which coordinates of a datum belong to it, of the given shape, as booleans."""
        ...


@dataclass(frozen=True)
class LowerHalf:
    """The lower half of an image."""

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """Returns the mask."""
        _, height, _ = image_shape(self, shape)
        rows = torch.arange(height)[:, None] >= height // 2
        return rows.expand(shape)


@dataclass(frozen=True)
class Middle:
    """The square in the middle of an image.

    Arguments:
        share: Its side, as a share of the image's.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        within(self, "share", 0.0, 1.0)

    def mask(self, shape: tuple[int, ...]) -> Tensor:
        """Returns the mask."""
        _, height, width = image_shape(self, shape)
        rows, columns = (self._inner(side) for side in (height, width))
        return (rows[:, None] & columns).expand(shape)

    def _inner(self, side: int) -> Tensor:
        place = (torch.arange(side) + 0.5) / side
        return (place - 0.5).abs() < self.share / 2


@dataclass(frozen=True)
class Inpainting:
    r"""Draws images of which all but a region is that of data, and stays so bit by bit.

    .. math:: \pi(u) \propto \rho(u) \, e^{-\beta E(g(u))}

    where :math:`u` are the pixels of the region and :math:`g` puts them into the rest of an image. Chains
    begin at the prior.

    Arguments:
        data: Where the rest of the images is from.
        region: What is painted.
        schedule: The kernels and their numbers of steps.
        split: The split of the data. What is drawn at once is of its images from the first on, over and over.
        beta: The inverse temperature :math:`\beta` of the energy.
    """

    data: Dataset
    region: Region
    schedule: Schedule
    split: str = "test"
    beta: float = 1.0

    @torch.no_grad()
    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` images.

        Raises:
            FieldError: If data and model are of different shapes.
            ValueError: If the model does not sample data in a box or everywhere, or nothing is painted.
        """
        painted = self.painted(model, self._images(model, count, rng))
        with frozen(painted):
            start = painted.prior.draw(count, rng)
            end = settle(self.schedule, painted.target(self.beta), start, rng)
        return painted.decoder(end)

    def painted(self, model: Model, images: Tensor) -> Model:
        """Returns the model of the region's pixels, given the rest of images (N, *)."""
        places = self.region.mask(tuple(images.shape[1:])).flatten().nonzero()[:, 0].to(images.device)
        if not len(places):
            raise ValueError(f"{self.region!r} has no pixel of images of shape {tuple(images.shape[1:])}")
        prior = _over(model.prior, len(places)).to(images)
        painted = Model(prior, Completion(images, places), model.energy).running_like(model)
        return painted.eval()

    def _images(self, model: Model, count: int, rng: Generator) -> Tensor:
        images = self.data.load(self.split)
        if images.shape[1:] != model.prior.shape:
            raise FieldError(self, "data", f"data of the shape {model.prior.shape} that the model samples")
        index = torch.arange(count) % len(images)
        return images[index].to(rng.device)


class Completion(nn.Module):
    """Puts pixels into images.

    Arguments:
        images: The images, of shape (N, *).
        places: Which coordinates of the flattened images are put in, of shape (n,).
    """

    def __init__(self, images: Tensor, places: Tensor):
        super().__init__()
        self.images, self.places = images, places

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the images (N, *) with pixels (N, n)."""
        filled = self.images.flatten(1).index_copy(1, self.places, pixels)
        return filled.view_as(self.images)


def _over(prior: Prior, size: int) -> Prior:
    """Returns the prior of so many coordinates."""
    if isinstance(prior, Flat):
        return Flat(_over(prior.start, size))
    if isinstance(prior, Box):
        return Box((size,), prior.low, prior.high)
    if isinstance(prior, Normal):
        return Normal((size,), prior.scale)
    raise ValueError("Inpainting needs a model of data themselves, in a box or everywhere, not of latents")


@dataclass(frozen=True)
class FromSaltAndPepper:
    """Chains begin at data some of whose pixels are nearly black or nearly white.

    Arguments:
        data: The data set.
        share: The share of pixels that become dark; as many become bright.
        depth: How dark and bright, in [-1, 1]; 0.8 is 0.1 and 0.9 of the way from black to white.
        split: The split that is drawn from.
    """

    data: Dataset
    share: float = 0.05
    depth: float = 0.8
    split: str = "test"

    def __post_init__(self) -> None:
        within(self, "share", 0.0, 0.5)
        within(self, "depth", 0.0, 1.0)

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` images, drawn with replacement and then spoilt."""
        images = FromData(self.data, self.split).position(model, count, rng)
        chance = torch.rand(images.shape, generator=rng, device=images.device)
        spoilt = torch.where(chance < self.share, -self.depth, images)
        return torch.where(chance > 1 - self.share, self.depth, spoilt)
