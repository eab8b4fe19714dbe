"""Real NVP: affine couplings of the even and the odd coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmzoo.blocks import mlp
from ebmzoo.fields import positive
from ebmzoo.flows.flow import Flow, check_sizes, rowsum


@dataclass(frozen=True)
class RealNVP:
    r"""Creates real-valued non-volume-preserving flows.

    From data to latents, each layer leaves one half :math:`a` of the coordinates as it is and moves the
    other,

    .. math:: b' = b \, e^{s(a)} + t(a), \qquad \log |\det| = \sum_i s_i(a)

    first the even coordinates given the odd ones, then the other way round, in turns. The defaults are the
    networks of Generalized Energy Based Models: five layers, fully connected, with hyperbolic tangents in
    :math:`s` and rectifiers in :math:`t`. Networks there see all coordinates, with those that are not given
    multiplied by zero; the first layer's weights start here as they do there.

    References:
        | Density estimation using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017), Section 3
        | https://arxiv.org/abs/1605.08803

    Arguments:
        layers: The number of couplings.
        hidden: The width of every hidden layer of a network.
        depth: The number of hidden layers of a network.
    """

    layers: int = 5
    hidden: int = 100
    depth: int = 2

    def __post_init__(self) -> None:
        positive(self, "layers", "hidden", "depth")

    def build(self, latent: int, shape: tuple[int, ...]) -> Flow:
        """Returns a flow with fresh weights, from latents (B, latent) to data (B, *shape).

        Raises:
            ValueError: If there are not as many latents as coordinates, or fewer than two.
        """
        check_sizes(self, latent, shape)
        if latent < 2:
            raise ValueError(f"RealNVP couples coordinates and needs two or more, not {latent}")
        return CouplingFlow(shape, self.layers, self.hidden, self.depth)


class CouplingFlow(Flow):
    """The flow that :class:`RealNVP` creates.

    The two halves are tensors of their own from the first layer to the last: nothing is masked, and no layer
    puts them together. Their points are columns in memory, see :class:`FromHalf`.
    """

    def __init__(self, shape: tuple[int, ...], layers: int, hidden: int, depth: int):
        super().__init__(shape)
        odd = self.dimension // 2
        sizes = [(odd, self.dimension - odd), (self.dimension - odd, odd)]  # given, moved
        self.couplings = nn.ModuleList(
            Coupling(*sizes[index % 2], self.dimension, hidden, depth) for index in range(layers)
        )

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents (B, D) and log-determinants (B,) for data (B, D)."""
        halves = _halves(x)
        logs: list[list[Tensor]] = [[], []]
        for index, coupling in enumerate(self.couplings):
            moved = index % 2
            log_scale, shift = coupling(halves[1 - moved])
            halves[moved] = torch.addcmul(shift, halves[moved], log_scale.exp())
            logs[moved].append(log_scale)
        return _interleaved(*halves), _total(logs)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns data (B, D) and log-determinants (B,) for latents (B, D)."""
        halves = _halves(u)
        logs: list[list[Tensor]] = [[], []]
        for index, coupling in reversed(list(enumerate(self.couplings))):
            moved = index % 2
            log_scale, shift = coupling(halves[1 - moved])
            halves[moved] = (halves[moved] - shift) * (-log_scale).exp()
            logs[moved].append(log_scale)
        return _interleaved(*halves), -_total(logs)


class Coupling(nn.Module):
    """The networks of one coupling: half of the coordinates to the logarithm of the scale and the shift.

    Arguments:
        given: How many coordinates are given.
        moved: How many are moved.
        dimension: How many there are in all, which the first layer's initial weights depend on.
        hidden: The width of every hidden layer.
        depth: The number of hidden layers.
    """

    def __init__(self, given: int, moved: int, dimension: int, hidden: int, depth: int):
        super().__init__()
        self.scale = mlp(given, hidden, depth, moved, Tanh, FromHalf, ToHalf)
        self.shift = mlp(given, hidden, depth, moved, nn.ReLU, FromHalf, ToHalf)
        for network in (self.scale, self.shift):
            for parameter in network[0].parameters():
                nn.init.uniform_(parameter, -(dimension**-0.5), dimension**-0.5)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-scales and shifts, both of shape (B, moved), for (B, given)."""
        return self.scale(given), self.shift(given)


class FromHalf(nn.Linear):
    """A linear layer of half the coordinates, (B, few) with points as columns in memory, to (B, many).

    The numbers are those of :class:`torch.nn.Linear`. In this order of memory the gradients in weights and
    inputs are products that matrix libraries are made for. With rows they take five times as long on a CPU,
    longer than the products of a hidden layer.
    """

    def forward(self, half: Tensor) -> Tensor:
        """Returns (B, many), with points as rows in memory."""
        return torch.addmm(self.bias, half, self.weight.t().contiguous())


class ToHalf(nn.Linear):
    """A linear layer the other way round, from rows to columns in memory."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns half the coordinates, (B, few)."""
        return torch.addmm(self.bias[:, None], self.weight, x.t()).t()


class Tanh(nn.Module):
    r"""The hyperbolic tangent as :math:`2 \sigma(2 x) - 1`, to an absolute 1e-7.

    PyTorch has its own from a library that takes six times as long as the logistic function on some CPUs,
    which is as long as a hidden layer's product.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns what has the shape of x."""
        return (2 * x).sigmoid_().mul(2).sub_(1)  # in place but for what the gradient needs


def _halves(x: Tensor) -> list[Tensor]:
    """Returns the even and the odd coordinates of points (B, D)."""
    return [x[:, start::2].t().contiguous().t() for start in (0, 1)]


def _interleaved(even: Tensor, odd: Tensor) -> Tensor:
    x = even.new_empty(len(even), even.shape[1] + odd.shape[1])
    x[:, 0::2], x[:, 1::2] = even, odd
    return x


def _total(logs: list[list[Tensor]]) -> Tensor:
    """Returns the sum of all log-scales of a point, of shape (B,), for those of both halves."""
    return torch.stack([rowsum(sum(half[1:], half[0])) for half in logs if half]).sum(0)
