"""Training by several processes: the same updates, no chain shared or lost, and what a lost process does."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from laws import generator
from torch import Generator, Tensor
from toys import METHODS, Blob, Chase, Offset

from ebmzoo.energies import MLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.generators import MLPGenerator
from ebmzoo.recipes import Trained
from ebmzoo.runtime import Deadline, OutOfTime, Runtime, UnknownDevice
from ebmzoo.samplers import SGLD, Direct, Stage
from ebmzoo.store import Store
from ebmzoo.training import (
    SGD,
    Averaged,
    Batches,
    Clipped,
    Diverged,
    FreshNoise,
    GoBack,
    LostProcess,
    Selection,
    Share,
    Team,
    gather_team,
    loop,
)
from ebmzoo_ddls.ddls import DDLS
from ebmzoo_gebm.gebm import GEBM
from ebmzoo_pixel.contrastive import ContrastiveLearning
from ebmzoo_pixel.memory import Replay
from ebmzoo_pixel.spaces import Unbounded


@pytest.fixture(autouse=True)
def _checkpoints_after_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_INTERVAL", -1.0)


def trained(method, processes: int = 2, **settings) -> Trained:
    return Trained(method, Blob(), **({"steps": 4, "batch_size": 16} | settings), processes=processes)


def contrastive(noise: float = 0.1, **settings) -> ContrastiveLearning:
    stage = Stage(SGLD(1e-30 if noise == 0 else 0.1, noise), 2)
    replay = Replay(**({"capacity": 33, "fresh": 0.0} | settings))
    return ContrastiveLearning(MLPEnergy(8, 2), (stage,), Unbounded(), replay)


def rows(points: Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, points.tolist()))


# What the team shares out


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_minibatch_is_shared_out(size: int):
    data = torch.arange(24.0)[:, None]
    whole = Batches(data, data[:, 0].long(), 8, generator(0))
    parts = [
        Batches(data, data[:, 0].long(), 8, generator(0), share=Share(rank, size)) for rank in range(size)
    ]
    for _ in range(5):
        expected, found = whole.draw(), [part.draw() for part in parts]
        assert rows(torch.cat([batch.data for batch in found])) == rows(expected.data)
        for batch in found:
            assert len(batch.data) == parts[0].batch_size == 8 // size
            assert torch.equal(batch.data[:, 0].long(), batch.labels)
    assert sum(part.drawn for part in parts) == whole.drawn


def test_a_minibatch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match=r"batch of 9 .* 2 processes"):
        Batches(torch.zeros(20, 1), None, 9, generator(0), share=Share(0, 2))
    with pytest.raises(FieldError, match=r"batch_size.* a multiple of 2"):
        trained(Chase(), batch_size=9)


def test_every_point_is_in_one_part():
    points = torch.randn(11, 2, generator=generator(1))
    parts = [Team(rank, 3).part(points) for rank in range(3)]
    assert torch.equal(torch.cat(parts), points)
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts)


def test_processes_have_random_numbers_of_their_own_and_the_first_those_of_one_alone():
    assert Team(0, 2).name("training") == Team().name("training") == "training"
    assert len({Team(rank, 3).name("training") for rank in range(3)}) == 3


def test_the_number_of_processes_is_part_of_what_is_made():
    assert trained(Chase(), processes=1).key == Trained(Chase(), Blob(), steps=4, batch_size=16).key
    assert trained(Chase(), processes=2).key != trained(Chase(), processes=1).key


# What comes out


@dataclass(frozen=True)
class Alike(Trained):
    """A recipe whose random numbers do not depend on what it is."""

    def rng(self, purpose: str, device: torch.device | str = "cpu") -> Generator:
        return Generator(device).manual_seed(len(purpose))


@pytest.mark.parametrize(
    "optimizer", [SGD(0.1, 0.5), Clipped(SGD(0.1), 0.05)], ids=lambda optimizer: type(optimizer).__name__
)
def test_two_processes_make_the_updates_of_one(optimizer, tmp_path: Path):
    """Also where the gradient is shortened: what is shortened is the mean, not what it is the mean of."""
    method = Chase(optimizer, noise=0.0)
    alike = Alike(method, Blob(), steps=4, batch_size=16)
    one, two = (Store(tmp_path).get(replace(alike, processes=count)) for count in (1, 2))
    assert one.state_dict().keys() == two.state_dict().keys()
    torch.testing.assert_close(two.state_dict(), one.state_dict(), rtol=1e-5, atol=1e-6)
    assert float(one.decoder.by.detach().abs().sum()) > 0.01


def test_no_chain_is_shared_or_lost(tmp_path: Path):
    """With chains that stand still, those that begin are those that are kept in the end."""
    recipe = trained(contrastive(noise=0.0), steps=6)
    torch.manual_seed(recipe.rng("weights").initial_seed())
    begun = recipe.method.model((2,), None).chains
    kept = Store(tmp_path).get(recipe).chains
    assert rows(kept) == rows(begun)
    assert len(set(rows(kept))) == 33


def test_chains_of_two_processes_have_noise_of_their_own(tmp_path: Path):
    chains = Store(tmp_path).get(trained(contrastive(noise=1.0, capacity=16))).chains
    assert len(set(rows(chains))) == 16


def test_what_all_processes_did_is_counted(tmp_path: Path):
    store = Store(tmp_path)
    recipes = [trained(contrastive(), processes) for processes in (1, 2)]
    for recipe in recipes:
        store.get(recipe)
    alone, together = (store.run(recipe) for recipe in recipes)
    assert together["data_drawn"] == alone["data_drawn"] == 4 * 16
    assert together["updates"] == 4
    # every process evaluates its chains where they begin, and at both steps
    assert together["gradient_evaluations"] == alone["gradient_evaluations"] == 4 * 16 * 3


def test_what_a_team_needs_is_made_by_teams_too(tmp_path: Path):
    base = trained(contrastive(), steps=2)
    recipe = replace(trained(DDLS(), steps=1), base=base, split="valid")
    assert Store(tmp_path).get(recipe) is not None
    assert Store(tmp_path).run(base)["updates"] == 2


def test_an_average_and_a_selection_take_part(tmp_path: Path):
    method = Averaged(contrastive(), 0.5)
    selection = Selection(Offset(), Direct(), every=2, count=20)
    store, recipe = Store(tmp_path), trained(method, selection=selection)
    assert len(store.get(recipe).chains) == 33
    assert len(store.run(recipe)["selection"]["scores"]) == 2


@dataclass(frozen=True)
class Everyone:
    """Lets every process train, and the first one have the networks of all.

    Arguments:
        recipe: What is trained.
        root: The store.
    """

    recipe: Trained
    root: Path

    def __call__(self, team: Team) -> list[dict[str, Tensor]]:
        store, data = Store(self.root), self.recipe.data.stored("train")
        model, _ = self.recipe._train(store, self.root, data, team)
        return team.gathered({name: value.detach() for name, value in model.named_parameters()})


@pytest.mark.parametrize(
    "name", [name if name == "Glow" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_the_networks_of_all_processes_stay_equal(name: str, tmp_path: Path):
    """Also where they are set from a first minibatch, as Glow's are."""
    recipe = replace(METHODS[name], processes=2)
    store = Store(tmp_path)
    for need in recipe.needs():
        store.get(need)
    everyone = Everyone(recipe, tmp_path)
    with gather_team(2, "cpu", everyone) as team:
        one, other = everyone(team)
    assert one
    assert all(torch.equal(one[name], other[name]) for name in one)


def log_partition_after_an_update(team: Team) -> list[Tensor]:
    torch.manual_seed(0)
    method = GEBM(MLPEnergy(8, 2), MLPGenerator(8, 2), 2)
    learner = method.learner(method.model((2,), None))
    learner.step(Batches(torch.zeros(32, 2), None, 16, generator(0)), generator(team.rank))
    team.agree(learner)
    return team.gathered(learner.log_z.detach())


def test_what_is_learnt_beside_the_networks_is_the_same_in_all_processes():
    """The log-partition begins with samples of the base, of which each process has its own."""
    with gather_team(2, "cpu", log_partition_after_an_update) as team:
        one, other = log_partition_after_an_update(team)
    assert float(one) != 0
    assert torch.equal(one, other)


# However it is stopped


def deadline_after(checks: int) -> Deadline:
    class Soon(Deadline):
        asked_for = 0

        @property
        def passed(self) -> bool:
            type(self).asked_for += 1
            return type(self).asked_for > checks

    return Soon()


def test_a_run_that_stops_and_goes_on_ends_the_same(tmp_path: Path):
    recipe = trained(Averaged(contrastive(), 0.5), steps=5)
    expected = Store(tmp_path / "one").get(recipe).state_dict()
    runtime = Runtime(deadline=deadline_after(3))
    with pytest.raises(OutOfTime):
        Store(tmp_path / "other", runtime).get(recipe)
    found = Store(tmp_path / "other").get(recipe).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_diverges_goes_back_in_all_processes(tmp_path: Path):
    method = Chase(SGD(0.1), planted=((3, "energy_gap", "inf"),))
    store, recipe = Store(tmp_path), trained(method, steps=6, divergence=GoBack(FreshNoise(), every=2))
    with pytest.raises(Diverged, match="update 3 after 3 further attempts: energy_gap is inf"):
        store.get(recipe)


class Ends:
    """Another process of a team that ends at its second collective operation."""

    def __init__(self, way: str):
        self.way = way

    def __call__(self, team: Team) -> None:
        team.wait()
        if self.way == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.way == "failed":
            raise ValueError("no such thing")
        team.wait()


def meet(times: int, ends: Ends) -> None:
    """Waits for another process so often, and then fails."""
    with gather_team(2, "cpu", ends) as team:
        for _ in range(times):
            team.wait()
        raise KeyError("mine")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("killed", "process 1 of 2 was ended from outside"),
        ("failed", "process 1 of 2 failed: .*no such thing"),
    ],
)
def test_a_process_that_ends_too_early_is_named(way: str, words: str):
    with pytest.raises(LostProcess, match=words):
        meet(2, Ends(way))


def test_an_error_of_the_first_process_is_told_as_it_is():
    with pytest.raises(KeyError, match="mine"):
        meet(1, Ends(""))


def test_a_run_goes_on_after_a_process_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = trained(contrastive(), steps=6)
    expected = Store(tmp_path / "one").get(recipe).state_dict()
    save, saves = loop._Session.save, iter(range(100))

    def fatal(session) -> None:
        save(session)
        if next(saves) == 2:
            raise LostProcess("as if")

    with monkeypatch.context() as patch:
        patch.setattr(loop._Session, "save", fatal)
        with pytest.raises(LostProcess, match="as if"):
            Store(tmp_path / "other").get(recipe)
    found = Store(tmp_path / "other").get(recipe).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are devices enough")
def test_every_process_needs_a_device_of_its_own(tmp_path: Path):
    with pytest.raises(UnknownDevice, match="2 processes on CUDA need as many devices"):
        Store(tmp_path, Runtime("cuda")).get(trained(Chase()))
