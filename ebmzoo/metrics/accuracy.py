"""How often a classifier is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import added, positive
from ebmzoo.metrics.metric import Metric, Subject
from ebmzoo.models import in_chunks
from ebmzoo.store import Recipe


@runtime_checkable
class Classifying(Protocol):
    """An energy that classifies."""

    def logits(self, x: Tensor) -> Tensor:
        """Returns one logit a class, (B, K), for data (B, *)."""
        ...


@dataclass(frozen=True)
class Accuracy(Metric):
    """The percentage of data whose class is the one with the largest logit.

    Arguments:
        count: How many data are classified, the first of the split; None for all of it.
    """

    lower_is_better: ClassVar[bool] = False
    scores: ClassVar[Subject] = "model"
    count: int | None = added(None)

    def __post_init__(self) -> None:
        if self.count is not None:
            positive(self, "count")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "accuracy %"

    @torch.no_grad()
    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the percentage.

        Raises:
            ValueError: If the model is no classifier, or the data have no classes.
        """
        del get, rng
        labels = data.labels(split)
        if not isinstance(subject.energy, Classifying) or labels is None:
            raise ValueError("accuracy is that of a classifier, on data with classes")
        x = data.load(split)[: self.count].to(subject.prior.anchor)
        found = in_chunks(subject.energy.logits, x).argmax(1)
        return 100 * float((found.cpu() == labels[: self.count]).double().mean())

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        data = "the whole split" if self.count is None else f"the first {self.count}"
        return {"unit": "%", "data": data}
