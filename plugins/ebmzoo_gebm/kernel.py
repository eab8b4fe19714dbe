r"""KALE over the space of a kernel, and the maximum mean discrepancy in the same terms.

With the space :math:`H` of a kernel :math:`k` and a penalty :math:`\lambda > 0` on the norm,

.. math:: \mathrm{KALE}_\lambda(P \| Q) = (1 + \lambda) \max_{f \in H} \left\{
    \mathbb{E}_P f - \mathbb{E}_Q e^f + 1 - \tfrac{\lambda}{2} \| f \|_H^2 \right\}.

As :math:`\lambda \to 0` it goes to :math:`\mathrm{KL}(P \| Q)` and :math:`f` to :math:`\log dP/dQ`, where
:math:`H` is large enough; as :math:`\lambda \to \infty` it goes to :math:`\mathrm{MMD}^2(P, Q) / 2`. It is
finite in between, also for laws without common support. In the language of energies :math:`f = -(E + c)`; the
talks that write :math:`\sup_f - \mathbb{E}_P f - \mathbb{E}_Q e^{-f} + 1` have :math:`-f` for :math:`f`.

For :math:`P = \sum_j p_j \delta_{x_j}` and :math:`Q = \sum_i q_i \delta_{y_i}`, put
:math:`-q e^t = \min_{\alpha \geq 0} \alpha \log(\alpha / q) - \alpha - \alpha t` into the bracket. What is
left to maximise is quadratic in :math:`f`, and gives the dual

.. math:: \min_{\alpha \geq 0} \; \sum_i \alpha_i \log \frac{\alpha_i}{q_i} - \sum_i \alpha_i + 1
    + \frac{1}{2 \lambda} \Big\| \sum_j p_j k(x_j, \cdot) - \sum_i \alpha_i k(y_i, \cdot) \Big\|_H^2,
    \qquad f^* = \frac{1}{\lambda} \Big( \sum_j p_j k(x_j, \cdot) - \sum_i \alpha_i k(y_i, \cdot) \Big),

which is strictly convex, with :math:`\log(\alpha_i / q_i) = f^*(y_i)` at its minimum: :math:`\alpha` are the
weights :math:`q` of :math:`Q`, tilted by :math:`e^{f^*}`.

References:
    | KALE Flow: A Relaxed KL Gradient Flow for Probabilities with Disjoint Support (Glaser, Arbel & Gretton,
      2021)
    | https://arxiv.org/abs/2106.08929
    | A Kernel Two-Sample Test (Gretton et al., 2012), Section 2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ebmzoo.fields import positive

NEWTON_STEPS = 200
"""How many steps the dual may take; from anywhere a dozen are usual, from the neighbourhood one or two."""

TOLERANCE = 1e-12
"""How large what should vanish at the minimum may be, in units of the terms that it is the difference of."""


@dataclass(frozen=True)
class GaussianKernel:
    r"""The Gaussian kernel.

    .. math:: k(x, y) = \exp\left( -\frac{\| x - y \|^2}{2 h^2} \right)

    The code of the authors of the KALE flow writes :math:`\exp(-\| x - y \|^2 / \sigma)`, so that their
    :math:`\sigma` is :math:`2 h^2`: a kernel "of 0.1" is one with :math:`h = \sqrt{0.05}`.

    Arguments:
        bandwidth: The standard deviation :math:`h`, in the units of the points.
    """

    bandwidth: float

    def __post_init__(self) -> None:
        positive(self, "bandwidth")

    def matrix(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the values for every pair of points (N, D) and (M, D), of shape (N, M).

        Raises:
            ValueError: If the points are not vectors of one dimension.
        """
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise ValueError(
                "points should be of shapes (N, D) and (M, D) with one D, "
                f"not {tuple(x.shape)} and {tuple(y.shape)}"
            )
        distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return (distances.square() / (-2 * self.bandwidth**2)).exp()

    def slope(self, x: Tensor, points: Tensor, weights: Tensor) -> Tensor:
        r"""Returns the gradient of a sum of kernels.

        .. math:: \nabla_x \sum_i c_i \, k(z_i, x) = \frac{1}{h^2} \sum_i c_i \, k(z_i, x) \, (z_i - x)

        Arguments:
            x: Where, of shape (B, D).
            points: The points :math:`z`, of shape (N, D).
            weights: The weights :math:`c`, of shape (N,).

        Returns:
            The gradients, of shape (B, D).
        """
        terms = self.matrix(x, points) * weights
        return (terms @ points - terms.sum(1, keepdim=True) * x) / self.bandwidth**2


@dataclass(frozen=True, eq=False)
class Measure:
    r"""A law on finitely many points, :math:`\sum_i w_i \delta_{x_i}`, in double precision on the CPU.

    Arguments:
        points: The points, of shape (N, D).
        weights: Their probabilities, above zero, of shape (N,).

    Raises:
        ValueError: If there is no point, a point is not finite, or the weights are no probabilities.
    """

    points: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        points, weights = self.points, self.weights
        if points.ndim != 2 or not points.numel():
            raise ValueError(
                f"points should be one or more vectors, (N, D), not of shape {tuple(points.shape)}"
            )
        if weights.shape != points.shape[:1]:
            raise ValueError(f"weights should be of shape ({len(points)},), not {tuple(weights.shape)}")
        if points.dtype != torch.float64 or weights.dtype != torch.float64:
            raise ValueError(f"a measure should be in float64, not in {points.dtype} and {weights.dtype}")
        if not points.isfinite().all():
            raise ValueError("points should be finite; if they are particles, the step size is too large")
        if not (weights > 0).all() or not math.isclose(float(weights.sum()), 1.0, rel_tol=1e-9):
            raise ValueError(f"weights should be above zero with the sum 1, not {float(weights.sum()):g}")


def sample(points: Tensor) -> Measure:
    """Returns the law of a sample (N, D), in which every point has the same weight."""
    points = points.detach().double().cpu()
    return Measure(points, points.new_full(points.shape[:1], 1 / max(len(points), 1)))


@dataclass(frozen=True, eq=False)
class Witness:
    r"""A function of the kernel's space, :math:`f = \sum_i c_i \, k(z_i, \cdot)`.

    Arguments:
        kernel: The kernel.
        points: The points :math:`z`, of shape (N, D).
        weights: The weights :math:`c`, of any sign, of shape (N,).
    """

    kernel: GaussianKernel
    points: Tensor
    weights: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the values at points (B, D), of shape (B,)."""
        return self.kernel.matrix(x, self.points) @ self.weights

    def gradient(self, x: Tensor) -> Tensor:
        """Returns the gradients at points (B, D), of the same shape."""
        return self.kernel.slope(x, self.points, self.weights)

    def squared_norm(self) -> float:
        r"""Returns :math:`\| f \|_H^2 = \sum_{i, j} c_i c_j \, k(z_i, z_j)`."""
        # what rounding may leave below zero is zero
        return max(0.0, float(self.weights @ self(self.points)))

    def scaled(self, factor: float) -> Witness:
        """Returns the function times a number."""
        return Witness(self.kernel, self.points, factor * self.weights)


def difference(p: Measure, q: Measure, kernel: GaussianKernel, weights: Tensor | None = None) -> Witness:
    r"""Returns the witness of the maximum mean discrepancy.

    .. math:: f = \sum_j p_j \, k(x_j, \cdot) - \sum_i q_i \, k(y_i, \cdot)

    Arguments:
        p: The law :math:`P`.
        q: The law :math:`Q`.
        kernel: The kernel.
        weights: What stands in the place of the weights of :math:`Q`, of shape (N,); its own if None.
    """
    if p.points.shape[1] != q.points.shape[1]:
        raise ValueError(
            f"both laws should have one dimension, not {p.points.shape[1]} and {q.points.shape[1]}"
        )
    taken = q.weights if weights is None else weights
    return Witness(kernel, torch.cat([p.points, q.points]), torch.cat([p.weights, -taken]))


def biased_mmd2(p: Measure, q: Measure, kernel: GaussianKernel) -> float:
    r"""Returns the squared maximum mean discrepancy of the two measures themselves.

    .. math:: \Big\| \sum_j p_j k(x_j, \cdot) - \sum_i q_i k(y_i, \cdot) \Big\|_H^2

    For samples it is the V-statistic, whose pairs include those of a point with itself: zero for equal
    samples, above zero otherwise, and on average larger than the discrepancy of the laws that were sampled.
    (``ebmzoo.metrics.MMD`` has the unbiased one.)

    References:
        | A Kernel Two-Sample Test (Gretton et al., 2012), Equation 5
    """
    return difference(p, q, kernel).squared_norm()


@dataclass(frozen=True)
class KernelKALE:
    r"""The penalised KL Approximate Lower-bound Estimator between two measures.

    The dual is solved by Newton's method in :math:`u_i = \log(\alpha_i / q_i)`, whose steps are halved until
    the dual falls. Its linear systems have no eigenvalue below one, however small :math:`\lambda` is and
    however close points are. From :math:`\lambda` = 1e-3 on it converges; far below, say at 1e-5, it may
    not.

    Arguments:
        kernel: The kernel :math:`k`.
        penalty: The penalty :math:`\lambda`.
    """

    kernel: GaussianKernel
    penalty: float

    def __post_init__(self) -> None:
        positive(self, "penalty")

    def objective(self, f: Witness, p: Measure, q: Measure) -> float:
        r"""Returns what is maximised, at a function, which is a lower bound of KALE.

        .. math:: (1 + \lambda) \left\{
            \mathbb{E}_P f - \mathbb{E}_Q e^f + 1 - \tfrac{\lambda}{2} \| f \|_H^2 \right\}
        """
        # by expm1, as under a large penalty both means are tiny beside the one
        means = p.weights @ f(p.points) - q.weights @ f(q.points).expm1()
        return (1 + self.penalty) * (float(means) - 0.5 * self.penalty * f.squared_norm())

    def solve(self, p: Measure, q: Measure, start: Tensor | None = None) -> Solution:
        """Solves the dual.

        Arguments:
            p: The law :math:`P`.
            q: The law :math:`Q`, inside the exponential.
            start: The log-ratios :math:`u` to begin at, of shape (N,); zeros if None.

        Raises:
            ValueError: If the laws have different dimensions, or Newton's method does not converge.
        """
        pull = self.kernel.matrix(q.points, p.points) @ p.weights
        gram = self.kernel.matrix(q.points, q.points)
        dual = _Dual(gram / self.penalty, pull / self.penalty, q.weights)
        begin = torch.zeros_like(q.weights) if start is None else start
        return Solution(self, p, q, _minimised(dual, begin))

    def value(self, p: Measure, q: Measure) -> float:
        """Returns KALE, which is zero or above it, up to rounding."""
        return self.solve(p, q).value


@dataclass(frozen=True, eq=False)
class Solution:
    r"""Where the dual of :class:`KernelKALE` has its minimum.

    Arguments:
        kale: What was solved.
        p: The law :math:`P`.
        q: The law :math:`Q`.
        log_ratio: The log-ratios :math:`u_i = \log(\alpha_i / q_i) = f^*(y_i)`, of shape (N,).
    """

    kale: KernelKALE
    p: Measure
    q: Measure
    log_ratio: Tensor

    @property
    def weights(self) -> Tensor:
        r"""The dual variables :math:`\alpha`, of shape (N,). Their sum need not be one."""
        return self.q.weights * self.log_ratio.exp()

    @property
    def witness(self) -> Witness:
        r"""The best function :math:`f^*`."""
        return difference(self.p, self.q, self.kale.kernel, self.weights).scaled(1 / self.kale.penalty)

    @property
    def value(self) -> float:
        r"""The dual at :math:`\alpha`, times :math:`1 + \lambda`: KALE, or an upper bound that touches it."""
        entropy = float(_entropy(self.log_ratio, self.q.weights))
        # ‖P − α‖² / 2λ, as the witness is that difference over λ
        return (1 + self.kale.penalty) * (entropy + 0.5 * self.kale.penalty * self.witness.squared_norm())

    @property
    def gap(self) -> float:
        """By how much the dual is above the objective at the witness: the error of the value is below it."""
        return self.value - self.kale.objective(self.witness, self.p, self.q)


def _entropy(u: Tensor, q: Tensor) -> Tensor:
    r"""Returns :math:`\sum_i \alpha_i \log(\alpha_i / q_i) - \alpha_i + q_i` at :math:`\alpha = q e^u`."""
    return q @ (u * u.exp() - u.expm1())


class _Dual(NamedTuple):
    r"""The dual as a function of the log-ratios :math:`u`, but for a constant.

    Arguments:
        gram: The matrix :math:`k(y_i, y_j) / \lambda`, of shape (N, N).
        pull: The means :math:`\sum_j p_j k(x_j, y_i) / \lambda`, of shape (N,).
        base: The weights :math:`q`, of shape (N,).
    """

    gram: Tensor
    pull: Tensor
    base: Tensor

    def value(self, u: Tensor) -> float:
        alpha = self.base * u.exp()
        return float(_entropy(u, self.base) + alpha @ (0.5 * self.gram @ alpha - self.pull))

    def residual(self, u: Tensor) -> tuple[Tensor, float]:
        r"""Returns :math:`u - f(y)`, the gradient in :math:`\alpha`, and the size of its terms."""
        push = self.gram @ (self.base * u.exp())
        return u - self.pull + push, 1 + float(u.abs().max() + (self.pull + push).max())

    def direction(self, u: Tensor, residual: Tensor) -> Tensor:
        r"""Returns Newton's step :math:`-(I + G A)^{-1} r`, with :math:`A = \mathrm{diag}(\alpha)`.

        Only :math:`I + A^{1/2} G A^{1/2}`, which is symmetric and above one, is ever factorised.
        """
        root = (self.base * u.exp()).sqrt()
        factor = torch.linalg.cholesky(torch.eye(len(u), dtype=u.dtype) + root[:, None] * self.gram * root)
        solved = torch.cholesky_solve((root * residual)[:, None], factor)[:, 0]
        return self.gram @ (root * solved) - residual


def _minimised(dual: _Dual, u: Tensor) -> Tensor:
    """Returns the minimum of the dual, from a start (N,)."""
    for _ in range(NEWTON_STEPS):
        residual, size = dual.residual(u)
        if float(residual.abs().max()) <= TOLERANCE * size:
            return u
        u = _descended(dual, u, dual.direction(u, residual), residual)
    raise ValueError(
        f"the dual of KALE did not converge in {NEWTON_STEPS} steps: it misses its condition by "
        f"{float(residual.abs().max()):.1e}; take a larger penalty or a wider kernel"
    )


def _descended(dual: _Dual, u: Tensor, step: Tensor, residual: Tensor) -> Tensor:
    """Returns the first of ``u + step``, ``u + step / 2``, ... at which the dual has fallen enough."""
    before, slope = dual.value(u), float((dual.base * u.exp() * residual) @ step)
    rounding = 1e-13 * (1 + abs(before))
    for halvings in range(60):
        size = 0.5**halvings
        # an overflow gives an infinity or a NaN, neither of which is below anything
        if dual.value(u + size * step) <= before + 1e-4 * size * slope + rounding:
            return u + size * step
    raise ValueError(
        "the dual of KALE does not fall along Newton's step; take a larger penalty or a wider kernel"
    )
