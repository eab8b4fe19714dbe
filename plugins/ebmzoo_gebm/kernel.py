"""A kernel, laws of finitely many points, functions in its space, and the maximum mean discrepancy.

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012), Section 2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from numpy import ndarray
from torch import Tensor

from ebmzoo.fields import positive


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


def sample(points: Tensor | ndarray) -> Measure:
    """Returns the law of a sample (N, D), in which every point has the same weight."""
    points = torch.as_tensor(points).detach().double().cpu()
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
        """Returns the values at points (B, D), of shape (B,), in double precision."""
        return self.kernel.matrix(x.to(self.points), self.points) @ self.weights

    def gradient(self, x: Tensor) -> Tensor:
        """Returns the gradients at points (B, D), of the same shape, in double precision."""
        return self.kernel.slope(x.to(self.points), self.points, self.weights)

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
