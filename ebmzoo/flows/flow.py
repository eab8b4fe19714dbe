"""What a flow is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Flow(nn.Module, ABC):
    r"""An invertible decoder :math:`g` of as many latent variables as a datum has coordinates.

    With :math:`u \sim \mathcal{N}(0, I)` the data :math:`g(u)` have the density

    .. math:: \log b(x) = \log \mathcal{N}(g^{-1}(x)) + \log |\det \partial g^{-1}(x) / \partial x|

    References:
        | Normalizing Flows for Probabilistic Modeling and Inference (Papamakarios et al., 2021), Section 2
        | https://arxiv.org/abs/1912.02762

    Arguments:
        shape: The shape of one datum.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)

    @property
    def dimension(self) -> int:
        """The number D of coordinates of a datum, and of latent variables."""
        return math.prod(self.shape)

    @abstractmethod
    def push(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`g(u)`, flat (B, D), and :math:`\log |\det \partial g / \partial u|`, of shape (B,).

        Arguments:
            u: Latents, of shape (B, D).
        """

    @abstractmethod
    def pull(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`g^{-1}(x)`, (B, D), and :math:`\log |\det \partial g^{-1} / \partial x|`, (B,).

        Arguments:
            x: Data, flat, of shape (B, D).
        """

    def forward(self, u: Tensor) -> Tensor:
        """Returns the data (B, *shape) of latents (B, D).

        Raises:
            ValueError: If the latents have another shape.
        """
        self._check("latents", u, (self.dimension,))
        return self.push(u)[0].view(-1, *self.shape)

    def decoded(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the data (B, *shape) of latents (B, D) and their log-densities (B,), both of one pass.

        Raises:
            ValueError: If the latents have another shape.
        """
        self._check("latents", u, (self.dimension,))
        x, log_det = self.push(u)
        return x.view(-1, *self.shape), self._log_normal(u) - log_det

    def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the latents (B, D) of data (B, *shape), and the log-determinant of that map, (B,).

        Raises:
            ValueError: If the data have another shape.
        """
        self._check("data", x, self.shape)
        return self.pull(x.flatten(1))

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,), of data (B, *shape)."""
        u, log_det = self.inverse(x)
        return log_det + self._log_normal(u)

    def _check(self, what: str, x: Tensor, shape: tuple[int, ...]) -> None:
        # broadcasting would make something of other shapes, too
        if x.shape[1:] != shape:
            sizes = ", ".join(map(str, ("B", *shape)))
            raise ValueError(f"{type(self).__name__} takes {what} of shape ({sizes}), not {tuple(x.shape)}")

    def _log_normal(self, u: Tensor) -> Tensor:
        return -0.5 * u.square().sum(1) - 0.5 * self.dimension * math.log(2 * math.pi)


def check_sizes(architecture: object, latent: int, shape: Sequence[int]) -> None:
    """Raises ValueError unless there are as many latent variables as a datum of ``shape`` has coordinates."""
    if latent != math.prod(shape):
        raise ValueError(
            f"{type(architecture).__name__} is invertible, so a datum of shape {tuple(shape)} needs "
            f"{math.prod(shape)} latent variables, not {latent}"
        )


def rowsum(x: Tensor) -> Tensor:
    """Returns the sums over the columns of (B, D), of shape (B,).

    A product with ones: several times faster on a CPU than a reduction over so few columns.
    """
    return x @ x.new_ones(x.shape[1])
