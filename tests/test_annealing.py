"""The log-partition by annealing: where it is known, and on which side of it the estimates are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from laws import Z, assert_sample_mean, generator, grid
from torch import Generator, Tensor, nn
from toys import Blob

from ebmzoo.data.dataset import Dataset
from ebmzoo.energies import FlowEnergy, MLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.flows import RealNVP
from ebmzoo.metrics import (
    AnnealedPartition,
    AnnealingGap,
    NegativeLogLikelihood,
    NormalReference,
    ReverseAnnealedPartition,
    SampledPartition,
)
from ebmzoo.models import (
    Box,
    Flat,
    Model,
    NoEnergy,
    Normal,
    Prior,
    StandardNormal,
    counting_evaluations,
    log_base,
    rebased,
)
from ebmzoo.samplers import HMC, MALA, Chains, FromData, FromPrior, Langevin, Stage, State, recording_chains
from ebmzoo.store import canonical, describe


@dataclass(frozen=True)
class Known:
    """A model, its log-partition, and independent points of it."""

    model: Model
    log_z: float
    draw: Callable[[int, Generator], Tensor]


class Formula(nn.Module):
    """An energy by a formula, from points (B, d) to (B,)."""

    def __init__(self, formula: Callable[[Tensor], Tensor]):
        super().__init__()
        self.formula, self.largest = formula, 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        return self.formula(x)


def made(prior: Prior, formula: Callable[[Tensor], Tensor], decoder: nn.Module | None = None) -> Model:
    return Model(prior, decoder or nn.Identity(), Formula(formula)).double().eval()


def normals(mean: Tensor, std: Tensor) -> Callable[[int, Generator], Tensor]:
    return lambda count, rng: mean + std * torch.randn(count, len(mean), generator=rng, dtype=torch.float64)


def flat_normal(dim: int) -> Known:
    """Without a prior: an energy of normal coordinates, of several means and widths."""
    mean = torch.linspace(-1.0, 1.0, dim).double()
    std = torch.linspace(0.5, 1.5, dim).double()
    model = made(Flat(Normal((dim,))), lambda u: 0.5 * ((u - mean) / std).square().sum(1))
    return Known(model, float((std * math.sqrt(2 * math.pi)).log().sum()), normals(mean, std))


def tilted_normal(dim: int, precision: float = 3.0, scale: float = 1.0) -> Known:
    r"""A standard normal prior, decoded to :math:`s u`, under the energy :math:`\lambda |x - m|^2 / 2`."""
    centre = torch.linspace(-1.0, 1.5, dim).double()
    total = 1 + precision * scale**2
    log_z = -0.5 * dim * math.log(total) - 0.5 * precision / total * float(centre.square().sum())
    decoder = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(decoder.weight).data.mul_(scale)
    decoder.requires_grad_(False)
    draw = normals(precision * scale * centre / total, torch.tensor(total**-0.5))
    model = made(
        StandardNormal((dim,)),
        lambda x: 0.5 * precision * (x - centre).square().sum(1),
        nn.Identity() if scale == 1 else decoder,
    )
    return Known(model, log_z, draw)


def boxed_slope() -> Known:
    """A linear energy on [-1, 1]^2, of truncated exponentials."""
    slope = torch.tensor([1.0, -4.0]).double()

    def draw(count: int, rng: Generator) -> Tensor:
        uniform = torch.rand(count, 2, generator=rng, dtype=torch.float64)
        return -(slope.exp() - uniform * (slope.exp() - (-slope).exp())).log() / slope

    log_z = float((slope.sinh() / slope).log().sum())
    return Known(made(Box((2,)), lambda u: (u * slope).sum(1)), log_z, draw)


@cache
def double_well() -> Known:
    """Two unequal modes under a standard normal prior, by quadrature."""
    model = made(StandardNormal((1,)), lambda u: (2 * (u.square() - 1).square() + 0.7 * u)[:, 0])
    points = grid(-5.0, 5.0, 20_001)
    density = model.target()(torch.from_numpy(points)[:, None]).exp().numpy()
    cumulative = np.cumsum(density) * (points[1] - points[0])

    def draw(count: int, rng: Generator) -> Tensor:
        uniform = torch.rand(count, generator=rng, dtype=torch.float64).numpy()
        return torch.from_numpy(np.interp(uniform, cumulative / cumulative[-1], points))[:, None]

    return Known(model, math.log(cumulative[-1]), draw)


def mixture() -> Known:
    """Two normal laws of the plane, one of them twice as likely, without a prior."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double()
    shares, std = torch.tensor([1.0, 2.0]).double(), 0.8

    def energy(u: Tensor) -> Tensor:
        return -torch.logsumexp(shares.log() - (u[:, None] - means).square().sum(2) / (2 * std**2), 1)

    def draw(count: int, rng: Generator) -> Tensor:
        which = torch.multinomial(shares, count, replacement=True, generator=rng)
        return means[which] + std * torch.randn(count, 2, generator=rng, dtype=torch.float64)

    return Known(made(Flat(Normal((2,))), energy), math.log(3 * 2 * math.pi * std**2), draw)


def flow_energy() -> Known:
    """The minus log-density of a flow whose weights are not those it begins with; in single precision."""
    torch.manual_seed(0)
    energy = FlowEnergy(RealNVP(3, 16, 1)).energy((2,))
    for parameter in energy.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    energy.requires_grad_(False)
    model = Model(Flat(Normal((2,), 1.5)), nn.Identity(), energy).eval()
    return Known(model, 0.0, lambda count, rng: energy.flow(torch.randn(count, 2, generator=rng)))


KNOWN: dict[str, Callable[[], Known]] = {
    "flat, 2 dimensions": lambda: flat_normal(2),
    "flat, 20 dimensions": lambda: flat_normal(20),
    "normal, 2 dimensions": lambda: tilted_normal(2),
    "normal, 20 dimensions": lambda: tilted_normal(20),
    "normal, decoded": lambda: tilted_normal(3, 1.0, 2.0),
    "box": boxed_slope,
    "double well": double_well,
    "mixture": mixture,
    "flow": flow_energy,
}
every_known = pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)

ANNEALED = AnnealedPartition(chains=1500, temperatures=24, kernel=HMC(0.3, 3), batch=1500)


def weights_both_ways(known: Known, annealed: AnnealedPartition, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log-weights from the reference, and from exact points, less what they should be on average."""
    rng = generator(seed)
    forward = annealed.log_weights(known.model, rng)
    reverse = annealed.reverse_log_weights(known.model, known.draw(annealed.chains, rng), rng)
    return forward - known.log_z, reverse + known.log_z


# Where log Z is known


@every_known
@pytest.mark.parametrize(("kernel", "steps"), [(HMC(0.3, 3), 1), (MALA(0.15), 4)], ids=str)
def test_weights_average_to_z_and_back_to_its_inverse(
    known: Callable[[], Known], kernel: HMC | MALA, steps: int
):
    annealed = replace(ANNEALED, temperatures=100, kernel=kernel, steps=steps)
    forward, reverse = weights_both_ways(known(), annealed)
    assert forward.dtype == reverse.dtype == torch.float64
    assert max(float(forward.std()), float(reverse.std())) < 1, "the weights are too uneven for this check"
    assert_sample_mean(forward.exp(), 1.0, "the weight of a chain from the reference")
    assert_sample_mean(reverse.exp(), 1.0, "the weight of a chain from the model")


@every_known
def test_one_chain_is_below_on_average_and_above_on_the_way_back(known: Callable[[], Known]):
    """Strictly: the weights vary, so that Jensen's inequality is seen."""
    forward, reverse = weights_both_ways(known(), replace(ANNEALED, temperatures=4))
    for log_weights in (forward, reverse):
        error = float(log_weights.std()) / math.sqrt(len(log_weights))
        assert float(log_weights.mean()) < -Z * error


@every_known
def test_log_z_is_between_the_estimates_on_average(known: Callable[[], Known]):
    known, rng = known(), generator(3)
    annealed = replace(ANNEALED, chains=20, temperatures=6)
    lower = torch.stack([annealed.log(known.model, rng) for _ in range(15)])
    upper = torch.stack([annealed.reverse(known.model, known.draw(20, rng), rng) for _ in range(15)])
    assert lower.shape == upper.shape == (15,)
    assert float(lower.mean()) < known.log_z + Z * float(lower.std()) / math.sqrt(15)
    assert float(upper.mean()) > known.log_z - Z * float(upper.std()) / math.sqrt(15)


@pytest.mark.parametrize("known", [lambda: flat_normal(20), double_well, boxed_slope])
def test_the_gap_closes_as_temperatures_are_added(known: Callable[[], Known]):
    """For slow changes the gap of single chains is inversely proportional to their number."""
    known, gaps, errors = known(), [], []
    for temperatures in (4, 16, 64):
        parts = weights_both_ways(known, replace(ANNEALED, temperatures=temperatures))
        gaps.append(-sum(float(part.mean()) for part in parts))
        errors.append(math.hypot(*(float(part.std()) / math.sqrt(len(part)) for part in parts)))
    for coarse, fine in ((0, 1), (1, 2)):
        assert gaps[fine] + Z * math.hypot(errors[fine], errors[coarse]) < gaps[coarse]
    assert 0 < gaps[2] < 0.5 * gaps[1]


def test_another_reference_leads_to_the_same():
    known = tilted_normal(2)
    for scale in (0.7, 1.5):
        annealed = replace(ANNEALED, reference=NormalReference(scale))
        for log_weights in weights_both_ways(known, annealed):
            assert_sample_mean(log_weights.exp(), 1.0)


# One temperature is importance sampling


def test_one_temperature_is_importance_sampling():
    known, plain = tilted_normal(3), replace(ANNEALED, chains=500, temperatures=1)
    sampled = SampledPartition(500).log(known.model, generator(5))
    assert float(plain.log(known.model, generator(5))) == pytest.approx(float(sampled), abs=1e-12)
    points = known.draw(500, generator(6))
    harmonic = -torch.logsumexp(known.model.energy(points), 0) + math.log(500)
    assert float(plain.reverse(known.model, points, generator(7))) == pytest.approx(
        float(harmonic), abs=1e-12
    )


def test_over_a_flat_prior_the_integral_is_that_of_the_energy_alone():
    known = flat_normal(2)
    plain = AnnealedPartition(500, temperatures=1, reference=NormalReference(2.0))
    law = torch.distributions.Normal(torch.zeros(2).double(), 2.0)
    points = Normal((2,), 2.0).double().draw(500, generator(5))
    ratio = -known.model.energy(points) - law.log_prob(points).sum(1)
    expected = torch.logsumexp(ratio, 0) - math.log(500)
    assert float(plain.log(known.model, generator(5))) == pytest.approx(float(expected), abs=1e-12)


# Likelihoods


LIKELY: dict[str, tuple[Callable[[], Known], Callable[[Tensor], Tensor]]] = {
    "flat": (
        lambda: flat_normal(2),
        torch.distributions.Normal(torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 1.5])).log_prob,
    ),
    "normal": (
        lambda: tilted_normal(2),
        torch.distributions.Normal(torch.tensor([-0.75, 1.125]), torch.tensor(0.5)).log_prob,
    ),
    "box": (
        boxed_slope,
        lambda x: -x * torch.tensor([1.0, -4.0]) - torch.tensor([2 * math.sinh(1), math.sinh(4) / 2]).log(),
    ),
}


@pytest.mark.parametrize(("known", "log_density"), LIKELY.values(), ids=LIKELY)
def test_the_likelihood_is_that_of_the_normalised_density(
    known: Callable[[], Known], log_density: Callable[[Tensor], Tensor]
):
    model, data, annealed = known().model, Blob(200), replace(ANNEALED, temperatures=100)
    expected = -float(log_density(data.load("test").double()).sum(1).mean())
    weights = annealed.log_weights(model, generator(8)).exp()
    error = float(weights.std() / weights.mean()) / math.sqrt(len(weights))
    value = NegativeLogLikelihood(annealed).value(model, data, "test", lambda _: None, generator(8))
    assert error < 0.03
    assert abs(value - expected) < Z * error


@pytest.mark.parametrize(
    "prior", [StandardNormal((2,)), Box((2,)), Flat(Normal((2,)))], ids=lambda p: type(p).__name__
)
def test_it_works_as_it_comes_and_leaves_a_model_as_it_was(prior: Prior):
    torch.manual_seed(0)
    model = Model(prior, nn.Identity(), MLPEnergy(8, 1).energy((2,)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metric = NegativeLogLikelihood(AnnealedPartition(temperatures=5))
    assert math.isfinite(metric.value(model, Blob(20), "test", lambda _: None, generator(0)))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_without_an_energy_has_log_z_zero():
    model = Model(StandardNormal((2,)), nn.Identity(), NoEnergy())
    for reference, error in ((ANNEALED.reference, 0.0), (NormalReference(1.0), 1e-5)):
        annealed = replace(ANNEALED, chains=10, reference=reference)
        assert float(annealed.log(model, generator(0))) == pytest.approx(0.0, abs=error)


# The same law with another prior


def test_a_rebased_model_is_the_same_law():
    for known in (flat_normal(2), boxed_slope(), tilted_normal(2, 1.0, 2.0)):
        model, points = known.model, known.draw(10, generator(0))
        assert rebased(model, model.prior) is model
        other = rebased(model, Normal((2,), 1.7).double())
        assert torch.allclose(other.target()(points), model.target()(points), atol=1e-12)
    flat = flat_normal(2).model
    based = log_base(rebased(flat, flat.prior.law()), points)
    assert torch.allclose(based, StandardNormal((2,)).log_prob(points))


def test_a_normal_prior_is_normal():
    prior, law = Normal((3, 2), 0.4), torch.distributions.Normal(0.0, 0.4)
    u = prior.draw(2000, generator(0))
    assert torch.allclose(prior.log_prob(u), law.log_prob(u).flatten(1).sum(1), atol=1e-4)
    (score,) = torch.autograd.grad(prior.log_prob(u.requires_grad_()).sum(), u)
    u = u.detach()
    assert torch.allclose(prior.plus_score(torch.ones_like(u), u), 1 + score, atol=1e-4)
    assert_sample_mean(u.square(), 0.16)
    flat = Flat(Normal((3, 2), 0.4))
    assert torch.equal(flat.draw(9, generator(1)), prior.draw(9, generator(1)))
    assert flat.law().scale == 0.4
    assert StandardNormal((2,)).double().law().log_prob(torch.zeros(1, 2).double()).dtype == torch.float64


# What it costs, and what it depends on


def test_a_chain_takes_one_gradient_besides_those_of_the_kernel():
    known, rng = flat_normal(2), generator(0)
    annealed = replace(ANNEALED, chains=7, temperatures=5, steps=2)
    for run in (
        lambda: annealed.log(known.model, rng),
        lambda: annealed.reverse(known.model, known.draw(7, rng), rng),
    ):
        with counting_evaluations() as counted:
            run()
        assert (counted.gradients, counted.energies) == (7 * (1 + 4 * 2 * 3), 0)


@dataclass(frozen=True)
class Suspicious(HMC):
    """Evaluates again what it is told of where the chains are."""

    def step(self, state: State, target, rng: Generator):
        for told, found in zip(state, self.init(state.position, target), strict=True):
            assert torch.allclose(told, found, rtol=1e-9, atol=1e-9)
        return super().step(state, target, rng)


@pytest.mark.parametrize("known", [flat_normal(2), tilted_normal(3, 1.0, 2.0), boxed_slope()])
def test_a_change_of_temperature_gives_what_an_evaluation_would(known: Known):
    annealed = AnnealedPartition(50, 10, Suspicious(0.4, 3))
    annealed.log(known.model, generator(0))
    annealed.reverse(known.model, known.draw(50, generator(1)), generator(0))


def test_the_temperatures_go_from_the_reference_to_the_model():
    for steepness in (0.01, 4.0, 20.0):
        betas = AnnealedPartition(temperatures=1000, steepness=steepness).betas()
        assert (len(betas), betas[0], betas[-1]) == (1001, 0.0, 1.0)
        assert betas[500] == 0.5
        assert all(after > before for before, after in pairwise(betas))
    middle = 1 / (1 + math.exp(-4 * 0.6))
    low, high = (1 / (1 + math.exp(4 * sign)) for sign in (1, -1))
    assert AnnealedPartition(temperatures=10).betas()[8] == pytest.approx((middle - low) / (high - low))
    even = AnnealedPartition(temperatures=10, steepness=0.01).betas()
    assert even == pytest.approx([k / 10 for k in range(11)], abs=1e-5)
    assert AnnealedPartition(temperatures=1).betas() == [0.0, 1.0]


def test_the_generator_decides_everything():
    known, annealed = boxed_slope(), replace(ANNEALED, chains=20, temperatures=5)
    points = known.draw(20, generator(0))
    torch_state = torch.random.get_rng_state()
    for run in (
        lambda rng: annealed.log_weights(known.model, rng),
        lambda rng: annealed.reverse_log_weights(known.model, points, rng),
    ):
        assert torch.equal(run(generator(1)), run(generator(1)))
        assert not torch.equal(run(generator(1)), run(generator(2)))
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_no_more_chains_move_at_once_than_are_allowed():
    known = flat_normal(2)
    annealed = replace(ANNEALED, chains=1000, temperatures=8, batch=96)
    forward, reverse = weights_both_ways(known, annealed)
    assert known.model.energy.largest == 96
    for log_weights in (forward, reverse):
        assert log_weights.shape == (1000,)
        assert_sample_mean(log_weights.exp(), 1.0)


def test_what_kernels_do_can_be_recorded():
    with recording_chains() as record:
        replace(ANNEALED, chains=10, temperatures=5).log(flat_normal(2).model, generator(0))
    assert 0 < record.summary()["acceptance"] <= 1


# The gap


@dataclass(frozen=True)
class Exactly:
    """Chains begin at points of a known law, by its name."""

    name: str

    def position(self, model: Model, count: int, rng: Generator) -> Tensor:
        return KNOWN[self.name]().draw(count, rng)


def gap(metric: AnnealingGap, model: Model, seed: int = 0, data: Dataset | None = None) -> float:
    return metric.value(model, data or Blob(8), "test", lambda _: None, generator(seed))


def test_the_gap_is_above_zero_on_average_and_small_after_many_temperatures():
    known, sampler = flat_normal(20), Chains((), Exactly("flat, 20 dimensions"))
    metric = AnnealingGap(sampler, replace(ANNEALED, chains=1, temperatures=4))
    gaps = torch.tensor([gap(metric, known.model, seed) for seed in range(40)])
    assert float(gaps.mean()) > Z * float(gaps.std()) / math.sqrt(40)
    fine = replace(ANNEALED, chains=500, temperatures=100)
    errors = [float(part.exp().std()) / math.sqrt(500) for part in weights_both_ways(known, fine)]
    assert Z * math.hypot(*errors) < 0.1 * float(gaps.mean())
    assert abs(gap(AnnealingGap(sampler, fine), known.model)) < Z * math.hypot(*errors)


def test_the_gap_is_that_of_the_two_partitions():
    model = tilted_normal(2).model
    annealed = replace(ANNEALED, chains=10, temperatures=5)
    sampler = Chains((Stage(HMC(0.4, 3), 10),), FromPrior())
    rng = generator(4)
    upper = ReverseAnnealedPartition(sampler, annealed).log(model, rng)
    assert gap(AnnealingGap(sampler, annealed), model, 4) == float(upper - annealed.log(model, rng))


def test_data_or_long_chains_may_stand_in_for_samples():
    known = tilted_normal(2)
    for sampler in (Chains((Stage(HMC(0.4, 3), 15),)), Chains((), FromData(Blob(500, 0.0)))):
        value = gap(AnnealingGap(sampler, replace(ANNEALED, chains=300)), known.model)
        assert math.isfinite(value)
    exact = Chains((Stage(HMC(0.4, 3), 40),))
    annealed = replace(ANNEALED, chains=2000)
    upper = ReverseAnnealedPartition(exact, annealed).log(known.model, generator(0))
    assert float(upper) == pytest.approx(known.log_z, abs=0.1)
    metric = NegativeLogLikelihood(ReverseAnnealedPartition(exact, annealed))
    lower = NegativeLogLikelihood(annealed).value(known.model, Blob(8), "test", lambda _: None, generator(0))
    assert metric.value(known.model, Blob(8), "test", lambda _: None, generator(0)) == pytest.approx(
        lower, abs=0.1
    )


def test_what_neither_direction_finds_is_in_no_gap():
    """Half of the mass is a spike that no chain meets; the points to go back from have none of it either."""

    def energy(u: Tensor) -> Tensor:
        wide, spike = -0.5 * u.square(), -0.5 * ((u - 8) / 1e-4).square() - math.log(1e-4)
        return -torch.logaddexp(wide, spike)[:, 0] + math.log(2 * math.sqrt(2 * math.pi))

    model = made(Flat(Normal((1,), 2.0)), energy)
    annealed, rng = replace(ANNEALED, chains=500), generator(0)
    lower = annealed.log(model, rng)
    upper = annealed.reverse(model, torch.randn(500, 1, generator=rng, dtype=torch.float64), rng)
    assert abs(float(upper - lower)) < 0.1
    assert float(upper) == pytest.approx(-math.log(2), abs=0.1), "log Z is zero"


def test_what_the_gap_says_of_itself():
    metric = AnnealingGap(Chains((Stage(MALA(0.1), 5),)))
    assert metric.label == "AIS gap"
    assert metric.protocol() == {"unit": "nats", "chains": 100, "temperatures": 1000}
    assert canonical(describe(metric)) == canonical(describe(replace(metric)))
    assert "NormalReference" in canonical(describe(AnnealedPartition(reference=NormalReference())))


# Errors


def test_weights_that_are_not_finite_are_named():
    hole = made(StandardNormal((2,)), lambda u: torch.where(u[:, 0] > 0, math.nan, u[:, 1]))
    with pytest.raises(ValueError, match="of 100 annealed chains have no finite weight"):
        AnnealedPartition(temperatures=3).log(hole, generator(0))
    boxed = boxed_slope().model
    with pytest.raises(ValueError, match="3 of 3 annealed chains"):
        AnnealedPartition(temperatures=3).reverse(boxed, torch.full((3, 2), 1.5), generator(0))


@pytest.mark.parametrize("field", ["chains", "temperatures", "steps", "steepness", "batch"])
def test_fields_that_are_not_positive_are_named(field: str):
    with pytest.raises(FieldError, match=rf"AnnealedPartition\.{field} should be"):
        replace(AnnealedPartition(), **{field: 0})


def test_other_wrong_fields_are_named():
    with pytest.raises(FieldError, match="kernel should be a kernel with a Metropolis test"):
        AnnealedPartition(kernel=Langevin(0.1))
    with pytest.raises(FieldError, match="steepness should be between 0 and 20"):
        AnnealedPartition(steepness=21.0)
    with pytest.raises(FieldError, match="scale"):
        NormalReference(0.0)
    for wrong in (AnnealingGap, ReverseAnnealedPartition):
        with pytest.raises(FieldError, match="sampler should be chains at beta = 1"):
            wrong(Chains((), beta=0.5))
    with pytest.raises(FieldError, match="not on samples"):
        gap(AnnealingGap(Chains(())), torch.zeros(3, 2))


def test_samples_over_a_flat_prior_are_weighed_by_the_law_that_they_are_of():
    known = flat_normal(2)
    found = SampledPartition(200_000).log(known.model, generator(7))
    assert float(found) == pytest.approx(known.log_z, abs=0.05)
