r"""How far the density of a model of the plane is from that of its data, where that is known.

Both laws are taken on a square :math:`[-h, h]^2` of :math:`n^2` cells, as weights at the cells' centres

.. math:: P_i \propto p(x_i), \qquad Q_i \propto \rho(x_i) \, e^{-\beta E(x_i)}

that sum to one each; so no sample is drawn, and the model's log-partition is a sum. The divergences of these
weights tend to those of the laws on the square as the cells shrink. Where the densities are smooth, cells as
wide as the smallest standard deviation give eight digits already; at the kinks of a network of rectifiers,
and where a box ends within a cell, the error falls only with a power of the width.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ebmzoo.data.dataset import Dataset, KnownDensity
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics.metric import Metric, Subject
from ebmzoo.models import Model, in_chunks
from ebmzoo.store import Recipe

TOLERANCE = 1e-3
"""Which share of either law's mass may lie outside the square, where it counts for nothing."""


@dataclass(frozen=True)
class DensityDivergence(Metric):
    r"""A divergence of the data's density :math:`p` and the model's, :math:`q \propto \rho \, e^{-\beta E}`.

    Arguments:
        half_width: Half the side :math:`h` of the square, whose centre is the origin.
        points: The number :math:`n` of cells along a side.
        beta: The inverse temperature :math:`\beta` of the energy.
    """

    lower_is_better: ClassVar[bool] = True
    scores: ClassVar[Subject] = "model"
    half_width: float
    points: int = 400
    beta: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "half_width", "beta")
        if self.points < 2:
            raise FieldError(self, "points", "2 or more")

    @torch.no_grad()
    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the divergence, in nats. The split is not looked at.

        Raises:
            FieldError: If samples are scored.
            ValueError: If the density of the data is not known, if the model is none of the plane itself, or
                if the square does not hold both laws.
        """
        del split, get, rng
        p, q = self._of_data(data), self._of_model(subject)
        return self.between(p.log_softmax(0), q.log_softmax(0))

    @abstractmethod
    def between(self, log_p: Tensor, log_q: Tensor) -> float:
        """Returns the divergence, in nats.

        Arguments:
            log_p: The logarithms of the data's weights, of shape (N,).
            log_q: Those of the model's weights, of shape (N,).
        """

    def centres(self) -> Tensor:
        """Returns the centres of the cells, of shape (points², 2), in double precision."""
        cells = torch.arange(self.points, dtype=torch.float64)
        line = self.half_width * ((2 * cells + 1) / self.points - 1)
        return torch.cartesian_prod(line, line)

    def _of_data(self, data: Dataset) -> Tensor:
        """Returns the data's log-densities at the centres, of shape (N,)."""
        if not isinstance(data, KnownDensity) or data.shape != (2,):
            raise ValueError(
                f"{self.label!r} needs data of the plane whose density is known, and that of "
                f"{type(data).__name__} is not"
            )
        values = in_chunks(data.log_density, self.centres(), 10_000)
        area = (2 * self.half_width / self.points) ** 2
        advice = f"{type(self).__name__}.points if modes are narrower than the cells"
        self._check_mass(float(values.exp().sum()) * area, type(data).__name__, f"or {advice}")
        return values

    def _of_model(self, model: Any) -> Tensor:
        """Returns the model's log-densities at the centres, up to a constant, of shape (N,).

        What the square should hold is judged by the square twice as wide.
        """
        if not isinstance(model, Model):
            raise FieldError(self, "half_width", "used on a trained model, not on samples of one")
        if not isinstance(model.decoder, nn.Identity) or model.prior.shape != (2,):
            raise ValueError(
                f"{self.label!r} needs a model of the plane itself, whose decoder is the identity; score "
                "samples of this one instead"
            )
        wider = 2 * self.centres()
        around = wider[wider.abs().amax(1) > self.half_width]
        inside, outside = (self._evaluated(model, points) for points in (self.centres(), around))
        # the wider square's cells have four times the area
        odds = torch.logsumexp(inside, 0) - torch.logsumexp(outside, 0) - math.log(4)
        self._check_mass(float(odds.sigmoid()), "the model", "or look at its energy far from the data")
        return inside

    def _evaluated(self, model: Model, points: Tensor) -> Tensor:
        target, like = model.target(self.beta), model.prior.anchor
        values = in_chunks(lambda part: target(part.to(like)).double().cpu(), points, 10_000)
        wrong = int((values.isnan() | (values == math.inf)).sum())
        if wrong:
            raise ValueError(f"the model has no density at {wrong} of {len(points)} points of the plane")
        return values

    def _check_mass(self, held: float, whose: str, advice: str) -> None:
        if not abs(held - 1) <= TOLERANCE:
            raise ValueError(
                f"the square of half_width {self.half_width:g}, in {self.points}² cells, holds {held:.4f} of "
                f"the mass of {whose}; raise {type(self).__name__}.half_width, {advice}"
            )

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {
            "unit": "nats",
            "half_width": self.half_width,
            "points": self.points,
            "beta": self.beta,
            "rule": "midpoint",
        }


@dataclass(frozen=True)
class ForwardKL(DensityDivergence):
    r"""The Kullback-Leibler divergence of the data from the model, which maximum likelihood minimises.

    .. math:: \mathrm{KL}(p \| q) = \mathbb{E}_p [ \log p - \log q ]

    Large where the model misses data, and infinite where it has no mass and they have some. The tails of data
    do not end where a model's box does, so let the square be the box.

    Arguments:
        half_width: Half the side :math:`h` of the square, whose centre is the origin.
        points: The number :math:`n` of cells along a side.
        beta: The inverse temperature :math:`\beta` of the energy.
    """

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "forward KL"

    def between(self, log_p: Tensor, log_q: Tensor) -> float:
        """Returns the divergence, in nats."""
        return kl(log_p, log_q)


@dataclass(frozen=True)
class ReverseKL(DensityDivergence):
    r"""The Kullback-Leibler divergence of the model from the data.

    .. math:: \mathrm{KL}(q \| p) = \mathbb{E}_q [ \log q - \log p ]

    Large where the model has mass between the modes.

    Arguments:
        half_width: Half the side :math:`h` of the square, whose centre is the origin.
        points: The number :math:`n` of cells along a side.
        beta: The inverse temperature :math:`\beta` of the energy.
    """

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "reverse KL"

    def between(self, log_p: Tensor, log_q: Tensor) -> float:
        """Returns the divergence, in nats."""
        return kl(log_q, log_p)


def kl(log_p: Tensor, log_q: Tensor) -> float:
    r"""Returns :math:`\sum_i P_i (\log P_i - \log Q_i)`, where cells without weight in P count for nothing.

    Arguments:
        log_p: The logarithms :math:`\log P_i`, of shape (N,).
        log_q: The logarithms :math:`\log Q_i`, of shape (N,).
    """
    p = log_p.exp()
    return float(torch.where(p > 0, p * (log_p - log_q), 0.0).sum())
