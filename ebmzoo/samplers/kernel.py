r"""What a Markov kernel is, and how a chain is run.

A kernel is a frozen dataclass of settings. Each entry of a batch is a chain of its own; the target, the state
and the random generator are arguments of every step. A chain is an endless iterator: whoever consumes it
slices, thins, logs and stops.

Most kernels are *reparametrised*: a step is a fixed map of the state and of noise that is drawn before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.models import Target, value_and_grad

S = TypeVar("S")


class State(NamedTuple):
    r"""Where the chains are, with what the next step would otherwise have to evaluate again.

    Arguments:
        position: The points :math:`u`, of shape (B, *).
        log_prob: The values :math:`\log \pi(u)`, of shape (B,).
        score: The gradients :math:`\nabla \log \pi(u)`, of shape (B, *).
    """

    position: Tensor
    log_prob: Tensor
    score: Tensor


class Info(NamedTuple):
    """What a step tells about itself, and the next step does not need.

    Arguments:
        acceptance: The probabilities with which the proposals were accepted, of shape (B,); ones for a kernel
            that accepts always.
        at_box: The share of each chain's coordinates that the kernel's box holds back, of shape (B,).
    """

    acceptance: Tensor
    at_box: Tensor


@runtime_checkable
class Kernel(Protocol[S]):
    """A Markov kernel. Its state is a :class:`State`, or a tuple that has its fields and more."""

    def init(self, position: Tensor, target: Target) -> S:
        """Returns the state of chains that are at ``position``, of shape (B, *)."""
        ...

    def step(self, state: S, target: Target, rng: Generator) -> tuple[S, Info]:
        """Moves every chain once."""
        ...


Noise = tuple[Tensor, ...]
"""All that is random in a step."""


class Reparametrised(ABC):
    """A kernel whose step is a fixed map of the state and of noise, which does not depend on the target.

    Where gradients are compiled, whole steps of such a kernel are one graph, with the noise drawn outside.
    """

    @property
    def gradients_per_step(self) -> int:
        """How many gradients of the target a step evaluates."""
        return 1

    def init(self, position: Tensor, target: Target) -> Any:
        """Returns the state of chains that are at ``position``, of shape (B, *): that of one evaluation."""
        return State(position, *value_and_grad(target, position))

    def draw_noise(self, position: Tensor, rng: Generator) -> Noise:
        """Draws all that a step of chains at ``position`` leaves to chance: normal noise, of shape (B, *)."""
        return (noise_like(position, rng),)

    @abstractmethod
    def move(self, state: Any, target: Target, noise: Noise) -> tuple[Any, Info]:
        """Moves every chain once, as the noise says. Neither the state nor the noise is changed."""

    def step(self, state: Any, target: Target, rng: Generator) -> tuple[Any, Info]:
        """Moves every chain once."""
        return self.move(state, target, self.draw_noise(state.position, rng))


def accepted(log_prob: Tensor) -> Info:
    """Returns the information of a step that accepted every proposal and has no box.

    Arguments:
        log_prob: The log-densities after the step, of shape (B,).
    """
    return Info(torch.ones_like(log_prob), torch.zeros_like(log_prob))


def noise_like(position: Tensor, rng: Generator) -> Tensor:
    """Draws standard normal noise of the shape, device and dtype of ``position``, laid out contiguously.

    Filling a channels-last tensor is six times slower, so noise is never drawn in that layout.
    """
    return torch.randn(position.shape, generator=rng, device=position.device, dtype=position.dtype)


def uniforms(position: Tensor, rng: Generator) -> Tensor:
    """Draws a number uniform on [0, 1) for each chain at ``position`` (B, *), of shape (B,)."""
    return torch.rand(len(position), generator=rng, device=position.device, dtype=position.dtype)


def chosen(moves: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Returns the new entries of a batch (B, *) where ``moves``, of shape (B,), is true, else the old."""
    return torch.where(moves.view(-1, *[1] * (new.ndim - 1)), new, old)


def chain(kernel: Kernel, target: Target, position: Tensor, rng: Generator) -> Iterator[tuple[State, Info]]:
    """Runs chains from ``position`` without end.

    Arguments:
        kernel: The Markov kernel.
        target: The log-density that the kernel is to leave invariant.
        position: The starting points, of shape (B, *). They are not among the results.
        rng: The generator of all noise.
    """
    yield from going_on(kernel, target, kernel.init(position, target), rng)


def going_on(kernel: Kernel, target: Target, state: State, rng: Generator) -> Iterator[tuple[State, Info]]:
    """Runs chains on from a state of theirs, without end."""
    while True:
        state, info = kernel.step(state, target, rng)
        yield state, info
