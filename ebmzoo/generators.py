"""Architectures of decoders, from the latent variable to data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from ebmzoo.blocks import leaky, mlp
from ebmzoo.fields import not_negative, positive


@runtime_checkable
class Generator(Protocol):
    """An architecture of decoders."""

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from latents (B, latent) to data (B, *shape)."""
        ...


@dataclass(frozen=True)
class MLPGenerator:
    """Creates fully connected decoders with leaky rectifiers and unbounded outputs.

    The defaults are those of the toy experiments of Discriminator Optimal Transport.

    References:
        | Discriminator optimal transport (Tanaka, 2019), Appendix on 2-D experiments
        | https://arxiv.org/abs/1910.06832

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

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from latents (B, latent) to data (B, *shape)."""
        network = mlp(latent, self.hidden, self.depth, math.prod(shape), leaky(self.slope))
        return nn.Sequential(network, nn.Unflatten(1, shape))


@dataclass(frozen=True)
class ConvGenerator:
    """Creates decoders of images by two transposed convolutions, each doubling the resolution, and tanh.

    Height and width must be multiples of four.

    Arguments:
        channels: The number of channels of the last hidden layer; the first has twice as many.
    """

    channels: int = 64

    def __post_init__(self) -> None:
        positive(self, "channels")

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from latents (B, latent) to images (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides are multiples of four.
        """
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
            raise ValueError(
                f"ConvGenerator makes images whose sides are multiples of four, not data of shape {shape}"
            )
        colours, height, width = shape
        first = (2 * self.channels, height // 4, width // 4)
        return nn.Sequential(
            nn.Linear(latent, math.prod(first)),
            nn.Unflatten(1, first),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(2 * self.channels, self.channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(self.channels, colours, 4, stride=2, padding=1),
            nn.Tanh(),
        )
