r"""Distances between samples and data, taken on the data as they are.

Each compares the first ``count`` samples with the first ``count`` data of the split, flattened to vectors of
:math:`D` coordinates and in double precision. None but :class:`MMD` is unbiased: between two sets drawn from
one law they are above zero, and the more so the smaller ``count`` is. What perfect samples would have is the
value between two splits of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive, within
from ebmzoo.metrics.metric import Metric, check_finite
from ebmzoo.store import Recipe


def first(count: int, samples: Tensor, data: Dataset, split: str) -> tuple[Tensor, Tensor]:
    """Returns the first ``count`` samples and data as vectors in double precision, of shape (count, D) each.

    Raises:
        ValueError: If there are fewer, or a sample is not finite.
    """
    check_finite(samples)
    reference = data.load(split)
    for held, name in ((samples, "samples"), (reference, f"data of the split {split!r}")):
        if len(held) < count:
            raise ValueError(f"count is {count}, but there are {len(held)} {name}; lower count or take more")
    x, y = (held[:count].detach().flatten(1).double().cpu() for held in (samples, reference))
    return x, y


@dataclass(frozen=True)
class SlicedWasserstein(Metric):
    r"""The 1-Wasserstein distance of projections to a line, averaged over random lines.

    .. math:: \frac{1}{P} \sum_{p=1}^{P} W_1(\langle x, \theta_p \rangle, \langle y, \theta_p \rangle),
        \qquad \theta_p \sim \mathcal{U}(S^{D-1})

    Between equally many points on a line :math:`W_1` is the mean distance of the sorted points.

    References:
        | Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015)

    Arguments:
        projections: The number :math:`P` of lines.
        count: How many samples and data are compared.
    """

    lower_is_better: ClassVar[bool] = True
    projections: int = 500
    count: int = 10_000

    def __post_init__(self) -> None:
        positive(self, "projections", "count")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "SW1"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the distance, in the units of the data."""
        x, y = first(self.count, samples, data, split)
        lines = torch.randn(
            self.projections, x.shape[1], generator=rng, device=rng.device, dtype=x.dtype
        ).cpu()
        lines = lines / lines.norm(dim=1, keepdim=True)
        gaps = [((x @ line).sort().values - (y @ line).sort().values).abs().mean() for line in lines]
        return torch.stack(gaps).mean().item()

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"projections": self.projections, "count": self.count, "order": 1}


@dataclass(frozen=True)
class EMD(Metric):
    r"""The earth mover's distance: the mean Euclidean cost of the best one-to-one assignment.

    .. math:: W_1 = \min_{\pi} \frac{1}{n} \sum_{i=1}^{n} \| x_i - y_{\pi(i)} \|

    Exact, at a cost that grows with the cube of ``count``, which is why it is at most 2000. (Others take the
    *squared* Euclidean cost under this name.)

    Arguments:
        count: The number :math:`n` of samples and of data.
    """

    lower_is_better: ClassVar[bool] = True
    count: int = 2_000

    def __post_init__(self) -> None:
        within(self, "count", 1, 2_000)

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "EMD"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the distance, in the units of the data."""
        from scipy.optimize import linear_sum_assignment

        x, y = first(self.count, samples, data, split)
        cost = _distances(x, y).numpy()
        return float(cost[linear_sum_assignment(cost)].mean())

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"count": self.count, "cost": "Euclidean"}


@dataclass(frozen=True)
class MMD(Metric):
    r"""The squared maximum mean discrepancy, by its unbiased U-statistic.

    .. math:: \frac{1}{n (n-1)} \sum_{i \neq j} \left[ k(x_i, x_j) + k(y_i, y_j) \right]
        - \frac{2}{n^2} \sum_{i, j} k(x_i, y_j),
        \qquad k(x, y) = \frac{1}{|H|} \sum_{h \in H} \exp\left( -\frac{\| x - y \|^2}{2 h^2} \right)

    Its mean is zero when both have one law, so a value below zero is possible and means nothing but noise.

    References:
        | A Kernel Two-Sample Test (Gretton et al., 2012), Lemma 6

    Arguments:
        bandwidths: The standard deviations :math:`H` of the kernel's Gaussians, in the units of the data.
        count: The number :math:`n` of samples and of data.
    """

    lower_is_better: ClassVar[bool] = True
    bandwidths: tuple[float, ...]
    count: int = 2_000

    def __post_init__(self) -> None:
        if not self.bandwidths or not all(0 < h < math.inf for h in self.bandwidths):
            raise FieldError(self, "bandwidths", "one or more numbers above zero, as a tuple")
        if self.count < 2:
            raise FieldError(self, "count", "2 or more")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "MMD2"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the squared discrepancy, which has no unit."""
        x, y = first(self.count, samples, data, split)
        n = self.count
        within_sets = self._total(x, x) + self._total(y, y) - 2 * n  # the 2n pairs i = j have k = 1
        return within_sets / (n * (n - 1)) - 2 * self._total(x, y) / n**2

    def _total(self, x: Tensor, y: Tensor) -> float:
        return sum(self._kernel(rows, y).sum().item() for rows in x.split(512))

    def _kernel(self, x: Tensor, y: Tensor) -> Tensor:
        squares = _distances(x, y).square()
        return torch.stack([(squares / (-2 * h**2)).exp() for h in self.bandwidths]).mean(0)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {
            "kernel": "mean of Gaussians",
            "bandwidths": list(self.bandwidths),
            "count": self.count,
            "estimator": "unbiased U-statistic",
        }


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Returns the Euclidean distances (N, M), without the cancellation of expanding the square."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
