"""What a data set is: whole in memory, in named splits that never change."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

SPLITS = ("train", "valid", "test")
"""The splits of every data set: to learn from, to choose by, to report on."""


class Dataset(ABC):
    """A data set. A frozen dataclass, so that a recipe can name it; equal ones hold equal data."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum."""

    @abstractmethod
    def load(self, split: str) -> Tensor:
        """Returns all data of a split, of shape (N, *shape), as floats on the CPU, always in the same order.

        Arguments:
            split: One of :data:`SPLITS`.

        Raises:
            DataError: If the files are absent or damaged; the message says how to get them.
            ValueError: If there is no such split.
        """

    def stored(self, split: str) -> Tensor:
        """Returns the same data in their smallest form, such as bytes, of shape (N, *shape): what is held in
        the memory of a device while minibatches are drawn.
        """
        return self.load(split)

    def restored(self, stored: Tensor) -> Tensor:
        """Returns some of what :meth:`stored` returned, (B, *shape), as :meth:`load` would return it."""
        return stored

    def labels(self, split: str) -> Tensor | None:
        """Returns the class of each datum of a split, of shape (N,) as int64, or None without classes."""
        return None


class KnownDensity(Dataset):
    """A data set drawn from a law of known density, with which that of a model can be compared."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,), of points (B, *shape), in the dtype of the points."""


class Mixture(KnownDensity):
    r"""A data set drawn from a known mixture of equal isotropic Gaussians, so that modes can be counted.

    .. math:: p(x) = \frac{1}{K} \sum_{k=1}^{K} \mathcal{N}(x; \mu_k, \sigma^2 I)
    """

    @property
    @abstractmethod
    def sigma(self) -> float:
        """The standard deviation of each coordinate within a mode."""

    @abstractmethod
    def centres(self) -> Tensor:
        """Returns the means of the modes, of shape (K, *shape)."""

    def log_density(self, x: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,), of points (B, *shape)."""
        points, centres = x.flatten(1), self.centres().to(x).flatten(1)
        distances = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist")
        constant = math.log(len(centres)) + points.shape[1] * math.log(math.sqrt(2 * math.pi) * self.sigma)
        return (distances / self.sigma).square().div(-2).logsumexp(1) - constant


class DataError(RuntimeError):
    """Data that a recipe needs are absent or damaged."""


def check_split(split: str) -> None:
    """Raises ValueError unless ``split`` is one of :data:`SPLITS`."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
