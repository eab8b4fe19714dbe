"""The energies of Anatomy: of points in the plane, and on the scale of their chains.

References:
    | On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al., 2020)
    | https://arxiv.org/abs/1903.12370
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from ebmzoo.energies import Energy
from ebmzoo.fields import FieldError, not_negative, positive


@dataclass(frozen=True)
class ToyEnergy:
    """Creates the fully connected energy of Anatomy's points in the plane.

    A leaky rectifier follows every layer but the last. The authors' code has 1×1 convolutions of images with
    one pixel, which are the same. With its defaults it has 10,593 parameters for points in the plane.

    References:
        | On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al.,
          2020)
        | https://arxiv.org/abs/1903.12370
        | The authors' code, https://github.com/point0bar1/ebm-anatomy, nets.py, ToyNet

    Arguments:
        widths: The width of each hidden layer.
        slope: The rectifiers' slope for negative inputs.
    """

    widths: tuple[int, ...] = (32, 64, 64, 64)
    slope: float = 0.05

    def __post_init__(self) -> None:
        not_negative(self, "slope")
        if not self.widths or min(self.widths) < 1:
            raise FieldError(self, "widths", "at least one width")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((math.prod(shape), *self.widths)):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(self.slope)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(self.widths[-1], 1), nn.Flatten(0))


@dataclass(frozen=True)
class ScaledEnergy:
    r"""Creates energies that are a multiple of a network, :math:`E(x) = s F(x)`.

    Whoever writes a step as :math:`x - \nabla F(x) + \epsilon \xi` moves by Langevin on
    :math:`2 F / \epsilon^2` with :math:`\eta = \epsilon^2 / 2`; so with :math:`s = 2 / \epsilon^2` this is
    the energy of their chains, while the network, its first weights and its learning rate are theirs.

    References:
        | On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al.,
          2020), Section 3
        | https://arxiv.org/abs/1903.12370

    Arguments:
        network: The architecture of :math:`F`.
        scale: The factor :math:`s`.
    """

    network: Energy
    scale: float

    def __post_init__(self) -> None:
        positive(self, "scale")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        return Scaled(self.network.energy(shape), self.scale)


class Scaled(nn.Module):
    """The energy that :class:`ScaledEnergy` creates."""

    def __init__(self, network: nn.Module, scale: float):
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return self.scale * self.network(x)
