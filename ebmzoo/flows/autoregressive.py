"""Autoregressive flows, by zuko. Their density takes one pass, a sample as many as there are coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebmzoo.fields import positive
from ebmzoo.flows.flow import Flow, check_sizes


@dataclass(frozen=True)
class MADE:
    """Creates masked autoencoders: every coordinate is normal, given those before it.

    References:
        | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
        | https://arxiv.org/abs/1502.03509

    Arguments:
        hidden: The width of every hidden layer.
        depth: The number of hidden layers.
    """

    hidden: int = 100
    depth: int = 2

    def __post_init__(self) -> None:
        positive(self, "hidden", "depth")

    def build(self, latent: int, shape: tuple[int, ...]) -> Flow:
        """Returns a flow with fresh weights, from latents (B, latent) to data (B, *shape)."""
        return MAF(1, self.hidden, self.depth).build(latent, shape)


@dataclass(frozen=True)
class MAF:
    """Creates masked autoregressive flows: affine transforms, each coordinate's given by those before it.

    The order of the coordinates is reversed from one transform to the next.

    References:
        | Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017)
        | https://arxiv.org/abs/1705.07057

    Arguments:
        transforms: The number of transforms.
        hidden: The width of every hidden layer of a transform's network.
        depth: The number of its hidden layers.
    """

    transforms: int = 5
    hidden: int = 100
    depth: int = 2

    def __post_init__(self) -> None:
        positive(self, "transforms", "hidden", "depth")

    def build(self, latent: int, shape: tuple[int, ...]) -> Flow:
        """Returns a flow with fresh weights, from latents (B, latent) to data (B, *shape)."""
        from zuko.flows import MAF as Made

        check_sizes(self, latent, shape)
        widths = (self.hidden,) * self.depth
        return AutoregressiveFlow(
            shape, Made(latent, transforms=self.transforms, hidden_features=widths).transform
        )


@dataclass(frozen=True)
class NSF:
    """Creates neural spline flows: monotone rational-quadratic splines, autoregressive.

    A spline is the identity outside the interval [-5, 5], so data should be scaled into it.

    References:
        | Neural Spline Flows (Durkan et al., 2019)
        | https://arxiv.org/abs/1906.04032

    Arguments:
        transforms: The number of transforms.
        hidden: The width of every hidden layer of a transform's network.
        depth: The number of its hidden layers.
        bins: The number of pieces of a spline.
    """

    transforms: int = 3
    hidden: int = 100
    depth: int = 2
    bins: int = 8

    def __post_init__(self) -> None:
        positive(self, "transforms", "hidden", "depth", "bins")

    def build(self, latent: int, shape: tuple[int, ...]) -> Flow:
        """Returns a flow with fresh weights, from latents (B, latent) to data (B, *shape)."""
        from zuko.flows import NSF as Made

        check_sizes(self, latent, shape)
        widths = (self.hidden,) * self.depth
        made = Made(latent, bins=self.bins, transforms=self.transforms, hidden_features=widths)
        return AutoregressiveFlow(shape, made.transform)


class AutoregressiveFlow(Flow):
    """A flow whose transform, from data to latents, is zuko's.

    Arguments:
        shape: The shape of one datum.
        transform: What returns the transform when it is called.
    """

    def __init__(self, shape: tuple[int, ...], transform: Any):
        super().__init__(shape)
        self.transform = transform

    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns latents (B, D) and log-determinants (B,) for data (B, D), in one pass."""
        return self.transform().call_and_ladj(x)

    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns data (B, D) and log-determinants (B,) for latents (B, D), in D passes."""
        return self.transform().inv.call_and_ladj(u)
