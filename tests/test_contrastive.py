"""Contrastive learning in data space: where chains begin and are kept, and what the energy becomes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from laws import generator
from torch import nn
from toys import METHODS, kept, make_in_pieces

from ebmzoo.energies import MLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.models import Box, Flat, Model
from ebmzoo.samplers import MALA, Langevin, Stage
from ebmzoo.store import Store
from ebmzoo.training import Adam, Batches
from ebmzoo_pixel.contrastive import ContrastiveLearning, Fresh, InBox, Replay, Unbounded


def model(chains: torch.Tensor | None = None) -> Model:
    return Model(Flat((2,), 3.0), nn.Identity(), MLPEnergy(4, 1).energy((2,)), chains)


def test_spaces():
    wide = Unbounded(3.0).prior((2,))
    points = wide.draw(20_000, generator(0))
    assert float(points.std()) == pytest.approx(3, abs=0.05)
    assert torch.equal(wide.log_prob(100 * points), torch.zeros(20_000))
    box = InBox(-2.0, 1.0).prior((2,))
    assert isinstance(box, Box)
    assert (box.low, box.high) == (-2.0, 1.0)


def test_replay_takes_each_chain_once():
    chains = torch.arange(40.0).view(20, 2)
    position, places = Replay(20, fresh=0.0).begin(model(chains), 20, generator(0))
    assert sorted(places.tolist()) == list(range(20))
    assert torch.equal(position, chains[places])
    with pytest.raises(ValueError, match=r"raise Replay\.capacity"):
        Replay(20).begin(model(chains), 21, generator(0))


def test_some_chains_begin_anew():
    chains = torch.full((5000, 2), 1e6)
    position, _ = Replay(5000, fresh=0.05).begin(model(chains), 5000, generator(0))
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
    ):
        with pytest.raises(FieldError):
            wrong()
