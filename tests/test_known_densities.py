"""Densities of the data are those that they were drawn from, and divergences from them are known."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from laws import Z, generator
from numpy.random import RandomState
from scipy import stats
from torch import Tensor, nn

from ebmzoo.data import (
    AnatomyMixture,
    AnatomyRings,
    EightGaussians,
    KnownDensity,
    Mixture,
    Rings,
    SwissRoll,
    TwentyFiveGaussians,
)
from ebmzoo.data.dataset import check_split
from ebmzoo.data.toy import Planar
from ebmzoo.fields import FieldError
from ebmzoo.metrics import ForwardKL, ReverseKL
from ebmzoo.metrics.density import DensityDivergence
from ebmzoo.models import Box, Flat, Model, Normal, Prior, StandardNormal
from ebmzoo.recipes import Samples, Score
from ebmzoo.samplers import Direct
from ebmzoo.store import canonical, describe

# (data, half the side of a square that holds them, cells along it)
KNOWN: list[tuple[Planar, float, int]] = [
    (AnatomyRings(40_000), 5.0, 250),
    (AnatomyMixture(40_000), 2.0, 100),
    (Rings(40_000), 3.6, 250),
    (EightGaussians(40_000), 1.6, 400),
    (TwentyFiveGaussians(40_000), 1.6, 400),
]
known = pytest.mark.parametrize(
    ("data", "half", "cells"), KNOWN, ids=[type(case[0]).__name__ for case in KNOWN]
)


def grid(half: float, cells: int) -> tuple[Tensor, float]:
    """Returns the centres of cells of a square, and a cell's area."""
    return ForwardKL(half, cells).centres(), (2 * half / cells) ** 2


# Densities


@known
def test_a_density_has_mass_one(data: KnownDensity, half: float, cells: int) -> None:
    points, area = grid(half, cells)
    log_density = data.log_density(points)
    assert log_density.shape == (cells**2,)
    assert log_density.dtype == torch.float64
    assert float(log_density.exp().sum() * area) == pytest.approx(1, abs=1e-6)


@known
def test_points_are_of_the_law_of_the_density(data: KnownDensity, half: float, cells: int) -> None:
    """Means over the data are integrals against the density; its entropy tells a wrong width or weight."""
    points, area = grid(half, cells)
    weights = data.log_density(points).exp() * area
    statistics: list[Callable[[Tensor], Tensor]] = [
        data.log_density,
        lambda x: x[:, 0],
        lambda x: x[:, 0] * x[:, 1],
        lambda x: x.norm(dim=1),
        lambda x: x.norm(dim=1).square(),
        lambda x: torch.cos(3 * x[:, 0]),
    ]
    x = data.load("test").double()
    for statistic in statistics:
        values = statistic(x)
        error = Z * float(values.std()) / math.sqrt(len(x))
        assert float(values.mean()) == pytest.approx(float(weights @ statistic(points)), abs=error)


@known
def test_a_density_is_the_same_in_single_precision_and_has_a_score(
    data: KnownDensity, half: float, cells: int
) -> None:
    x = data.load("test")[:1000].requires_grad_()
    single, double = data.log_density(x), data.log_density(x.detach().double())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=1e-3, rtol=1e-4)
    (score,) = torch.autograd.grad(single.sum(), x)
    assert score.isfinite().all()
    # far away no term underflows, and at the origin the norm has no slope
    far = torch.tensor([[100.0, -100.0], [0.0, 0.0]], requires_grad=True)
    (score,) = torch.autograd.grad(data.log_density(far).sum(), far)
    assert data.log_density(far).isfinite().all()
    assert score.isfinite().all()


def test_a_mixture_is_that_of_scipy() -> None:
    data = EightGaussians()
    x = 0.9 * data.load("test")[:50].double() + 0.1
    modes = [stats.multivariate_normal(c.numpy(), data.sigma**2) for c in data.centres().double()]
    expected = torch.stack([torch.from_numpy(mode.logpdf(x.numpy())) for mode in modes]).logsumexp(0)
    torch.testing.assert_close(data.log_density(x), expected - math.log(8), atol=0, rtol=1e-12)


def test_a_ring_is_the_rice_law_of_its_radius() -> None:
    data = AnatomyRings()
    radius = torch.linspace(0.05, 5.0, 200, dtype=torch.float64)
    x = torch.polar(radius, 7 * radius)
    rice = [stats.rice(r / 0.15, scale=0.15).pdf(radius.numpy()) for r in data.radii]
    expected = torch.from_numpy(sum(rice) / 4) / (2 * math.pi * radius)
    torch.testing.assert_close(data.log_density(torch.view_as_real(x)).exp(), expected, atol=0, rtol=1e-9)


def test_the_laws_are_those_that_the_docstrings_say() -> None:
    mixture = AnatomyMixture()
    neighbours = torch.pdist(mixture.centres().double()).min() / mixture.sigma
    assert float(neighbours) == pytest.approx(5.1, abs=0.01)
    torch.testing.assert_close(mixture.centres().norm(dim=1), torch.ones(8))
    x = torch.from_numpy(AnatomyRings(40_000).draw(RandomState(0)))
    for index, mean in enumerate(torch.bincount(x.norm(dim=1).round().long().clamp(1, 4))[1:] / len(x)):
        assert abs(float(mean) - 0.25) < Z * math.sqrt(3 / 16 / len(x)) + 1e-3, index  # 3.3 std to a border


# Divergences from them


@dataclass(frozen=True)
class Blot(Mixture):
    """One Gaussian of the plane."""

    mean: tuple[float, float] = (0.0, 0.0)
    sigma: float = 1.0
    shape: tuple[int, ...] = (2,)

    def centres(self) -> Tensor:
        return torch.tensor([self.mean])

    def load(self, split: str) -> Tensor:
        check_split(split)
        raise AssertionError("the split is not looked at")


class Quadratic(nn.Module):
    """The energy of a Gaussian, up to a constant that its partition must take away."""

    def __init__(self, mean: tuple[float, float], std: float, constant: float = 3.0):
        super().__init__()
        self.std, self.constant = std, constant
        self.register_buffer("mean", torch.tensor(mean))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.std).square().sum(1) / 2 + self.constant


class Negative(nn.Module):
    """The energy that is right for a data set."""

    def __init__(self, data: KnownDensity):
        super().__init__()
        self.data = data

    def forward(self, x: Tensor) -> Tensor:
        return -self.data.log_density(x)


class Distance(nn.Module):
    """An energy with a kink, as networks of rectifiers have them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sum(1)


def in_plane(energy: nn.Module, prior: Prior | None = None) -> Model:
    return Model(prior or Flat(Normal((2,))), nn.Identity(), energy).double()


def value(metric: DensityDivergence, model: object, data: object) -> float:
    return metric.value(model, data, "test", lambda _: None, generator(0))


def gaussian_kl(mean: float, std: float, other_mean: float, other_std: float) -> float:
    """The divergence of one Gaussian of the line from another."""
    ratio = std / other_std
    return 0.5 * (ratio**2 + ((mean - other_mean) / other_std) ** 2 - 1) - math.log(ratio)


@pytest.mark.parametrize(("mean", "std"), [((0.0, 0.0), 1.0), ((0.5, -1.0), 0.6), ((0.3, 0.0), 1.3)])
def test_divergences_of_gaussians(mean: tuple[float, float], std: float) -> None:
    data, model = Blot((-0.2, 0.4), 0.8), in_plane(Quadratic(mean, std))
    forward = sum(gaussian_kl(m, 0.8, n, std) for m, n in zip(data.mean, mean, strict=True))
    reverse = sum(gaussian_kl(n, std, m, 0.8) for m, n in zip(data.mean, mean, strict=True))
    assert value(ForwardKL(9.0, 100), model, data) == pytest.approx(forward, abs=1e-6)
    assert value(ReverseKL(9.0, 100), model, data) == pytest.approx(reverse, abs=1e-6)
    assert type(value(ForwardKL(9.0, 100), model, data)) is float


def test_beta_cools_the_energy_and_not_the_prior() -> None:
    data = Blot((0.0, 0.0), 1.0)
    model = in_plane(Quadratic((0.0, 0.0), 1.0))
    expected = 2 * gaussian_kl(0, 1, 0, 0.5)
    assert value(ForwardKL(8.0, 160, beta=4.0), model, data) == pytest.approx(expected, abs=1e-6)
    tilted = in_plane(Quadratic((0.0, 0.0), 1.0), StandardNormal((2,)))
    expected = 2 * gaussian_kl(0, 1, 0, 1 / math.sqrt(5))
    assert value(ForwardKL(8.0, 160, beta=4.0), tilted, data) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL])
@known
def test_the_right_energy_has_no_divergence(
    kind: type[DensityDivergence], data: KnownDensity, half: float, cells: int
) -> None:
    energy = Negative(data)  # in single precision, as trained ones are
    model = Model(Flat(Normal((2,))), nn.Identity(), energy)
    assert value(kind(half, cells), model, data) == pytest.approx(0, abs=1e-4)


def test_a_missing_mode_and_a_false_one_are_told_apart() -> None:
    """What maximum likelihood shuns, the reverse divergence hardly sees."""
    data, one = AnatomyMixture(), in_plane(Quadratic((1.0, 0.0), 0.15))
    assert math.log(8) - 0.05 < value(ReverseKL(2.5, 100), one, data) < math.log(8)  # neighbours reach in
    assert value(ForwardKL(2.5, 100), one, data) > 20
    broad = in_plane(Quadratic((0.0, 0.0), 0.75))
    assert value(ForwardKL(4.0, 200), broad, data) < value(ReverseKL(4.0, 200), broad, data)


def test_a_flat_model_in_a_box_has_the_entropy_of_the_data() -> None:
    data = AnatomyMixture()
    model = in_plane(Quadratic((0.0, 0.0), 1e6), Box((2,), -2.0, 2.0))
    points, area = grid(2.0, 100)
    log_p = data.log_density(points)
    expected = float((log_p.exp() * log_p).sum() * area) + 2 * math.log(4)
    assert value(ForwardKL(2.0, 100), model, data) == pytest.approx(expected, abs=1e-5)


def test_a_box_that_leaves_data_out_is_infinitely_far() -> None:
    data, model = AnatomyMixture(), in_plane(Quadratic((0.0, 0.0), 1.0), Box((2,), -1.0, 1.0))
    assert value(ForwardKL(2.0, 100), model, data) == math.inf
    inside = value(ReverseKL(1.0, 50), model, Blot(sigma=0.2))
    assert value(ReverseKL(2.0, 100), model, Blot(sigma=0.2)) == pytest.approx(inside, abs=1e-5)


def test_finer_cells_converge() -> None:
    """At a kink with the square of the width, elsewhere at once."""
    data, model = Blot((0.1, 0.0), 0.5), in_plane(Distance())
    values = [value(ForwardKL(9.0, points), model, data) for points in (47, 93, 185, 369, 737)]
    steps = [abs(after - before) for before, after in pairwise(values)]
    assert all(3 < before / after < 5 for before, after in pairwise(steps))
    smooth = in_plane(Quadratic((0.0, 0.3), 0.7))
    assert value(ForwardKL(5.0, 20), smooth, data) == pytest.approx(
        value(ForwardKL(5.0, 200), smooth, data), abs=1e-6
    )


@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL])
def test_a_square_that_holds_not_all_is_an_error(kind: type[DensityDivergence]) -> None:
    data = AnatomyRings()
    right = in_plane(Negative(data))
    with pytest.raises(
        ValueError, match=rf"holds 0.96.. of the mass of AnatomyRings; raise {kind.__name__}.half_width"
    ):
        value(kind(4.0), right, data)
    with pytest.raises(ValueError, match=rf"mass of AnatomyMixture.*{kind.__name__}.points"):
        value(kind(2.0, 10), in_plane(Negative(AnatomyMixture())), AnatomyMixture())
    wide = in_plane(Quadratic((0.0, 0.0), 3.0))
    with pytest.raises(
        ValueError, match=rf"of the model; raise {kind.__name__}.half_width.*far from the data"
    ):
        value(kind(5.0), wide, data)
    aside = in_plane(Quadratic((8.0, 0.0), 0.5))
    with pytest.raises(ValueError, match=r"holds 0.0000 of the mass of the model"):
        value(kind(5.0), aside, data)


def test_an_energy_that_is_no_number_is_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0] > 1, torch.nan, x.square().sum(1))

    with pytest.raises(ValueError, match="no density at 200 of 400 points"):
        value(ForwardKL(2.0, 20), _shifted(Broken()), Blot(sigma=0.3))


def _shifted(energy: nn.Module) -> Model:
    """A model whose energy sees the plane moved to the right, by one."""

    class Moved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return energy(x + 1)

    return in_plane(Moved())


@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL])
def test_what_has_no_density_is_refused(kind: type[DensityDivergence]) -> None:
    data, metric = AnatomyMixture(), kind(2.0, 50)
    energy = Negative(data)
    with pytest.raises(ValueError, match=f"'{metric.label}' needs data of the plane.*SwissRoll"):
        value(metric, in_plane(energy), SwissRoll())
    for model in (
        Model(StandardNormal((2,)), nn.Linear(2, 2), energy),
        Model(Flat(Normal((3,))), nn.Identity(), energy),
    ):
        with pytest.raises(ValueError, match="whose decoder is the identity"):
            value(metric, model, data)
    with pytest.raises(FieldError, match="on a trained model, not on samples"):
        value(metric, data.load("test"), data)


@pytest.mark.parametrize("kind", [ForwardKL, ReverseKL])
def test_settings_are_checked_described_and_part_of_the_protocol(kind: type[DensityDivergence]) -> None:
    metric = kind(5.0)
    protocol = json.loads(json.dumps(metric.protocol()))
    assert all(protocol[field.name] == getattr(metric, field.name) for field in dataclasses.fields(metric))
    assert canonical(describe(metric)) != canonical(describe(kind(5.0, 401)))
    for wrong in ({"half_width": 0.0}, {"points": 1}, {"beta": 0.0}):
        with pytest.raises(FieldError, match=next(iter(wrong))):
            dataclasses.replace(metric, **wrong)


def test_labels_differ_and_models_are_what_is_scored() -> None:
    from toys import METHODS

    assert ForwardKL(1.0).label != ReverseKL(1.0).label
    trained = METHODS["Contrastive learning"]
    assert Score(trained, ForwardKL(1.0)).label == "forward KL"
    with pytest.raises(FieldError, match="a trained model, since reverse KL"):
        Score(Samples(trained, Direct(), 10), ReverseKL(1.0))
