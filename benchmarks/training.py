"""What the training loop costs besides the updates themselves.

The same updates, of the same learner on the same batches, are made twice: by ``fit``, which watches for
divergence, counts gradients, writes TensorBoard logs and keeps checkpoints, and by a bare ``for`` loop. The
two take turns within one run; the table holds the median over rounds of either, and their ratio. The recipes
are those of the table ``tilting/toy``; logs are as dense as in runs of the recipe's own length.

Run as ``python benchmarks/training.py --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator

from ebmzoo.config import load
from ebmzoo.recipes import Trained
from ebmzoo.runtime import keep_freed_memory
from ebmzoo.store import everything_behind
from ebmzoo.training import Batches, Learner, Log, fit

GOAL = 1.05
"""The largest ratio that is wanted."""


@dataclass(frozen=True)
class Case:
    """A model of the table ``tilting/toy`` in training.

    Arguments:
        title: What it is, for the reader.
        scale: The scale of the table.
        tilt: Whether it is the tilt or its base.
        updates: The number of updates in a turn.
    """

    title: str
    scale: str
    tilt: bool
    updates: int

    def recipe(self) -> Trained:
        """Returns the first such recipe of the table."""
        cells = load("tilting/toy", self.scale).table.flat()
        recipes = everything_behind([cell.scores()[0] for cell in cells])
        return next(r for r in recipes if isinstance(r, Trained) and (r.base is not None) == self.tilt)


CASES = {
    "vae": Case("VAE, paper scale", "paper", tilt=False, updates=600),
    "tilting": Case("tilt, laptop scale", "laptop", tilt=True, updates=100),
}

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def begun(recipe: Trained) -> tuple[Learner, Batches, Generator]:
    """Returns a run that is about to make its first update; its base, if any, has fresh weights."""
    torch.manual_seed(0)
    base = None if recipe.base is None else recipe.base.method.model(recipe.data.shape, None)
    learner = recipe.method.learner(recipe.method.model(recipe.data.shape, base))
    batches = Batches(recipe.data.load("train"), None, recipe.batch_size, Generator().manual_seed(1))
    return learner, batches, Generator().manual_seed(2)


def by_fit(recipe: Trained, updates: int, clock: Callable[[], float]) -> float:
    """Returns the seconds that ``fit`` takes, logging as it would in a run of the recipe's length."""
    learner, batches, rng = begun(recipe)
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "log", recipe.steps)
        began = clock()
        fit(learner, batches, updates, rng, Path(folder) / "checkpoint", policy=recipe.divergence, log=log)
        return clock() - began


def by_hand(recipe: Trained, updates: int, clock: Callable[[], float]) -> float:
    """Returns the seconds that the updates alone take."""
    learner, batches, rng = begun(recipe)
    began = clock()
    for _ in range(updates):
        learner.step(batches, rng)
    return clock() - began


def measure(case: Case, rounds: int, clock: Callable[[], float]) -> tuple[float, float]:
    """Returns the median seconds of an update by ``fit`` and by hand."""
    recipe = case.recipe()
    ways = [by_fit, by_hand]
    for way in ways:  # TensorBoard is imported at its first use
        way(recipe, max(1, recipe.steps // 200), clock)
    seconds = {way: [way(recipe, case.updates, clock)] for way in ways}
    for turn in range(1, rounds):
        for way in ways if turn % 2 else reversed(ways):
            seconds[way].append(way(recipe, case.updates, clock))
    return tuple(statistics.median(seconds[way]) / case.updates for way in ways)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="turns of either way [11]")
    parser.add_argument("--threads", type=int, help="threads [torch's choice]")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which runs [all]")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall or process time [wall]")
    parser.add_argument("--json", type=Path, help="where to write seconds and circumstances")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    report = {
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()}-core {platform.machine()}",
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "clock": options.clock,
        "load": os.getloadavg(),
    }
    print("| run | fit | bare loop | ratio | goal |", "|:--|--:|--:|--:|--:|", sep="\n")
    for name in options.cases:
        fitted, bare = measure(CASES[name], options.rounds, CLOCKS[options.clock])
        times = f"{1e3 * fitted:.2f} ms | {1e3 * bare:.2f} ms | {fitted / bare:.3f}"
        print(f"| {CASES[name].title} | {times} | ≤ {GOAL} |", flush=True)
        report[name] = {"fit": fitted, "bare": bare}
    print("", json.dumps(report), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
