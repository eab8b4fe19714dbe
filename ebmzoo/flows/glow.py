r"""Glow: flows of images whose steps normalise, mix and couple channels.

A step is an affine map of every channel whose first values make the first batch standard (*activation
normalisation*), an invertible linear map of the channels at each pixel, and an affine coupling: half of the
channels is scaled and shifted by what a network makes of the other half. A vector is an image without pixels.

References:
    | Glow: Generative Flow with Invertible 1×1 Convolutions (Kingma & Dhariwal, 2018)
    | https://arxiv.org/abs/1807.03039
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmzoo.blocks import Highway, image_shape, mlp
from ebmzoo.fields import positive
from ebmzoo.flows.flow import Flow, check_sizes
from ebmzoo.flows.steps import Steps, steps


@dataclass(frozen=True)
class Glow:
    r"""Creates multi-scale flows of images.

    Each block puts every 2×2 pixels into channels and takes its steps; all blocks but the last then give half
    of their channels to the latent variable, which is that of all scales together, :math:`\mathcal{N}(0, I)`.
    (The published Glow has priors of the finer scales that depend on the coarser ones.) The network of a
    coupling has three layers: a 3×3 convolution, a highway layer and a 3×3 convolution that begins at zero.

    References:
        | Exponential Tilting of Generative Models (Xiao, Yan & Amit, 2020), Appendix on networks

    Arguments:
        blocks: The number of blocks.
        couplings: The number of steps of each.
        hidden: The number of channels of a coupling's network.
    """

    blocks: int = 2
    couplings: int = 16
    hidden: int = 64

    def __post_init__(self) -> None:
        positive(self, "blocks", "couplings", "hidden")

    def build(self, latent: int, shape: tuple[int, ...]) -> Flow:
        """Returns a flow with fresh weights, from latents (B, latent) to images (B, C, H, W).

        Raises:
            ValueError: If ``shape`` is not that of an image whose sides can be halved so often, or there are
                not as many latents as coordinates.
        """
        check_sizes(self, latent, shape)
        colours, height, width = image_shape(self, shape)
        if height % 2**self.blocks or width % 2**self.blocks:
            raise ValueError(
                f"Glow of {self.blocks} blocks takes images whose sides are multiples of {2**self.blocks}, "
                f"not {height}×{width}; lower Glow.blocks"
            )
        blocks, channels = [], colours
        for _ in range(self.blocks):
            blocks.append(steps(4 * channels, self.couplings, self._network))
            channels *= 2
        return MultiScaleFlow(shape, blocks)

    def _network(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, self.hidden, 3, padding=1),
            nn.ReLU(),
            Highway(self.hidden),
            nn.Conv2d(self.hidden, outputs, 3, padding=1),
        )


@dataclass(frozen=True)
class LatentGlow:
    """Creates flows of vectors by the same steps, with fully connected networks in the couplings.

    References:
        | Generative Latent Flow (Xiao, Yan & Amit, 2019), https://arxiv.org/abs/1905.10485

    Arguments:
        couplings: The number of steps.
        hidden: The width of every hidden layer of a coupling's network.
        depth: The number of its hidden layers.
    """

    couplings: int = 4
    hidden: int = 256
    depth: int = 1

    def __post_init__(self) -> None:
        positive(self, "couplings", "hidden", "depth")

    def build(self, latent: int, shape: tuple[int, ...]) -> Flow:
        """Returns a flow with fresh weights, from latents (B, latent) to data (B, *shape)."""
        check_sizes(self, latent, shape)
        if latent < 2:
            raise ValueError(f"LatentGlow couples coordinates and needs two or more, not {latent}")
        return StepsFlow(shape, steps(latent, self.couplings, self._network))

    def _network(self, inputs: int, outputs: int) -> nn.Sequential:
        return mlp(inputs, self.hidden, self.depth, outputs, nn.ReLU)


class StepsFlow(Flow):
    """The flow that :class:`LatentGlow` creates: steps on vectors.

    Arguments:
        shape: The shape of one datum.
        steps: The steps, in the order from data to latents.
    """

    def __init__(self, shape: tuple[int, ...], steps: Steps):
        super().__init__(shape)
        self.steps = steps

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents (B, D) and log-determinants (B,) for data (B, D)."""
        return self.steps.pull(x)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns data (B, D) and log-determinants (B,) for latents (B, D)."""
        return self.steps.push(u)


class MultiScaleFlow(Flow):
    """The flow that :class:`Glow` creates.

    Arguments:
        shape: The shape of an image.
        blocks: The steps of each block, the finest first.
    """

    def __init__(self, shape: tuple[int, ...], blocks: list[Steps]):
        super().__init__(shape)
        self.blocks = nn.ModuleList(blocks)
        colours, height, width = shape
        halvings = range(1, len(blocks) + 1)
        self.coarsest = (colours * 2 ** (len(blocks) + 1), height >> len(blocks), width >> len(blocks))
        self.given = [(colours * 2**k, height >> k, width >> k) for k in halvings[:-1]]

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents (B, D), the finest scale first, and log-determinants (B,) for images (B, D)."""
        image, log_det = x.view(-1, *self.shape), x.new_zeros(len(x))
        latents = []
        for index, block in enumerate(self.blocks):
            image, change = block.pull(nn.functional.pixel_unshuffle(image, 2))  # type: ignore[operator]
            log_det = log_det + change
            if index < len(self.given):
                latent, image = image.chunk(2, 1)
                latents.append(latent.flatten(1))
        return torch.cat([*latents, image.flatten(1)], 1), log_det

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images (B, D) and log-determinants (B,) for latents (B, D)."""
        sizes = [math.prod(given) for given in (*self.given, self.coarsest)]
        *latents, coarsest = u.split(sizes, 1)
        image, log_det = coarsest.view(-1, *self.coarsest), u.new_zeros(len(u))
        for index in reversed(range(len(self.blocks))):
            if index < len(latents):
                image = torch.cat([latents[index].view(-1, *self.given[index]), image], 1)
            image, change = self.blocks[index].push(image)  # type: ignore[operator]
            image, log_det = nn.functional.pixel_shuffle(image, 2), log_det + change
        return image.flatten(1), log_det
