r"""Laws on curves and surfaces, with bases that have the right support, or the wrong one.

The data are a base that is known, reweighed by an energy that is known: so the best energy, and the
divergence of the data from the base, are known too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.random import RandomState
from torch import Tensor, nn

from ebmzoo.data import Dataset
from ebmzoo.data.dataset import SPLITS, check_split
from ebmzoo.data.toy import Planar
from ebmzoo.fields import positive


@dataclass(frozen=True)
class RingArcs(Planar):
    r"""Points of the unit circle that are crowded in two arcs, one with more of them than the other.

    .. math:: x = (\cos a, \sin a), \qquad a \sim 0.7 \, \mathrm{vM}(0, 4) + 0.3 \, \mathrm{vM}(\pi, 4)

    with von Mises laws. The uniform law on the circle has their support, and the wrong mass.

    Arguments:
        count: How many points each split holds.
    """

    def draw(self, rng: RandomState) -> np.ndarray:
        """Returns new points, of shape (count, 2)."""
        centre = np.where(rng.uniform(size=self.count) < 0.7, 0.0, np.pi)
        angle = rng.vonmises(centre, 4.0)
        return np.stack([np.cos(angle), np.sin(angle)], 1)

    @staticmethod
    def log_ratio(x: Tensor) -> Tensor:
        r"""Returns :math:`\log dp/db` against the uniform law on the circle, (N,), for points (N, 2)."""
        along = 4.0 * x[:, 0] / x.norm(dim=1)
        normaliser = float(torch.special.i0(torch.tensor(4.0, dtype=torch.float64)))
        return torch.logaddexp(along + math.log(0.7), math.log(0.3) - along) - math.log(normaliser)


@dataclass(frozen=True)
class BlossomData(Dataset):
    r"""Points of a closed surface in space, reweighed: the toy of the official code.

    .. math:: x = \| s + s^4 \|^2 s, \qquad s \sim \mathcal{U}(S^2), \quad \text{accepted with } e^{-E(x)}

    powers by coordinate, and the energy a network of one hidden layer,

    .. math:: E(x) = \frac{1}{\sqrt 3} \sum_i \ell \left( \frac{1}{\sigma} (W x)_i \right), \qquad
        W = 0.1 \, I - (1 - I)

    with leaky rectifiers :math:`\ell` of slope 0.1 and the largest singular value :math:`\sigma` of W. Points
    are drawn by rejection, hence exactly; the official code has them from chains.

    References:
        | https://github.com/MichaelArbel/GeneralizedEBM, ``models/toy_models.py`` of the history

    Arguments:
        count: How many points each split has.
    """

    count: int = 5_000

    def __post_init__(self) -> None:
        positive(self, "count")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return (3,)

    def load(self, split: str) -> Tensor:
        """Returns the points of a split, of shape (count, 3), in a tensor of the caller's own."""
        check_split(split)
        return _blossom(self, SPLITS.index(split)).clone()

    @staticmethod
    def energy(x: Tensor) -> Tensor:
        """Returns the energies, of shape (N,), of points (N, 3)."""
        matrix = 1.1 * torch.eye(3, dtype=x.dtype) - 1
        matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
        return nn.functional.leaky_relu(x @ matrix.T, 0.1).sum(1) / math.sqrt(3)


@lru_cache(maxsize=8)
def _blossom(data: BlossomData, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    lowest = float(data.energy(blossom(torch.randn(100_000, 3, generator=rng), torch.eye(3))).min()) - 0.1
    found: list[Tensor] = []
    while sum(map(len, found)) < data.count:
        x = blossom(torch.randn(100_000, 3, generator=rng), torch.eye(3))
        accepted = torch.rand(len(x), generator=rng) < torch.exp(lowest - data.energy(x))
        found.append(x[accepted])
    return torch.cat(found)[: data.count]


def blossom(z: Tensor, matrix: Tensor) -> Tensor:
    r"""Returns :math:`\| s + U s^4 \|^2 s` with :math:`s = z / \| z \|`, of shape (N, 3).

    Arguments:
        z: The points :math:`z`, of shape (N, 3).
        matrix: The matrix :math:`U`, of shape (3, 3).
    """
    s = nn.functional.normalize(z)
    return (s + s**4 @ matrix.T).square().sum(1, keepdim=True) * s


@dataclass(frozen=True)
class RingGenerator:
    r"""Creates decoders to a circle that have nothing to learn.

    .. math:: z \mapsto r z / \| z \|

    Normal latents decode to the uniform law on the circle.

    Arguments:
        radius: The radius :math:`r`.
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "radius")

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a decoder from latents (B, 2) to points (B, 2).

        Raises:
            ValueError: If latents or data are not points of the plane.
        """
        if latent != 2 or tuple(shape) != (2,):
            raise ValueError(
                f"RingGenerator maps the plane to it, not {latent} latents to data of shape {shape}"
            )
        return Ring(self.radius)


class Ring(nn.Module):
    """The decoder that :class:`RingGenerator` creates."""

    def __init__(self, radius: float):
        super().__init__()
        self.radius = radius

    def forward(self, z: Tensor) -> Tensor:
        """Returns points (B, 2) of the circle."""
        return self.radius * nn.functional.normalize(z)


@dataclass(frozen=True)
class BlossomGenerator:
    r"""Creates decoders to the surface of :class:`BlossomData`.

    .. math:: z \mapsto \| s + U s^4 \|^2 s, \qquad s = z / \| z \|

    The matrix :math:`U` is learnt. At the identity the support is that of the data; at zero it is the sphere.

    Arguments:
        petals: :math:`U` is this multiple of the identity in the beginning.
    """

    petals: float = 1.0

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a decoder from latents (B, 3) to points (B, 3).

        Raises:
            ValueError: If latents or data are not points of space.
        """
        if latent != 3 or tuple(shape) != (3,):
            raise ValueError(
                f"BlossomGenerator maps space to it, not {latent} latents to data of shape {shape}"
            )
        return Blossom(self.petals)


class Blossom(nn.Module):
    """The decoder that :class:`BlossomGenerator` creates."""

    def __init__(self, petals: float):
        super().__init__()
        self.matrix = nn.Parameter(petals * torch.eye(3))

    def forward(self, z: Tensor) -> Tensor:
        """Returns points (B, 3)."""
        return blossom(z, self.matrix)
