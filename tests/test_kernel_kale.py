"""KALE over a kernel's space, where its value is known: at both limits, on separated atoms, by duality."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws import generator
from scipy.optimize import minimize
from scipy.special import lambertw
from torch import Tensor

from ebmzoo.fields import FieldError
from ebmzoo.losses import kale as kale_of_energies
from ebmzoo_gebm import kernel_kale as kernel_module
from ebmzoo_gebm.divergences import FourGaussians, GaussianPair, ThreeRings, gaussian_kl, witness_curves
from ebmzoo_gebm.kernel import GaussianKernel, Measure, Witness, biased_mmd2, difference, sample
from ebmzoo_gebm.kernel_kale import KernelKALE

KERNEL = GaussianKernel(0.8)
PENALTIES = [1e-3, 1e-1, 10.0, 1e4]


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def some_points(count: int, seed: int, dim: int = 2) -> Tensor:
    return torch.randn(count, dim, generator=generator(seed), dtype=torch.float64)


def two_samples() -> tuple[Measure, Measure]:
    return sample(0.5 * some_points(40, 1) + 0.7), sample(some_points(60, 2))


def two_weighted() -> tuple[Measure, Measure]:
    p, q = (some_points(count, seed).square().sum(1) + 0.01 for count, seed in ((15, 3), (25, 4)))
    return Measure(some_points(15, 5) + 1, p / p.sum()), Measure(some_points(25, 6), q / q.sum())


both = pytest.mark.parametrize("make", [two_samples, two_weighted])
each_penalty = pytest.mark.parametrize("penalty", PENALTIES)
Pair = Callable[[], tuple[Measure, Measure]]

# The kernel and functions of its space


def test_the_bandwidth_is_a_standard_deviation():
    x, y = doubles(0, 3).reshape(1, 2), torch.stack([doubles(4, 0), doubles(0, 3)])
    expected = doubles(math.exp(-25 / (2 * 2.0**2)), 1.0).reshape(1, 2)
    torch.testing.assert_close(GaussianKernel(2.0).matrix(x, y), expected)


def test_a_witness_is_a_sum_of_kernels():
    f = Witness(KERNEL, some_points(7, 1), some_points(7, 2)[:, 0])
    x = some_points(5, 3)
    squares = [float((x[2] - z).square().sum()) for z in f.points]
    terms = [c * math.exp(-r / (2 * 0.8**2)) for r, c in zip(squares, f.weights.tolist(), strict=True)]
    assert float(f(x)[2]) == pytest.approx(sum(terms), rel=1e-12)
    torch.testing.assert_close(f.scaled(-3)(x), -3 * f(x))


def test_arrays_and_single_precision_will_do():
    x = some_points(6, 4)
    p = sample(x.float().numpy())
    torch.testing.assert_close(p.points, x, atol=1e-6, rtol=0)
    f = Witness(KERNEL, p.points, some_points(6, 5)[:, 0])
    torch.testing.assert_close(f(x.float()), f(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(f.gradient(x.float()), f.gradient(x), atol=1e-5, rtol=0)


def test_the_gradient_of_a_witness_is_that_of_autograd():
    f = Witness(KERNEL, some_points(30, 1, dim=4), some_points(30, 2)[:, 0])
    x = some_points(20, 3, dim=4).requires_grad_()
    (exact,) = torch.autograd.grad(f(x).sum(), x)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(f.gradient(x.detach()), exact, rtol=1e-11, atol=1e-13)


def test_the_gradient_of_the_best_witness_is_a_slope():
    p, q = two_samples()
    f, x, step = KernelKALE(KERNEL, 0.01).solve(p, q).witness, some_points(10, 7), 1e-5
    for axis in range(2):
        move = step * torch.eye(2, dtype=torch.float64)[axis]
        slope = (f(x + move) - f(x - move)) / (2 * step)
        torch.testing.assert_close(f.gradient(x)[:, axis], slope, rtol=1e-6, atol=1e-6)


def test_the_norm_reproduces():
    """That the inner product of a function with a kernel is its value, here for k itself."""
    assert Witness(KERNEL, some_points(1, 1), doubles(-3)).squared_norm() == pytest.approx(9)
    z = some_points(2, 1)
    cross = float(KERNEL.matrix(z[:1], z[1:]))
    assert Witness(KERNEL, z, doubles(2, -5)).squared_norm() == pytest.approx(4 + 25 - 20 * cross)


# The maximum mean discrepancy


def test_the_biased_discrepancy_is_its_v_statistic():
    p, q = two_samples()
    means = [KERNEL.matrix(a.points, b.points).mean() for a, b in ((p, p), (q, q), (p, q))]
    assert biased_mmd2(p, q, KERNEL) == pytest.approx(float(means[0] + means[1] - 2 * means[2]), rel=1e-12)
    assert biased_mmd2(p, p, KERNEL) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("shift", "ratio"), [(0.7, 1.0), (3.0, 1.0), (0.0, 0.3), (1.0, 2.5)])
def test_the_discrepancy_of_gaussians_is_its_closed_form(shift: float, ratio: float):
    r""":math:`\mathbb{E} k(x, y) = h / \sqrt{w} \exp(-s^2 / 2 w)`, with w the sum of h² and the variances."""

    def mean(distance: float, variance: float) -> float:
        total = 0.8**2 + variance
        return 0.8 / math.sqrt(total) * math.exp(-(distance**2) / (2 * total))

    expected = mean(0, 2 * ratio**2) + mean(0, 2) - 2 * mean(shift, ratio**2 + 1)
    p, q = GaussianPair(KERNEL).measures(shift, ratio)
    assert biased_mmd2(p, q, KERNEL) == pytest.approx(expected, rel=1e-9)


# The dual


@both
@each_penalty
def test_there_is_no_gap_between_dual_and_primal(make: Pair, penalty: float):
    solution = KernelKALE(KERNEL, penalty).solve(*make())
    assert solution.value > 0.01
    assert abs(solution.gap) < 1e-10 * solution.value


@both
@each_penalty
def test_the_weights_are_tilted_by_the_witness(make: Pair, penalty: float):
    """The condition of a minimum, with the witness written out by hand."""
    p, q = make()
    solution = KernelKALE(KERNEL, penalty).solve(p, q)
    f = solution.witness(q.points)
    torch.testing.assert_close((solution.weights / q.weights).log(), f, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(solution.weights, q.weights * f.exp(), rtol=1e-7, atol=1e-12)
    by_hand = p.weights @ KERNEL.matrix(p.points, q.points) - solution.weights @ KERNEL.matrix(
        q.points, q.points
    )
    torch.testing.assert_close(f, by_hand / penalty, rtol=1e-9, atol=1e-9)


@both
@each_penalty
def test_no_other_function_is_better(make: Pair, penalty: float):
    p, q = make()
    kale = KernelKALE(KERNEL, penalty)
    solution, best = kale.solve(p, q), kale.solve(p, q).witness
    for seed in range(5):
        change = 0.1 * some_points(len(best.weights), seed)[:, 0] * best.weights.abs().mean()
        other = Witness(KERNEL, best.points, best.weights + change)
        assert kale.objective(other, p, q) < solution.value
    assert kale.objective(best.scaled(0), p, q) == 0
    assert kale.objective(best.scaled(1.01), p, q) < solution.value
    assert kale.objective(best.scaled(0.99), p, q) < solution.value


@pytest.mark.parametrize("penalty", [0.05, 1.0])
def test_another_optimiser_finds_the_same(penalty: float):
    p, q = two_weighted()
    gram = KERNEL.matrix(q.points, q.points).numpy()
    pull = (KERNEL.matrix(q.points, p.points) @ p.weights).numpy()
    constant = float(p.weights @ KERNEL.matrix(p.points, p.points) @ p.weights)

    def dual(log_alpha: np.ndarray) -> tuple[float, np.ndarray]:
        alpha, base = np.exp(log_alpha), q.weights.numpy()
        square = constant - 2 * alpha @ pull + alpha @ gram @ alpha
        value = alpha @ np.log(alpha / base) - alpha.sum() + 1 + square / (2 * penalty)
        return value, alpha * (np.log(alpha / base) + (gram @ alpha - pull) / penalty)

    options = {"ftol": 1e-15, "gtol": 1e-10}
    found = minimize(dual, np.log(q.weights.numpy()), jac=True, method="L-BFGS-B", options=options)
    assert KernelKALE(KERNEL, penalty).value(p, q) == pytest.approx((1 + penalty) * found.fun, rel=1e-7)


def test_without_its_penalty_the_objective_is_that_of_energies():
    p, q = two_samples()
    f = Witness(KERNEL, some_points(9, 1), some_points(9, 2)[:, 0])
    plain = -float(kale_of_energies(-f(p.points), -f(q.points), torch.tensor(0.0)))
    expected = 1.3 * (plain - 0.15 * f.squared_norm())
    assert KernelKALE(KERNEL, 0.3).objective(f, p, q) == pytest.approx(expected, rel=1e-12)


def test_a_start_changes_no_solution():
    p, q = two_samples()
    kale = KernelKALE(KERNEL, 0.01)
    cold = kale.solve(p, q)
    assert torch.equal(kale.solve(p, q, cold.log_ratio).log_ratio, cold.log_ratio)
    warm = kale.solve(p, q, cold.log_ratio + some_points(60, 8)[:, 0])
    torch.testing.assert_close(warm.weights, cold.weights, rtol=1e-8, atol=1e-12)


@each_penalty
@pytest.mark.parametrize("far", [-200.0, -20.0, 20.0])
def test_a_start_may_be_far_off(penalty: float, far: float):
    """Where a whole step of Newton's method would overflow, and has to be halved."""
    p, q = two_samples()
    kale = KernelKALE(KERNEL, penalty)
    expected, found = kale.solve(p, q), kale.solve(p, q, torch.full((60,), far).double())
    torch.testing.assert_close(found.log_ratio, expected.log_ratio, rtol=1e-7, atol=1e-9)


def test_a_point_counts_as_often_as_it_is_repeated():
    x, y = some_points(3, 1), some_points(2, 2)
    repeated = KernelKALE(KERNEL, 0.01).value(sample(x), sample(y[[0, 1, 1, 1]]))
    assert KernelKALE(KERNEL, 0.01).value(sample(x), Measure(y, doubles(0.25, 0.75))) == pytest.approx(
        repeated
    )


@pytest.mark.parametrize("seed", range(12))
def test_it_converges_wherever_the_samples_are(seed: int):
    """Wide and narrow kernels, few and many points, samples that overlap, coincide and do not meet."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(rng.integers(1, 100), 3)) * 10 ** rng.uniform(-2, 0.5))
    y = torch.from_numpy(rng.normal(size=(rng.integers(1, 120), 3)))
    y[len(y) // 2 :] = y[0]
    p, q = sample(x + float(rng.choice([0.0, 1.0, 8.0]))), sample(y)
    kernel = GaussianKernel(10 ** rng.uniform(-1.5, 1))
    for penalty in PENALTIES:
        solution = KernelKALE(kernel, penalty).solve(p, q)
        assert abs(solution.gap) < 1e-9 * (1 + solution.value)


# Equal and disjoint laws


@each_penalty
def test_equal_samples_have_no_divergence(penalty: float):
    points = some_points(50, 1)
    for other in (points, points.flip(0), points.repeat(2, 1)):
        solution = KernelKALE(KERNEL, penalty).solve(sample(points), sample(other))
        assert solution.value == pytest.approx(0, abs=1e-11)
        assert solution.witness(some_points(9, 2)).abs().max() * (1 + penalty) < 1e-9


@each_penalty
def test_it_is_above_zero_else(penalty: float):
    points = some_points(50, 1)
    nearly = torch.cat([points[:-1], points[-1:] + 0.1])
    assert KernelKALE(KERNEL, penalty).value(sample(points), sample(nearly)) > 1e-7


@each_penalty
def test_points_that_do_not_meet(penalty: float):
    r"""For one point far from another, :math:`\log \alpha = -\alpha / \lambda`."""
    found = KernelKALE(KERNEL, penalty).solve(sample(doubles(0, 0)[None]), sample(doubles(90, 0)[None]))
    alpha = penalty * lambertw(1 / penalty).real
    expected = alpha * math.log(alpha) - alpha + 1 + (1 + alpha**2) / (2 * penalty)
    assert float(found.weights) == pytest.approx(alpha, rel=1e-9)
    assert found.value == pytest.approx((1 + penalty) * expected, rel=1e-9)


# The limits

ATOMS = doubles(0, 1, 2, 3)[:, None]
SEPARATE = GaussianKernel(0.02)
"""Zero between any two atoms, in double precision: the squared norm of f is the sum of its squares."""


def atoms() -> tuple[Measure, Measure]:
    return Measure(ATOMS, doubles(0.1, 0.2, 0.3, 0.4)), Measure(ATOMS, doubles(0.4, 0.05, 0.35, 0.2))


@each_penalty
def test_separate_atoms_have_weights_in_closed_form(penalty: float):
    r""":math:`\log(\alpha / q) = (p - \alpha) / \lambda`, by Lambert's function."""
    p, q = atoms()
    arguments = q.weights / penalty * (p.weights / penalty).exp()
    expected = penalty * torch.from_numpy(lambertw(arguments.numpy()).real)
    torch.testing.assert_close(
        KernelKALE(SEPARATE, penalty).solve(p, q).weights, expected, rtol=1e-8, atol=1e-12
    )


def test_without_a_penalty_it_is_kl_of_the_weights():
    """Up to half the penalty times the squared norm of the log-ratio, and terms of higher order."""
    p, q = atoms()
    ratio = (p.weights / q.weights).log()
    kl = float(p.weights @ ratio)
    for penalty in (1e-3, 1e-4):
        lost = kl - KernelKALE(SEPARATE, penalty).value(p, q) / (1 + penalty)
        assert lost == pytest.approx(0.5 * penalty * float(ratio.square().sum()), rel=20 * penalty)
    assert kl - KernelKALE(SEPARATE, 1e-6).value(p, q) == pytest.approx(0, abs=1e-5)
    assert KernelKALE(SEPARATE, 1e-6).value(q, p) == pytest.approx(-float(q.weights @ ratio), abs=1e-5)
    torch.testing.assert_close(
        KernelKALE(SEPARATE, 1e-6).solve(p, q).witness(ATOMS), ratio, rtol=1e-3, atol=1e-3
    )


@both
def test_under_a_large_penalty_it_is_half_the_squared_discrepancy(make: Pair):
    r"""Within :math:`2 (1 + \lambda) e^{2 / \lambda} / \lambda^2`: the embedding is nowhere above 2."""
    p, q = make()
    half, embedding = biased_mmd2(p, q, KERNEL) / 2, difference(p, q, KERNEL)
    for penalty in (1e2, 1e4, 1e6):
        solution, bound = (
            KernelKALE(KERNEL, penalty).solve(p, q),
            2 * (1 + penalty) * math.exp(2 / penalty) / penalty**2,
        )
        above = (1 + 1 / penalty) * half
        assert above - bound < solution.value < above
        x = some_points(9, 9)
        torch.testing.assert_close(penalty * solution.witness(x), embedding(x), rtol=0, atol=2 / penalty)
    assert bound < half / 1000


@both
def test_it_falls_from_kl_and_rises_to_the_discrepancy(make: Pair):
    r"""Over :math:`1 + \lambda` it falls with the penalty; times :math:`\lambda / (1 + \lambda)` it rises."""
    p, q = make()
    penalties = 10.0 ** torch.linspace(-3, 4, 15, dtype=torch.float64)
    values = doubles(*[KernelKALE(KERNEL, penalty).value(p, q) for penalty in penalties.tolist()]) / (
        1 + penalties
    )
    assert (values.diff() < 0).all()
    assert ((penalties * values).diff() > 0).all()
    assert float((penalties * values)[-1]) < biased_mmd2(p, q, KERNEL) / 2


# Curves


def test_the_grid_has_the_divergence_of_gaussians():
    for shift, ratio in ((2.0, 1.0), (0.0, 0.3), (-1.0, 2.5)):
        p, q = GaussianPair().measures(shift, ratio)
        on_grid = float(p.weights @ (p.weights / q.weights).log())
        assert on_grid == pytest.approx(gaussian_kl(shift, ratio), rel=1e-8)
        assert float(p.weights @ p.points[:, 0]) == pytest.approx(shift, abs=1e-9)


def test_a_finer_grid_changes_nothing():
    coarse, fine = (
        GaussianPair(penalties=(1e-3, 1.0)),
        GaussianPair(penalties=(1e-3, 1.0), reach=8.0, fineness=7.0),
    )
    for one, two in (
        (coarse.over_means([2.0]), fine.over_means([2.0])),
        (coarse.over_widths([2.0]), fine.over_widths([2.0])),
    ):
        torch.testing.assert_close(one.kale, two.kale, rtol=1e-8, atol=0)
        torch.testing.assert_close(one.mmd2, two.mmd2, rtol=1e-8, atol=0)


def test_with_the_distance_the_discrepancy_saturates_and_kl_grows():
    pair = GaussianPair(GaussianKernel(1.0), (1e-3, 1e-1, 1e4))
    curves = pair.over_means([0.0, 1.0, 2.0, 4.0, 8.0, 16.0])
    torch.testing.assert_close(curves.kl, curves.where.square() / 2)
    top = 2 / math.sqrt(3)  # both means of k within a law, once the one between the laws has vanished
    assert curves.mmd2[-1] == pytest.approx(top, rel=1e-9)
    assert float(curves.mmd2[-2] / curves.mmd2[-1]) > 0.999
    assert (curves.kale.diff(dim=1) > 0).all()
    _ordered(curves.kl, curves.mmd2, curves.kale, curves.penalties)
    torch.testing.assert_close(curves.kale[2], curves.mmd2 / 2, rtol=1e-3, atol=1e-12)
    near = curves.kale[0, 1:4] / curves.kl[1:4]
    assert ((near > 0.95) & (near < 1)).all()


def test_with_the_ratio_of_widths_all_have_their_zero_at_one():
    curves = GaussianPair(GaussianKernel(1.0), (1e-3, 1e-1, 1e4)).over_widths([0.25, 0.5, 1.0, 2.0, 4.0])
    for each in (curves.kl, curves.mmd2, *curves.kale):
        assert float(each[2]) == pytest.approx(0, abs=1e-12)
        assert (each[:3].diff() < 0).all()
        assert (each[2:].diff() > 0).all()
    _ordered(curves.kl, curves.mmd2, curves.kale, curves.penalties)


def _ordered(kl: Tensor, mmd2: Tensor, kale: Tensor, penalties: tuple[float, ...]) -> None:
    """Checks that KALE is where the theory has it: below KL and the discrepancy, monotone in between."""
    penalty = doubles(*penalties)[:, None]
    assert (kale / (1 + penalty) <= kl + 1e-12).all()
    assert (penalty / (1 + penalty) * kale <= mmd2 / 2 + 1e-12).all()
    assert ((kale / (1 + penalty)).diff(dim=0) <= 1e-12).all()


def test_the_deficit_to_kl_of_gaussians_goes_with_the_penalty():
    pair = GaussianPair(GaussianKernel(1.0), (1e-1, 1e-2, 1e-3, 1e-4))
    deficit = 1 - pair.over_means([1.5]).kale[:, 0] / gaussian_kl(1.5, 1.0)
    assert (deficit > 0).all()
    assert (deficit[1:] < deficit[:-1] / 2).all()
    assert deficit[-1] < 0.01


def test_witness_curves():
    x, y, line = 0.5 * some_points(30, 1)[:, 0] - 1, some_points(40, 2)[:, 0], torch.linspace(-4, 4, 50)
    curves = witness_curves(x.float(), y, line, KERNEL, (1e-2, 1e5))
    assert curves.kale.shape == (2, 50)
    torch.testing.assert_close(1e5 * curves.kale[1], curves.mmd, rtol=0, atol=1e-4)
    assert (
        float(curves.kale[0, line.sub(-1).abs().argmin()])
        > 0
        > float(curves.kale[0, line.sub(1).abs().argmin()])
    )
    best = KernelKALE(KERNEL, 1e-2).solve(sample(x.float()[:, None]), sample(y[:, None]))
    assert float(curves.values[0]) == pytest.approx(best.value)
    torch.testing.assert_close(curves.kale[0], best.witness(line.double()[:, None]))


# Published values


@pytest.mark.parametrize(("penalty", "printed"), [(1e-3, "3.66e+00"), (1e4, "3.87e-01")])
def test_the_start_of_the_authors_three_rings(penalty: float, printed: str):
    """The first loss that their notebook three_rings.ipynb prints, for the particles of its random state."""
    state = np.random.RandomState(42)
    state.randn(240, 2)  # drawn and dropped there
    particles = torch.from_numpy(state.randn(240, 2) / 100 - np.array([0, 0.3]))
    kale = KernelKALE(GaussianKernel(math.sqrt(0.1 / 2)), penalty)
    assert f"{kale.value(sample(particles), sample(ThreeRings().target(generator(0)))):.2e}" == printed


# Errors


@pytest.mark.parametrize("number", [0.0, -1.0, math.inf, math.nan])
def test_bandwidth_and_penalty_are_above_zero(number: float):
    with pytest.raises(FieldError, match=r"GaussianKernel.bandwidth should be a number above zero"):
        GaussianKernel(number)
    with pytest.raises(FieldError, match=r"KALE.penalty should be a number above zero"):
        KernelKALE(KERNEL, number)


@pytest.mark.parametrize(
    ("points", "weights", "match"),
    [
        (torch.zeros(0, 2).double(), torch.zeros(0).double(), "one or more vectors"),
        (torch.zeros(3).double(), doubles(1, 0, 0), "one or more vectors"),
        (torch.zeros(2, 2).double(), doubles(1), r"weights should be of shape \(2,\)"),
        (torch.zeros(2, 2).double(), doubles(1, 0), "above zero"),
        (torch.zeros(2, 2).double(), doubles(0.5, 0.6), "not 1.1"),
        (torch.zeros(2, 2), torch.full((2,), 0.5), "float64, not in torch.float32"),
        (torch.full((1, 2), math.nan).double(), doubles(1), "should be finite"),
    ],
)
def test_a_measure_has_points_and_probabilities(points: Tensor, weights: Tensor, match: str):
    with pytest.raises(ValueError, match=match):
        Measure(points, weights)


def test_an_empty_sample_is_none():
    with pytest.raises(ValueError, match="one or more vectors"):
        sample(torch.zeros(0, 2))
    with pytest.raises(ValueError, match="one or more vectors"):
        witness_curves(torch.zeros(0), torch.zeros(2), torch.zeros(2), KERNEL, (1.0,))


def test_both_laws_have_one_dimension():
    p, q = sample(some_points(5, 1, dim=2)), sample(some_points(5, 1, dim=3))
    with pytest.raises(ValueError, match=r"with one D, not \(5, 3\) and \(5, 2\)"):
        KernelKALE(KERNEL, 1.0).solve(p, q)
    with pytest.raises(ValueError, match="one dimension, not 2 and 3"):
        biased_mmd2(p, q, KERNEL)


def test_a_dual_that_does_not_converge_is_an_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_module, "NEWTON_STEPS", 2)
    with pytest.raises(ValueError, match=r"did not converge in 2 steps.*take a larger penalty"):
        KernelKALE(KERNEL, 1e-3).solve(*two_samples())


def test_settings_of_the_pictures_are_checked():
    with pytest.raises(FieldError, match="penalties"):
        GaussianPair(penalties=())
    with pytest.raises(FieldError, match="fineness"):
        GaussianPair(fineness=0)
    with pytest.raises(ValueError, match="penalties should be one or more"):
        witness_curves(torch.zeros(2), torch.zeros(2), torch.zeros(2), KERNEL, ())
    with pytest.raises(FieldError, match=r"ThreeRings.gap"):
        ThreeRings(gap=0)
    with pytest.raises(FieldError, match=r"FourGaussians.count"):
        FourGaussians(count=0)
