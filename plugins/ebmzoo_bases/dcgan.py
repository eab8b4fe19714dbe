"""The convolutional networks of DCGAN, for images of several sizes.

The paper makes images of 64×64 pixels from 4×4. Here the sides are halved as long as both are even and at
least eight: 32 → 4 in three steps, 28 → 7 in two, 8 → 4 in one.

References:
    | Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks
    | (Radford et al., 2016), Section 3, Section 4 and Figure 1, https://arxiv.org/abs/1511.06434
    | The authors' code, https://github.com/Newmu/dcgan_code, faces/train_uncond_dcgan.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from ebmzoo.blocks import image_shape
from ebmzoo.fields import FieldError, positive


@dataclass(frozen=True)
class DCGANGenerator:
    """Creates the generator of DCGAN.

    A linear map to the coarsest resolution, then a transposed convolution for each doubling, the last one to
    colours and tanh. Batch normalisation and rectifiers come after every layer but the last. As in the
    authors' code no layer has biases, and what the linear map makes is normalised by feature and pixel; other
    implementations normalise it by channel.

    Arguments:
        channels: The number of channels at half the images' resolution, doubled at each halving.
        kernel: The side of the filters. Most later implementations have 4.
    """

    channels: int = 128
    kernel: int = 5

    def __post_init__(self) -> None:
        _check(self)

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from latents (B, latent) to images (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        sides, colours = resolutions(self, shape), shape[0]
        widths = [self.channels * 2**k for k in reversed(range(len(sides) - 1))]
        first = (widths[0], *sides[-1])
        features = math.prod(first)
        layers: list[nn.Module] = [
            nn.Linear(latent, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(),
            nn.Unflatten(1, first),
        ]
        for inputs, outputs in pairwise(widths):
            layers += [self._doubling(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
        return _with_small_weights(nn.Sequential(*layers, self._doubling(widths[-1], colours), nn.Tanh()))

    def _doubling(self, inputs: int, outputs: int) -> nn.Module:
        return nn.ConvTranspose2d(
            inputs,
            outputs,
            self.kernel,
            stride=2,
            padding=(self.kernel - 1) // 2,
            output_padding=self.kernel % 2,
            bias=False,
        )


@dataclass(frozen=True)
class DCGANEncoder:
    """Creates encoders that mirror the generator of DCGAN: its discriminator, with several outputs.

    The last layer begins with PyTorch's weights, uniform within ±1/√n for n features, so that outputs begin
    with a standard deviation of some 0.4 at every width. DCGAN's weights, of 0.02 whatever n is, suit one
    logit: 12 544 features begin with 1.6, and variances that are exponentials of such outputs with gradients
    of up to 10⁷.

    Arguments:
        channels: The number of channels at half the images' resolution, doubled at each halving.
        kernel: The side of the filters.
    """

    channels: int = 128
    kernel: int = 5

    def __post_init__(self) -> None:
        _check(self)

    def encoder(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to (B, outputs).

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        layers, features = halvings(self, shape)
        network = nn.Sequential(*layers, nn.Flatten())
        _with_small_weights(network)
        return network.append(nn.Linear(features, outputs)).to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class DCGANEnergy:
    """Creates the discriminator of DCGAN, as an energy.

    A convolution for each halving, then a linear map. Leaky rectifiers of slope 0.2 come after every
    convolution, batch normalisation before all of them but the first. As in the authors' code no layer has
    biases.

    Arguments:
        channels: The number of channels at half the images' resolution, doubled at each halving.
        kernel: The side of the filters. Most later implementations have 4.
    """

    channels: int = 128
    kernel: int = 5

    def __post_init__(self) -> None:
        _check(self)

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        layers, features = halvings(self, shape)
        head = nn.Linear(features, 1, bias=False)
        return _with_small_weights(nn.Sequential(*layers, nn.Flatten(), head, nn.Flatten(0)))


def halvings(owner: DCGANEncoder | DCGANEnergy, shape: tuple[int, ...]) -> tuple[list[nn.Module], int]:
    """Returns the convolutional layers of the discriminator, and how many features they leave of an image."""
    sides, colours = resolutions(owner, shape), shape[0]
    widths = [owner.channels * 2**k for k in range(len(sides) - 1)]

    def halving(inputs: int, outputs: int) -> nn.Module:
        padding = (owner.kernel - 1) // 2
        return nn.Conv2d(inputs, outputs, owner.kernel, stride=2, padding=padding, bias=False)

    layers: list[nn.Module] = [halving(colours, widths[0]), nn.LeakyReLU(0.2)]
    for inputs, outputs in pairwise(widths):
        layers += [halving(inputs, outputs), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return layers, widths[-1] * math.prod(sides[-1])


def resolutions(owner: object, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Returns the heights and widths that images go through, halved while both are even and at least eight.

    Arguments:
        owner: The architecture in whose name errors are raised.
        shape: The shape of an image, (C, H, W).

    Returns:
        At least two resolutions, the images' own first.

    Raises:
        ValueError: If ``shape`` is not that of an image, or its sides cannot be halved.
    """
    _, height, width = image_shape(owner, shape)
    found = [(height, width)]
    while all(length % 2 == 0 and length >= 8 for length in found[-1]):
        found.append((found[-1][0] // 2, found[-1][1] // 2))
    if len(found) == 1:
        raise ValueError(
            f"{type(owner).__name__} is for images whose sides are even and at least eight, "
            f"not {height}×{width}"
        )
    return found


def _check(architecture: DCGANGenerator | DCGANEncoder | DCGANEnergy) -> None:
    positive(architecture, "channels")
    if architecture.kernel < 2:
        raise FieldError(architecture, "kernel", "at least 2, so that strided filters miss no pixel")


def _with_small_weights(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, mean=1.0, std=0.02)
    return network
