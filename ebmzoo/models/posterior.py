"""The way back from data to the variable that is sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Generator, Tensor, nn


class Posterior(nn.Module, ABC):
    r"""A distribution :math:`q(u \mid x)` over what a datum was decoded from.

    It need not be exact, nor random: that of an autoencoder is its encoder.
    """

    @abstractmethod
    def draw(self, x: Tensor, rng: Generator) -> Tensor:
        """Returns one point for each datum: (B, *) for data (B, *)."""


class Inverse(Posterior):
    """The only point that a datum can come from, where the decoder is invertible.

    Arguments:
        decoder: The decoder. It is no part of this: its weights are not saved twice.
    """

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self._decoder = (decoder,)  # in a tuple, so that it does not become a part

    def draw(self, x: Tensor, rng: Generator) -> Tensor:
        """Returns the points."""
        del rng
        (decoder,) = self._decoder
        return decoder.inverse(x)[0]  # type: ignore[operator]


class Chained(Posterior):
    """Two steps back: from data to a point, and from there to another.

    Arguments:
        first: From data.
        second: From what the first draws.
    """

    def __init__(self, first: Posterior, second: Posterior):
        super().__init__()
        self.first, self.second = first, second

    def draw(self, x: Tensor, rng: Generator) -> Tensor:
        """Returns a point for each datum."""
        return self.second.draw(self.first.draw(x, rng), rng)
