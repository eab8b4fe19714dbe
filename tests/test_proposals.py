"""Rejection, independence Metropolis-Hastings and resampling give the model's law; transport does not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from laws import COUNT, Gaussian, Z, assert_follows, assert_mean, generator, grid, on_grid
from scipy import stats
from torch import Tensor, nn

from ebmzoo.data.dataset import Dataset
from ebmzoo.fields import FieldError
from ebmzoo.models import Evaluations, Model, StandardNormal, counting_evaluations
from ebmzoo.samplers import (
    HMC,
    Anywhere,
    Chains,
    DataTransport,
    IndependenceMetropolis,
    Interval,
    LatentTransport,
    Rejection,
    Resampling,
    Sphere,
    SphereAsPublished,
    Stage,
    recording_chains,
)
from ebmzoo.samplers.transport import OFFSET, steepest


class Stretch(nn.Module):
    """The decoder x = A u, whose pushforward of N(0, I) is N(0, A Aᵀ)."""

    def __init__(self, matrix: list[list[float]]):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(matrix, dtype=torch.float64))

    def forward(self, u: Tensor) -> Tensor:
        return u @ self.matrix.T


class MinusLogRatio(nn.Module):
    """The energy of an optimal critic: minus the log-ratio of the data's density to the generator's."""

    def __init__(self, data: Gaussian, covariance: Tensor):
        super().__init__()
        self.data = data
        self.generated = torch.distributions.MultivariateNormal(torch.zeros(data.dim).double(), covariance)

    def forward(self, x: Tensor) -> Tensor:
        return self.generated.log_prob(x) - self.data.log_prob(x)


def pair(data: Gaussian, matrix: list[list[float]]) -> Model:
    """A generator of N(0, A Aᵀ) with the optimal critic against ``data``."""
    decoder = Stretch(matrix)
    energy = MinusLogRatio(data, decoder.matrix @ decoder.matrix.T)
    return Model(StandardNormal((data.dim,)), decoder, energy).double()


LINE, LINE_DATA = [[2.0]], Gaussian((1.0,), (0.8,))
PLANE, PLANE_DATA = [[1.5, 0.5], [-0.5, 1.2]], Gaussian((0.3, -0.4), (0.9, 0.6))
CASES = {"line": (LINE_DATA, LINE), "plane": (PLANE_DATA, PLANE)}
every_case = pytest.mark.parametrize(("data", "matrix"), CASES.values(), ids=CASES)

POINTS = grid(-12, 14, 4001)


def ratio(points: np.ndarray) -> np.ndarray:
    """The density ratio of data and generator on the line."""
    return stats.norm.pdf(points, 1.0, 0.8) / stats.norm.pdf(points, 0.0, 2.0)


@every_case
@pytest.mark.parametrize(
    "sampler",
    [
        Rejection(percentile=None),
        IndependenceMetropolis(60),
        Resampling(600),
        Chains((Stage(HMC(0.25, 4), 40),)),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_an_optimal_critic_gives_the_law_of_the_data(data, matrix, sampler):
    """MH converges as (1 - 1/max ratio)^60 < 1e-6; resampling's bias, some 1/600, is below the tolerance."""
    count = 4000 if isinstance(sampler, Resampling) else COUNT // 2
    assert_follows(data, sampler.draw(pair(data, matrix), count, generator(1)))


@every_case
@pytest.mark.parametrize("sampler", [LatentTransport(), DataTransport()], ids=lambda s: type(s).__name__)
def test_transport_gives_another(data, matrix, sampler):
    with pytest.raises(AssertionError):
        assert_follows(data, sampler.draw(pair(data, matrix), 2000, generator(2)))


def test_rejection_accepts_as_theory_says():
    model = pair(LINE_DATA, LINE)
    with recording_chains() as record, counting_evaluations() as evaluations:
        Rejection(percentile=None).draw(model, COUNT, generator(3))
    expected = 1 / ratio(POINTS).max()
    proposed = evaluations.energies - 50_000
    error = Z * math.sqrt(expected * (1 - expected) / proposed)
    assert record.summary()["acceptance"] == pytest.approx(expected, abs=error)
    assert evaluations == Evaluations(energies=50_000 + proposed)


@dataclass(frozen=True)
class Stationary(Dataset):
    """Points of the data's law on the line."""

    shape: tuple[int, ...] = (1,)

    def load(self, split: str) -> Tensor:
        return LINE_DATA.draw(200_000, generator(4))


def test_metropolis_accepts_as_theory_says():
    """From the stationary law, at every step: the mean of min(1, w(x') / w(x)) under data and generator."""
    with recording_chains() as record, counting_evaluations() as evaluations:
        drawn = IndependenceMetropolis(5, Stationary()).draw(pair(LINE_DATA, LINE), COUNT, generator(5))
    width, w = POINTS[1] - POINTS[0], ratio(POINTS)
    at, proposed = stats.norm.pdf(POINTS, 1.0, 0.8), stats.norm.pdf(POINTS, 0.0, 2.0)
    chance = np.minimum(1, w[None, :] / w[:, None].clip(1e-300))
    expected = float((at[:, None] * proposed[None, :] * chance).sum() * width**2)
    acceptance = record.summary()["acceptance"]
    # chains are independent, the five steps of a chain are not: as if there were one step to a chain
    assert acceptance == pytest.approx(expected, abs=Z * math.sqrt(0.25 / COUNT))
    # a chain never moves if it rejects five times: the mean of (1 - a(x))^5 over where it stands
    a = (proposed[None, :] * chance).sum(1) * width
    stuck = float((at * (1 - a) ** 5).sum() * width)
    found = record.summary()["never_moved"]
    assert found == pytest.approx(stuck, abs=Z * math.sqrt(stuck * (1 - stuck) / COUNT))
    again = evaluations.energies - 5 * COUNT
    assert again == round(found * COUNT) * 6
    assert not torch.isin(drawn, Stationary().load("valid")).any()


def test_metropolis_begins_at_data_of_the_right_shape():
    with pytest.raises(FieldError, match=r"IndependenceMetropolis\.start should be data of the shape \(2,\)"):
        IndependenceMetropolis(5, Stationary()).draw(pair(PLANE_DATA, PLANE), 3, generator(5))


class Sign(nn.Module):
    """The decoder to the two points -1 and 1, which are equally likely."""

    def forward(self, u: Tensor) -> Tensor:
        return u.sign()


class Scaled(nn.Module):
    """The energy -c x."""

    def __init__(self, c: float):
        super().__init__()
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        return -self.c * x.flatten(1).sum(1)


def coin(c: float) -> Model:
    """A base on -1 and 1 whose energies differ by 2 c."""
    return Model(StandardNormal((1,)), Sign(), Scaled(c)).double()


def assert_share(drawn: Tensor, expected: float) -> None:
    assert_mean((drawn > 0).double(), expected, math.sqrt(expected * (1 - expected)))


def test_resampling_of_two_has_its_closed_law():
    drawn = Resampling(2).draw(coin(1.0), COUNT, generator(6))
    assert_share(drawn, 0.25 + 0.5 * math.e**2 / (1 + math.e**2))


def test_two_proposals_count_as_two_if_they_weigh_the_same():
    """And as (a + b)² / (a² + b²) if not, which half of all pairs do."""
    with recording_chains() as record:
        Resampling(2).draw(coin(1.0), COUNT, generator(17))
    ratio = math.e**2
    unequal = (ratio + 1) ** 2 / (ratio**2 + 1)
    error = Z * (2 - unequal) / 2 / math.sqrt(COUNT)
    assert record.summary()["effective_proposals"] == pytest.approx((2 + unequal) / 2, abs=error)


def test_resampling_counts_its_effective_proposals():
    with recording_chains() as record:
        Resampling(4000).draw(coin(0.5), 200, generator(7))
    a, b = math.exp(0.5), math.exp(-0.5)
    expected = 4000 * ((a + b) / 2) ** 2 / ((a * a + b * b) / 2)
    assert record.summary()["effective_proposals"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("kind", [Rejection, IndependenceMetropolis, Resampling])
def test_beta_multiplies_the_energy(kind, beta):
    settings = {
        Rejection: {"percentile": None, "burn_in": 1000},
        IndependenceMetropolis: {"proposals": 400},
        Resampling: {"proposals": 400},
    }
    drawn = kind(beta=beta, **settings[kind]).draw(coin(0.8), 4000, generator(8))
    assert_share(drawn, 1 / (1 + math.exp(-1.6 * beta)))


@pytest.mark.parametrize(("percentile", "top"), [(80.0, True), (20.0, False)])
def test_rejection_shifts_by_a_percentile(percentile, top):
    """Of two points, the better has the higher half of the odds, and the other the lower."""
    epsilon, gap = 1e-3, 1.0
    drawn = Rejection(percentile, 1000, epsilon).draw(coin(gap / 2), COUNT, generator(9))
    better = -math.log(-math.expm1(-epsilon))
    worse = -gap - math.log(-math.expm1(-gap - epsilon))
    gamma = better if top else worse
    chances = [1 / (1 + math.exp(gamma - odds)) for odds in (better, worse)]
    assert_share(drawn, chances[0] / sum(chances))


class Rare(nn.Module):
    """Lower by two in a tail that one point in 100 000 comes from."""

    def forward(self, x: Tensor) -> Tensor:
        return -2.0 * (x.flatten() > 4.265)


def test_rejection_remembers_its_burn_in():
    """With the rare maximum from the burn-in, e^-2 of the proposals are kept; without it, all."""
    model = Model(StandardNormal((1,)), nn.Identity(), Rare())
    for burn_in, expected in ((1_000_000, math.exp(-2)), (1, 1.0)):
        with recording_chains() as record:
            Rejection(None, burn_in).draw(model, 10, generator(21))
        assert record.summary()["acceptance"] == pytest.approx(expected, abs=0.02)


def test_rejection_gives_up():
    class Needle(nn.Module):
        """Lowest in a far tail, which the burn-in is made to find."""

        def forward(self, x: Tensor) -> Tensor:
            return -40 * x.flatten(1).sum(1)

    model = Model(StandardNormal((1,)), nn.Identity(), Needle())
    with pytest.raises(ValueError, match="patience"):
        Rejection(percentile=None, patience=1).draw(model, 20_000, generator(10))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: Rejection(percentile=101.0), "Rejection.percentile"),
        (lambda: Rejection(burn_in=0), "Rejection.burn_in"),
        (lambda: IndependenceMetropolis(0), "IndependenceMetropolis.proposals"),
        (lambda: Resampling(0), "Resampling.proposals"),
        (lambda: Resampling(beta=0.0), "Resampling.beta"),
        (lambda: LatentTransport(0), "LatentTransport.steps"),
        (lambda: DataTransport(beta1=1.0), "DataTransport.beta1"),
        (lambda: DataTransport(low=1.0, high=0.0), "DataTransport.high"),
        (lambda: Interval(1.0, 1.0), "Interval.high"),
    ],
)
def test_ranges(wrong, named):
    with pytest.raises(FieldError, match=named):
        wrong()


# Transport


def test_a_latent_step_is_its_formula():
    """One step on D(x) = c x; in one dimension the constant is |c| and the pull of the norm a sign."""
    model = Model(StandardNormal((1,)), nn.Identity(), Scaled(3.0)).double()
    rng = generator(11)
    model.prior.draw(200, rng)
    start = model.prior.draw(5, rng)
    drawn = LatentTransport(1, 0.1).draw(model, 5, generator(11))
    torch.testing.assert_close(drawn, start - 0.1 * (1.0 - 3.0 / 3.0))
    two = Model(StandardNormal((2,)), nn.Identity(), Scaled(3.0)).double()
    rng = generator(12)
    pairs = two.prior.draw(200, rng)
    start = two.prior.draw(5, rng)
    constant = steepest(pairs, -3.0 * pairs.sum(1))
    pull = torch.full((2,), OFFSET / (OFFSET * math.sqrt(2)), dtype=torch.float64)
    expected = start - 0.1 * (pull - 3.0 / constant)
    torch.testing.assert_close(LatentTransport(1, 0.1).draw(two, 5, generator(12)), expected)


def test_data_transport_takes_steps_of_adam_and_stays_within_its_interval():
    """Adam's first step has the size of its learning rate in every coordinate."""
    model = Model(StandardNormal((2,)), Stretch(PLANE), Scaled(3.0)).double()
    rng = generator(13)
    for _ in range(10):
        model.prior.draw(200, rng)
    start = model.decoder(model.prior.draw(6, rng))
    with counting_evaluations() as evaluations:
        drawn = DataTransport(1).draw(model, 6, generator(13))
    torch.testing.assert_close((drawn - start).abs(), torch.full_like(start, 0.01), rtol=1e-3, atol=0)
    assert evaluations == Evaluations(gradients=6, energies=2000, decodings=6)
    rng = generator(13)
    data = [model.decoder(model.prior.draw(200, rng)) for _ in range(10)]
    slopes = [float(steepest(x, -3.0 * x.sum(1))) for x in data]
    with recording_chains() as record:
        DataTransport(1).draw(model, 6, generator(13))
    assert record.summary()["lipschitz"] == pytest.approx(sum(slopes) / 10)
    held = DataTransport(5, low=-0.1, high=0.1).draw(model, 6, generator(13))
    assert float(held.abs().max()) <= 0.1


def test_the_steepest_slope():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 4.0], [1.0, 2.0]])
    assert float(steepest(points, torch.tensor([0.0, 0.0, 5.0, 4.0]))) == 2.0


def test_regions():
    z = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    gradient = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    assert torch.equal(Anywhere().direction(z, gradient), gradient)
    tangent = Sphere().direction(z, gradient)
    assert float((tangent * z).sum()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(gradient - tangent, z * 7 / 25)
    published = SphereAsPublished().direction(z, gradient)
    torch.testing.assert_close(gradient - published, z * 7 / math.sqrt(2))
    assert Interval(-2.0, 3.5).point(z).tolist() == [[3.0, 3.5]]
    for region in (Anywhere(), Sphere(), SphereAsPublished()):
        assert torch.equal(region.point(z), z)


@pytest.mark.parametrize(
    "sampler",
    [Rejection(burn_in=100), IndependenceMetropolis(5), Resampling(5), LatentTransport(3), DataTransport(3)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_sampling_is_a_function_of_the_generator_and_leaves_the_model_alone(sampler):
    model = pair(PLANE_DATA, PLANE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = sampler.draw(model, 7, generator(14))
    assert drawn.shape == (7, 2)
    assert not drawn.requires_grad
    assert torch.equal(sampler.draw(model, 7, generator(14)), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_ratio_on_the_grid_is_that_of_the_energy():
    model = pair(LINE_DATA, LINE)
    np.testing.assert_allclose(np.exp(-on_grid(model.energy, POINTS[1500:2500])), ratio(POINTS[1500:2500]))
