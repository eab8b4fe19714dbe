r"""The networks of IGEBM, for images alone and for images of classes.

No network normalises batches, so that the energy of a point depends on no other point. Weights are bounded:
each but that of the last layer, as a matrix from all that an output sees to the outputs, is divided by its
largest singular value,

.. math:: \bar{W} = W / \sigma(W), \qquad \sigma(W) \approx u^T W v,

where one power iteration at each pass in training mode improves :math:`u` and :math:`v`, which are buffers;
in evaluation mode they stay as they are, and the energy is a fixed function.

References:
    | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
    | https://arxiv.org/abs/1903.08689
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ebmzoo.blocks import image_shape
from ebmzoo.energies import GlobalSum
from ebmzoo.fields import not_negative, positive


@runtime_checkable
class Norm(Protocol):
    """What bounds the weights of a layer."""

    def of(self, layer: nn.Module) -> nn.Module:
        """Returns the layer with its weights bounded."""
        ...


@dataclass(frozen=True)
class SpectralNorm:
    """Divides weights by their largest singular value."""

    def of(self, layer: nn.Module) -> nn.Module:
        """Returns the layer, which has done fifteen power iterations."""
        return spectral_norm(layer)


@dataclass(frozen=True)
class NoNorm:
    """Leaves weights as they are."""

    def of(self, layer: nn.Module) -> nn.Module:
        """Returns the layer."""
        return layer


@dataclass(frozen=True)
class IGEBMEnergy:
    """Creates the large residual energy of IGEBM for images of 32×32 pixels, and for others.

    A 3×3 convolution, three stages of residual blocks, a rectifier, the sum over all pixels and a linear map.
    The stages have ``channels``, twice and four times as many. The first block of each halves the resolution,
    as in the authors' code: 32 → 16 → 8 → 4, and 28 → 14 → 7 → 3. With its defaults it has 18,588,801
    parameters for images of three colours.

    In that code biases come before the convolutions of a block, not after, and there is more that is left out
    here: dropout between the convolutions, a learnt factor for each channel after the second one, and a start
    of the second one near zero, with a norm that is bounded by one rather than made one.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
        | https://arxiv.org/abs/1903.08689
        | The authors' code, https://github.com/openai/ebm_code_release, models.py, ResNet32Large

    Arguments:
        channels: The number of channels of the first stage.
        blocks: The number of blocks in a stage.
        slope: The rectifiers' slope for negative inputs; that of the last one, before the sum, is zero.
        norm: What bounds the weights of every layer but the last.
    """

    channels: int = 128
    blocks: int = 3
    slope: float = 0.2
    norm: Norm = SpectralNorm()

    def __post_init__(self) -> None:
        positive(self, "channels", "blocks")
        not_negative(self, "slope")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image, or halving leaves nothing of it.
        """
        stem = igebm_stem(self, shape, self.channels, self.slope, self.norm)
        blocks = [
            NormedBlock(inputs, outputs, halve, self.slope, self.norm)
            for inputs, outputs, halve in igebm_stages(self.channels, self.blocks)
        ]
        return nn.Sequential(*stem, *blocks, *igebm_head(4 * self.channels, nn.ReLU()))


@dataclass(frozen=True)
class ConditionalIGEBMEnergy:
    r"""Creates the energy of IGEBM for images of classes.

    As :class:`IGEBMEnergy`, but in every block each class has biases of its own, one for each channel before
    either convolution, and factors of its own after the second one. They begin equal: biases at zero, factors
    at one. As an energy of images alone, it is that of all classes in equal parts,
    :math:`E(x) = -\log \frac{1}{K} \sum_y e^{-E(x, y)}`, up to the classes' unknown constants.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019)
        | https://arxiv.org/abs/1903.08689
        | The authors' code, https://github.com/openai/ebm_code_release, utils.py, with a label

    Arguments:
        classes: The number K of classes.
        channels: The number of channels of the first stage.
        blocks: The number of blocks in a stage.
        slope: The rectifiers' slope for negative inputs, the last one's too.
        norm: What bounds the weights of every layer but the last.
    """

    classes: int = 10
    channels: int = 128
    blocks: int = 3
    slope: float = 0.2
    norm: Norm = SpectralNorm()

    def __post_init__(self) -> None:
        positive(self, "classes", "channels", "blocks")
        not_negative(self, "slope")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image, or halving leaves nothing of it.
        """
        stem = igebm_stem(self, shape, self.channels, self.slope, self.norm)
        blocks = [
            ConditionalBlock(inputs, outputs, halve, self.slope, self.norm, self.classes)
            for inputs, outputs, halve in igebm_stages(self.channels, self.blocks)
        ]
        head = igebm_head(4 * self.channels, nn.LeakyReLU(self.slope))
        return ConditionalNetwork(nn.Sequential(*stem), blocks, nn.Sequential(*head))


def igebm_stem(
    architecture: object, shape: tuple[int, ...], channels: int, slope: float, norm: Norm
) -> list[nn.Module]:
    """Returns what comes before the blocks of IGEBM.

    Raises:
        ValueError: If ``shape`` is not that of an image, or halving leaves nothing of it.
    """
    colours, height, width = image_shape(architecture, shape)
    if min(height, width) < 8:
        raise ValueError(
            f"{type(architecture).__name__} halves the resolution three times, which leaves nothing of "
            f"{height}×{width} images; their sides should be at least eight"
        )
    return [norm.of(nn.Conv2d(colours, channels, 3, padding=1, bias=False)), nn.LeakyReLU(slope)]


def igebm_stages(channels: int, blocks: int) -> list[tuple[int, int, bool]]:
    """Returns the input and output channels of every block of IGEBM, and whether it halves the resolution."""
    widths = [width for width in (channels, 2 * channels, 4 * channels) for _ in range(blocks)]
    pairs = zip([channels, *widths[:-1]], widths, strict=True)
    return [(before, width, index % blocks == 0) for index, (before, width) in enumerate(pairs)]


def igebm_head(channels: int, rectifier: nn.Module) -> list[nn.Module]:
    """Returns what comes after the blocks of IGEBM, with its rectifier."""
    return [rectifier, GlobalSum(), nn.Linear(channels, 1), nn.Flatten(0)]


class ConditionalNetwork(nn.Module):
    """The energy that :class:`ConditionalIGEBMEnergy` creates.

    Arguments:
        stem: What comes before the blocks.
        blocks: The blocks.
        head: What comes after them.
    """

    def __init__(self, stem: nn.Module, blocks: list[ConditionalBlock], head: nn.Module):
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head
        self.classes = blocks[0].scale.num_embeddings

    def given(self, x: Tensor, labels: Tensor) -> Tensor:
        """Returns the energies (B,) of images (B, *) as members of the classes that labels (B,) name."""
        hidden = self.stem(x)
        for block in self.blocks:
            hidden = block(hidden, labels)
        return self.head(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        labels = torch.arange(self.classes, device=x.device)[:, None].expand(-1, len(x))
        energies = torch.stack([self.given(x, each) for each in labels])
        return math.log(self.classes) - torch.logsumexp(-energies, 0)


def shortcut(inputs: int, outputs: int, norm: Norm) -> nn.Module:
    """Returns what goes past the convolutions of a block of IGEBM: itself, where channels stay as many."""
    if inputs == outputs:
        return nn.Identity()
    return norm.of(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


class ConditionalBlock(nn.Module):
    r"""A residual block of IGEBM for classes.

    .. math:: h \mapsto \sigma(P(S(h) + g_y \, C_2(\sigma(C_1(h + a_y)) + b_y)))

    Otherwise as :class:`NormedBlock`; convolutions have no biases.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        halve: Whether the resolution is halved, rounding down.
        slope: The rectifiers' slope for negative inputs.
        norm: What bounds the weights of the convolutions.
        classes: The number of classes.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool, slope: float, norm: Norm, classes: int):
        super().__init__()
        self.first = norm.of(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.second = norm.of(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        self.before_first, self.before_second = nn.Embedding(classes, inputs), nn.Embedding(classes, outputs)
        self.scale = nn.Embedding(classes, outputs)
        nn.init.zeros_(self.before_first.weight)
        nn.init.zeros_(self.before_second.weight)
        nn.init.ones_(self.scale.weight)
        self.skip = shortcut(inputs, outputs, norm)
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.rectifier = nn.LeakyReLU(slope)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H, W), or to half the height and width."""
        before_first, before_second, scale = (
            each(labels)[..., None, None] for each in (self.before_first, self.before_second, self.scale)
        )
        hidden = self.rectifier(self.first(x + before_first)) + before_second
        return self.rectifier(self.pool(self.skip(x) + scale * self.second(hidden)))


class NormedBlock(nn.Module):
    r"""Creates a residual block of IGEBM, :math:`h \mapsto \sigma(P(S(h) + C_2 \sigma(C_1 h)))`.

    :math:`C_i` are 3×3 convolutions, :math:`\sigma` leaky rectifiers, and :math:`P` averages 2×2 pixels when
    the block halves the resolution. :math:`S` is the identity, or a 3×3 convolution without bias where the
    number of channels changes.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        halve: Whether the resolution is halved, rounding down.
        slope: The rectifiers' slope for negative inputs.
        norm: What bounds the weights of the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool, slope: float, norm: Norm):
        super().__init__()
        self.residual = nn.Sequential(
            norm.of(nn.Conv2d(inputs, outputs, 3, padding=1)),
            nn.LeakyReLU(slope),
            norm.of(nn.Conv2d(outputs, outputs, 3, padding=1)),
        )
        self.skip = shortcut(inputs, outputs, norm)
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.rectifier = nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H, W), or to half the height and width."""
        return self.rectifier(self.pool(self.skip(x) + self.residual(x)))
