r"""Laws whose every number is known, and what it takes to say that a sample does not follow one.

A check here fails by chance with a probability of about ``FAILURE``; tolerances follow from that, from the
known law and from the size of the sample, never from what a run happened to give. Samples are independent
points: the ends of many chains, not one long chain.

The sharpest check is that of *normal scores*: for independent points of a law with distribution function
:math:`F`, the values :math:`\Phi^{-1}(F(u))` are independent standard normals, whatever the law.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import combinations, islice
from statistics import NormalDist

import numpy as np
import torch
from scipy import stats
from torch import Generator, Tensor

from ebmzoo.models import Target
from ebmzoo.samplers import Kernel, State

FAILURE = 1e-6
"""The probability with which each check fails although all is well."""

Z = NormalDist().inv_cdf(1 - FAILURE / 2)
"""So many standard errors may an estimate be off: 4.89."""

COUNT = 40_000
"""How many independent chains a check of a law has."""


def generator(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


class Law(ABC):
    """Independent coordinates, each of the same known law up to a shift and a scale.

    ``mean``, ``std`` and ``kurtosis`` are those of the coordinates, of shape (d,) or ().
    """

    mean: Tensor
    std: Tensor
    kurtosis: float
    dim: int

    @abstractmethod
    def log_density(self, u: Tensor) -> Tensor:
        """The coordinates' log-densities, (B, d) to (B, d)."""

    @abstractmethod
    def cdf(self, u: Tensor) -> Tensor:
        """The coordinates' distribution functions, (B, d) to (B, d)."""

    @abstractmethod
    def draw(self, count: int, rng: Generator) -> Tensor:
        """Independent points (count, d)."""

    def log_prob(self, u: Tensor) -> Tensor:
        return self.log_density(u).sum(1)

    def score(self, u: Tensor) -> Tensor:
        u = u.detach().requires_grad_()
        (score,) = torch.autograd.grad(self.log_prob(u).sum(), u)
        return score


class Gaussian(Law):
    kurtosis = 3.0

    def __init__(self, mean: tuple[float, ...] = (0.0,), std: tuple[float, ...] = (1.0,)):
        self.mean = torch.tensor(mean, dtype=torch.float64)
        self.std = torch.tensor(std, dtype=torch.float64)
        self.dim = len(mean)

    def log_density(self, u: Tensor) -> Tensor:
        return -0.5 * ((u - self.mean) / self.std).square() - (self.std * math.sqrt(2 * math.pi)).log()

    def cdf(self, u: Tensor) -> Tensor:
        return torch.special.ndtr((u - self.mean) / self.std)

    def draw(self, count: int, rng: Generator) -> Tensor:
        return self.mean + self.std * torch.randn(count, self.dim, generator=rng, dtype=torch.float64)


class Skewed(Law):
    """The logarithms of unit exponentials: a steep wall above, a long tail below, closed moments.

    A symmetric law forgives a step in the wrong direction; this one does not.
    """

    kurtosis = 5.4
    mean = torch.tensor(-np.euler_gamma, dtype=torch.float64)
    std = torch.tensor(math.pi / math.sqrt(6), dtype=torch.float64)

    def __init__(self, dim: int = 1):
        self.dim = dim

    def log_density(self, u: Tensor) -> Tensor:
        return u - u.exp()

    def cdf(self, u: Tensor) -> Tensor:
        return -torch.expm1(-u.exp())

    def draw(self, count: int, rng: Generator) -> Tensor:
        uniform = torch.rand(count, self.dim, generator=rng, dtype=torch.float64)
        return (-torch.log1p(-uniform)).log()


class Bimodal(Law):
    """Two narrow modes of unequal weight and width."""

    dim = 1

    def __init__(self) -> None:
        self.weight = torch.tensor([0.3, 0.7], dtype=torch.float64)
        self.centre = torch.tensor([-1.5, 1.0], dtype=torch.float64)
        self.width = torch.tensor([0.4, 0.7], dtype=torch.float64)
        self.mean = (self.weight * self.centre).sum()
        offset = self.centre - self.mean
        variance = (self.weight * (offset**2 + self.width**2)).sum()
        fourth = (self.weight * (offset**4 + 6 * offset**2 * self.width**2 + 3 * self.width**4)).sum()
        self.std, self.kurtosis = variance.sqrt(), float(fourth / variance**2)

    def log_density(self, u: Tensor) -> Tensor:
        scaled = (u[..., None] - self.centre) / self.width
        modes = -0.5 * scaled.square() - (self.width * math.sqrt(2 * math.pi)).log() + self.weight.log()
        return modes.logsumexp(-1)

    def cdf(self, u: Tensor) -> Tensor:
        return (self.weight * torch.special.ndtr((u[..., None] - self.centre) / self.width)).sum(-1)

    def draw(self, count: int, rng: Generator) -> Tensor:
        mode = (torch.rand(count, 1, generator=rng, dtype=torch.float64) < self.weight[1]).long()
        noise = torch.randn(count, 1, generator=rng, dtype=torch.float64)
        return self.centre[mode] + self.width[mode] * noise


def assert_mean(values: Tensor, expected: float | Tensor, std: float | Tensor, what: str = "mean") -> None:
    """Independent ``values`` (N, *), of known mean and standard deviation, have that mean."""
    error = (values.double().mean(0) - expected) / (torch.as_tensor(std) / math.sqrt(len(values)))
    worst = float(error.abs().max())
    assert worst < Z, f"{what} is off by {worst:.1f} standard errors"


def assert_sample_mean(values: Tensor, expected: float | Tensor, what: str = "mean") -> None:
    """Independent ``values`` (N, *) have a mean; their standard deviation is estimated."""
    assert_mean(values, expected, values.double().std(0), what)


def assert_normal_scores(uniform: Tensor) -> None:
    """``uniform`` (N, d) are independent uniforms, judged by the moments of their normal scores."""
    scores = torch.special.ndtri(uniform.double())
    for power, expected, variance in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0)]:
        assert_mean(scores.flatten() ** power, expected, math.sqrt(variance), f"normal score to the {power}")
    for i, j in combinations(range(uniform.shape[1]), 2):
        assert_mean(scores[:, i] * scores[:, j], 0.0, 1.0, f"correlation of coordinates {i} and {j}")
    pvalue = stats.kstest(uniform.flatten().numpy(), "uniform").pvalue
    assert pvalue > FAILURE, f"the sample's quantiles are those of the law with probability {pvalue:.1e}"


def assert_follows(law: Law, sample: Tensor) -> None:
    """The independent points ``sample`` (N, d) are of ``law``, by moments and by quantiles."""
    sample = sample.double()
    assert_mean(sample, law.mean, law.std)
    spread = (sample - law.mean).square()
    assert_mean(spread, law.std**2, law.std**2 * math.sqrt(law.kurtosis - 1), "variance")
    assert_normal_scores(law.cdf(sample))


def run_chains(
    kernel: Kernel, target: Target, position: Tensor, steps: int, rng: Generator, moving: bool = False
) -> State:
    """Where chains are after ``steps``. ``moving`` chains begin with velocities of their stationary law."""
    state = kernel.init(position, target)
    if moving:
        velocity = torch.randn(position.shape, generator=rng, dtype=position.dtype)
        state = state._replace(velocity=velocity)  # type: ignore[attr-defined]
    for _ in range(steps):
        state, _ = kernel.step(state, target, rng)
    return state


def first(iterator, count: int) -> list:
    return list(islice(iterator, count))


Array = np.ndarray


def grid(low: float, high: float, points: int) -> Array:
    return np.linspace(low, high, points)


def on_grid(function: Callable[[Tensor], Tensor], points: Array) -> Array:
    """A function of (B, 1) at the points of a grid."""
    return function(torch.from_numpy(points)[:, None]).detach().flatten().numpy()


def pushed_cdf(law: Law, drift: Callable[[Array], Array], noise: float, steps: int, points: Array) -> Array:
    r"""The distribution function, on a grid, of :math:`u + d(u) + s \xi` applied ``steps`` times to ``law``.

    By quadrature: this is the law of unadjusted chains at *any* step size, with its bias.
    """
    width = points[1] - points[0]
    means = points + drift(points)
    transition = stats.norm.pdf(points[:, None], means[None, :], noise) * width
    density = np.exp(on_grid(law.log_density, points))
    for _ in range(steps):
        density = transition @ density
    cumulative = np.cumsum(density) * width - 0.5 * width * density
    assert abs(cumulative[-1] - 1) < 1e-4, "the grid loses mass"
    return cumulative


def at_points(table: Array, points: Array, sample: Tensor) -> Tensor:
    """A function tabulated on a grid, at a sample."""
    return torch.from_numpy(np.interp(sample.numpy(), points, table))


def acceptance_of_mala(law: Law, eta: float, points: Array) -> float:
    r"""The average acceptance in equilibrium, :math:`\iint \min(\pi(x) q(y | x), \pi(y) q(x | y))`."""
    width = points[1] - points[0]
    density = np.exp(on_grid(law.log_density, points))
    means = points + eta * on_grid(law.score, points)
    forward = density[:, None] * stats.norm.pdf(points[None, :], means[:, None], math.sqrt(2 * eta))
    return float(np.minimum(forward, forward.T).sum() * width**2)


def acceptance_of_hmc(law: Law, step_size: float, leapfrog_steps: int, points: Array) -> float:
    r"""The average acceptance in equilibrium, :math:`\iint \min(\pi(x, p), \pi(x', p'))`."""
    width = points[1] - points[0]
    momenta = np.linspace(-6.0, 6.0, 601)
    x, p = (array.ravel() for array in np.meshgrid(points, momenta, indexing="ij"))

    def log_joint(x: Array, p: Array) -> Array:
        return on_grid(law.log_density, x) + stats.norm.logpdf(p)

    end, momentum = x, p
    for _ in range(leapfrog_steps):
        half = momentum + 0.5 * step_size * on_grid(law.score, end)
        end = end + step_size * half
        momentum = half + 0.5 * step_size * on_grid(law.score, end)
    with np.errstate(over="ignore", invalid="ignore"):
        flow = np.exp(np.minimum(log_joint(x, p), np.nan_to_num(log_joint(end, momentum), nan=-np.inf)))
    return float(flow.sum() * width * (momenta[1] - momenta[0]))
