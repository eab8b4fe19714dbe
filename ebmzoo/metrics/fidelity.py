r"""Distances between samples and data in the features of a classifier.

The classifier is an artifact of the store like any other, so its features are not those of Inception and the
numbers are not those known as FID and KID; hence other names. torch-fidelity computes them, as
:mod:`ebmzoo.metrics.extraction` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics.extraction import Pair, protocol
from ebmzoo.metrics.metric import Metric
from ebmzoo.store import Recipe


@dataclass(frozen=True)
class FrechetDistance(Metric):
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
            ``features`` from images (B, *shape) to vectors (B, D).
    """

    lower_is_better: ClassVar[bool] = True
    name: str
    features: Recipe

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"FD-{self.name}"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the distance, in squared units of the features."""
        pair = Pair(samples, data, split, at_least=2, needs="a covariance")
        return pair.measure({"fid": True}, "frechet_inception_distance", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return _protocol(self.features)


@dataclass(frozen=True)
class KernelDistance(Metric):
    r"""The squared maximum mean discrepancy of features under a cubic kernel, averaged over random subsets.

    .. math:: k(a, b) = \left( \langle a, b \rangle / D + 1 \right)^3

    Each subset holds ``subset_size`` samples and as many data, without repetition, and gives an unbiased
    estimate; their mean is unbiased too, so it may fall below zero. The value is not multiplied by 1000.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401

    Arguments:
        name: What follows ``KD-`` in tables, such as the data set of the classifier.
        features: The recipe of the classifier, as for :class:`FrechetDistance`.
        subsets: The number of subsets.
        subset_size: The size of each.
    """

    lower_is_better: ClassVar[bool] = True
    name: str
    features: Recipe
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

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the squared discrepancy."""
        pair = Pair(samples, data, split, at_least=self.subset_size, needs="subset_size")
        seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        options = {
            "kid": True,
            "kid_subsets": self.subsets,
            "kid_subset_size": self.subset_size,
            "kid_kernel": "poly",
            "kid_kernel_poly_degree": 3,
            "kid_kernel_poly_gamma": None,
            "kid_kernel_poly_coef0": 1,
            "rng_seed": seed,
        }
        return pair.measure(options, "kernel_inception_distance_mean", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        sizes = {"subsets": self.subsets, "subset_size": self.subset_size}
        return {**_protocol(self.features), **sizes, "kernel": "(<a, b> / D + 1)^3"}


@dataclass(frozen=True)
class Precision(Metric):
    r"""The share of samples that lie near data.

    .. math:: \frac{1}{n} \# \{ i : \| x_i - y_j \| \leq r_k(y_j) \ \text{for some} \ j \}

    for features :math:`x_i` of samples and :math:`y_j` of data, where :math:`r_k(y_j)` is the distance from
    :math:`y_j` to its k-th nearest neighbour among the other data. A tie counts as near, here as in
    torch-fidelity and unlike in ``prdc``, up to rounding; it matters for samples that are copies.

    References:
        | Improved Precision and Recall Metric for Assessing Generative Models (Kynkäänniemi et al., 2019)
        | https://arxiv.org/abs/1904.06991

    Arguments:
        features: The recipe of the classifier, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    lower_is_better: ClassVar[bool] = False
    features: Recipe
    neighbours: int = 3

    def __post_init__(self) -> None:
        positive(self, "neighbours")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "precision"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the share, from 0 to 1."""
        pair = Pair(samples, data, split, at_least=self.neighbours + 1, needs="neighbours")
        options = {"prc": True, "prc_neighborhood": self.neighbours}
        return pair.measure(options, "precision", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**_protocol(self.features), "neighbours": self.neighbours, "ties": "<="}


@dataclass(frozen=True)
class Recall(Metric):
    r"""The share of data that lie near samples: :class:`Precision` with samples and data exchanged.

    .. math:: \frac{1}{m} \# \{ j : \| x_i - y_j \| \leq r_k(x_i) \ \text{for some} \ i \}

    where :math:`r_k(x_i)` is the distance from :math:`x_i` to its k-th nearest neighbour among the other
    samples. Samples with k copies have :math:`r_k = 0`: only data equal to them are near.

    Arguments:
        features: The recipe of the classifier, as for :class:`FrechetDistance`.
        neighbours: The number k.
    """

    lower_is_better: ClassVar[bool] = False
    features: Recipe
    neighbours: int = 3

    def __post_init__(self) -> None:
        positive(self, "neighbours")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "recall"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the share, from 0 to 1."""
        pair = Pair(samples, data, split, at_least=self.neighbours + 1, needs="neighbours")
        options = {"prc": True, "prc_neighborhood": self.neighbours}
        return pair.measure(options, "recall", get(self.features), self.features)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {**_protocol(self.features), "neighbours": self.neighbours, "ties": "<="}


def _protocol(features: Recipe) -> dict[str, Any]:
    return {**protocol(features.key), "data": "the whole split"}
