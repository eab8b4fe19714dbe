"""Scores: what a metric says of samples, or of a model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ebmzoo.data.dataset import SPLITS
from ebmzoo.fields import FieldError
from ebmzoo.metrics.metric import Metric, finite
from ebmzoo.recipes.model import ModelRecipe
from ebmzoo.recipes.samples import Samples
from ebmzoo.recipes.trained import Trained
from ebmzoo.store import (
    Recipe,
    Store,
    canonical,
    unfinished,
)


@dataclass(frozen=True)
class Score(Recipe):
    """What a metric says of samples, or of a model, compared with one split of the data.

    Arguments:
        subject: What is scored.
        metric: The metric.
        split: The split that the subject is compared with.
    """

    artifact: ClassVar[str] = "artifact.json"

    subject: Samples | ModelRecipe
    metric: Metric
    split: str = "test"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise FieldError(self, "split", f"one of {', '.join(SPLITS)}")
        of_samples = self.metric.scores == "samples"
        if of_samples != isinstance(self.subject, Samples):
            kinds = ("samples", "a trained model") if of_samples else ("a trained model", "samples")
            raise FieldError(
                self, "subject", f"{kinds[0]}, since {self.metric.label} does not score {kinds[1]}"
            )

    @property
    def label(self) -> str:
        """The name of the number that a table prints."""
        return self.metric.label

    def reseeded(self, index: int) -> Score:
        """Returns the same recipe for the subject with ``index`` added to its seeds; the metric stays."""
        return dataclasses.replace(self, subject=self.subject.reseeded(index))

    def needs(self) -> tuple[Recipe, ...]:
        """Returns the recipes among the fields' values, and what else the metric compares with."""
        return tuple(dict.fromkeys((*super().needs(), *self.metric.needs(self.subject.data, self.split))))

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Scores the subject.

        Raises:
            ValueError: If the score is not a finite number.
        """
        self.metric.check_ready()
        subject = store.get(self.subject)
        if self.metric.scores == "record":
            subject = store.run(self.subject)
        for need in self.needs():
            store.get(need)  # so that its time does not count here
        began = time.monotonic()
        rng = self.rng("metric", store.runtime.torch_device())
        value = self.metric.value(subject, self.subject.data, self.split, store.get, rng)
        value = finite(value, self.metric)
        unfinished(folder, self).write_text(json.dumps({"value": value}))
        return {"seconds": round(time.monotonic() - began, 3), "protocol": self.protocol()}

    def open(self, store: Store, kept: Path) -> float:
        """Returns the score."""
        return float(json.loads(kept.read_text())["value"])

    def protocol(self) -> dict[str, Any]:
        """Returns what the value depends on besides the model; scores are comparable if these are equal."""
        generated = self.subject.count if isinstance(self.subject, Samples) else None
        protocol = {
            "metric": self.metric.described(),
            "details": self.metric.protocol(),
            "generated": generated,
            **self.metric.reference(self.subject.data, self.split),
        }
        name = hashlib.sha256(canonical(protocol).encode()).hexdigest()[:8]
        return {"id": name, **protocol}


@dataclass(frozen=True)
class BestSeen(Score):
    """The best score that the selection of a run saw on a split that it watched.

    Whoever reports this number has chosen the model by the data that it is reported on, so it is too good. It
    is here because papers do so, and to show by how much.

    Arguments:
        subject: The trained model.
        metric: The metric of its selection.
        split: The split that the selection watched.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        trained = self.subject
        if (
            not isinstance(trained, Trained)
            or (selection := trained.selection) is None
            or self.split not in selection.watch
            or selection.metric != self.metric
        ):
            raise FieldError(
                self,
                "subject",
                f"a trained model whose selection watches {self.split!r} with the same metric",
            )
        if selection.every > trained.steps:
            raise FieldError(selection, "every", f"at most Trained.steps, {trained.steps}, to see any score")

    @property
    def label(self) -> str:
        """The name of the number that a table prints."""
        return f"best {self.metric.label} seen"

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Looks up the score."""
        store.get(self.subject)
        scores = store.run(self.subject)["selection"]["watched"][self.split]
        step, value = (min if self.metric.lower_is_better else max)(scores, key=lambda score: score[1])
        unfinished(folder, self).write_text(json.dumps({"value": value}))
        return {"seconds": 0.0, "step": step, "protocol": self.protocol()}

    def protocol(self) -> dict[str, Any]:
        """Returns what the value depends on besides the model."""
        protocol = super().protocol()
        return protocol | {"id": f"best-{protocol['id']}", "chosen_on": self.split}
