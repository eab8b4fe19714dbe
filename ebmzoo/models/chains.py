"""Chains that a model keeps, as numbers or as bytes."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebmzoo.models.priors import Box, Prior

LEVELS = 256
"""The number of values of a byte."""


def as_bytes(points: Tensor, prior: Prior) -> Tensor:
    """Returns points (N, *) of a box as bytes: of 256 equal intervals of each coordinate, which it lies in.

    Raises:
        ValueError: If the prior is no box.
    """
    box = _box(prior)
    level = (points - box.low) * (LEVELS / (box.high - box.low))
    return level.clamp(0, LEVELS - 1).to(torch.uint8)


def from_bytes(levels: Tensor, prior: Prior, rng: Generator) -> Tensor:
    """Returns points of a box, uniform in the intervals that bytes (N, *) name: dequantised.

    Raises:
        ValueError: If the prior is no box.
    """
    box = _box(prior)
    place = torch.rand(levels.shape, generator=rng, device=levels.device, dtype=box.anchor.dtype)
    return place.add_(levels).mul_((box.high - box.low) / LEVELS).add_(box.low)


def as_points(chains: Tensor, prior: Prior, rng: Generator) -> Tensor:
    """Returns chains (N, *) as points, whether they are kept as points or as bytes."""
    return chains if chains.is_floating_point() else from_bytes(chains, prior, rng)


def _box(prior: Prior) -> Box:
    if not isinstance(prior, Box):
        raise ValueError("chains are kept as bytes in a box only; let data be in one, or keep numbers")
    return prior
