"""What a metric is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.store import Recipe, describe

Subject = Literal["samples", "model", "record"]
"""What a metric may score."""


class Metric(ABC):
    """One number that says how good samples are, or a model.

    A frozen dataclass, so that a recipe can name it.
    """

    lower_is_better: ClassVar[bool]

    ratio_scale: ClassVar[bool] = True
    """Whether zero means none of it, so that two values are compared by their ratio. The zero of a
    log-density depends on the unit of the data, so that only differences say something."""

    scores: ClassVar[Subject] = "samples"
    """What is scored: samples, a trained model itself, or the record of its training."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The name that a table prints, such as ``EMD`` or ``FD-digits``."""

    @abstractmethod
    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Scores samples, a model or a record, against one split of the data.

        Arguments:
            subject: The samples, of shape (N, *data.shape), the model, or the record, a mapping.
            data: The data set.
            split: The split that the samples are compared with.
            get: Opens an artifact of the store, such as a classifier whose features are compared.
            rng: The generator of whatever is random in the metric.

        Raises:
            FieldError: If the metric makes no sense on these data.
        """

    def check_ready(self) -> None:
        """Raises DataError if a file that the metric needs is absent. Asked before all else."""
        return

    def needs(self, data: Dataset, split: str) -> tuple[Recipe, ...]:
        """Returns what else of the store a comparison with a split needs, such as features of the data."""
        del data, split
        return ()

    def reference(self, data: Dataset, split: str) -> dict[str, Any]:
        """Returns what scores must have been compared with to be compared; nothing if data play no part."""
        return {"data": describe(data), "split": split}

    def described(self) -> dict[str, Any]:
        """Returns the settings in which scores must agree to be compared: all of them, for most."""
        description: dict[str, Any] = describe(self)
        return description

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value besides the number of samples: sizes, extractor, kernel, versions."""


def check_finite(samples: Tensor) -> None:
    """Raises ValueError unless there are samples and all are finite: a metric has no value for a NaN.

    Arguments:
        samples: The samples, of shape (N, *).
    """
    if len(samples) == 0:
        raise ValueError("there are no samples to score")
    wrong = int((~samples.isfinite().flatten(1).all(1)).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {len(samples)} samples are not finite, so there is nothing to score; look at the "
            "chains or the training that made them"
        )


def finite(value: float, metric: Metric) -> float:
    """Returns a score, or raises ValueError if it is no finite number."""
    if not math.isfinite(value):
        raise ValueError(f"{metric.label} of these samples is {value}")
    return float(value)


def drawn_seed(rng: Generator) -> int:
    """Returns a seed for a library that takes a number, drawn from a generator."""
    return int(torch.randint(2**31, (), generator=rng, device=rng.device))
