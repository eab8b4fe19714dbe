"""The networks of pixel energies: the papers' sizes, their formulas, their norms and their gradients."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from laws import generator
from torch import Tensor, nn
from torch.nn import functional as F

from ebmzoo import config
from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.energies import ConvEnergy, Energy
from ebmzoo.fields import FieldError
from ebmzoo_pixel import igebm, networks
from ebmzoo_pixel.anatomy import ToyEnergy
from ebmzoo_pixel.igebm import ConditionalIGEBMEnergy, IGEBMEnergy, NoNorm, SpectralNorm
from ebmzoo_pixel.networks import JEMEnergy, VanillaEnergy

CONVOLUTIONAL = [
    IGEBMEnergy(4, 1),
    IGEBMEnergy(4, 2, norm=NoNorm()),
    ConditionalIGEBMEnergy(3, 4, 1),
    VanillaEnergy(4),
    JEMEnergy(10, 1, 3),
]
ENERGIES = [*CONVOLUTIONAL, ToyEnergy((8, 6))]
SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 16, 12), (2, 9, 15)]

every_energy = pytest.mark.parametrize("architecture", ENERGIES, ids=str)
every_convolutional_energy = pytest.mark.parametrize("architecture", CONVOLUTIONAL, ids=str)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def built(architecture: Energy, shape: tuple[int, ...]) -> nn.Module:
    """Returns a network in float64 and evaluation mode."""
    torch.manual_seed(0)
    return architecture.energy(shape).double().eval()


def data(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(count, *shape, generator=generator(1), dtype=torch.float64)


def layers(network: nn.Module, *kinds: type[nn.Module]) -> list:
    return [layer for layer in network.modules() if isinstance(layer, kinds)]


def size(architecture: Energy, shape: tuple[int, ...]) -> int:
    """The number of parameters, without room for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in architecture.energy(shape).parameters())


# Shapes


@every_energy
@every_shape
def test_energies_are_one_number_a_point(architecture, shape: tuple[int, ...]):
    assert isinstance(architecture, Energy)
    network = built(architecture, shape)
    for count in (1, 3):
        assert network(data(count, shape)).shape == (count,)


def test_points_in_the_plane_have_energies():
    assert ToyEnergy().energy((2,))(torch.randn(5, 2)).shape == (5,)


@pytest.mark.parametrize(("side", "left"), [(4, 4), (7, 7), (8, 4), (15, 7), (28, 7), (32, 4), (64, 4)])
def test_the_last_filter_is_as_large_as_what_is_left(side: int, left: int):
    with torch.device("meta"):
        last = layers(VanillaEnergy(2).energy((1, side, side)), nn.Conv2d)[-1]
    assert last.kernel_size == (left, left)


def test_the_shorter_side_says_when_halving_ends():
    network = VanillaEnergy(2).energy((1, 16, 12))
    assert [layer.kernel_size for layer in layers(network, nn.Conv2d)] == [(3, 3), (4, 4), (8, 6)]


# Sizes, from the papers' layers


def conv(inputs: int, outputs: int, side: int) -> int:
    """The weights and biases of a convolution."""
    return (inputs * side**2 + 1) * outputs


def test_the_size_of_igebm():
    first = 6 * conv(128, 128, 3)
    second = conv(128, 256, 3) + 5 * conv(256, 256, 3) + 9 * 128 * 256
    third = conv(256, 512, 3) + 5 * conv(512, 512, 3) + 9 * 256 * 512
    expected = 9 * 3 * 128 + first + second + third + 512 + 1
    plain = IGEBMEnergy(norm=NoNorm())
    assert size(plain, (3, 32, 32)) == expected == 18_588_801
    assert size(plain, (1, 28, 28)) == expected - 9 * 2 * 128


def test_a_norm_brings_no_parameters():
    normed, plain = (IGEBMEnergy(3, 2, norm=norm).energy((2, 8, 8)) for norm in (SpectralNorm(), NoNorm()))
    assert sum(p.numel() for p in normed.parameters()) == sum(p.numel() for p in plain.parameters())


def test_the_size_of_the_network_of_short_run_learning():
    inner = conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4)
    expected = conv(3, 64, 3) + inner + conv(512, 1, 4)
    assert size(VanillaEnergy(), (3, 32, 32)) == expected == 2_763_393
    smaller = conv(1, 64, 3) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 1, 7)
    assert size(VanillaEnergy(), (1, 28, 28)) == smaller


def test_the_size_of_the_network_of_anatomy():
    inner = conv(32, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4)
    expected = conv(3, 32, 3) + inner + conv(256, 1, 4)
    assert size(VanillaEnergy(32, 0.05), (3, 32, 32)) == expected == 693_569


def stage(inputs: int, outputs: int, blocks: int) -> int:
    """Two 3×3 convolutions a block, and the 1×1 convolution that the first begins with."""
    convolutions = conv(inputs, outputs, 3) + (2 * blocks - 1) * conv(outputs, outputs, 3)
    return convolutions + conv(inputs, outputs, 1)


def test_the_size_of_jem():
    stages = stage(16, 160, 4) + stage(160, 320, 4) + stage(320, 640, 4)
    expected = conv(3, 16, 3) + stages + 641 * 10
    assert size(JEMEnergy(), (3, 32, 32)) == expected == 36_471_338
    narrow = conv(1, 16, 3) + stage(16, 32, 2) + stage(32, 64, 2) + stage(64, 128, 2) + 129 * 7
    assert size(JEMEnergy(16, 2, 7), (1, 8, 8)) == narrow


def test_the_size_of_the_network_of_toys():
    expected = 3 * 32 + 33 * 64 + 2 * 65 * 64 + 65
    assert size(ToyEnergy(), (2,)) == expected == 10_593


@pytest.mark.parametrize(
    "architecture",
    [IGEBMEnergy(norm=NoNorm()), VanillaEnergy(), VanillaEnergy(32, 0.05), JEMEnergy(), ToyEnergy()],
    ids=str,
)
def test_docstrings_tell_the_sizes(architecture):
    shape = (2,) if isinstance(architecture, ToyEnergy) else (3, 32, 32)
    assert f" {size(architecture, shape):,}" in re.sub(r"\s+", " ", type(architecture).__doc__ or "")


# Formulas


def by(layer: nn.Module, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, stride=stride, padding=padding)


def leaky(x: Tensor, slope: float) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@pytest.mark.parametrize("norm", [SpectralNorm(), NoNorm()], ids=str)
def test_igebm_is_its_formula(norm):
    network = built(IGEBMEnergy(3, 2, 0.3, norm), (2, 16, 16))
    stem, a1, a2, b1, b2, c1, c2, c0, d1, d2, e1, e2, e0, f1, f2 = layers(network, nn.Conv2d)
    [last] = layers(network, nn.Linear)
    x = data(4, (2, 16, 16))

    def block(h: Tensor, first: nn.Module, second: nn.Module, skip: Tensor, halve: bool) -> Tensor:
        both = skip + by(second, leaky(by(first, h), 0.3))
        return leaky(F.avg_pool2d(both, 2) if halve else both, 0.3)

    h = leaky(by(stem, x), 0.3)
    h = block(h, a1, a2, h, True)
    h = block(h, b1, b2, h, False)
    h = block(h, c1, c2, by(c0, h), True)
    h = block(h, d1, d2, h, False)
    h = block(h, e1, e2, by(e0, h), True)
    h = block(h, f1, f2, h, False)
    expected = h.clamp(min=0).sum((2, 3)) @ last.weight[0] + last.bias
    assert h.shape == (4, 12, 2, 2)
    torch.testing.assert_close(network(x), expected)


def test_the_plain_network_is_its_formula():
    network = built(VanillaEnergy(3, 0.3), (2, 32, 32))
    first, second, third, fourth, last = layers(network, nn.Conv2d)
    x = data(4, (2, 32, 32))
    h = leaky(by(first, x), 0.3)
    for layer in (second, third, fourth):
        h = leaky(by(layer, h, stride=2), 0.3)
    assert h.shape == (4, 24, 4, 4)
    torch.testing.assert_close(network(x), by(last, h, padding=0)[:, 0, 0, 0])


def test_the_plain_network_tells_places_apart():
    """With the same filter at every place of the last layer it is the one that sums over pixels."""
    network, summing = built(VanillaEnergy(3), (1, 8, 8)), built(ConvEnergy(3), (1, 8, 8))
    x = data(4, (1, 8, 8))
    with torch.no_grad():
        for ours, theirs in zip(layers(network, nn.Conv2d), layers(summing, nn.Conv2d), strict=True):
            ours.weight.copy_(theirs.weight)
            ours.bias.copy_(theirs.bias)
        ours.bias.mul_(4 * 4)
        torch.testing.assert_close(network(x), summing(x))
        ours.weight[..., 0, 0] += 1
    assert not torch.allclose(network(x), summing(x))


def test_jem_is_its_formula():
    network = built(JEMEnergy(10, 1, 3, 0.3), (2, 9, 12))
    stem, a1, a2, b1, b2, b0, c1, c2, c0 = layers(network, nn.Conv2d)
    x = data(4, (2, 9, 12))

    def residual(h: Tensor, first: nn.Module, second: nn.Module, stride: int) -> Tensor:
        return by(second, leaky(by(first, leaky(h, 0.3)), 0.3), stride)

    h = by(stem, x)
    h = h + residual(h, a1, a2, 1)
    h = by(b0, h, 2, 0) + residual(h, b1, b2, 2)
    h = by(c0, h, 2, 0) + residual(h, c1, c2, 2)
    features = leaky(h, 0.3).mean((2, 3))
    assert h.shape == (4, 64, 3, 3)
    torch.testing.assert_close(network.features(x), features)
    torch.testing.assert_close(network.logits(x), features @ network.head.weight.T + network.head.bias)


def test_the_energy_of_jem_is_that_of_its_logits():
    network = built(JEMEnergy(10, 1, 3), (1, 8, 8))
    assert isinstance(network, ClassifierEnergy)
    x = data(5, (1, 8, 8))
    assert network.logits(x).shape == (5, 3)
    assert network.features(x).shape == (5, 64)
    torch.testing.assert_close(network(x), -network.logits(x).exp().sum(1).log())


def test_the_network_of_toys_is_its_formula():
    network = built(ToyEnergy((5, 4), 0.3), (2,))
    first, second, last = layers(network, nn.Linear)
    x = data(6, (2,))
    h = leaky(x @ first.weight.T + first.bias, 0.3)
    h = leaky(h @ second.weight.T + second.bias, 0.3)
    torch.testing.assert_close(network(x), h @ last.weight[0] + last.bias)
    assert [layer.out_features for layer in layers(ToyEnergy().energy((2,)), nn.Linear)] == [
        32,
        64,
        64,
        64,
        1,
    ]
    assert {layer.negative_slope for layer in layers(ToyEnergy().energy((2,)), nn.LeakyReLU)} == {0.05}


# Norms


def test_every_weight_but_the_last_has_a_largest_singular_value_of_one():
    network = built(IGEBMEnergy(4, 1), (1, 8, 8)).train()
    convolutions = layers(network, nn.Conv2d)
    for _ in range(600):
        for layer in convolutions:
            _ = layer.weight  # a power iteration: all that a pass in training mode does to the buffers
    network.eval()
    assert len(convolutions) == 9
    for layer in convolutions:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=1e-6), layer
    [last] = layers(network, nn.Linear)
    assert isinstance(last.weight, nn.Parameter)


def test_scaling_a_normed_weight_changes_no_energy():
    network = built(IGEBMEnergy(4, 1), (1, 8, 8))
    x = data(3, (1, 8, 8))
    values = network(x)
    with torch.no_grad():
        for layer in layers(network, nn.Conv2d):
            layer.parametrizations.weight.original.mul_(7.0)
    torch.testing.assert_close(network(x), values)


def test_no_norm_leaves_weights_as_they_are():
    network = built(IGEBMEnergy(4, 1, norm=NoNorm()), (1, 8, 8))
    assert all(isinstance(layer.weight, nn.Parameter) for layer in layers(network, nn.Conv2d))
    assert not list(network.buffers())


# Energies of points


@every_energy
def test_rows_know_nothing_of_one_another(architecture):
    for mode in (False, True):
        network = built(architecture, (1, 8, 8))
        batch = data(4, (1, 8, 8))
        x = batch.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network.train(mode)(x)[2], x)
        assert not gradient[[0, 1, 3]].any()
        assert gradient[2].any()
    network.eval()
    values = network(batch)
    torch.testing.assert_close(network(batch[1:2])[0], values[1])
    torch.testing.assert_close(network(batch.flip(0)), values.flip(0))
    assert values.std() > 0


@every_energy
def test_gradients_reach_every_input_and_are_right(architecture):
    """The directional derivative is that of a finite difference."""
    network = built(architecture, (1, 8, 8))
    x, direction = data(3, (1, 8, 8)).requires_grad_(), torch.ones(1, 8, 8, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert gradient.abs().flatten(1).sum(1).gt(0).all()
    step = 1e-7
    with torch.no_grad():
        ahead, behind = (network(x + sign * step * direction) for sign in (1, -1))
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), slope, rtol=1e-5, atol=1e-6)


@every_energy
def test_all_parameters_learn(architecture):
    network = built(architecture, (1, 16, 16)).train()
    (network(data(4, (1, 16, 16))) ** 2).sum().backward()
    learning = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    assert all(parameter.grad.abs().sum() > 0 for parameter in learning)


@every_energy
def test_a_state_can_be_kept_and_loaded(architecture):
    network, fresh = built(architecture, (1, 8, 8)), architecture.energy((1, 8, 8)).double().eval()
    x = data(2, (1, 8, 8))
    assert not torch.equal(fresh(x), network(x))
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(x), network(x))


# Errors


@every_convolutional_energy
@pytest.mark.parametrize("shape", [(2,), (8, 8), (1, 1, 8, 8), ()], ids=str)
def test_other_data_are_refused(architecture, shape: tuple[int, ...]):
    name = type(architecture).__name__
    with pytest.raises(ValueError, match=f"^{name} is for images .* not .* {re.escape(str(shape))}"):
        architecture.energy(shape)


@pytest.mark.parametrize(
    ("architecture", "shape", "match"),
    [
        (VanillaEnergy(2), (1, 3, 8), "^VanillaEnergy is for images of at least 4×4 pixels, not 3×8$"),
        (IGEBMEnergy(2), (1, 8, 7), "^IGEBMEnergy halves .* three times, which leaves nothing of 8×7 images"),
    ],
    ids=str,
)
def test_images_that_are_too_small_are_refused(architecture, shape: tuple[int, ...], match: str):
    with pytest.raises(ValueError, match=match):
        architecture.energy(shape)


@pytest.mark.parametrize("depth", [-2, 4, 9, 12, 27, 29])
def test_depths_that_no_wide_network_has(depth: int):
    with pytest.raises(
        FieldError, match=rf"^JEMEnergy\.depth should be six times .* and four, .* not {depth}$"
    ):
        JEMEnergy(depth)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: IGEBMEnergy(channels=0), "IGEBMEnergy.channels"),
        (lambda: IGEBMEnergy(blocks=0), "IGEBMEnergy.blocks"),
        (lambda: IGEBMEnergy(slope=-0.1), "IGEBMEnergy.slope"),
        (lambda: VanillaEnergy(channels=0), "VanillaEnergy.channels"),
        (lambda: VanillaEnergy(slope=-0.1), "VanillaEnergy.slope"),
        (lambda: JEMEnergy(width=0), "JEMEnergy.width"),
        (lambda: JEMEnergy(classes=0), "JEMEnergy.classes"),
        (lambda: JEMEnergy(slope=-0.1), "JEMEnergy.slope"),
        (lambda: ToyEnergy(widths=()), "ToyEnergy.widths"),
        (lambda: ToyEnergy(widths=(4, 0)), "ToyEnergy.widths"),
        (lambda: ToyEnergy(slope=-0.1), "ToyEnergy.slope"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_out_of_range(make, field: str):
    with pytest.raises(FieldError, match=f"^{re.escape(field)} should be "):
        make()


def test_every_architecture_is_offered():
    offered = [kind for kinds in config.classes().values() for kind in kinds.values()]
    for module in (igebm, networks):
        written = [kind for kind in vars(module).values() if dataclasses.is_dataclass(kind)]
        assert {kind for kind in written if kind.__module__ == module.__name__} <= set(offered)
