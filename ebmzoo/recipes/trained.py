"""Trained models."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ebmzoo.data.dataset import SPLITS, Dataset
from ebmzoo.fields import FieldError, added, not_negative, positive
from ebmzoo.metrics.metric import finite
from ebmzoo.models import Model, evaluating
from ebmzoo.recipes.model import ModelRecipe
from ebmzoo.store import (
    Recipe,
    Store,
    StoreError,
    load_tensors,
    save_tensors,
    unfinished,
)
from ebmzoo.training import Batches, Log, Look, Method, ModelSelection, Referee, Selection, Stop, fit
from ebmzoo.training.divergence import Policy


@dataclass(frozen=True)
class Trained(ModelRecipe):
    """A model, trained by a method on a data set.

    Arguments:
        method: The method.
        data: The data set.
        steps: The number of updates, as the method counts them.
        batch_size: The number of data in a minibatch.
        base: The trained model that the method starts from, or None.
        seed: Together with all other fields, it determines every random number.
        divergence: What is done about divergence.
        selection: How the best model is chosen, or None to keep the last.
        split: The split that is trained on. What only calibrates a trained model takes data that the model
            has not seen.
    """

    artifact: ClassVar[str] = "artifact.safetensors"

    method: Method
    data: Dataset
    steps: int
    batch_size: int
    base: Trained | None = None
    seed: int = 0
    divergence: Policy = Stop()
    selection: Selection | ModelSelection | None = None
    split: str = added("train")

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size")
        not_negative(self, "seed")
        if self.split not in SPLITS:
            raise FieldError(self, "split", f"one of {', '.join(SPLITS)}")

    def reseeded(self, index: int) -> Trained:
        """Returns the same recipe with ``index`` added to its seed and to those of its bases."""
        base = None if self.base is None else self.base.reseeded(index)
        return dataclasses.replace(self, seed=self.seed + index, base=base)

    def needs(self) -> tuple[Recipe, ...]:
        """Returns the recipes among the fields' values, and what else the selection compares with."""
        selection = self.selection
        if selection is None:
            return super().needs()
        splits = (selection.split, *selection.watch)
        more = (need for split in splits for need in selection.metric.needs(self.data, split))
        return tuple(dict.fromkeys((*super().needs(), *more)))

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Trains the model."""
        device = store.runtime.torch_device()
        data, labels = self.data.stored(self.split).to(device), self.data.labels(self.split)
        labels = None if labels is None else labels.to(device)
        with torch.enable_grad(), torch.random.fork_rng():  # whoever asked may want none of its own
            torch.manual_seed(self.rng("weights").initial_seed())
            model = self._build(store).to(device)
            model.compiled = store.runtime.compiled
            learner = self.method.learner(model)
            done = fit(
                learner,
                Batches(data, labels, self.batch_size, self.rng("batches", device), self.data.restored),
                self.steps,
                self.rng("training", device),
                folder / "checkpoint",
                policy=self.divergence,
                referee=self._referee(store),
                log=Log(folder / "log", self.steps),
                deadline=store.runtime.deadline,
                label=f"{type(self.method).__name__} · seed {self.seed}",
            )
        save_tensors(unfinished(folder, self), learner.model.state_dict())
        return {
            "updates": done.step,
            "seconds": round(done.seconds, 3),
            "gradient_evaluations": done.gradients,
            "data_drawn": done.data,
            "attempts": done.attempts,
            "last": done.last,
            "selection": {name: value for name, value in done.selection.items() if name != "model"},
            "data": {"class": type(self.data).__name__, f"{self.split}_sha256": fingerprint(data)},
        }

    def open(self, store: Store, kept: Path) -> Model:
        """Returns the model, frozen and in evaluation mode, on the runtime's device.

        Raises:
            StoreError: If the model that was kept has other parts than this version builds.
        """
        with torch.random.fork_rng():
            model = self._build(store)
        weights = load_tensors(kept)
        if other := sorted(weights.keys() ^ model.state_dict().keys()):
            raise StoreError(
                f"the model in {kept.parent} was made by another version of ebmzoo, or of a plugin: it "
                f"differs in {len(other)} parts, such as {other[0]}. Remove the folder, and say the command "
                "again: it is made anew"
            )
        model.load_state_dict(weights)
        model.compiled = store.runtime.compiled
        return model.to(store.runtime.torch_device()).requires_grad_(False).eval()

    def _build(self, store: Store) -> Model:
        base = None if self.base is None else store.get(self.base)
        return self.method.model(self.data.shape, base)

    def _referee(self, store: Store) -> Referee | None:
        selection = self.selection
        if selection is None:
            return None
        device, metric = store.runtime.torch_device(), selection.metric

        def examine(model: Model, step: int) -> Look:
            rng = self.rng(f"selection {step}", device)
            others = {split: self.rng(f"selection {step} on {split}", device) for split in selection.watch}
            with torch.random.fork_rng(), evaluating(model):
                subject = selection.subject(model, rng)
                scores = {
                    split: finite(metric.value(subject, self.data, split, store.get, each), metric)
                    for split, each in {selection.split: rng, **others}.items()
                }
                return Look(scores, selection.remarks(model, subject, self.data))

        return Referee(selection, examine)


def fingerprint(data: Tensor) -> str:
    """Returns the SHA-256 of a tensor's values."""
    return hashlib.sha256(data.cpu().contiguous().numpy().tobytes()).hexdigest()
