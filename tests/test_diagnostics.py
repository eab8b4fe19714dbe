"""Split R-hat and the effective sample size, against loops, closed forms and exact laws."""

from __future__ import annotations

import math
from statistics import mean, variance

import pytest
import torch
from laws import COUNT, FAILURE, Gaussian, Z, assert_sample_mean, generator
from scipy import stats
from torch import Tensor

from ebmzoo.models import StandardNormal
from ebmzoo.samplers import (
    MALA,
    SGLD,
    KineticLangevin,
    Langevin,
    Stage,
    effective_sample_size,
    evolve,
    recording_chains,
    settle,
    split_rhat,
)


def autoregressive(steps: int, count: int, rho: float, seed: int) -> Tensor:
    r"""Stationary chains :math:`x' = \rho x + \sqrt{1 - \rho^2} \xi`, of shape (steps, count)."""
    noise = torch.randn(steps, count, generator=generator(seed), dtype=torch.float64)
    chains = [noise[0]]
    for step in noise[1:]:
        chains.append(rho * chains[-1] + math.sqrt(1 - rho**2) * step)
    return torch.stack(chains)


def halves_of(chains: Tensor) -> list[list[float]]:
    half = len(chains) // 2
    return [part.tolist() for chain in chains.T for part in (chain[:half], chain[len(chain) - half :])]


def naive_variances(halves: list[list[float]]) -> tuple[float, float]:
    """W and var+ of Bayesian Data Analysis, Section 11.4."""
    steps = len(halves[0])
    between = steps * variance([mean(half) for half in halves])
    within = mean([variance(half) for half in halves])
    return within, (steps - 1) / steps * within + between / steps


def naive_rhat(chains: Tensor) -> float:
    within, total = naive_variances(halves_of(chains))
    return math.sqrt(total / within)


def naive_size(chains: Tensor) -> float:
    """Equations 10 to 13 of Vehtari et al. (2021), in loops."""
    halves = halves_of(chains)
    steps, count = len(halves[0]), len(halves)
    within, total = naive_variances(halves)

    def correlation(lag: int) -> float:
        explained = []
        for half in halves:
            centre, spread = mean(half), variance(half)
            products = [(half[t] - centre) * (half[t + lag] - centre) for t in range(steps - lag)]
            squares = [(value - centre) ** 2 for value in half]
            explained.append(spread * sum(products) / sum(squares))
        return 1 - (within - mean(explained)) / total

    tau, lowest = -1.0, math.inf
    for lag in range(0, steps // 2 * 2, 2):
        pair = correlation(lag) + correlation(lag + 1)
        if lag > 0 and pair < 0:
            break
        lowest = min(lowest, pair)
        tau += 2 * lowest
    return steps * count / tau


@pytest.mark.parametrize(("steps", "count", "rho"), [(40, 3, 0.5), (41, 3, 0.8), (30, 1, 0.3), (24, 2, -0.4)])
def test_both_equal_their_definitions(steps: int, count: int, rho: float):
    chains = autoregressive(steps, count, rho, seed=steps)
    chains = chains + torch.arange(count)  # a little apart, so that the part between chains counts
    assert split_rhat(chains) == pytest.approx(naive_rhat(chains), rel=1e-12)
    assert effective_sample_size(chains) == pytest.approx(naive_size(chains), rel=1e-9)


# R-hat


def test_rhat_of_independent_draws_has_the_law_of_an_analysis_of_variance():
    """Of normal draws, the variance of means over that within is an F variable, whose tails are known."""
    steps, count = 200, 20
    chains = torch.randn(steps, count, generator=generator(1), dtype=torch.float64)
    half, halves = steps // 2, 2 * count
    low, high = stats.f.ppf([FAILURE / 2, 1 - FAILURE / 2], halves - 1, halves * (half - 1))
    assert math.sqrt((half - 1 + low) / half) < split_rhat(chains) < math.sqrt((half - 1 + high) / half)
    assert math.sqrt((half - 1 + high) / half) < 1.02  # what is allowed is close to one


def test_rhat_of_chains_in_different_places():
    r"""Chains around ±3: :math:`\hat R^2` is one plus the variance of their means, here 9 · 40 / 39."""
    chains = torch.randn(1000, 20, generator=generator(2), dtype=torch.float64)
    chains[:, ::2] += 3
    chains[:, 1::2] -= 3
    expected = math.sqrt(1 + 9 * 40 / 39)
    relative = Z * math.sqrt(2 / chains.numel()) + Z / math.sqrt(500 * 9 * 40)  # of the two variances
    assert split_rhat(chains) == pytest.approx(expected, rel=relative)


def test_rhat_splits_chains():
    """Chains that drift together disagree only with their own other halves."""
    drift = torch.linspace(-2, 2, 500, dtype=torch.float64)[:, None]
    chains = drift + torch.randn(500, 8, generator=generator(3), dtype=torch.float64)
    within, total = naive_variances([chain.tolist() for chain in chains.T])
    assert math.sqrt(total / within) < 1.05
    assert split_rhat(chains) > 1.3


def test_rhat_knows_neither_unit_nor_origin():
    chains = autoregressive(100, 5, 0.7, seed=4)
    assert split_rhat(7 - 1e3 * chains) == pytest.approx(split_rhat(chains))
    assert split_rhat(chains.float()) == pytest.approx(split_rhat(chains), rel=1e-5)


def test_chains_that_stand_still():
    still = torch.zeros(100, 4)
    assert math.isnan(split_rhat(still))
    assert math.isnan(effective_sample_size(still))
    apart = still + torch.arange(4.0)
    assert split_rhat(apart) == math.inf
    assert effective_sample_size(apart) < 5  # four chains tell no more than four draws


# Effective sample size


def allowed(rho: float, count: int) -> float:
    r"""The relative error of an integrated autocorrelation time, :math:`\sqrt{2 (2 M + 1) / N}`.

    So Madras & Sokal (1988); M is the lag at which autocorrelations sink into their own noise.
    """
    window = 3 + math.log(math.sqrt(count)) / -math.log(max(abs(rho), 0.05))
    return Z * math.sqrt(2 * (2 * window + 1) / count)


@pytest.mark.parametrize("rho", [0.95, 0.8, 0.4, 0.0, -0.4, -0.7])
def test_the_size_of_autoregressive_chains_is_known(rho: float):
    steps, count = 4000, 200
    expected = steps * count * (1 - rho) / (1 + rho)
    tau = (1 + rho) / (1 - rho)
    bias = 4 * tau / steps  # halves of 2000 steps: their own means are subtracted
    error = allowed(rho, steps * count) + bias
    assert error < 0.2
    assert effective_sample_size(autoregressive(steps, count, rho, seed=5)) == pytest.approx(
        expected, rel=error
    )


def test_antithetic_chains_tell_more_than_draws():
    chains = autoregressive(1000, 20, -0.5, seed=6)
    assert effective_sample_size(chains) > 2 * chains.numel()


@pytest.mark.parametrize("steps", [8, 9, 100, 1001])
def test_alternating_chains_tell_as_much_as_is_ever_believed(steps: int):
    chains = (torch.arange(steps) % 2).double()[:, None].expand(-1, 4) + 0.0
    count = steps // 2 * 2 * 4
    assert effective_sample_size(chains) == pytest.approx(count * math.log10(count + 10))


def test_the_size_predicts_the_error_of_a_mean():
    """What it is for: the variance of the mean of one chain is that of a draw over the size of one chain."""
    steps, count = 400, 4000
    chains = autoregressive(steps, count, 0.6, seed=7)
    size = effective_sample_size(chains) / count
    squares = steps * chains.mean(0).square() * (size / steps)
    edge = 4 * 4 / steps  # the sum over lags is cut at the chain's ends
    tolerance = Z * math.sqrt(2 / count) + edge
    assert float(squares.mean()) == pytest.approx(1.0, rel=tolerance)


# Records of schedules


def test_a_record_tells_what_the_chains_did():
    target, rng = StandardNormal((3,)).log_prob, generator(8)
    position = torch.randn(200, 3, generator=rng)
    with recording_chains() as record:
        steps = list(evolve((Stage(MALA(0.4), 20),), target, position, rng))
    summary = record.summary()
    states, infos = zip(*steps, strict=True)
    second = torch.stack([state.log_prob for state in states[10:]])
    assert summary == {
        "acceptance": pytest.approx(float(torch.stack([info.acceptance for info in infos]).mean())),
        "mean_gradient": pytest.approx(float(states[-1].position.abs().mean())),
        "at_box": 0.0,
        "split_rhat": split_rhat(second),
        "effective_sample_size": effective_sample_size(second),
        "autocorrelation_time": pytest.approx(10 * 200 / effective_sample_size(second)),
    }
    assert summary["split_rhat"] < 1.5


def test_a_record_of_the_box():
    kernel = SGLD(0.5, 3.0, box=(-0.5, 0.5))
    with recording_chains() as record:
        end = settle((Stage(kernel, 3),), StandardNormal((2,)).log_prob, torch.zeros(50, 2), generator(9))
    summary = record.summary()
    assert summary["at_box"] == pytest.approx(float((end.abs() == 0.5).float().mean()))
    assert summary["acceptance"] == 1.0
    assert set(summary) == {"acceptance", "mean_gradient", "at_box"}


def test_records_are_of_their_block_only():
    target, rng, position = StandardNormal((1,)).log_prob, generator(10), torch.zeros(5, 1)
    with recording_chains() as outer:
        settle((Stage(Langevin(0.1), 8),), target, position, rng)
        with recording_chains() as inner:
            settle((Stage(KineticLangevin(0.1, 1.0), 2),), target, position, rng)
        settle((Stage(Langevin(0.1), 1),), target, position[:3], rng)
    settle((Stage(Langevin(0.1), 1),), target, position, rng)
    assert len(outer.log_prob) == 9
    assert len(inner.log_prob) == 2
    assert "split_rhat" not in outer.summary()  # batches of different sizes
    with recording_chains() as empty:
        settle((), target, position, rng)
    assert empty.summary() == {}


def test_stationary_langevin_chains_have_the_size_of_their_autocorrelation():
    r"""Langevin on N(0, 1) is autoregressive with :math:`\rho = 1 - \eta`; an end-to-end check."""
    law, rng, eta = Gaussian(), generator(11), 0.4
    position = law.draw(400, rng) / math.sqrt(1 - eta / 2)
    states = evolve((Stage(Langevin(eta), 1000),), law.log_prob, position, rng)
    chains = torch.stack([state.position[:, 0] for state, _ in states])
    expected = chains.numel() * eta / (2 - eta)
    error = allowed(1 - eta, chains.numel()) + 4 * (2 - eta) / eta / 1000
    assert effective_sample_size(chains) == pytest.approx(expected, rel=error)
    assert split_rhat(chains) < 1.02


def test_the_autoregressive_chains_of_these_tests_are_stationary():
    chains = autoregressive(50, COUNT, 0.9, seed=12)
    assert_sample_mean(chains[-1].square(), 1.0)
    assert_sample_mean(chains[-1] * chains[-2], 0.9)
