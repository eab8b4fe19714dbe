r"""Losses, as functions of energies.

They know no network, no sampler and no loop: they take energies of points that somebody else drew, and return
a scalar to be minimised.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def contrastive(data: Tensor, samples: Tensor) -> Tensor:
    r"""Maximum likelihood by samples of the model.

    .. math:: \nabla_\theta \left[ -\mathbb{E}_{p} \log \pi_\theta \right]
        = \nabla_\theta \left[ \mathbb{E}_{p} E_\theta(x) - \mathbb{E}_{\pi_\theta} E_\theta(x) \right]

    The value itself is no likelihood, only its gradient is that of one. Contrastive divergence, persistent
    contrastive divergence and short-run learning are this loss with samples from differently started chains.

    References:
        | Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002), Section 3

    Arguments:
        data: The energies :math:`E(x)` of data, of shape (N,).
        samples: The energies of samples of the model, of shape (M,), which may differ from N.

    Returns:
        The difference of means, of shape ().
    """
    return data.mean() - samples.mean()


def energy_l2(data: Tensor, samples: Tensor) -> Tensor:
    r"""The penalty that keeps energies near zero.

    .. math:: \mathbb{E}_p E(x)^2 + \mathbb{E}_\pi E(x)^2

    The contrastive loss fixes the energy only up to a constant; without this term it may drift.

    References:
        | Implicit Generation and Modeling with Energy-Based Models (Du & Mordatch, 2019), Section 3.3

    Arguments:
        data: The energies of data, of shape (N,).
        samples: The energies of samples, of shape (M,).
    """
    return data.square().mean() + samples.square().mean()


def kale(data: Tensor, base: Tensor, log_z: Tensor) -> Tensor:
    r"""Minus the KL Approximate Lower-bound Estimator, in its Fenchel form.

    .. math:: \mathbb{E}_p [E + c] + \mathbb{E}_b [e^{-(E + c)}] - 1

    Maximised over :math:`c`, at :math:`c = \log \mathbb{E}_b e^{-E}`, it becomes :func:`donsker_varadhan`;
    maximised over :math:`E` too, at :math:`E = -\log dp/db`, its negative is :math:`\mathrm{KL}(p \| b)`.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Section 3.1
        | https://arxiv.org/abs/2003.05033

    Arguments:
        data: The energies of data, of shape (N,).
        base: The energies of samples of the base, of shape (M,).
        log_z: The amortised log-partition :math:`c`, of shape ().
    """
    return (data + log_z).mean() + torch.exp(-(base + log_z)).mean() - 1.0


def donsker_varadhan(data: Tensor, base: Tensor) -> Tensor:
    r"""Minus the Donsker-Varadhan bound on :math:`\mathrm{KL}(p \| b)`.

    .. math:: \mathbb{E}_p E + \log \mathbb{E}_b e^{-E}

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Section 3.1
        | https://arxiv.org/abs/2003.05033

    Arguments:
        data: The energies of data, of shape (N,).
        base: The energies of samples of the base, of shape (M,).
    """
    return data.mean() + log_mean_exp(-base)


def log_mean_exp(values: Tensor) -> Tensor:
    r"""The logarithm of a mean of exponentials, :math:`\log \frac{1}{n} \sum_i e^{v_i}`.

    Arguments:
        values: The exponents :math:`v_i`, of shape (n,).

    Returns:
        The logarithm, of shape ().
    """
    return torch.logsumexp(values, 0) - math.log(len(values))


def gradient_penalty(energy: Callable[[Tensor], Tensor], points: Tensor, norm: float) -> Tensor:
    r"""The mean squared distance of the gradient's norm from a given one.

    .. math:: \mathbb{E} \left( \| \nabla_x E(x) \|_2 - c \right)^2

    At points between data and samples with :math:`c = 1` it is the penalty of WGAN-GP, at data with
    :math:`c = 0` twice that of :math:`R_1`. It is differentiable in the network's weights.

    References:
        | Improved Training of Wasserstein GANs (Gulrajani et al., 2017), Section 4
        | Which Training Methods for GANs do actually Converge? (Mescheder et al., 2018), Section 4.1

    Arguments:
        energy: The energy, or the critic: (B, *) to (B,).
        points: The points, of shape (B, *).
        norm: The norm :math:`c`.

    Returns:
        The penalty, of shape ().
    """
    points = points.detach().requires_grad_()
    (slope,) = torch.autograd.grad(energy(points).sum(), points, create_graph=True)
    if norm == 0:  # the norm itself has no derivative where the gradient vanishes
        return slope.flatten(1).square().sum(1).mean()
    return (slope.flatten(1).norm(dim=1) - norm).square().mean()
