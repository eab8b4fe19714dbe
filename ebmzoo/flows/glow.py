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
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmzoo.blocks import Highway, image_shape, mlp
from ebmzoo.fields import positive
from ebmzoo.flows.flow import Flow, check_sizes


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


class Layer(nn.Module, ABC):
    """An invertible map of points (B, C) or (B, C, H, W)."""

    @abstractmethod
    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the way to the latents, of the same shape, and its log-determinants, (B,) or ()."""

    @abstractmethod
    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the way back, and its log-determinants."""


class Steps(Layer):
    """Layers one after the other.

    Arguments:
        layers: The layers, in the order from data to latents.
    """

    def __init__(self, layers: list[Layer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Goes through all layers."""
        log_det = x.new_zeros(len(x))
        for layer in self.layers:
            x, change = layer.pull(x)  # type: ignore[operator]
            log_det = log_det + change
        return x, log_det

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Goes back through all layers."""
        log_det = u.new_zeros(len(u))
        for layer in reversed(self.layers):
            u, change = layer.push(u)  # type: ignore[operator]
            log_det = log_det + change
        return u, log_det


def steps(channels: int, count: int, network: Callable[[int, int], nn.Sequential]) -> Steps:
    """Returns steps of Glow.

    Arguments:
        channels: The number of channels.
        count: The number of steps.
        network: Creates the network of a coupling, from the numbers of its inputs and outputs.
    """
    layers: list[Layer] = []
    for _ in range(count):
        given, moved = channels - channels // 2, channels // 2
        layers += [ActNorm(channels), Mixing(channels), Coupling(network(given, 2 * moved), given)]
    return Steps(layers)


class ActNorm(Layer):
    """An affine map of every channel; the first batch that it sees in training comes out standard.

    Arguments:
        channels: The number of channels.
    """

    ready: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self._known_ready = False  # so that the device is asked once, not at every pass

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scales and shifts."""
        if self.training and not self._known_ready:
            self._prepare(x.detach())
        log_scale, shift = _like(self.log_scale, x), _like(self.shift, x)
        return (x + shift) * log_scale.exp(), self.log_scale.sum() * _pixels(x)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes it."""
        log_scale, shift = _like(self.log_scale, u), _like(self.shift, u)
        return u * (-log_scale).exp() - shift, -self.log_scale.sum() * _pixels(u)

    @torch.no_grad()
    def _prepare(self, x: Tensor) -> None:
        if not self.ready:
            values = x.transpose(0, 1).flatten(1)
            self.shift.copy_(-values.mean(1))
            self.log_scale.copy_(-(values.std(1) + 1e-6).log())
            self.ready.fill_(True)
        self._known_ready = True


class Mixing(Layer):
    r"""A linear map of the channels, :math:`W = P L (U + \mathrm{diag}\, s)`, which begins as a rotation.

    The permutation P and the signs of s never change, so W stays invertible and its determinant is known.

    Arguments:
        channels: The number of channels.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_scale = nn.Parameter(diagonal.abs().log())
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self._kept: tuple[object, Tensor] | None = None

    def weight(self) -> Tensor:
        """Returns W, of shape (C, C)."""
        lower, upper = self._factors()
        return self.permutation @ lower @ upper

    def _factors(self) -> tuple[Tensor, Tensor]:
        identity = torch.eye(len(self.sign), device=self.sign.device, dtype=self.log_scale.dtype)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_scale.exp())
        return self.lower.tril(-1) + identity, upper

    def inverse(self) -> Tensor:
        """Returns the inverse of W, of shape (C, C).

        Triangular systems are solved for it, which asks nothing of the device. While W is frozen, as it is in
        chains, the inverse is kept until a parameter changes.
        """
        parameters = (self.lower, self.upper, self.log_scale)
        if torch.compiler.is_compiling() or any(each.requires_grad for each in parameters):
            return self._inverse()
        state = tuple((id(each), each._version, each.device, each.dtype) for each in parameters)
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._inverse())
        return self._kept[1]

    def _inverse(self) -> Tensor:
        lower, upper = self._factors()
        halfway = torch.linalg.solve_triangular(
            lower, self.permutation.mT.contiguous(), upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(upper, halfway, upper=True)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies by W."""
        return _mixed(self.weight(), x), self.log_scale.sum() * _pixels(x)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies by the inverse of W."""
        return _mixed(self.inverse(), u), -self.log_scale.sum() * _pixels(u)


class Coupling(Layer):
    r"""Scales and shifts some channels by what a network makes of the others.

    The logarithm of the scale is :math:`2 \tanh(r / 2)`. The published Glow has the scale
    :math:`\sigma(r + 2)`, whose inverse has no bound: of 10 000 samples of codes, one was not finite. The
    last layer begins at zero, so that a fresh coupling does nothing.

    Arguments:
        network: The network, from the given channels to r and the shift of the others.
        given: The number of channels that are given.
    """

    def __init__(self, network: nn.Sequential, given: int):
        super().__init__()
        self.network, self.given = network, given
        for parameter in network[-1].parameters():
            nn.init.zeros_(parameter)

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts and scales."""
        given, moved = x[:, : self.given], x[:, self.given :]
        log_scale, shift = self._affine(given)
        return torch.cat([given, (moved + shift) * log_scale.exp()], 1), log_scale.flatten(1).sum(1)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Undoes it."""
        given, moved = u[:, : self.given], u[:, self.given :]
        log_scale, shift = self._affine(given)
        return torch.cat([given, moved * (-log_scale).exp() - shift], 1), -log_scale.flatten(1).sum(1)

    def _affine(self, given: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.network(given).chunk(2, 1)
        return 2 * torch.tanh(raw / 2), shift


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Returns values (C,) in a shape that is broadcast over x, (B, C) or (B, C, H, W)."""
    return values.view(-1, *[1] * (x.ndim - 2))


def _mixed(weight: Tensor, x: Tensor) -> Tensor:
    if x.ndim == 2:
        return nn.functional.linear(x, weight)
    return nn.functional.conv2d(x, weight[:, :, None, None])


def _pixels(x: Tensor) -> int:
    return math.prod(x.shape[2:])
