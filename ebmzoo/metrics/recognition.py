"""What a classifier of the store makes of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, within
from ebmzoo.metrics.accuracy import Classifying
from ebmzoo.metrics.metric import Metric, check_finite
from ebmzoo.models import in_chunks
from ebmzoo.store import Recipe

Get = Callable[[Recipe], Any]


class OfSamplesAlone(Metric):
    """A metric that looks at no data."""

    def reference(self, data: Dataset, split: str) -> dict[str, Any]:
        """Returns nothing."""
        del data, split
        return {}


@dataclass(frozen=True)
class Recognised(OfSamplesAlone):
    """The percentage of samples that a classifier is sure of, whatever it takes them for.

    Of data it is sure of most; of noise a classifier may be sure as well, since it has never seen any. So
    this tells a bad model from a good one, and not that a model is good.

    Arguments:
        classifier: The recipe of the classifier.
        certainty: The probability that one class must have.
    """

    lower_is_better: ClassVar[bool] = False
    classifier: Recipe
    certainty: float = 0.9

    def __post_init__(self) -> None:
        within(self, "certainty", 0.0, 1.0)

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "recognised %"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the percentage.

        Raises:
            ValueError: If samples are not finite, or the classifier is none.
        """
        probabilities = _probabilities(samples, get(self.classifier))
        return _percentage(probabilities.amax(1) >= self.certainty)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"classifier": self.classifier.key, "certainty": self.certainty}


@dataclass(frozen=True)
class Agreement(OfSamplesAlone):
    """The percentage of samples that a classifier takes for one of some classes.

    Arguments:
        name: What the table calls it, such as ``disc``.
        classifier: The recipe of the classifier.
        classes: The classes.
    """

    lower_is_better: ClassVar[bool] = False
    name: str
    classifier: Recipe
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.classes or min(self.classes) < 0:
            raise FieldError(self, "classes", "at least one number of a class")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"{self.name} %"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the percentage.

        Raises:
            ValueError: If samples are not finite, or the classifier has fewer classes.
        """
        probabilities = _probabilities(samples, get(self.classifier))
        if max(self.classes) >= probabilities.shape[1]:
            raise ValueError(
                f"the classifier has {probabilities.shape[1]} classes, not {max(self.classes) + 1}"
            )
        wanted = torch.tensor(self.classes, device=probabilities.device)
        return _percentage(torch.isin(probabilities.argmax(1), wanted))

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"classifier": self.classifier.key, "classes": list(self.classes)}


@dataclass(frozen=True)
class Saturated(OfSamplesAlone):
    """The percentage of pixels that are as dark or as bright as can be.

    Long chains of energies that were learnt from short ones go there. The data have their own share.

    Arguments:
        margin: How near to -1 or 1 a pixel counts; half a grey level of 256 by default.
    """

    lower_is_better: ClassVar[bool] = True
    margin: float = 1 / 255

    def __post_init__(self) -> None:
        within(self, "margin", 0.0, 1.0)

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "saturated %"

    def value(self, samples: Tensor, data: Dataset, split: str, get: Get, rng: Generator) -> float:
        """Returns the percentage.

        Raises:
            ValueError: If samples are not finite.
        """
        check_finite(samples)
        return _percentage(samples.abs() >= 1 - self.margin)

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"margin": self.margin}


@torch.no_grad()
def _probabilities(samples: Tensor, model: Any) -> Tensor:
    check_finite(samples)
    if not isinstance(model.energy, Classifying):
        raise ValueError("samples are recognised by a classifier, and this model is none")
    return in_chunks(lambda part: model.energy.logits(part).softmax(1), samples.to(model.prior.anchor))


def _percentage(true: Tensor) -> float:
    return 100 * float(true.double().mean())
