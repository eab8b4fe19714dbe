"""What the pictures of generalized energy-based models show: the numbers that are handed to the axes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import generator
from torch import Tensor, nn
from toys import PLANE, VAES

from ebmzoo.models import Model, StandardNormal
from ebmzoo.store import Store
from ebmzoo_gebm.divergences import ThreeRings
from ebmzoo_gebm.figures import Divergences, EnergyMap, ModeCollapse, ParticleFlows
from ebmzoo_gebm.kernel import GaussianKernel
from ebmzoo_gebm.particles import MMDFlow


class Well(nn.Module):
    """An energy with its lowest point, -3, at (1, -0.5), and steeper across than along."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * (x[:, 0] - 1).square() + (x[:, 1] + 0.5).square() - 3


class Beside(nn.Module):
    """Puts samples of the plane to the left, at least two from the origin."""

    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([-2 - u[:, 0].abs(), u[:, 1]], 1)


def offsets(axis, label: str) -> np.ndarray:
    [points] = [each for each in axis.collections if each.get_label() == label]
    return np.asarray(points.get_offsets())


def test_a_map_is_bright_where_the_energy_is_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its numbers are -E with the first coordinate across and the second upwards, as the axes say."""
    model = Model(StandardNormal((2,)), Beside(), Well())
    monkeypatch.setattr(Store, "get", lambda self, recipe: model)
    figure = EnergyMap("map", "-E", PLANE, (VAES["VAE"],) * 2, ("one", "other"), count=20)
    for axis in figure.draw(Store(tmp_path)).axes:
        [picture] = axis.images
        shown, (left, right, bottom, top) = np.asarray(picture.get_array()), picture.get_extent()
        assert (left, right, bottom, top, picture.origin) == (-2, 2, -2, 2, "lower")
        line = np.linspace(-2, 2, 120)
        across, up = np.meshgrid(line, line)
        np.testing.assert_allclose(shown, 3 - 4 * (across - 1) ** 2 - (up + 0.5) ** 2, atol=1e-4)
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        assert (line[column], line[row]) == pytest.approx((1, -0.5), abs=2 / 119)
        low, high = picture.get_clim()
        assert high == pytest.approx(3, abs=1e-2)
        assert high - low == pytest.approx(8)
        dark, bright = (sum(picture.cmap(picture.norm(value))[:3]) for value in (low, high))
        assert bright > dark
        np.testing.assert_allclose(offsets(axis, "data"), PLANE.load("test")[:20], atol=1e-6)
        assert offsets(axis, "base").shape == (20, 2)
        assert offsets(axis, "base")[:, 0].max() < -2
    assert [axis.get_title() for axis in figure.draw(Store(tmp_path)).axes] == ["one", "other"]


def curves(axis) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}


def half_mmd2(shift: np.ndarray, ratio: np.ndarray, bandwidth: float) -> np.ndarray:
    """Of N(s, r²) and N(0, 1), from the means of the kernel within and between them."""

    def mean(distance: np.ndarray | float, variance: np.ndarray | float) -> np.ndarray:
        total = bandwidth**2 + variance
        return bandwidth / np.sqrt(total) * np.exp(-(distance**2) / (2 * total))

    return 0.5 * (mean(0.0, 2 * ratio**2) + mean(0.0, 2.0) - 2 * mean(shift, ratio**2 + 1))


def test_the_curves_of_two_normal_laws_are_what_their_labels_say(tmp_path: Path):
    """KL and half the squared discrepancy in closed form; KALE with hardly a penalty is close below KL."""
    figure = Divergences("a", "b", 0.8, (1e-3, 1.0), farthest=4.0, widest=3.0, points=9)
    means, widths = figure.draw(Store(tmp_path)).axes
    for axis, label in ((means, "distance of the means"), (widths, "ratio of the standard deviations")):
        assert axis.get_xlabel() == label
        assert set(curves(axis)) == {"KL", "KALE, λ = 0.001", "KALE, λ = 1", "MMD²/2"}
    shift, ratio = np.linspace(0, 4, 9), np.logspace(-1, 1, 9, base=3.0)
    for axis, where, s, r in ((means, shift, shift, np.ones(9)), (widths, ratio, np.zeros(9), ratio)):
        found = curves(axis)
        for line in axis.lines:
            np.testing.assert_allclose(line.get_xdata(), where, rtol=1e-6)
        kl = 0.5 * (r**2 + s**2 - 1) - np.log(r)
        np.testing.assert_allclose(found["KL"], kl, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found["MMD²/2"], half_mmd2(s, r, 0.8), rtol=1e-6, atol=1e-12)
        apart = kl > 1e-6
        near = found["KALE, λ = 0.001"][apart] / kl[apart]
        assert ((near > 0.7) & (near < 1)).all()
        assert near.max() > 0.9
        assert (found["KALE, λ = 1"][apart] < found["KALE, λ = 0.001"][apart]).all()


def test_a_lost_mode_is_seen_by_kale_and_where_it_was_by_its_witness(tmp_path: Path):
    """The witness is about log dP/dQ: above zero at the mode that the base lost, and log 1/2 at the other."""
    canvas = ModeCollapse("a", "b", count=200).draw(Store(tmp_path))
    panels, witnesses = canvas.axes[:2], canvas.axes[2:]
    values = []
    for axis, label in zip(panels, ("both modes", "one mode lost"), strict=True):
        said, value = axis.get_title().split(": KALE ")
        assert said == label
        values.append(float(value))
    assert values[0] < 0.1 < 0.5 < values[1]
    seen = []
    for axis in witnesses:
        witness = max(axis.lines, key=lambda line: len(line.get_xdata()))
        x, y = np.asarray(witness.get_xdata()), np.asarray(witness.get_ydata())
        seen.append([float(y[np.abs(x - place).argmin()]) for place in (-2.5, 2.5)])
    assert np.abs(seen[0]).max() < 0.5
    assert seen[1][0] > 1
    assert seen[1][1] == pytest.approx(math.log(0.5), abs=0.35)


def test_particles_are_shown_where_they_are_after_as_many_steps_as_stand_above(tmp_path: Path):
    scene = ThreeRings(count=5)
    flow = MMDFlow(GaussianKernel(0.3), 0.01, steps=40)
    figure = ParticleFlows("a", "b", scene, (flow,), ("MMD flow",), (0, 40))
    start, end = figure.draw(Store(tmp_path)).axes
    assert start.get_ylabel() == "MMD flow"
    target = scene.target(generator(0)).numpy()
    for axis, steps in ((start, 0), (end, 40)):
        goal, particles = (np.asarray(each.get_offsets()) for each in axis.collections)
        np.testing.assert_allclose(goal, target, atol=1e-6)
        assert axis.get_title().startswith(f"step {steps}: ")
        centre = float(particles[:, 1].mean())
        if not steps:
            np.testing.assert_allclose(particles, scene.source(generator(0)).numpy(), atol=1e-6)
            begun, cost = centre, float(axis.get_title().split(": ")[1])
    assert float(target[:, 1].mean()) < centre < begun
    assert float(end.get_title().split(": ")[1]) < cost
