"""Steps of chains as graphs: several of them compiled into one, with their noise drawn outside.

What a graph saves over compiled gradients alone is what each step costs around its gradient. Where networks
are small, that is much of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from torch import Generator, Tensor

from ebmzoo.models import CompiledTarget, InGraph, Model, Target, Tilted, as_graphs, count
from ebmzoo.samplers.kernel import Info, Kernel, Noise, Reparametrised, State

LONGEST = 8
"""How many gradients a graph has at most. It takes up to twice as long to make as a graph of one."""


def fits_in_a_graph(kernel: Kernel) -> TypeGuard[Reparametrised]:
    """Whether the step of a kernel is its move on its noise and nothing more, and not too long."""
    return (
        isinstance(kernel, Reparametrised)
        and type(kernel).step is Reparametrised.step
        and kernel.gradients_per_step <= LONGEST
    )


def begun(kernel: Kernel, target: Target, position: Tensor) -> Any:
    """Returns the state of chains at ``position``; where steps are graphs, the first gradient is none."""
    if isinstance(target, CompiledTarget) and fits_in_a_graph(kernel):
        target = Tilted(target.model, target.beta)
    return kernel.init(position, target)


def steps_in_graphs(
    kernel: Reparametrised, target: CompiledTarget, state: State, rng: Generator, steps: int
) -> Iterator[tuple[State, Info]]:
    """Runs chains for a number of steps, and yields each.

    The numbers are those of single steps, up to rounding. A graph is made for each kernel, each shape and
    each length, which is the largest divisor of ``steps`` with no more gradients than :data:`LONGEST`.

    Arguments:
        kernel: The Markov kernel.
        target: The log-density.
        state: Where the chains are. It is not among the results.
        rng: The generator of all noise.
        steps: How many steps are taken.
    """
    for taken in _graph_by_graph(_steps, kernel, target, state, rng, steps):
        yield from taken


def leaps_in_graphs(
    kernel: Reparametrised, target: CompiledTarget, state: State, rng: Generator, steps: int
) -> Iterator[tuple[State, Info]]:
    """Does the same, and yields the last step of each graph only.

    What only the others would tell is not computed, such as the values of the target on the way.
    """
    for taken in _graph_by_graph(_last_step, kernel, target, state, rng, steps):
        yield from taken


Moves = Callable[[Reparametrised, Model, Tensor, State, list[Noise]], list[tuple[State, Info]]]
"""Moves chains as a list of noise says, and returns steps, the last of which is the last that was taken."""


def _graph_by_graph(
    moves: Moves,
    kernel: Reparametrised,
    target: CompiledTarget,
    state: State,
    rng: Generator,
    steps: int,
) -> Iterator[list[tuple[State, Info]]]:
    longest = LONGEST // kernel.gradients_per_step
    length = max(number for number in range(1, longest + 1) if steps % number == 0)
    for _ in range(steps // length):
        noise = [kernel.draw_noise(state.position, rng) for _ in range(length)]
        taken = as_graphs(moves)(kernel, target.model, target.minus_beta, state, noise)
        count(gradients=length * kernel.gradients_per_step * len(state.position))
        yield taken
        state, _ = taken[-1]


def _steps(
    kernel: Reparametrised, model: Model, minus_beta: Tensor, state: State, noise: list[Noise]
) -> list[tuple[State, Info]]:
    target, taken = InGraph(model, minus_beta), []
    for one in noise:
        state, info = kernel.move(state, target, one)
        taken.append((state, info))
    return taken


def _last_step(
    kernel: Reparametrised, model: Model, minus_beta: Tensor, state: State, noise: list[Noise]
) -> list[tuple[State, Info]]:
    return _steps(kernel, model, minus_beta, state, noise)[-1:]
