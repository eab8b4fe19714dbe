"""How a model is evaluated: gradients, energies and decodings, each counted, with its parts held still."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmzoo.models.model import InGraph, Model, Target, Tilted


def value_and_grad(target: Target, u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`\log \pi(u)`, of shape (B,), and its gradient in :math:`u`, of shape (B, *).

    Each entry of the batch is a chain of its own: no chain's gradient depends on another's position. No
    parameter's ``.grad`` is filled, and neither result carries a graph.

    Arguments:
        target: The log-density.
        u: The points :math:`u`, of shape (B, *).
    """
    if isinstance(target, InGraph):  # in the making of a graph, where nothing is counted
        return target.value_and_grad(u)
    count(gradients=u.shape[0])
    if isinstance(target, Tilted):
        return target.value_and_grad(u)
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = target(u)
        if not value.requires_grad:  # flat, as the density of a box is
            return value, torch.zeros_like(u, requires_grad=False)
        (gradient,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), gradient


def chunk_sizes(count: int, chunk: int) -> list[int]:
    """Returns how many of ``count`` points each chunk of at most ``chunk`` has."""
    return [min(chunk, count - done) for done in range(0, count, chunk)]


def in_chunks(network: Callable[[Tensor], Tensor], points: Tensor, chunk: int = 1000) -> Tensor:
    """Returns what a network makes of points (N, *), evaluated a chunk at a time to bound memory."""
    return torch.cat([network(part) for part in points.split(chunk)])


@torch.no_grad()
def decoded(model: Model, u: Tensor, chunk: int = 1000) -> Tensor:
    """Returns the data that points (N, *) decode to, a chunk at a time."""
    count(decodings=len(u))
    return in_chunks(model.decoder, u, chunk)


@torch.no_grad()
def evaluated(model: Model, u: Tensor, chunk: int = 1000) -> tuple[Tensor, Tensor]:
    """Returns the data that points (N, *) decode to and their energies, of shape (N,), a chunk at a time."""
    count(energies=len(u))
    data = [model.decoder(part) for part in u.split(chunk)]
    return torch.cat(data), torch.cat([model.energy(part) for part in data])


@torch.no_grad()
def check_makes(model: Model, shape: tuple[int, ...], who: str) -> None:
    """Raises ValueError, in the name of ``who``, unless a model decodes to data of a shape.

    Arguments:
        model: The model, as a base of another.
        shape: The shape of one datum of what the other is to learn from.
        who: The method that was given the base.
    """
    with evaluating(model.decoder):
        made = tuple(model.decoder(model.prior.anchor.new_zeros(1, *model.prior.shape)).shape[1:])
    if made != tuple(shape):
        raise ValueError(
            f"{who} was given data of shape {tuple(shape)}, and a base that makes data of shape {made}; bind "
            "Trained.base and Trained.data to models and data of one shape"
        )


@torch.no_grad()
def check_energies(model: Model) -> None:
    """Raises ValueError unless a batch of B data has B energies, and not (B, 1), which is soon broadcast."""
    with evaluating(model):
        u = model.prior.anchor.new_zeros(2, *model.prior.shape)
        found = tuple(model.energy(model.decoder(u)).shape)
    if found != (2,):
        raise ValueError(
            f"{type(model.energy).__name__} should return energies of shape (B,), and returned {found} for "
            "two data"
        )


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
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model, or a part of one, in evaluation mode, and each module back into its own at the end."""
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


def count(gradients: int = 0, energies: int = 0, decodings: int = 0) -> None:
    """Counts evaluations of single points in every enclosing :func:`counting_evaluations`."""
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
