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
from ebmzoo.models import Model, check_energies, evaluating
from ebmzoo.recipes.model import ModelRecipe
from ebmzoo.runtime import Runtime
from ebmzoo.store import (
    Recipe,
    Store,
    StoreError,
    load_tensors,
    save_tensors,
    unfinished,
)
from ebmzoo.training import (
    Batches,
    Log,
    Look,
    Method,
    ModelSelection,
    Plateau,
    Referee,
    Selection,
    Share,
    Stop,
    Team,
    Watch,
    fit,
    gather_team,
)
from ebmzoo.training.checkpoint import Progress
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
        plateau: When learning rates are lowered because samples come no nearer to the data, or None.
        split: The split that is trained on. What only calibrates a trained model takes data that the model
            has not seen.
        processes: How many processes train it together, each on its part of every minibatch, with chains and
            noise of its own, from the mean of all gradients.
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
    plateau: Plateau | None = added(None)
    split: str = added("train")
    processes: int = added(1)

    def __post_init__(self) -> None:
        positive(self, "steps", "batch_size", "processes")
        if self.batch_size % self.processes:
            raise FieldError(self, "batch_size", f"a multiple of {self.processes}, the number of processes")
        not_negative(self, "seed")
        if self.divergence.settles and self.selection is None:
            raise FieldError(self, "selection", "a rule that says which model SettleForBest is to keep")
        if self.split not in SPLITS:
            raise FieldError(self, "split", f"one of {', '.join(SPLITS)}")

    def reseeded(self, index: int) -> Trained:
        """Returns the same recipe with ``index`` added to its seed and to those of its bases."""
        base = None if self.base is None else self.base.reseeded(index)
        return dataclasses.replace(self, seed=self.seed + index, base=base)

    def needs(self) -> tuple[Recipe, ...]:
        """Returns the recipes among the fields' values, and what else samples are compared with."""
        more: list[Recipe] = []
        if self.selection is not None:
            for split in (self.selection.split, *self.selection.watch):
                more += self.selection.metric.needs(self.data, split)
        if self.plateau is not None:
            more.append(self.plateau.compared_with(self.data))
        return tuple(dict.fromkeys((*super().needs(), *more)))

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Trains the model.

        Raises:
            LostProcess: If one of several processes fails.
        """
        for need in self.needs():  # before the team gathers, since each may gather one of its own
            if store.state(need) != "kept":
                store.get(need)
        runtime = store.runtime
        others = (_assist, self, store.root, runtime.compiled, folder)
        with gather_team(self.processes, runtime.device, *others) as together:
            data = self.data.stored(self.split)
            model, done = self._train(store, folder, data, together)
        save_tensors(unfinished(folder, self), model.state_dict())
        return {
            "updates": done.step,
            "seconds": round(done.seconds, 3),
            "gradient_evaluations": done.gradients,
            "data_drawn": done.data,
            "attempts": done.attempts,
            "last": done.last,
            "selection": {name: value for name, value in done.selection.items() if name != "model"},
            "learning_rates_lowered_at": done.plateau.get("lowered", []),
            "data": {"class": type(self.data).__name__, f"{self.split}_sha256": fingerprint(data)},
        }

    def _train(self, store: Store, folder: Path, data: Tensor, team: Team) -> tuple[Model, Progress]:
        """Trains the model as one of a team, and returns it as it came out of the last update."""
        device = team.device
        labels = self.data.labels(self.split)
        labels = None if labels is None else labels.to(device)
        share, order = Share(team.rank, team.size), self.rng("batches", device)
        with torch.enable_grad(), torch.random.fork_rng():  # whoever asked may want none of its own
            torch.manual_seed(self.rng("weights").initial_seed())
            model = self._build(store).to(device)
            check_energies(model)
            model.compiled = store.runtime.compiled
            model.chains = team.part(model.chains)
            learner = self.method.learner(model)
            done = fit(
                learner,
                Batches(data.to(device), labels, self.batch_size, order, self.data.restored, share),
                self.steps,
                self.rng(team.name("training"), device),
                folder / "checkpoint",
                policy=self.divergence,
                referee=self._referee(store),
                watch=self._watch(store),
                log=Log(folder / "log" if team.leads else None, self.steps),
                deadline=store.runtime.deadline,
                label=f"{type(self.method).__name__} · seed {self.seed}",
                team=team,
            )
        return learner.model, done

    def assist(self, store: Store, folder: Path, team: Team) -> None:
        """Trains the model as another than the first of a team, and keeps nothing."""
        self._train(store, folder, self.data.stored(self.split), team)

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

    def _watch(self, store: Store) -> Watch | None:
        plateau = self.plateau
        if plateau is None:
            return None

        def examine(model: Model, step: int) -> Tensor:
            rng = self.rng(f"plateau {step}", store.runtime.torch_device())
            with torch.random.fork_rng(), evaluating(model):
                return plateau.look(model, self.data, store.get, rng)

        return Watch(plateau, examine)


def _assist(team: Team, recipe: Trained, root: Path, compiled: bool, folder: Path) -> None:
    """Is what the other processes of a training run do."""
    recipe.assist(Store(root, Runtime(str(team.device), compiled)), folder, team)


def fingerprint(data: Tensor) -> str:
    """Returns the SHA-256 of a tensor's values."""
    return hashlib.sha256(data.cpu().contiguous().numpy().tobytes()).hexdigest()
