"""Contrastive learning in data space: where chains begin and are kept, and what the energy becomes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from laws import generator
from torch import nn
from toys import METHODS, Blob, Offset, kept, make_in_pieces

from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.energies import MLPEnergy
from ebmzoo.execution import measure
from ebmzoo.fields import FieldError
from ebmzoo.models import Box, Flat, Model, Normal, as_bytes, from_bytes
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.samplers import MALA, Chains, FromKept, Langevin, Stage
from ebmzoo.store import Store
from ebmzoo.tables import Cell
from ebmzoo.training import (
    SGD,
    Adam,
    Batch,
    Batches,
    Clipped,
    Diverged,
    FreshNoise,
    GoBack,
    LowerLearningRate,
    Milestones,
    Scheduled,
    descend,
)
from ebmzoo_pixel.conditional import given
from ebmzoo_pixel.contrastive import ContrastiveLearning
from ebmzoo_pixel.memory import ByteReplay, Fresh, FromBatch, Replay
from ebmzoo_pixel.spaces import FromBox, InBox, Unbounded
from ebmzoo_pixel.terms import Classification, LastStep, Moved

X = torch.zeros(3, 2)


def model(chains: torch.Tensor | None = None) -> Model:
    return Model(Flat(Normal((2,), 3.0)), nn.Identity(), MLPEnergy(4, 1).energy((2,)), chains)


def test_spaces():
    wide = Unbounded(3.0).prior((2,))
    points = wide.draw(20_000, generator(0))
    assert float(points.std()) == pytest.approx(3, abs=0.05)
    assert torch.equal(wide.log_prob(100 * points), torch.zeros(20_000))
    box = InBox(-2.0, 1.0).prior((2,))
    assert isinstance(box, Box)
    assert (box.low, box.high) == (-2.0, 1.0)
    left = FromBox(-2.0, 1.0).prior((2,))
    assert torch.equal(left.draw(5, generator(0)), box.draw(5, generator(0)))
    far = torch.full((3, 2), 9.0)
    assert torch.equal(left.log_prob(far), torch.zeros(3))
    assert torch.equal(left.plus_score(far, far), far)
    torch.testing.assert_close(left.law().log_prob(torch.zeros(3, 2)), torch.full((3,), -2 * math.log(3)))


def test_replay_takes_each_chain_once():
    chains = torch.arange(40.0).view(20, 2)
    position, places = Replay(20, fresh=0.0).begin(model(chains), X, 20, generator(0))
    assert sorted(places.tolist()) == list(range(20))
    assert torch.equal(position, chains[places])
    with pytest.raises(ValueError, match=r"raise Replay\.capacity"):
        Replay(20).begin(model(chains), X, 21, generator(0))


def test_some_chains_begin_anew():
    chains = torch.full((5000, 2), 1e6)
    position, _ = Replay(5000, fresh=0.05).begin(model(chains), X, 5000, generator(0))
    fresh = (position < 1e5).all(1)
    assert int(fresh.sum()) == pytest.approx(250, abs=5 * math.sqrt(250))
    assert float(position[fresh].std()) == pytest.approx(3, abs=0.5)


def test_where_chains_end_is_kept():
    method = ContrastiveLearning(
        MLPEnergy(4, 1), (Stage(Langevin(0.01), 2),), Unbounded(), Replay(40, 0.0), chains=2
    )
    torch.manual_seed(0)
    begun = method.model((2,), None)
    before = begun.chains.clone()
    learner = method.learner(begun)
    report = learner.step(Batches(torch.randn(30, 2), None, 10, generator(0)), generator(1))
    moved = (begun.chains != before).any(1)
    assert int(moved.sum()) == 20
    assert sorted(begun.chains[moved].tolist()) == sorted(report["samples"].tolist())


def test_without_memory_no_chains_are_kept():
    method = ContrastiveLearning(MLPEnergy(4, 1), (), Unbounded(), Fresh())
    assert method.model((2,), None).chains is None


def test_kept_chains_begin_as_the_seed_says():
    method = ContrastiveLearning(MLPEnergy(4, 1), (), Unbounded(), Replay(10))
    chains = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        chains.append(method.model((2,), None).chains)
    assert torch.equal(chains[0], chains[1])
    assert not torch.equal(chains[0], chains[2])


def test_a_replay_buffer_resumes(tmp_path: Path):
    trained = METHODS["Contrastive learning"]
    Store(tmp_path / "uncut").get(trained)
    make_in_pieces(trained, tmp_path / "cut")
    assert kept(tmp_path / "cut", trained) == kept(tmp_path / "uncut", trained)
    assert "chains" in Store(tmp_path / "cut").get(trained).state_dict()


@dataclass(frozen=True)
class Quadratic:
    """An architecture of energies a |x - b|² / 2, with a and b to be learnt."""

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        return Parabola()


class Parabola(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.a * (x - self.b).square().sum(1)


@pytest.mark.parametrize("memory", [Replay(2000, 0.0), Fresh()], ids=["persistent", "fresh"])
def test_the_energy_of_a_normal_law_is_learnt(memory: Replay | Fresh):
    """Data of N(m, s²): the likelihood is highest at a = 1 / s² and b = m, where exact chains lead."""
    data = torch.tensor([0.7, -0.3]) + 0.5 * torch.randn(5000, 2, generator=generator(0))
    schedule = (Stage(MALA(0.2), 10 if isinstance(memory, Replay) else 40),)
    method = ContrastiveLearning(Quadratic(), schedule, Unbounded(), memory, optimizer=Adam(0.03, 0.5, 0.9))
    torch.manual_seed(0)
    learner = method.learner(method.model((2,), None))
    batches, rng = Batches(data, None, 500, generator(1)), generator(2)
    tail = []
    for update in range(400):
        learner.step(batches, rng)
        if update >= 300:
            energy = learner.model.energy
            tail.append(torch.tensor([float(energy.a.detach()), *energy.b.tolist()]))
    a, *b = torch.stack(tail).mean(0).tolist()
    assert a == pytest.approx(4, abs=0.25)
    assert b == pytest.approx([0.7, -0.3], abs=0.04)


def test_wrong_settings_are_named():
    for wrong in (
        lambda: Unbounded(0.0),
        lambda: InBox(1.0, 1.0),
        lambda: Replay(0),
        lambda: Replay(10, 1.5),
        lambda: ContrastiveLearning(Quadratic(), (), chains=0),
        lambda: ContrastiveLearning(Quadratic(), (), l2=-1.0),
        lambda: ContrastiveLearning(Quadratic(), (), memory=FromBatch(), data_noise=0.1),
        lambda: ContrastiveLearning(Quadratic(), (), terms=(LastStep(), LastStep(2.0))),
    ):
        with pytest.raises(FieldError):
            wrong()


def test_contrastive_divergence_begins_at_the_data():
    x = torch.arange(6.0).view(3, 2)
    position, places = FromBatch().begin(model(), x, 7, generator(0))
    assert places is None
    assert torch.equal(position, x.repeat(3, 1)[:7])


def test_bytes_are_the_interval_that_a_point_lies_in():
    prior = Box((2,), -1.0, 1.0)
    points = torch.tensor([[-1.0, 1.0], [-0.9999, 0.0], [0.007, 0.008]])
    levels = as_bytes(points, prior)
    assert levels.dtype == torch.uint8
    assert levels.tolist() == [[0, 255], [0, 128], [128, 129]]
    restored = from_bytes(levels.repeat(4000, 1), prior, generator(0))
    assert torch.equal(as_bytes(restored, prior), levels.repeat(4000, 1))
    within = (restored[::3, 0] + 1) * 128  # uniform within the first interval
    assert float(within.mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * 4000))
    with pytest.raises(ValueError, match="in a box only"):
        as_bytes(points, Flat(Normal((2,))))


def test_a_buffer_of_bytes_learns_resumes_and_samples(tmp_path: Path):
    method = ContrastiveLearning(MLPEnergy(4, 1), (Stage(Langevin(0.01), 2),), InBox(), ByteReplay(40, 0.1))
    trained = Trained(method, Blob(), 6, 16)
    Store(tmp_path / "uncut").get(trained)
    make_in_pieces(trained, tmp_path / "cut")
    assert kept(tmp_path / "cut", trained) == kept(tmp_path / "uncut", trained)
    made = Store(tmp_path / "cut").get(trained)
    assert made.chains.dtype == torch.uint8
    drawn = Chains((), FromKept()).draw(made, 500, generator(0))
    assert drawn.is_floating_point()
    assert bool((drawn.abs() <= 1).all())
    pairs = torch.tensor([256, 1])
    drawn_levels = as_bytes(drawn, made.prior).long() @ pairs
    assert bool(torch.isin(drawn_levels, made.chains.long() @ pairs).all())


def test_noise_on_data_moves_nothing_else():
    """The energy sees the data noisy; chains, and the data themselves, are as they were without it."""
    data = torch.zeros(30, 2)
    reports = []
    for noise in (0.0, 0.5):
        method = ContrastiveLearning(
            Quadratic(), (), Unbounded(), Fresh(), optimizer=Adam(1e-3), data_noise=noise
        )
        torch.manual_seed(0)
        learner = method.learner(method.model((2,), None))
        reports.append(learner.step(Batches(data, None, 30, generator(0)), generator(1)))
    assert torch.equal(reports[0]["samples"], reports[1]["samples"])
    assert float(reports[0]["energy_data"]) == 0
    assert float(reports[1]["energy_data"]) == pytest.approx(0.25, abs=0.25)  # half of 2 × 0.5²


class Logits(nn.Module):
    """Features that are the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_the_classification_term_is_the_cross_entropy():
    energy = ClassifierEnergy(Logits(), 2, 2)
    made = Model(Flat(Normal((2,))), nn.Identity(), energy)
    batch = Batch(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    logits = energy.logits(batch.data)
    by_hand = -(logits.log_softmax(1)[0, 0] + logits.log_softmax(1)[1, 1]) / 2
    torch.testing.assert_close(Classification(3.0).value(made, batch, Moved(X), generator(0)), 3 * by_hand)
    with pytest.raises(ValueError, match="energy with classes"):
        Classification().value(model(), batch, Moved(X), generator(0))
    with pytest.raises(ValueError, match="data with classes"):
        Classification().value(made, batch._replace(labels=None), Moved(X), generator(0))


def test_the_last_step_has_the_gradient_of_the_step_alone():
    """E = a x²/2 in one dimension: the step leads to (1 - c a) x, so d/da of its energy at a held still is
    -a c x² (1 - c a)."""
    energy = Parabola()
    made = Model(Flat(Normal((2,))), nn.Identity(), energy)
    samples = Moved(torch.tensor([[2.0, 0.0]]))
    value = LastStep(weight=0.5, gradient=0.1, noise=1e-9).value(made, Batch(X, None), samples, generator(0))
    (slope,) = torch.autograd.grad(value, energy.a)
    assert float(value.detach()) == pytest.approx(0.5 * 0.5 * (0.9 * 2) ** 2, abs=1e-6)
    assert float(slope) == pytest.approx(0.5 * -0.1 * 4 * 0.9, abs=1e-6)


def test_the_entropy_of_the_last_step_is_that_of_its_nearest_neighbours():
    energy = Parabola()
    chains = torch.tensor([[2.0, 1.0], [-7.0, 0.0], [9.0, 9.0]])
    made = Model(Flat(Normal((2,))), nn.Identity(), energy, chains)
    samples = Moved(torch.tensor([[2.0, 0.0]]))
    plain, full = (
        LastStep(0.5, 0.1, 1e-9, entropy, 3).value(made, Batch(X, None), samples, generator(0))
        for entropy in (0.0, 0.3)
    )
    assert float((full - plain).detach()) == pytest.approx(-0.3 * math.log(math.hypot(0.2, 1.0)), abs=1e-5)
    (slope,) = torch.autograd.grad(full - plain, energy.a)
    # of x' = 2 (1 - 0.1 a): d/da of -0.3 log |x' - y| is -0.3 (x' - y) · dx'/da / |x' - y|²
    assert float(slope) == pytest.approx(-0.3 * (-0.2) * (-0.2) / (0.2**2 + 1), abs=1e-5)


def test_the_entropy_needs_chains_that_are_kept():
    made = Model(Flat(Normal((2,))), nn.Identity(), Parabola(), torch.zeros(5, 2))
    term, one = LastStep(entropy=0.3, neighbours=5), Batch(X, None)
    term.value(made, one, Moved(torch.ones(1, 2)), generator(0))
    with pytest.raises(
        ValueError, match=r"among 5 .* the 1 of an update 4 are kept; .*LastStep\.entropy be 0"
    ):
        term.value(made, one, Moved(torch.ones(1, 2), torch.tensor([2])), generator(0))


def test_a_sample_is_no_neighbour_of_itself():
    chains = torch.tensor([[5.0, 0.0], [2.0, 0.0], [-6.0, 8.0]])
    made = Model(Flat(Normal((2,))), nn.Identity(), Parabola(), chains)
    moved = Moved(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))  # the last step leads to (1.8, 0)
    plain, full = (
        LastStep(0.5, 0.1, 1e-9, entropy, 2).value(made, Batch(X, None), moved, generator(0))
        for entropy in (0.0, 1.0)
    )
    assert float((full - plain).detach()) == pytest.approx(-math.log(5.0 - 1.8), abs=1e-5)


def test_the_classification_term_of_a_law_of_classes():
    energy = ClassifierEnergy(Logits(), 2, 2)
    batch = Batch(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    made = Model(Flat(Normal((2,))), nn.Identity(), energy)
    assert torch.equal(
        Classification().value(given(made, batch.labels), batch, Moved(X), generator(0)),
        Classification().value(made, batch, Moved(X), generator(0)),
    )


def test_terms_are_added_to_the_loss_and_reported():
    method = ContrastiveLearning(Quadratic(), (), Unbounded(), Fresh(), terms=(LastStep(2.0, 0.1),))
    torch.manual_seed(0)
    learner = method.learner(method.model((2,), None))
    report = learner.step(Batches(torch.zeros(30, 2), None, 30, generator(0)), generator(1))
    assert float(report["loss/LastStep"]) > 0
    assert float(learner.model.energy.a.grad) != 0


def test_a_shortened_gradient_has_the_norm_that_is_asked_for():
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Clipped(SGD(1.0), 0.5).over([parameter])
    norm = descend(optimizer, (parameter * parameter.detach()).sum())
    assert float(norm) == 5  # what is watched for divergence is the gradient as it was
    torch.testing.assert_close(parameter.detach(), torch.tensor([2.7, 3.6]))
    small = nn.Parameter(torch.tensor([0.3, 0.0]))
    descend(Clipped(SGD(1.0), 0.5).over([small]), (small * small.detach()).sum())
    torch.testing.assert_close(small.detach(), torch.zeros(2))


# Survival.

WILD = Scheduled(
    ContrastiveLearning(
        MLPEnergy(16, 2), (Stage(Langevin(0.01), 3),), Unbounded(), Replay(64, 0.05), optimizer=Adam(1e-2)
    ),
    Milestones((30,), 100.0),
)
"""The learning rate rises a hundredfold after 30 updates."""


def test_a_planted_divergence_is_survived_at_a_lower_rate(tmp_path: Path):
    lower = GoBack(LowerLearningRate(0.01), every=10)
    recipe = Trained(WILD, Blob(), 60, 16, divergence=lower)
    samples = Samples(recipe, Chains((Stage(Langevin(0.01), 3),)), 8)
    of = Cell("wild", "blob", Score(samples, Offset()))
    [made] = measure([of], Store(tmp_path)).results
    assert made.attempts == 2
    (attempt,) = Store(tmp_path).run(recipe)["attempts"]
    assert 30 < attempt["step"] <= 45
    assert attempt["went_back_to"] in (10, 20, 30)
    assert attempt["changed"] == "learning rates × 0.01"
    assert Store(tmp_path).run(recipe)["updates"] == 60


@pytest.mark.parametrize(("step_size", "rate"), [(0.2, 3e-2), (2.0, 1e-2)])
def test_learning_that_does_diverge_is_survived(tmp_path: Path, step_size: float, rate: float):
    """Nothing holds this energy: at these rates it runs away, at a tenth of them not before the end."""
    steps = (Stage(Langevin(step_size), 5),)
    method = ContrastiveLearning(MLPEnergy(16, 2), steps, Unbounded(), Replay(64), optimizer=Adam(rate))
    recipe = Trained(method, Blob(), 120, 16, divergence=GoBack(LowerLearningRate(0.1), every=10))
    store = Store(tmp_path)
    store.get(recipe)
    run = store.run(recipe)
    (attempt,) = run["attempts"]
    assert attempt["saw"].startswith("energy_gap is ")
    assert 0 < attempt["went_back_to"] <= attempt["step"] - 10
    assert run["updates"] == 120


def test_what_other_random_numbers_do_not_cure_is_told_with_its_history(tmp_path: Path):
    recipe = Trained(WILD, Blob(), 60, 16, divergence=GoBack(FreshNoise(), every=10, attempts=2))
    with pytest.raises(Diverged, match="after 2 further attempts"):
        Store(tmp_path).get(recipe)


def test_without_a_policy_divergence_is_named(tmp_path: Path):
    with pytest.raises(Diverged, match=r"training diverged at update [34]\d: .* Lower the learning rate"):
        Store(tmp_path).get(Trained(WILD, Blob(), 60, 16))


def test_steps_that_are_too_long_are_seen(tmp_path: Path):
    """On an energy of curvature one, a step size above two throws chains ever farther out."""
    method = ContrastiveLearning(Quadratic(), (Stage(Langevin(3.0), 5),), Unbounded(), Replay(64, 0.0))
    with pytest.raises(Diverged, match=r"(energy_samples|energy_gap|chain_gradient|gradient_norm) is"):
        Store(tmp_path).get(Trained(method, Blob(), 60, 16))
