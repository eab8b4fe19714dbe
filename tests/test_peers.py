"""Moments of our samplers agree with those of torchebm and ebmkit, run on the same energy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ebmzoo.samplers import HMC, MALA, Kernel, KineticLangevin, Langevin, Stage, settle

pytestmark = pytest.mark.peers

CHAINS, STEPS, STEP_SIZE, LEAPFROG = 40_000, 400, 0.05, 4
ERROR = 1e-6
"""The probability that samplers of one law fail a comparison."""


class Banana(nn.Module):
    """An energy that is skewed, curved and not separable, and has one mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies (B,) of points (B, 2)."""
        first, second = x.unbind(1)
        return 0.5 * first.square() + (second - 0.5 * first.square()).square() + torch.exp(-second) * 0.2


def moments(x: Tensor) -> Tensor:
    """Returns seven functions of each point, of shape (B, 7), whose means are compared."""
    a, b = x.double().unbind(1)
    return torch.stack([a, b, a.square(), b.square(), a * b, a.square() * b, torch.tanh(b).pow(3)], 1)


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Compares the means by two-sample tests, all of them together at the level of ERROR."""
    f, g = moments(ours), moments(theirs)
    spread = (f.var(0) / len(f) + g.var(0) / len(g)).sqrt()
    z = (f.mean(0) - g.mean(0)) / spread
    limit = statistics.NormalDist().inv_cdf(1 - ERROR / (2 * z.numel()))
    assert z.abs().max() < limit, z


def ours(kernel: Kernel) -> Tensor:
    energy = Banana()
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(CHAINS, 2, generator=rng)
    return settle((Stage(kernel, STEPS),), lambda u: -energy(u), start, rng)


def torchebm(name: str, **settings: float) -> Tensor:
    core, samplers = pytest.importorskip("torchebm.core"), pytest.importorskip("torchebm.samplers")

    class Wrapped(core.BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.energy = Banana()

        def forward(self, x: Tensor) -> Tensor:
            return self.energy(x)

    torch.manual_seed(2)
    sampler = getattr(samplers, name)(Wrapped(), **settings)
    return sampler.sample(torch.randn(CHAINS, 2), n_steps=STEPS).detach()


def ebmkit(name: str, *settings: float) -> Tensor:
    samplers = pytest.importorskip("ebm.samplers")
    torch.manual_seed(4)
    sampler = getattr(samplers, name)(*settings)
    return sampler.sample(Banana(), torch.randn(CHAINS, 2), steps=STEPS).detach()


PAIRS: dict[str, tuple[Kernel, Callable[[], Tensor]]] = {
    "torchebm LangevinDynamics": (
        Langevin(STEP_SIZE),
        lambda: torchebm("LangevinDynamics", step_size=STEP_SIZE),
    ),
    "torchebm HamiltonianMonteCarlo": (
        HMC(4 * STEP_SIZE, LEAPFROG),
        lambda: torchebm("HamiltonianMonteCarlo", step_size=4 * STEP_SIZE, n_leapfrog_steps=LEAPFROG),
    ),
    "ebmkit LangevinDynamics": (Langevin(STEP_SIZE), lambda: ebmkit("LangevinDynamics", STEP_SIZE)),
    "ebmkit MALA": (MALA(STEP_SIZE), lambda: ebmkit("MALA", STEP_SIZE)),
    "ebmkit HMC": (HMC(4 * STEP_SIZE, LEAPFROG), lambda: ebmkit("HMC", 4 * STEP_SIZE, LEAPFROG)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_moments_agree(pair):
    kernel, theirs = PAIRS[pair]
    agree(ours(kernel), theirs())


def test_the_comparison_tells_apart_what_differs():
    """Langevin at two step sizes has two stationary laws; the comparison must see it."""
    with pytest.raises(AssertionError):
        agree(ours(Langevin(STEP_SIZE)), ours(Langevin(6 * STEP_SIZE)))


def test_exact_kernels_agree_among_themselves():
    """MALA and HMC share the law; kinetic Langevin nears it at a small step."""
    agree(ours(MALA(STEP_SIZE)), ours(HMC(4 * STEP_SIZE, LEAPFROG)))
    agree(ours(HMC(4 * STEP_SIZE, LEAPFROG)), ours(KineticLangevin(0.05, friction=math.sqrt(2))))
