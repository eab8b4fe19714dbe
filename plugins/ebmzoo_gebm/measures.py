"""What generalized energy-based models are measured by, besides their samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError
from ebmzoo.metrics import Metric, SampledPartition
from ebmzoo.models import Model
from ebmzoo.store import Recipe


@dataclass(frozen=True)
class KALE(Metric):
    r"""The KL Approximate Lower-bound Estimate of the data's divergence from the base, in nats.

    .. math:: -\mathbb{E}_p E - \log \mathbb{E}_b e^{-E} \le \mathrm{KL}(p \| b)

    with the energy that a model learnt, on data that it did not learn from. Zero if the energy is flat, below
    zero if it is worse than that, and tight at :math:`E = -\log dp/db`.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Section 3.1
        | https://arxiv.org/abs/2003.05033

    Arguments:
        partition: How the expectation over the base is taken.
    """

    lower_is_better: ClassVar[bool] = True
    of_model: ClassVar[bool] = True
    partition: SampledPartition = SampledPartition()

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "KALE"

    @torch.no_grad()
    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the estimate, in nats.

        Raises:
            FieldError: If samples are scored.
        """
        if not isinstance(subject, Model):
            raise FieldError(self, "partition", "used on a trained model, not on samples of one")
        x = data.load(split).to(subject.prior.anchor)
        energies = torch.cat([subject.energy(part) for part in x.split(1000)]).double()
        return float(-energies.mean() - self.partition.log(subject, rng).double())

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"unit": "nats", "samples": self.partition.count}
