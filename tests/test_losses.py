"""Losses against closed forms: gradients of known likelihoods, a known divergence."""

from __future__ import annotations

import math

import pytest
import torch
from laws import Z, generator
from torch import Tensor

from ebmzoo.losses import contrastive, donsker_varadhan, energy_l2, kale


def gradient(loss: Tensor, parameter: Tensor) -> Tensor:
    return torch.autograd.grad(loss, parameter)[0]


def some_energies(seed: int) -> tuple[Tensor, Tensor]:
    rng = generator(seed)
    data = 2 * torch.randn(30, generator=rng, dtype=torch.float64) - 1
    return data, 3 * torch.randn(50, generator=rng, dtype=torch.float64) + 0.5


# Contrastive


def test_contrastive_is_the_likelihood_exactly_where_samples_are_exact():
    """On six states, samples that repeat each state as often as its probability has twelfths."""
    twelfths = torch.tensor([1, 1, 2, 2, 3, 3])
    energies = (5.0 - (twelfths.double() / 12).log()).requires_grad_()
    data = torch.tensor([0, 0, 1, 3, 5, 2, 2])
    likelihood = energies[data].mean() + torch.logsumexp(-energies, 0)
    samples = torch.repeat_interleave(torch.arange(6), twelfths)
    loss = contrastive(energies[data], energies[samples])
    found, expected = gradient(loss, energies), gradient(likelihood, energies)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert gradient(contrastive(energies[samples], energies[samples]), energies).abs().max() < 1e-13


def test_contrastive_is_the_likelihood_of_a_gaussian():
    r"""With :math:`E_\theta(x) = \theta_1 x^2 / 2 + \theta_2 x`, :math:`\log Z` and the samples are known."""
    theta = torch.tensor([1.7, -0.6], dtype=torch.float64, requires_grad=True)
    rng, count = generator(1), 200_000
    data = 0.5 + 0.3 * torch.randn(400, generator=rng, dtype=torch.float64)
    variance = 1 / float(theta[0].detach())
    mean = -float(theta[1].detach()) * variance
    samples = mean + math.sqrt(variance) * torch.randn(count, generator=rng, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return theta[0] * x.square() / 2 + theta[1] * x

    log_z = 0.5 * math.log(2 * math.pi) - 0.5 * theta[0].log() + theta[1].square() / (2 * theta[0])
    exact = gradient(energy(data).mean() + log_z, theta)
    found = gradient(contrastive(energy(data), energy(samples)), theta)
    spread = torch.tensor([math.sqrt(variance**2 / 2 + variance * mean**2), math.sqrt(variance)])
    assert ((found - exact).abs() < Z * spread / math.sqrt(count)).all()
    assert (exact.abs() > 20 * spread / math.sqrt(count)).all()  # so that the sign is told


def test_contrastive_is_a_difference_of_means():
    data, samples = some_energies(2)
    assert contrastive(data, samples).shape == ()
    assert float(contrastive(data, samples)) == pytest.approx(float(data.mean() - samples.mean()))
    assert float(contrastive(data + 3, samples + 3)) == pytest.approx(float(contrastive(data, samples)))


def test_energy_l2():
    data, samples = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0, -1.0, 2.0])
    assert float(energy_l2(data, samples)) == pytest.approx((1 + 4) / 2 + (9 + 0 + 1 + 4) / 4)
    assert float(energy_l2(torch.zeros(3), torch.zeros(2))) == 0
    shift = torch.zeros((), requires_grad=True)
    assert float(gradient(energy_l2(data + shift, samples + shift), shift)) == pytest.approx(2 * (-0.5 + 1.0))


# KALE and Donsker-Varadhan

SHIFT, SCALE = 0.4, 0.8
"""The data are N(SHIFT, SCALE²) and the base is N(0, 1)."""

KL = -math.log(SCALE) + (SCALE**2 + SHIFT**2 - 1) / 2


def best_energy(x: Tensor) -> Tensor:
    r""":math:`E^* = -\log dp / db`."""
    return 0.5 * ((x - SHIFT) / SCALE).square() - 0.5 * x.square() + math.log(SCALE)


def drawn(count: int = 400_000) -> tuple[Tensor, Tensor]:
    rng = generator(3)
    data = SHIFT + SCALE * torch.randn(count, generator=rng, dtype=torch.float64)
    return data, torch.randn(count, generator=rng, dtype=torch.float64)


def standard_error() -> float:
    r"""Of both bounds at :math:`E^*`: :math:`\sqrt{(\mathrm{var}_p E^* + \mathrm{var}_b e^{-E^*}) / N}`.

    The second variance is the chi-squared divergence of the two Gaussians.
    """
    square, linear = 0.5 / SCALE**2 - 0.5, -SHIFT / SCALE**2  # E* is square x² + linear x + a constant
    variance_of_energy = 2 * square**2 * SCALE**4 + (2 * square * SHIFT + linear) ** 2 * SCALE**2
    chi_squared = math.exp(SHIFT**2 / (2 - SCALE**2)) / (SCALE * math.sqrt(2 - SCALE**2)) - 1
    return math.sqrt((variance_of_energy + chi_squared) / 400_000)


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_the_bounds_are_the_divergence_at_the_best_energy(constant: float):
    data, base = (best_energy(points) + constant for points in drawn())
    tolerance = Z * standard_error()
    assert tolerance < KL / 20
    assert float(-donsker_varadhan(data, base)) == pytest.approx(KL, abs=tolerance)
    assert float(-kale(data, base, torch.tensor(-constant))) == pytest.approx(KL, abs=tolerance)


def test_the_standard_error_is_that_of_the_sample():
    """That the tolerance above is what it claims, to some percent."""
    data, base = (best_energy(points) for points in drawn())
    estimate = math.sqrt(float(data.var() + torch.exp(-base).var()) / len(data))
    assert standard_error() == pytest.approx(estimate, rel=0.05)


@pytest.mark.parametrize("make", [lambda e: 0.5 * e, lambda e: e + 0.2 * e.square(), torch.zeros_like])
def test_the_bounds_are_lower_at_other_energies(make):
    data, base = (make(best_energy(points)) for points in drawn())
    assert float(-donsker_varadhan(data, base)) < KL - 1e-3
    assert float(-kale(data, base, torch.tensor(0.0))) < KL - 1e-3


def test_kale_is_below_donsker_varadhan_and_touches_it_at_log_z():
    data, base = some_energies(4)
    log_z = torch.logsumexp(-base, 0) - math.log(len(base))
    tight = donsker_varadhan(data, base)
    torch.testing.assert_close(kale(data, base, log_z), tight, rtol=1e-12, atol=1e-12)
    for shift in [-5.0, -0.1, -1e-3, 1e-3, 0.1, 5.0]:
        loss = kale(data, base, log_z + shift)
        assert float(loss - tight) == pytest.approx(shift + math.exp(-shift) - 1, rel=1e-6)
        assert loss > tight


def test_kale_is_below_donsker_varadhan_below_the_divergence_for_every_energy():
    """For laws on five points, as samples that repeat each point as often as its probability says.

    Energies are anywhere, and near the best one, -log dp/db up to a constant, at which there is equality.
    """
    rng = generator(3)
    for away in (4.0, 1.0, 0.1, 0.0):
        for _ in range(100):
            counts = torch.randint(1, 20, (2, 5), generator=rng)
            p, b = counts.double() / counts.sum(1, keepdim=True)
            divergence = float((p * (p / b).log()).sum())
            random = torch.randn(7, generator=rng, dtype=torch.float64)
            energy = (b / p).log() + away * random[:5] + 3 * random[5]
            data, base = (torch.repeat_interleave(energy, count) for count in counts)
            exact = torch.log((b * (-energy).exp()).sum())
            below = float(-donsker_varadhan(data, base))
            assert float(-kale(data, base, exact + 2 * random[6])) <= below + 1e-12
            assert float(-kale(data, base, exact)) == pytest.approx(below, abs=1e-12)
            assert below <= divergence + 1e-12
            assert away or below == pytest.approx(divergence, abs=1e-12)
            assert below == pytest.approx(float(-(p * energy).sum() - exact), abs=1e-12)


def test_the_best_log_z_of_kale_is_where_its_gradient_vanishes():
    data, base = some_energies(5)
    exact = torch.logsumexp(-base, 0) - math.log(len(base))
    for shift, slope in [(-1.0, 1 - math.e), (0.0, 0.0), (1.0, 1 - 1 / math.e)]:
        log_z = (exact + shift).requires_grad_()
        assert float(gradient(kale(data, base, log_z), log_z)) == pytest.approx(slope, abs=1e-12)


def test_at_log_z_both_bounds_have_the_same_gradient():
    energies = torch.cat(some_energies(6)).requires_grad_()
    data, base = energies[:30], energies[30:]
    log_z = (torch.logsumexp(-base, 0) - math.log(50)).detach()
    one, two = gradient(kale(data, base, log_z), energies), gradient(donsker_varadhan(data, base), energies)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_donsker_varadhan_knows_neither_the_constant_nor_overflow():
    data, base = some_energies(7)
    expected = float(donsker_varadhan(data, base))
    assert float(donsker_varadhan(data + 7.0, base + 7.0)) == pytest.approx(expected)
    assert float(donsker_varadhan(data - 5000.0, base - 5000.0)) == pytest.approx(expected)
    assert float(donsker_varadhan(data, base.repeat(4))) == pytest.approx(expected)


def test_equal_laws_have_no_divergence():
    zero = torch.zeros(10)
    assert float(donsker_varadhan(zero, zero)) == pytest.approx(0, abs=1e-6)
    assert float(kale(zero, zero, torch.tensor(0.0))) == pytest.approx(0, abs=1e-6)
