"""Energies that only generalized energy-based models have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ebmzoo.energies import Energy
from ebmzoo.fields import FieldError
from ebmzoo.flows import Flow
from ebmzoo.generators import Generator


@runtime_checkable
class EnergyOverBase(Protocol):
    """An architecture of energies that know their base."""

    def over(self, shape: tuple[int, ...], base: nn.Module) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        ...


@runtime_checkable
class Offset(Protocol):
    """A number that is taken off an energy."""

    def value(self, flow: nn.Module) -> Tensor:
        """Returns the number, of shape ()."""
        ...


@dataclass(frozen=True)
class NoOffset:
    """Nothing is taken off."""

    def value(self, flow: nn.Module) -> Tensor:
        """Returns zero."""
        return next(flow.parameters()).new_zeros(())


@dataclass(frozen=True)
class ParameterOffset:
    r"""The sum of the mean absolute values of a network's parameters is taken off.

    It gives the log-partition, which is this number, something to be learnt. The energy's criterion does not
    depend on it where the log-partition is right.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), official code
    """

    def value(self, flow: nn.Module) -> Tensor:
        """Returns the number."""
        return torch.stack([parameter.abs().mean() for parameter in flow.parameters()]).sum()


@dataclass(frozen=True)
class DensityRatio:
    r"""Creates energies that are the ratio of the base's density to a flow's.

    .. math:: E(x) = \log b(x) - \log p_2(x) - o

    with the density :math:`b` of the base as it is at the time, that of a flow :math:`p_2` that learns, and
    an offset :math:`o`. The base's density cancels in the model's, :math:`b(x) e^{-E(x)} / Z = p_2(x)`, and
    :math:`\log Z = o`: so the likelihood of data is known exactly, whatever the energy learnt from.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), Section 5, density estimation

    Arguments:
        flow: The architecture of the flow :math:`p_2`.
        offset: The offset :math:`o`.
    """

    flow: Generator
    offset: Offset = NoOffset()

    def over(self, shape: tuple[int, ...], base: nn.Module) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,).

        Raises:
            ValueError: If flow or base is not a flow.
        """
        flow = self.flow.build(math.prod(shape), shape)
        for role, network in (("flow", flow), ("base", base)):
            if not isinstance(network, Flow):
                raise ValueError(
                    f"DensityRatio needs a flow, such as RealNVP, as its {role}, not {type(network).__name__}"
                )
        return RatioEnergy(flow, base, self.offset)


class RatioEnergy(nn.Module):
    """The energy that :class:`DensityRatio` creates.

    The base is no part of it: its parameters are neither saved nor learnt with this energy's.
    """

    def __init__(self, flow: nn.Module, base: nn.Module, offset: Offset):
        super().__init__()
        self.flow, self.offset = flow, offset
        self._base = (base,)  # in a tuple, so that it does not become a part

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        (base,) = self._base
        assert isinstance(base, Flow)
        return self.given(x, base.log_prob(x))

    def given(self, x: Tensor, log_base: Tensor) -> Tensor:
        """Returns energies of shape (B,), for data (B, *) and their log-densities (B,) under the base."""
        assert isinstance(self.flow, Flow)
        return log_base - self.flow.log_prob(x) - self.offset.value(self.flow)

    def log_partition(self) -> Tensor:
        """Returns the offset: the densities integrate to one."""
        return self.offset.value(self.flow)


def energies_of_data_and_samples(
    decoder: nn.Module, energy: nn.Module, x: Tensor, u: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the energies (N,) of data, the samples (M, *) that latents decode to, and their energies (M,).

    The energies have a graph; the samples have none. A flow knows the density of what it decodes;
    :class:`DensityRatio` needs it, and would have to go all the way back for it. Its energies of data and
    samples are those of one pass; another network's are not, since batch normalisation would mix them.

    Arguments:
        decoder: The base's decoder.
        energy: The energy.
        x: The data, of shape (N, *).
        u: The latents, of shape (M, *).
    """
    if not isinstance(energy, RatioEnergy) or not isinstance(decoder, Flow):
        data_energy = energy(x)
        with torch.no_grad():
            samples = decoder(u)
        return data_energy, samples, energy(samples)
    with torch.no_grad():
        samples, of_samples = decoder.decoded(u)
        of_data = decoder.log_prob(x)
    energies = energy.given(torch.cat([x, samples]), torch.cat([of_data, of_samples]))
    return energies[: len(x)], samples, energies[len(x) :]


@dataclass(frozen=True)
class TruncatedEnergy:
    r"""Creates energies that are never below a floor.

    .. math:: E'(x) = \max(E(x), -a)

    so that no sample's weight :math:`e^{-E}` is above :math:`e^{a}`. Below the floor it has no gradient.

    References:
        | Generalized Energy Based Models (Arbel, Zhou & Gretton, 2021), official code, unless ``no_trunc``

    Arguments:
        network: The architecture of the energy.
        floor: The floor :math:`-a`, below zero, where fresh energies are.
    """

    network: Energy
    floor: float = -10.0

    def __post_init__(self) -> None:
        if not self.floor < 0:
            raise FieldError(self, "floor", "a number below zero")

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        """Returns a network with fresh weights, from data (B, *shape) to energies (B,)."""
        return Truncated(self.network.energy(shape), self.floor)


class Truncated(nn.Module):
    """The energy that :class:`TruncatedEnergy` creates."""

    def __init__(self, energy: nn.Module, floor: float):
        super().__init__()
        self.energy, self.floor = energy, floor

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return self.energy(x).clamp(min=self.floor)
