"""Learning rates that change: what they are multiplied by, and that a cut run has the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from laws import generator
from toys import METHODS, PLANE, kept, make_in_pieces

from ebmzoo.fields import FieldError
from ebmzoo.flows import RealNVP
from ebmzoo.store import Store
from ebmzoo.training import Adam, Batches, LinearDecay, LinearRise, Method, Milestones, Rates, Scheduled
from ebmzoo_bases.flow import FlowLikelihood
from ebmzoo_gebm.gebm import GEBM


def rates(of: Rates, updates: int, method: Method | None = None) -> list[list[float]]:
    """The learning rates of every optimizer, over those they begin with, at each update."""
    method = method or FlowLikelihood(RealNVP(2, 4, 1), Adam(0.1))
    torch.manual_seed(0)
    learner = Scheduled(method, of).learner(method.model((2,), None))
    optimizers = [part for part in learner.parts.values() if isinstance(part, torch.optim.Optimizer)]
    begin = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    batches, seen = Batches(PLANE.load("train"), None, 16, generator(0)), []
    for _ in range(updates):
        learner.step(batches, generator(1))
        now = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
        seen.append([lr / first for lr, first in zip(now, begin, strict=True)])
    return seen


def test_milestones():
    expected = [[1.0], [1.0], [0.5], [0.5], [0.25], [0.25]]
    assert rates(Milestones((2, 4), 0.5), 6) == [pytest.approx(each) for each in expected]


def test_linear_rise():
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rates(LinearRise(4), 6) == [pytest.approx([each]) for each in expected]


def test_linear_decay():
    assert rates(LinearDecay(4), 4) == [pytest.approx([each]) for each in (1.0, 0.75, 0.5, 0.25)]
    with pytest.raises(ValueError, match=r"raise LinearDecay\.updates"):
        rates(LinearDecay(2), 3)


def test_all_optimizers_follow():
    method = METHODS["GEBM of flows"].method
    assert isinstance(method, GEBM)
    assert rates(Milestones((1,), 0.1), 2, method)[1] == pytest.approx([0.1, 0.1])


def test_what_else_changes_a_rate_is_kept():
    """As a policy does that goes back after divergence and halves it."""
    method = FlowLikelihood(RealNVP(2, 4, 1), Adam(0.1))
    learner = Scheduled(method, Milestones((1, 2), 0.5)).learner(method.model((2,), None))
    batches = Batches(PLANE.load("train"), None, 16, generator(0))
    learner.step(batches, generator(1))
    (optimizer,) = (part for part in learner.parts.values() if isinstance(part, torch.optim.Optimizer))
    optimizer.param_groups[0]["lr"] *= 0.5
    for _ in range(2):
        learner.step(batches, generator(1))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_a_run_that_is_cut_ends_the_same(tmp_path: Path):
    trained = dataclasses.replace(METHODS["MAF, its rate scheduled"], steps=7)
    Store(tmp_path / "uncut").get(trained)
    make_in_pieces(trained, tmp_path / "cut")
    assert kept(tmp_path / "cut", trained) == kept(tmp_path / "uncut", trained)


def test_wrong_settings_are_named():
    for wrong in (
        lambda: Milestones((), 0.5),
        lambda: Milestones((3, 2), 0.5),
        lambda: Milestones((0, 2), 0.5),
        lambda: Milestones((1,), 0.0),
        lambda: LinearDecay(0),
        lambda: LinearRise(0),
    ):
        with pytest.raises(FieldError):
            wrong()


def test_one_schedule_on_top_of_another(tmp_path: Path):
    """Their factors are multiplied, and both count on after a cut."""
    trained = METHODS["MAF, its rate scheduled"]
    method = trained.method
    assert isinstance(method, Scheduled)
    twice = dataclasses.replace(
        trained,
        method=Scheduled(Scheduled(method.method, Milestones((3,), 0.5)), LinearRise(4)),
        steps=7,
    )
    inner = rates(
        LinearRise(4), 6, Scheduled(FlowLikelihood(RealNVP(2, 4, 1), Adam(0.1)), Milestones((3,), 0.5))
    )
    assert inner == [pytest.approx([each]) for each in (0.25, 0.5, 0.75, 0.5, 0.5, 0.5)]
    Store(tmp_path / "uncut").get(twice)
    make_in_pieces(twice, tmp_path / "cut")
    assert kept(tmp_path / "cut", twice) == kept(tmp_path / "uncut", twice)
