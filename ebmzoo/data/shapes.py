"""Drawings of one object each, whose two properties are known and can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from ebmzoo.data.dataset import Dataset, check_split
from ebmzoo.data.toy import seed
from ebmzoo.fields import FieldError, positive

SHAPES, PLACES = ("disc", "square"), ("left", "right")


@dataclass(frozen=True)
class Shapes(Dataset):
    """Bright discs and squares, on the left or on the right of dark images of 16 × 16 pixels.

    Radius (half the side of a square) and centre are uniform, so that the object lies in its half of the
    image; edges are one pixel wide. Discs on the left are of class 0, on the right 1, squares 2 and 3. Every
    combination that is asked for is as likely.

    Arguments:
        shape_of: ``"disc"``, ``"square"``, or None for both.
        place: ``"left"``, ``"right"``, or None for both.
        count: How many images each split holds.
    """

    shape_of: str | None = None
    place: str | None = None
    count: int = 10_000

    def __post_init__(self) -> None:
        positive(self, "count")
        for name, values in (("shape_of", SHAPES), ("place", PLACES)):
            if getattr(self, name) not in (None, *values):
                raise FieldError(self, name, f"{values[0]!r}, {values[1]!r} or None")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (1, 16, 16)

    def load(self, split: str) -> Tensor:
        """Returns the images of a split, of shape (count, 1, 16, 16).

        Every call returns the same tensor, which belongs to all callers: change a copy of it.
        """
        check_split(split)
        return _drawn(self, split)[0]

    def labels(self, split: str) -> Tensor:
        """Returns the class of each image of a split, of shape (count,)."""
        check_split(split)
        return _drawn(self, split)[1]


@lru_cache(maxsize=8)
def _drawn(data: Shapes, split: str) -> tuple[Tensor, Tensor]:
    rng = RandomState(seed(data, split))
    shape, place = rng.randint(2, size=(2, data.count))
    shape = shape if data.shape_of is None else np.full(data.count, SHAPES.index(data.shape_of))
    place = place if data.place is None else np.full(data.count, PLACES.index(data.place))
    radius = rng.uniform(2.0, 3.0, data.count)
    x = rng.uniform(radius + 0.5, 7.5 - radius) + 8 * place
    y = rng.uniform(radius + 0.5, 15.5 - radius)
    line = np.arange(16) + 0.5
    across, down = np.abs(line - x[:, None])[:, None, :], np.abs(line - y[:, None])[:, :, None]
    distance = np.where(shape[:, None, None] == 0, np.hypot(across, down), np.maximum(across, down))
    brightness = np.clip(radius[:, None, None] - distance + 0.5, 0, 1)
    images = torch.from_numpy(2 * brightness - 1).float()[:, None]
    return images, torch.from_numpy(2 * shape + place).long()
