r"""How samples spread over the modes of a known mixture.

Each sample belongs to the mode :math:`k(x)` whose centre :math:`\mu_k` is nearest, and is of *high quality*
if

.. math:: \| x - \mu_{k(x)} \| \leq r \, \sigma

in the Euclidean norm over all coordinates; a sample at exactly that distance counts. Papers on sampling from
GANs take :math:`r = 4`, VEEGAN took 3. Of :math:`\mathcal{N}(\mu, \sigma^2 I)` in the plane the share
:math:`1 - e^{-r^2/2}` lies so near, at :math:`r = 4` all but 0.034 %.

References:
    | VEEGAN (Srivastava et al., 2017), https://arxiv.org/abs/1705.07761
    | Discriminator Rejection Sampling (Azadi et al., 2019), https://arxiv.org/abs/1810.06758
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset, Mixture
from ebmzoo.fields import positive
from ebmzoo.metrics.metric import Metric, check_finite
from ebmzoo.store import Recipe


class Assigned(NamedTuple):
    """The high-quality samples of a set.

    Arguments:
        share: Which share of all samples they are.
        mode: The mode that each is assigned to, of shape (H,).
        offset: Each sample minus the centre of its mode, of shape (H, D).
        modes: How many modes the mixture has.
    """

    share: float
    mode: Tensor
    offset: Tensor
    modes: int

    def counts(self) -> Tensor:
        """Returns how many high-quality samples each mode has, of shape (modes,)."""
        return torch.bincount(self.mode, minlength=self.modes)


def assigned(metric: Metric, samples: Tensor, data: Dataset, radius: float) -> Assigned:
    """Returns the high-quality samples, each with its mode.

    Arguments:
        metric: Who asks, for the message.
        samples: The samples, of shape (N, *data.shape).
        data: The mixture.
        radius: Up to how many standard deviations from its centre a sample is of high quality.

    Raises:
        ValueError: If the data are no mixture, or a sample is not finite.
    """
    if not isinstance(data, Mixture):
        raise ValueError(f"{metric.label!r} needs a mixture of known modes; {type(data).__name__} is none")
    check_finite(samples)
    points, centres = (x.detach().flatten(1).double().cpu() for x in (samples, data.centres()))
    mode = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    offset = points - centres[mode]
    near = offset.norm(dim=1) <= radius * data.sigma
    return Assigned(near.double().mean().item(), mode[near], offset[near], len(centres))


def some_assigned(metric: Metric, samples: Tensor, data: Dataset, radius: float) -> Assigned:
    """Returns the same, for what is undefined without any high-quality sample.

    Raises:
        ValueError: If there is none.
    """
    found = assigned(metric, samples, data, radius)
    if not len(found.mode):
        raise ValueError(
            f"{metric.label!r} is undefined, since no sample lies within {radius:g} standard deviations of a "
            f"centre of {type(data).__name__}"
        )
    return found


@dataclass(frozen=True)
class ModesFound(Metric):
    r"""How many modes have at least ``minimum`` high-quality samples.

    The literature counts a mode as found if one high-quality sample is assigned to it, and draws 10 000
    samples or more.

    Arguments:
        radius: Up to how many standard deviations :math:`r` from its centre a sample is of high quality.
        minimum: How many such samples a mode needs.
    """

    lower_is_better: ClassVar[bool] = False
    radius: float = 4.0
    minimum: int = 1

    def __post_init__(self) -> None:
        positive(self, "radius", "minimum")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "modes"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the number of modes found. The split is not looked at."""
        counts = assigned(self, samples, data, self.radius).counts()
        return float((counts >= self.minimum).sum())

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"radius": self.radius, "ties": "<=", "minimum": self.minimum}


@dataclass(frozen=True)
class HighQuality(Metric):
    r"""The percentage of samples that are of high quality, from 0 to 100.

    Arguments:
        radius: Up to how many standard deviations :math:`r` from its centre a sample is of high quality.
    """

    lower_is_better: ClassVar[bool] = False
    radius: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "radius")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "high quality %"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the percentage. The split is not looked at."""
        return 100 * assigned(self, samples, data, self.radius).share

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"radius": self.radius, "ties": "<="}


@dataclass(frozen=True)
class HighQualitySpread(Metric):
    r"""The standard deviation, per coordinate, of high-quality samples about the centres of their modes.

    .. math:: \sqrt{\frac{1}{H D} \sum_{i=1}^{H} \| x_i - \mu_{k(x_i)} \|^2}

    over the :math:`H` high-quality samples, in the units of the data. The centres are those of the mixture,
    not the samples' means, so a mode that is missed by a little counts as spread. Perfect samples come close
    to the mixture's :math:`\sigma`, in the plane to :math:`0.9987 \, \sigma` at :math:`r = 4`; less is too
    sharp, and samples flat on the disc come to :math:`r \sigma / 2`. Lower is better only above
    :math:`\sigma`.

    Definitions differ: some code takes the samples' own means and averages over modes, and papers state it
    for data before any scaling. Compare ratios to :math:`\sigma`.

    Arguments:
        radius: Up to how many standard deviations :math:`r` from its centre a sample is of high quality.
    """

    lower_is_better: ClassVar[bool] = True
    radius: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "radius")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "high-quality std"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the standard deviation. The split is not looked at."""
        return some_assigned(self, samples, data, self.radius).offset.square().mean().sqrt().item()

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"radius": self.radius, "ties": "<=", "about": "centres of the mixture", "per": "coordinate"}


@dataclass(frozen=True)
class ModeBalance(Metric):
    r"""The Kullback-Leibler divergence, in nats, of the modes' shares from equal ones.

    .. math:: \sum_{k=1}^{K} p_k \log(K \, p_k)

    where :math:`p_k` is the share of the high-quality samples that is assigned to mode :math:`k`. It lies
    between 0 and :math:`\log K`; :math:`H` independent high-quality samples of the mixture itself have about
    :math:`(K - 1) / 2 H`.

    Arguments:
        radius: Up to how many standard deviations :math:`r` from its centre a sample is of high quality.
    """

    lower_is_better: ClassVar[bool] = True
    radius: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "radius")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "mode KL"

    def value(
        self, samples: Tensor, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the divergence. The split is not looked at."""
        counts = some_assigned(self, samples, data, self.radius).counts().double()
        shares = counts / counts.sum()
        return math.log(len(shares)) - torch.special.entr(shares).sum().item()

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"radius": self.radius, "ties": "<=", "unit": "nat"}
