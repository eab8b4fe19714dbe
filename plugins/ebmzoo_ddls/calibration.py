r"""Calibrations: from a critic's output to the logit of "this is data".

With as many data as samples, a calibrated logit is the log density ratio :math:`\log p(x) / p_g(x)`, whatever
loss the critic learnt from; at best, since a calibration is monotone and sees the output only.

References:
    | On Calibration of Modern Neural Networks (Guo et al., 2017), Section 4
    | Metropolis-Hastings Generative Adversarial Networks (Turner et al., 2019), Section 3.2
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebmzoo.fields import FieldError


class Map(nn.Module, ABC):
    """A monotone function of a critic's output; what it learns are buffers."""

    def facts(self) -> dict[str, Tensor]:
        """Returns what there is to say of it, by name: scalars of shape ()."""
        return {}

    @abstractmethod
    def fit(self, outputs: Tensor, real: Tensor) -> None:
        """Learns from outputs (N,) and whether each is that of a datum (1) or of a sample (0), (N,)."""


@runtime_checkable
class Calibration(Protocol):
    """A family of monotone functions."""

    def map(self) -> Map:
        """Returns the function before it has learnt anything: the identity."""
        ...


@dataclass(frozen=True)
class LogisticCalibration:
    r"""Platt's calibration :math:`D \mapsto a D + b`, by maximum likelihood.

    The targets are Platt's :math:`(n_+ + 1) / (n_+ + 2)` and :math:`1 / (n_- + 2)`, which keep :math:`a`
    finite where the critic makes no error.

    References:
        | Probabilistic Outputs for Support Vector Machines (Platt, 1999), Section 2
    """

    def map(self) -> Map:
        """Returns the identity, :math:`a = 1` and :math:`b = 0`."""
        return Affine()


class Affine(Map):
    """The function of :class:`LogisticCalibration`."""

    slope: Tensor
    intercept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.ones(()))
        self.register_buffer("intercept", torch.zeros(()))

    def forward(self, outputs: Tensor) -> Tensor:
        """Returns the logits, of the shape of ``outputs``."""
        return self.slope * outputs + self.intercept

    def facts(self) -> dict[str, Tensor]:
        """Returns slope and intercept. A slope below zero says that the critic is worse than none."""
        return {"slope": self.slope.clone(), "intercept": self.intercept.clone()}

    def fit(self, outputs: Tensor, real: Tensor) -> None:
        """Minimises the cross-entropy, which is convex, to the precision of doubles.

        Outputs are standardised meanwhile.
        """
        outputs, real = outputs.double().cpu(), real.double().cpu()
        mean, scale = outputs.mean(), outputs.std().clamp_min(1e-12)
        standard = (outputs - mean) / scale
        positives, negatives = real.sum(), (1 - real).sum()
        targets = torch.where(real > 0, (positives + 1) / (positives + 2), 1 / (negatives + 2))
        line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [line], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = line[0] * standard + line[1]
            value = nn.functional.binary_cross_entropy_with_logits(logits, targets)
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        slope = line[0].detach() / scale
        self.slope.copy_(slope)
        self.intercept.copy_(line[1].detach() - slope * mean)


@dataclass(frozen=True)
class IsotonicCalibration:
    """The best increasing calibration, by isotonic regression.

    The regression is a staircase; between its steps, logits are interpolated linearly. Probabilities are kept
    as far from 0 and 1 as one of the points is worth. The function is flat on every step and beyond the last
    ones, where chains that follow its gradient see the prior alone: it is meant for rejection and
    Metropolis-Hastings.

    References:
        | Transforming Classifier Scores into Accurate Multiclass Probability Estimates (Zadrozny & Elkan,
          2002)

    Arguments:
        knots: The number of points that define the function. A staircase with more corners is thinned evenly.
    """

    knots: int = 1024

    def __post_init__(self) -> None:
        if self.knots < 2:
            raise FieldError(self, "knots", "two or more")

    def map(self) -> Map:
        """Returns the identity, on the interval from -1 to 1."""
        return PiecewiseLinear(self.knots)


class PiecewiseLinear(Map):
    """The function of :class:`IsotonicCalibration`."""

    outputs: Tensor
    logits: Tensor

    def __init__(self, knots: int):
        super().__init__()
        self.register_buffer("outputs", torch.linspace(-1, 1, knots))
        self.register_buffer("logits", torch.linspace(-1, 1, knots))

    def forward(self, outputs: Tensor) -> Tensor:
        """Returns the logits, of the shape of ``outputs``."""
        right = torch.searchsorted(self.outputs, outputs.detach()).clamp(1, len(self.outputs) - 1)
        low, high = self.outputs[right - 1], self.outputs[right]
        share = ((outputs - low) / (high - low).clamp_min(1e-30)).clamp(0, 1)
        return torch.lerp(self.logits[right - 1], self.logits[right], share)

    def fit(self, outputs: Tensor, real: Tensor) -> None:
        """Fits the staircase and keeps its corners."""
        from sklearn.isotonic import IsotonicRegression

        edge = 1 / (len(outputs) + 2)
        regression = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip")
        regression.fit(outputs.double().cpu().numpy(), real.double().cpu().numpy())
        corners = torch.from_numpy(regression.X_thresholds_)
        logits = torch.from_numpy(regression.y_thresholds_).logit()
        place = torch.linspace(0, len(corners) - 1, len(self.outputs)).round().long()
        self.outputs.copy_(corners[place])
        self.logits.copy_(logits[place])
