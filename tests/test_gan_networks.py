"""The networks of DCGAN and SNGAN: the papers' sizes, their formulas, and what a pass may change."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ebmzoo.energies import Energy
from ebmzoo.fields import FieldError
from ebmzoo.generators import Generator
from ebmzoo.models import Model, StandardNormal, value_and_grad
from ebmzoo_bases.dcgan import DCGANEncoder, DCGANEnergy, DCGANGenerator
from ebmzoo_bases.sngan import (
    SNGANConvEnergy,
    SNGANConvGenerator,
    SNGANResNetEnergy,
    SNGANResNetGenerator,
)

GENERATORS = [DCGANGenerator(4), DCGANGenerator(4, kernel=4), SNGANConvGenerator(4), SNGANResNetGenerator(8)]
NORMALISED = [SNGANConvEnergy(4), SNGANConvEnergy(4, widen_early=True), SNGANResNetEnergy(8)]
ENERGIES = [DCGANEnergy(4), DCGANEnergy(4, kernel=4), *NORMALISED]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 16, 12)]
LATENT = 5

every_generator = pytest.mark.parametrize("architecture", GENERATORS, ids=str)
every_energy = pytest.mark.parametrize("architecture", ENERGIES, ids=str)
every_normalised_energy = pytest.mark.parametrize("architecture", NORMALISED, ids=str)
every_network = pytest.mark.parametrize("architecture", GENERATORS + ENERGIES, ids=str)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def built(architecture, shape: tuple[int, ...]) -> tuple[nn.Module, tuple[int, ...]]:
    """Returns a network that has seen a few batches, in evaluation mode, and the shape of its input."""
    torch.manual_seed(0)
    if isinstance(architecture, Energy):
        network, inputs = architecture.energy(shape), shape
    else:
        network, inputs = architecture.build(LATENT, shape), (LATENT,)
    for _ in range(3):
        network(torch.randn(6, *inputs))
    return network.eval(), inputs


def state(network: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(network.state_dict())


def changed(network: nn.Module, before: dict[str, Tensor]) -> list[str]:
    return [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# Shapes


@every_generator
@every_shape
def test_generators_make_images(architecture, shape: tuple[int, ...]):
    assert isinstance(architecture, Generator)
    network, _ = built(architecture, shape)
    for count in (1, 5):
        images = network(100 * torch.randn(count, LATENT))
        assert images.shape == (count, *shape)
        assert images.abs().max() <= 1
        assert images.std() > 0


@every_energy
@every_shape
def test_energies_are_one_number_an_image(architecture, shape: tuple[int, ...]):
    assert isinstance(architecture, Energy)
    network, _ = built(architecture, shape)
    for count in (1, 5):
        assert network(torch.randn(count, *shape)).shape == (count,)


@pytest.mark.parametrize(
    ("side", "coarsest"), [(8, 4), (12, 6), (28, 7), (30, 15), (32, 4), (48, 6), (64, 4)], ids=str
)
def test_images_begin_at_the_coarsest_resolution(side: int, coarsest: int):
    for architecture in GENERATORS:
        [start] = [
            layer for layer in architecture.build(2, (1, side, side)) if isinstance(layer, nn.Unflatten)
        ]
        assert start.unflattened_size[1:] == (coarsest, coarsest)


@every_network
def test_seeds_repeat(architecture):
    first, inputs = built(architecture, (1, 8, 8))
    x = torch.randn(3, *inputs)
    again, _ = built(architecture, (1, 8, 8))
    assert torch.equal(again(x), first(x))


# Sizes, from the papers' tables


def conv(inputs: int, outputs: int, side: int) -> int:
    """The weights and biases of a convolution."""
    return (inputs * side**2 + 1) * outputs


def test_the_size_of_dcgan():
    """Figure 1 of the paper, with filters of 5×5, no biases and two numbers for each that is normalised."""
    first = 100 * 4 * 4 * 1024 + 2 * 4 * 4 * 1024
    rest = 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + 2 * (512 + 256 + 128)
    assert size(DCGANGenerator().build(100, (3, 64, 64))) == first + rest == 18_885_760
    layers = 25 * (3 * 128 + 128 * 256 + 256 * 512 + 512 * 1024) + 2 * (256 + 512 + 1024)
    assert size(DCGANEnergy().energy((3, 64, 64))) == layers + 4 * 4 * 1024 == 17_232_768


def test_the_size_of_dcgan_for_other_images():
    generator = (10 + 2) * 7 * 7 * 128 + 16 * (128 * 64 + 64 * 1) + 2 * 64
    assert size(DCGANGenerator(64, kernel=4).build(10, (1, 28, 28))) == generator
    energy = 16 * (1 * 64 + 64 * 128) + 2 * 128 + 7 * 7 * 128
    assert size(DCGANEnergy(64, kernel=4).energy((1, 28, 28))) == energy
    assert size(DCGANEnergy(64, kernel=4).energy((1, 8, 8))) == 16 * 64 + 4 * 4 * 64


@pytest.mark.parametrize("channels", [8, 64])
def test_outputs_of_a_fresh_dcgan_encoder_are_as_large_at_every_width(channels):
    """Of n normalised features, rectified with slope 0.2, each with a weight of variance 1 / 3n."""
    torch.manual_seed(0)
    outputs = DCGANEncoder(channels).encoder((1, 28, 28), 200)(torch.randn(64, 1, 28, 28))
    assert outputs.square().mean().sqrt().item() == pytest.approx(math.sqrt((1 + 0.2**2) / 2 / 3), rel=0.05)


def test_the_size_of_the_generator_of_table_3():
    dense = (128 + 1) * 4 * 4 * 512 + 2 * 4 * 4 * 512
    doublings = conv(512, 256, 4) + conv(256, 128, 4) + conv(128, 64, 4)
    last = conv(64, 3, 3)
    normalised = 2 * (256 + 128 + 64)
    expected = dense + doublings + normalised + last
    assert size(SNGANConvGenerator().build(128, (3, 32, 32))) == expected == 3_828_739


def test_the_size_of_the_discriminator_of_table_3():
    fine = conv(3, 64, 3) + conv(64, 64, 4) + conv(64, 128, 3) + conv(128, 128, 4)
    coarse = conv(128, 256, 3) + conv(256, 256, 4) + conv(256, 512, 3)
    expected = fine + coarse + 4 * 4 * 512 + 1
    assert size(SNGANConvEnergy().energy((3, 32, 32))) == expected == 2_935_873


def test_the_size_of_the_discriminator_of_the_authors_code():
    fine = conv(3, 64, 3) + conv(64, 128, 4) + conv(128, 128, 3) + conv(128, 256, 4)
    coarse = conv(256, 256, 3) + conv(256, 512, 4) + conv(512, 512, 3)
    expected = fine + coarse + 4 * 4 * 512 + 1
    assert size(SNGANConvEnergy(widen_early=True).energy((3, 32, 32))) == expected == 5_860_865


def test_the_size_of_table_3_for_other_images():
    dense = (10 + 2 + 1) * 7 * 7 * 256
    rest = conv(256, 128, 4) + conv(128, 64, 4) + 2 * (128 + 64) + conv(64, 1, 3)
    assert size(SNGANConvGenerator().build(10, (1, 28, 28))) == dense + rest
    layers = conv(1, 64, 3) + conv(64, 64, 4) + conv(64, 128, 3) + conv(128, 128, 4) + conv(128, 256, 3)
    assert size(SNGANConvEnergy().energy((1, 28, 28))) == layers + 7 * 7 * 256 + 1
    small = conv(1, 64, 3) + conv(64, 64, 4) + conv(64, 128, 3)
    assert size(SNGANConvEnergy().energy((1, 8, 8))) == small + 4 * 4 * 128 + 1


def test_the_size_of_the_generator_of_table_4():
    block = 2 * conv(256, 256, 3) + conv(256, 256, 1) + 2 * 2 * 256
    expected = (128 + 1) * 4 * 4 * 256 + 3 * block + 2 * 256 + conv(256, 3, 3)
    assert size(SNGANResNetGenerator().build(128, (3, 32, 32))) == expected == 4_276_739
    small = (10 + 1) * 4 * 4 * 256 + block + 2 * 256 + conv(256, 1, 3)
    assert size(SNGANResNetGenerator().build(10, (1, 8, 8))) == small


def test_the_size_of_the_discriminator_of_table_4():
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    second = 2 * conv(128, 128, 3) + conv(128, 128, 1)
    others = 2 * 2 * conv(128, 128, 3)
    expected = first + second + others + 128
    assert size(SNGANResNetEnergy().energy((3, 32, 32))) == expected == 1_053_824
    grey = expected - 2 * 128 * (3 * 3 + 1)
    assert size(SNGANResNetEnergy().energy((1, 28, 28))) == grey
    assert size(SNGANResNetEnergy().energy((1, 8, 8))) == grey - conv(128, 128, 1)


# Formulas


def layers(network: nn.Module, *kinds: type[nn.Module]) -> list:
    return [layer for layer in network.modules() if isinstance(layer, kinds)]


def normalised(x: Tensor, layer: nn.Module) -> Tensor:
    """What a batch norm makes of images, from its running statistics."""
    mean, deviation = layer.running_mean, (layer.running_var + layer.eps).sqrt()
    scaled = (x - mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)
    return scaled * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)


def test_the_residual_generator_is_that_of_table_4():
    """In the authors' order, which doubles the resolution before the convolution of the shortcut."""
    network, _ = built(SNGANResNetGenerator(4), (2, 8, 8))
    network = network.double()
    c1, c2, c0, last = layers(network, nn.Conv2d)
    b1, b2, b3 = layers(network, nn.BatchNorm2d)
    [dense] = layers(network, nn.Linear)
    with torch.no_grad():
        for layer in (c0, c1, c2, last, dense, b1, b2, b3):
            layer.bias.normal_()
    z = torch.randn(3, LATENT, dtype=torch.float64)

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = (z @ dense.weight.T + dense.bias).view(3, 4, 4, 4)
    residual = F.conv2d(doubled(normalised(h, b1).relu()), c1.weight, c1.bias, padding=1)
    residual = F.conv2d(normalised(residual, b2).relu(), c2.weight, c2.bias, padding=1)
    h = residual + F.conv2d(doubled(h), c0.weight, c0.bias)
    expected = F.conv2d(normalised(h, b3).relu(), last.weight, last.bias, padding=1).tanh()
    torch.testing.assert_close(network(z), expected)


def test_a_residual_discriminator_that_averages_has_the_mean_for_the_sum():
    network, _ = built(SNGANResNetEnergy(4), (2, 16, 16))
    averaging, _ = built(SNGANResNetEnergy(4, averages=True), (2, 16, 16))
    averaging.load_state_dict({key.replace("5.0", "5"): value for key, value in network.state_dict().items()})
    x = torch.randn(3, 2, 16, 16)
    torch.testing.assert_close(averaging.eval()(x) * 4 * 4, network.eval()(x))


def test_the_residual_discriminator_is_that_of_table_4():
    """In the authors' order, which averages after the convolution of the second block's shortcut."""
    network, _ = built(SNGANResNetEnergy(4), (2, 16, 16))
    network = network.double()
    a1, a2, a0, b1, b2, b0, c1, c2, d1, d2 = convolutions = layers(network, nn.Conv2d)
    [dense] = layers(network, nn.Linear)
    with torch.no_grad():
        for layer in convolutions:
            layer.bias.normal_()
    x = torch.randn(3, 2, 16, 16, dtype=torch.float64)

    def by(layer: nn.Module, h: Tensor) -> Tensor:
        padding = layer.weight.shape[-1] // 2
        return F.conv2d(h, layer.weight, layer.bias, padding=padding)

    def halved(h: Tensor) -> Tensor:
        return F.avg_pool2d(h, 2)

    h = halved(by(a2, by(a1, x).relu())) + by(a0, halved(x))
    h = halved(by(b2, by(b1, h.relu()).relu())) + halved(by(b0, h))
    h = by(c2, by(c1, h.relu()).relu()) + h
    h = by(d2, by(d1, h.relu()).relu()) + h
    expected = h.relu().sum((2, 3)) @ dense.weight[0]
    torch.testing.assert_close(network(x), expected)


def test_layers_of_the_plain_networks_are_in_the_order_of_the_papers():
    """Which layers there are, and what follows them."""

    def outline(network: nn.Module) -> str:
        names = [type(layer).__name__.removeprefix("Parametrized") for layer in network]
        return " ".join(names)

    up, down = "ConvTranspose2d", "Conv2d LeakyReLU"
    begin, between = "Linear BatchNorm1d ReLU Unflatten", "BatchNorm2d ReLU"
    assert outline(DCGANGenerator(2).build(2, (1, 32, 32))) == (
        f"{begin} {up} {between} {up} {between} {up} Tanh"
    )
    assert outline(SNGANConvGenerator(2).build(2, (1, 16, 16))) == (
        f"{begin} {up} {between} {up} {between} Conv2d Tanh"
    )
    assert outline(DCGANEnergy(2).energy((1, 32, 32))) == (
        f"{down} Conv2d BatchNorm2d LeakyReLU Conv2d BatchNorm2d LeakyReLU Flatten Linear Flatten"
    )
    network = SNGANConvEnergy(2).energy((1, 16, 16))
    assert outline(network) == f"{down} {down} {down} {down} {down} Flatten Linear Flatten"
    assert {layer.negative_slope for layer in layers(network, nn.LeakyReLU)} == {0.1}
    widths = [layer.out_channels for layer in layers(network, nn.Conv2d)]
    assert widths == [2, 2, 4, 4, 8]
    early = SNGANConvEnergy(2, widen_early=True).energy((1, 16, 16))
    assert [layer.out_channels for layer in layers(early, nn.Conv2d)] == [2, 4, 4, 8, 8]


def test_initial_weights_are_as_in_the_papers():
    """The deviation of so many normal weights is within six standard errors of what it should be."""
    torch.manual_seed(0)

    def deviation(weight: Tensor, expected: float) -> None:
        assert weight.numel() > 1000
        assert abs(float(weight.detach().std()) / expected - 1) < 6 / (2 * weight.numel()) ** 0.5

    for network in (DCGANGenerator(32).build(50, (1, 16, 16)), SNGANConvGenerator(16).build(50, (1, 16, 16))):
        for layer in layers(network, nn.Linear, nn.ConvTranspose2d):
            if layer.weight.numel() > 1000:
                deviation(layer.weight, 0.02)
    gains = [layer.weight for layer in layers(DCGANGenerator(32).build(50, (1, 16, 16)), nn.BatchNorm1d)]
    deviation(gains[0], 0.02)
    assert abs(float(gains[0].detach().mean()) - 1) < 0.01

    for layer in layers(DCGANEnergy(32).energy((1, 16, 16)), nn.Conv2d)[1:]:
        deviation(layer.weight, 0.02)
    for layer in layers(SNGANConvEnergy(32).energy((1, 16, 16)), nn.Conv2d)[1:]:
        deviation(layer.parametrizations.weight.original, 0.02)
        assert not layer.bias.any()
    blocks = SNGANResNetEnergy(32).energy((3, 16, 16))
    for layer in layers(blocks, nn.Conv2d)[1:]:
        if layer.kernel_size == (3, 3) and layer.in_channels == 32:
            bound = 2**0.5 * (6 / (9 * 32 + 9 * 32)) ** 0.5
            original = layer.parametrizations.weight.original.detach()
            assert 0.99 * bound < original.abs().max() <= bound
    shortcut = blocks[1].skip.parametrizations.weight.original.detach()
    assert 0.98 * (6 / 64) ** 0.5 < shortcut.abs().max() <= (6 / 64) ** 0.5


# Evaluation


@every_network
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_rows_know_nothing_of_one_another(architecture, shape: tuple[int, ...]):
    network, inputs = built(architecture, shape)
    batch = torch.randn(4, *inputs)
    other = batch.clone()
    other[2] = torch.randn(inputs)
    values, moved = network(batch), network(other)
    assert torch.equal(moved[[0, 1, 3]], values[[0, 1, 3]])
    assert not torch.equal(moved[2], values[2])
    torch.testing.assert_close(network(batch[1:2])[0], values[1])
    torch.testing.assert_close(network(batch.flip(0)), values.flip(0))


@every_network
def test_evaluation_changes_nothing(architecture):
    network, inputs = built(architecture, (1, 8, 8))
    before = state(network)
    x = torch.randn(3, *inputs, requires_grad=True)
    values = network(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert gradient.abs().flatten(1).sum(1).gt(0).all()
    assert not changed(network, before)
    assert torch.equal(network(x), values)
    assert all(parameter.grad is None for parameter in network.parameters())


@every_network
def test_training_mode_changes_buffers_alone(architecture):
    network, inputs = built(architecture, (1, 8, 8))
    before = state(network)
    network.train()(torch.randn(3, *inputs))
    names = changed(network, before)
    assert set(names) <= {name for name, _ in network.named_buffers()}
    assert bool(names) == bool(list(network.buffers()))


@every_network
def test_all_parameters_learn(architecture):
    network, inputs = built(architecture, (1, 16, 16))
    network.train()
    (network(torch.randn(4, *inputs)) ** 2).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    learning = [p for p in network.parameters() if p.ndim > 1]
    assert all(parameter.grad.abs().sum() > 0 for parameter in learning)


def test_a_state_can_be_kept_and_loaded():
    for architecture in GENERATORS + ENERGIES:
        network, inputs = built(architecture, (1, 8, 8))
        x = torch.randn(2, *inputs)
        fresh = (
            architecture.energy((1, 8, 8))
            if isinstance(architecture, Energy)
            else architecture.build(LATENT, (1, 8, 8))
        )
        fresh.load_state_dict(state(network))
        assert torch.equal(fresh.eval()(x), network(x))
        assert torch.equal(copy.deepcopy(network)(x), network(x))


@pytest.mark.parametrize(
    ("generator", "energy"),
    [
        (DCGANGenerator(4), DCGANEnergy(4)),
        (SNGANConvGenerator(4), SNGANConvEnergy(4)),
        (SNGANResNetGenerator(8), SNGANResNetEnergy(8)),
    ],
    ids=str,
)
def test_a_model_of_them_has_its_gradient(generator, energy):
    """The directional derivative, in float64, is that of a finite difference."""
    decoder, _ = built(generator, (1, 8, 8))
    critic, _ = built(energy, (1, 8, 8))
    model = Model(StandardNormal((LATENT,)), decoder, critic).double().eval()
    rng = torch.Generator().manual_seed(1)
    u, direction = model.prior.draw(4, rng), model.prior.draw(4, rng)
    before = state(model)
    _, gradient = value_and_grad(model.target(2.0), u)
    assert not changed(model, before)
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (model.target(2.0)(u + sign * step * direction) for sign in (1, -1))
    torch.testing.assert_close(
        (gradient * direction).sum(1), (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7
    )


# Spectral norms


def weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights that layers use, as matrices from what an output sees to the outputs."""
    kinds = (nn.Conv2d, nn.Linear)
    named = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, kinds)]
    return {name: layer.weight.detach().flatten(1) for name, layer in named}


@every_normalised_energy
def test_every_weight_has_a_largest_singular_value_of_one(architecture):
    torch.manual_seed(0)
    network = architecture.energy((1, 8, 8)).double()
    network.train()
    for _ in range(1000):
        for each in layers(network, nn.Conv2d, nn.Linear):
            _ = each.weight  # a power iteration: all that a pass in training mode does to the buffers
    used = weights(network.eval())
    expected = [name for name, _ in network.named_modules() if name.endswith("parametrizations.weight")]
    assert [f"{name}.parametrizations.weight" for name in used] == expected
    for name, weight in used.items():
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=1e-6), name


@every_normalised_energy
def test_scaling_a_weight_changes_no_energy(architecture):
    network, inputs = built(architecture, (1, 8, 8))
    x = torch.randn(3, *inputs)
    values = network(x)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("original"):
                parameter.mul_(7.0)
    torch.testing.assert_close(network(x), values)


# Errors


@every_network
@pytest.mark.parametrize("shape", [(2,), (8, 8), (1, 1, 8, 8), ()], ids=str)
def test_other_data_are_refused(architecture, shape: tuple[int, ...]):
    name = type(architecture).__name__
    with pytest.raises(ValueError, match=f"^{name} is for images .* not .* {re.escape(str(shape))}"):
        architecture.energy(shape) if isinstance(architecture, Energy) else architecture.build(2, shape)


@every_network
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 7, 8), (3, 8, 31), (1, 6, 32), (3, 27, 27)], ids=str)
def test_sides_that_cannot_be_halved_are_refused(architecture, shape: tuple[int, ...]):
    _, height, width = shape
    expected = f"^{type(architecture).__name__} .* even and at least eight, not {height}×{width}$"
    with pytest.raises(ValueError, match=expected):
        architecture.energy(shape) if isinstance(architecture, Energy) else architecture.build(2, shape)


@pytest.mark.parametrize(
    "kind",
    [
        DCGANGenerator,
        DCGANEnergy,
        SNGANConvGenerator,
        SNGANConvEnergy,
        SNGANResNetGenerator,
        SNGANResNetEnergy,
    ],
)
def test_a_network_needs_channels(kind: type):
    with pytest.raises(FieldError, match=rf"^{kind.__name__}\.channels should be "):
        kind(channels=0)


@pytest.mark.parametrize("kind", [DCGANGenerator, DCGANEnergy])
def test_filters_cover_every_pixel(kind: type):
    with pytest.raises(FieldError, match=rf"^{kind.__name__}\.kernel should be at least 2"):
        kind(kernel=1)
    for kernel in (2, 3, 6, 7):
        network, inputs = built(kind(2, kernel), (1, 12, 8))
        assert network(torch.randn(2, *inputs)).shape[0] == 2
