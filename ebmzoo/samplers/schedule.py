"""Which kernels move a chain, for how many steps, and what is recorded of it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from torch import Generator, Tensor
from torch.nn.utils import parametrize

from ebmzoo.fields import FieldError, positive, within
from ebmzoo.models import CompiledTarget, Model, Target
from ebmzoo.samplers.diagnostics import observe, recording
from ebmzoo.samplers.graphs import begun, fits_in_a_graph, leaps_in_graphs, steps_in_graphs
from ebmzoo.samplers.kernel import Info, Kernel, Reparametrised, State, going_on


class Part(Protocol):
    """A part of a schedule."""

    def stages(self) -> tuple[Stage, ...]:
        """Returns the stages that the part consists of, in their order.

        Their kernels have the same kind of state, which goes on from one to the next.
        """
        ...


@dataclass(frozen=True)
class Stage:
    """One kernel for a number of steps.

    Arguments:
        kernel: The kernel.
        steps: How many steps it takes.
    """

    kernel: Kernel
    steps: int

    def __post_init__(self) -> None:
        positive(self, "steps")

    def stages(self) -> tuple[Stage, ...]:
        """Returns the stage itself."""
        return (self,)


@dataclass(frozen=True)
class Decay:
    r"""A kernel whose step size shrinks: after every ``every`` steps it is multiplied by ``factor``.

    Nothing else changes: velocities go on, and no gradient is evaluated again.

    Arguments:
        kernel: The kernel at the start. It must have a field ``step_size``.
        steps: How many steps it takes in all.
        every: How many steps each step size is kept for.
        factor: What the step size is multiplied by.
    """

    kernel: Kernel
    steps: int
    every: int
    factor: float

    def __post_init__(self) -> None:
        positive(self, "steps", "every", "factor")
        within(self, "factor", 0.0, 1.0)
        if "step_size" not in {field.name for field in dataclasses.fields(self.kernel)}:  # type: ignore[arg-type]
            raise FieldError(self, "kernel", "a kernel with a step_size")

    def stages(self) -> tuple[Stage, ...]:
        """Returns one stage for each step size."""
        stages = []
        for index, done in enumerate(range(0, self.steps, self.every)):
            size = self.kernel.step_size * self.factor**index  # type: ignore[attr-defined]
            kernel = dataclasses.replace(self.kernel, step_size=size)  # type: ignore[type-var]
            stages.append(Stage(kernel, min(self.every, self.steps - done)))
        return tuple(stages)


Schedule = tuple[Part, ...]
"""What happens to a chain, part by part. The empty schedule moves nothing."""


def evolve(
    schedule: Schedule, target: Target, position: Tensor, rng: Generator
) -> Iterator[tuple[State, Info]]:
    """Runs chains through a schedule, and yields each step.

    Arguments:
        schedule: The parts, in their order.
        target: The log-density.
        position: The starting points, of shape (B, *).
        rng: The generator of all noise.
    """
    yield from _through(schedule, target, position, rng, steps_in_graphs)


def leaps(
    schedule: Schedule, target: Target, position: Tensor, rng: Generator
) -> Iterator[tuple[State, Info]]:
    """Runs chains through a schedule, and yields no more of their steps than anybody looks at.

    The last one is among them. Where steps are recorded, each is.

    Arguments:
        schedule: The parts, in their order.
        target: The log-density.
        position: The starting points, of shape (B, *).
        rng: The generator of all noise.
    """
    in_graphs = steps_in_graphs if recording() else leaps_in_graphs
    yield from _through(schedule, target, position, rng, in_graphs)


InGraphs = Callable[[Reparametrised, CompiledTarget, State, Generator, int], Iterator[tuple[State, Info]]]
"""Runs chains for a number of steps as graphs, and yields those that are looked at."""


def _through(
    schedule: Schedule, target: Target, position: Tensor, rng: Generator, in_graphs: InGraphs
) -> Iterator[tuple[State, Info]]:
    for part in schedule:
        stages = part.stages()
        state = begun(stages[0].kernel, target, position)
        for stage in stages:
            if isinstance(target, CompiledTarget) and fits_in_a_graph(stage.kernel):
                taken = in_graphs(stage.kernel, target, state, rng, stage.steps)
            else:
                taken = islice(going_on(stage.kernel, target, state, rng), stage.steps)
            for state, info in taken:
                observe(state, info)
                yield state, info
        position = state.position


def settle(schedule: Schedule, target: Target, position: Tensor, rng: Generator) -> Tensor:
    """Returns where a schedule takes chains from ``position``; both are of shape (B, *).

    The empty schedule moves nothing. What networks derive from their weights, such as spectral norms, is
    computed once for all steps.
    """
    with deriving_once(target):
        for state, _ in leaps(schedule, target, position, rng):
            position = state.position
    return position


def settle_with_report(
    schedule: Schedule, target: Target, position: Tensor, rng: Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns where a schedule takes chains from ``position``, and what a log says of their last step.

    Arguments:
        schedule: The parts, in their order.
        target: The log-density.
        position: The starting points, of shape (B, *).
        rng: The generator of all noise.

    Returns:
        The points, of shape (B, *), and scalars by their names: none if the schedule is empty.
    """
    with deriving_once(target):
        last = deque(leaps(schedule, target, position, rng), maxlen=1)
    if not last:
        return position, {}
    state, info = last[0]
    report = {
        "acceptance": info.acceptance.mean(),
        "at_box": info.at_box.mean(),
        "chain_gradient": state.score.abs().mean(),
    }
    return state.position, report


@contextmanager
def deriving_once(target: Target) -> Iterator[None]:
    """Lets parametrised weights stay as they are derived now.

    Outside of graphs they are kept. A graph derives them at each step, and what learns as it does so, such as
    the vectors of a spectral norm, learns once, before the first: as it does outside of graphs.
    """
    if not isinstance(target, CompiledTarget):
        with parametrize.cached():
            yield
        return
    learning = [module for module in _parametrizations(target.model) if module.training]
    for module in learning:
        module()  # derives the weight, and learns
        module.eval()
    try:
        yield
    finally:
        for module in learning:
            module.train()


def _parametrizations(model: Model) -> list[parametrize.ParametrizationList]:
    return [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
