r"""The plain and the wide networks of energies that are learnt from chains in data space.

Each is a map :math:`E` from data to one number, with :math:`\pi(x) \propto e^{-E(x)}`. The network of
short-run learning is a log-density up to a constant in its paper, :math:`f = -E`; its last layer is linear,
so that the energy has the same form. No network normalises batches, so that the energy of a point depends on
no other point.

References:
    | Learning Non-Convergent Non-Persistent Short-Run MCMC Toward Energy-Based Model (Nijkamp et al., 2019)
    | https://arxiv.org/abs/1904.09770
    | On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al., 2020)
    | https://arxiv.org/abs/1903.12370
    | Your classifier is secretly an energy based model and you should treat it like one (Grathwohl et al.,
      2020)
    | https://arxiv.org/abs/1912.03263
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ebmzoo.blocks import halving_convolutions, image_shape
from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.fields import FieldError, not_negative, positive


@dataclass(frozen=True)
class VanillaEnergy:
    """Creates the plain convolutional energy of short-run learning, with its last layer as published.

    A 3×3 convolution to ``channels``, then 4×4 convolutions that halve the resolution and double the channels
    as long as both sides stay four or more, each followed by a leaky rectifier; then one filter as large as
    what is left: 4×4 for images of 32×32 pixels, as in the papers, and of 8×8; 7×7 for those of 28×28.
    :class:`~ebmzoo.energies.ConvEnergy` ends in a 1×1 filter and a sum over pixels instead, so that its last
    layer weighs all places alike; this one weighs each by itself.

    The defaults are those of short-run learning: 2,763,393 parameters for images of 32×32 pixels and three
    colours. Anatomy has half the channels and the slope 0.05: 693,569 parameters.

    References:
        | Learning Non-Convergent Non-Persistent Short-Run MCMC Toward Energy-Based Model (Nijkamp et al.,
          2019)
        | https://arxiv.org/abs/1904.09770
        | On the Anatomy of MCMC-Based Maximum Likelihood Learning of Energy-Based Models (Nijkamp et al.,
          2020)
        | https://arxiv.org/abs/1903.12370
        | The authors' code: https://github.com/enijkamp/short_run;
          https://github.com/point0bar1/ebm-anatomy, nets.py, VanillaNet

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
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image of at least 4×4 pixels.
        """
        colours, height, width = image_shape(self, shape)
        if min(height, width) < 4:
            raise ValueError(f"VanillaEnergy is for images of at least 4×4 pixels, not {height}×{width}")
        layers, (channels, *left) = halving_convolutions((colours, height, width), self.channels, self.slope)
        return nn.Sequential(*layers, nn.Conv2d(channels, 1, (left[0], left[1])), nn.Flatten(0))


@dataclass(frozen=True)
class JEMEnergy:
    r"""Creates the energy of JEM: that of a wide residual classifier.

    .. math:: E(x) = -\log \sum_y e^{f_y(x)}

    A 3×3 convolution to 16 channels; three stages of pre-activation blocks with 16, 32 and 64 times ``width``
    channels, of which the second and the third halve the resolution, rounding up; a leaky rectifier, the
    means over all pixels, and a linear map to logits. It is the wide residual network without batch
    normalisation, and without dropout. With its defaults it has
    36,471,338 parameters for images of three colours.

    References:
        | Your classifier is secretly an energy based model and you should treat it like one (Grathwohl et
          al., 2020)
        | https://arxiv.org/abs/1912.03263
        | Wide Residual Networks (Zagoruyko & Komodakis, 2016), https://arxiv.org/abs/1605.07146
        | The authors' code, https://github.com/wgrathwohl/JEM, wideresnet.py

    Arguments:
        depth: The number of layers in sequence, :math:`6n + 4` for :math:`n` blocks in a stage.
        width: How many times as wide as in the narrowest network the stages are.
        classes: The number of classes.
        slope: The rectifiers' slope for negative inputs.
    """

    depth: int = 28
    width: int = 10
    classes: int = 10
    slope: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "width", "classes")
        not_negative(self, "slope")
        if self.depth < 10 or self.depth % 6 != 4:
            raise FieldError(self, "depth", "six times the number of blocks in a stage and four, such as 10")

    def energy(self, shape: tuple[int, ...]) -> ClassifierEnergy:
        """Returns a network with fresh weights, from images (B, C, H, W) to energies (B,).

        Raises:
            ValueError: If ``shape`` is not that of an image.
        """
        colours, _, _ = image_shape(self, shape)
        layers: list[nn.Module] = [nn.Conv2d(colours, 16, 3, padding=1)]
        previous = 16
        for stage in range(3):
            outputs = 16 * self.width * 2**stage
            for index in range((self.depth - 4) // 6):
                stride = 2 if stage and not index else 1
                layers.append(WideBlock(previous, outputs, stride, self.slope))
                previous = outputs
        head = [nn.LeakyReLU(self.slope), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return ClassifierEnergy(nn.Sequential(*layers, *head), previous, self.classes)


class WideBlock(nn.Module):
    r"""Creates a residual block of JEM, :math:`h \mapsto S(h) + C_2 \sigma(C_1 \sigma(h))`.

    :math:`C_i` are 3×3 convolutions, the second of which has the stride, as in the authors' code, and
    :math:`\sigma` leaky rectifiers. :math:`S` is the identity, or a 1×1 convolution with the stride where
    the resolution or the number of channels changes.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        stride: Two to halve the resolution, else one.
        slope: The rectifiers' slope for negative inputs.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, slope: float):
        super().__init__()
        self.residual = nn.Sequential(
            nn.LeakyReLU(slope),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.LeakyReLU(slope),
            nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1),
        )
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounding up."""
        return self.skip(x) + self.residual(x)
