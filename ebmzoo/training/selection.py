"""Keeping the best model by the quality of its samples on held-out data.

Papers that train an energy by short chains often stop when samples begin to deteriorate, by eye. This is the
same as a rule. The split that chooses is not the split that is reported on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import SPLITS, Dataset
from ebmzoo.fields import FieldError, added, positive
from ebmzoo.metrics.metric import Metric
from ebmzoo.models import Model, NoEnergy, chunk_sizes, in_chunks
from ebmzoo.samplers.draw import Sampler
from ebmzoo.training.checkpoint import Progress
from ebmzoo.training.log import Log
from ebmzoo.training.team import Team


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
        shard: The number of samples that are drawn at once, or None for all.
    """

    metric: Metric
    sampler: Sampler
    every: int
    count: int
    patience: int | None = None
    split: str = "valid"
    watch: tuple[str, ...] = added(())
    shard: int | None = added(None)

    def __post_init__(self) -> None:
        positive(self, "count")
        if self.shard is not None:
            positive(self, "shard")
        _check(self)
        if self.metric.scores != "samples":
            raise FieldError(self, "metric", "a metric of samples; ModelSelection takes those of models")

    def subject(self, model: Model, rng: Generator) -> Tensor:
        """Returns samples of the model."""
        return drawn_in_shards(self.sampler, model, self.count, self.shard, rng)

    def remarks(self, model: Model, subject: Any, data: Dataset) -> dict[str, float]:
        """Returns the energy gap on the training data and on the split that chooses, for the log.

        Where an energy learns its training data by heart, the first grows and the second does not.
        """
        if isinstance(model.energy, NoEnergy):
            return {}
        samples = _mean_energy(model, subject)
        gaps = {}
        for split in ("train", self.split):
            x = data.restored(data.stored(split)[: self.count].to(subject.device))
            gaps[f"energy_gap/{split}"] = samples - _mean_energy(model, x)
        return gaps


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
        if self.metric.scores != "model":
            raise FieldError(self, "metric", "a metric of models; Selection takes those of samples")

    def subject(self, model: Model, rng: Generator) -> Model:
        """Returns the model."""
        del rng
        return model

    def remarks(self, model: Model, subject: Any, data: Dataset) -> dict[str, float]:
        """Returns nothing: all there is to say of a model is its score."""
        del model, subject, data
        return {}


Rule = Selection | ModelSelection


def _check(rule: Rule) -> None:
    positive(rule, "every")
    if rule.patience is not None:
        positive(rule, "patience")
    if rule.split not in ("train", "valid"):
        raise FieldError(rule, "split", "a split that is not reported on: 'train' or 'valid'")
    if not set(rule.watch) <= set(SPLITS) - {rule.split}:
        raise FieldError(rule, "watch", f"splits other than {rule.split!r}: {', '.join(SPLITS)}")


def drawn_in_shards(sampler: Sampler, model: Model, count: int, shard: int | None, rng: Generator) -> Tensor:
    """Returns ``count`` samples of a model, ``shard`` of them drawn at once, or all."""
    return torch.cat([sampler.draw(model, size, rng) for size in chunk_sizes(count, shard or count)])


@torch.no_grad()
def _mean_energy(model: Model, x: Tensor) -> float:
    return float(in_chunks(model.energy, x).mean())


@dataclass(frozen=True)
class Look:
    """What a selection sees of a model.

    Arguments:
        scores: The score on each split that chooses or is watched.
        remarks: What else goes to the log.
    """

    scores: dict[str, float]
    remarks: dict[str, float]


class Referee:
    """Carries out a selection during one run.

    Arguments:
        selection: The rule.
        examine: Looks at the model at a given number of updates.
    """

    def __init__(self, selection: Rule, examine: Callable[[Model, int], Look]):
        self.selection, self.examine = selection, examine

    def look(self, model: Model, progress: Progress, log: Log, team: Team) -> bool:
        """Scores the model if it is time to, and returns whether training should stop.

        With several processes the first one scores, and tells the others.
        """
        if progress.step % self.selection.every:
            return False
        look = team.from_first(lambda: self.examine(model, progress.step))
        label = self.selection.metric.label
        log.note(progress.step, {f"{label}/{split}": value for split, value in look.scores.items()})
        log.note(progress.step, look.remarks)
        value = look.scores[self.selection.split]
        seen: dict[str, Any] = progress.selection
        seen.setdefault("scores", []).append([progress.step, value])
        for split in self.selection.watch:
            watched = [progress.step, look.scores[split]]
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

    def settle(self, progress: Progress, seen: str) -> bool:
        """Notes that training diverged for good, and returns whether there is a best model to end with."""
        if "model" not in progress.selection:
            return False
        progress.selection["diverged"] = {"step": progress.step, "saw": seen}
        return True

    def take_best(self, model: Model, progress: Progress) -> None:
        """Puts the best model's weights into ``model``, if any was scored."""
        if "model" in progress.selection:
            model.load_state_dict(progress.selection["model"])
