"""The steps of Glow, on points (B, C) and on images (B, C, H, W).

References:
    | Glow: Generative Flow with Invertible 1×1 Convolutions (Kingma & Dhariwal, 2018), Section 3
    | https://arxiv.org/abs/1807.03039
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn


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
        self.register_load_state_dict_post_hook(self._forget)

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

    def _forget(self, *unused: object) -> None:
        """Asks again: the state that was loaded may be of before the first batch."""
        self._known_ready = False

    @torch.no_grad()
    def _prepare(self, x: Tensor) -> None:
        if not self.ready:
            values = x.transpose(0, 1).flatten(1)
            deviation = values.std(1) if values.shape[1] > 1 else values.new_zeros(len(values))
            if not deviation.all():
                still = int((deviation == 0).sum())
                raise ValueError(
                    f"ActNorm takes its scale from the first minibatch, in which {still} of {len(deviation)} "
                    "features are the same everywhere; take larger minibatches, or data without such features"
                )
            self.shift.copy_(-values.mean(1))
            self.log_scale.copy_(-(deviation + 1e-6).log())
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
