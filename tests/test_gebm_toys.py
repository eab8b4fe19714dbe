"""The toys of GEBM: laws whose ratio to their base is known, and what is measured and drawn of them."""

from __future__ import annotations

import math

import pytest
import torch
from laws import Z, generator
from torch import nn
from toys import PICTURES, Blob

from ebmzoo.classifiers import Classifier
from ebmzoo.fields import FieldError
from ebmzoo.models import Box, Model, StandardNormal
from ebmzoo.recipes import Trained
from ebmzoo.samplers import Chains, Langevin, Stage
from ebmzoo_gebm.divergences import ThreeRings
from ebmzoo_gebm.figures import EnergyMap, ParticleFlows
from ebmzoo_gebm.measures import KALE, ClassChanges
from ebmzoo_gebm.toy import BlossomData, BlossomGenerator, RingArcs, RingGenerator, blossom


def test_arcs_have_the_law_that_their_ratio_says():
    """Means over the data equal means over the ring, weighted by the ratio."""
    x = RingArcs().load("train").double()
    assert x.shape == (100_000, 2)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(len(x), dtype=torch.float64), atol=1e-6, rtol=0)
    angle = torch.linspace(0, 2 * math.pi, 10_001, dtype=torch.float64)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    weights = RingArcs.log_ratio(ring).exp() / len(ring)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    for statistic in (lambda p: p[:, 0], lambda p: p[:, 0] ** 2, lambda p: p[:, 0] ** 3, lambda p: p[:, 1]):
        values = statistic(x)
        error = Z * float(values.std()) / math.sqrt(len(values))
        assert float(values.mean()) == pytest.approx(float(weights @ statistic(ring)), abs=error)


def test_the_divergence_of_the_arcs_is_what_the_table_says():
    angle = torch.linspace(0, 2 * math.pi, 10_001, dtype=torch.float64)[:-1]
    ratio = RingArcs.log_ratio(torch.stack([angle.cos(), angle.sin()], 1))
    assert float((ratio.exp() * ratio).mean()) == pytest.approx(0.4412, abs=5e-5)


def test_blossom_data_have_the_law_of_their_energy():
    x = BlossomData(20_000).load("test").double()
    base = blossom(
        torch.randn(400_000, 3, generator=generator(0), dtype=torch.float64), torch.eye(3).double()
    )
    weights = torch.softmax(-BlossomData.energy(base), 0)
    divergence = float((weights * (weights * len(base)).log()).sum())
    assert divergence == pytest.approx(0.0215, abs=5e-4)
    for axis in range(3):
        error = Z * float(x[:, axis].std()) / math.sqrt(len(x))
        assert float(x[:, axis].mean()) == pytest.approx(float(weights @ base[:, axis]), abs=1.2 * error)
    assert not torch.equal(BlossomData().load("train"), BlossomData().load("test"))
    assert torch.equal(BlossomData().load("train"), BlossomData().load("train"))


def test_decoders_to_curves_and_surfaces():
    z = torch.randn(100, 2, generator=generator(0))
    torch.testing.assert_close(RingGenerator(1.4).build(2, (2,))(z).norm(dim=1), torch.full((100,), 1.4))
    z = torch.randn(100, 3, generator=generator(0))
    torch.testing.assert_close(BlossomGenerator(0.0).build(3, (3,))(z).norm(dim=1), torch.ones(100))
    torch.testing.assert_close(BlossomGenerator().build(3, (3,))(z), blossom(z, torch.eye(3)))
    for architecture in (RingGenerator(), BlossomGenerator()):
        with pytest.raises(ValueError, match="not 5 latents"):
            architecture.build(5, (2,))
    with pytest.raises(FieldError):
        RingGenerator(0.0)


class Ratio(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -RingArcs.log_ratio(x)


def test_kale_at_the_best_energy_is_the_divergence():
    model = Model(StandardNormal((2,)), RingGenerator().build(2, (2,)), Ratio())
    found = KALE().value(model, RingArcs(), "test", lambda _: None, generator(0))
    assert found == pytest.approx(0.4412, abs=0.01)
    assert not KALE.lower_is_better  # of the energies over one base, the best has the highest value


# How far chains go


class Side(nn.Module):
    """Lies flat, or pulls to the right."""

    def __init__(self, pull: float):
        super().__init__()
        self.pull = pull

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.pull * x.flatten(1)[:, 0]


def classes(threshold: float = 0.0) -> Model:
    """A classifier by the sign of the first coordinate."""
    model = Classifier(2, 2, 2).model((1, 8, 8), None)
    energy = model.energy
    energy.body, energy.head = nn.Flatten(), nn.Linear(64, 2, bias=False)
    with torch.no_grad():
        energy.head.weight.zero_()
        energy.head.weight[1, 0] = 1.0
    return model


def test_class_changes_are_counted():
    decoder = nn.Unflatten(1, (1, 8, 8))
    sampler = Chains((Stage(Langevin(0.02), 10),), beta=1000.0)
    metric = ClassChanges(sampler, Trained(Classifier(), PICTURES, 1, 8), 4000)
    values = []
    for pull in (0.0, 1.0):
        model = Model(StandardNormal((64,)), decoder, Side(pull)).requires_grad_(False)
        values.append(metric.value(model, PICTURES, "test", lambda _: classes(), generator(0)))
    # Where nothing pulls, a coordinate after ten steps is 0.98¹⁰ of what it was, and noise. Two normal
    # numbers of correlation r have different signs with probability arccos(r) / π
    kept = 0.98**10
    correlation = kept / math.sqrt(kept**2 + 0.04 * (1 - kept**2) / (1 - 0.98**2))
    for value, share in zip(values, (math.acos(correlation) / math.pi, 0.5), strict=True):
        assert value == pytest.approx(100 * share, abs=100 * Z * math.sqrt(share * (1 - share) / 4000))
    still = ClassChanges(Chains(()), Trained(Classifier(), PICTURES, 1, 8), 100)
    model = Model(StandardNormal((64,)), decoder, Side(0.0))
    assert still.value(model, PICTURES, "test", lambda _: classes(), generator(0)) == 0


def test_chains_that_diverged_are_in_no_class():
    model = Model(StandardNormal((64,)), nn.Unflatten(1, (1, 8, 8)), Side(math.nan))
    metric = ClassChanges(Chains((Stage(Langevin(0.02), 1),)), Trained(Classifier(), PICTURES, 1, 8), 10)
    with pytest.raises(ValueError, match="10 of 10 samples are not finite"):
        metric.value(model, PICTURES, "test", lambda _: classes(), generator(0))


def test_class_changes_need_a_classifier():
    model = Model(Box((2,)), nn.Identity(), Side(0.0))
    metric = ClassChanges(Chains(()), Trained(Classifier(), PICTURES, 1, 8), 10)
    with pytest.raises(FieldError, match="a trained Classifier"):
        metric.value(model, Blob(), "test", lambda _: model, generator(0))
    with pytest.raises(FieldError, match="not on samples"):
        metric.value(torch.zeros(3, 2), Blob(), "test", lambda _: model, generator(0))


def test_figures_want_a_label_for_each_panel():
    with pytest.raises(FieldError, match="one for each of the 0 models"):
        EnergyMap("a", "b", RingArcs(), (), ("one",))
    with pytest.raises(FieldError, match="one for each of the 0 flows"):
        ParticleFlows("a", "b", ThreeRings(), (), ("one",), (0,))
