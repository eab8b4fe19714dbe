"""Generalized energy-based models: what learns and what stays, their options, their likelihoods."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from laws import Z, generator
from torch import Tensor, nn
from toys import METHODS, Blob

from ebmzoo.energies import FlowEnergy, MLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.flows import RealNVP
from ebmzoo.generators import MLPGenerator
from ebmzoo.metrics import ExactPartition, NegativeLogLikelihood, SampledPartition
from ebmzoo.models import Box, Flat, Model, NoEnergy, Normal, StandardNormal, log_base
from ebmzoo.training import Adam, Batches, differentiate
from ebmzoo_bases.flow import FlowLikelihood
from ebmzoo_gebm.criteria import DonskerVaradhan, FenchelKALE, PreconditionedPartition
from ebmzoo_gebm.gebm import GEBM, GEBMLearner, Squashed, WarmUp
from ebmzoo_gebm.measures import KALE
from ebmzoo_gebm.penalties import GradientPenalty, ParameterPenalty
from ebmzoo_gebm.ratio import DensityRatio, ParameterOffset, TruncatedEnergy, energies_of_data_and_samples

# Learning


def learnt(method: GEBM, base: Model | None, data: Tensor, steps: int) -> GEBMLearner:
    torch.manual_seed(0)
    model = method.model(tuple(data.shape[1:]), base)
    learner = method.learner(model)
    assert isinstance(learner, GEBMLearner)
    batches, rng = Batches(data, None, 500, generator(1)), generator(2)
    for _ in range(steps):
        learner.step(batches, rng)
    return learner


@pytest.mark.parametrize(
    "criterion",
    [FenchelKALE(), FenchelKALE(PreconditionedPartition()), DonskerVaradhan()],
    ids=["Fenchel", "preconditioned", "Donsker-Varadhan"],
)
def test_an_energy_learns_the_logarithm_of_the_ratio(criterion: FenchelKALE | DonskerVaradhan):
    """Over the base N(0, I), data of N(0.5, 0.8² I): E + c is -log dp/db where there are data."""
    data = 0.5 + 0.8 * torch.randn(20_000, 2, generator=generator(0))
    base = Model(StandardNormal((2,)), nn.Identity(), NoEnergy())
    method = GEBM(
        MLPEnergy(32, 2), criterion=criterion, base_steps=0, energy_steps=1,
        energy_optimizer=Adam(2e-3, 0.5, 0.9), initial_samples=1000,
    )  # fmt: skip
    learner = learnt(method, base, data, 1500)
    x = data[:2000]
    exact = 0.5 * ((x - 0.5) / 0.8).square().sum(1) + 2 * math.log(0.8) - 0.5 * x.square().sum(1)
    with torch.no_grad():
        found = learner.model.energy(x) + learner.log_z
    assert float((found - exact).abs().mean()) < 0.12
    assert float((found - exact).mean()) == pytest.approx(0, abs=0.08)
    metric = KALE(SampledPartition(50_000))
    divergence = 2 * (0.5 * (0.64 + 0.25 - 1) - math.log(0.8))
    fixed = Blob(20_000, 0.5, 0.8)
    estimate = metric.value(learner.model, Unclamped(fixed), "test", lambda _: None, generator(5))
    assert estimate == pytest.approx(divergence, abs=0.03)


class Unclamped(Blob):
    """Normal data that are not cut off."""

    def __init__(self, blob: Blob):
        super().__init__(blob.count, blob.mean, blob.std)

    def load(self, split: str) -> Tensor:
        return self.mean + self.std * torch.randn(self.count, 2, generator=generator(9))


def test_base_and_energy_learn_together():
    """An affine base comes to the data, and there is then nothing for the energy to find."""
    data = torch.tensor([0.8, -0.4]) + 0.6 * torch.randn(20_000, 2, generator=generator(0))
    method = GEBM(
        MLPEnergy(32, 2), Affine(), 2, energy_steps=3, penalties=(GradientPenalty(0.02),),
        energy_optimizer=Adam(2e-3, 0.5, 0.9), base_optimizer=Adam(4e-3, 0.5, 0.9),
    )  # fmt: skip
    learner = learnt(method, None, data, 700)
    with torch.no_grad():
        samples = learner.model.decoder(learner.model.prior.draw(20_000, generator(3)))
    torch.testing.assert_close(samples.mean(0), torch.tensor([0.8, -0.4]), atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(0), torch.tensor([0.6, 0.6]), atol=0.12, rtol=0)


class Affine:
    """An architecture of decoders that are a matrix and a shift."""

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        return nn.Linear(latent, shape[0])


@pytest.mark.parametrize("name", ["GEBM, energy only", "GEBM, base only"])
def test_what_does_not_learn_stays_as_it_is(name: str, tmp_path):
    from ebmzoo.store import Store

    trained = METHODS[name]
    store = Store(tmp_path)
    base, model = store.get(trained.base), store.get(trained)
    part = "decoder" if name.endswith("energy only") else "energy"
    before, after = getattr(base, part).state_dict(), getattr(model, part).state_dict()
    assert before.keys() == after.keys() != set()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_batch_norm_and_spectral_norm_of_what_does_not_learn_stay():
    decoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    energy = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 1)), nn.Flatten(0))
    base = Model(StandardNormal((2,)), decoder, energy)
    data = torch.randn(64, 2, generator=generator(0))
    for method, part in ((GEBM(MLPEnergy(4, 1), base_steps=0), "decoder"), (GEBM(energy_steps=0), "energy")):
        model = method.model((2,), base)
        before = copy.deepcopy(getattr(model, part).state_dict())
        learner = method.learner(model)
        for _ in range(3):
            learner.step(Batches(data, None, 16, generator(1)), generator(2))
        for key, value in getattr(model, part).state_dict().items():
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("evaluating", [True, False])
def test_spectral_norm_of_the_energy_rests_while_the_base_learns(evaluating: bool):
    """In evaluation mode. Else its vectors are those of one more pass than the energy learns from."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(30, 30))
    energy = nn.Sequential(layer, nn.Linear(30, 1), nn.Flatten(0))
    base = Model(StandardNormal((30,)), nn.Linear(30, 30), energy)
    model = GEBM(evaluating=evaluating).model((30,), base)
    learner = GEBM(evaluating=evaluating).learner(model)
    before = {name: buffer.clone() for name, buffer in model.energy.named_buffers()}
    learner._update_base(16, generator(0))
    moved = [not torch.equal(buffer, before[name]) for name, buffer in model.energy.named_buffers()]
    assert moved == [not evaluating] * 2


def test_the_log_partition_begins_where_it_is():
    r"""For E = a x + b over a standard normal base, log Z = |a|² / 2 - b."""
    energy = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    with torch.no_grad():
        energy[0].weight.copy_(torch.tensor([[0.6, -0.3]]))
        energy[0].bias.fill_(1.5)
    method = GEBM(base_steps=0, initial_samples=100_000)
    learner = method.learner(method.model((2,), Model(StandardNormal((2,)), nn.Identity(), energy)))
    learner._begin(generator(0))
    error = Z * math.sqrt(math.expm1(0.45) / 100_000)
    assert float(learner.log_z.detach()) == pytest.approx(0.45 / 2 - 1.5, abs=error)


@pytest.mark.parametrize(("evaluating", "batches"), [(True, 1), (False, 1 + 3 + 1)])
def test_batch_norm_of_the_base_sees_the_samples_that_it_learns_from(evaluating: bool, batches: int):
    """And, where nothing is in evaluation mode, those of three updates of the energy and the beginning's."""
    decoder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    base = Model(StandardNormal((2,)), decoder, MLPEnergy(4, 1).energy((2,)))
    method = GEBM(energy_steps=3, initial_samples=50, evaluating=evaluating)
    model = method.model((2,), base)
    data = torch.randn(64, 2, generator=generator(0))
    method.learner(model).step(Batches(data, None, 16, generator(1)), generator(2))
    assert int(model.decoder[1].num_batches_tracked) == batches
    assert all(module.training for module in model.decoder.modules())


def test_going_on_with_an_energy_that_knows_its_base():
    """It knows the base that learns, not the one that was."""
    method = GEBM(DensityRatio(RealNVP(2, 8, 1)), RealNVP(2, 8, 1), 2)
    torch.manual_seed(0)
    first = method.model((2,), None)
    second = GEBM().model((2,), first)
    (known,) = second.energy._base
    assert known is second.decoder is not first.decoder


# Options of the official code


def test_squashed_gradients():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([0.5, -1.0, 10.0, 0.0])
    Squashed().apply([parameter])
    torch.testing.assert_close(parameter.grad, torch.tensor([0.8, -1.0, 20 / 101, 0.0]))


def test_preconditioned_partition():
    r"""From the gradient 1 - Z e^{-c} to e^c / Z - 1; as far as digits go where no sample has weight."""
    c, z = 0.7, 3.0
    gradient = torch.tensor(1 - z * math.exp(-c))
    assert float(PreconditionedPartition().direction(gradient)) == pytest.approx(
        math.exp(c) / z - 1, rel=1e-5
    )
    assert float(PreconditionedPartition().direction(torch.tensor(1.0))) == 2.0**23
    assert PreconditionedPartition().direction(torch.tensor(math.nan)).isnan()


def test_truncated_energy():
    energy = TruncatedEnergy(MLPEnergy(4, 1), floor=-0.1).energy((2,))
    x = torch.randn(500, 2, generator=generator(0)) * 50
    inner = energy.energy(x).detach()
    torch.testing.assert_close(energy(x), torch.relu(inner + 0.1) - 0.1)
    assert float(inner.min()) < -0.1


def test_parameter_penalty():
    energy = nn.Linear(3, 2)
    squares = sum(float(p.detach().square().sum()) for p in energy.parameters())
    found = ParameterPenalty(0.5).value(energy, torch.empty(0), torch.empty(0), generator(0))
    assert float(found.detach()) == pytest.approx(0.5 * squares / (2 + 3 + 2), rel=1e-6)


def test_gradient_penalty_is_centred_at_zero():
    energy = nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    slope = float(energy[0].weight.detach().square().sum())
    found = GradientPenalty(2.0).value(energy, torch.randn(4, 2), torch.randn(12, 2), generator(0))
    assert float(found.detach()) == pytest.approx(2 * slope, rel=1e-6)


def test_warm_up_gives_the_energy_more_updates():
    data = torch.randn(64, 2, generator=generator(0))
    method = GEBM(MLPEnergy(4, 1), MLPGenerator(4, 1), 2, energy_steps=2, warm_up=WarmUp(7, 1, 3))
    learner = method.learner(method.model((2,), None))
    batches = Batches(data, None, 16, generator(1))
    drawn = []
    for _ in range(5):
        before = batches_drawn(batches)
        learner.step(batches, generator(2))
        drawn.append(batches_drawn(batches) - before)
    assert drawn == [7, 2, 2, 7, 2]


def batches_drawn(batches: Batches) -> int:
    """Counts draws, by wrapping once."""
    if not hasattr(batches, "count"):
        draw, batches.count = batches.draw, 0

        def counted():
            batches.count += 1
            return draw()

        batches.draw = counted
    return batches.count


# The likelihood


def test_the_likelihood_of_every_parametrisation_is_that_of_the_flow():
    data = Blob(50)
    torch.manual_seed(0)
    flow = FlowLikelihood(RealNVP(2, 8, 1)).model((2,), None)
    expected = -float(flow.decoder.log_prob(data.load("test")).detach().mean())
    metric = NegativeLogLikelihood()

    def value(model: Model, metric: NegativeLogLikelihood = metric) -> float:
        return metric.value(model, data, "test", lambda _: None, generator(0))

    assert value(flow) == pytest.approx(expected, abs=1e-6)
    energy = FlowEnergy(RealNVP(2, 8, 1)).energy((2,))
    energy.flow.load_state_dict(flow.decoder.state_dict())
    assert value(Model(Flat(Normal((2,))), nn.Identity(), energy)) == pytest.approx(expected, abs=1e-6)
    gebm = GEBM(DensityRatio(RealNVP(2, 8, 1), ParameterOffset()), RealNVP(2, 8, 1), 2)
    model = gebm.model((2,), None)
    model.energy.flow.load_state_dict(flow.decoder.state_dict())
    assert value(model) == pytest.approx(expected, abs=1e-5)
    sampled = value(model, NegativeLogLikelihood(SampledPartition(100_000)))
    assert sampled == pytest.approx(expected, abs=0.05)


def test_log_base_without_a_flow():
    x = torch.tensor([[0.5, 0.5]])
    assert float(log_base(Model(Box((2,)), nn.Identity(), NoEnergy()), x)) == pytest.approx(-2 * math.log(2))
    with pytest.raises(ValueError, match="flow or the identity"):
        log_base(Model(StandardNormal((2,)), nn.Linear(2, 2), NoEnergy()), x)


def test_likelihoods_that_are_not_known_are_refused():
    data, metric = Blob(8), NegativeLogLikelihood()
    model = Model(StandardNormal((2,)), RealNVP(2, 8, 1).build(2, (2,)), MLPEnergy(4, 1).energy((2,)))
    with pytest.raises(ValueError, match=r"partition = @SampledPartition\(\)"):
        metric.value(model.requires_grad_(False), data, "test", lambda _: None, generator(0))
    for each in (metric, KALE()):
        with pytest.raises(FieldError, match="not on samples"):
            each.value(torch.zeros(3, 2), data, "test", lambda _: None, generator(0))
    assert isinstance(ExactPartition().log(model_of_flow(), generator(0)), Tensor)


def model_of_flow() -> Model:
    return FlowLikelihood(RealNVP(2, 8, 1)).model((2,), None)


# Mistakes


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"bind Trained\.base to a trained one, or GEBM\.generator"):
        GEBM(MLPEnergy(4, 1)).model((2,), None)
    base = Model(StandardNormal((2,)), nn.Identity(), NoEnergy())
    with pytest.raises(ValueError, match=r"GEBM needs an energy"):
        GEBM().model((2,), base)
    with pytest.raises(ValueError, match="DensityRatio needs a flow, such as RealNVP, as its base"):
        GEBM(DensityRatio(RealNVP())).model((2,), base)
    with pytest.raises(ValueError, match="DensityRatio needs a flow, such as RealNVP, as its flow"):
        DensityRatio(MLPGenerator(4, 1)).over((2,), base.decoder)
    wide = Model(Normal((2,), 2.0), RealNVP().build(2, (2,)), NoEnergy())
    with pytest.raises(ValueError, match="standard normal latents, and the prior of this one is a Normal"):
        GEBM(DensityRatio(RealNVP())).model((2,), wide)
    still = GEBM(MLPEnergy(4, 1)).model((2,), base)
    with pytest.raises(FieldError, match="base_steps should be 0, as the Identity has no parameters"):
        GEBM().learner(still)
    with pytest.raises(ValueError, match="FlowLikelihood needs a flow"):
        FlowLikelihood(MLPGenerator(4, 1)).model((2,), None)
    with pytest.raises(ValueError, match="FlowEnergy needs a flow"):
        FlowEnergy(MLPGenerator(4, 1)).energy((2,))
    for wrong in (
        lambda: GEBM(energy_steps=0, base_steps=0),
        lambda: GEBM(samples_per_datum=0),
        lambda: GEBM(latent=0),
        lambda: GEBM(energy_steps=-1),
        lambda: WarmUp(0),
        lambda: WarmUp(every=0),
        lambda: GradientPenalty(0.0),
        lambda: ParameterPenalty(-1.0),
        lambda: TruncatedEnergy(MLPEnergy(4, 1), floor=5.0),
    ):
        with pytest.raises(FieldError):
            wrong()


@pytest.mark.parametrize("ratio", [True, False], ids=["ratio", "network"])
def test_energies_of_data_and_samples_are_those_of_each_alone(ratio: bool):
    torch.manual_seed(0)
    base = RealNVP(3, 8, 1).build(3, (3,)).double()
    architecture = DensityRatio(RealNVP(2, 8, 1), ParameterOffset()) if ratio else None
    energy = architecture.over((3,), base) if architecture else MLPEnergy(8, 1).energy((3,))
    data, u = torch.randn(2, 20, 3, generator=generator(0), dtype=torch.float64)
    data = data[:7]
    of_data, samples, of_samples = energies_of_data_and_samples(base, energy.double(), data, u)
    torch.testing.assert_close(samples, base(u).detach())
    torch.testing.assert_close(of_data, energy(data))
    torch.testing.assert_close(of_samples, energy(samples))
    assert not samples.requires_grad
    differentiate(of_data.sum() - of_samples.sum(), energy.parameters())
    assert all(p.grad is None for p in base.parameters())
    assert all(p.grad is not None for p in energy.parameters())
