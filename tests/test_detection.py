"""Areas under the curve are those of planted energies, and strange images are what they say."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import pytest
import torch
from laws import Z, assert_mean, generator
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from toys import METHODS, Blob

from ebmzoo.data import FashionMNIST
from ebmzoo.data.dataset import SPLITS, DataError, Dataset, check_split
from ebmzoo.fields import FieldError
from ebmzoo.metrics import Metric
from ebmzoo.models import Box, Model, NoEnergy, StandardNormal
from ebmzoo.recipes import Samples, Score
from ebmzoo.samplers import Direct
from ebmzoo.store import canonical, describe
from ebmzoo_pixel.detection import GradientNorm, LogDensity, OutOfDistribution, Typicality, auroc
from ebmzoo_pixel.outliers import ConstantImages, Interpolated, UniformNoise

SHAPE = (1, 4, 4)
OWN = Blob(500, shape=SHAPE)
OTHER = UniformNoise(SHAPE, 500)


class Energy(nn.Module):
    """A planted energy."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.function(x.flatten(1))


def pixel(x: Tensor) -> Tensor:
    return x[:, 0]


def quadratic(x: Tensor) -> Tensor:
    return x.square().sum(1) / 2


def model(function) -> Model:
    return Model(Box(SHAPE), nn.Identity(), Energy(function))


def value(metric: Metric, subject: object, data: Dataset = OWN, split: str = "test") -> float:
    return metric.value(subject, data, split, lambda _: None, generator(0))


@dataclass(frozen=True)
class Levels(Dataset):
    """Images of one grey, in the order of the levels given."""

    levels: tuple[float, ...]
    shape: tuple[int, ...] = SHAPE

    def load(self, split: str) -> Tensor:
        check_split(split)
        return torch.tensor(self.levels).view(-1, 1, 1, 1).expand(-1, *self.shape)


def compared(own: tuple[float, ...], other: tuple[float, ...], **settings) -> float:
    metric = OutOfDistribution("levels", Levels(other), count=len(own), **settings)
    return value(metric, model(pixel), Levels(own))


# Areas


def test_perfect_reversed_and_equal_scores() -> None:
    """The energy is the first pixel, and low energies are the model's own."""
    assert compared((-0.9, -0.5, -0.1), (0.0, 0.1, 0.2)) == 1
    assert compared((0.0, 0.1, 0.2), (-0.9, -0.5, -0.1)) == 0
    assert compared((0.3, 0.3), (0.3, 0.3)) == 0.5
    assert value(OutOfDistribution("x", OTHER, count=500), model(lambda x: 0 * x[:, 0])) == 0.5


def test_areas_are_counts_of_pairs() -> None:
    own, other = (0.1, 0.4, 0.4, 0.8), (0.2, 0.4, 0.9, 0.9)
    won = sum((a < b) + 0.5 * (a == b) for a in own for b in other) / 16
    assert compared(own, other) == won
    # of two uniform laws on [0, 1] and [0, 2] the first is smaller three times of four
    few, many = torch.rand(4000, generator=generator(0)), 2 * torch.rand(4000, generator=generator(1))
    assert auroc(-few, -many) == pytest.approx(0.75, abs=Z * math.sqrt(0.5 / 4000))


@pytest.mark.parametrize("decimals", [1, 6])
def test_areas_are_those_of_scikit_learn(decimals: int) -> None:
    own = torch.randn(300, generator=generator(0), dtype=torch.float64).round(decimals=decimals) + 0.5
    other = torch.randn(200, generator=generator(1), dtype=torch.float64).round(decimals=decimals)
    labels = torch.cat([torch.ones(300), torch.zeros(200)])
    assert auroc(own, other) == pytest.approx(roc_auc_score(labels, torch.cat([own, other])), abs=1e-12)
    assert auroc(own, other) == pytest.approx(1 - auroc(other, own), abs=1e-12)


def test_infinite_scores_have_ranks_and_those_that_are_no_numbers_none() -> None:
    infinite = torch.tensor([math.inf, 0.0])
    assert auroc(infinite, -infinite) == 1 - 1 / 8
    with pytest.raises(ValueError, match="1 of 4 scores are no numbers"):
        auroc(torch.tensor([math.nan, 0.0]), infinite)


# Scores


def test_log_density_is_minus_the_energy() -> None:
    x = OWN.load("test")
    torch.testing.assert_close(LogDensity().of(model(quadratic), x, OWN), -x.flatten(1).square().sum(1) / 2)


def test_typicality_finds_what_density_takes_for_its_own() -> None:
    """Of a normal law in 256 dimensions, the origin is the likeliest point, and no sample is near it."""
    own = Blob(400, mean=0.0, shape=(1, 16, 16))
    law = Model(StandardNormal(own.shape), nn.Identity(), Energy(lambda x: quadratic(x) / 0.25**2))
    grey = ConstantImages(own.shape, 400)
    dull = Interpolated(Interpolated(own))  # half the noise, so an energy of a quarter
    for strange in (grey, dull):
        typical = OutOfDistribution("x", strange, Typicality(), 400)
        assert value(typical, law, own) > 0.95
    assert value(OutOfDistribution("x", dull, LogDensity(), 400), law, own) == 0
    assert value(OutOfDistribution("x", dull, Typicality(), 400), law, own) == 1


def test_typicality_is_the_distance_from_the_mean_energy_of_training() -> None:
    x, train = OWN.load("test"), OWN.load("train")
    expected = -(x[:, 0, 0, 0] - train[:, 0, 0, 0].mean()).abs()
    found = Typicality().of(model(pixel), x, OWN)
    torch.testing.assert_close(found.float(), expected, atol=1e-6, rtol=0)
    first = Typicality(10).of(model(pixel), x, OWN)
    torch.testing.assert_close(first.float(), -(x[:, 0, 0, 0] - train[:10, 0, 0, 0].mean()).abs())


def test_the_gradient_of_a_quadratic_energy_is_the_point() -> None:
    x, planted = OWN.load("test"), model(quadratic)
    found = GradientNorm().of(planted, x, OWN)
    torch.testing.assert_close(found, -x.flatten(1).norm(dim=1))
    assert not found.requires_grad
    assert planted.energy.scale.grad is None
    assert planted.energy.scale.requires_grad
    assert (GradientNorm().of(Model(Box(SHAPE), nn.Identity(), NoEnergy()), x, OWN) == 0).all()


def test_a_steep_place_is_strange_though_likely() -> None:
    """At the foot of a cliff: an energy that falls steeply to the right and lies flat to the left."""
    cliff = model(lambda x: torch.where(x[:, 0] > 0, -10 * x[:, 0], 0.1 * x[:, 0]))
    own, strange = Levels((-0.9, -0.6, -0.3)), Levels((0.3, 0.6, 0.9))
    areas = [
        value(OutOfDistribution("x", strange, score, 3), cliff, own)
        for score in (LogDensity(), GradientNorm())
    ]
    assert areas == [0, 1]


# The metric


METRICS = [
    OutOfDistribution("x", OTHER, score, 100) for score in (LogDensity(), Typicality(), GradientNorm())
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric.score).__name__)
def test_the_metric_is_the_area_of_its_score(metric: OutOfDistribution) -> None:
    planted = model(quadratic)
    own, other = (data.load("valid")[:100] for data in (OWN, OTHER))
    expected = auroc(*(metric.score.of(planted, x, OWN) for x in (own, other)))
    before = planted.energy.scale.clone()
    assert value(metric, planted, split="valid") == expected
    assert type(expected) is float
    assert planted.energy.scale.requires_grad
    assert torch.equal(planted.energy.scale, before)


def test_other_shapes_and_too_few_data_are_named() -> None:
    with pytest.raises(ValueError, match=r"UniformNoise holds \(3, 32, 32\) and Blob \(1, 4, 4\)"):
        value(OutOfDistribution("x", UniformNoise()), model(pixel))
    with pytest.raises(ValueError, match="501 data of each, but the split 'test' of Blob has 500"):
        value(OutOfDistribution("x", UniformNoise(SHAPE), count=501), model(pixel))
    with pytest.raises(ValueError, match="split 'test' of UniformNoise has 50;"):
        value(OutOfDistribution("x", UniformNoise(SHAPE, 50), count=500), model(pixel))
    with pytest.raises(ValueError, match="no numbers"):
        value(OutOfDistribution("x", OTHER, count=10), model(lambda x: x[:, 0] * math.nan))


def test_files_that_are_absent_are_missed_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EBMZOO_DATA", raising=False)
    OutOfDistribution("x", OTHER).check_ready()
    for other in (FashionMNIST(), Interpolated(FashionMNIST())):
        with pytest.raises(DataError, match="ebmzoo data fetch FashionMNIST"):
            OutOfDistribution("x", other).check_ready()


def test_models_are_scored_and_settings_described() -> None:
    trained = METHODS["Contrastive learning of pictures"]
    metric = METRICS[1]
    assert Score(trained, metric).label == "AUROC x"
    with pytest.raises(FieldError, match="a trained model"):
        Score(Samples(trained, Direct(), 10), metric)
    with pytest.raises(FieldError, match="on a trained model, not on samples"):
        value(metric, OWN.load("test"))
    assert len({canonical(describe(each)) for each in METRICS}) == 3
    protocol = json.loads(json.dumps(metric.protocol()))
    assert protocol["count"] == 100
    assert protocol["other"] == describe(OTHER)
    assert protocol["score"] == describe(Typicality())
    for wrong in (lambda: dataclasses.replace(metric, count=0), lambda: Typicality(0)):
        with pytest.raises(FieldError, match="count"):
            wrong()


def test_a_trained_energy_is_scored(tmp_path) -> None:
    from ebmzoo.store import Store

    trained = METHODS["Contrastive learning of pictures"]
    metric = OutOfDistribution("noise", UniformNoise((1, 8, 8), 64), GradientNorm(), 64)
    assert 0 <= Store(tmp_path).get(Score(trained, metric)) <= 1


# Strange images


@pytest.mark.parametrize(
    "data", [OTHER, ConstantImages(SHAPE, 500), Interpolated(OWN)], ids=lambda data: type(data).__name__
)
def test_strange_images_are_images_and_the_same_when_loaded_again(data: Dataset) -> None:
    splits = [data.load(split) for split in SPLITS]
    for split, images in zip(SPLITS, splits, strict=True):
        assert images.shape == (500, *SHAPE)
        assert data.shape == SHAPE
        assert images.dtype == torch.float32
        assert images.abs().max() <= 1
        assert torch.equal(images, dataclasses.replace(data).load(split))
    assert len(torch.cat(splits).flatten(1).unique(dim=0)) == 1500
    with pytest.raises(ValueError, match="'dev'"):
        data.load("dev")


def test_noise_and_greys_are_uniform() -> None:
    noise = UniformNoise(SHAPE, 2000).load("test").flatten()
    assert_mean(noise, 0.0, math.sqrt(1 / 3))
    assert_mean(noise.square(), 1 / 3, math.sqrt(4 / 45))
    greys = ConstantImages((3, 4, 4), 2000).load("test")
    assert (greys == greys[:, :1, :1, :1]).all()
    assert_mean(greys[:, 0, 0, 0], 0.0, math.sqrt(1 / 3))
    assert_mean(greys[:, 0, 0, 0].square(), 1 / 3, math.sqrt(4 / 45))


def test_images_are_those_that_old_scores_were_made_with() -> None:
    noise, grey = UniformNoise(SHAPE, 1).load("train"), ConstantImages(SHAPE, 1).load("train")
    assert noise[0, 0, 0].tolist() == pytest.approx([0.426569, -0.962016, -0.638633, 0.935468], abs=1e-6)
    assert grey[0, 0, 0, 0].item() == pytest.approx(0.385473, abs=1e-6)


def test_means_are_of_two_different_images() -> None:
    """Images of powers of two, so that a sum tells what it is of."""
    powers = tuple(2.0**-k for k in range(8))
    means = Interpolated(Levels(powers)).load("test")[:, 0, 0, 0]
    pairs = [[k for k in range(8) if int(256 * mean) & (256 >> (k + 1))] for mean in means.tolist()]
    assert all(len(pair) == 2 for pair in pairs)
    assert sorted(k for pair in pairs for k in pair) == sorted([*range(8), *range(8)])
    with pytest.raises(ValueError, match="no two images in the split 'test' of Levels"):
        Interpolated(Levels((1.0,))).load("test")


def test_wrong_shapes_and_counts_are_named() -> None:
    for wrong, field in (((), "shape"), ((3, 0, 4), "shape")):
        with pytest.raises(FieldError, match=field):
            UniformNoise(wrong)
    with pytest.raises(FieldError, match="count"):
        ConstantImages(SHAPE, 0)
