r"""What KALE, the maximum mean discrepancy and KL say of the same laws: numbers for pictures.

Three pictures are computed here, and none is drawn: divergences of two Gaussians as one moves away or grows
(:class:`GaussianPair`), witnesses of two samples of the line (:func:`witness_curves`), and particles on their
way (:func:`record`).

The divergences of Gaussians are free of sampling noise: both densities stand as weights on one grid of the
line, fine enough for every sum to be the integral to about nine digits.

References:
    | KALE Flow: A Relaxed KL Gradient Flow for Probabilities with Disjoint Support (Glaser, Arbel & Gretton,
      2021)
    | https://arxiv.org/abs/2106.08929
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.fields import FieldError, positive
from ebmzoo_gebm.kernel import GaussianKernel, Measure, biased_mmd2, difference, sample
from ebmzoo_gebm.kernel_kale import KernelKALE
from ebmzoo_gebm.particles import ParticleFlow, trajectory


def gaussian_kl(shift: float, ratio: float) -> float:
    r"""Returns a divergence of Gaussians of the line.

    .. math:: \mathrm{KL}(\mathcal{N}(s, r^2) \| \mathcal{N}(0, 1)) = \frac{r^2 + s^2 - 1}{2} - \log r

    Arguments:
        shift: The distance :math:`s` of the means, in standard deviations of the second.
        ratio: The ratio :math:`r` of the standard deviations.
    """
    return 0.5 * (ratio**2 + shift**2 - 1) - math.log(ratio)


@dataclass(frozen=True, eq=False)
class DivergenceCurves:
    r"""Divergences of pairs of laws, one pair for each of T abscissae.

    Arguments:
        where: The abscissae: distances of means, or ratios of widths, of shape (T,).
        kl: The divergences :math:`\mathrm{KL}(P \| Q)`, in closed form, of shape (T,).
        mmd2: The squared discrepancies, of shape (T,). KALE goes to half of them.
        kale: KALE for each penalty, of shape (L, T).
        penalties: The penalties :math:`\lambda`, L of them.
    """

    where: Tensor
    kl: Tensor
    mmd2: Tensor
    kale: Tensor
    penalties: tuple[float, ...]


@dataclass(frozen=True)
class GaussianPair:
    r"""The laws :math:`P = \mathcal{N}(s, r^2)` and :math:`Q = \mathcal{N}(0, 1)` of the line.

    Arguments:
        kernel: The kernel.
        penalties: The penalties :math:`\lambda` of KALE.
        reach: How many standard deviations of either law the grid covers on both sides.
        fineness: How many points of the grid the smallest of both widths and the bandwidth has.
    """

    kernel: GaussianKernel = GaussianKernel(1.0)
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 1e4)
    reach: float = 7.0
    fineness: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "reach", "fineness")
        if not self.penalties:
            raise FieldError(self, "penalties", "one or more numbers above zero, as a tuple")

    def measures(self, shift: float, ratio: float) -> tuple[Measure, Measure]:
        r"""Returns :math:`P` and :math:`Q` as weights on one grid."""
        low, high = min(shift - self.reach * ratio, -self.reach), max(shift + self.reach * ratio, self.reach)
        spacing = min(ratio, 1.0, self.kernel.bandwidth) / self.fineness
        count = math.ceil((high - low) / spacing) + 1
        grid = torch.linspace(low, high, count, dtype=torch.float64)
        return _on_grid(grid, shift, ratio), _on_grid(grid, 0.0, 1.0)

    def over_means(self, distances: Sequence[float]) -> DivergenceCurves:
        r"""Returns the curves for shifts :math:`s` at :math:`r = 1`."""
        return self._curves(distances, [(each, 1.0) for each in distances])

    def over_widths(self, ratios: Sequence[float]) -> DivergenceCurves:
        r"""Returns the curves for ratios :math:`r` of the standard deviations at :math:`s = 0`."""
        return self._curves(ratios, [(0.0, each) for each in ratios])

    def _curves(self, where: Sequence[float], laws: Sequence[tuple[float, float]]) -> DivergenceCurves:
        pairs = [self.measures(*law) for law in laws]
        estimators = [KernelKALE(self.kernel, penalty) for penalty in self.penalties]
        return DivergenceCurves(
            _doubles(where),
            _doubles([gaussian_kl(*law) for law in laws]),
            _doubles([biased_mmd2(p, q, self.kernel) for p, q in pairs]),
            torch.stack([_doubles([kale.value(p, q) for p, q in pairs]) for kale in estimators]),
            self.penalties,
        )


def _on_grid(grid: Tensor, mean: float, std: float) -> Measure:
    """Returns a Gaussian on a grid (N,) with constant spacing."""
    density = (-0.5 * ((grid - mean) / std).square()).exp()
    # far out the density of a much narrower law underflows; its logarithm is needed, so it may not be zero
    density = density.clamp_min(torch.finfo(density.dtype).tiny)
    return Measure(grid[:, None], density / density.sum())


def _doubles(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class WitnessCurves:
    r"""The functions that tell two samples of the line apart.

    Arguments:
        x: The sample of :math:`P`, inside the expectation, of shape (M,).
        y: The sample of :math:`Q`, inside the exponential, of shape (N,).
        line: Where the functions are evaluated, of shape (T,).
        mmd: The witness of the discrepancy, of shape (T,).
        kale: The witness :math:`f^*` of KALE for each penalty, of shape (L, T). It estimates
            :math:`\log dP/dQ`; :math:`\lambda f^*` goes to ``mmd`` for a large penalty.
        values: KALE for each penalty, of shape (L,).
        penalties: The penalties :math:`\lambda`, L of them.
    """

    x: Tensor
    y: Tensor
    line: Tensor
    mmd: Tensor
    kale: Tensor
    values: Tensor
    penalties: tuple[float, ...]


def witness_curves(
    x: Tensor, y: Tensor, line: Tensor, kernel: GaussianKernel, penalties: tuple[float, ...]
) -> WitnessCurves:
    """Returns the witnesses of two samples (M,) and (N,) along a line (T,).

    Raises:
        ValueError: If a sample is empty, or there is no penalty.
    """
    if not penalties:
        raise ValueError("penalties should be one or more numbers above zero")
    x, y, line = (points.detach().double().cpu() for points in (x, y, line))
    p, q = sample(x[:, None]), sample(y[:, None])
    solutions = [KernelKALE(kernel, penalty).solve(p, q) for penalty in penalties]
    return WitnessCurves(
        x,
        y,
        line,
        difference(p, q, kernel)(line[:, None]),
        torch.stack([solution.witness(line[:, None]) for solution in solutions]),
        _doubles([solution.value for solution in solutions]),
        penalties,
    )


@runtime_checkable
class Scene(Protocol):
    """Where particles start, and where they are to go."""

    def target(self, rng: Generator) -> Tensor:
        """Returns the sample that is approached, of shape (N, 2)."""
        ...

    def source(self, rng: Generator) -> Tensor:
        """Returns the particles at the start, of shape (M, 2)."""
        ...


@dataclass(frozen=True)
class ThreeRings:
    r"""Three rings, one below the other, and particles that start at the lowest point of the first.

    The authors have a kernel with :math:`h = \sqrt{0.05}`, their "0.1", and 50 000 steps of 1e-4 at a penalty
    of 1e-3, or of 1e-3 at a penalty of 1e4.

    References:
        | KALE Flow (Glaser et al., 2021), the experiment on three rings

    Arguments:
        count: How many points a ring has, at equal distances; there are three times as many particles.
        radius: The radius of a ring.
        gap: The distance from a ring to the next, in radii.
        spread: The standard deviation of the particles at the start.
    """

    count: int = 80
    radius: float = 0.3
    gap: float = 0.5
    spread: float = 0.01

    def __post_init__(self) -> None:
        positive(self, "count", "radius", "gap", "spread")

    def target(self, rng: Generator) -> Tensor:
        """Returns the points of the rings, which are always the same, of shape (3 count, 2)."""
        del rng
        angle = torch.arange(self.count, dtype=torch.float64) * (2 * math.pi / self.count)
        ring = self.radius * torch.stack([angle.cos(), angle.sin()], 1)
        down = torch.tensor([0.0, (2 + self.gap) * self.radius], dtype=torch.float64)
        return torch.cat([ring - index * down for index in range(3)])

    def source(self, rng: Generator) -> Tensor:
        """Returns normally distributed particles, of shape (3 count, 2)."""
        noise = torch.randn(3 * self.count, 2, generator=rng, dtype=torch.float64)
        return self.spread * noise - torch.tensor([0.0, self.radius], dtype=torch.float64)


@dataclass(frozen=True)
class FourGaussians:
    r"""Gaussians at the corners of a square, and particles that start outside the corner at the origin.

    The authors have a kernel with :math:`h = 0.5`, 50 000 steps of 1e-3, penalties of 1e-3, 0.1 and 1e4, and
    in one run noise of 0.3. They draw the corner of every point; here all corners have equally many, up to
    one.

    References:
        | KALE Flow (Glaser et al., 2021), the experiment on a mixture of Gaussians

    Arguments:
        count: How many points there are, and how many particles.
        side: The side of the square, which has one corner at the origin.
        std: The standard deviation of each Gaussian.
        offset: How far the particles' mean is from the origin in both coordinates, in sides.
        spread: The standard deviation of the particles at the start.
    """

    count: int = 240
    side: float = 1.8
    std: float = 0.25
    offset: float = -0.1
    spread: float = 0.2

    def __post_init__(self) -> None:
        positive(self, "count", "side", "std", "spread")

    def target(self, rng: Generator) -> Tensor:
        """Returns new points of the mixture, of shape (count, 2)."""
        corners = self.side * torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
        noise = torch.randn(self.count, 2, generator=rng, dtype=torch.float64)
        return corners[torch.arange(self.count) % 4] + self.std * noise

    def source(self, rng: Generator) -> Tensor:
        """Returns normally distributed particles, of shape (count, 2)."""
        noise = torch.randn(self.count, 2, generator=rng, dtype=torch.float64)
        return self.offset * self.side + self.spread * noise


@dataclass(frozen=True, eq=False)
class ParticlePath:
    """Particles on their way.

    Arguments:
        target: What they approach, of shape (N, 2).
        steps: After how many steps they were recorded, T numbers; 0 is the start.
        positions: Where they were, of shape (T, M, 2).
        objective: What the flow minimises, there, of shape (T,).
    """

    target: Tensor
    steps: tuple[int, ...]
    positions: Tensor
    objective: Tensor


def record(scene: Scene, flow: ParticleFlow, shots: Sequence[int], rng: Generator) -> ParticlePath:
    """Lets the particles of a scene flow, and records them after some of the flow's steps.

    Target and source come first from the generator, so that flows which begin with equal generators begin
    with equal particles.

    Arguments:
        scene: The particles and their target.
        flow: The flow.
        shots: After how many steps the particles are recorded: rising numbers from 0 to the flow's ``steps``.
        rng: The generator of all noise, on the CPU.

    Raises:
        ValueError: If a number of steps is out of range, or they do not rise.
    """
    if not shots or list(shots) != sorted(set(shots)) or shots[0] < 0 or shots[-1] > flow.steps:
        raise ValueError(f"shots should be rising numbers from 0 to {flow.steps}, not {list(shots)}")
    target, source = scene.target(rng), scene.source(rng)
    wanted, kept = set(shots), [source] if shots[0] == 0 else []
    for step, position in enumerate(trajectory(flow, source, target, rng), start=1):
        if step in wanted:
            kept.append(position)
        if step == shots[-1]:
            break
    values = _doubles([flow.objective(position, target) for position in kept])
    return ParticlePath(target, tuple(shots), torch.stack(kept), values)
