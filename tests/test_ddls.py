"""Calibrations find what is known, and a calibrated critic turns a GAN into the law of its data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from laws import COUNT, Gaussian, Z, assert_follows, generator
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn

from ebmzoo.fields import FieldError
from ebmzoo.models import Model, NoEnergy, StandardNormal
from ebmzoo.samplers import HMC, Chains, IndependenceMetropolis, Rejection, Stage
from ebmzoo.training import Batches
from ebmzoo_ddls.calibration import IsotonicCalibration, LogisticCalibration
from ebmzoo_ddls.ddls import DDLS

SLOPE, INTERCEPT = 2.5, -0.7
"""What turns the critics here into the logit."""


def outputs(count: int) -> tuple[Tensor, Tensor]:
    """Outputs D of a critic whose logit is a D + b, on data N(1, 1) and samples N(-1, 1)."""
    x = torch.randn(2 * count, generator=generator(1), dtype=torch.float64)
    real = torch.cat([torch.ones(count), torch.zeros(count)]).double()
    logit = 2 * (x + 2 * real - 1)
    return (logit - INTERCEPT) / SLOPE, real


def test_logistic_calibration_finds_a_known_one():
    """Within standard errors from the Fisher information at the truth."""
    d, real = outputs(COUNT)
    calibration = LogisticCalibration().map()
    assert torch.equal(calibration(d), d)
    calibration.fit(d, real)
    p = torch.sigmoid(SLOPE * d + INTERCEPT)
    design = torch.stack([d, torch.ones_like(d)], 1)
    errors = torch.linalg.inv(design.T @ (design * (p * (1 - p))[:, None])).diagonal().sqrt()
    assert float(calibration.slope) == pytest.approx(SLOPE, abs=Z * float(errors[0]))
    assert float(calibration.intercept) == pytest.approx(INTERCEPT, abs=Z * float(errors[1]))


def test_logistic_calibration_is_at_the_optimum():
    """Where the cross-entropy has no slope: mean error 0, also weighted by the output."""
    d, real = outputs(500)
    calibration = LogisticCalibration().map().double()
    calibration.fit(d, real)
    targets = torch.where(real > 0, 501 / 502, 1 / 502)
    error = calibration(d).sigmoid() - targets
    assert float(error.mean()) == pytest.approx(0, abs=1e-7)
    assert float((error * d).mean()) == pytest.approx(0, abs=1e-7)


def test_logistic_calibration_stays_finite_where_the_critic_makes_no_error():
    d = torch.cat([torch.linspace(1, 2, 50), torch.linspace(-2, -1, 50)])
    calibration = LogisticCalibration().map()
    calibration.fit(d, (d > 0).double())
    assert 0 < float(calibration.slope) < 100


@pytest.mark.parametrize("count", [300, 5000])
def test_isotonic_calibration_is_the_regression_at_its_corners(count):
    d, real = outputs(count)
    calibration = IsotonicCalibration(2048).map().double()
    calibration.fit(d, real)
    edge = 1 / (len(d) + 2)
    regression = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(d, real)
    corners = regression.X_thresholds_
    expected = regression.predict(corners)
    found = calibration(torch.from_numpy(corners)).sigmoid().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    far = torch.tensor([-1e9, 1e9], dtype=torch.float64)
    assert calibration(far).sigmoid().tolist() == pytest.approx([expected[0], expected[-1]])
    steps = calibration(torch.linspace(-4, 4, 1000, dtype=torch.float64)).diff()
    assert float(steps.min()) >= 0


def test_isotonic_calibration_finds_any_increasing_one():
    """The logit is a cube of the output; away from the rare ends it is found to a tenth of a nat or so."""
    x = torch.randn(2 * COUNT, generator=generator(2), dtype=torch.float64)
    real = torch.cat([torch.ones(COUNT), torch.zeros(COUNT)]).double()
    logit = 2 * (x + 2 * real - 1)
    d = logit.sign() * logit.abs() ** (1 / 3)
    calibration = IsotonicCalibration().map().double()
    calibration.fit(d, real)
    inner = logit.abs() < 3
    assert float((calibration(d) - logit)[inner].abs().mean()) < 0.15
    assert float((calibration(d) - d)[inner].abs().mean()) > 0.5


def test_isotonic_calibration_is_thinned_to_its_knots():
    d, real = outputs(5000)
    fine, coarse = IsotonicCalibration(2048).map(), IsotonicCalibration(8).map()
    fine.fit(d, real)
    coarse.fit(d, real)
    assert float((fine.outputs[0] - coarse.outputs[0]).abs()) == 0
    assert float((fine.outputs[-1] - coarse.outputs[-1]).abs()) == 0
    ends = coarse(torch.tensor([-1e3, 1e3]))
    assert torch.equal(ends, coarse.logits[[0, -1]])
    with pytest.raises(FieldError, match=r"IsotonicCalibration\.knots"):
        IsotonicCalibration(1)


DATA, GENERATED = Gaussian((1.0,), (0.8,)), Gaussian((0.0,), (2.0,))


class Miscalibrated(nn.Module):
    """The energy of a critic whose logit is a D + b."""

    def forward(self, x: Tensor) -> Tensor:
        logit = DATA.log_prob(x) - GENERATED.log_prob(x)
        return -(logit - INTERCEPT) / SLOPE


class Doubled(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return 2 * u


@pytest.mark.parametrize(
    "sampler",
    [Chains((Stage(HMC(0.4, 4), 15),)), Rejection(None), IndependenceMetropolis(60)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_calibrated_sampling_gives_the_law_of_the_data(sampler):
    """The calibration's own error, at half a million data, is far below the tolerance for 2000 samples."""
    base = Model(StandardNormal((1,)), Doubled(), Miscalibrated()).double()
    data = DATA.draw(500_000, generator(3))
    model = DDLS().model((1,), base).double()
    batches = Batches(data, None, len(data), generator(4))
    report = DDLS().learner(model).step(batches, generator(5))
    assert report["cross_entropy"] < report["cross_entropy_before"]
    assert_follows(DATA, sampler.draw(model, 2000, generator(6)))
    with pytest.raises(AssertionError):
        assert_follows(DATA, sampler.draw(base, 2000, generator(7)))


def test_what_ddls_cannot_do():
    bare = Model(StandardNormal((1,)), nn.Identity(), NoEnergy())
    for base in (None, bare):
        with pytest.raises(ValueError, match="a GAN"):
            DDLS().model((1,), base)


def test_nothing_of_the_base_is_retrained():
    base = Model(StandardNormal((2,)), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)))
    model = DDLS().model((2,), base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = torch.randn(64, 2, generator=generator(8))
    learner = DDLS().learner(model)
    learner.step(Batches(data, None, 64, generator(9)), generator(10))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"energy.calibration.slope", "energy.calibration.intercept"}
    assert not any(p.requires_grad for p in model.parameters())
    x = torch.randn(3, 2)
    c = model.energy.calibration
    torch.testing.assert_close(model.energy(x), -(c.slope * -base.energy(x) + c.intercept))
    assert math.isfinite(float(c.slope))
