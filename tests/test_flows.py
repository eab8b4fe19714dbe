"""Flows are invertible, their log-determinants are autograd's, and their densities integrate to one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebmzoo.flows import MADE, MAF, NSF, Flow, RealNVP

ARCHITECTURES = {
    "RealNVP": RealNVP(hidden=32),
    "RealNVP, 1 layer": RealNVP(layers=1, hidden=16),
    "RealNVP, 2 layers": RealNVP(layers=2, hidden=16, depth=1),
    "MADE": MADE(hidden=32),
    "MAF": MAF(transforms=2, hidden=32),
    "NSF": NSF(transforms=2, hidden=32),
}
SHAPES = [(2,), (3,), (11,), (15,), (22,), (43,), (1, 4, 4)]


def built(name: str, shape: tuple[int, ...], seed: int = 0) -> Flow:
    """Returns a flow in double precision whose weights were moved away from their start."""
    torch.manual_seed(seed)
    flow = ARCHITECTURES[name].build(math.prod(shape), shape).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return flow.requires_grad_(False)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inverse_undoes_the_flow(name: str, shape: tuple[int, ...]) -> None:
    flow = built(name, shape)
    u = torch.randn(50, math.prod(shape), dtype=torch.float64)
    x = flow(u)
    assert x.shape == (50, *shape)
    back, there = flow.inverse(x)
    _, forth = flow.push(u)
    torch.testing.assert_close(back, u, atol=1e-9, rtol=0)
    torch.testing.assert_close(there, -forth, atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inverse_to_single_precision(name: str, shape: tuple[int, ...]) -> None:
    flow = built(name, shape).float()
    u = torch.randn(200, math.prod(shape)).clamp_(-3, 3)
    assert float((flow.inverse(flow(u))[0] - u).abs().max()) < 1e-4
    assert float((flow.inverse(flow(u))[0] - u).abs().mean()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_log_determinant_is_that_of_autograd(name: str, shape: tuple[int, ...]) -> None:
    flow = built(name, shape)
    x = flow(torch.randn(3, math.prod(shape), dtype=torch.float64)).flatten(1)
    _, log_det = flow.pull(x)

    def one(point: Tensor) -> Tensor:
        return flow.pull(point[None])[0][0]

    for point, value in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(one, point)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], value, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_density_integrates_to_one(name: str) -> None:
    flow = built(name, (2,))
    width, count = 14.0, 1201
    line = torch.linspace(-width, width, count, dtype=torch.float64)
    density = flow.log_prob(torch.cartesian_prod(line, line)).exp()
    area = float(density.sum()) * (2 * width / (count - 1)) ** 2
    assert area == pytest.approx(1, abs=2e-3)


def test_untouched_flow_of_zero_networks_is_the_normal_law() -> None:
    flow = RealNVP().build(5, (5,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x), expected)


def test_coupling_equals_the_masked_form() -> None:
    """The form of the paper: b' = mask b + (1 - mask) (b e^s + t), with networks that see mask * b."""
    torch.manual_seed(0)
    flow = RealNVP(layers=3, hidden=8).build(5, (5,)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    moved, log_det, mask = x, torch.zeros(6, dtype=torch.float64), torch.arange(5) % 2
    for coupling in flow.couplings:
        given = moved[:, mask.bool()]
        scale, shift = torch.zeros_like(moved), torch.zeros_like(moved)
        scale[:, ~mask.bool()], shift[:, ~mask.bool()] = coupling.scale(given), coupling.shift(given)
        moved, log_det, mask = moved * scale.exp() + shift, log_det + scale.sum(1), 1 - mask
    u, found = flow.inverse(x)
    torch.testing.assert_close(u, moved)
    torch.testing.assert_close(found, log_det)


def test_first_weights_start_as_those_of_a_network_of_all_coordinates() -> None:
    torch.manual_seed(0)
    flow = RealNVP(hidden=2000).build(25, (25,))
    for coupling in flow.couplings:
        for network in (coupling.scale, coupling.shift):
            assert 0.19 < float(network[0].weight.detach().abs().max()) <= 0.2


@pytest.mark.parametrize("architecture", [RealNVP(), MAF(), MADE(), NSF()], ids=lambda a: type(a).__name__)
def test_latents_are_as_many_as_coordinates(architecture: RealNVP) -> None:
    with pytest.raises(ValueError, match="needs 6 latent variables, not 5"):
        architecture.build(5, (2, 3))


def test_one_coordinate_cannot_be_coupled() -> None:
    with pytest.raises(ValueError, match="two or more"):
        RealNVP().build(1, (1,))
