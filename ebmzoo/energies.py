"""Architectures of energies, from data to one number each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ebmzoo.blocks import ResidualBlock, halving_convolutions, image_shape, leaky, mlp
from ebmzoo.fields import FieldError, not_negative, positive
from ebmzoo.flows import Flow
from ebmzoo.generators import Generator


@runtime_checkable
class Energy(Protocol):
    """An architecture of energies."""

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        ...


@dataclass(frozen=True)
class MLPEnergy:
    """Creates fully connected energies with leaky rectifiers.

    The defaults are those of the critic in the toy experiments of Discriminator Optimal Transport.

    References:
        | Discriminator optimal transport (Tanaka, 2019), Appendix on 2-D experiments
        | https://arxiv.org/abs/1910.06832

    Arguments:
        hidden: The width of every hidden layer.
        depth: The number of hidden layers.
        slope: The rectifiers' slope for negative inputs.
    """

    hidden: int = 512
    depth: int = 3
    slope: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "hidden", "depth")
        not_negative(self, "slope")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        network = mlp(math.prod(shape), self.hidden, self.depth, 1, leaky(self.slope))
        return nn.Sequential(nn.Flatten(), network, nn.Flatten(0))


@dataclass(frozen=True)
class SmoothMLPEnergy:
    r"""Creates fully connected energies with the smooth activation :math:`x \, \sigma(x)`.

    The gradient of an energy with rectifiers jumps from one linear piece to the next, which gradient-based
    chains do not see coming; that of this one does not.

    References:
        | Sigmoid-weighted linear units for neural network function approximation in reinforcement learning
          (Elfwing, Uchibe & Doya, 2018)

    Arguments:
        hidden: The width of every hidden layer.
        depth: The number of hidden layers.
    """

    hidden: int = 128
    depth: int = 2

    def __post_init__(self) -> None:
        positive(self, "hidden", "depth")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        network = mlp(math.prod(shape), self.hidden, self.depth, 1, nn.SiLU)
        return nn.Sequential(nn.Flatten(), network, nn.Flatten(0))


@dataclass(frozen=True)
class FlowEnergy:
    r"""Creates energies :math:`E(x) = -\log p(x)` with the density :math:`p` of a flow.

    The density of :math:`e^{-E}` is then known, whatever the energy learns from.

    Arguments:
        flow: The architecture of the flow.
    """

    flow: Generator

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        return MinusLogDensity(self.flow.build(math.prod(shape), shape))


class MinusLogDensity(nn.Module):
    """The energy that :class:`FlowEnergy` creates."""

    def __init__(self, flow: nn.Module):
        super().__init__()
        if not isinstance(flow, Flow):
            raise ValueError(f"FlowEnergy needs a flow, such as RealNVP, not {type(flow).__name__}")
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return -self.flow.log_prob(x)

    def log_partition(self) -> Tensor:
        """Returns zero: the integral of the density over all data is one."""
        return next(self.parameters()).new_zeros(())


@dataclass(frozen=True)
class ConvEnergy:
    """Creates the plain convolutional energy of short-run learning, for images of any size.

    A 3×3 convolution to ``channels``, then 4×4 convolutions that halve the resolution and double the channels
    as long as both sides stay four or more, then a sum over pixels of one output channel.

    References:
        | Learning Non-Convergent Non-Persistent Short-Run MCMC (Nijkamp et al., 2019), Appendix
        | https://arxiv.org/abs/1904.09770

    Arguments:
        channels: The number of channels of the first layer.
        slope: The rectifiers' slope for negative inputs.
    """

    channels: int = 64
    slope: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "channels")
        not_negative(self, "slope")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,)."""
        layers, (channels, _, _) = halving_convolutions(image_shape(self, shape), self.channels, self.slope)
        return nn.Sequential(*layers, nn.Conv2d(channels, 1, 1), GlobalSum(), nn.Flatten(0))


@dataclass(frozen=True)
class ResidualEnergy:
    """Creates the residual energy of exponential tilting: groups of residual blocks, global sum, linear.

    The paper has three blocks of 64 channels and three of 128. It does not say where the resolution is
    halved; here it is at the end of every group.

    References:
        | Exponential Tilting of Generative Models (Xiao, Yan & Amit, 2020), Appendix on networks
        | https://arxiv.org/abs/2006.08100

    Arguments:
        groups: The number of channels of each group of blocks.
        blocks: The number of blocks in a group.
        slope: The rectifiers' slope for negative inputs.
    """

    groups: tuple[int, ...] = (64, 128)
    blocks: int = 3
    slope: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "blocks")
        not_negative(self, "slope")
        if not self.groups or min(self.groups) < 1:
            raise FieldError(self, "groups", "at least one number of channels")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image, or halving leaves nothing of it.
        """
        colours, height, width = image_shape(self, shape)
        if min(height, width) < 2 ** len(self.groups):
            raise ValueError(
                f"ResidualEnergy halves the resolution {len(self.groups)} times, which leaves nothing of "
                f"{height}×{width} images; name fewer groups"
            )
        layers: list[nn.Module] = [nn.Conv2d(colours, self.groups[0], 3, padding=1)]
        previous = self.groups[0]
        for channels in self.groups:
            for index in range(self.blocks):
                last = index == self.blocks - 1
                layers.append(ResidualBlock(previous, channels, halve=last, slope=self.slope))
                previous = channels
        head = [nn.LeakyReLU(self.slope), GlobalSum(), nn.Linear(previous, 1), nn.Flatten(0)]
        return nn.Sequential(*layers, *head)


class GlobalSum(nn.Module):
    """Sums each channel over all pixels: (B, C, H, W) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sums."""
        return x.sum((2, 3))
