"""Kernels leave known laws alone, miss them by as much as theory says, and touch nothing else."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import (
    COUNT,
    FAILURE,
    Bimodal,
    Gaussian,
    Law,
    Skewed,
    Z,
    acceptance_of_hmc,
    acceptance_of_mala,
    assert_follows,
    assert_mean,
    assert_normal_scores,
    assert_sample_mean,
    at_points,
    first,
    generator,
    grid,
    on_grid,
    pushed_cdf,
    run_chains,
)
from scipy import linalg, stats
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ebmzoo.energies import ConvEnergy, MLPEnergy, ResidualEnergy
from ebmzoo.fields import FieldError
from ebmzoo.generators import ConvGenerator, MLPGenerator
from ebmzoo.models import Box, Model, NoEnergy, StandardNormal, counting_evaluations, frozen
from ebmzoo.samplers import (
    BAOAB,
    HMC,
    MALA,
    SGLD,
    Chains,
    Decay,
    Direct,
    FromKept,
    FromNoise,
    FromPrior,
    Kernel,
    KineticLangevin,
    Langevin,
    Sampler,
    Stage,
    chain,
    evolve,
    metropolis,
    settle,
    settle_with_report,
)

KERNELS: dict[str, Kernel] = {
    "Langevin": Langevin(0.05),
    "SGLD": SGLD(0.05, 0.3, clip=1.0, box=(-1.5, 1.5)),
    "MALA": MALA(0.05),
    "HMC": HMC(0.1, 3),
    "KineticLangevin": KineticLangevin(0.3, 1.0),
    "BAOAB": BAOAB(0.3, 1.0),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)

NORMAL = Gaussian()
LAWS: dict[str, Law] = {
    "gaussian": Gaussian((1.0, -2.0), (0.6, 1.5)),
    "skewed": Skewed(2),
    "bimodal": Bimodal(),
}
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def conv_model() -> Model:
    torch.manual_seed(0)
    decoder = ConvGenerator(4).build(3, (1, 8, 8))
    return Model(StandardNormal((3,)), decoder, ResidualEnergy((4, 6), 1).energy((1, 8, 8))).eval()


def pixel_model() -> Model:
    torch.manual_seed(0)
    return Model(Box((1, 8, 8)), nn.Identity(), ConvEnergy(4).energy((1, 8, 8))).eval()


def toy_model() -> Model:
    torch.manual_seed(0)
    return Model(StandardNormal((2,)), MLPGenerator(16, 2).build(2, (2,)), MLPEnergy(16, 2).energy((2,)))


MODELS = {"toy": toy_model, "latent images": conv_model, "pixels": pixel_model}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


# Invariance


@every_law
@pytest.mark.parametrize("kernel", [MALA(0.3), MALA(1.0), HMC(0.5, 3), HMC(1.1, 1)], ids=str)
def test_metropolis_kernels_started_in_the_target_stay_there(law: Law, kernel: Kernel):
    rng = generator(0)
    state = run_chains(kernel, law.log_prob, law.draw(COUNT, rng), 8, rng)
    assert_follows(law, state.position)


@every_law
@pytest.mark.parametrize("kernel", [BAOAB(0.08, 1.0), KineticLangevin(0.08, 1.0)], ids=str)
def test_kinetic_kernels_started_in_the_target_stay_there(law: Law, kernel: Kernel):
    """Their bias is of second order in the step: some 1e-3 standard deviations, where 2.4e-2 are seen."""
    rng = generator(1)
    state = run_chains(kernel, law.log_prob, law.draw(COUNT, rng), 25, rng, moving=True)
    assert_follows(law, state.position)
    assert_follows(Gaussian((0.0,) * law.dim, (1.0,) * law.dim), state.velocity)
    assert_mean((state.position - law.mean) * state.velocity, 0.0, law.std, "position times velocity")


@every_law
@pytest.mark.parametrize("kernel", [Langevin(1e-3), SGLD(1e-3, math.sqrt(2e-3))], ids=str)
def test_unadjusted_kernels_started_in_the_target_stay_there_at_a_small_step(law: Law, kernel: Kernel):
    rng = generator(2)
    state = run_chains(kernel, law.log_prob, law.draw(COUNT, rng), 40, rng)
    assert_follows(law, state.position)


@pytest.mark.parametrize("law", [NORMAL, Skewed(), Bimodal()], ids=lambda law: type(law).__name__)
@pytest.mark.parametrize(
    "kernel", [Langevin(0.1), SGLD(0.1, 0.3), SGLD(0.2, 0.5, clip=0.7), SGLD(0.05, 0.6)], ids=str
)
def test_unadjusted_kernels_go_where_quadrature_says(law: Law, kernel: Langevin | SGLD):
    """At a large step, from the target, the law after some steps is known on a grid, bias and all."""
    if isinstance(kernel, Langevin):
        gradient, noise, clip = kernel.step_size, math.sqrt(2 * kernel.step_size), math.inf
    else:
        gradient, noise, clip = kernel.gradient, kernel.noise, kernel.clip or math.inf
    points = grid(-20.0, 6.0, 1301)
    drift = gradient * np.clip(on_grid(law.score, points), -clip, clip)
    table = pushed_cdf(law, lambda _: drift, noise, 5, points)

    rng = generator(3)
    state = run_chains(kernel, law.log_prob, law.draw(COUNT, rng), 5, rng)
    assert_normal_scores(at_points(table, points, state.position).clamp(1e-12, 1 - 1e-12))


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0, 1.5])
def test_the_variance_of_unadjusted_langevin_is_that_of_theory(eta: float):
    rng = generator(4)
    steps = math.ceil(math.log(1e-4) / math.log(abs(1 - eta) + 1e-9)) + 1
    state = run_chains(Langevin(eta), NORMAL.log_prob, NORMAL.draw(COUNT, rng), steps, rng)
    assert_follows(Gaussian((0.0,), (1 / math.sqrt(1 - eta / 2),)), state.position)


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_the_metropolis_test_removes_the_bias_at_the_same_step(eta: float):
    biased = Gaussian((0.0,), (1 / math.sqrt(1 - eta / 2),))
    rng = generator(5)
    for kernel in [MALA(eta), HMC(math.sqrt(2 * eta), 1)]:
        state = run_chains(kernel, NORMAL.log_prob, biased.draw(COUNT, rng), 60, rng)
        assert_follows(NORMAL, state.position)


def test_chains_forget_where_they_began():
    rng = generator(6)
    far = -3.0 + torch.zeros(COUNT, 1, dtype=torch.float64)
    for kernel in [MALA(0.5), HMC(0.6, 3)]:
        assert_follows(Skewed(), run_chains(kernel, Skewed().log_prob, far, 60, rng).position)
    state = run_chains(BAOAB(0.3, 1.0), NORMAL.log_prob, far, 60, rng)
    assert_follows(NORMAL, state.position)


def test_single_precision_is_enough():
    law, rng = Gaussian((0.0, 0.0), (1.0, 1.0)), generator(7)
    state = run_chains(MALA(0.5), StandardNormal((2,)).log_prob, law.draw(COUNT, rng).float(), 10, rng)
    assert state.position.dtype == state.log_prob.dtype == torch.float32
    assert_follows(law, state.position)


# Kinetic kernels on a Gaussian: the recursion is linear


def linear_step(kernel: BAOAB | KineticLangevin, precision: float) -> tuple[np.ndarray, np.ndarray]:
    r"""The matrix and the noise's vector of :math:`(u, v)' = M (u, v) + w \xi`, by splitting."""
    half = 0.5 * kernel.step_size
    keep = math.exp(-kernel.friction * kernel.step_size)
    a = np.array([[1.0, half], [0.0, 1.0]])
    b = np.array([[1.0, 0.0], [-half * precision, 1.0]])
    o = np.diag([1.0, keep])
    after = {BAOAB: b @ a, KineticLangevin: a @ b}[type(kernel)]
    before = {BAOAB: a @ b, KineticLangevin: b @ a}[type(kernel)]
    return after @ o @ before, after @ np.array([0.0, math.sqrt(1 - keep**2)])


every_splitting = pytest.mark.parametrize("order", [BAOAB, KineticLangevin])


@every_splitting
@pytest.mark.parametrize("friction", [0.0, 0.7, 20.0])
def test_a_kinetic_step_is_the_composition_of_its_parts(order, friction: float):
    kernel, std = order(0.9, friction), 0.8
    law = Gaussian((0.0,) * 3, (std,) * 3)
    rng = generator(8)
    state = kernel.init(law.draw(50, rng), law.log_prob)
    assert torch.count_nonzero(state.velocity) == 0
    state = state._replace(velocity=torch.randn(50, 3, generator=rng, dtype=torch.float64))

    matrix, noise = linear_step(kernel, std**-2)
    xi = torch.randn(50, 3, generator=generator(9), dtype=torch.float64)
    u = matrix[0, 0] * state.position + matrix[0, 1] * state.velocity + noise[0] * xi
    v = matrix[1, 0] * state.position + matrix[1, 1] * state.velocity + noise[1] * xi

    midpoint = state.position + 0.45 * state.velocity
    state, info = kernel.step(state, law.log_prob, generator(9))
    torch.testing.assert_close(state.position, u, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(state.velocity, v, rtol=1e-13, atol=1e-13)
    seen = u if order is BAOAB else midpoint
    torch.testing.assert_close(state.log_prob, law.log_prob(seen), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.score, law.score(seen), rtol=1e-12, atol=1e-12)
    assert torch.equal(info.acceptance, torch.ones(50, dtype=torch.float64))


@every_splitting
@pytest.mark.parametrize(("step_size", "std"), [(0.5, 1.0), (1.5, 1.0), (1.2, 0.7)])
def test_kinetic_kernels_have_the_covariance_of_their_recursion(order, step_size: float, std: float):
    kernel = order(step_size, 1.0)
    matrix, noise = linear_step(kernel, std**-2)
    covariance = linalg.solve_discrete_lyapunov(matrix, np.outer(noise, noise))
    shrinkage = 1 - (step_size / std) ** 2 / 4
    velocity_variance = {BAOAB: shrinkage, KineticLangevin: 1 / shrinkage}[order]
    assert np.allclose(covariance, np.diag([std**2, velocity_variance]), rtol=0, atol=1e-12)

    law, rng = Gaussian((0.0,), (std,)), generator(10)
    state = run_chains(kernel, law.log_prob, torch.zeros(COUNT, 1, dtype=torch.float64), 80, rng)
    assert_follows(law, state.position)
    assert_follows(Gaussian((0.0,), (math.sqrt(velocity_variance),)), state.velocity)
    assert_mean(
        state.position * state.velocity, 0.0, std * math.sqrt(velocity_variance), "position times velocity"
    )


# Metropolis: acceptance, reversibility

ACCEPTANCE_LAWS = [NORMAL, Skewed(), Bimodal()]
acceptance_law = pytest.mark.parametrize("law", ACCEPTANCE_LAWS, ids=lambda law: type(law).__name__)


@acceptance_law
@pytest.mark.parametrize("eta", [0.05, 0.5, 2.0])
def test_mala_accepts_as_often_as_quadrature_says(law: Law, eta: float):
    rng = generator(11)
    kernel = MALA(eta)
    position = law.draw(COUNT, rng)
    state, info = kernel.step(kernel.init(position, law.log_prob), law.log_prob, rng)
    expected = acceptance_of_mala(law, eta, grid(-16.0, 8.0, 1601))
    assert_sample_mean(info.acceptance, expected, "acceptance")
    moved = (state.position != position).any(1)
    assert_sample_mean(moved.double() - info.acceptance, 0.0, "moved minus acceptance")
    assert torch.equal(info.at_box, torch.zeros_like(info.at_box))


@pytest.mark.parametrize("eta", [1e-4, 1e-3])
def test_mala_rejects_in_proportion_to_the_cube_of_the_square_root_of_the_step(eta: float):
    r"""On N(0, 1) the log-ratio is nearly :math:`-\eta^{3/2} x \xi / \sqrt 2`; half its size is rejected."""
    rng = generator(12)
    kernel = MALA(eta)
    state = kernel.init(NORMAL.draw(COUNT, rng), NORMAL.log_prob)
    rejected = 1 - kernel.step(state, NORMAL.log_prob, rng)[1].acceptance
    assert_sample_mean(rejected / eta**1.5, math.sqrt(2) / (2 * math.pi), "rejections")


@acceptance_law
@pytest.mark.parametrize("kernel", [HMC(0.2, 5), HMC(0.9, 3), HMC(1.5, 1)], ids=str)
def test_hmc_accepts_as_often_as_quadrature_says(law: Law, kernel: HMC):
    rng = generator(13)
    position = law.draw(COUNT, rng)
    state, info = kernel.step(kernel.init(position, law.log_prob), law.log_prob, rng)
    expected = acceptance_of_hmc(law, kernel.step_size, kernel.leapfrog_steps, grid(-16.0, 8.0, 1201))
    assert_sample_mean(info.acceptance, expected, "acceptance")
    moved = (state.position != position).any(1)
    assert_sample_mean(moved.double() - info.acceptance, 0.0, "moved minus acceptance")


@pytest.mark.parametrize("kernel", [MALA(0.6), HMC(0.9, 2)], ids=str)
@acceptance_law
def test_metropolis_kernels_flow_as_often_forth_as_back(law: Law, kernel: Kernel):
    """In equilibrium, of the chains that go between two sets, half go each way: an exact binomial test."""
    rng = generator(14)
    before = law.draw(COUNT, rng)
    after = law.cdf(run_chains(kernel, law.log_prob, before, 1, rng).position)
    before = law.cdf(before)
    for low, high in [(0.5, 0.5), (0.2, 0.5), (0.5, 0.9), (0.2, 0.9)]:
        forth = int(((before < low) & (after > high)).sum())
        back = int(((before > high) & (after < low)).sum())
        assert forth + back > 30
        assert stats.binomtest(forth, forth + back).pvalue > FAILURE


@pytest.fixture
def leapfrog(monkeypatch) -> Callable[[HMC, Law, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The move of HMC without its test: from (u, p) to the end of the trajectory."""

    def move(kernel: HMC, law: Law, position: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        ends: list[Tensor] = []
        plain_norm, plain_test = metropolis.square_norm, metropolis.metropolis
        state = kernel.init(position, law.log_prob)

        def square_norm(value: Tensor) -> Tensor:
            ends.append(value)
            return plain_norm(value)

        def test(state, proposal, log_ratio, uniform):
            ends.append(proposal.position)
            return plain_test(state, proposal, log_ratio, uniform)

        with monkeypatch.context() as patch:
            patch.setattr(metropolis, "square_norm", square_norm)
            patch.setattr(metropolis, "metropolis", test)
            kernel.move(state, law.log_prob, (momentum, torch.zeros(len(position))))
        start, end, proposal = ends
        assert torch.equal(start, momentum)
        return proposal, end

    return move


@every_law
def test_leapfrog_is_reversible(leapfrog, law: Law):
    rng, kernel = generator(15), HMC(0.3, 7)
    position = law.draw(200, rng)
    momentum = torch.randn(position.shape, generator=rng, dtype=torch.float64)
    there, end = leapfrog(kernel, law, position, momentum)
    assert (there - position).abs().mean() > 0.1
    back, reversed_momentum = leapfrog(kernel, law, there, -end)
    torch.testing.assert_close(back, position, rtol=0, atol=1e-10)
    torch.testing.assert_close(-reversed_momentum, momentum, rtol=0, atol=1e-10)


@every_law
def test_leapfrog_keeps_volume(leapfrog, law: Law):
    """The Jacobian of the move, by central differences, has the determinant one."""
    rng, kernel, width = generator(16), HMC(0.3, 4), 1e-5
    start = torch.cat([law.draw(20, rng), torch.randn(20, law.dim, generator=rng, dtype=torch.float64)], 1)

    def move(point: Tensor) -> Tensor:
        return torch.cat(leapfrog(kernel, law, *point.chunk(2, 1)), 1)

    shifts = width * torch.eye(2 * law.dim, dtype=torch.float64)
    columns = [(move(start + shift) - move(start - shift)) / (2 * width) for shift in shifts]
    determinant = torch.linalg.det(torch.stack(columns, 2))
    torch.testing.assert_close(determinant, torch.ones_like(determinant), rtol=0, atol=1e-6)


def test_leapfrog_turns_on_a_circle(leapfrog):
    """On N(0, 1) many small steps are a rotation of (u, p), with an error of second order."""
    steps, angle = 1000, 2.0
    u = torch.tensor([[1.0], [0.3]], dtype=torch.float64)
    p = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    end, momentum = leapfrog(HMC(angle / steps, steps), NORMAL, u, p)
    bound = (angle / steps) ** 2
    torch.testing.assert_close(end, u * math.cos(angle) + p * math.sin(angle), rtol=0, atol=bound)
    torch.testing.assert_close(momentum, p * math.cos(angle) - u * math.sin(angle), rtol=0, atol=bound)


@pytest.mark.parametrize("kernel", [MALA(0.5), HMC(0.8, 2)], ids=str)
def test_a_target_that_is_not_a_number_rejects_and_says_so(kernel: Kernel):
    def target(u: Tensor) -> Tensor:
        return torch.where(u[:, 0] > 0, math.nan, NORMAL.log_prob(u))

    rng = generator(17)
    state = kernel.init(-NORMAL.draw(2000, rng).abs(), target)
    unknown = 0
    for _ in range(5):
        new, info = kernel.step(state, target, rng)
        lost = info.acceptance.isnan()
        unknown += int(lost.sum())
        assert torch.equal(new.position[lost], state.position[lost])
        assert (new.position < 0).all()
        assert new.log_prob.isfinite().all()
        assert new.score.isfinite().all()
        state = new
    assert unknown > 1000


@pytest.mark.parametrize("kernel", [MALA(0.5), HMC(0.8, 2)], ids=str)
def test_impossible_points_are_never_accepted(kernel: Kernel):
    """On the flat box without energy every move inside is accepted, and none outside."""
    prior, rng = Box((2,)).double(), generator(18)
    position = prior.draw(COUNT, rng)
    state, info = kernel.step(kernel.init(position, prior.log_prob), prior.log_prob, rng)
    acceptance = info.acceptance
    assert ((acceptance == 0) | (acceptance > 1 - 1e-12)).all()
    assert 0.1 < acceptance.mean() < 0.9
    assert state.position.abs().max() <= 1
    state = run_chains(kernel, prior.log_prob, state.position, 10, rng)
    assert_normal_scores((state.position + 1) / 2)


# Chains are independent, and sampling leaves models alone


@every_model
@every_kernel
def test_a_chain_leaves_the_others_bit_identical(make, kernel: Kernel):
    model = make()
    position = model.prior.draw(6, generator(19))
    other = position.clone()
    other[0] = 0.3 - other[0]
    broken = position.clone()
    broken[0] = math.nan
    ends = []
    with frozen(model):
        for start in [position, other, broken]:
            state, info = first(chain(kernel, model.target(2.0), start, generator(20)), 4)[-1]
            ends.append([*state, *info])
    for end in ends[1:]:
        assert not torch.equal(ends[0][0][0], end[0][0])
        for values, others in zip(ends[0], end, strict=True):
            assert torch.equal(values[1:], others[1:])


@every_model
@every_kernel
def test_sampling_leaves_the_model_as_it_was(make, kernel: Kernel):
    model = make()
    next(iter(model.energy.parameters())).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]

    position = model.prior.draw(3, generator(21))
    untouched = position.clone()
    settle((Stage(kernel, 2),), model.target(), position, generator(22))
    drawn = Chains((Stage(kernel, 2),)).draw(model, 3, generator(23))

    assert torch.equal(position, untouched)
    assert not drawn.requires_grad
    assert drawn.grad_fn is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_chains_run_with_frozen_parameters():
    """Only the gradient in the point is computed, which is what makes a step cheap."""
    seen = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.weight.requires_grad)
            return super().forward(x).flatten()

    model = Model(StandardNormal((2,)), nn.Identity(), Watching(2, 1))
    Chains((Stage(Langevin(0.1), 3),)).draw(model, 4, generator(24))
    assert seen == [False] * 4
    assert model.energy.weight.requires_grad


@every_kernel
def test_a_step_is_a_function_of_its_arguments(kernel: Kernel):
    assert isinstance(kernel, Kernel)
    model = toy_model()
    state = kernel.init(model.prior.draw(5, generator(24)), model.target())
    kept = [value.clone() for value in state]
    torch.manual_seed(1)
    one, info = kernel.step(state, model.target(), generator(25))
    torch.manual_seed(2)
    two, _ = kernel.step(state, model.target(), generator(25))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    assert [value.shape for value in one] == [value.shape for value in state]
    assert [tuple(value.shape) for value in info] == [(5,), (5,)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.step_size = 1.0


@pytest.mark.parametrize(
    ("name", "each"),
    [("Langevin", 1), ("SGLD", 1), ("MALA", 1), ("KineticLangevin", 1), ("BAOAB", 1), ("HMC", 3)],
)
def test_gradients_are_as_many_as_promised(name: str, each: int):
    position = NORMAL.draw(10, generator(26))
    with counting_evaluations() as counter:
        states = chain(KERNELS[name], NORMAL.log_prob, position, generator(27))
        first(states, 1)
        assert counter.gradients == 10 * (1 + each)
        first(states, 6)
        assert counter.gradients == 10 * (1 + 7 * each)


# SGLD


@pytest.mark.parametrize("eta", [0.003, 0.3])
def test_sgld_with_matching_noise_is_langevin(eta: float):
    law = Skewed(3)
    position = law.draw(100, generator(28))
    one = run_chains(Langevin(eta), law.log_prob, position, 5, generator(29))
    two = run_chains(SGLD(eta, math.sqrt(2 * eta)), law.log_prob, position, 5, generator(29))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("gradient", "noise"), [(0.1, 0.3), (0.02, 0.5), (1.0, 0.01)])
def test_the_temperature_of_sgld_is_that_of_its_drift_and_noise(gradient: float, noise: float):
    r"""SGLD on :math:`\pi` is Langevin of step :math:`s^2 / 2` on :math:`\pi^{1/T}`."""
    kernel, law = SGLD(gradient, noise), Bimodal()
    position = law.draw(100, generator(30))
    cooled = lambda u: law.log_prob(u) / kernel.temperature  # noqa: E731
    one = run_chains(kernel, law.log_prob, position, 3, generator(31))
    two = run_chains(Langevin(noise**2 / 2), cooled, position, 3, generator(31))
    torch.testing.assert_close(one.position, two.position, rtol=1e-10, atol=1e-10)


def test_sgld_settles_at_its_temperature():
    kernel, rng = SGLD(0.1, 0.3), generator(32)
    state = run_chains(kernel, NORMAL.log_prob, NORMAL.draw(COUNT, rng), 100, rng)
    variance = kernel.temperature / (1 - kernel.gradient / 2)
    assert_follows(Gaussian((0.0,), (math.sqrt(variance),)), state.position)


def test_sgld_clips_each_coordinate_of_the_gradient():
    kernel = SGLD(2.0, 0.0, clip=0.25)
    gradient = torch.tensor([[0.1, -0.1, 0.25], [3.0, -3.0, 0.2]], dtype=torch.float64)
    position = torch.zeros(2, 3, dtype=torch.float64)
    state = run_chains(kernel, lambda u: (u * gradient).sum(1), position, 1, generator(33))
    expected = torch.tensor([[0.2, -0.2, 0.5], [0.5, -0.5, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(state.position, expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(state.score, gradient, rtol=0, atol=0)


def test_sgld_stays_in_its_box_and_tells_what_it_holds_back():
    kernel = SGLD(1.0, 0.0, box=(-1.0, 2.0))
    push = torch.tensor([[[5.0, -5.0], [0.5, 0.0]], [[0.1, 0.2], [0.3, 1.9]]], dtype=torch.float64)
    position = torch.zeros(2, 2, 2, dtype=torch.float64)
    target = lambda u: (u * push).flatten(1).sum(1)  # noqa: E731
    state, info = kernel.step(kernel.init(position, target), target, generator(34))
    assert torch.equal(state.position, push.clamp(-1.0, 2.0))
    assert info.at_box.tolist() == [0.5, 0.0]
    assert info.acceptance.tolist() == [1.0, 1.0]
    torch.testing.assert_close(state.log_prob, target(state.position))

    kernel = SGLD(0.5, 3.0, box=(-0.5, 0.5))
    for state, info in first(chain(kernel, NORMAL.log_prob, torch.zeros(500, 1), generator(35)), 5):
        assert state.position.abs().max() <= 0.5
        assert torch.equal(info.at_box, (state.position.abs() == 0.5)[:, 0].to(info.at_box.dtype))


# Schedules


class Derivation(nn.Module):
    """Derives a weight from another, and counts how often it is asked to."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def forward(self, weight):
        self.times += 1
        return 2 * weight


@pytest.mark.parametrize("run", [settle, settle_with_report])
def test_a_chain_derives_weights_once(run):
    energy = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    derivation = Derivation()
    parametrize.register_parametrization(energy[0], "weight", derivation)
    model = Model(StandardNormal((2,)), nn.Identity(), energy).requires_grad_(False)
    schedule, start = (Stage(Langevin(0.01), 5),), torch.zeros(3, 2)
    derivation.times = 0
    run(schedule, model.target(), start, torch.Generator())
    assert derivation.times == 1
    run(schedule, model.target(), start, torch.Generator())
    assert derivation.times == 2


def test_a_decay_is_a_stage_for_each_step_size():
    stages = Decay(Langevin(0.5), steps=1000, every=200, factor=0.1).stages()
    assert [stage.steps for stage in stages] == [200] * 5
    assert [stage.kernel.step_size for stage in stages] == pytest.approx([0.5 * 0.1**k for k in range(5)])
    stages = Decay(KineticLangevin(0.2, 3.0), steps=7, every=3, factor=0.5).stages()
    assert stages == (
        Stage(KineticLangevin(0.2, 3.0), 3),
        Stage(KineticLangevin(0.1, 3.0), 3),
        Stage(KineticLangevin(0.05, 3.0), 1),
    )
    assert Decay(HMC(0.1, 4), steps=2, every=5, factor=1.0).stages() == (Stage(HMC(0.1, 4), 2),)


def test_velocities_go_on_when_a_step_size_shrinks():
    """As in the blocks of the official code, where only the step changes. At rest, chains would move less."""
    target, first = NORMAL.log_prob, KineticLangevin(0.4, 0.04)
    second = KineticLangevin(0.2, 0.04)
    position, rng = NORMAL.draw(5, generator(36)), generator(37)
    state = first.init(position, target)
    for kernel in (first, first, first, second, second):
        state, _ = kernel.step(state, target, rng)
    *_, (last, _) = evolve((Decay(first, 5, 3, 0.5),), target, position, generator(37))
    assert torch.equal(last.position, state.position)
    assert torch.equal(last.velocity, state.velocity)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS.values() if hasattr(kernel, "step_size")])
def test_a_step_size_that_does_not_shrink_changes_nothing(kernel: Kernel):
    position, seen = NORMAL.draw(5, generator(36)), []
    for part in (Stage(kernel, 6), Decay(kernel, 6, 2, 1.0)):
        with counting_evaluations() as evaluations:
            seen.append(settle((part,), NORMAL.log_prob, position, generator(37)))
        seen.append(evaluations.gradients)
    assert torch.equal(seen[0], seen[2])
    assert seen[1] == seen[3]


def test_the_empty_schedule_moves_nothing():
    position = NORMAL.draw(4, generator(36))
    assert settle((), NORMAL.log_prob, position, generator(37)) is position
    assert list(evolve((), NORMAL.log_prob, position, generator(37))) == []


def test_a_schedule_is_its_parts_one_after_another():
    target, rng = NORMAL.log_prob, generator(38)
    position = NORMAL.draw(5, rng)
    schedule = (Stage(MALA(0.3), 3), Decay(Langevin(0.2), 5, 2, 0.5))
    assert len(list(evolve(schedule, target, position, generator(39)))) == 8

    rng, expected = generator(39), position
    for kernel, steps in [(MALA(0.3), 3), (Langevin(0.2), 2), (Langevin(0.1), 2), (Langevin(0.05), 1)]:
        expected = run_chains(kernel, target, expected, steps, rng).position  # of positions alone, all go on
    assert torch.equal(settle(schedule, target, position, generator(39)), expected)


# Samplers


def test_direct_and_idle_chains_decode_the_prior():
    model = toy_model()
    drawn = Direct().draw(model, 7, generator(40))
    assert torch.equal(drawn, model.decoder(model.prior.draw(7, generator(40))))
    assert torch.equal(Chains(()).draw(model, 7, generator(40)), drawn)
    assert isinstance(Direct(), Sampler)
    assert isinstance(Chains(()), Sampler)


def test_chains_follow_the_tilted_law():
    r"""With :math:`E(x) = x`, :math:`\exp(-\beta E)` moves the standard normal prior by :math:`-\beta`."""

    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1)

    model = Model(StandardNormal((1,)), nn.Identity(), Slope()).double()
    sampler = Chains((Stage(HMC(0.7, 3), 20),), FromPrior(), beta=1.5)
    assert_follows(Gaussian((-1.5,), (1.0,)), sampler.draw(model, COUNT, generator(41)))


def test_starts():
    kept = torch.arange(3.0)[:, None]
    model = Model(StandardNormal((1,)), nn.Identity(), NoEnergy(), chains=kept)
    drawn = FromKept().position(model, 9000, generator(42))
    for value in range(3):
        assert stats.binomtest(int((drawn == value).sum()), 9000, 1 / 3).pvalue > FAILURE
    model = Model(Box((2, 3)).double(), nn.Identity(), NoEnergy())
    noise = FromNoise(2.5).position(model, COUNT, generator(43))
    assert_follows(Gaussian((0.0,) * 6, (2.5,) * 6), noise.flatten(1))
    with pytest.raises(ValueError, match="FromKept needs a model that keeps its chains"):
        FromKept().position(model, 1, generator(44))


# Settings out of range


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda bad: Langevin(bad), "Langevin.step_size"),
        (lambda bad: MALA(bad), "MALA.step_size"),
        (lambda bad: HMC(bad, 1), "HMC.step_size"),
        (lambda bad: HMC(0.1, bad), "HMC.leapfrog_steps"),
        (lambda bad: SGLD(bad, 0.1), "SGLD.gradient"),
        (lambda bad: SGLD(1.0, 0.1, clip=bad), "SGLD.clip"),
        (lambda bad: KineticLangevin(bad, 1.0), "KineticLangevin.step_size"),
        (lambda bad: BAOAB(bad, 1.0), "BAOAB.step_size"),
        (lambda bad: Stage(Langevin(0.1), bad), "Stage.steps"),
        (lambda bad: Decay(Langevin(0.1), bad, 1, 0.1), "Decay.steps"),
        (lambda bad: Decay(Langevin(0.1), 1, bad, 0.1), "Decay.every"),
        (lambda bad: Decay(Langevin(0.1), 1, 1, bad), "Decay.factor"),
        (lambda bad: FromNoise(bad), "FromNoise.scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_must_be_positive(make, field: str):
    for bad in [0, -1, -0.5, math.nan, math.inf]:
        text = f"{field} should be a number above zero, not {bad}"
        with pytest.raises(FieldError, match=rf"^{re.escape(text)}$"):
            make(bad)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda bad: SGLD(1.0, bad), "SGLD.noise"),
        (lambda bad: KineticLangevin(0.1, bad), "KineticLangevin.friction"),
        (lambda bad: BAOAB(0.1, bad), "BAOAB.friction"),
    ],
    ids=["SGLD", "KineticLangevin", "BAOAB"],
)
def test_settings_that_must_not_be_negative(make, field: str):
    make(0.0)
    for bad in [-0.1, math.nan, math.inf]:
        with pytest.raises(FieldError, match=re.escape(field)):
            make(bad)


def test_other_settings_out_of_range():
    for box in [(1.0, 1.0), (1.0, -1.0), (math.nan, 1.0)]:
        with pytest.raises(FieldError, match=r"SGLD\.box should be an interval"):
            SGLD(1.0, 0.1, box=box)
    for beta in (-1.0, math.nan):
        with pytest.raises(FieldError, match=r"Chains\.beta should be zero or a number above it"):
            Chains((), beta=beta)
    with pytest.raises(FieldError, match=r"Decay\.factor should be between 0 and 1"):
        Decay(Langevin(0.1), 10, 5, 1.5)
    with pytest.raises(FieldError, match=r"Decay\.kernel should be a kernel with a step_size"):
        Decay(SGLD(1.0, 0.1), 10, 5, 0.5)


# The table of docs/langevin.md

SETTINGS = {"γ": 0.03, "λ": 0.02, "κ": 1.3, "ε": 0.04, "s": 0.05, "r": 0.06, "σ": 0.5}
NAMES = {
    **{kind.__name__: kind for kind in [BAOAB, HMC, MALA, SGLD, KineticLangevin, Langevin]},
    "sqrt": math.sqrt,
    **SETTINGS,
}


def documented() -> dict[str, tuple[Kernel, float | None]]:
    """The rows of the table: a source to its kernel and temperature."""
    text = (Path(__file__).parents[1] / "docs" / "langevin.md").read_text(encoding="utf-8")
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[2].startswith("`"):
            kernel, temperature = (
                eval(cell.strip("`"), {"__builtins__": {}}, NAMES) if cell.startswith("`") else None
                for cell in cells[2:]
            )
            rows[cells[0]] = kernel, temperature
    return rows


def potential(z: Tensor) -> Tensor:
    """The sources' U, or E where there is no prior: smooth, not symmetric, steep enough to be clipped."""
    return 0.5 * z.square().sum(1) + (1.7 * z[:, 0] - 0.4).sin() + 0.3 * (z[:, 1] * z[:, 0]).cos()


def slope(z: Tensor, of: Callable[[Tensor], Tensor] = potential) -> Tensor:
    z = z.detach().requires_grad_()
    return torch.autograd.grad(of(z).sum(), z)[0]


Step = Callable[[Tensor, Tensor], Tensor]
"""A source's step, without velocity or test: from z and the noise to the next z."""


def written(scale: float, noise: float) -> Step:
    return lambda z, xi: z - scale * slope(z) + noise * xi


def vaebm(z: Tensor, xi: Tensor) -> Tensor:
    s, batch = SETTINGS["s"], len(z)
    return z - 0.5 * s * slope(z, lambda z: potential(z).mean()) * batch + math.sqrt(s) * xi


def studiogan(z: Tensor, xi: Tensor) -> Tensor:
    r, sigma = SETTINGS["r"], SETTINGS["σ"]
    covariance = sigma * torch.eye(z.shape[1], dtype=z.dtype)
    noise = xi @ torch.linalg.cholesky(covariance).T
    return z - 0.5 * r * slope(z) + math.sqrt(r) * noise


def igebm(z: Tensor, xi: Tensor) -> Tensor:
    """From a noisy point to the next noisy point."""
    z = (z - 10 * slope(z).clamp(-0.01, 0.01)).clamp(0, 1)
    return z + 0.005 * xi


γ, λ, ε = SETTINGS["γ"], SETTINGS["λ"], SETTINGS["ε"]
STEPS: dict[str, Step] = {
    "GEBM, code, `langevin`": written(γ / 2, math.sqrt(γ)),
    "GEBM, paper": written(λ, math.sqrt(2 * λ)),
    "DDLS": written(ε / 2, math.sqrt(ε)),
    "Exponential tilting": written(ε / 2, math.sqrt(ε)),
    "JEM": written(1.0, 0.01),
    "Short-run learning": written(1.0, 0.01),
    "Anatomy of MCMC learning": written(1.0, ε),
    "VAEBM": vaebm,
    "StudioGAN, DDLS": studiogan,
    "IGEBM, images in [0, 1]": igebm,
}
OTHERS = {
    "GEBM, code, `lmc` (KLA)",
    "GEBM, code, `mala`",
    "GEBM, code, `hmc`",
    "IGEBM, images in [−1, 1]",
}


def energy(u: Tensor) -> Tensor:
    return -potential(u)


def start(seed: int = 45) -> tuple[Tensor, Tensor]:
    """Points in the unit square, away from its edges, and the noise that a kernel with seed 46 draws."""
    position = 0.2 + 0.6 * torch.rand(64, 2, generator=generator(seed), dtype=torch.float64)
    return position, torch.randn(64, 2, generator=generator(46), dtype=torch.float64)


def moved(kernel: Kernel, position: Tensor) -> Tensor:
    return run_chains(kernel, energy, position, 1, generator(46)).position


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_every_documented_row_is_tried():
    assert set(documented()) == set(STEPS) | OTHERS


@pytest.mark.parametrize("source", STEPS)
def test_the_documented_kernel_takes_the_step_of_its_source(source: str):
    kernel, _ = documented()[source]
    position, noise = start()
    assert_same(moved(kernel, position), STEPS[source](position, noise))


def test_the_documented_temperatures():
    for source, (kernel, temperature) in documented().items():
        if isinstance(kernel, SGLD) and kernel.clip is None:
            assert kernel.temperature == pytest.approx(temperature), source
        else:
            assert temperature == (None if isinstance(kernel, SGLD) else 1), source


def test_the_documented_kinetic_step():
    kernel, _ = documented()["GEBM, code, `lmc` (KLA)"]
    x, xi = start()
    v = torch.randn(64, 2, generator=generator(47), dtype=torch.float64)
    state, _ = kernel.step(kernel.init(x, energy)._replace(velocity=v), energy, generator(46))

    h, kappa = 2 * math.sqrt(λ), SETTINGS["κ"]
    x = x + h / 2 * v
    gradient = slope(x)
    v = math.exp(-kappa * h) * (v - h / 2 * gradient) + math.sqrt(1 - math.exp(-2 * kappa * h)) * xi
    v = v - h / 2 * gradient
    assert_same(state.velocity, v)
    assert_same(state.position, x + h / 2 * v)


def judged(position: Tensor, proposal: Tensor, log_ratio: Tensor) -> Tensor:
    """The Metropolis test with the uniforms that follow the noise of seed 46."""
    rng = generator(46)
    torch.randn(64, 2, generator=rng, dtype=torch.float64)
    uniform = torch.rand(64, generator=rng, dtype=torch.float64)
    return torch.where((uniform < log_ratio.exp())[:, None], proposal, position)


def test_the_documented_mala_step():
    kernel, _ = documented()["GEBM, code, `mala`"]
    kernel = dataclasses.replace(kernel, step_size=20 * kernel.step_size)  # large enough to reject at times
    z, xi = start()
    size, std = 20 * γ, math.sqrt(40 * γ)
    proposal = z - size * slope(z) + std * xi
    there = stats.norm.logpdf(proposal, z - size * slope(z), std).sum(1)
    back = stats.norm.logpdf(z, proposal - size * slope(proposal), std).sum(1)
    log_ratio = potential(z) - potential(proposal) + torch.from_numpy(back - there)
    expected = judged(z, proposal, log_ratio)
    assert not torch.equal(expected, proposal)
    assert_same(moved(kernel, z), expected)


def test_the_documented_hmc_step():
    kernel, _ = documented()["GEBM, code, `hmc`"]
    kernel = dataclasses.replace(kernel, step_size=2 * kernel.step_size)  # for the same reason
    z, momentum = start()
    h, x, v = 4 * math.sqrt(λ), z, momentum
    for _ in range(2):
        v = v - h / 2 * slope(x)
        x = x + h * v
        v = v - h / 2 * slope(x)
    log_ratio = potential(z) - potential(x) + 0.5 * (momentum.square() - v.square()).sum(1)
    expected = judged(z, x, log_ratio)
    assert not torch.equal(expected, x)
    assert_same(moved(kernel, z), expected)


def test_the_documented_igebm_step_on_the_larger_box():
    """The same chain as on [0, 1], seen through x ↦ 2 x − 1."""
    small, large = documented()["IGEBM, images in [0, 1]"][0], documented()["IGEBM, images in [−1, 1]"][0]
    position, _ = start()
    there = moved(small, position)
    state = run_chains(large, lambda x: energy((1 + x) / 2), 2 * position - 1, 1, generator(46))
    assert_same((1 + state.position) / 2, there)


def test_the_anatomy_of_mcmc_is_langevin_on_its_own_potential():
    kernel, temperature = documented()["Anatomy of MCMC learning"]
    position, _ = start()
    rescaled = run_chains(Langevin(ε**2 / 2), lambda u: energy(u) / temperature, position, 1, generator(46))
    assert_same(moved(kernel, position), rescaled.position)


def test_the_documented_decay_of_kinetic_langevin():
    decay = Decay(KineticLangevin(2 * math.sqrt(λ), 1.3), steps=600, every=200, factor=math.sqrt(0.1))
    sizes = [stage.kernel.step_size for stage in decay.stages()]
    assert sizes == pytest.approx([2 * math.sqrt(λ * 0.1**k) for k in range(3)])


def test_the_documented_decay_of_studiogan():
    r, sigma, decay = SETTINGS["r"], SETTINGS["σ"], 0.8
    rate, scale = r, 1.0
    for k in range(4):
        kernel = SGLD(r * decay**k / 2, math.sqrt(r * sigma * decay ** (3 * k)))
        assert kernel.gradient == pytest.approx(rate / 2)
        assert kernel.noise == pytest.approx(math.sqrt(rate) * math.sqrt(sigma) * scale)
        assert kernel.temperature == pytest.approx(sigma * decay ** (2 * k))
        rate, scale = rate * decay, scale * decay


def test_a_check_fails_as_seldom_as_stated():
    assert stats.norm.sf(Z) * 2 == pytest.approx(FAILURE)


def test_field_errors_pass_between_processes():
    with pytest.raises(FieldError) as caught:
        Langevin(-1.0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.name) == (str(caught.value), "step_size")
