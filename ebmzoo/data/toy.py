r"""Points of the plane, drawn from laws that are known.

Each split holds ``count`` points of its own, drawn from a seed that depends on the class and the split only;
so the splits are independent samples of one law, and equal data sets hold equal points. The seed feeds
``numpy.random.RandomState``, whose streams numpy has promised never to change.

:class:`TwentyFiveGaussians` and :class:`SwissRoll` are those of DOT, which took them, as
:class:`EightGaussians`, from the WGAN-GP code; :class:`AnatomyRings` and :class:`AnatomyMixture` are those of
Nijkamp et al.; the others are those of FFJORD, with every latent coordinate drawn independently where FFJORD
spaces some evenly.

References:
    | Discriminator Optimal Transport (Tanaka, 2019), https://arxiv.org/abs/1910.06832
    | Improved Training of Wasserstein GANs (Gulrajani et al., 2017), https://arxiv.org/abs/1704.00028
    | FFJORD (Grathwohl et al., 2019), https://arxiv.org/abs/1810.01367
    | On the Anatomy of MCMC-based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al., 2020),
      https://arxiv.org/abs/1903.12370
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor

from ebmzoo.data.dataset import Dataset, KnownDensity, Mixture, check_split
from ebmzoo.fields import positive


@dataclass(frozen=True)
class Planar(Dataset):
    """Points of the plane.

    Arguments:
        count: How many points each split holds.
    """

    count: int = 100_000

    def __post_init__(self) -> None:
        positive(self, "count")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return (2,)

    def load(self, split: str) -> Tensor:
        """Returns the points of a split, of shape (count, 2).

        Every call returns the same tensor, which belongs to all callers: change a copy of it, never itself.
        """
        check_split(split)
        return _drawn(self, split)

    @abstractmethod
    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""


@lru_cache(maxsize=16)
def _drawn(data: Planar, split: str) -> Tensor:
    return torch.from_numpy(data.draw(RandomState(seed(data, split)))).float()


def seed(data: Dataset, split: str) -> int:
    """Returns the seed of a split, below 2³²: it depends on the name of the class and of the split only."""
    digest = hashlib.sha256(f"{type(data).__name__}/{split}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class TwentyFiveGaussians(Planar, Mixture):
    r"""A 5 × 5 lattice of Gaussians.

    .. math:: \mathcal{N}(2 m, 0.05^2 I) / 2.828, \qquad m \in \{-2, \dots, 2\}^2

    Every mode has the same number of points, up to one, in random order. The division, which gives the data
    about unit variance, makes the modes' standard deviation 0.05 / 2.828 = 0.0177; papers state the 0.05.
    """

    @property
    def sigma(self) -> float:
        """The standard deviation of each coordinate within a mode."""
        return 0.05 / 2.828

    def centres(self) -> Tensor:
        """Returns the means, of shape (25, 2)."""
        line = torch.arange(-2.0, 3.0)
        return 2 * torch.cartesian_prod(line, line) / 2.828

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        return _around(self, rng)


@dataclass(frozen=True)
class EightGaussians(Planar, Mixture):
    r"""Eight Gaussians on a circle.

    .. math:: \mathcal{N}(2 \, (\cos a, \sin a), 0.02^2 I) / 1.414, \qquad a \in \{0, \pi/4, \dots, 7\pi/4\}

    Every mode has the same number of points, up to one, in random order.
    """

    @property
    def sigma(self) -> float:
        """The standard deviation of each coordinate within a mode."""
        return 0.02 / 1.414

    def centres(self) -> Tensor:
        """Returns the means, of shape (8, 2)."""
        angle = torch.arange(8) * (np.pi / 4)
        return 2 * torch.stack([angle.cos(), angle.sin()], 1) / 1.414

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        return _around(self, rng)


@dataclass(frozen=True)
class AnatomyMixture(Planar, Mixture):
    r"""Eight Gaussians on the unit circle, whose flanks overlap a little.

    .. math:: \mathcal{N}((\cos a, \sin a), 0.15^2 I), \qquad a \in \{0, \pi/4, \dots, 7\pi/4\}

    Neighbouring centres are 5.1 standard deviations apart. Number, radius and standard deviation are those of
    the official code. Every mode has the same number of points, up to one, in random order; the official code
    draws how many each has.

    References:
        | On the Anatomy of MCMC-based Maximum Likelihood Learning of Energy-Based Models
        | (Nijkamp et al., 2020), https://arxiv.org/abs/1903.12370
    """

    @property
    def sigma(self) -> float:
        """The standard deviation of each coordinate within a mode."""
        return 0.15

    def centres(self) -> Tensor:
        """Returns the means, of shape (8, 2)."""
        angle = torch.arange(8) * (np.pi / 4)
        return torch.stack([angle.cos(), angle.sin()], 1)

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        return _around(self, rng)


def _around(data: AnatomyMixture | EightGaussians | TwentyFiveGaussians, rng: RandomState) -> np.ndarray:
    centres = data.centres().double().numpy()
    means = centres[np.arange(data.count) % len(centres)]
    return rng.permutation(means + data.sigma * rng.standard_normal((data.count, 2)))


@dataclass(frozen=True)
class SwissRoll(Planar):
    r"""A noisy spiral.

    .. math:: \left( (t \cos t, t \sin t) + 0.25 \, \xi \right) / 7.5, \qquad t = 1.5 \pi (1 + 2 v),
        \quad v \sim \mathcal{U}(0, 1), \quad \xi \sim \mathcal{N}(0, I)

    Coordinates 0 and 2 of scikit-learn's ``make_swiss_roll(noise=0.25)``, drawn here in the same order as
    there and so equal to it, but independent of which scikit-learn is installed.
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        t = 1.5 * np.pi * (1 + 2 * rng.uniform(size=self.count))
        rng.uniform(size=self.count)  # scikit-learn's third coordinate
        noise = rng.standard_normal((3, self.count))
        return (np.stack([t * np.cos(t), t * np.sin(t)], 1) + 0.25 * noise[[0, 2]].T) / 7.5


@dataclass(frozen=True)
class TwoMoons(Planar):
    r"""Two interleaved half circles.

    .. math:: 2 \, (s + 0.1 \, \xi) - (1, 0.2), \qquad
        s = (\cos a, \sin a) \ \text{or} \ (1 - \cos a, 0.5 - \sin a), \quad a \sim \mathcal{U}(0, \pi)
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        a = rng.uniform(0, np.pi, self.count)
        upper = np.stack([np.cos(a), np.sin(a)], 1)
        moon = np.where(rng.uniform(size=(self.count, 1)) < 0.5, upper, [1.0, 0.5] - upper)
        return 2 * (moon + 0.1 * rng.standard_normal((self.count, 2))) - [1.0, 0.2]


@dataclass(frozen=True)
class Pinwheel(Planar):
    r"""Five Gaussian arms, bent.

    .. math:: 2 \, R(-a) \, (r, 0.1 \, \xi_2), \qquad r = 1 + 0.3 \, \xi_1, \quad
        a = 2 \pi k / 5 + e^r / 4, \quad k \sim \mathcal{U}\{0, \dots, 4\}

    :math:`R(a)` turns by the angle :math:`a`.
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        noise = rng.standard_normal((2, self.count))
        r, side = 1 + 0.3 * noise[0], 0.1 * noise[1]
        a = 2 * np.pi * rng.randint(5, size=self.count) / 5 + np.exp(r) / 4
        return 2 * np.stack([r * np.cos(a) + side * np.sin(a), side * np.cos(a) - r * np.sin(a)], 1)


class Circles(Planar, KnownDensity):
    r"""Concentric circles of equal mass, with isotropic noise.

    .. math:: r \, (\cos a, \sin a) + \sigma \xi, \qquad r \sim \mathcal{U}\{r_1, \dots, r_K\},
        \quad a \sim \mathcal{U}(0, 2 \pi), \quad \xi \sim \mathcal{N}(0, I)

    The angle integrates out to a Bessel function:

    .. math:: p(x) = \frac{1}{K} \sum_{k=1}^{K} \frac{1}{2 \pi \sigma^2}
        \exp\left( -\frac{\|x\|^2 + r_k^2}{2 \sigma^2} \right) I_0\left( \frac{\|x\| \, r_k}{\sigma^2} \right)
    """

    radii: ClassVar[tuple[float, ...]]
    """The radii :math:`r_k` of the circles."""

    sigma: ClassVar[float]
    r"""The standard deviation :math:`\sigma` of the noise, in each coordinate."""

    def log_density(self, x: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,), of points (B, 2)."""
        norm, radii, variance = x.norm(dim=1, keepdim=True), x.new_tensor(self.radii), self.sigma**2
        # I0(z) = i0e(z) exp(z) overflows; its exponent completes the square
        bessel = torch.special.i0e(norm * radii / variance).log()
        each = bessel - (norm - radii).square() / (2 * variance)
        return each.logsumexp(1) - math.log(len(radii) * 2 * math.pi * variance)

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        r = np.array(self.radii)[rng.randint(len(self.radii), size=self.count)]
        a = rng.uniform(0, 2 * np.pi, self.count)
        return np.stack([r * np.cos(a), r * np.sin(a)], 1) + self.sigma * rng.standard_normal((self.count, 2))


@dataclass(frozen=True)
class Rings(Circles):
    r"""Four concentric circles.

    .. math:: r \, (\cos a, \sin a) + 0.08 \, \xi, \qquad r \sim \mathcal{U}\{0.75, 1.5, 2.25, 3\},
        \quad a \sim \mathcal{U}(0, 2 \pi)
    """

    radii: ClassVar[tuple[float, ...]] = (0.75, 1.5, 2.25, 3.0)
    sigma: ClassVar[float] = 0.08


@dataclass(frozen=True)
class AnatomyRings(Circles):
    r"""Four concentric circles, wider and noisier than :class:`Rings`.

    .. math:: r \, (\cos a, \sin a) + 0.15 \, \xi, \qquad r \sim \mathcal{U}\{1, 2, 3, 4\},
        \quad a \sim \mathcal{U}(0, 2 \pi)

    Number, radii and standard deviation are those of the official code, but the noise is not: there it moves
    a point along its radius only, which gives the density a (faint) pole at the origin. Here it is isotropic.

    References:
        | On the Anatomy of MCMC-based Maximum Likelihood Learning of Energy-Based Models
        | (Nijkamp et al., 2020), https://arxiv.org/abs/1903.12370
    """

    radii: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 4.0)
    sigma: ClassVar[float] = 0.15


@dataclass(frozen=True)
class Checkerboard(Planar):
    r"""Flat on the eight dark squares of a 4 × 4 board of side 8.

    .. math:: p(x) = \tfrac{1}{32} \quad \text{where} \ \lfloor x_1 / 2 \rfloor + \lfloor x_2 / 2 \rfloor \
        \text{is even and} \ x \in [-4, 4)^2, \qquad 0 \ \text{elsewhere}
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        column, row = rng.randint(-2, 2, size=self.count), rng.randint(-1, 1, size=self.count)
        square = np.stack([column, 2 * row + column % 2], 1)
        return 2 * (square + rng.uniform(size=(self.count, 2)))
