"""Samples of trained models, drawn shard by shard."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import added, not_negative, positive
from ebmzoo.models import Evaluations, Model, chunk_sizes, counting_evaluations
from ebmzoo.recipes.model import ModelRecipe
from ebmzoo.runtime import progress
from ebmzoo.samplers import Sampler, recording_chains
from ebmzoo.store import (
    Recipe,
    Store,
    load_tensors,
    replace,
    save_tensors,
    unfinished,
    write,
)


@dataclass(frozen=True)
class Samples(Recipe):
    """Data drawn from a trained model.

    They are drawn shard by shard, each from a generator of its own; so they depend on neither the machine's
    memory nor on where a run was interrupted.

    Arguments:
        model: The model, trained or put together.
        sampler: How the model is sampled.
        count: The number of samples.
        shard: The number of samples that are drawn at once.
        seed: Together with all other fields, it determines every random number.
        models: How many trained models the seeds of a table go round; None for one of each seed. With one,
            the spread over seeds is that of sampling alone.
    """

    artifact: ClassVar[str] = "artifact.safetensors"

    model: ModelRecipe
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
        sizes = chunk_sizes(self.count, self.shard)
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
