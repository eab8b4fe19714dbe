r"""Time per step of samplers, as multiples of what no sampler can do without: one gradient of the potential.

Every contender moves the same number of chains on the same potential :math:`U(u) = -\log \rho(u) + E(g(u))`,
without constants; in data space there is no prior. Weights are frozen for all. Contenders take turns within
one run, in a new order every round, so that what else the machine does falls on all of them; the table holds
medians over rounds. Compiled samplers take several steps in a graph, and every turn is made of whole graphs.

The floors are bare gradients with nothing around them, in three forms: eager with contiguous weights, eager
with channels-last weights, and ``torch.func.grad_and_value`` compiled. All three evaluate the potential and
its gradient. Peers run as they come, on contiguous weights; where there are convolutions, also on the
channels-last weights that our models have.

Freed memory is kept for the next step, as the command line does. Peers do not ask for that, and so run in a
process of their own, where glibc gives it back as it does by default; ``--peers-keep-memory`` gives them what
they would gain by it. While one process takes its turn the other waits.

Run as ``python benchmarks/langevin.py --help``.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from ebmzoo.energies import ConvEnergy, Energy, MLPEnergy, ResidualEnergy
from ebmzoo.generators import ConvGenerator
from ebmzoo.models import Flat, Model, Normal, StandardNormal, Target
from ebmzoo.runtime import keep_freed_memory
from ebmzoo.samplers import HMC, MALA, Kernel, KineticLangevin, Langevin, Stage
from ebmzoo.samplers.graphs import LONGEST
from ebmzoo.samplers.schedule import leaps

LEAPFROG = 3
"""How many leapfrog steps a step of HMC has here."""

STEP = 1e-5
"""The step size of every sampler: too small for any chain to leave the region where the potential is sane."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

CONTIGUOUS, CHANNELS_LAST, COMPILED, LOOP = (
    "bare gradient",
    "bare gradient, channels-last",
    "bare gradient, compiled",
    "Langevin written out",
)


Seconds = dict[str, float]
"""The seconds per gradient of every contender."""


@dataclass(frozen=True)
class Case:
    """A potential and a number of chains: in data space without a prior, or in the latent space of a decoder.

    Arguments:
        title: What it is, for the reader.
        chains: The number of chains.
        shape: The shape of one datum.
        energy: The architecture of the energy.
        latent: The dimension of the latent space, or None for data space.
    """

    title: str
    chains: int
    shape: tuple[int, ...]
    energy: Energy
    latent: int | None = None

    def model(self) -> Model:
        """Returns the model, always with the same weights."""
        torch.manual_seed(0)
        if self.latent is None:
            prior, decoder = Flat(Normal(self.shape)), nn.Identity()
        else:
            prior, decoder = StandardNormal((self.latent,)), ConvGenerator().build(self.latent, self.shape)
        return Model(prior, decoder, self.energy.energy(self.shape)).requires_grad_(False)

    def start(self) -> tuple[Model, Tensor]:
        """Returns the model and where its chains begin, always the same."""
        model = self.model()
        return model, model.prior.draw(self.chains, Generator().manual_seed(0))


CASES = {
    "mlp-1k": Case("2-D MLP, 1 000 chains", 1000, (2,), MLPEnergy(hidden=128)),
    "mlp-10k": Case("2-D MLP, 10 000 chains", 10000, (2,), MLPEnergy(hidden=128)),
    "conv": Case("convolutions, 64 × 3×32×32", 64, (3, 32, 32), ConvEnergy()),
    "residual": Case("residual, 64 × 1×28×28", 64, (1, 28, 28), ResidualEnergy()),
    "decoder": Case("decoder + convolutions, 64", 64, (3, 32, 32), ConvEnergy(), latent=64),
}


class Potential(nn.Module):
    """The potential of a model as one writes it without this package: (B, *) to (B,)."""

    def __init__(self, model: Model, layout: torch.memory_format):
        super().__init__()
        self.decoder = copy.deepcopy(model.decoder).to(memory_format=layout)
        self.energy = copy.deepcopy(model.energy).to(memory_format=layout)
        self.normal = isinstance(model.prior, StandardNormal)

    def forward(self, u: Tensor) -> Tensor:
        """Returns the potentials."""
        energy = self.energy(self.decoder(u))
        return energy + 0.5 * u.square().sum(1) if self.normal else energy


class Timed(Protocol):
    """Something that takes steps and says how long they took."""

    name: str
    gradients: int
    unit: int

    def time(self, steps: int, clock: str) -> float:
        """Returns the seconds per gradient over a number of steps."""
        ...


@dataclass
class Contender:
    """Something that takes steps in this process.

    Arguments:
        name: The row of the table.
        run: Takes the given number of steps.
        gradients: How many gradients a step is worth; times are divided by it.
        unit: How many steps are taken at once, or a multiple of them.
    """

    name: str
    run: Callable[[int], None]
    gradients: int = 1
    unit: int = 1

    def time(self, steps: int, clock: str) -> float:
        """Returns the seconds per gradient over a number of steps."""
        began = CLOCKS[clock]()
        self.run(steps)
        return (CLOCKS[clock]() - began) / (steps * self.gradients)


def repeated(step: Callable[[], object]) -> Callable[[int], None]:
    """Returns a function that calls ``step`` so many times."""

    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def floors(model: Model, u: Tensor, compiled: bool) -> Iterator[Contender]:
    """Yields the bare gradients."""
    plain, last = Potential(model, torch.contiguous_format), Potential(model, torch.channels_last)
    yield Contender(CONTIGUOUS, repeated(lambda: bare_gradient(plain, u)))
    spatial = any(p.ndim == 4 for p in model.parameters())
    if spatial:
        v = u.to(memory_format=torch.channels_last) if u.ndim == 4 else u
        yield Contender(CHANNELS_LAST, repeated(lambda: bare_gradient(last, v)))
    yield Contender(LOOP, loop(last, v if spatial else u))
    if compiled:
        graph = torch.compile(functools.partial(functional_gradient, last), dynamic=False)
        yield Contender(COMPILED, repeated(lambda: graph(u)))


def bare_gradient(potential: nn.Module, u: Tensor) -> Tensor:
    """Returns the gradient in ``u`` and does nothing else."""
    u = u.detach().requires_grad_()
    return torch.autograd.grad(potential(u).sum(), u)[0]


def loop(potential: nn.Module, u: Tensor) -> Callable[[int], None]:
    """Returns what takes steps of Langevin without any package, in the same form as the bare gradient."""
    rng, at, slope = Generator().manual_seed(0), u.clone(), bare_gradient(potential, u)

    def step() -> None:
        nonlocal slope
        at.sub_(slope, alpha=STEP).add_(torch.randn(at.shape, generator=rng), alpha=math.sqrt(2 * STEP))
        slope = bare_gradient(potential, at)

    return repeated(step)


def functional_gradient(potential: nn.Module, u: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients and the potentials in ``u``, in the form that compiles best."""

    def total(u: Tensor) -> tuple[Tensor, Tensor]:
        value = potential(u)
        return value.sum(), value

    gradient, (_, value) = torch.func.grad_and_value(total, has_aux=True)(u)
    return gradient, value


KERNELS: dict[str, tuple[Kernel, int]] = {
    "Langevin": (Langevin(STEP), 1),
    "MALA": (MALA(STEP), 1),
    "HMC": (HMC(STEP, LEAPFROG), LEAPFROG),
    "KineticLangevin": (KineticLangevin(STEP, 1.0), 1),
}


def ours(model: Model, u: Tensor, compiled: bool) -> Iterator[Contender]:
    """Yields our kernels on the model's target, and again with its gradients compiled."""
    for mode in [False, True] if compiled else [False]:
        model.compiled = mode
        target = model.target()
        for name, (kernel, gradients) in KERNELS.items():
            title = f"ebmzoo {name}{', compiled' if mode else ''}"
            unit = LONGEST // gradients if mode else 1
            yield Contender(title, run(kernel, target, u, unit), gradients, unit)


def run(kernel: Kernel, target: Target, u: Tensor, unit: int) -> Callable[[int], None]:
    """Returns what takes steps of chains that nobody records, going on where they were each time."""
    endless = leaps((Stage(kernel, 10**9),), target, u, Generator().manual_seed(0))
    return lambda steps: deque(islice(endless, steps // unit), maxlen=0).clear()


@dataclass
class Elsewhere:
    """Something that takes steps in another process.

    Arguments:
        name: The row of the table.
        gradients: How many gradients a step is worth.
        process: The way to the process.
        unit: How many steps are taken at once.
    """

    name: str
    gradients: int
    process: Connection
    unit: int = 1

    def time(self, steps: int, clock: str) -> float:
        """Returns the seconds per gradient over a number of steps."""
        self.process.send((self.name, steps, clock))
        return self.process.recv()


def peers_elsewhere(case: str, settings: argparse.Namespace) -> Iterator[Elsewhere]:
    """Yields the peers of a case, in a process of their own that ends with this one."""
    here, there = multiprocessing.Pipe()
    arguments = (there, case, settings.threads, settings.peers_keep_memory)
    multiprocessing.get_context("spawn").Process(target=serve_peers, args=arguments, daemon=True).start()
    for name, gradients in here.recv():
        yield Elsewhere(name, gradients, here)


def serve_peers(process: Connection, case: str, threads: int | None, keep_memory: bool) -> None:
    """Tells which peers there are, and lets them take steps as long as it is asked to."""
    prepare(threads, keep_memory)
    contenders = {contender.name: contender for contender in peers(*CASES[case].start())}
    process.send([(contender.name, contender.gradients) for contender in contenders.values()])
    with suppress(EOFError):  # until there is nobody left to ask
        while True:
            name, steps, clock = process.recv()
            process.send(contenders[name].time(steps, clock))


def prepare(threads: int | None, keep_memory: bool) -> None:
    """Sets up a process: how many threads it has, and whether it keeps what it frees."""
    if threads:
        torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()


def peers(model: Model, u: Tensor) -> Iterator[Contender]:
    """Yields the samplers of torchebm and ebmkit that ours have a counterpart for."""
    layouts = {"": torch.contiguous_format, ", channels-last": torch.channels_last}
    if not any(p.ndim == 4 for p in model.parameters()):
        del layouts[", channels-last"]
    for suffix, layout in layouts.items():
        potential = Potential(model, layout)
        yield from torchebm_samplers(potential, u, suffix)
        yield from ebmkit_samplers(potential, u, suffix)


def torchebm_samplers(potential: Potential, u: Tensor, suffix: str) -> Iterator[Contender]:
    """Yields those of torchebm. Its HMC knows flat points only, and gets them."""
    from torchebm.core import BaseModel
    from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

    class Wrapped(BaseModel):
        def __init__(self, shape: Sequence[int]):
            super().__init__()
            self.potential, self.shape = potential, tuple(shape)

        def forward(self, x: Tensor) -> Tensor:
            return self.potential(x.view(-1, *self.shape))

    langevin = LangevinDynamics(Wrapped(u.shape[1:]), step_size=STEP)
    yield Contender(f"torchebm Langevin{suffix}", lambda n: langevin.sample(u, n_steps=n))
    hmc = HamiltonianMonteCarlo(Wrapped(u.shape[1:]), step_size=STEP, n_leapfrog_steps=LEAPFROG)
    flat = u.flatten(1)
    yield Contender(f"torchebm HMC{suffix}", lambda n: hmc.sample(flat, n_steps=n), LEAPFROG)


def ebmkit_samplers(potential: Potential, u: Tensor, suffix: str) -> Iterator[Contender]:
    """Yields those of ebmkit."""
    from ebm import samplers

    kinds = {
        "ULA": (samplers.LangevinDynamics(STEP), 1),
        "MALA": (samplers.MALA(STEP), 1),
        "HMC": (samplers.HMC(STEP, LEAPFROG), LEAPFROG),
        "UnderdampedLangevin": (samplers.UnderdampedLangevin(STEP), 1),
    }
    for name, (sampler, gradients) in kinds.items():
        run = lambda n, sampler=sampler: sampler.sample(potential, u, steps=n)  # noqa: E731
        yield Contender(f"ebmkit {name}{suffix}", run, gradients)


def measure(case: str, settings: argparse.Namespace) -> Seconds:
    """Returns the median seconds per gradient of every contender.

    Where tensors come to lie in memory makes small potentials faster or slower by some hundredths, for as
    long as they lie there; so the rounds are spread over several sets of contenders, all of them kept.
    """
    sets = []
    seconds: dict[str, list[float]] = {}
    order = random.Random(0)
    for _ in range(settings.sets):
        sets.append(contenders := gathered(case, settings))
        for contender in contenders:
            contender.time(contender.unit, settings.clock)
        pace = contenders[0].time(2, settings.clock)
        for _ in range(max(1, settings.rounds // settings.sets)):
            for contender in order.sample(contenders, len(contenders)):
                units = round(settings.turn / pace / (contender.gradients * contender.unit))
                taken = contender.time(contender.unit * max(1, units), settings.clock)
                seconds.setdefault(contender.name, []).append(taken)
    return {contender.name: statistics.median(seconds[contender.name]) for contender in sets[0]}


def gathered(case: str, settings: argparse.Namespace) -> list[Timed]:
    """Returns all contenders, the eager contiguous bare gradient first."""
    model, u = CASES[case].start()
    return [
        *floors(model, u, settings.compile),
        *ours(model, u, settings.compile),
        *peers_elsewhere(case, settings),
    ]


@dataclass(frozen=True)
class Goal:
    """What we want to hold on every case.

    Arguments:
        text: The goal in words.
        limit: The largest ratio, or the smallest if ``least``.
        ratio: The ratio, from the seconds by contender; None where a contender is missing.
        least: Whether the ratio should be at least the limit.
    """

    text: str
    limit: float
    ratio: Callable[[Seconds], float | None]
    least: bool = False

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is as wanted."""
        return ratio >= self.limit if self.least else ratio <= self.limit


def quotient(above: str, below: Callable[[Seconds], float]) -> Callable[[Seconds], float | None]:
    """Returns the ratio of a contender to others, None where it did not take part."""
    return lambda seconds: seconds[above] / below(seconds) if above in seconds else None


def same_form(seconds: Seconds) -> float:
    """Returns the bare gradient in the layout that our models have."""
    return seconds.get(CHANNELS_LAST, seconds[CONTIGUOUS])


def best_floor(seconds: Seconds) -> float:
    """Returns the fastest bare gradient of any form."""
    return min(seconds[name] for name in (CONTIGUOUS, CHANNELS_LAST, COMPILED) if name in seconds)


def best_peer(suffix: str) -> Callable[[Seconds], float | None]:
    """Returns the time of the faster peer by that of compiled Langevin, None where one is missing."""
    names = [f"torchebm Langevin{suffix}", f"ebmkit ULA{suffix}"]

    def ratio(seconds: Seconds) -> float | None:
        if not {*names, "ebmzoo Langevin, compiled"} <= seconds.keys():
            return None
        return min(seconds[name] for name in names) / seconds["ebmzoo Langevin, compiled"]

    return ratio


GOALS = [
    Goal("Langevin / bare gradient of the same form", 1.03, quotient("ebmzoo Langevin", same_form)),
    Goal(
        "Langevin compiled / fastest bare gradient", 1.05, quotient("ebmzoo Langevin, compiled", best_floor)
    ),
    Goal("the faster peer / Langevin compiled", 1.25, best_peer(""), least=True),
    Goal("… with channels-last weights", 1.0, best_peer(", channels-last"), least=True),
    Goal("MALA / bare gradient of the same form", 1.15, quotient("ebmzoo MALA", same_form)),
    Goal("HMC / bare gradient of the same form", 1.15, quotient("ebmzoo HMC", same_form)),
    Goal(
        "KineticLangevin / bare gradient of the same form",
        1.15,
        quotient("ebmzoo KineticLangevin", same_form),
    ),
]


def table(results: dict[str, Seconds]) -> Iterator[str]:
    """Yields a Markdown table of times relative to the eager contiguous bare gradient."""
    names = list(dict.fromkeys(name for seconds in results.values() for name in seconds))
    yield f"| per gradient | {' | '.join(CASES[case].title for case in results)} |"
    yield "|:--|" + "--:|" * len(results)
    paces = [f"{1e3 * seconds[CONTIGUOUS]:.2f} ms" for seconds in results.values()]
    yield f"| {CONTIGUOUS} | {' | '.join(paces)} |"
    for name in names[1:]:
        ratios = [s[name] / s[CONTIGUOUS] if name in s else None for s in results.values()]
        yield f"| {name} | {' | '.join('–' if r is None else f'{r:.2f}' for r in ratios)} |"


def verdicts(results: dict[str, Seconds]) -> Iterator[str]:
    """Yields a Markdown table of the goals; what misses one is in bold."""
    yield f"| goal | | {' | '.join(CASES[case].title for case in results)} |"
    yield "|:--|:--|" + "--:|" * len(results)
    for goal in GOALS:
        ratios = [goal.ratio(seconds) for seconds in results.values()]
        shown = ["–" if r is None else f"{r:.2f}" if goal.holds(r) else f"**{r:.2f}**" for r in ratios]
        yield f"| {goal.text} | {'≥' if goal.least else '≤'} {goal.limit:g} | {' | '.join(shown)} |"


def circumstances(settings: argparse.Namespace) -> dict[str, object]:
    """Returns what the numbers depend on besides the code."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()}-core {platform.machine()}",
        "threads": torch.get_num_threads(),
        "rounds": settings.rounds,
        "sets": settings.sets,
        "clock": settings.clock,
        "peers' memory": "kept" if settings.peers_keep_memory else "returned",
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="turns of every contender [30]")
    parser.add_argument("--sets", type=int, default=3, help="sets of contenders, to share the rounds [3]")
    parser.add_argument("--turn", type=float, default=0.3, help="seconds of a turn, about [0.3]")
    parser.add_argument("--threads", type=int, help="threads [torch's choice]")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="which potentials [all]"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=False, help="time compiled forms too"
    )
    parser.add_argument(
        "--peers-keep-memory", action="store_true", help="let peers keep freed memory, as we do [no]"
    )
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="wall or process time [wall]")
    parser.add_argument("--json", type=Path, help="where to write seconds and circumstances")
    options = parser.parse_args()
    prepare(options.threads, keep_memory=True)
    before = circumstances(options)
    results = {}
    for name in options.cases:
        results[name] = measure(name, options)
        print(f"{CASES[name].title}: {1e3 * results[name][CONTIGUOUS]:.2f} ms a bare gradient", flush=True)
    report = {"before": before, "after": circumstances(options), "seconds": results}
    print("", *table(results), "", *verdicts(results), "", json.dumps(before), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
