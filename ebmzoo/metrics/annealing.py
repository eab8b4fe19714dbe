r"""Annealed importance sampling of log Z: from below, and from above where the model can be sampled.

With a distribution :math:`r` as the prior, :math:`Z = \mathbb{E}_r e^{-E}`, and inverse temperatures
:math:`0 = \beta_0 < \dots < \beta_n = 1` lead from it to the model by way of

.. math:: \pi_k(u) \propto r(u) \, e^{-\beta_k E(u)}

A chain begins at :math:`u_0 \sim r`, and a kernel that leaves :math:`\pi_k` invariant takes it from
:math:`u_{k-1}` to :math:`u_k`. Then, for any such kernel,

.. math:: \log w = -\sum_{k=0}^{n-1} (\beta_{k+1} - \beta_k) \, E(u_k), \qquad \mathbb{E} \, w = Z

so the logarithm of the mean weight is too small on average. A chain that goes back from
:math:`u_{n-1} \sim \pi_n`, by the same kernels if they are reversible, has the weight :math:`1 / w`, whose
expectation is :math:`1 / Z`: minus the logarithm of its mean is too large on average. Both close in on
:math:`\log Z` as :math:`n` grows; :math:`n = 1` is plain importance sampling.

What :math:`Z` is does not depend on :math:`r`: it is the integral of :math:`\rho(u) e^{-E(g(u))}`. Over a
:class:`~ebmzoo.models.priors.Flat` prior that is :math:`\int e^{-E(u)} du`, and :math:`\rho = 1` is also what
the density of data takes it for, so that the likelihood is that of :math:`e^{-E} / Z`.

References:
    | Annealed importance sampling (Neal, 2001)
    | https://arxiv.org/abs/physics/9803008
    | Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani & Adams, 2015)
    | https://arxiv.org/abs/1511.02543
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError, positive, within
from ebmzoo.losses import log_mean_exp
from ebmzoo.metrics.likelihood import check_model
from ebmzoo.metrics.metric import Metric, Subject
from ebmzoo.models import Model, Normal, Prior, chunk_sizes, frozen, rebased
from ebmzoo.samplers import HMC, MALA, Chains, State, deriving_once, settle
from ebmzoo.samplers.diagnostics import observe
from ebmzoo.store import Recipe


@runtime_checkable
class Reference(Protocol):
    """The distribution that annealing begins at."""

    def law(self, model: Model) -> Prior:
        """Returns the distribution, with the shape and on the device of the model's prior."""
        ...


@dataclass(frozen=True)
class PriorReference:
    """The model's own prior; where that is flat, the normal distribution that its chains begin at."""

    def law(self, model: Model) -> Prior:
        """Returns the distribution that the prior draws from."""
        return model.prior.law()


@dataclass(frozen=True)
class NormalReference:
    r"""The normal distribution :math:`\mathcal{N}(0, s^2 I)`, whatever the prior, unless that is a box.

    Arguments:
        scale: The standard deviation :math:`s`: that of the model's samples, best, or somewhat more.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "scale")

    def law(self, model: Model) -> Prior:
        """Returns the distribution."""
        return Normal(model.prior.shape, self.scale).to(model.prior.anchor)


@dataclass(frozen=True)
class AnnealedPartition:
    r"""The log-partition by annealed importance sampling, too small on average.

    .. math:: \beta_k = \frac{1}{2} + \frac{\tanh(\delta (k / n - 1/2))}{2 \tanh(\delta / 2)}

    A likelihood looks better than it is by as much as the estimate is too small; :class:`AnnealingGap` says
    how much that may be. The kernel's step size decides how soon the bounds close, never whether they hold.

    A chain takes one gradient, and those of the kernel's steps at :math:`n - 1` temperatures; a change of
    temperature takes none.

    Arguments:
        chains: The number of chains, or weights.
        temperatures: The number :math:`n` of temperatures after the reference's infinite one.
        kernel: The kernel. It has to have a Metropolis test, or weights would not average to :math:`Z`.
        steps: How many steps it takes at each temperature.
        steepness: How much smaller steps of :math:`\beta` are at both ends than between them, the slope
            :math:`\delta` of the sigmoid. They are all but equal below 0.1.
        reference: The distribution :math:`r`.
        batch: How many chains move at once, which bounds the memory.
    """

    chains: int = 100
    temperatures: int = 1000
    kernel: MALA | HMC = HMC(0.1, 10)
    steps: int = 1
    steepness: float = 4.0
    reference: Reference = PriorReference()
    batch: int = 1000

    def __post_init__(self) -> None:
        positive(self, "chains", "temperatures", "steps", "steepness", "batch")
        within(self, "steepness", 0.0, 20.0)  # beyond, neighbours at the ends are equal
        if not isinstance(self.kernel, MALA | HMC):
            raise FieldError(self, "kernel", "a kernel with a Metropolis test, MALA or HMC")

    def betas(self) -> list[float]:
        r"""Returns :math:`\beta_0 = 0` to :math:`\beta_n = 1`."""
        half = 0.5 * self.steepness
        ends = math.tanh(half)
        places = [2 * k / self.temperatures - 1 for k in range(self.temperatures + 1)]
        return [0.5 + 0.5 * math.tanh(half * place) / ends for place in places]

    def log(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns an estimate of :math:`\log Z` that is too small on average, of shape ().

        Raises:
            ValueError: If a weight is not finite.
        """
        return log_mean_exp(self.log_weights(model, rng))

    def reverse(self, model: Model, points: Tensor, rng: Generator) -> Tensor:
        r"""Returns an estimate of :math:`\log Z` that is too large on average, of shape ().

        It is so only if the points are samples of the model. If they are data, or the ends of chains that did
        not find all of it, the estimate may be on either side; should the forward chains have missed the same
        part, both agree on a number that is too small.

        Arguments:
            model: The model.
            points: Independent samples :math:`u` of it, of shape (N, *), one for each chain.
            rng: The generator.

        Raises:
            ValueError: If a weight is not finite.
        """
        return -log_mean_exp(self.reverse_log_weights(model, points, rng))

    def log_weights(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns log-weights, of shape (chains,), of independent weights whose expectation is :math:`Z`."""
        model = rebased(model, self.reference.law(model))
        sizes = chunk_sizes(self.chains, self.batch)
        return torch.cat(
            [self._along(self.betas(), model, model.prior.draw(size, rng), rng) for size in sizes]
        )

    def reverse_log_weights(self, model: Model, points: Tensor, rng: Generator) -> Tensor:
        r"""Returns log-weights (N,), for samples (N, *), of weights whose expectation is :math:`1 / Z`."""
        model = rebased(model, self.reference.law(model))
        parts = points.to(model.prior.anchor).split(self.batch)
        return torch.cat([self._along(self.betas()[::-1], model, part, rng) for part in parts])

    @torch.no_grad()
    def _along(self, betas: Sequence[float], model: Model, position: Tensor, rng: Generator) -> Tensor:
        """Returns the log-weights (B,) of chains from ``position`` (B, *), in either direction."""
        with frozen(model), deriving_once(model.target()):
            state, last = self.kernel.init(position, model.target()), 1.0
            weights = (betas[0] - betas[1]) * _energy(state, model.prior, last)
            for beta, after in pairwise(betas[1:]):
                state, last = _at(beta / last, state, model.prior), beta
                target = model.target(beta)
                for _ in range(self.steps):
                    state, info = self.kernel.step(state, target, rng)
                    observe(state, info)
                weights += (beta - after) * _energy(state, model.prior, beta)
        return _checked(weights)


def _energy(state: State, prior: Prior, beta: float) -> Tensor:
    """Returns the energies (B,) of a state at an inverse temperature above zero, without evaluating them."""
    return (prior.log_prob(state.position).double() - state.log_prob.double()) / beta


def _at(ratio: float, state: State, prior: Prior) -> State:
    """Returns a state of a target as one of the target at ``ratio`` times its inverse temperature.

    Only the prior is evaluated; to evaluate the target would cost a gradient at every temperature.
    """
    u = state.position
    score = prior.plus_score(torch.zeros_like(u), u)
    return State(
        u,
        torch.lerp(prior.log_prob(u), state.log_prob, ratio),
        torch.lerp(score, state.score, ratio),
    )


def _checked(log_weights: Tensor) -> Tensor:
    wrong = int((~log_weights.isfinite()).sum())
    if wrong:
        raise ValueError(
            f"{wrong} of {len(log_weights)} annealed chains have no finite weight, since the energy or the "
            "prior is not finite where they were; chains from the reference may need a narrower one, "
            "AnnealedPartition.reference, and those from samples need samples that the model can make"
        )
    return log_weights


@dataclass(frozen=True)
class ReverseAnnealedPartition:
    r"""The log-partition by annealing from samples of the model to the reference, too large on average.

    It is so only as far as the chains' last states are samples of the model: exact where they are drawn from
    it, else a hope that long chains support. See :meth:`AnnealedPartition.reverse`.

    Arguments:
        sampler: The chains whose last states are annealed, at :math:`\beta = 1`. An empty schedule anneals
            the points that they begin at, such as data.
        annealing: The way from the reference to the model, which is gone back.
    """

    sampler: Chains
    annealing: AnnealedPartition = AnnealedPartition()

    def __post_init__(self) -> None:
        _check_sampler(self, self.sampler)

    def log(self, model: Model, rng: Generator) -> Tensor:
        r"""Returns the estimate of :math:`\log Z`, of shape ()."""
        return self.annealing.reverse(model, self._points(model, rng), rng)

    def _points(self, model: Model, rng: Generator) -> Tensor:
        sizes = chunk_sizes(self.annealing.chains, self.annealing.batch)
        with frozen(model):
            starts = [self.sampler.start.position(model, size, rng) for size in sizes]
            return torch.cat([settle(self.sampler.schedule, model.target(), start, rng) for start in starts])


@dataclass(frozen=True)
class AnnealingGap(Metric):
    r"""How far apart annealing from samples of the model and annealing from the reference put log Z, in nats.

    If the sampler draws from the model, the estimates have :math:`\log Z` between them on average, and the
    gap bounds how far off either is, and the likelihood that rests on it. If it does not, a large gap still
    says that something is wrong; but a small one says nothing of what neither direction has found, and the
    gap may be below zero.

    References:
        | Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), Section 4
        | https://arxiv.org/abs/1511.02543

    Arguments:
        sampler: The chains whose last states are annealed backwards.
        partition: The way from the reference to the model.
    """

    lower_is_better: ClassVar[bool] = True
    scores: ClassVar[Subject] = "model"
    sampler: Chains
    partition: AnnealedPartition = AnnealedPartition()

    def __post_init__(self) -> None:
        _check_sampler(self, self.sampler)

    @property
    def label(self) -> str:
        """The name that a table prints."""
        return "AIS gap"

    def value(
        self, subject: Any, /, data: Dataset, split: str, get: Callable[[Recipe], Any], rng: Generator
    ) -> float:
        """Returns the upper estimate less the lower one, in nats.

        Raises:
            FieldError: If samples are scored.
            ValueError: If a weight is not finite.
        """
        del data, split, get
        check_model(self, subject)
        upper = ReverseAnnealedPartition(self.sampler, self.partition).log(subject, rng)
        return float(upper - self.partition.log(subject, rng))

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the value."""
        return {"unit": "nats", "chains": self.partition.chains, "temperatures": self.partition.temperatures}


def _check_sampler(owner: object, sampler: Chains) -> None:
    """Raises FieldError, in the name of ``owner``, unless the chains' target is the model's own law."""
    if sampler.beta != 1:
        raise FieldError(owner, "sampler", "chains at beta = 1, the law whose log-partition is sought")
