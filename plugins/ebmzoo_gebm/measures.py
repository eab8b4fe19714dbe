"""What generalized energy-based models are measured by, besides their samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator

from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive
from ebmzoo.metrics import Metric, SampledPartition, Subject
from ebmzoo.metrics.likelihood import check_model
from ebmzoo.metrics.metric import check_finite
from ebmzoo.metrics.recognition import OfSamplesAlone
from ebmzoo.models import Model, decoded, frozen, in_chunks
from ebmzoo.samplers import Chains
from ebmzoo.store import Recipe


@dataclass(frozen=True)
class KALE(Metric):
    r"""The KL Approximate Lower-bound Estimate of the data's divergence from the base, in nats.

    .. math:: -\mathbb{E}_p E - \log \mathbb{E}_b e^{-E} \le \mathrm{KL}(p \| b)

    with the energy that a model learnt, on data that it did not learn from. Zero if the energy is flat, below
    zero if it is worse than that, and tight at :math:`E = -\log dp/db`. So of two energies over one base the
    one with the higher value is the better one; of two bases, each with an energy that is as good as can be,
    the one with the lower value.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Section 3.1
        | https://arxiv.org/abs/2003.05033

    Arguments:
        partition: How the expectation over the base is taken.
    """

    lower_is_better: ClassVar[bool] = False
    scores: ClassVar[Subject] = "model"
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
        check_model(self, subject)
        x = data.load(split).to(subject.prior.anchor)
        energies = in_chunks(subject.energy, x).double()
        return float(-energies.mean() - self.partition.log(subject, rng).double())

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"unit": "nats", "samples": self.partition.count}


@dataclass(frozen=True)
class ClassChanges(OfSamplesAlone):
    """The share of chains that end in another class than they began in, in percent.

    It tells chains that move between modes from those that stay where the base put them. Chains begin where
    the sampler has them begin; a classifier says of which class their decoded first and last states are.

    Arguments:
        sampler: The chains.
        classifier: The recipe of a trained classifier.
        count: How many chains there are.
    """

    lower_is_better: ClassVar[bool] = False
    scores: ClassVar[Subject] = "model"
    sampler: Chains
    classifier: Recipe
    count: int = 1000

    def __post_init__(self) -> None:
        positive(self, "count")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "class changes %"

    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the percentage.

        Raises:
            FieldError: If samples are scored, or the classifier is none.
            ValueError: If a chain diverged.
        """
        del data, split
        if not isinstance(subject, Model):
            raise FieldError(self, "sampler", "used on a trained model, not on samples of one")
        energy = get(self.classifier).energy
        if not isinstance(energy, ClassifierEnergy):
            raise FieldError(self, "classifier", "a trained Classifier")
        with frozen(subject):
            ends = [decoded(subject, u) for u in self.sampler.ends(subject, self.count, rng)]
        for samples in ends:
            check_finite(samples)
        with torch.no_grad():
            first, last = (energy.logits(samples).argmax(1) for samples in ends)
        return 100 * float((first != last).double().mean())

    def described(self) -> dict[str, Any]:
        """Returns all settings but the sampler, which is what rows differ in."""
        return {name: value for name, value in super().described().items() if name != "sampler"}

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"chains": self.count, "classifier": self.classifier.key}
