r"""Distances between samples and data in the features of a classifier.

The classifier is an artifact of the store like any other, so its features are not those of Inception and the
numbers are not those known as FID and KID; hence other names. torch-fidelity computes most of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics.extraction import frechet_distance, kernel_distance, precision_and_recall
from ebmzoo.metrics.features import (
    Compared,
    DataFeatures,
    Extractor,
    Get,
    compared,
    extractor_of,
    fingerprint,
)
from ebmzoo.metrics.metric import Metric, drawn_seed
from ebmzoo.store import Recipe


class OfFeatures(Metric):
    """A metric of features, of a classifier of the store or of another extractor."""

    features: Recipe | Extractor

    def needs(self, data: Dataset, split: str) -> tuple[Recipe, ...]:
        """Returns the features of the split."""
        return (self._of(data, split),)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**self._extractor().protocol(), "data": "the whole split"}

    def compared(
        self, samples: Tensor, data: Dataset, split: str, get: Get, at_least: int, needs: str
    ) -> Compared:
        """Returns the features of samples (N, *) and of the split.

        Raises:
            ValueError: If either are fewer than ``at_least``, for which ``needs`` asks, or no finite images.
        """
        self.check_ready()
        extractor = self._extractor()
        return compared(samples, self._of(data, split), get, extractor.layer, at_least, needs)

    def check_ready(self) -> None:
        """Raises DataError if a file that the extractor needs is absent."""
        self._extractor().check_ready(self.label)

    def _of(self, data: Dataset, split: str) -> DataFeatures:
        return DataFeatures(data, split, self._extractor())

    def _extractor(self) -> Extractor:
        return extractor_of(self.features)


@dataclass(frozen=True)
class FrechetDistance(OfFeatures):
    r"""The Fréchet distance between Gaussians fitted to features of samples and of data.

    .. math:: \| m_1 - m_2 \|^2 + \mathrm{tr}\left( C_1 + C_2 - 2 (C_1 C_2)^{1/2} \right)

    It is biased upwards by a term of order :math:`1/n` in the number :math:`n` of samples, and likewise in
    the number of data, so values for different numbers must not be compared. All of the split is used.

    References:
        | GANs Trained by a Two Time-Scale Update Rule (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Arguments:
        name: What follows ``FD-`` in tables, such as the data set of the classifier.
        features: The recipe of the classifier. The energy of the model that it makes must have a method
            ``features`` from images (B, *shape) to vectors (B, D). Or an extractor, such as
            ``InceptionFeatures``.
    """

    lower_is_better: ClassVar[bool] = True
    name: str
    features: Recipe | Extractor

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"FD-{self.name}"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the distance, in squared units of the features."""
        return frechet_distance(*self.compared(samples, data, split, get, 2, "a covariance"))


@dataclass(frozen=True)
class KernelDistance(OfFeatures):
    r"""The squared maximum mean discrepancy of features under a cubic kernel, averaged over random subsets.

    .. math:: k(a, b) = \left( \langle a, b \rangle / D + 1 \right)^3

    Each subset holds ``subset_size`` samples and as many data, without repetition, and gives an unbiased
    estimate; their mean is unbiased too, so it may fall below zero. The value is not multiplied by 1000.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401

    Arguments:
        name: What follows ``KD-`` in tables, such as the data set of the classifier.
        features: The recipe of the classifier, or an extractor, as for :class:`FrechetDistance`.
        subsets: The number of subsets.
        subset_size: The size of each.
    """

    lower_is_better: ClassVar[bool] = True
    name: str
    features: Recipe | Extractor
    subsets: int = 100
    subset_size: int = 200

    def __post_init__(self) -> None:
        positive(self, "subsets")
        if self.subset_size < 2:
            raise FieldError(self, "subset_size", "2 or more")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"KD-{self.name}"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the squared discrepancy."""
        pair = self.compared(samples, data, split, get, self.subset_size, "subset_size")
        seed = drawn_seed(rng)
        return kernel_distance(*pair, self.subsets, self.subset_size, seed)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        sizes = {"subsets": self.subsets, "subset_size": self.subset_size}
        return {**super().protocol(), **sizes, "kernel": "(<a, b> / D + 1)^3"}


@dataclass(frozen=True)
class Neighbourhoods(OfFeatures):
    """A metric of which points lie within the distance of another to its k-th nearest neighbour.

    Arguments:
        features: The recipe of the classifier, or an extractor, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    lower_is_better: ClassVar[bool] = False
    features: Recipe | Extractor
    neighbours: int = 3

    def __post_init__(self) -> None:
        positive(self, "neighbours")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return type(self).__name__.lower()

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the share."""
        pair = self.compared(samples, data, split, get, self.neighbours + 1, "neighbours")
        return self.share(*pair)

    @abstractmethod
    def share(self, samples: Tensor, data: Tensor) -> float:
        """Returns the share, for features (N, D) of samples and (M, D) of data."""

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**super().protocol(), "neighbours": self.neighbours, "ties": "<="}


@dataclass(frozen=True)
class Precision(Neighbourhoods):
    r"""The share of samples that lie near data.

    .. math:: \frac{1}{n} \# \{ i : \| x_i - y_j \| \leq r_k(y_j) \ \text{for some} \ j \}

    for features :math:`x_i` of samples and :math:`y_j` of data, where :math:`r_k(y_j)` is the distance from
    :math:`y_j` to its k-th nearest neighbour among the other data. A tie counts as near, here as in
    torch-fidelity and unlike in ``prdc``, up to rounding; it matters for samples that are copies.

    References:
        | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
        | https://arxiv.org/abs/1904.06991

    Arguments:
        features: The recipe of the classifier, or an extractor, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    def share(self, samples: Tensor, data: Tensor) -> float:
        """Returns the share, from 0 to 1."""
        return _precision_and_recall(samples, data, self.neighbours)[0]


@dataclass(frozen=True)
class Recall(Neighbourhoods):
    r"""The share of data that lie near samples: :class:`Precision` with samples and data exchanged.

    .. math:: \frac{1}{m} \# \{ j : \| x_i - y_j \| \leq r_k(x_i) \ \text{for some} \ i \}

    where :math:`r_k(x_i)` is the distance from :math:`x_i` to its k-th nearest neighbour among the other
    samples. Samples with k copies have :math:`r_k = 0`: only data equal to them are near.

    Arguments:
        features: The recipe of the classifier, or an extractor, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    def share(self, samples: Tensor, data: Tensor) -> float:
        """Returns the share, from 0 to 1."""
        return _precision_and_recall(samples, data, self.neighbours)[1]


@dataclass(frozen=True)
class Density(Neighbourhoods):
    r"""How many data a sample is near to, compared with k: about one for samples like the data.

    .. math:: \frac{1}{k n} \sum_i \# \{ j : \| x_i - y_j \| \leq r_k(y_j) \}

    It is not bounded by one: samples that gather where data are dense exceed it. Unlike :class:`Precision` it
    does not depend on a single outlier among the data, whose neighbourhood is large.

    References:
        | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020)
        | https://arxiv.org/abs/2002.09797

    Arguments:
        features: The recipe of the classifier, or an extractor, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    neighbours: int = 5

    def share(self, samples: Tensor, data: Tensor) -> float:
        """Returns the density."""
        return sum(float(near.sum()) for near in _near(samples, data, self.neighbours)) / (
            self.neighbours * len(samples)
        )


@dataclass(frozen=True)
class Coverage(Neighbourhoods):
    r"""The share of data in whose neighbourhood there is a sample.

    .. math:: \frac{1}{m} \# \{ j : \| x_i - y_j \| \leq r_k(y_j) \ \text{for some} \ i \}

    For samples of the data's own law it is :math:`1 - 2^{-k}` on average where both are many and as many.

    References:
        | Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), Section 3.3
        | https://arxiv.org/abs/2002.09797

    Arguments:
        features: The recipe of the classifier, or an extractor, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    neighbours: int = 5

    def share(self, samples: Tensor, data: Tensor) -> float:
        """Returns the share, from 0 to 1."""
        covered = sum(int(near.any(1).sum()) for near in _near(samples, data, self.neighbours))
        return covered / len(data)


def _precision_and_recall(samples: Tensor, data: Tensor, neighbours: int) -> tuple[float, float]:
    """Returns both, worked out together and remembered for the metric that asks for the other."""
    key = (fingerprint({"samples": samples, "data": data}), neighbours)
    if key not in _remembered:
        _remembered.clear()
        _remembered[key] = precision_and_recall(samples, data, neighbours)
    return _remembered[key]


_remembered: dict[tuple[str, int], tuple[float, float]] = {}


def _near(samples: Tensor, data: Tensor, neighbours: int, chunk: int = 1000) -> Iterator[Tensor]:
    """Yields which samples lie near data, a chunk of data at a time, each of shape (chunk, N)."""
    for part in data.split(chunk):
        nearest = torch.cdist(part, data).topk(neighbours + 1, largest=False).values  # the first is itself
        yield torch.cdist(part, samples) <= nearest[:, -1:]
