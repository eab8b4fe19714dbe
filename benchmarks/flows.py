r"""Time of flows, as multiples of the networks that they are made of.

The floor is the bare networks of Real NVP with nothing around them: five pairs of fully connected networks of
two hidden layers of 100, from all coordinates to all, one after the other on the same batch. Ours see
half of the coordinates, as the paper's do after masking. zuko has one network for scale and shift together,
hence half as many. Contenders take turns within one run, in a new order every round; the table holds medians.

Run as ``python benchmarks/flows.py --help``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ebmzoo.blocks import mlp
from ebmzoo.flows import MAF, Flow, RealNVP
from ebmzoo.runtime import keep_freed_memory

BATCH = 1000
DIMENSIONS = (11, 43)

Work = Callable[[], object]


class BareNetworks(nn.Module):
    """The networks of five couplings, without the couplings."""

    def __init__(self, dimension: int):
        super().__init__()
        self.networks = nn.ModuleList(
            mlp(dimension, 100, 2, dimension, activation) for activation in (nn.Tanh, nn.ReLU) * 5
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of all outputs, (B,), so that each is asked for."""
        return torch.stack([network(x).sum(1) for network in self.networks]).sum(0)


class Published(nn.Module):
    """Real NVP as the code of GEBM writes it: masks on whole vectors."""

    def __init__(self, dimension: int):
        super().__init__()
        self.networks = BareNetworks(dimension).networks
        self.register_buffer("mask", torch.arange(dimension) % 2 * 1.0)

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log-densities but for a constant."""
        mask, log_det = self.mask, x.new_zeros(len(x), 1)
        for scale, shift in zip(self.networks[::2], self.networks[1::2], strict=True):
            given = x * mask
            log_scale, moved = scale(given) * (1 - mask), shift(given) * (1 - mask)
            x, log_det = x * log_scale.exp() + moved, log_det + log_scale.sum(1, keepdim=True)
            mask = 1 - mask
        return (log_det - 0.5 * x.square().sum(1, keepdim=True)).squeeze(1)


def zuko_nvp(dimension: int) -> nn.Module:
    """Returns zuko's Real NVP of five couplings."""
    import zuko

    return zuko.flows.RealNVP(dimension, transforms=5, hidden_features=(100, 100))


def without_graph(work: Callable[[], Tensor]) -> Work:
    """Returns the same work without recording gradients."""

    def run() -> None:
        with torch.no_grad():
            work()

    return run


def training(module: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """Returns an update of all parameters by Adam."""
    optimizer = torch.optim.Adam(module.parameters(), 1e-4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return run


def contenders(dimension: int, compiled: bool) -> dict[str, dict[str, Work]]:
    """Returns what is timed, by task and by name; the first of a task is its floor."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, dimension)
    bare, ours, published = (
        BareNetworks(dimension),
        RealNVP().build(dimension, (dimension,)),
        Published(dimension),
    )
    assert isinstance(ours, Flow)
    peer, maf = zuko_nvp(dimension), MAF().build(dimension, (dimension,))
    tasks: dict[str, dict[str, Work]] = {
        "log-density": {
            "bare networks": without_graph(lambda: bare(x)),
            "RealNVP": without_graph(lambda: ours.log_prob(x)),
            "as published": without_graph(lambda: published.log_prob(x)),
            "zuko": without_graph(lambda: peer().log_prob(x)),
            "MAF (zuko)": without_graph(lambda: maf.log_prob(x)),
        },
        "sampling": {
            "bare networks": without_graph(lambda: bare(x)),
            "RealNVP": without_graph(lambda: ours(x)),
            "zuko": without_graph(lambda: peer().rsample((BATCH,))),
            "MAF (zuko)": without_graph(lambda: maf(x)),
        },
        "training step": {
            "bare networks": training(bare, lambda: bare(x).mean()),
            "RealNVP": training(ours, lambda: -ours.log_prob(x).mean()),
            "as published": training(published, lambda: -published.log_prob(x).mean()),
            "zuko": training(peer, lambda: -peer().log_prob(x).mean()),
        },
    }
    if compiled:
        graph = torch.compile(ours.log_prob, dynamic=False)
        floor = torch.compile(bare, dynamic=False)
        tasks["log-density, compiled"] = {
            "bare networks, compiled": without_graph(lambda: floor(x)),
            "RealNVP, compiled": without_graph(lambda: graph(x)),
        }
    return tasks


def measure(tasks: dict[str, Work], rounds: int, seconds: float) -> dict[str, float]:
    """Returns the median seconds of each contender of one task."""
    order, taken = random.Random(0), {name: [] for name in tasks}
    repeats = {}
    for name, work in tasks.items():
        work()
        began = time.perf_counter()
        work()
        repeats[name] = max(1, round(seconds / (time.perf_counter() - began)))
    for _ in range(rounds):
        for name in order.sample(list(tasks), len(tasks)):
            began = time.perf_counter()
            for _ in range(repeats[name]):
                tasks[name]()
            taken[name].append((time.perf_counter() - began) / repeats[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="turns of every contender [15]")
    parser.add_argument("--turn", type=float, default=0.1, help="seconds of a turn, about [0.1]")
    parser.add_argument("--threads", type=int, help="threads [torch's choice]")
    parser.add_argument("--compile", action="store_true", help="time the compiled density too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    print("| task | contender | " + " | ".join(f"{d} coordinates" for d in DIMENSIONS) + " |")
    print("|:--|:--|" + "--:|" * len(DIMENSIONS))
    measured = [
        {
            task: measure(work, options.rounds, options.turn)
            for task, work in contenders(d, options.compile).items()
        }
        for d in DIMENSIONS
    ]
    for task, names in measured[0].items():
        floor = next(iter(names))
        paces = " | ".join(f"{1e3 * each[task][floor]:.2f} ms" for each in measured)
        print(f"| {task} | {floor} | {paces} |")
        for name in list(names)[1:]:
            ratios = " | ".join(f"{each[task][name] / each[task][floor]:.2f}" for each in measured)
            print(f"| | {name} | {ratios} |")
    machine = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    print(json.dumps(machine | {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
