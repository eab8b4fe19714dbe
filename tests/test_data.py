"""Data sets hold what their docstrings say, the same at every call."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from scipy.stats import chi2, norm

from ebmzoo.data import (
    AnatomyMixture,
    AnatomyRings,
    Checkerboard,
    Dataset,
    Digits,
    EightGaussians,
    Pinwheel,
    Rings,
    SwissRoll,
    TwentyFiveGaussians,
    TwoMoons,
)
from ebmzoo.data.dataset import SPLITS
from ebmzoo.data.images import stratified
from ebmzoo.data.toy import _drawn
from ebmzoo.fields import FieldError
from ebmzoo.store import canonical, describe

ERROR = 1e-6
"""How probable it is that a test of a right law fails, before its seed was fixed."""

PLANAR = [
    TwentyFiveGaussians(5000),
    EightGaussians(5000),
    SwissRoll(5000),
    TwoMoons(5000),
    Pinwheel(5000),
    Rings(5000),
    Checkerboard(5000),
    AnatomyRings(5000),
    AnatomyMixture(5000),
]
ALL = [*PLANAR, Digits()]


def name(data: Dataset) -> str:
    return type(data).__name__


def quantile(comparisons: int = 1) -> float:
    """Returns how many standard errors one of so many normal errors exceeds with probability ERROR."""
    return float(norm.isf(ERROR / (2 * comparisons)))


def assert_mean(values: torch.Tensor, expected: float) -> None:
    values = values.double()
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < quantile() * error


@pytest.mark.parametrize("data", ALL, ids=name)
def test_a_split_is_a_float_tensor_of_the_stated_shape(data: Dataset) -> None:
    for split in SPLITS:
        points = data.load(split)
        assert points.shape[1:] == data.shape
        assert points.dtype == torch.float32
        assert points.device.type == "cpu"
        assert points.isfinite().all()


@pytest.mark.parametrize("data", PLANAR, ids=name)
def test_points_are_the_same_when_drawn_again(data: Dataset) -> None:
    before = [data.load(split).clone() for split in SPLITS]
    _drawn.cache_clear()
    again = [dataclasses.replace(data).load(split) for split in SPLITS]
    assert all(torch.equal(x, y) for x, y in zip(before, again, strict=True))


FIRST = {
    TwentyFiveGaussians: [-1.42334, -1.44567],
    EightGaussians: [1.41206, -0.01668],
    SwissRoll: [-0.95079, 0.63124],
    TwoMoons: [0.85281, -1.15397],
    Pinwheel: [1.84972, 1.14857],
    Rings: [-0.54321, -0.54881],
    Checkerboard: [1.18322, -2.27954],
    AnatomyRings: [1.36787, 1.30103],
    AnatomyMixture: [1.23515, -0.12303],
}
"""The first point of each training split of one. Artifacts are made of these data: they must never change."""


@pytest.mark.parametrize("kind", FIRST, ids=lambda kind: kind.__name__)
def test_points_are_those_that_old_artifacts_were_made_of(kind: type) -> None:
    assert kind(1).load("train")[0].tolist() == pytest.approx(FIRST[kind], abs=1e-5)


def test_digits_are_those_that_old_artifacts_were_made_of() -> None:
    assert ((Digits().load("train")[0, 0, 3] + 1) * 8).tolist() == [0, 0, 0, 15, 9, 0, 0, 0]
    assert Digits().labels("train")[:10].tolist() == [3, 1, 5, 6, 4, 9, 7, 0, 2, 8]


@pytest.mark.parametrize("data", PLANAR, ids=name)
def test_splits_are_independent(data: Dataset) -> None:
    splits = [data.load(split).double() for split in SPLITS]
    for i, x in enumerate(splits):
        for y in splits[i + 1 :]:
            assert not set(map(tuple, x.tolist())) & set(map(tuple, y.tolist()))
            correlations = torch.corrcoef(torch.cat([x, y], 1).T)[:2, 2:]
            assert correlations.abs().max() < quantile(4) / math.sqrt(len(x))


@pytest.mark.parametrize("data", ALL, ids=name)
def test_an_unknown_split_is_named(data: Dataset) -> None:
    with pytest.raises(ValueError, match="'dev'"):
        data.load("dev")


@pytest.mark.parametrize("data", PLANAR, ids=name)
def test_count_is_checked_and_part_of_the_description(data: Dataset) -> None:
    assert len(data.load("valid")) == 5000
    with pytest.raises(FieldError, match="count"):
        dataclasses.replace(data, count=0)
    assert canonical(describe(data)) != canonical(describe(dataclasses.replace(data, count=5001)))


@pytest.mark.parametrize("kind", [TwentyFiveGaussians, EightGaussians], ids=lambda kind: kind.__name__)
def test_a_mixture_has_its_centres_and_sigma(kind: type) -> None:
    data = kind(25 * 8 * 100)
    points, centres = data.load("train").double(), data.centres().double()
    modes = len(centres)
    each = data.count // modes
    mode = torch.cdist(points, centres).argmin(1)
    assert (torch.bincount(mode) == each).all()

    offsets = torch.stack([points[mode == k] - centres[k] for k in range(modes)])
    means = offsets.mean(1) / data.sigma * math.sqrt(each)
    assert means.abs().max() < quantile(2 * modes)
    squares = (offsets / data.sigma).square().sum(1)
    assert squares.min() > chi2.ppf(ERROR / (4 * modes), each)
    assert squares.max() < chi2.isf(ERROR / (4 * modes), each)
    assert_mean((offsets[..., 0] * offsets[..., 1]).flatten(), 0.0)


def test_the_centres_are_those_of_the_papers() -> None:
    lattice = {(2 * i / 2.828, 2 * j / 2.828) for i in range(-2, 3) for j in range(-2, 3)}
    found = TwentyFiveGaussians().centres().double()
    assert len(found) == 25
    assert all(min(math.dist(centre, at) for at in lattice) < 1e-6 for centre in found.tolist())
    assert TwentyFiveGaussians().sigma == pytest.approx(0.017680, abs=1e-6)

    circle = EightGaussians().centres().double()
    assert torch.allclose(circle.norm(dim=1), torch.tensor(2 / 1.414).double())
    assert torch.pdist(circle).min() == pytest.approx(2 * 2 / 1.414 * math.sin(math.pi / 8), rel=1e-6)


def test_modes_are_shared_out_evenly_and_shuffled() -> None:
    data = TwentyFiveGaussians(1010)
    mode = torch.cdist(data.load("test"), data.centres()).argmin(1)
    assert set(torch.bincount(mode).tolist()) == {40, 41}
    assert len(mode[:25].unique()) < 25  # 25 in a row from 25 modes have probability 25! / 25^25 < ERROR


def test_swiss_roll_is_that_of_scikit_learn() -> None:
    from sklearn.datasets import make_swiss_roll

    expected = make_swiss_roll(1000, noise=0.25, random_state=RandomState(7))[0][:, [0, 2]] / 7.5
    assert np.allclose(SwissRoll(1000).draw(RandomState(7)), expected, rtol=0, atol=1e-12)


def test_two_moons_lie_about_two_half_circles() -> None:
    data = TwoMoons(2000)
    points = (torch.from_numpy(data.draw(RandomState(0))) + torch.tensor([1.0, 0.2])) / 2
    angle = torch.linspace(0, math.pi, 2000).double()
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    arcs = torch.cat([upper, torch.tensor([1.0, 0.5]) - upper])
    farthest = 0.1 * math.sqrt(-2 * math.log(ERROR / data.count))  # P(|ξ| > r) = exp(-r² / 2) in the plane
    assert torch.cdist(points, arcs).min(1).values.max() < farthest + math.pi / 2000
    assert_mean(points[:, 0], 0.5)
    assert_mean(points[:, 1], 0.25)


def test_pinwheel_has_five_equal_arms() -> None:
    points = torch.from_numpy(Pinwheel(20_000).draw(RandomState(0)))
    assert_mean(points[:, 0], 0.0)
    assert_mean(points[:, 1], 0.0)
    assert_mean(points.square().sum(1), 4 * (1 + 0.3**2 + 0.1**2))
    fifth = torch.polar(torch.ones(1).double(), torch.tensor([2 * math.pi / 5]).double())
    turned = torch.view_as_real(torch.view_as_complex(points) * fifth)
    for power in ([1, 0], [0, 1], [2, 0], [1, 1], [0, 3]):
        exponents = torch.tensor(power)
        assert_mean(points.pow(exponents).prod(1) - turned.pow(exponents).prod(1), 0.0)


def test_rings_have_their_radii() -> None:
    data = Rings(20_000)
    points = torch.from_numpy(data.draw(RandomState(0)))
    radii = points.norm(dim=1)
    ring = (radii / 0.75).round().clamp(1, 4)
    farthest = 0.08 * math.sqrt(-2 * math.log(ERROR / data.count))
    assert (radii - 0.75 * ring).abs().max() < farthest
    for k in range(1, 5):
        assert_mean(ring == k, 0.25)
    assert_mean(points[:, 0] / radii, 0.0)
    assert_mean(points[:, 1] / radii, 0.0)


def test_checkerboard_is_flat_on_its_dark_squares() -> None:
    points = torch.from_numpy(Checkerboard(20_000).draw(RandomState(0)))
    square = (points / 2).floor()
    assert (square.sum(1) % 2 == 0).all()
    assert points.min() >= -4
    assert points.max() < 4
    index = (square[:, 0] + 2) * 4 + square[:, 1] + 2
    assert len(index.unique()) == 8
    for k in index.unique():
        assert_mean(index == k, 1 / 8)
    for axis in range(2):
        within = points[:, axis] / 2 - square[:, axis]
        assert_mean(within, 1 / 2)
        assert_mean(within.square(), 1 / 3)


def test_digits_splits_hold_every_image_once() -> None:
    from sklearn.datasets import load_digits

    data, original = Digits(), load_digits()
    images = torch.cat([data.load(split) for split in SPLITS])
    labels = torch.cat([data.labels(split) for split in SPLITS])
    assert [len(data.load(split)) for split in SPLITS] == [1097, 200, 500]
    rows = np.column_stack([((images + 1) * 8).flatten(1).numpy(), labels.numpy()])
    expected = np.column_stack([original.data, original.target])
    assert np.array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert images.min() == -1
    assert images.max() == 1


def test_digits_splits_are_stratified_from_their_beginning() -> None:
    share = torch.bincount(torch.cat([Digits().labels(split) for split in SPLITS])) / 1797
    for split in SPLITS:
        labels = Digits().labels(split)
        assert labels.dtype == torch.int64
        for size in (50, 200, len(labels)):
            counts = torch.bincount(labels[:size], minlength=10)
            assert (counts - share * size).abs().max() < 2


def test_stratified_order_is_a_permutation_with_even_classes() -> None:
    labels = np.array([0] * 30 + [1] * 10 + [2] * 5)
    order = stratified(labels, seed=3)
    assert sorted(order) == list(range(45))
    assert [int((labels[order[:9]] == k).sum()) for k in range(3)] == [6, 2, 1]
    assert not np.array_equal(order, stratified(labels, seed=4))


def test_planar_data_have_no_classes() -> None:
    assert all(data.labels("train") is None for data in PLANAR)
