"""What a training took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Generator

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError
from ebmzoo.metrics.metric import Metric, Subject
from ebmzoo.store import Recipe

UNITS = {
    "updates": ("updates",),
    "gradients": ("data_drawn", "gradient_evaluations"),
    "seconds": ("seconds",),
}
"""What is added up for each unit, as the record of a training has it."""


@dataclass(frozen=True)
class TrainingCost(Metric):
    """What the training of a model took, without that of its base and whatever else it stands on.

    In *gradients*, every datum of a minibatch counts as one, and every step of a chain as one for each chain:
    each is a pass through networks and back. In *seconds*, all counts, a selection's looks included.

    Arguments:
        unit: ``"updates"``, ``"gradients"`` or ``"seconds"``.
    """

    lower_is_better: ClassVar[bool] = True
    scores: ClassVar[Subject] = "record"
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise FieldError(self, "unit", f"one of {', '.join(UNITS)}")

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return f"training {self.unit}"

    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the number.

        Raises:
            ValueError: If the record is of an earlier version, which did not note all that is added up.
        """
        del data, split, get, rng
        if missing := [name for name in UNITS[self.unit] if name not in subject]:
            raise ValueError(f"the model was trained by a version that did not record its {missing[0]}")
        return float(sum(subject[name] for name in UNITS[self.unit]))

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value besides the training."""
        return {"unit": self.unit, "of": "the training alone"}
