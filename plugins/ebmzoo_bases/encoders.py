"""Architectures of encoders, from data to the parameters of a distribution over latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from ebmzoo.blocks import image_shape, leaky, mlp
from ebmzoo.fields import not_negative, positive


@runtime_checkable
class Encoder(Protocol):
    """An architecture of encoders."""

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to (B, outputs)."""
        ...


@dataclass(frozen=True)
class MLPEncoder:
    """Creates fully connected encoders with leaky rectifiers.

    Arguments:
        hidden: The width of every hidden layer.
        depth: The number of hidden layers.
        slope: The rectifiers' slope for negative inputs.
    """

    hidden: int = 256
    depth: int = 3
    slope: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "hidden", "depth")
        not_negative(self, "slope")

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to (B, outputs)."""
        return nn.Sequential(
            nn.Flatten(), mlp(math.prod(shape), self.hidden, self.depth, outputs, leaky(self.slope))
        )


@dataclass(frozen=True)
class ConvEncoder:
    """Creates encoders of images by two convolutions, each halving the resolution, and a linear layer.

    Arguments:
        channels: The number of channels of the first convolution; the second has twice as many.
    """

    channels: int = 64

    def __post_init__(self) -> None:
        positive(self, "channels")

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to (B, outputs).

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides are multiples of four.
        """
        colours, height, width = image_shape(self, shape)
        if height % 4 or width % 4:
            raise ValueError(
                f"ConvEncoder takes images whose sides are multiples of four, not {height}×{width}"
            )
        return nn.Sequential(
            nn.Conv2d(colours, self.channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(self.channels, 2 * self.channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * self.channels * (height // 4) * (width // 4), outputs),
        )
