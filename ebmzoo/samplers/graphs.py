"""Steps of chains as graphs: several of them compiled into one, with their noise drawn outside.

What a graph saves over compiled gradients alone is what each step costs around its gradient. Where networks
are small, that is much of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

from torch import Generator, Tensor

from ebmzoo.models import CompiledTarget, InGraph, Model, Tilted, as_graphs, count
from ebmzoo.samplers.kernel import Info, Kernel, Noise, Reparametrised, State

LONGEST = 8
"""How many steps a graph has at most. It takes up to twice as long to make as that of one step."""


def steps_by_its_noise(kernel: Kernel) -> TypeGuard[Reparametrised]:
    """Whether the step of a kernel is its move on its noise and nothing more, so that it can be a graph."""
    return isinstance(kernel, Reparametrised) and type(kernel).step is Reparametrised.step


def chain_of_graphs(
    kernel: Reparametrised, target: CompiledTarget, position: Tensor, rng: Generator, steps: int
) -> Iterator[tuple[State, Info]]:
    """Runs chains for a number of steps, and yields each.

    The numbers are those of single steps, up to rounding. A graph is made for each kernel, each shape and
    each length, which is the largest divisor of ``steps`` up to :data:`LONGEST`. The first gradient is
    evaluated without one.

    Arguments:
        kernel: The Markov kernel.
        target: The log-density.
        position: The starting points, of shape (B, *). They are not among the results.
        rng: The generator of all noise.
        steps: How many steps are taken.
    """
    state = kernel.init(position, Tilted(target.model, target.beta))
    length = max(number for number in range(1, LONGEST + 1) if steps % number == 0)
    for _ in range(steps // length):
        noise = [kernel.draw_noise(position, rng) for _ in range(length)]
        taken = as_graphs(_steps)(kernel, target.model, target.minus_beta, state, noise)
        count(gradients=length * kernel.gradients_per_step * len(position))
        yield from taken
        state, _ = taken[-1]


def _steps(
    kernel: Reparametrised, model: Model, minus_beta: Tensor, state: State, noise: list[Noise]
) -> list[tuple[State, Info]]:
    target, taken = InGraph(model, minus_beta), []
    for one in noise:
        state, info = kernel.move(state, target, one)
        taken.append((state, info))
    return taken
