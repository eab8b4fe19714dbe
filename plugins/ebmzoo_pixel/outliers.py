r"""Images that are none: what a model of images should find strange.

All are in [-1, 1], as images are. Each split is drawn from a seed that depends on the class and the split
only, as the points of :mod:`ebmzoo.data.toy` are.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), on data out of
      distribution
    | https://arxiv.org/abs/1903.08689
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from ebmzoo.data import Dataset
from ebmzoo.data.dataset import check_split
from ebmzoo.data.toy import seed
from ebmzoo.fields import FieldError, positive


@dataclass(frozen=True)
class Synthetic(Dataset):
    """Images of no meaning, drawn one by one.

    Arguments:
        shape: The shape of one image.
        count: How many images each split holds.
    """

    shape: tuple[int, ...] = (3, 32, 32)
    count: int = 10_000

    def __post_init__(self) -> None:
        positive(self, "count")
        if not self.shape or min(self.shape) < 1:
            raise FieldError(self, "shape", "one or more numbers above zero, as a tuple")

    def load(self, split: str) -> Tensor:
        """Returns the images of a split, of shape (count, *shape), in a tensor of the caller's own."""
        check_split(split)
        rng = RandomState(seed(self, split))
        return torch.from_numpy(np.stack([self.draw(rng).astype(np.float32) for _ in range(self.count)]))

    @abstractmethod
    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns a new image, of shape (*shape)."""


@dataclass(frozen=True)
class UniformNoise(Synthetic):
    r"""Independent pixels, :math:`x_i \sim \mathcal{U}(-1, 1)`, not rounded to bytes.

    Arguments:
        shape: The shape of one image.
        count: How many images each split holds.
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns a new image, of shape (*shape)."""
        return rng.uniform(-1, 1, self.shape)


@dataclass(frozen=True)
class ConstantImages(Synthetic):
    r"""Images of one grey: :math:`x_i = c` in every pixel and channel, :math:`c \sim \mathcal{U}(-1, 1)`.

    Arguments:
        shape: The shape of one image.
        count: How many images each split holds.
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns a new image, of shape (*shape)."""
        return np.full(self.shape, rng.uniform(-1, 1))


@dataclass(frozen=True)
class Interpolated(Dataset):
    r"""Means of two different images of another data set.

    .. math:: \tfrac{1}{2} (x_{\tau(i)} + x_{\tau(i + 1)})

    with a random order :math:`\tau` of the split's images, the first of which follows the last: as many means
    as there are images, each of which is in two of them.

    Arguments:
        data: The other data set.
    """

    data: Dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.data.shape

    def load(self, split: str) -> Tensor:
        """Returns the means of a split, of shape (N, *shape), in a tensor of the caller's own.

        Raises:
            ValueError: If the other data set has fewer than two images.
        """
        images = self.data.load(split)
        if len(images) < 2:
            raise ValueError(f"there are no two images in the split {split!r} of {type(self.data).__name__}")
        first = torch.from_numpy(RandomState(seed(self, split)).permutation(len(images)))
        return torch.lerp(images[first], images[first.roll(-1)], 0.5)
