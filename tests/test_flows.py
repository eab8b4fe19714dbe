"""Flows are invertible, their log-determinants are autograd's, and their densities integrate to one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from laws import assert_sample_mean
from torch import Tensor
from torch.distributions import Normal

from ebmzoo.flows import MADE, MAF, NSF, Flow, Glow, LatentGlow, RealNVP
from ebmzoo.flows.coupling import FromHalf, Tanh, ToHalf
from ebmzoo.flows.steps import ActNorm, Mixing

ARCHITECTURES = {
    "RealNVP": RealNVP(hidden=32),
    "RealNVP, 1 layer": RealNVP(layers=1, hidden=16),
    "RealNVP, 2 layers": RealNVP(layers=2, hidden=16, depth=1),
    "MADE": MADE(hidden=32),
    "MAF": MAF(transforms=2, hidden=32),
    "NSF": NSF(transforms=2, hidden=32),
    "LatentGlow": LatentGlow(couplings=2, hidden=32),
    "Glow": Glow(blocks=2, couplings=2, hidden=8),
    "Glow, 1 block": Glow(blocks=1, couplings=2, hidden=8),
    "Glow, 3 blocks": Glow(blocks=3, couplings=1, hidden=8),
}
VECTORS = [(2,), (3,), (11,), (15,), (22,), (43,), (1, 4, 4)]
IMAGES = {"Glow": [(1, 4, 4), (3, 8, 4)], "Glow, 1 block": [(1, 6, 4)], "Glow, 3 blocks": [(2, 8, 8)]}
CASES = [(name, shape) for name in ARCHITECTURES for shape in IMAGES.get(name, VECTORS)]
every_case = pytest.mark.parametrize(("name", "shape"), CASES, ids=str)


def built(name: str, shape: tuple[int, ...], seed: int = 0) -> Flow:
    """Returns a flow in double precision whose weights were moved away from their start."""
    torch.manual_seed(seed)
    flow = ARCHITECTURES[name].build(math.prod(shape), shape).double()
    return moved(flow, 0.05 if "Glow" in name else 0.1)  # a rotation off by more is close to singular


def moved(flow: Flow, far: float) -> Flow:
    """Moves a flow's weights by normal numbers, and freezes them."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += far * torch.randn_like(parameter)
    return flow.requires_grad_(False).eval()


@every_case
def test_inverse_undoes_the_flow(name: str, shape: tuple[int, ...]) -> None:
    flow = built(name, shape)
    u = torch.randn(50, math.prod(shape), dtype=torch.float64)
    x = flow(u)
    assert x.shape == (50, *shape)
    back, there = flow.inverse(x)
    _, forth = flow.push(u)
    torch.testing.assert_close(back, u, atol=1e-9, rtol=0)
    torch.testing.assert_close(there, -forth, atol=1e-9, rtol=0)


@every_case
def test_inverse_to_single_precision(name: str, shape: tuple[int, ...]) -> None:
    flow = built(name, shape).float()
    u = torch.randn(200, math.prod(shape))
    assert float((flow.inverse(flow(u))[0] - u).abs().max()) < 1e-5


@pytest.mark.parametrize("shape", VECTORS, ids=str)
@pytest.mark.parametrize("far", [0.0, 0.06])
def test_the_flow_of_the_paper_inverts_every_normal_latent(far: float, shape: tuple[int, ...]) -> None:
    """In single precision, to some roundings of numbers that go up to 20, and no latent is left out.

    With weights moved by 0.1 data go up to 170, and one latent in ten thousand is off by 1e-5 or more.
    """
    torch.manual_seed(0)
    flow = moved(RealNVP().build(math.prod(shape), shape), far)
    u = torch.randn(5000, math.prod(shape))
    assert float((flow.inverse(flow(u))[0] - u).abs().max()) < 1e-5


@every_case
def test_log_determinant_is_that_of_autograd(name: str, shape: tuple[int, ...]) -> None:
    flow = built(name, shape)
    x = flow(torch.randn(3, math.prod(shape), dtype=torch.float64)).flatten(1)
    _, log_det = flow.pull(x)

    def one(point: Tensor) -> Tensor:
        return flow.pull(point[None])[0][0]

    for point, value in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(one, point)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], value, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", [name for name, shape in CASES if shape == (2,)])
def test_density_integrates_to_one(name: str) -> None:
    flow = built(name, (2,))
    width, count = 14.0, 1201
    line = torch.linspace(-width, width, count, dtype=torch.float64)
    density = flow.log_prob(torch.cartesian_prod(line, line)).exp()
    area = float(density.sum()) * (2 * width / (count - 1)) ** 2
    assert area == pytest.approx(1, abs=2e-3)


# How far weights are moved, and how many points there are
SPREAD = {
    "RealNVP": (RealNVP(), lambda size: min(0.05, 0.3 / size), 20_000),
    "MADE": (MADE(hidden=32), lambda size: 0.15, 20_000),
    "MAF": (MAF(transforms=2, hidden=32), lambda size: 0.1, 20_000),
    "NSF": (NSF(transforms=2, hidden=32), lambda size: 0.03, 8000),
}


@pytest.mark.parametrize("shape", [shape for shape in VECTORS if len(shape) == 1], ids=str)
@pytest.mark.parametrize("name", SPREAD)
def test_density_integrates_to_one_on_average_over_a_wider_normal_law(
    name: str, shape: tuple[int, ...]
) -> None:
    """E_q[p / q] = 1, with independent normal coordinates that are a little wider than what the flow makes.

    The density is no normal one, whose logarithm has no third differences along a line; and it is near enough
    to them for the mean to be worth that of 500 points or more.
    """
    architecture, far, count = SPREAD[name]
    (size,) = shape
    torch.manual_seed(0)
    flow = moved(architecture.build(size, shape).double(), far(size))
    seen = flow(torch.randn(count // 20, size, dtype=torch.float64))
    q = Normal(seen.mean(0), 1.06 * seen.std(0))
    x = q.sample((count,))
    weights = (flow.log_prob(x) - q.log_prob(x).sum(1)).exp()
    assert float(weights.sum().square() / weights.square().sum()) > 500
    assert_sample_mean(weights, 1.0)
    step = torch.randn(count // 20, size, dtype=torch.float64) / math.sqrt(size)
    line = [flow.log_prob(seen + index * step) for index in range(4)]
    assert float((line[3] - 3 * line[2] + 3 * line[1] - line[0]).std()) > 0.05


def test_untouched_flow_of_zero_networks_is_the_normal_law() -> None:
    flow = RealNVP().build(5, (5,)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = Normal(0.0, 1.0).log_prob(x).sum(1)
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


def test_the_ends_of_a_network_are_linear_layers() -> None:
    """Values, and gradients in inputs, weights and biases, in either order of memory."""
    torch.manual_seed(0)
    for kind, inputs, outputs in ((FromHalf, 3, 7), (ToHalf, 7, 3)):
        layer, plain = kind(inputs, outputs).double(), torch.nn.Linear(inputs, outputs).double()
        plain.load_state_dict(layer.state_dict())
        rows = torch.randn(5, inputs, dtype=torch.float64, requires_grad=True)
        columns = rows.detach().t().contiguous().t().requires_grad_()
        weights = torch.randn(5, outputs, dtype=torch.float64)
        for x in (rows, columns):
            y, expected = layer(x), plain(x)
            torch.testing.assert_close(y, expected)
            got = torch.autograd.grad((weights * y).sum(), [x, *layer.parameters()])
            torch.testing.assert_close(
                got, torch.autograd.grad((weights * expected).sum(), [x, *plain.parameters()])
            )


def test_the_hyperbolic_tangent_is_that() -> None:
    x = torch.linspace(-30, 30, 100_001)
    assert float((Tanh()(x) - x.double().tanh()).abs().max()) < 2e-7
    x = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(*(torch.autograd.grad(f(x).sum(), x) for f in (Tanh(), torch.tanh)))


def test_first_weights_start_as_those_of_a_network_of_all_coordinates() -> None:
    torch.manual_seed(0)
    flow = RealNVP(hidden=2000).build(25, (25,))
    for coupling in flow.couplings:
        for network in (coupling.scale, coupling.shift):
            assert 0.19 < float(network[0].weight.detach().abs().max()) <= 0.2


@pytest.mark.parametrize("name", ["RealNVP", "MAF", "LatentGlow"])
def test_points_of_another_shape_are_refused(name: str) -> None:
    """Some would else be broadcast to what was meant."""
    flow = built(name, (3,))
    for call in (flow, flow.decoded):
        with pytest.raises(ValueError, match=r"takes latents of shape \(B, 3\), not \(4, 2\)"):
            call(torch.randn(4, 2, dtype=torch.float64))
    for call in (flow.inverse, flow.log_prob):
        with pytest.raises(ValueError, match=r"takes data of shape \(B, 3\), not \(3,\)"):
            call(torch.randn(3, dtype=torch.float64))


@pytest.mark.parametrize("architecture", [RealNVP(), MAF(), MADE(), NSF()], ids=lambda a: type(a).__name__)
def test_latents_are_as_many_as_coordinates(architecture: RealNVP) -> None:
    with pytest.raises(ValueError, match="needs 6 latent variables, not 5"):
        architecture.build(5, (2, 3))


def test_one_coordinate_cannot_be_coupled() -> None:
    with pytest.raises(ValueError, match="two or more"):
        RealNVP().build(1, (1,))


# Glow


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [(Glow(), (1, 28, 28)), (Glow(blocks=3, couplings=32, hidden=16), (3, 32, 32)), (LatentGlow(), (64,))],
    ids=["MNIST", "CIFAR-10", "codes"],
)
def test_glow_inverts_in_single_precision_at_its_real_size(
    architecture: Glow, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    flow = architecture.build(math.prod(shape), shape)
    x = torch.rand(8, *shape) * 2 - 1
    flow.log_prob(x)  # sets the normalisation
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        u, there = flow.eval().inverse(x)
        again, forth = flow.push(u)
    assert float((again.view_as(x) - x).abs().max()) < 1e-4
    torch.testing.assert_close(there, -forth, rtol=1e-4, atol=1e-2)


def test_the_first_batch_comes_out_of_a_normalisation_standard() -> None:
    torch.manual_seed(0)
    layer = ActNorm(3).double()
    first = 5 + 3 * torch.randn(200, 3, 2, 2, dtype=torch.float64)
    out, _ = layer.pull(first)
    values = out.transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(values.std(1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    kept = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.pull(torch.randn(20, 3, 2, 2, dtype=torch.float64))
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())
    resumed = ActNorm(3).double()
    resumed.load_state_dict(kept)
    torch.testing.assert_close(resumed.pull(first)[0], out, rtol=0, atol=0)


def test_a_normalisation_that_goes_back_before_its_first_batch_begins_again() -> None:
    layer = ActNorm(3)
    begun = {name: value.clone() for name, value in layer.state_dict().items()}
    layer.pull(torch.randn(20, 3))
    layer.load_state_dict(begun)
    out, _ = layer.pull(5 + 3 * torch.randn(200, 3))
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("first", [torch.randn(1, 3), torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 3.0]])])
def test_what_is_the_same_everywhere_has_no_scale(first: torch.Tensor) -> None:
    layer = ActNorm(3)
    with pytest.raises(ValueError, match=r"first minibatch, in which [13] of 3 features are the same"):
        layer.pull(first)
    assert not layer.ready


def test_nothing_is_normalised_in_evaluation() -> None:
    layer = ActNorm(3).eval()
    x = 5 + torch.randn(20, 3)
    torch.testing.assert_close(layer.pull(x)[0], x)
    assert not layer.ready


def test_the_mixing_begins_as_a_rotation() -> None:
    torch.manual_seed(0)
    weight = Mixing(12).double().weight().detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(12, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_inverse_is_kept_while_the_mixing_stays_as_it_is() -> None:
    """A copy, a changed parameter and another precision have inverses of their own."""
    mixing = Mixing(6)
    assert mixing.inverse().requires_grad
    mixing.requires_grad_(False)
    kept = mixing.inverse()
    assert mixing.inverse() is kept
    copied = copy.deepcopy(mixing)
    with torch.no_grad():
        copied.log_scale.add_(0.5)
    for each in (mixing, copied):
        torch.testing.assert_close(each.inverse() @ each.weight(), torch.eye(6), atol=1e-5, rtol=0)
    mixing.load_state_dict(copied.state_dict())
    torch.testing.assert_close(mixing.inverse() @ mixing.weight(), torch.eye(6), atol=1e-5, rtol=0)
    assert mixing.double().inverse().dtype == torch.float64


def test_fresh_couplings_do_nothing() -> None:
    torch.manual_seed(0)
    coupling = Glow(blocks=1, couplings=1, hidden=4).build(16, (1, 4, 4)).blocks[0].layers[2]
    x = torch.randn(5, 4, 2, 2)
    out, log_det = coupling.pull(x)
    assert torch.equal(out, x)
    assert torch.equal(log_det, torch.zeros(5))


def test_what_a_coupling_is_given_cannot_blow_up_the_rest() -> None:
    """The scale lies between exp(-2) and exp(2), whatever the network says."""
    flow = LatentGlow(1, 8).build(4, (4,))
    coupling = flow.steps.layers[2]
    with torch.no_grad():
        coupling.network[-1].bias[:2] = torch.tensor([1e6, -1e6])
    _, log_det = coupling.pull(torch.randn(3, 4))
    torch.testing.assert_close(log_det, torch.zeros(3))
    moved = coupling.push(torch.ones(1, 4))[0][0, 2:]
    torch.testing.assert_close(moved, torch.tensor([-2.0, 2.0]).exp())


def test_glow_needs_sides_that_can_be_halved() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, not 6×4; lower Glow\.blocks"):
        Glow(blocks=2).build(24, (1, 6, 4))
