"""Bases of two maps: what each learns from, what stays as it is, and the way back."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from laws import assert_normal_scores, generator
from torch import Generator, Tensor, nn
from toys import PICTURES

from ebmzoo.flows import Glow, LatentGlow, RealNVP
from ebmzoo.generators import MLPGenerator
from ebmzoo.metrics import BitsPerDimension
from ebmzoo.models import Box, Inverse, Model, NoEnergy, Posterior, StandardNormal, dequantised
from ebmzoo.training import Adam, Batches, Mapped
from ebmzoo_bases.encoders import MLPEncoder
from ebmzoo_bases.flow import FlowLikelihood
from ebmzoo_bases.gan import GAN
from ebmzoo_bases.latent import GLF, SecondStage
from ebmzoo_bases.vae import VAE, Gaussian


def glf() -> GLF:
    return GLF(4, MLPGenerator(16, 1), MLPEncoder(16, 1), LatentGlow(2, 8), Gaussian(0.5), Adam(1e-2))


def batches(count: int = 64, size: int = 16) -> Batches:
    data = torch.randn(count, 3, generator=generator(0))
    return Batches(data, None, size, generator(1))


# Generative latent flow


def test_codes_are_not_moved_to_where_they_are_likely():
    """What the encoder and decoder do is the same with another flow; what the flow does is not."""
    torch.manual_seed(0)
    first = glf().model((3,), None)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.decoder[0].parameters():
            parameter.normal_(generator=generator(2))
    for model in (first, second):
        learner = glf().learner(model)
        data = batches()
        for _ in range(5):
            learner.step(data, generator(3))
    for name in ("decoder.1", "posterior.first"):
        one, other = (dict(m.get_submodule(name).state_dict()) for m in (first, second))
        assert one
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_the_way_back_leads_to_the_reconstruction():
    torch.manual_seed(0)
    model = glf().model((3,), None)
    learner, data = glf().learner(model), batches()
    learner.step(data, generator(3))
    model.eval()
    x = torch.randn(5, 3)
    u = model.posterior.draw(x, generator(4))
    torch.testing.assert_close(
        model.decoder(u), model.decoder[1](model.posterior.first.encoder(x)), rtol=1e-4, atol=1e-5
    )


def test_codes_of_glf_become_normal():
    torch.manual_seed(0)
    model, data = glf().model((3,), None), batches(2000, 200)
    learner = glf().learner(model)
    before = float(learner.step(data, generator(3))["code_likelihood"])
    for _ in range(300):
        report = learner.step(data, generator(3))
    u = model.eval().posterior.draw(data.data, generator(4)).detach()
    assert abs(float(u.mean())) < 0.1
    assert float(u.std()) == pytest.approx(1, abs=0.1)
    assert float(report["reconstruction"]) > -3.0
    assert before != float(report["code_likelihood"])


# The second stage


class Doubling(Posterior):
    """Infers twice the datum."""

    def draw(self, x: Tensor, rng: Generator) -> Tensor:
        del rng
        return 2 * x


def base() -> Model:
    torch.manual_seed(0)
    return Model(StandardNormal((3,)), nn.Linear(3, 3), NoEnergy(), posterior=Doubling())


def test_the_second_stage_learns_from_inferred_variables():
    method = SecondStage(FlowLikelihood(RealNVP(2, 8, 1), Adam(1e-3)))
    model = method.model((3,), base())
    flow, data = model.decoder[0], batches()
    expected = -copy.deepcopy(flow).log_prob(2 * copy.deepcopy(data).draw().data).mean()
    report = method.learner(model).step(data, generator(3))
    torch.testing.assert_close(report["negative_log_likelihood"], expected.detach())


@pytest.mark.parametrize(
    "inner",
    [
        FlowLikelihood(RealNVP(2, 8, 1), Adam(1e-2)),
        VAE(3, MLPGenerator(8, 1), MLPEncoder(8, 1), Gaussian(0.3), Adam(1e-2)),
    ],
    ids=["flow", "VAE"],
)
def test_the_first_stage_does_not_change(inner: FlowLikelihood | VAE):
    first, method = base(), SecondStage(inner)
    weights = {name: value.clone() for name, value in first.state_dict().items()}
    model = method.model((3,), first)
    learner, data = method.learner(model), batches()
    for _ in range(3):
        assert "decoded" not in learner.step(data, generator(3))
    assert all(torch.equal(value, weights[name]) for name, value in first.state_dict().items())
    for name, value in first.decoder.state_dict().items():
        assert torch.equal(value, model.decoder[1].state_dict()[name])
    u = model.prior.draw(6, generator(5))
    torch.testing.assert_close(model.decoder(u), first.decoder(model.decoder[0](u)))


def test_a_second_stage_needs_the_way_back():
    blind = Model(StandardNormal((3,)), nn.Linear(3, 3), NoEnergy())
    method = SecondStage(FlowLikelihood(RealNVP()))
    with pytest.raises(ValueError, match=r"bind Trained\.base"):
        method.model((3,), None)
    with pytest.raises(ValueError, match=r"Trained\.base does not"):
        method.model((3,), blind)
    with pytest.raises(ValueError, match=r"SecondStage\.method does not"):
        SecondStage(GAN(3, MLPGenerator(), MLPCritic())).model((3,), base())


class MLPCritic:
    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))


def test_minibatches_go_through_a_map():
    plain, mapped = batches(), Mapped(batches(), lambda x: -x)
    assert torch.equal(mapped.draw().data, -plain.draw().data)
    state = mapped.state()
    following = mapped.draw().data
    mapped.restore(state)
    assert torch.equal(mapped.draw().data, following)


# Discrete data


def test_noise_fills_the_gaps_between_values():
    x = torch.tensor([0.0, 0.25, 0.5]).expand(20_000, 3)
    noisy = dequantised(x, 0.25, generator(6))
    assert bool(((noisy >= x - 0.125) & (noisy < x + 0.125)).all())
    assert_normal_scores(4 * (noisy - x) + 0.5)


@pytest.mark.parametrize("levels", [17, 256])
def test_a_flat_law_over_all_values_takes_their_logarithm(levels: int):
    """One that is twice as wide takes one bit more."""
    width = 2 / (levels - 1)
    metric = BitsPerDimension(width)
    for times, more in ((1, 0.0), (2, 1.0)):
        flat = Box((1, 8, 8), -1.0 - width / 2, -1.0 - width / 2 + times * levels * width)
        model = Model(flat, nn.Identity(), NoEnergy())
        found = metric.value(model, PICTURES, "test", lambda recipe: None, generator(7))
        expected = torch.log2(torch.tensor(float(levels))).item() + more
        assert found == pytest.approx(expected, abs=1e-5)


def test_bits_of_a_fresh_glow_by_hand():
    """Its couplings do nothing yet and its mixing is a rotation: it makes four kinds of pixels standard."""
    width, batch = 2 / 255, 3 * PICTURES.load("valid") + 1
    torch.manual_seed(0)
    flow = Glow(blocks=1, couplings=1, hidden=8).build(64, (1, 8, 8))
    model = Model(StandardNormal((64,)), flow, NoEnergy(), posterior=Inverse(flow))
    flow.log_prob(batch)  # the first one, which the normalisation is set by
    found = BitsPerDimension(width).value(model.eval(), PICTURES, "test", lambda recipe: None, generator(8))

    def kinds(x: Tensor) -> list[Tensor]:
        return [x[:, 0, top::2, left::2].double() for top in (0, 1) for left in (0, 1)]

    nats = 32 * math.log(2 * math.pi)
    noisy = dequantised(PICTURES.load("test"), width, generator(8))
    for first, later in zip(kinds(batch), kinds(noisy), strict=True):
        mean, deviation = float(first.mean()), float(first.std())
        squares = float(((later - mean) / deviation).square().flatten(1).sum(1).mean())
        nats += 0.5 * squares + 16 * math.log(deviation)
    assert found == pytest.approx(nats / (64 * math.log(2)) - math.log2(width), rel=1e-5)
