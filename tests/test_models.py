"""Models, priors, and what evaluating a target may and may not do."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws import COUNT, Gaussian, Law, Skewed, assert_follows, assert_normal_scores, generator
from torch import Generator, Tensor, nn

from ebmzoo.energies import ConvEnergy, MLPEnergy, ResidualEnergy
from ebmzoo.generators import ConvGenerator, MLPGenerator
from ebmzoo.models import (
    Box,
    Flat,
    Model,
    NoEnergy,
    Normal,
    Prior,
    StandardNormal,
    check_energies,
    counting_evaluations,
    frozen,
    value_and_grad,
)
from ebmzoo.models import model as targets


def toy_model(slope: float = 0.2) -> Model:
    torch.manual_seed(0)
    decoder = MLPGenerator(8, 2, slope).build(2, (3,))
    return Model(StandardNormal((2,)), decoder, MLPEnergy(8, 2, slope).energy((3,)))


def image_model() -> Model:
    torch.manual_seed(0)
    decoder = ConvGenerator(4).build(3, (2, 8, 8))
    return Model(StandardNormal((3,)), decoder, ResidualEnergy((4, 6), 2).energy((2, 8, 8)))


# Priors


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 2)])
def test_the_standard_normal_is_that_of_torch(shape: tuple[int, ...]):
    prior = StandardNormal(shape).double()
    points = 2 * torch.randn(50, *shape, generator=generator(1), dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(points).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(points), expected, rtol=1e-13, atol=0)


PRIORS = {
    "normal": StandardNormal((2,)),
    "box": Box((2,)),
    "uneven box": Box((2,), low=-0.5, high=2.0),
    "unit interval": Box((1,), low=0.0, high=1.0),
}
every_prior = pytest.mark.parametrize("prior", [p.double() for p in PRIORS.values()], ids=PRIORS)


@every_prior
def test_priors_integrate_to_one(prior: Prior):
    """By the midpoint rule on [-8, 8], whose cells end where the boxes do."""
    axis = torch.arange(-8, 8, 0.02, dtype=torch.float64) + 0.01
    points = torch.cartesian_prod(*[axis] * prior.shape[0]).view(-1, *prior.shape)
    assert float(prior.log_prob(points).exp().sum()) * 0.02 ** prior.shape[0] == pytest.approx(1, abs=1e-10)


@every_prior
def test_priors_draw_what_they_say(prior: Prior):
    drawn = prior.draw(COUNT, generator(2))
    assert drawn.shape == (COUNT, *prior.shape)
    assert drawn.dtype == torch.float64
    if isinstance(prior, Box):
        assert prior.log_prob(drawn).isfinite().all()
        assert_normal_scores((drawn - prior.low) / (prior.high - prior.low))
    else:
        assert_follows(Gaussian((0.0, 0.0), (1.0, 1.0)), drawn)
    assert torch.equal(prior.draw(5, generator(3)), prior.draw(5, generator(3)))
    assert not torch.equal(prior.draw(5, generator(3)), prior.draw(5, generator(4)))


class Triangular(Prior):
    """A prior that does not know its score: each coordinate has the density 1 - |u|."""

    def log_prob(self, u: Tensor) -> Tensor:
        return (1 - u.abs()).log().flatten(1).sum(1)

    def draw(self, count: int, rng: Generator) -> Tensor:
        pairs = torch.rand(2, count, *self.shape, generator=rng, dtype=self.anchor.dtype)
        return pairs[0] - pairs[1]


@pytest.mark.parametrize(
    "prior", [*PRIORS.values(), Flat(Normal((2,))), Triangular((2,))], ids=[*PRIORS, "flat", "triangular"]
)
def test_the_score_of_a_prior_is_the_gradient_of_its_log_density(prior: Prior):
    u = prior.double().draw(5, generator(20))
    gradient = torch.randn(u.shape, generator=generator(21), dtype=u.dtype)
    _, score = value_and_grad(prior.log_prob, u)
    torch.testing.assert_close(prior.plus_score(gradient, u), gradient + score)


def test_energies_are_one_number_for_a_datum():
    model = toy_model().train()
    check_energies(model)
    assert model.training
    model.energy = nn.Linear(3, 1)  # (B, 1), of which a mean with others of shape (B,) would be of (B, B)
    with pytest.raises(
        ValueError, match=r"Linear should return energies of shape \(B,\), and returned \(2, 1\)"
    ):
        check_energies(model)


def test_a_prior_goes_where_its_model_goes():
    model = toy_model()
    assert model.prior.draw(2, generator(5)).dtype == torch.float32
    assert model.double().prior.draw(2, generator(5)).dtype == torch.float64
    assert not any(name.startswith("prior") for name in model.state_dict())


def test_the_box_ends_at_its_edges():
    box = Box((2, 1), low=-1.0, high=3.0)
    inside = [[-1.0, 3.0], [0.0, 0.0], [3.0, 3.0]]
    outside = [[-1.001, 0.0], [0.0, 3.001], [math.inf, 0.0], [-math.inf, 9.0], [math.nan, 0.0]]
    density = -2 * math.log(4)
    values = box.log_prob(torch.tensor(inside + outside)[..., None])
    assert values.tolist() == pytest.approx([density] * 3 + [-math.inf] * 5)
    points = torch.tensor(inside + outside[:2])[..., None]
    assert torch.equal(value_and_grad(box.log_prob, points)[1], torch.zeros_like(points))


# The target


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_the_target_is_the_prior_less_the_energy(beta: float):
    model = image_model()
    u = model.prior.draw(5, generator(6))
    expected = model.prior.log_prob(u) - beta * model.energy(model.decoder(u))
    torch.testing.assert_close(model.target(beta)(u), expected)
    assert torch.equal(model.target()(u), model.target(1.0)(u))


def test_no_energy_is_zero():
    model = Model(StandardNormal((2,)), MLPGenerator(8, 1).build(2, (1, 4, 4)), NoEnergy())
    u = model.prior.draw(6, generator(7))
    assert torch.equal(model.energy(model.decoder(u)), torch.zeros(6))
    value, gradient = value_and_grad(model.target(100.0), u)
    torch.testing.assert_close(value, model.prior.log_prob(u))
    torch.testing.assert_close(gradient, -u)


def test_channels_last_changes_no_value():
    """Convolutions are laid out otherwise in a model; in double precision sums differ by rounding only."""
    torch.manual_seed(1)
    decoder, energy = ConvGenerator(4).build(3, (2, 8, 8)).double(), ConvEnergy(5).energy((2, 8, 8)).double()
    plain_decoder, plain_energy = copy.deepcopy(decoder), copy.deepcopy(energy)
    model = Model(StandardNormal((3,)).double(), decoder, energy)
    weights = [value for value in model.parameters() if value.ndim == 4]
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in weights)

    u = model.prior.draw(4, generator(8))
    value, gradient = value_and_grad(model.target(3.0), u)
    plain_value, plain_gradient = value_and_grad(
        lambda u: model.prior.log_prob(u) - 3.0 * plain_energy(plain_decoder(u)), u
    )
    torch.testing.assert_close(value, plain_value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-12, atol=1e-12)


def test_kept_chains_are_saved_with_the_model():
    prior, chains = StandardNormal((2,)), torch.randn(7, 2)
    model = Model(prior, nn.Identity(), NoEnergy(), chains=chains.clone())
    assert torch.equal(model.state_dict()["chains"], chains)
    other = Model(StandardNormal((2,)), nn.Identity(), NoEnergy(), chains=torch.zeros(7, 2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.chains, chains)
    assert other.double().chains.dtype == torch.float64
    bare = Model(prior, nn.Identity(), NoEnergy())
    assert bare.chains is None
    assert "chains" not in bare.state_dict()


# Gradients


UNEVEN = Gaussian((1.0, -2.0), (0.5, 2.0))


@pytest.mark.parametrize(
    ("law", "score"),
    [(UNEVEN, lambda u: (UNEVEN.mean - u) / UNEVEN.std**2), (Skewed(3), lambda u: 1 - u.exp())],
    ids=["gaussian", "skewed"],
)
def test_gradients_of_known_laws(law: Law, score: Callable[[Tensor], Tensor]):
    u = law.draw(100, generator(9))
    value, gradient = value_and_grad(law.log_prob, u)
    torch.testing.assert_close(value, law.log_prob(u), rtol=0, atol=0)
    torch.testing.assert_close(gradient, score(u), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("make", [toy_model, image_model])
def test_gradients_are_finite_differences(make):
    model = make().double()
    target, width = model.target(2.0), 1e-6
    u = model.prior.draw(4, generator(10))
    value, gradient = value_and_grad(target, u)
    with torch.no_grad():
        columns = []
        for shift in width * torch.eye(u.shape[1], dtype=torch.float64):
            columns.append((target(u + shift) - target(u - shift)) / (2 * width))
        torch.testing.assert_close(value, target(u), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, torch.stack(columns, 1), rtol=1e-6, atol=1e-7)


def test_gradients_leave_no_trace():
    model = toy_model()
    u = model.prior.draw(4, generator(11)).requires_grad_()
    for mode in [torch.enable_grad, torch.no_grad]:
        with mode():
            value, gradient = value_and_grad(model.target(), u)
        assert not value.requires_grad
        assert not gradient.requires_grad
    assert u.grad is None
    assert u.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_chain_of_infinite_energy_spoils_no_other():
    model = toy_model()
    u = model.prior.draw(4, generator(12))
    value, gradient = value_and_grad(model.target(), u)
    u[2] = math.inf
    broken, other = value_and_grad(model.target(), u)
    kept = [0, 1, 3]
    assert torch.equal(broken[kept], value[kept])
    assert torch.equal(other[kept], gradient[kept])
    assert not broken[2].isfinite()


def test_frozen_lets_gradients_through_to_the_point_only():
    model = toy_model()
    u = model.prior.draw(4, generator(13))
    expected = value_and_grad(model.target(), u)
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        found = value_and_grad(model.target(), u)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_frozen_puts_the_flags_back():
    model = toy_model()
    model.decoder.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert True in flags
    assert False in flags

    def current() -> list[bool]:
        return [parameter.requires_grad for parameter in model.parameters()]

    with frozen(model.energy, model):
        assert not any(current())
        with frozen(model):
            assert not any(current())
        assert not any(current())
    assert current() == flags
    with pytest.raises(InterruptedError), frozen(model):
        raise InterruptedError
    assert current() == flags


# Counting


def test_gradients_are_counted_one_for_each_chain():
    target = Gaussian((0.0,) * 2, (1.0,) * 2).log_prob
    u = torch.zeros(5, 2, dtype=torch.float64)
    value_and_grad(target, u)
    with counting_evaluations() as outer:
        value_and_grad(target, u)
        with counting_evaluations() as inner:
            value_and_grad(target, u[:3])
        assert inner.gradients == 3
        with pytest.raises(InterruptedError), counting_evaluations():
            raise InterruptedError
        value_and_grad(target, u)
    value_and_grad(target, u)
    assert outer.gradients == 13
    assert inner.gradients == 3


def test_counts_of_threads_are_apart():
    target, u = Gaussian().log_prob, torch.zeros(4, 1, dtype=torch.float64)
    with counting_evaluations() as counter:
        thread = threading.Thread(target=value_and_grad, args=(target, u))
        thread.start()
        thread.join()
        value_and_grad(target, u[:1])
    assert counter.gradients == 1


# The compiled target


def assert_compiled_equals_eager(model: Model, beta: float, u: Tensor) -> None:
    expected = value_and_grad(model.target(beta), u)
    model.compiled = True
    target = model.target(beta)
    with counting_evaluations() as counter:
        found = value_and_grad(target, u)
    assert counter.gradients == len(u)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert not ours.requires_grad
    torch.testing.assert_close(target(u), expected[0])
    assert all(parameter.grad is None for parameter in model.parameters())
    model.compiled = False


@pytest.mark.parametrize("make", [toy_model, image_model])
def test_what_is_compiled_equals_the_eager_target(make, monkeypatch):
    """The function that the compiler is given, without the compiler."""
    monkeypatch.setattr(targets, "as_graphs", torch.no_grad())
    model = make()
    u = model.prior.draw(5, generator(14))
    for beta in [1.0, 30.0]:
        assert_compiled_equals_eager(model, beta, u)
    with frozen(model):
        assert_compiled_equals_eager(model, 1.0, u)


@pytest.mark.slow
def test_the_compiled_target_equals_the_eager_one():
    model = toy_model()
    for count, beta in [(5, 1.0), (5, 2.0), (3, 2.0)]:
        assert_compiled_equals_eager(model, beta, model.prior.draw(count, generator(15)))
    with torch.no_grad():
        next(model.energy.parameters()).add_(0.1)  # training goes on: the graph follows its weights
    assert_compiled_equals_eager(model, 2.0, model.prior.draw(5, generator(16)))


def test_models_without_compilation_do_not_import_the_compiler():
    assert isinstance(toy_model().target(), targets.Tilted)
    assert np.isfinite(float(toy_model().target()(torch.zeros(1, 2)).detach()))


def test_an_energy_that_couples_chains_is_refused():
    model = Model(StandardNormal((2,)), nn.Identity(), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"one number for each point, \(4,\), not \(4, 1\)"):
        value_and_grad(model.target(), torch.zeros(4, 2))


def test_a_box_has_two_ends():
    with pytest.raises(ValueError, match="low below high"):
        Box((2,), 1.0, -1.0)
