r"""KALE over the space of a kernel.

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
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ebmzoo.fields import positive
from ebmzoo_gebm.kernel import GaussianKernel, Measure, Witness, difference

NEWTON_STEPS = 200
"""How many steps the dual may take; from anywhere a dozen are usual, from the neighbourhood one or two."""

TOLERANCE = 1e-12
"""How large what should vanish at the minimum may be, in units of the terms that it is the difference of."""


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
