"""The three kinds of things that are made: trained models, samples of them, and scores.

``Trained(method, data, base)`` -> ``Samples(model, sampler, count)`` -> ``Score(subject, metric, split)``:
each names the one before as a field, so that a score's key says everything that the number depends on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ebmzoo.data.dataset import SPLITS, Dataset
from ebmzoo.fields import FieldError, added, not_negative, positive
from ebmzoo.metrics.metric import Metric
from ebmzoo.models import Evaluations, Model, counting_evaluations, evaluating
from ebmzoo.runtime import progress
from ebmzoo.samplers import Sampler, recording_chains
from ebmzoo.store import (
    Recipe,
    Store,
    StoreError,
    canonical,
    describe,
    load_tensors,
    replace,
    save_tensors,
    unfinished,
    write,
)
from ebmzoo.training import Batches, Log, Method, ModelSelection, Referee, Selection, Stop, fit
from ebmzoo.training.divergence import Policy


@dataclass(frozen=True)
class Trained(Recipe):
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
        device = store.runtime.torch_device()

        def score(model: Model, step: int, split: str) -> float:
            purpose = f"selection {step}" if split == selection.split else f"selection {step} on {split}"
            rng = self.rng(purpose, device)
            with torch.random.fork_rng(), evaluating(model):
                subject = selection.subject(model, rng)
                value = selection.metric.value(subject, self.data, split, store.get, rng)
            return finite(value, selection.metric)

        return Referee(selection, score)


@dataclass(frozen=True)
class Samples(Recipe):
    """Data drawn from a trained model.

    They are drawn shard by shard, each from a generator of its own; so they depend on neither the machine's
    memory nor on where a run was interrupted.

    Arguments:
        model: The trained model.
        sampler: How the model is sampled.
        count: The number of samples.
        shard: The number of samples that are drawn at once.
        seed: Together with all other fields, it determines every random number.
        models: How many trained models the seeds of a table go round; None for one of each seed. With one,
            the spread over seeds is that of sampling alone.
    """

    artifact: ClassVar[str] = "artifact.safetensors"

    model: Trained
    sampler: Sampler
    count: int
    shard: int = 1000
    seed: int = 0
    models: int | None = added(None)

    def __post_init__(self) -> None:
        positive(self, "count", "shard")
        if self.models is not None:
            positive(self, "models")
        not_negative(self, "seed")

    @property
    def data(self) -> Dataset:
        """The data set that the model was trained on."""
        return self.model.data

    def reseeded(self, index: int) -> Samples:
        """Returns the same recipe with ``index`` added to its seed and to those of its models."""
        model = self.model.reseeded(index if self.models is None else index % self.models)
        return dataclasses.replace(self, model=model, seed=self.seed + index)

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Draws the samples."""
        model = store.get(self.model)
        sizes = [min(self.shard, self.count - done) for done in range(0, self.count, self.shard)]
        paths = [folder / f"shard-{index:05d}.safetensors" for index in range(len(sizes))]
        facts: list[dict[str, Any]] = []
        for index in progress(range(len(sizes)), f"samples · seed {self.seed}", len(sizes)):
            store.runtime.deadline.check()
            record = paths[index].with_suffix(".json")
            if not (paths[index].exists() and record.exists()):
                self._draw(model, sizes[index], index, store, paths[index], record)
            facts.append(json.loads(record.read_text()))
        evaluations = sum((Evaluations(**fact["evaluations"]) for fact in facts), Evaluations())
        shards = [load_tensors(path)["samples"] for path in paths]
        save_tensors(unfinished(folder, self), {"samples": torch.cat(shards)})
        return {
            "seconds": round(sum(fact["seconds"] for fact in facts), 3),
            "gradient_evaluations": evaluations.gradients,
            "evaluations": dataclasses.asdict(evaluations),
            "diagnostics": facts[0]["diagnostics"],
        }

    def _draw(self, model: Model, count: int, index: int, store: Store, path: Path, record: Path) -> None:
        began = time.monotonic()
        rng = self.rng(f"shard {index}", store.runtime.torch_device())
        with counting_evaluations() as evaluations, recording_chains() as chains:
            samples = self.sampler.draw(model, count, rng)
        facts = {
            "seconds": time.monotonic() - began,
            "evaluations": dataclasses.asdict(evaluations),
            "diagnostics": {n: v for n, v in chains.summary().items() if math.isfinite(v)},
        }
        part = path.with_name(path.name + ".part")
        save_tensors(part, {"samples": samples})
        replace(part, path)
        write(record, json.dumps(facts))

    def open(self, store: Store, kept: Path) -> Tensor:
        """Returns the samples, of shape (count, *), on the runtime's device."""
        return load_tensors(kept)["samples"].to(store.runtime.torch_device())


@dataclass(frozen=True)
class Score(Recipe):
    """What a metric says of samples, or of a model, compared with one split of the data.

    Arguments:
        subject: What is scored.
        metric: The metric.
        split: The split that the subject is compared with.
    """

    artifact: ClassVar[str] = "artifact.json"

    subject: Samples | Trained
    metric: Metric
    split: str = "test"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise FieldError(self, "split", f"one of {', '.join(SPLITS)}")
        if self.metric.of_model != isinstance(self.subject, Trained):
            kinds = ("a trained model", "samples") if self.metric.of_model else ("samples", "a trained model")
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
            "data": describe(self.subject.data),
            "split": self.split,
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
        selection = self.subject.selection if isinstance(self.subject, Trained) else None
        if selection is None or self.split not in selection.watch or selection.metric != self.metric:
            raise FieldError(
                self,
                "subject",
                f"a trained model whose selection watches {self.split!r} with the same metric",
            )

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


def finite(value: float, metric: Metric) -> float:
    """Returns a score, or raises ValueError if it is no finite number."""
    if not math.isfinite(value):
        raise ValueError(f"{metric.label} of these samples is {value}")
    return float(value)


def fingerprint(data: Tensor) -> str:
    """Returns the SHA-256 of a tensor's values."""
    return hashlib.sha256(data.cpu().contiguous().numpy().tobytes()).hexdigest()
