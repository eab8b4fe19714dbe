"""Where data, and hence chains, may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ebmzoo.fields import FieldError, positive
from ebmzoo.models import Box, Flat, Normal, Prior


@runtime_checkable
class Space(Protocol):
    """Where data, and hence chains, may be."""

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns a flat prior over data of a shape, from which fresh chains begin."""
        ...


@dataclass(frozen=True)
class Unbounded:
    r"""Everywhere; fresh chains begin at :math:`\mathcal{N}(0, s^2 I)`.

    Arguments:
        scale: The standard deviation :math:`s`.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "scale")

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns the prior."""
        return Flat(Normal(shape, self.scale))


@dataclass(frozen=True)
class InBox:
    """In a box, where fresh chains begin uniformly.

    Arguments:
        low: The lower bound of every coordinate.
        high: The upper bound.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise FieldError(self, "high", f"above low, {self.low:g}")

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns the prior."""
        return Box(shape, self.low, self.high)


@dataclass(frozen=True)
class FromBox(InBox):
    """Everywhere; fresh chains begin uniformly in a box, and may leave it.

    Arguments:
        low: The lower bound of every coordinate of where they begin.
        high: The upper bound.
    """

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Returns the prior."""
        return Flat(super().prior(shape))
