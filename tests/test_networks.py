"""Every architecture of decoders and energies: shapes, sizes, and rows that know nothing of one another."""

from __future__ import annotations

import dataclasses
import math
import re
from types import ModuleType

import pytest
import torch
from torch import nn

from ebmzoo import energies, generators
from ebmzoo.energies import ConvEnergy, Energy, FlowEnergy, MLPEnergy, ResidualEnergy, SmoothMLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.flows import RealNVP
from ebmzoo.generators import ConvGenerator, Generator, MLPGenerator

SMALL = {
    MLPEnergy: MLPEnergy(16, 2),
    SmoothMLPEnergy: SmoothMLPEnergy(16, 2),
    ConvEnergy: ConvEnergy(4),
    ResidualEnergy: ResidualEnergy((4, 6), 2),
    MLPGenerator: MLPGenerator(16, 2),
    ConvGenerator: ConvGenerator(4),
    FlowEnergy: FlowEnergy(RealNVP(2, 8, 1)),
}
"""Small settings of the architectures whose defaults are large."""


def architectures(module: ModuleType) -> list:
    """One value of every frozen dataclass that a module defines."""
    kinds = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    ]
    assert kinds
    return [SMALL[kind] if kind in SMALL else kind() for kind in kinds]


every_energy = pytest.mark.parametrize("architecture", architectures(energies), ids=str)
every_generator = pytest.mark.parametrize("architecture", architectures(generators), ids=str)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@every_energy
def test_energies_are_one_number_a_point(architecture):
    assert isinstance(architecture, Energy)
    for shape in [(1, 8, 8), (3, 16, 12)]:
        network = architecture.energy(shape)
        for count in [1, 5]:
            assert network(torch.randn(count, *shape)).shape == (count,)


def test_the_gradient_of_a_smooth_energy_is_continuous():
    """Along a line of small steps it changes by small steps; with rectifiers it jumps."""
    torch.manual_seed(0)
    line = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    jumps = []
    for architecture in (SmoothMLPEnergy(16, 2), MLPEnergy(16, 2)):
        x = torch.stack([line, 0.3 * line], 1).requires_grad_()
        (slope,) = torch.autograd.grad(architecture.energy((2,)).double()(x).sum(), x)
        jumps.append(float(slope.diff(dim=0).abs().max() / slope.abs().max()))
    assert jumps[0] < 1e-2 < jumps[1]


@every_generator
def test_generators_make_data(architecture):
    assert isinstance(architecture, Generator)
    for latent, shape in [(2, (1, 8, 8)), (5, (3, 16, 12))]:
        network = architecture.build(latent, shape)
        for count in [1, 5]:
            assert network(torch.randn(count, latent)).shape == (count, *shape)


@pytest.mark.parametrize("shape", [(2,), (1, 5), (3, 4, 4)])
def test_fully_connected_networks_take_any_shape(shape: tuple[int, ...]):
    assert MLPEnergy(8, 1).energy(shape)(torch.randn(3, *shape)).shape == (3,)
    assert MLPGenerator(8, 1).build(2, shape)(torch.randn(3, 2)).shape == (3, *shape)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [(ConvEnergy(4), (1, 1, 1)), (ConvEnergy(4), (1, 7, 9)), (ConvEnergy(4), (3, 28, 28))],
)
def test_plain_convolutions_take_images_of_any_size(architecture, shape: tuple[int, ...]):
    assert architecture.energy(shape)(torch.randn(2, *shape)).shape == (2,)


def test_images_of_convolutional_generators_are_in_their_range():
    images = ConvGenerator(4).build(2, (1, 8, 8))(100 * torch.randn(50, 2))
    assert images.abs().max() <= 1
    assert images.abs().max() > 0.5


@every_energy
def test_a_row_has_the_energy_that_it_has_alone(architecture):
    torch.manual_seed(0)
    network = architecture.energy((1, 8, 8))
    batch = torch.randn(6, 1, 8, 8)
    other = batch.clone()
    other[1:] = torch.randn(5, 1, 8, 8)
    values = network(batch)
    assert torch.equal(network(other)[0], values[0])
    assert not torch.equal(network(other)[1:], values[1:])
    torch.testing.assert_close(network(batch[:1])[0], values[0])
    torch.testing.assert_close(network(batch.flip(0)), values.flip(0))
    assert values.std() > 0


@every_generator
def test_a_row_is_decoded_as_it_is_alone(architecture):
    torch.manual_seed(0)
    network = architecture.build(3, (1, 8, 8))
    batch = torch.randn(6, 3)
    other = batch.clone()
    other[1:] = torch.randn(5, 3)
    values = network(batch)
    assert torch.equal(network(other)[0], values[0])
    torch.testing.assert_close(network(batch[:1])[0], values[0])
    torch.testing.assert_close(network(batch.flip(0)), values.flip(0))


@every_energy
def test_fresh_energies_differ_and_seeds_repeat(architecture):
    def built(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return architecture.energy((1, 8, 8))

    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(built(1)(x), built(1)(x))
    assert not torch.equal(built(1)(x), built(2)(x))


# Sizes


def conv(inputs: int, outputs: int, side: int) -> int:
    """The weights and biases of a convolution."""
    return (inputs * side**2 + 1) * outputs


def block(inputs: int, outputs: int) -> int:
    """Two 3×3 convolutions, and a 1×1 convolution beside them where channels change."""
    skip = 0 if inputs == outputs else conv(inputs, outputs, 1)
    return conv(inputs, outputs, 3) + conv(outputs, outputs, 3) + skip


def test_the_size_of_the_residual_energy_of_the_paper():
    """Three blocks of 64 channels, three of 128, and one number from 128 sums."""
    first = 3 * block(64, 64)
    second = block(64, 128) + 2 * block(128, 128)
    expected = conv(1, 64, 3) + first + second + (128 + 1)
    assert expected == 1_042_433
    assert size(ResidualEnergy().energy((1, 28, 28))) == expected
    assert size(ResidualEnergy().energy((3, 32, 32))) == expected + 2 * 64 * 9


def test_the_size_of_other_residual_energies():
    expected = conv(3, 4, 3) + block(4, 4) + block(4, 6) + block(6, 6) + 6 + 1
    assert size(ResidualEnergy((4, 6, 6), 1).energy((3, 16, 16))) == expected


@pytest.mark.parametrize(("side", "halvings"), [(7, 0), (8, 1), (28, 2), (32, 3)])
def test_the_size_of_the_plain_convolutional_energy(side: int, halvings: int):
    widths = [64 * 2**k for k in range(halvings + 1)]
    inner = sum(conv(width, 2 * width, 4) for width in widths[:-1])
    expected = conv(1, 64, 3) + inner + conv(widths[-1], 1, 1)
    assert size(ConvEnergy().energy((1, side, side))) == expected


def test_the_size_of_fully_connected_networks():
    assert size(MLPEnergy().energy((2,))) == 3 * 512 + 2 * 513 * 512 + 513
    assert size(MLPGenerator().build(2, (2,))) == 3 * 256 + 2 * 257 * 256 + 257 * 2
    assert size(MLPEnergy(10, 1).energy((1, 4, 4))) == 17 * 10 + 11


def test_the_size_of_the_convolutional_generator():
    channels, latent = 64, 100
    first = (latent + 1) * 2 * channels * 49
    transposed = (2 * channels * 16 + 0) * channels + channels, channels * 16 * 1 + 1
    assert size(ConvGenerator().build(latent, (1, 28, 28))) == first + sum(transposed)


def test_the_residual_energy_is_its_formula():
    """One channel, filters that see their centre only: pixels are apart until each four are averaged."""
    network = ResidualEnergy((1,), 1, slope=0.5).energy((1, 4, 4)).double()
    stem, residual, *_, linear, _ = network
    (conv1, conv2) = (layer for layer in residual.residual if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        for layer, weight, bias in [(stem, 1.0, 0.0), (conv1, -2.0, 1.0), (conv2, 3.0, 0.5)]:
            layer.weight.zero_()[..., 1, 1] = weight
            layer.bias.fill_(bias)
        linear.weight.fill_(2.0)
        linear.bias.fill_(0.25)

    def leaky(value: float) -> float:
        return max(value, 0.5 * value)

    def after(h: float) -> float:
        return h + 3 * leaky(-2 * leaky(h) + 1) + 0.5

    image = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fours = [image[i : i + 2, j : j + 2].flatten().tolist() for i in (0, 2) for j in (0, 2)]
    sums = sum(leaky(sum(after(h) for h in four) / 4) for four in fours)
    assert float(network(image.view(1, 1, 4, 4)).detach()) == pytest.approx(2 * sums + 0.25)


def test_the_plain_convolutional_energy_sums_over_pixels():
    """With filters that see their centre only, an image has the energy of all its pixels together."""
    network = ConvEnergy(1, slope=0.5).energy((1, 2, 3)).double()
    first, last = (layer for layer in network if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        first.weight.zero_()[..., 1, 1] = -2.0
        first.bias.fill_(0.5)
        last.weight.fill_(3.0)
        last.bias.fill_(0.25)
    pixels = [1.0, -1.0, 0.3, 2.0, 0.0, -0.5]
    expected = sum(3 * max(h, 0.5 * h) + 0.25 for h in (0.5 - 2 * pixel for pixel in pixels))
    found = network(torch.tensor(pixels, dtype=torch.float64).view(1, 1, 2, 3))
    assert float(found.detach()) == pytest.approx(expected)


# Errors


@pytest.mark.parametrize("architecture", [ConvEnergy(4), ResidualEnergy((4,), 1)], ids=str)
@pytest.mark.parametrize("shape", [(2,), (8, 8), (1, 1, 8, 8), ()])
def test_energies_of_images_refuse_other_data(architecture, shape: tuple[int, ...]):
    name = type(architecture).__name__
    with pytest.raises(ValueError, match=f"{name} is for images .* not .* {re.escape(str(shape))}"):
        architecture.energy(shape)


@pytest.mark.parametrize("shape", [(2,), (8, 8), (1, 7, 8), (1, 8, 30), (1, 1, 8, 8)])
def test_generators_of_images_refuse_other_data(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=f"multiples of four, not data of shape {re.escape(str(shape))}"):
        ConvGenerator(4).build(2, shape)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: MLPEnergy(hidden=0), "MLPEnergy.hidden"),
        (lambda: MLPEnergy(depth=0), "MLPEnergy.depth"),
        (lambda: MLPEnergy(slope=-0.1), "MLPEnergy.slope"),
        (lambda: MLPEnergy(slope=math.nan), "MLPEnergy.slope"),
        (lambda: ConvEnergy(channels=0), "ConvEnergy.channels"),
        (lambda: ConvEnergy(slope=-1.0), "ConvEnergy.slope"),
        (lambda: ResidualEnergy(groups=()), "ResidualEnergy.groups"),
        (lambda: ResidualEnergy(groups=(4, 0)), "ResidualEnergy.groups"),
        (lambda: ResidualEnergy(blocks=0), "ResidualEnergy.blocks"),
        (lambda: ResidualEnergy(slope=-1.0), "ResidualEnergy.slope"),
        (lambda: MLPGenerator(hidden=-3), "MLPGenerator.hidden"),
        (lambda: MLPGenerator(depth=0), "MLPGenerator.depth"),
        (lambda: MLPGenerator(slope=-1.0), "MLPGenerator.slope"),
        (lambda: ConvGenerator(channels=0), "ConvGenerator.channels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_out_of_range(make, field: str):
    with pytest.raises(FieldError, match=f"^{re.escape(field)} should be "):
        make()
