r"""The one object of this package: a prior, a decoder and an energy.

.. math:: \pi(u) \propto \rho(u) \, \exp(-\beta E(g(u)))

========================  ==============  =============  =====================================
method                    :math:`\rho`    :math:`g`      :math:`E`
========================  ==============  =============  =====================================
a base generator          N(0, I)         generator      none
DDLS                      N(0, I)         generator      minus the critic's logit
exponential tilting       N(0, I)         generator      a network
GEBM                      N(0, I)         generator      a network, learnt with log Z
pixel-space EBM           flat on a box   identity       a network
========================  ==============  =============  =====================================

Signs, once for the whole package: a low energy is a likely point; a critic's logit is :math:`-E`; losses are
minimised; :math:`\beta` is an *inverse* temperature and multiplies the energy only, never the prior.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

Target = Callable[[Tensor], Tensor]
"""An unnormalised log-density: a tensor of points of shape (B, *) to their log-densities (B,)."""


class Prior(nn.Module, ABC):
    r"""A distribution :math:`\rho` that can be drawn from and whose log-density is known.

    Arguments:
        shape: The shape of one point, without the batch.
    """

    anchor: Tensor

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # knows the device and the dtype

    @abstractmethod
    def log_prob(self, u: Tensor) -> Tensor:
        r"""Returns :math:`\log \rho(u)`, of shape (B,), for points of shape (B, *shape)."""

    @abstractmethod
    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""


class StandardNormal(Prior):
    r""":math:`\rho = \mathcal{N}(0, I)`."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,)."""
        constant = 0.5 * math.log(2 * math.pi) * math.prod(self.shape)
        return -0.5 * u.flatten(1).square().sum(1) - constant

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""
        return torch.randn(
            count, *self.shape, generator=rng, device=self.anchor.device, dtype=self.anchor.dtype
        )


class Box(Prior):
    r"""Flat on the box :math:`[l, h]^d`, normalised there; :math:`-\infty` outside.

    Arguments:
        shape: The shape of one point.
        low: The lower bound :math:`l` of every coordinate.
        high: The upper bound :math:`h`.
    """

    def __init__(self, shape: Sequence[int], low: float = -1.0, high: float = 1.0):
        super().__init__(shape)
        if not low < high:
            raise ValueError(f"a box should have low below high, not low={low} and high={high}")
        self.low, self.high = low, high

    def log_prob(self, u: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,). Their gradient is zero, so they carry no graph."""
        points = u.detach().flatten(1)
        inside = (points.clamp(self.low, self.high) == points).all(1)
        density = -math.log(self.high - self.low) * math.prod(self.shape)
        return inside.to(points.dtype).log_().add_(density)  # log 0 = -inf

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Returns ``count`` independent points, of shape (count, *shape)."""
        unit = torch.rand(
            count, *self.shape, generator=rng, device=self.anchor.device, dtype=self.anchor.dtype
        )
        return self.low + (self.high - self.low) * unit


class NoEnergy(nn.Module):
    """The energy of a base generator: zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns zeros of shape (B,) for data of shape (B, *)."""
        return x.flatten(1).sum(1) * 0.0


class Model(nn.Module):
    r"""A prior :math:`\rho`, a decoder :math:`g` and an energy :math:`E`.

    Convolution weights are laid out channels-last, which makes gradients of the energy up to 1.3 times faster
    on a CPU and changes no value beyond float rounding.

    Arguments:
        prior: The prior over the variable :math:`u` that is sampled.
        decoder: The map from :math:`u` (B, *) to data :math:`x` (B, *).
        energy: The map from data (B, *) to energies (B,).
        chains: Points (N, *) from which chains may go on, such as a replay buffer. Saved with the model.
    """

    chains: Tensor | None

    def __init__(self, prior: Prior, decoder: nn.Module, energy: nn.Module, chains: Tensor | None = None):
        super().__init__()
        self.prior = prior
        self.decoder = decoder.to(memory_format=torch.channels_last)
        self.energy = energy.to(memory_format=torch.channels_last)
        self.register_buffer("chains", chains)
        self.compiled = False

    def target(self, beta: float = 1.0) -> Target:
        r"""Returns :math:`u \mapsto \log \rho(u) - \beta E(g(u))`.

        Arguments:
            beta: The inverse temperature :math:`\beta` of the energy.
        """
        return CompiledTarget(self, beta) if self.compiled else Tilted(self, beta)


class Tilted:
    r"""The target :math:`\log \rho(u) - \beta E(g(u))` of a model."""

    def __init__(self, model: Model, beta: float):
        self.model, self.beta = model, beta

    def __call__(self, u: Tensor) -> Tensor:
        """Returns the values, of shape (B,), for points of shape (B, *).

        Raises:
            ValueError: If the energy does not give one number for each point, which would couple the chains.
        """
        return torch.sub(*_terms(self.model, u), alpha=self.beta)


def _terms(model: Model, u: Tensor) -> tuple[Tensor, Tensor]:
    log_prior, energy = model.prior.log_prob(u), model.energy(model.decoder(u))
    if energy.shape != log_prior.shape:
        expected, found = tuple(log_prior.shape), tuple(energy.shape)
        raise ValueError(f"an energy should return one number for each point, {expected}, not {found}")
    return log_prior, energy


class CompiledTarget:
    r"""The same target, with its value and gradient in one graph made by ``torch.compile``.

    The first call on a shape takes some 25 s on a CPU; PyTorch keeps the generated code on disk, so a later
    process starts faster. Models of one architecture share their graphs, whatever their weights and
    :math:`\beta`, as long as chains run in :func:`frozen`. Values agree with :class:`Tilted` up to float
    rounding.
    """

    def __init__(self, model: Model, beta: float):
        self.eager = Tilted(model, beta)
        self.beta = model.prior.anchor.new_tensor(beta)  # a number would be built into the graph

    def __call__(self, u: Tensor) -> Tensor:
        """Returns the values, of shape (B,), for points of shape (B, *)."""
        return self.eager(u)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the values (B,) and their gradients (B, *)."""
        return _compiled_value_and_grad(self.eager.model, self.beta, u)


def _functional_value_and_grad(model: Model, beta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    def total(u: Tensor) -> tuple[Tensor, Tensor]:
        log_prior, energy = _terms(model, u)
        value = log_prior - beta * energy
        return value.sum(), value

    gradient, (_, value) = torch.func.grad_and_value(total, has_aux=True)(u)
    return value, gradient


_compiled: dict[str, Callable[[Model, Tensor, Tensor], tuple[Tensor, Tensor]]] = {}


def _compiled_value_and_grad(model: Model, beta: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    if "graph" not in _compiled:  # importing the compiler takes seconds, so only who asks for it pays
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        _compiled["graph"] = torch.compile(_functional_value_and_grad, dynamic=False)
    with torch.no_grad():  # one graph, whether or not the caller records gradients
        return _compiled["graph"](model, beta, u.detach())


def value_and_grad(target: Target, u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`\log \pi(u)`, of shape (B,), and its gradient in :math:`u`, of shape (B, *).

    Each entry of the batch is a chain of its own: no chain's gradient depends on another's position. No
    parameter's ``.grad`` is filled, and neither result carries a graph.

    Arguments:
        target: The log-density.
        u: The points :math:`u`, of shape (B, *).
    """
    _count(gradients=u.shape[0])
    if isinstance(target, CompiledTarget):
        return target.value_and_grad(u)
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = target(u)
        if not value.requires_grad:  # flat, as a box is by itself
            return value, torch.zeros_like(u, requires_grad=False)
        (gradient,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), gradient


@torch.no_grad()
def decoded(model: Model, u: Tensor, chunk: int = 1000) -> Tensor:
    """Returns the data that points (N, *) decode to, a chunk at a time."""
    _count(decodings=len(u))
    return torch.cat([model.decoder(part) for part in u.split(chunk)])


@torch.no_grad()
def evaluated(model: Model, u: Tensor, chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """Returns the data that points (N, *) decode to and their energies, of shape (N,), a chunk at a time."""
    _count(energies=len(u))
    data = [model.decoder(part) for part in u.split(chunk)]
    return torch.cat(data), torch.cat([model.energy(part) for part in data])


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Keeps gradients from reaching any parameter of ``modules``, and puts the flags back at the end.

    A chain inside a training step runs in it: the gradient in ``u`` is then all that is computed.
    """
    thawed = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in thawed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Puts all of a model in evaluation mode, and each of its parts back into its own mode at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass
class Evaluations:
    """How often a model was evaluated, one for each point.

    Arguments:
        gradients: Gradients of a target: decoder and energy, forwards and backwards.
        energies: Energies without a gradient: decoder and energy, forwards.
        decodings: Passes through the decoder alone.
    """

    gradients: int = 0
    energies: int = 0
    decodings: int = 0

    def __add__(self, other: Evaluations) -> Evaluations:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Evaluations(*(a + b for a, b in pairs))


_counts: ContextVar[tuple[Evaluations, ...]] = ContextVar("evaluation counts", default=())


def _count(gradients: int = 0, energies: int = 0, decodings: int = 0) -> None:
    for counter in _counts.get():
        counter.gradients += gradients
        counter.energies += energies
        counter.decodings += decodings


@contextmanager
def counting_evaluations() -> Iterator[Evaluations]:
    """Counts what :func:`value_and_grad`, :func:`evaluated` and :func:`decoded` do in this block."""
    counter = Evaluations()
    token = _counts.set((*_counts.get(), counter))
    try:
        yield counter
    finally:
        _counts.reset(token)
