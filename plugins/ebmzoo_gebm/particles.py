r"""Particles that flow to a sample, down the maximum mean discrepancy or down KALE.

Of a functional :math:`\mathcal{F}(P)` that changes by :math:`\int \varphi \, d\chi` with a small change
:math:`\chi` of :math:`P`, the Wasserstein gradient at :math:`x` is :math:`\nabla \varphi(x)`. For particles
:math:`P = \frac{1}{M} \sum_j \delta_{x_j}` and a target :math:`Q` both flows are

.. math:: x_j \leftarrow x_j - \gamma \, \nabla \varphi(x_j + \beta_t \, U_j), \qquad
    U_j \sim \mathcal{N}(0, I).

For :math:`\mathcal{F} = \mathrm{MMD}^2(P, Q) / 2`, which is :class:`MMDFlow`, :math:`\varphi` is the witness
:math:`\mathbb{E}_P k(x, \cdot) - \mathbb{E}_Q k(y, \cdot)`. For
:math:`\mathcal{F} = \mathrm{KALE}_\lambda(P \| Q)`, which is :class:`KALEFlow`, it is
:math:`(1 + \lambda) f^*`, with the witness :math:`f^*` of ``ebmzoo_gebm.kernel_kale``; as
:math:`\lambda \to \infty` this goes to the former.

The noise is *inside* the gradient. It lets a particle feel slopes at a distance of :math:`\beta_t`; but where
:math:`\varphi` is flat, as it is once the particles are the target, it moves nothing, unlike the noise of a
diffusion.

References:
    | Maximum Mean Discrepancy Gradient Flow (Arbel, Korba, Salim & Gretton, 2019)
    | https://arxiv.org/abs/1906.04370
    | KALE Flow: A Relaxed KL Gradient Flow for Probabilities with Disjoint Support (Glaser, Arbel & Gretton,
      2021)
    | https://arxiv.org/abs/2106.08929
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Generator, Tensor

from ebmzoo.fields import not_negative, positive
from ebmzoo.samplers.kernel import noise_like
from ebmzoo_gebm.kernel import GaussianKernel, Measure, Witness, biased_mmd2, difference, sample
from ebmzoo_gebm.kernel_kale import KernelKALE


@runtime_checkable
class Noise(Protocol):
    """How far from a particle its gradient is taken."""

    def level(self, step: int) -> float:
        r"""Returns the standard deviation :math:`\beta_t` at a step, the first of which is 0."""
        ...


@dataclass(frozen=True)
class ConstantNoise:
    """Noise of one level.

    Arguments:
        size: The level, in the units of the particles; no noise is drawn where it is zero.
    """

    size: float = 0.0

    def __post_init__(self) -> None:
        not_negative(self, "size")

    def level(self, step: int) -> float:
        """Returns the level."""
        del step
        return self.size


@dataclass(frozen=True)
class HalvingNoise:
    """Noise whose level is halved from time to time.

    Arguments:
        size: The level at the start, in the units of the particles.
        every: After how many steps it is halved.
    """

    size: float
    every: int

    def __post_init__(self) -> None:
        not_negative(self, "size")
        positive(self, "every")

    def level(self, step: int) -> float:
        """Returns the level at a step."""
        return self.size * 0.5 ** (step // self.every)


class State(NamedTuple):
    r"""Where the particles are, with what the next step begins with.

    Arguments:
        position: The particles, of shape (M, D).
        steps: How many steps they have made.
        log_ratio: The last solution of KALE's dual, of shape (N,), near which the next one is; None at the
            start, and always for the flow that has no dual.
    """

    position: Tensor
    steps: int
    log_ratio: Tensor | None = None


class ParticleFlow(ABC):
    r"""A flow of particles. A frozen dataclass with the fields below.

    Arguments:
        step_size: The step size :math:`\gamma`.
        steps: How many steps are made.
        noise: The noise :math:`\beta_t` inside the gradient.
    """

    step_size: float
    steps: int
    noise: Noise

    @abstractmethod
    def potential(
        self, particles: Measure, target: Measure, start: Tensor | None
    ) -> tuple[Witness, Tensor | None]:
        r"""Returns :math:`\varphi`, and what the next step is to have as ``start``."""

    @abstractmethod
    def objective(self, particles: Tensor, target: Tensor) -> float:
        """Returns the functional, for particles (M, D) and a target (N, D)."""

    def step(self, state: State, target: Measure, rng: Generator) -> State:
        """Moves every particle once."""
        x = state.position
        potential, log_ratio = self.potential(sample(x), target, state.log_ratio)
        level = self.noise.level(state.steps)
        place = x + level * noise_like(x, rng) if level else x
        return State(x - self.step_size * potential.gradient(place), state.steps + 1, log_ratio)


@dataclass(frozen=True)
class MMDFlow(ParticleFlow):
    r"""The flow of :math:`\mathrm{MMD}^2 / 2`.

    References:
        | Maximum Mean Discrepancy Gradient Flow (Arbel et al., 2019)

    Arguments:
        kernel: The kernel :math:`k`.
        step_size: The step size :math:`\gamma`.
        steps: How many steps are made.
        noise: The noise :math:`\beta_t` inside the gradient.
    """

    kernel: GaussianKernel
    step_size: float
    steps: int
    noise: Noise = ConstantNoise()

    def __post_init__(self) -> None:
        positive(self, "step_size", "steps")

    def potential(
        self, particles: Measure, target: Measure, start: Tensor | None
    ) -> tuple[Witness, Tensor | None]:
        """Returns the difference of mean embeddings."""
        return difference(particles, target, self.kernel), start

    def objective(self, particles: Tensor, target: Tensor) -> float:
        """Returns half the squared discrepancy, by its V-statistic."""
        return 0.5 * biased_mmd2(sample(particles), sample(target), self.kernel)


@dataclass(frozen=True)
class KALEFlow(ParticleFlow):
    r"""The flow of :math:`\mathrm{KALE}_\lambda`, from :math:`P`, the particles, to :math:`Q`, the target.

    Every step solves KALE's dual, beginning with the last step's solution.

    References:
        | KALE Flow (Glaser et al., 2021)

    Arguments:
        kernel: The kernel :math:`k`.
        penalty: The penalty :math:`\lambda` on the witness.
        step_size: The step size :math:`\gamma`.
        steps: How many steps are made.
        noise: The noise :math:`\beta_t` inside the gradient.
    """

    kernel: GaussianKernel
    penalty: float
    step_size: float
    steps: int
    noise: Noise = ConstantNoise()

    def __post_init__(self) -> None:
        positive(self, "penalty", "step_size", "steps")

    def potential(
        self, particles: Measure, target: Measure, start: Tensor | None
    ) -> tuple[Witness, Tensor | None]:
        r"""Returns :math:`(1 + \lambda) f^*`, and the log-ratios of the dual."""
        solution = KernelKALE(self.kernel, self.penalty).solve(particles, target, start)
        return solution.witness.scaled(1 + self.penalty), solution.log_ratio

    def objective(self, particles: Tensor, target: Tensor) -> float:
        """Returns KALE of the particles from the target."""
        return KernelKALE(self.kernel, self.penalty).value(sample(particles), sample(target))


def trajectory(flow: ParticleFlow, particles: Tensor, target: Tensor, rng: Generator) -> Iterator[Tensor]:
    """Lets particles flow, and yields where they are after each of the flow's steps.

    Arguments:
        flow: The flow.
        particles: The starting points, of shape (M, D). They are not among the results.
        target: The sample that they are to approach, of shape (N, D).
        rng: The generator of all noise, on the CPU.

    Raises:
        ValueError: If a sample is empty, the dimensions differ, or the particles have left for infinity.
    """
    state, aim = State(sample(particles).points, 0), sample(target)
    for _ in range(flow.steps):
        state = flow.step(state, aim, rng)
        yield state.position
