"""Keeping the best model by the quality of its samples on held-out data.

Papers that train an energy by short chains often stop when samples begin to deteriorate, by eye. This is the
same as a rule. The split that chooses is not the split that is reported on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from ebmzoo.data.dataset import SPLITS
from ebmzoo.fields import FieldError, added, positive
from ebmzoo.metrics.metric import Metric
from ebmzoo.models import Model
from ebmzoo.samplers.draw import Sampler
from ebmzoo.training.checkpoint import Progress


@dataclass(frozen=True)
class Selection:
    """Scores samples during training, keeps the best model and stops when none better comes.

    Arguments:
        metric: The score.
        sampler: How samples are drawn.
        every: How many updates lie between two scores.
        count: How many samples are scored.
        patience: After how many scores without a better one training stops; None to go on to the end.
        split: The split that samples are compared with.
        watch: Splits whose scores are recorded too, and choose nothing.
    """

    metric: Metric
    sampler: Sampler
    every: int
    count: int
    patience: int | None = None
    split: str = "valid"
    watch: tuple[str, ...] = added(())

    def __post_init__(self) -> None:
        positive(self, "count")
        _check(self)
        if self.metric.of_model:
            raise FieldError(self, "metric", "a metric of samples; ModelSelection takes those of models")

    def subject(self, model: Model, rng: Generator) -> Tensor:
        """Returns samples of the model."""
        return self.sampler.draw(model, self.count, rng)


@dataclass(frozen=True)
class ModelSelection:
    """Scores the model itself during training, such as by its likelihood, and keeps the best.

    Arguments:
        metric: The score.
        every: How many updates lie between two scores.
        patience: After how many scores without a better one training stops; None to go on to the end.
        split: The split that the model is scored on.
        watch: Splits whose scores are recorded too, and choose nothing.
    """

    metric: Metric
    every: int
    patience: int | None = None
    split: str = "valid"
    watch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)
        if not self.metric.of_model:
            raise FieldError(self, "metric", "a metric of models; Selection takes those of samples")

    def subject(self, model: Model, rng: Generator) -> Model:
        """Returns the model."""
        del rng
        return model


Rule = Selection | ModelSelection


def _check(rule: Rule) -> None:
    positive(rule, "every")
    if rule.patience is not None:
        positive(rule, "patience")
    if rule.split not in ("train", "valid"):
        raise FieldError(rule, "split", "a split that is not reported on: 'train' or 'valid'")
    if not set(rule.watch) <= set(SPLITS) - {rule.split}:
        raise FieldError(rule, "watch", f"splits other than {rule.split!r}: {', '.join(SPLITS)}")


class Referee:
    """Carries out a selection during one run.

    Arguments:
        selection: The rule.
        score: Scores the model at a given number of updates on a split.
    """

    def __init__(self, selection: Rule, score: Callable[[Model, int, str], float]):
        self.selection, self.score = selection, score

    def look(self, model: Model, progress: Progress) -> bool:
        """Scores the model if it is time to, and returns whether training should stop."""
        if progress.step % self.selection.every:
            return False
        value = self.score(model, progress.step, self.selection.split)
        seen: dict[str, Any] = progress.selection
        seen.setdefault("scores", []).append([progress.step, value])
        for split in self.selection.watch:
            watched = [progress.step, self.score(model, progress.step, split)]
            seen.setdefault("watched", {}).setdefault(split, []).append(watched)
        sign = 1.0 if self.selection.metric.lower_is_better else -1.0
        if "model" not in seen or sign * value < sign * seen["value"]:
            kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            seen.update(value=value, step=progress.step, model=kept, since=0)
        else:
            seen["since"] += 1
        return self.satisfied(progress)

    def satisfied(self, progress: Progress) -> bool:
        """Whether training should stop, since patience has run out."""
        patience = self.selection.patience
        return patience is not None and progress.selection.get("since", 0) >= patience

    def take_best(self, model: Model, progress: Progress) -> None:
        """Puts the best model's weights into ``model``, if any was scored."""
        if "model" in progress.selection:
            model.load_state_dict(progress.selection["model"])
