"""Pieces that several networks are made of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def mlp(
    inputs: int,
    hidden: int,
    depth: int,
    outputs: int,
    activation: Callable[[], nn.Module],
    first: type[nn.Linear] = nn.Linear,
    last: type[nn.Linear] = nn.Linear,
) -> nn.Sequential:
    """Creates a fully connected network.

    Arguments:
        inputs: The number of input features.
        hidden: The width of every hidden layer.
        depth: The number of hidden layers.
        outputs: The number of output features.
        activation: Creates what follows every hidden layer.
        first: The class of the first layer.
        last: The class of the last layer.
    """
    layers: list[nn.Module] = [first(inputs, hidden), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(hidden, hidden), activation()]
    return nn.Sequential(*layers, last(hidden, outputs))


def leaky(slope: float) -> Callable[[], nn.Module]:
    """Returns what creates leaky rectifiers with a slope for negative inputs."""
    return partial(nn.LeakyReLU, slope)


def halving_convolutions(
    shape: tuple[int, int, int], channels: int, slope: float
) -> tuple[list[nn.Module], tuple[int, int, int]]:
    """Creates the layers of a plain convolutional energy, as far as both sides stay four or more.

    A 3×3 convolution to ``channels``, then 4×4 convolutions that halve the resolution, rounding down, and
    double the channels. A leaky rectifier follows each.

    Arguments:
        shape: The shape (C, H, W) of an image.
        channels: The number of channels of the first layer.
        slope: The rectifiers' slope for negative inputs.

    Returns:
        The layers, and the shape of what comes out of them.
    """
    colours, height, width = shape
    layers: list[nn.Module] = [nn.Conv2d(colours, channels, 3, padding=1), nn.LeakyReLU(slope)]
    while min(height, width) >= 8:
        layers += [nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1), nn.LeakyReLU(slope)]
        channels, height, width = 2 * channels, height // 2, width // 2
    return layers, (channels, height, width)


class ResidualBlock(nn.Module):
    r"""Creates a residual block without normalisation, :math:`h \mapsto S(h) + P(C_2 \sigma(C_1 \sigma(h)))`.

    :math:`C_i` are 3×3 convolutions, :math:`\sigma` leaky rectifiers, :math:`P` averages 2×2 pixels when the
    block halves the resolution, and :math:`S` is the identity, followed by a 1×1 convolution where the number
    of channels changes and by :math:`P` where the resolution does.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        halve: Whether the resolution is halved, rounding down.
        slope: The rectifiers' slope for negative inputs.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool = False, slope: float = 0.2):
        super().__init__()
        self.residual = nn.Sequential(
            nn.LeakyReLU(slope),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.LeakyReLU(slope),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H, W), or to half the height and width."""
        return self.pool(self.skip(x) + self.residual(x))


class Highway(nn.Module):
    r"""A highway layer, :math:`h \mapsto t \max(0, A h) + (1 - t) h` with :math:`t = \sigma(B h)`.

    A and B are 1×1 convolutions. It begins close to the identity: the biases of B are -1.

    References:
        | Highway Networks (Srivastava, Greff & Schmidhuber, 2015), https://arxiv.org/abs/1505.00387

    Arguments:
        channels: The number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.value, self.gate = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.constant_(self.gate.bias, -1.0)  # type: ignore[arg-type]

    def forward(self, h: Tensor) -> Tensor:
        """Maps (B, channels, H, W) to the same shape."""
        return torch.lerp(h, self.value(h).relu(), self.gate(h).sigmoid())


def image_shape(owner: object, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns channels, height and width, or raises ValueError in the name of ``owner`` if there are none."""
    if len(shape) != 3:
        raise ValueError(
            f"{type(owner).__name__} is for images of shape (C, H, W), not for data of shape {shape}"
        )
    return shape
