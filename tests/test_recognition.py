"""What a classifier makes of samples, and the drawings whose properties are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from laws import generator
from torch import Tensor, nn
from toys import Blob, Chase

from ebmzoo.data import Shapes
from ebmzoo.fields import FieldError
from ebmzoo.metrics import Agreement, Metric, Recognised, Saturated
from ebmzoo.models import Flat, Model, NoEnergy, Normal
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.samplers import Direct

CLASSIFIER = Trained(Chase(), Blob(), 1, 8)
"""Stands for the recipe of a classifier, which nobody makes here."""


class First(nn.Module):
    """Logits that are the data."""

    def logits(self, x: Tensor) -> Tensor:
        return x


def score(metric: Metric, samples: Tensor, energy: nn.Module | None = None) -> float:
    model = Model(Flat(Normal((3,))), nn.Identity(), energy or First())

    def get(recipe: Any) -> Model:
        assert recipe is CLASSIFIER
        return model

    return metric.value(samples, Blob(), "test", get, generator(0))


def logits(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_recognised_is_the_share_of_sure_answers():
    samples = torch.tensor([logits(0.95, 0.03, 0.02), logits(0.2, 0.7, 0.1), logits(0.01, 0.01, 0.98)])
    assert score(Recognised(CLASSIFIER), samples) == pytest.approx(200 / 3)
    assert score(Recognised(CLASSIFIER, 0.6), samples) == 100
    assert score(Recognised(CLASSIFIER, 1.0), samples) == 0


def test_agreement_is_the_share_of_some_classes():
    samples = torch.eye(3).repeat(4, 1)
    assert score(Agreement("one", CLASSIFIER, (0,)), samples) == pytest.approx(100 / 3)
    assert score(Agreement("two", CLASSIFIER, (0, 2)), samples) == pytest.approx(200 / 3)
    assert Agreement("disc", CLASSIFIER, (0,)).label == "disc %"
    with pytest.raises(ValueError, match="has 3 classes, not 4"):
        score(Agreement("none", CLASSIFIER, (3,)), samples)


def test_saturated_is_the_share_of_extreme_pixels():
    samples = torch.tensor([[1.0, -1.0, 0.999, 0.9], [0.0, -0.998, 0.5, -1.0]])
    assert score(Saturated(), samples) == 100 * 5 / 8
    assert score(Saturated(0.0), samples) == 100 * 3 / 8


def test_what_cannot_be_told_is_named():
    with pytest.raises(ValueError, match="this model is none"):
        score(Recognised(CLASSIFIER), torch.zeros(2, 3), NoEnergy())
    for metric in (Recognised(CLASSIFIER), Agreement("a", CLASSIFIER, (0,)), Saturated()):
        with pytest.raises(ValueError, match="not finite"):
            score(metric, torch.full((2, 3), math.nan))
    for wrong in (
        lambda: Recognised(CLASSIFIER, 1.5),
        lambda: Agreement("a", CLASSIFIER, ()),
        lambda: Agreement("a", CLASSIFIER, (-1,)),
        lambda: Saturated(-0.1),
        lambda: Shapes("triangle"),
        lambda: Shapes(place="top"),
        lambda: Shapes(count=0),
    ):
        with pytest.raises(FieldError):
            wrong()


def test_every_drawing_shows_one_object_where_it_should_be():
    data = Shapes(count=500)
    images, labels = data.load("test"), data.labels("test")
    assert images.shape == (500, *data.shape)
    assert float(images.min()) == -1
    assert float(images.max()) == 1
    bright = (images[:, 0] + 1) / 2
    left, right = bright[:, :, :8].sum((1, 2)), bright[:, :, 8:].sum((1, 2))
    on_the_right = labels % 2 == 1
    assert bool((right[on_the_right] > 10).all())
    assert bool((left[on_the_right] == 0).all())
    assert bool((right[~on_the_right] == 0).all())


def test_the_area_tells_discs_from_squares():
    """Within its bounding box a disc covers π / 4, a square all; edges blur that by a tenth."""
    for shape_of, share in (("disc", math.pi / 4), ("square", 1.0)):
        images = (Shapes(shape_of, count=200).load("train")[:, 0] + 1) / 2
        widths, heights = images.amax(1).sum(1), images.amax(2).sum(1)
        covered = images.sum((1, 2)) / (widths * heights)
        assert float(covered.mean()) == pytest.approx(share, abs=0.05)


def test_concepts_are_as_asked_for():
    assert set(Shapes("square", count=100).labels("train").tolist()) == {2, 3}
    assert set(Shapes(place="left", count=100).labels("train").tolist()) == {0, 2}
    assert set(Shapes("disc", "right", 100).labels("train").tolist()) == {1}
    counts = Shapes(count=4000).labels("train").bincount()
    assert counts.tolist() == pytest.approx([1000] * 4, abs=5 * math.sqrt(4000 * 3 / 16))
    assert torch.equal(Shapes(count=50).load("train"), Shapes(count=50).load("train"))
    assert not torch.equal(Shapes(count=50).load("train"), Shapes(count=50).load("test"))


def test_scores_that_look_at_no_data_compare_across_data():
    metric = Agreement("disc", CLASSIFIER, (0,))
    here, there = (
        Score(Samples(Trained(Chase(), data, 1, 8), Direct(), 4), metric) for data in (Blob(), Blob(count=32))
    )
    assert here.protocol()["id"] == there.protocol()["id"]
    other = Agreement("disc", CLASSIFIER, (1,))
    assert Score(here.subject, other).protocol()["id"] != here.protocol()["id"]
