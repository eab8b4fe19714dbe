"""Lower learning rates where samples come no nearer to the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive, within
from ebmzoo.metrics.features import DataFeatures, Extractor, Get, compared, extractor_of
from ebmzoo.metrics.similarity import kernel_contributions, p_of_progress
from ebmzoo.models import Model
from ebmzoo.runtime import say
from ebmzoo.samplers.draw import Sampler
from ebmzoo.store import Recipe
from ebmzoo.training.checkpoint import Progress
from ebmzoo.training.learner import Learner, scale_learning_rates
from ebmzoo.training.log import Log
from ebmzoo.training.selection import drawn_in_shards
from ebmzoo.training.team import Team


@dataclass(frozen=True)
class Plateau:
    """Lowers the learning rates when samples have come no nearer to the data for some time.

    Samples are tested against those of ``back`` updates before, by their kernel distances from the same data
    (:mod:`ebmzoo.metrics.similarity`). After ``chances`` tests in a row in which the new ones are not nearer
    the rates are multiplied by ``by``, and as many looks follow that are not tested.

    References:
        | Demystifying MMD GANs (Bińkowski et al., 2018), https://arxiv.org/abs/1801.01401
        | https://github.com/MichaelArbel/GeneralizedEBM, ``MMDScheduler``, which looks back one look more

    Arguments:
        features: The recipe of a classifier, or an extractor, in whose features images are compared.
        sampler: How samples are drawn.
        every: How many updates lie between two looks.
        back: How many updates lie between the samples that are compared.
        count: How many samples are compared, with as many data.
        level: The samples count as nearer if what is seen has at most this probability otherwise.
        chances: After how many tests in a row without progress the rates are lowered.
        by: What they are multiplied by.
        shard: The number of samples that are drawn at once, or None for all.
    """

    features: Recipe | Extractor
    sampler: Sampler
    every: int = 2000
    back: int = 20_000
    count: int = 2048
    level: float = 0.1
    chances: int = 3
    by: float = 0.8
    shard: int | None = None

    def __post_init__(self) -> None:
        positive(self, "every", "back", "chances", "by")
        within(self, "level", 0.0, 1.0)
        within(self, "by", 0.0, 1.0)
        if self.back % self.every:
            raise FieldError(self, "back", f"a multiple of {self.every}, the updates between two looks")
        if self.count < 3:
            raise FieldError(self, "count", "3 or more")
        if self.shard is not None:
            positive(self, "shard")

    def compared_with(self, data: Dataset) -> DataFeatures:
        """Returns the features of the data that samples are compared with: the first of the training data."""
        return DataFeatures(data, "train", extractor_of(self.features), self.count)

    def look(self, model: Model, data: Dataset, get: Get, rng: Generator) -> Tensor:
        """Returns what each of ``count`` samples contributes to their distance from the data."""
        samples = drawn_in_shards(self.sampler, model, self.count, self.shard, rng)
        need = self.compared_with(data)
        pair = compared(samples, need, get, need.extractor.layer, self.count, "Plateau.count")
        return kernel_contributions(*pair)


class Watch:
    """Carries out a :class:`Plateau` during one run.

    Arguments:
        plateau: The rule.
        examine: Looks at the model at a given number of updates.
    """

    def __init__(self, plateau: Plateau, examine: Callable[[Model, int], Tensor]):
        self.plateau, self.examine = plateau, examine

    def look(self, learner: Learner, progress: Progress, log: Log, team: Team) -> None:
        """Looks at the model if it is time to, and lowers the learning rates if nothing has come of them.

        With several processes the first one looks, and tells the others.
        """
        rule = self.plateau
        if progress.step % rule.every:
            return
        new = team.from_first(lambda: self.examine(learner.model, progress.step).cpu())
        seen: dict[str, Any] = progress.plateau
        looks = seen.setdefault("looks", [])
        if len(looks) == rule.back // rule.every:
            self._test(p_of_progress(new, looks.pop(0).cpu()), learner, progress, log, team)
        looks.append(new)

    def _test(self, p: float, learner: Learner, progress: Progress, log: Log, team: Team) -> None:
        rule, seen = self.plateau, progress.plateau
        log.note(progress.step, {"plateau/p": p})
        if seen.get("untested", 0):
            seen["untested"] -= 1
            return
        seen["failures"] = seen.get("failures", 0) + 1 if p > rule.level else 0
        if seen["failures"] == rule.chances:
            scale_learning_rates(learner, rule.by)
            seen.update(failures=0, untested=rule.chances)
            seen.setdefault("lowered", []).append(progress.step)
            if team.leads:
                words = f"samples come no nearer to the data; learning rates × {rule.by:g}"
                say(f"update {progress.step}: {words}")
