r"""Which of two sets of samples is nearer to data: a test with three samples.

References:
    | A Test of Relative Similarity for Model Selection in Generative Models (Bounliphone et al., 2016)
    | https://arxiv.org/abs/1511.04581
"""

from __future__ import annotations

import math

from torch import Tensor


def kernel_contributions(samples: Tensor, data: Tensor) -> Tensor:
    r"""Returns what each sample adds to the squared kernel distance.

    .. math:: c_i = \frac{1}{n - 1} \sum_{j \neq i} k(x_i, x_j) - k(x_i, y_j) - k(x_j, y_i), \qquad
        k(a, b) = \left( \frac{\langle a, b \rangle}{D} + 1 \right)^3

    Their mean is the distance, without bias, less a term of the data alone.

    Arguments:
        samples: Features :math:`x_i`, of shape (N, D).
        data: As many features :math:`y_i` of data, of shape (N, D).

    Returns:
        The contributions, of shape (N,), in double precision.
    """
    x, y = samples.double(), data.double()
    across = _cubic(x, y)
    both = _cubic(x, x) - across - across.T
    return (both.sum(1) - both.diagonal()) / (len(x) - 1)


def p_of_progress(new: Tensor, old: Tensor) -> float:
    r"""Returns how probable a difference as large as this is, if new samples are no nearer than old ones.

    .. math:: \Phi \left( \frac{\sqrt{n} \, \bar{d}}{2 \, \mathrm{std}(d)} \right), \qquad d_i = c_i - c'_i

    in which the standard deviation is that of the distances' difference to the first order in :math:`1/n`.

    Arguments:
        new: What the new samples contribute, of shape (N,).
        old: What the old samples contribute to the distance from the same data, of shape (N,).
    """
    difference = new - old
    mean, spread = float(difference.mean()), float(difference.std())
    statistic = math.sqrt(len(difference)) * mean / (2 * spread) if spread else 0.0
    return (1 + math.erf(statistic / math.sqrt(2))) / 2


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    """Returns the kernel between all pairs of features (N, D) and (M, D), of shape (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3
