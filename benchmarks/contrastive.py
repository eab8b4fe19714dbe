"""What an update of contrastive learning costs besides the gradients that no such learning can do without.

An update moves chains, looks at data and samples, and changes the weights; the bare cost is as many input
gradients of the frozen energy as the chains take, one pass of data and samples forwards and backwards, and
one step of the optimizer, with nothing around them: no noise, no buffer, no report. Both take turns within
one run; the table holds medians over rounds, and their ratio.

Run as ``python benchmarks/contrastive.py --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator

from ebmzoo.energies import Energy
from ebmzoo.models import Model, frozen
from ebmzoo.runtime import keep_freed_memory
from ebmzoo.samplers import SGLD, Stage
from ebmzoo.training import Batches
from ebmzoo_pixel.contrastive import ContrastiveLearning
from ebmzoo_pixel.igebm import IGEBMEnergy
from ebmzoo_pixel.memory import ByteReplay
from ebmzoo_pixel.networks import VanillaEnergy

GOAL = 1.15
"""The largest ratio that is wanted."""


@dataclass(frozen=True)
class Case:
    """Contrastive learning of images.

    Arguments:
        title: What it is, for the reader.
        energy: The architecture of the energy.
        shape: The shape of an image.
        batch: The number of data, and of chains.
        steps: The number of steps of a chain.
        updates: The number of updates in a turn.
    """

    title: str
    energy: Energy
    shape: tuple[int, ...]
    batch: int
    steps: int
    updates: int

    def method(self) -> ContrastiveLearning:
        """Returns the method, with the replay buffer and the steps of IGEBM."""
        kernel = SGLD(40.0, 0.01, clip=0.005, box=(-1.0, 1.0))
        return ContrastiveLearning(
            self.energy, (Stage(kernel, self.steps),), memory=ByteReplay(10_000, 0.05), l2=1.0
        )

    def model(self) -> Model:
        """Returns the model, always with the same weights."""
        torch.manual_seed(0)
        return self.method().model(self.shape, None)

    def data(self) -> torch.Tensor:
        """Returns data: noise, which costs what images cost."""
        return 2 * torch.rand(1000, *self.shape, generator=Generator().manual_seed(0)) - 1


CASES = {
    "digits": Case("short-run network, 64 × 1×8×8, 30 steps", VanillaEnergy(16), (1, 8, 8), 64, 30, 4),
    "mnist": Case("short-run network, 64 × 1×28×28, 20 steps", VanillaEnergy(16), (1, 28, 28), 64, 20, 2),
    "igebm": Case("IGEBM, narrow, 32 × 3×32×32, 10 steps", IGEBMEnergy(16), (3, 32, 32), 32, 10, 1),
}


def updates(case: Case) -> Callable[[], None]:
    """Returns a function that makes the case's updates."""
    learner = case.method().learner(case.model())
    batches = Batches(case.data(), None, case.batch, Generator().manual_seed(1))
    rng = Generator().manual_seed(2)

    def run() -> None:
        for _ in range(case.updates):
            learner.step(batches, rng)

    return run


def gradients(case: Case) -> Callable[[], None]:
    """Returns a function that computes the bare gradients of as many updates."""
    model = case.model()
    optimizer = torch.optim.Adam(model.energy.parameters(), 1e-4)
    x = case.data()[: case.batch]

    def once() -> None:
        with frozen(model):
            for _ in range(case.steps + 1):  # the start is evaluated too
                u = x.clone().requires_grad_()
                torch.autograd.grad(model.energy(u).sum(), u)
        optimizer.zero_grad(set_to_none=True)
        (model.energy(x).mean() - model.energy(x).mean()).backward()
        optimizer.step()

    def run() -> None:
        for _ in range(case.updates):
            once()

    return run


def measure(case: Case, rounds: int) -> tuple[float, float]:
    """Returns the median seconds of an update, and of its bare gradients."""
    ways = [updates(case), gradients(case)]
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 1):
        for index in (0, 1) if turn % 2 else (1, 0):
            began = time.perf_counter()
            ways[index]()
            seconds[index].append((time.perf_counter() - began) / case.updates)
    made, bare = (statistics.median(times[1:]) for times in seconds)
    return made, bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="turns of either way [11]")
    parser.add_argument("--threads", type=int, help="threads [torch's choice]")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which runs [all]")
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
        "load": os.getloadavg(),
    }
    print("| learning | update | bare gradients | ratio | goal |", "|:--|--:|--:|--:|--:|", sep="\n")
    for name in options.cases:
        made, bare = measure(CASES[name], options.rounds)
        times = f"{1e3 * made:.1f} ms | {1e3 * bare:.1f} ms | {made / bare:.3f}"
        print(f"| {CASES[name].title} | {times} | ≤ {GOAL} |", flush=True)
        report[name] = {"update": made, "bare": bare}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
