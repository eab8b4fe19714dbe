"""Flows of particles: single steps by hand, energies that fall, targets that stay."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from laws import Z, generator
from torch import Tensor

from ebmzoo.fields import FieldError
from ebmzoo_gebm.divergences import FourGaussians, ThreeRings, record
from ebmzoo_gebm.kernel import GaussianKernel, biased_mmd2, sample
from ebmzoo_gebm.kernel_kale import KernelKALE
from ebmzoo_gebm.particles import (
    ConstantNoise,
    HalvingNoise,
    KALEFlow,
    MMDFlow,
    ParticleFlow,
    trajectory,
)

KERNEL = GaussianKernel(0.7)


def flows(step_size: float = 0.02, steps: int = 30, size: float = 0.0) -> list[ParticleFlow]:
    noise = ConstantNoise(size)
    return [
        MMDFlow(KERNEL, step_size, steps, noise),
        KALEFlow(KERNEL, 1e4, step_size, steps, noise),
        KALEFlow(KERNEL, 0.1, step_size / 10, steps, noise),
        KALEFlow(KERNEL, 1e-3, step_size / 100, steps, noise),
    ]


each_flow = pytest.mark.parametrize("flow", flows(), ids=["mmd", "kale 1e4", "kale 0.1", "kale 1e-3"])
each_noisy_flow = pytest.mark.parametrize(
    "flow", flows(size=0.5), ids=["mmd", "kale 1e4", "kale 0.1", "kale 1e-3"]
)


def particles() -> Tensor:
    return 0.3 * torch.randn(20, 2, generator=generator(1), dtype=torch.float64) + 1.0


def target() -> Tensor:
    return torch.randn(30, 2, generator=generator(2), dtype=torch.float64)


def last(flow: ParticleFlow, start: Tensor, aim: Tensor, seed: int = 0) -> Tensor:
    return list(trajectory(flow, start, aim, generator(seed)))[-1]


# Steps


def test_a_step_of_the_mmd_flow_by_hand():
    x, y = particles(), target()
    slope = torch.zeros_like(x)
    for j in range(20):
        for points, sign in ((x, 1 / 20), (y, -1 / 30)):
            away = x[j] - points
            values = (-away.square().sum(1) / (2 * 0.7**2)).exp()
            slope[j] += sign * (values[:, None] * -away / 0.7**2).sum(0)
    expected = x - 0.02 * slope
    found = next(trajectory(MMDFlow(KERNEL, 0.02, 1), x, y, generator(0)))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("penalty", [1e-3, 0.5, 1e4])
def test_a_step_of_the_kale_flow_is_the_slope_of_its_witness(penalty: float):
    x, y = particles(), target()
    witness = KernelKALE(KERNEL, penalty).solve(sample(x), sample(y)).witness
    place = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(witness(place).sum(), place)
    found = next(trajectory(KALEFlow(KERNEL, penalty, 1e-3, 1), x, y, generator(0)))
    torch.testing.assert_close(found, x - 1e-3 * (1 + penalty) * slope, rtol=1e-11, atol=1e-12)


@each_flow
def test_particles_go_down_the_slope_of_the_objective(flow: ParticleFlow):
    """A particle has the weight 1/M, so M times the slope of the objective is what it follows."""
    x, y, size = particles(), target(), 1e-5
    potential, _ = flow.potential(sample(x), sample(y), None)
    velocity = potential.gradient(x)
    for particle in (0, 7):
        for axis in range(2):
            there, back = x.clone(), x.clone()
            there[particle, axis] += size
            back[particle, axis] -= size
            slope = 20 * (flow.objective(there, y) - flow.objective(back, y)) / (2 * size)
            assert float(velocity[particle, axis]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_the_objectives_are_the_divergences():
    mmd, large, small, _ = flows()
    x, y = particles(), target()
    assert mmd.objective(x, y) == 0.5 * biased_mmd2(sample(x), sample(y), KERNEL)
    assert small.objective(x, y) == KernelKALE(KERNEL, 0.1).value(sample(x), sample(y))
    assert large.objective(x, y) == pytest.approx(mmd.objective(x, y), rel=1e-3)


@each_flow
def test_the_objective_falls_at_every_step(flow: ParticleFlow):
    x, y = particles(), target()
    values = [flow.objective(position, y) for position in (x, *trajectory(flow, x, y, generator(0)))]
    drops = -torch.tensor(values).diff()
    assert (drops > 0).all()
    assert values[-1] < 0.97 * values[0]


@each_flow
def test_what_a_small_step_gains_is_its_size_times_the_squared_velocity(flow: ParticleFlow):
    """The dissipation of a gradient flow, which tells the sign and every factor."""
    x, y = particles(), target()
    potential, _ = flow.potential(sample(x), sample(y), None)
    velocity = potential.gradient(x)
    size = 1e-5 * flow.step_size
    gained = flow.objective(x, y) - flow.objective(x - size * velocity, y)
    assert gained == pytest.approx(size * float(velocity.square().sum(1).mean()), rel=1e-3)


@each_noisy_flow
def test_particles_at_the_target_stay(flow: ParticleFlow):
    """With the noise too, as there is no slope anywhere."""
    y = target()
    torch.testing.assert_close(last(flow, y.flip(0), y), y.flip(0), rtol=0, atol=1e-9)


@each_flow
def test_the_flow_moves_with_its_samples(flow: ParticleFlow):
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    x, y = particles(), target()
    moved = last(flow, x @ turn.T + 5, y @ turn.T + 5)
    torch.testing.assert_close(moved, last(flow, x, y) @ turn.T + 5, rtol=0, atol=1e-8)


def test_under_a_large_penalty_both_flows_are_one():
    x, y = particles(), target()
    paths = [last(flow, x, y) for flow in (MMDFlow(KERNEL, 0.05, 50), KALEFlow(KERNEL, 1e6, 0.05, 50))]
    moved = (paths[0] - x).norm(dim=1).mean()
    assert moved > 0.1
    assert (paths[0] - paths[1]).norm(dim=1).max() < 1e-4 * moved


def test_warm_starts_leave_the_path_alone():
    flow = KALEFlow(KERNEL, 1e-2, 1e-3, 10)
    x, y = particles(), target()
    position = x
    for _ in range(10):
        position = next(trajectory(flow, position, y, generator(0)))
    torch.testing.assert_close(last(flow, x, y), position, rtol=0, atol=1e-10)


# Noise


@pytest.mark.parametrize("index", [0, 2])
def test_noise_is_inside_the_gradient(index: int):
    quiet, noisy = flows(steps=1)[index], flows(steps=1, size=0.5)[index]
    x, y = particles(), target()
    noise = torch.randn(20, 2, generator=generator(3), dtype=torch.float64)
    potential, _ = quiet.potential(sample(x), sample(y), None)
    expected = x - noisy.step_size * potential.gradient(x + 0.5 * noise)
    assert (expected - last(quiet, x, y)).abs().max() > 1e-4
    torch.testing.assert_close(last(noisy, x, y, seed=3), expected, rtol=1e-12, atol=1e-13)


@each_noisy_flow
def test_one_generator_gives_the_same_bits(flow: ParticleFlow):
    x, y = particles(), target()
    assert torch.equal(last(flow, x, y, seed=4), last(flow, x, y, seed=4))
    assert not torch.equal(last(flow, x, y, seed=4), last(flow, x, y, seed=5))


@each_flow
def test_without_noise_nothing_is_drawn(flow: ParticleFlow):
    rng = generator(6)
    before = rng.get_state()
    assert len(list(trajectory(flow, particles(), target(), rng))) == 30
    assert torch.equal(rng.get_state(), before)


def test_levels_of_noise():
    assert [ConstantNoise(0.3).level(step) for step in (0, 99)] == [0.3, 0.3]
    halved = HalvingNoise(1.0, 10)
    assert [halved.level(step) for step in (0, 9, 10, 29, 30)] == [1, 1, 0.5, 0.25, 0.125]


def test_each_step_has_its_own_level():
    flow = MMDFlow(KERNEL, 0.02, 2, HalvingNoise(0.8, 1))
    x, y, rng = particles(), target(), generator(7)
    for level in (0.8, 0.4):
        potential, _ = flow.potential(sample(x), sample(y), None)
        noise = torch.randn(20, 2, generator=rng, dtype=torch.float64)
        x = x - 0.02 * potential.gradient(x + level * noise)
    torch.testing.assert_close(last(flow, particles(), y, seed=7), x, rtol=1e-12, atol=1e-13)


def test_noise_shows_the_target_to_a_particle_too_far_to_feel_it():
    """Five bandwidths away, where the slope itself is below 1e-4; ten of ten other seeds arrive as well."""
    x, y = torch.full((1, 1), 3.5).double(), 0.1 * target()[:, :1]
    still, freed = (MMDFlow(KERNEL, 0.1, 1000, noise) for noise in (ConstantNoise(), HalvingNoise(2.0, 200)))
    assert float(last(still, x, y)) == pytest.approx(3.5, abs=0.01)
    assert float(last(freed, x, y)) == pytest.approx(float(y.mean()), abs=0.05)


# Trajectories


@each_flow
def test_a_trajectory_has_every_step_but_the_start(flow: ParticleFlow):
    x, y = particles(), target()
    path = list(trajectory(flow, x.float(), y.float(), generator(0)))
    assert len(path) == flow.steps
    assert all(position.dtype == torch.float64 and position.shape == (20, 2) for position in path)
    assert not torch.equal(path[0], x.float().double())
    again = list(islice(trajectory(flow, x.float(), y.float(), generator(0)), 3))
    assert all(torch.equal(one, two) for one, two in zip(again, path, strict=False))


def test_the_three_rings():
    rings = ThreeRings().target(generator(0))
    centres = torch.tensor([[0, 0], [0, -0.75], [0, -1.5]], dtype=torch.float64)
    assert rings.shape == (240, 2)
    for ring, centre in zip(rings.split(80), centres, strict=True):
        torch.testing.assert_close(
            (ring - centre).norm(dim=1), torch.full((80,), 0.3).double(), rtol=1e-6, atol=0
        )
        torch.testing.assert_close(ring.mean(0), centre, rtol=0, atol=1e-12)
    source = ThreeRings().source(generator(0))
    assert source.shape == (240, 2)
    bottom = torch.tensor([0.0, -0.3], dtype=torch.float64)
    assert ((source.mean(0) - bottom).abs() < Z * 0.01 / math.sqrt(240)).all()
    assert float((source - bottom).std()) == pytest.approx(0.01, abs=Z * 0.01 / math.sqrt(2 * 480))


def test_the_four_gaussians():
    points = FourGaussians(count=4000).target(generator(0))
    for index, corner in enumerate(([0, 0], [0, 1.8], [1.8, 0], [1.8, 1.8])):
        mean = points[index::4].mean(0)
        assert ((mean - torch.tensor(corner)).abs() < Z * 0.25 / math.sqrt(1000)).all()
    source = FourGaussians().source(generator(0))
    assert source.shape == (240, 2)
    assert ((source.mean(0) + 0.18).abs() < Z * 0.2 / math.sqrt(240)).all()


def test_a_record_is_part_of_the_trajectory():
    scene, flow = ThreeRings(count=10), KALEFlow(GaussianKernel(0.2), 0.1, 1e-3, 12)
    kept = record(scene, flow, (0, 5, 9), generator(8))
    rng = generator(8)
    aim, source = scene.target(rng), scene.source(rng)
    path = [source, *trajectory(flow, source, aim, rng)]
    assert kept.steps == (0, 5, 9)
    assert torch.equal(kept.positions, torch.stack([path[0], path[5], path[9]]))
    assert torch.equal(kept.target, aim)
    assert kept.objective.tolist() == [flow.objective(path[step], aim) for step in kept.steps]
    late = record(scene, flow, (12,), generator(8))
    assert torch.equal(late.positions[0], path[12])


@pytest.mark.parametrize("scene", [ThreeRings(count=20), FourGaussians(count=60)])
def test_both_flows_go_from_source_to_target(scene: ThreeRings | FourGaussians):
    kernel = GaussianKernel(0.3)
    starts = []
    for flow in (MMDFlow(kernel, 1e-2, 60), KALEFlow(kernel, 1e-2, 1e-3, 60)):
        path = record(scene, flow, (0, 20, 40, 60), generator(9))
        assert (path.objective.diff() < 0).all()
        starts.append(path.positions[0])
    assert torch.equal(*starts)


# Errors


def test_settings_are_checked():
    for make in (
        lambda size, steps: MMDFlow(KERNEL, size, steps),
        lambda size, steps: KALEFlow(KERNEL, 1.0, size, steps),
    ):
        with pytest.raises(FieldError, match="step_size should be a number above zero"):
            make(0.0, 10)
        with pytest.raises(FieldError, match="steps should be a number above zero"):
            make(0.1, 0)
    with pytest.raises(FieldError, match=r"KALEFlow.penalty should be a number above zero, not -1.0"):
        KALEFlow(KERNEL, -1.0, 0.1, 10)
    with pytest.raises(FieldError, match=r"ConstantNoise.size should be zero or a number above it"):
        ConstantNoise(-0.1)
    with pytest.raises(FieldError, match=r"HalvingNoise.every"):
        HalvingNoise(1.0, 0)


@each_flow
def test_samples_are_checked(flow: ParticleFlow):
    with pytest.raises(ValueError, match="one or more vectors"):
        last(flow, torch.zeros(0, 2), target())
    with pytest.raises(ValueError, match="one or more vectors"):
        last(flow, particles(), torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"not .* and "):
        last(flow, particles(), target()[:, :1])
    with pytest.raises(ValueError, match="the step size is too large"):
        last(flow, particles() * math.inf, target())


@pytest.mark.parametrize("shots", [(), (3, 2), (1, 1), (-1, 2), (0, 31)])
def test_shots_rise_within_the_flow(shots: tuple[int, ...]):
    with pytest.raises(ValueError, match="rising numbers from 0 to 30"):
        record(ThreeRings(count=4), flows()[0], shots, generator(0))
