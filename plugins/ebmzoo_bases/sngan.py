r"""The networks of spectrally normalised GANs, for images of several sizes.

Every weight :math:`W` of a critic, as a matrix from all that an output sees to the outputs, is divided by its
largest singular value,

.. math:: \bar{W} = W / \sigma(W), \qquad \sigma(W) \approx u^T W v,

where one power iteration at each pass in training mode improves :math:`u` and :math:`v`, which are buffers;
in evaluation mode they stay as they are, and the energy is a fixed function. A new critic has done fifteen
iterations.

The papers' images have 32×32 pixels and begin as 4×4. Here the sides are halved as long as both are even and
at least eight: 32 → 4 in three steps, 48 → 6 in three, 28 → 7 in two, 8 → 4 in one.

References:
    | Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), Tables 3 and 4
    | https://arxiv.org/abs/1802.05957
    | The authors' code: https://github.com/pfnet-research/chainer-gan-lib, common/net.py (Table 3);
    | https://github.com/pfnet-research/sngan_projection, gen_models and dis_models (Table 4)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ebmzoo.energies import GlobalSum
from ebmzoo.fields import added, positive
from ebmzoo_bases.dcgan import resolutions

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class SNGANConvGenerator:
    """Creates the generator of the paper's standard CNN, Table 3.

    A linear map to the coarsest resolution, a 4×4 transposed convolution for each doubling, and a 3×3
    convolution to colours and tanh. Batch normalisation and rectifiers come after every layer but the last:
    the table shows none after the linear map, where the authors' code has them, by feature and pixel.
    Weights begin as normal of deviation 0.02, as in the authors' code.

    Arguments:
        channels: The number of channels at the images' resolution, doubled at each halving.
    """

    channels: int = 64

    def __post_init__(self) -> None:
        positive(self, "channels")

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from latents (B, latent) to images (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        sides, colours = resolutions(self, shape), shape[0]
        widths = [self.channels * 2**k for k in reversed(range(len(sides)))]
        first = (widths[0], *sides[-1])
        features = math.prod(first)
        layers: list[nn.Module] = [
            _normal(nn.Linear(latent, features)),
            nn.BatchNorm1d(features),
            nn.ReLU(),
            nn.Unflatten(1, first),
        ]
        for inputs, outputs in pairwise(widths):
            doubling = _normal(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1))
            layers += [doubling, nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers, _normal(nn.Conv2d(widths[-1], colours, 3, padding=1)), nn.Tanh())


@dataclass(frozen=True)
class SNGANConvEnergy:
    """Creates the discriminator of the paper's standard CNN, Table 3, as an energy.

    3×3 convolutions at every resolution with a 4×4 one between them that halves it, leaky rectifiers of slope
    0.1, and a linear map; all spectrally normalised. Weights begin as normal of deviation 0.02.

    By the table the channels at 32×32 pixels are 64, 64, 128, 128, 256, 256, 512. In the authors' code, which
    others follow, they are 64, 128, 128, 256, 256, 512, 512: that is ``widen_early``. (That code's rectifiers
    have the slope 0.2; here it is the paper's either way.)

    Arguments:
        channels: The number of channels at the images' resolution, doubled at each halving.
        widen_early: Whether the convolution that halves the resolution doubles the channels; otherwise the
            one after it does.
    """

    channels: int = 64
    widen_early: bool = False

    def __post_init__(self) -> None:
        positive(self, "channels")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        sides, colours = resolutions(self, shape), shape[0]
        widths = [self.channels * 2**k for k in range(len(sides))]
        convolutions = [nn.Conv2d(colours, widths[0], 3, padding=1)]
        for inputs, outputs in pairwise(widths):
            between = outputs if self.widen_early else inputs
            convolutions += [
                nn.Conv2d(inputs, between, 4, stride=2, padding=1),
                nn.Conv2d(between, outputs, 3, padding=1),
            ]
        layers = [part for each in convolutions for part in (spectral_norm(_normal(each)), nn.LeakyReLU(0.1))]
        head = spectral_norm(_normal(nn.Linear(widths[-1] * math.prod(sides[-1]), 1)))
        return nn.Sequential(*layers, nn.Flatten(), head, nn.Flatten(0))


@dataclass(frozen=True)
class SNGANResNetGenerator:
    """Creates the generator of the paper's residual network, Table 4.

    A linear map to the coarsest resolution, a residual block for each doubling, then batch normalisation, a
    rectifier, a 3×3 convolution to colours and tanh.

    Arguments:
        channels: The number of channels throughout.
    """

    channels: int = 256

    def __post_init__(self) -> None:
        positive(self, "channels")

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from latents (B, latent) to images (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        sides, colours = resolutions(self, shape), shape[0]
        first = (self.channels, *sides[-1])
        return nn.Sequential(
            _glorot(nn.Linear(latent, math.prod(first))),
            nn.Unflatten(1, first),
            *(DoublingBlock(self.channels) for _ in sides[1:]),
            nn.BatchNorm2d(self.channels),
            nn.ReLU(),
            _glorot(nn.Conv2d(self.channels, colours, 3, padding=1)),
            nn.Tanh(),
        )


@dataclass(frozen=True)
class SNGANResNetEnergy:
    """Creates the discriminator of the paper's residual network, Table 4, as an energy.

    Four residual blocks, a rectifier, the sum over all pixels and a linear map without bias, as in the
    authors' code; all spectrally normalised. The first two blocks halve the resolution, the second only where
    the sides can be halved twice.

    Arguments:
        channels: The number of channels throughout.
        averages: Whether the mean over all pixels comes before the linear map, as in code that follows the
            authors', instead of the sum.
    """

    channels: int = 128
    averages: bool = added(False)

    def __post_init__(self) -> None:
        positive(self, "channels")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved.
        """
        halvings, colours = len(resolutions(self, shape)) - 1, shape[0]
        return nn.Sequential(
            CriticBlock(colours, self.channels, halve=True, first=True),
            CriticBlock(self.channels, self.channels, halve=halvings > 1),
            CriticBlock(self.channels, self.channels),
            CriticBlock(self.channels, self.channels),
            nn.ReLU(),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if self.averages else GlobalSum(),
            spectral_norm(_glorot(nn.Linear(self.channels, 1, bias=False))),
            nn.Flatten(0),
        )


class DoublingBlock(nn.Module):
    r"""Creates a generator's residual block, which doubles the resolution.

    .. math:: h \mapsto U(C_0 h) + C_2 \, \sigma(B_2 C_1 U(\sigma(B_1 h)))

    :math:`C_1, C_2` are 3×3 convolutions, :math:`C_0` is a 1×1 convolution, :math:`B_i` normalise batches,
    :math:`\sigma` are rectifiers and :math:`U` repeats each pixel 2×2 times. (The paper has :math:`C_0 U`,
    which is the same at four times the work.)

    Arguments:
        channels: The number of input and output channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            _glorot(nn.Conv2d(channels, channels, 3, padding=1), math.sqrt(2)),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            _glorot(nn.Conv2d(channels, channels, 3, padding=1), math.sqrt(2)),
        )
        self.skip = nn.Sequential(_glorot(nn.Conv2d(channels, channels, 1)), nn.Upsample(scale_factor=2))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels, H, W) to (B, channels, 2H, 2W)."""
        return self.skip(x) + self.residual(x)


class CriticBlock(nn.Module):
    r"""Creates a critic's residual block, :math:`h \mapsto S(h) + P(C_2 \sigma(C_1 \sigma(h)))`.

    :math:`C_i` are spectrally normalised 3×3 convolutions, :math:`\sigma` rectifiers and :math:`P` averages
    2×2 pixels when the block halves the resolution. :math:`S` is :math:`P` followed by a spectrally
    normalised 1×1 convolution where the block halves or changes the number of channels, the identity
    elsewhere. (The authors' code has them in the other order but in the first block, which is the same at
    four times the work.)

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        halve: Whether the resolution is halved.
        first: Whether the input is an image, which the first rectifier is left out for.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool = False, first: bool = False):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Identity() if first else nn.ReLU(),
            spectral_norm(_glorot(nn.Conv2d(inputs, outputs, 3, padding=1), math.sqrt(2))),
            nn.ReLU(),
            spectral_norm(_glorot(nn.Conv2d(outputs, outputs, 3, padding=1), math.sqrt(2))),
        )
        learnt = halve or inputs != outputs
        self.skip = spectral_norm(_glorot(nn.Conv2d(inputs, outputs, 1))) if learnt else nn.Identity()
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H, W), or to half the height and width."""
        return self.skip(self.pool(x)) + self.pool(self.residual(x))


def _normal(layer: Layer) -> Layer:
    nn.init.normal_(layer.weight, std=0.02)
    return _with_zero_bias(layer)


def _glorot(layer: Layer, gain: float = 1.0) -> Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    return _with_zero_bias(layer)


def _with_zero_bias(layer: Layer) -> Layer:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
