"""Keeping the best model by the quality of its samples on held-out data.

Papers that train an energy by short chains often stop when samples begin to deteriorate, by eye. This is the
same as a rule. The split that chooses is not the split that is reported on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ebmzoo.fields import FieldError, positive
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
    """

    metric: Metric
    sampler: Sampler
    every: int
    count: int
    patience: int | None = None
    split: str = "valid"

    def __post_init__(self) -> None:
        positive(self, "every", "count")
        if self.patience is not None:
            positive(self, "patience")
        if self.split not in ("train", "valid"):
            raise FieldError(self, "split", "a split that is not reported on: 'train' or 'valid'")


class Referee:
    """Carries out a selection during one run.

    Arguments:
        selection: The rule.
        score: Scores the model at a given number of updates.
    """

    def __init__(self, selection: Selection, score: Callable[[Model, int], float]):
        self.selection, self.score = selection, score

    def look(self, model: Model, progress: Progress) -> bool:
        """Scores the model if it is time to, and returns whether training should stop."""
        if progress.step % self.selection.every:
            return False
        value = self.score(model, progress.step)
        seen: dict[str, Any] = progress.selection
        seen.setdefault("scores", []).append([progress.step, value])
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
