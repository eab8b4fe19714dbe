"""Training ends at the same bits however it is cut, and what goes wrong is seen, named and declared."""

from __future__ import annotations

import dataclasses
import itertools
import math
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Generator, Tensor, nn
from toys import METHODS, PLANE, Blob, Chase, Countdown, Offset, full_disk, kept, make_in_pieces

from ebmzoo.energies import MLPEnergy
from ebmzoo.execution import measure
from ebmzoo.fields import FieldError
from ebmzoo.models import Model
from ebmzoo.recipes import Samples, Score, Trained, fingerprint
from ebmzoo.runtime import OutOfTime, Runtime
from ebmzoo.samplers import Direct, Langevin, Stage
from ebmzoo.store import DamagedArtifact, Store
from ebmzoo.tables import Cell
from ebmzoo.training import (
    SGD,
    Adam,
    Batches,
    Diverged,
    FreshNoise,
    GoBack,
    Learner,
    Limit,
    Log,
    LowerLearningRate,
    Selection,
    SettleForBest,
    Stop,
    descend,
    differentiate,
    fit,
)
from ebmzoo.training.checkpoint import Progress
from ebmzoo.training.divergence import LIMITS
from ebmzoo.training.selection import Look, Referee
from ebmzoo_bases.encoders import MLPEncoder
from ebmzoo_bases.vae import VAE, Gaussian
from ebmzoo_tilting.tilting import Tilting

BACK = GoBack(LowerLearningRate(0.7), every=5, limits=(Limit("loss", 50.0),))
STEEP = Trained(Chase(SGD(0.5), curvature=7.0), PLANE, steps=40, batch_size=16, divergence=BACK)
"""Gradient descent that is stable for learning rates below 2 / 7, begun at 0.5 and lowered to 0.35, 0.245."""

NOISY = Trained(Chase(dropout=0.5), PLANE, steps=9, batch_size=24)
"""Uses torch's global generator and carries chains along; its batches do not divide the data."""


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def batches_of(count: int, size: int, seed: int = 0) -> Batches:
    return Batches(torch.arange(float(count))[:, None], torch.arange(count) % 3, size, generator(seed))


def weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Batches


@pytest.mark.parametrize(("count", "size"), [(12, 3), (12, 5), (7, 7), (5, 1)])
def test_every_pass_has_every_datum_at_most_once_and_whole_batches_only(count: int, size: int):
    batches = batches_of(count, size)
    passes = [[batches.draw() for _ in range(count // size)] for _ in range(4)]
    for drawn in passes:
        seen = Counter(int(x) for batch in drawn for x in batch.data)
        assert set(seen.values()) == {1}
        assert len(seen) == count // size * size
        for batch in drawn:
            assert batch.data.shape == (size, 1)
            assert batch.labels is not None
            assert torch.equal(batch.labels, batch.data[:, 0].long() % 3)
    assert count == 1 or len({str([b.data for b in drawn]) for drawn in passes}) == 4, "the order is the same"


def test_every_datum_comes_equally_often():
    """Each of the 10 data is in 80 % of passes; 5 standard errors over 400 passes are 40."""
    batches = batches_of(10, 4)
    seen = Counter(int(x) for _ in range(800) for x in batches.draw().data)
    assert all(abs(times - 320) < 40 for times in seen.values())


@pytest.mark.parametrize("drawn", [0, 1, 2, 5])
def test_batches_go_on_where_their_state_was_taken(drawn: int):
    batches, other = batches_of(12, 5), batches_of(12, 5, seed=1)
    for _ in range(drawn):
        batches.draw()
    state = batches.state()
    ahead = [batches.draw().data for _ in range(5)]
    other.draw()
    other.restore(state)
    assert all(torch.equal(other.draw().data, expected) for expected in ahead)


def test_a_batch_cannot_be_larger_than_the_data():
    with pytest.raises(ValueError, match=r"a batch of 65 cannot be taken from 64 data; lower batch_size"):
        batches_of(64, 65)


def test_data_that_are_not_finite_are_refused():
    data = torch.zeros(5, 2)
    data[1, 0], data[3] = math.nan, math.inf
    with pytest.raises(ValueError, match=r"^2 of 5 data are not finite"):
        Batches(data, None, 2, generator(0))


def test_labels_stay_with_their_data():
    data = Blob(8)
    x, y = data.load("train"), data.labels("train")
    batches = Batches(x, y, 4, generator(0))
    for _ in range(2):
        drawn, labels = batches.draw()
        index = (drawn[:, None] == x[None]).all(2).nonzero()[:, 1]
        assert labels is not None
        assert torch.equal(labels, y[index])


# Cut in pieces


@pytest.mark.parametrize("name", METHODS)
def test_a_run_cut_after_every_update_ends_as_an_uncut_one(name: str, tmp_path: Path):
    Store(tmp_path / "uncut").get(METHODS[name])
    assert make_in_pieces(METHODS[name], tmp_path / "cut") == METHODS[name].steps
    assert kept(tmp_path / "cut", METHODS[name]) == kept(tmp_path / "uncut", METHODS[name])


@pytest.mark.parametrize("updates", [1, 2, 4])
def test_global_randomness_and_carried_chains_go_on_too(updates: int, tmp_path: Path):
    Store(tmp_path / "uncut").get(NOISY)
    assert make_in_pieces(NOISY, tmp_path / "cut", updates) == math.ceil(9 / updates)
    assert kept(tmp_path / "cut", NOISY) == kept(tmp_path / "uncut", NOISY)


def test_dropout_and_noise_do_something():
    """Else the test above would show nothing."""

    def reports(method: Chase, seed: int) -> Tensor:
        torch.manual_seed(seed)
        learner = method.learner(method.model((2,), None))
        batches = Batches(PLANE.load("train"), None, 16, generator(0))
        return learner.step(batches, generator(seed))["distances"]

    for method, differs in [
        (Chase(dropout=0.5, noise=0.0), True),
        (Chase(), True),
        (Chase(noise=0.0), False),
    ]:
        assert torch.equal(reports(method, 0), reports(method, 1)) != differs


def test_a_run_that_went_back_ends_the_same_however_it_is_cut(tmp_path: Path):
    uncut, cut = Store(tmp_path / "uncut"), Store(tmp_path / "cut")
    uncut.get(STEEP)
    for updates in (1, 3):
        make_in_pieces(STEEP, tmp_path / "cut", updates)
        assert kept(tmp_path / "cut", STEEP) == kept(tmp_path / "uncut", STEEP)
        assert cut.run(STEEP)["attempts"] == uncut.run(STEEP)["attempts"]
        cut.remove(cut.contents()[0])


@pytest.mark.parametrize("patience", [None, 2])
def test_a_run_with_a_selection_ends_the_same_however_it_is_cut(patience: int | None, tmp_path: Path):
    selection = Selection(Offset(0.3), Direct(), every=2, count=8, patience=patience)
    trained = dataclasses.replace(NOISY, steps=20, selection=selection)
    Store(tmp_path / "uncut").get(trained)
    make_in_pieces(trained, tmp_path / "cut")
    assert kept(tmp_path / "cut", trained) == kept(tmp_path / "uncut", trained)
    seen = [Store(tmp_path / name).run(trained)["selection"] for name in ("cut", "uncut")]
    assert seen[0] == seen[1]


class Killed(BaseException):
    """The end of a process, as far as that can be had within one."""


@pytest.mark.parametrize("saved", [3, 4, 17, 1000], ids="a checkpoint every {} updates".format)
def test_a_run_killed_between_checkpoints_ends_the_same(
    saved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Updates since the last checkpoint are made again, whether or not training went back meanwhile.

    There is one checkpoint in any case: that of a first session, which was stopped after four updates.
    """
    Store(tmp_path / "undisturbed").get(STEEP)
    made, killed_at = 0, 0

    def mortal(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        nonlocal made
        made += 1
        if made == killed_at:
            raise Killed
        return descend(optimizer, loss)

    monkeypatch.setattr("toys.descend", mortal)
    monkeypatch.setattr("ebmzoo.training.loop.time", SimpleNamespace(monotonic=lambda: float(made)))
    monkeypatch.setattr("ebmzoo.training.loop.SAVE_INTERVAL", saved - 0.5)
    for root in (tmp_path / str(moment) for moment in range(5, 50, 5)):
        made, killed_at = 0, int(root.name)
        checkpoint_of(STEEP, root)
        with pytest.raises(Killed):
            Store(root).get(STEEP)
        made, killed_at = 0, 0
        Store(root).get(STEEP)
        assert kept(root, STEEP) == kept(tmp_path / "undisturbed", STEEP), root.name
        assert Store(root).run(STEEP)["attempts"] == Store(tmp_path / "undisturbed").run(STEEP)["attempts"]


def test_a_run_killed_when_patience_has_just_run_out_is_not_trained_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ebmzoo.training.loop.SAVE_INTERVAL", -1.0)
    selection = Selection(Offset(0.0), Direct(), every=1, count=8, patience=2)
    trained = dataclasses.replace(NOISY, steps=50, selection=selection)
    Store(tmp_path / "undisturbed").get(trained)

    def die(path: Path, tensors: dict[str, Tensor]) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("ebmzoo.recipes.trained.save_tensors", die)
        with pytest.raises(Killed):
            Store(tmp_path).get(trained)
    Store(tmp_path).get(trained)
    assert kept(tmp_path, trained) == kept(tmp_path / "undisturbed", trained)
    runs = [Store(root).run(trained) for root in (tmp_path, tmp_path / "undisturbed")]
    assert runs[0]["updates"] == runs[1]["updates"] < 50
    assert runs[0]["selection"] == runs[1]["selection"]


def test_the_deadline_leaves_a_checkpoint_and_nothing_else(tmp_path: Path):
    for looks, updates in [(1, 0), (4, 3)]:
        with pytest.raises(OutOfTime):
            Store(tmp_path, Runtime(deadline=Countdown(looks))).get(NOISY)
        folder = Store(tmp_path).folder(NOISY)
        assert not (folder / NOISY.artifact).exists()
        state = torch.load(folder / "checkpoint", weights_only=True)
        assert state["progress"]["step"] == updates
    Store(tmp_path).get(NOISY)
    assert Store(tmp_path).run(NOISY)["updates"] == 9


# Checkpoints


def checkpoint_of(trained: Trained, root: Path) -> Path:
    """The checkpoint of a run that was stopped after four updates."""
    with pytest.raises(OutOfTime):
        Store(root, Runtime(deadline=Countdown(5))).get(trained)
    return Store(root).folder(trained) / "checkpoint"


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


def malicious(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "progress": Malice(path.parents[1] / "executed")}, path)


def flipped(path: Path) -> None:
    """Changes a single bit of a weight, which torch.load does not notice."""
    content = bytearray(path.read_bytes())
    by = torch.load(path, weights_only=True)["model"]["decoder.by"]
    found = content.find(struct.pack("<2f", *by.tolist()))
    assert found > 0
    content[found] ^= 1
    path.write_bytes(content)


def shortened(by: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:-by])


def of_another_method(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["parts"]["chains"]
    torch.save(state, path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a pickled object": malicious,
    "a flipped bit": flipped,
    "one byte less": shortened(1),
    "1000 bytes less": shortened(1000),
    "nothing": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"no checkpoint at all"),
    "a part missing": of_another_method,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_not_gone_on_with(damage: Callable[[Path], object], tmp_path: Path):
    checkpoint = checkpoint_of(NOISY, tmp_path)
    damage(checkpoint)
    content = checkpoint.read_bytes()
    with pytest.raises(DamagedArtifact, match="checkpoint ") as caught:
        Store(tmp_path).get(NOISY)
    assert caught.value.folder == checkpoint.parent
    assert str(checkpoint.parent) in str(caught.value)
    assert checkpoint.read_bytes() == content
    assert not (tmp_path / "executed").exists()


def test_malice_would_work_if_it_were_let(tmp_path: Path):
    checkpoint = checkpoint_of(NOISY, tmp_path)
    malicious(checkpoint)
    torch.load(checkpoint, weights_only=False)
    assert (tmp_path / "executed").exists()


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path):
    checkpoint = checkpoint_of(NOISY, tmp_path)
    content = checkpoint.read_bytes()
    with full_disk(len(content) // 2), pytest.raises(OSError, match="File too large"):
        Store(tmp_path, Runtime(deadline=Countdown(2))).get(NOISY)
    assert checkpoint.read_bytes() == content
    Store(tmp_path / "undisturbed").get(NOISY)
    Store(tmp_path).get(NOISY)
    assert kept(tmp_path, NOISY) == kept(tmp_path / "undisturbed", NOISY)


# Divergence


def test_what_is_not_finite_is_named_with_its_update(tmp_path: Path):
    for value in (math.nan, math.inf, -math.inf):
        planted = dataclasses.replace(NOISY, method=Chase(planted=((7, "energy_gap", str(value)),)))
        with pytest.raises(Diverged, match=rf"diverged at update 7: energy_gap is {value}") as caught:
            Store(tmp_path).get(planted)
        assert "Lower the learning rate" in str(caught.value)
        assert "GoBack" in str(caught.value)


def test_a_first_update_that_is_not_finite_is_not_blamed_on_rates(tmp_path: Path):
    planted = dataclasses.replace(NOISY, method=Chase(planted=((1, "energy_gap", "nan"),)))
    with pytest.raises(Diverged, match=r"update 1: energy_gap is nan\. Nothing was learnt before"):
        Store(tmp_path).get(planted)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_explodes_is_named(limit: Limit, sign: int, tmp_path: Path):
    for factor, fine in [(1.001, False), (0.999, True)]:
        planted = dataclasses.replace(
            NOISY, method=Chase(planted=((3, limit.name, str(sign * factor * limit.bound)),))
        )
        if fine:
            Store(tmp_path).get(planted)
        else:
            with pytest.raises(Diverged, match=f"update 3: {limit.name} is .*, beyond ") as caught:
                Store(tmp_path).get(planted)
            assert f"beyond {limit.bound:g}." in str(caught.value)


class Kink(Learner):
    """Has a finite loss whose gradient is not a number once the weight is zero, at update 3."""

    def __init__(self, model: Model):
        self.optimizer = SGD(1.0).over(model.decoder.parameters())
        super().__init__(model, {"optimizer": self.optimizer})
        self.updates = 0

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        self.updates += 1
        [by] = self.model.decoder.parameters()
        loss = (by * (0.0 if self.updates == 3 else 1.0)).square().sum().sqrt()
        return {"loss": loss.detach(), "gradient_norm": descend(self.optimizer, loss)}


def test_a_gradient_that_is_not_finite_is_seen_at_once(tmp_path: Path):
    model = Chase().model((2,), None)
    nn.init.constant_(next(model.decoder.parameters()), 5.0)
    with pytest.raises(Diverged, match="update 3: gradient_norm is nan"):
        fit(Kink(model), batches_of(4, 2), 9, generator(0), tmp_path / "checkpoint")


def test_going_back_lowers_the_learning_rate_until_training_is_stable(tmp_path: Path):
    store = Store(tmp_path)
    model = store.get(STEEP)
    attempts = store.run(STEEP)["attempts"]
    assert [attempt["changed"] for attempt in attempts] == ["learning rates × 0.7"] * 2
    for attempt in attempts:
        assert attempt.keys() == {"step", "saw", "went_back_to", "changed"}
        assert attempt["went_back_to"] == max(0, ((attempt["step"] - 1) // 5 - 1) * 5)
        assert attempt["saw"].startswith("loss is ")
        assert attempt["saw"].endswith(", beyond 50")
    assert store.run(STEEP)["updates"] == 40
    assert (model.decoder.by - STEEP.data.load("train").mean(0)).norm() < 0.5


def test_the_lowered_rate_is_that_of_the_optimizer(tmp_path: Path):
    learner = STEEP.method.learner(STEEP.method.model((2,), None))
    batches = Batches(PLANE.load("train"), None, 16, generator(0))
    done = fit(learner, batches, 40, generator(1), tmp_path / "checkpoint", policy=BACK)
    assert len(done.attempts) == 2
    assert rate(learner) == pytest.approx(0.5 * 0.7**2)


def rate(learner: Learner) -> float:
    optimizer = learner.parts["optimizer"]
    assert isinstance(optimizer, torch.optim.Optimizer)
    [group] = optimizer.param_groups
    return float(group["lr"])


def test_attempts_since_a_point_add_up(tmp_path: Path):
    """Two failures after one point lower the rate twice; the point itself has the rate of its time."""
    patient = dataclasses.replace(BACK, every=1000, attempts=5)
    learner = STEEP.method.learner(STEEP.method.model((2,), None))
    batches = Batches(PLANE.load("train"), None, 16, generator(0))
    done = fit(learner, batches, 40, generator(1), tmp_path / "checkpoint", policy=patient)
    assert [attempt["went_back_to"] for attempt in done.attempts] == [0, 0]
    assert rate(learner) == pytest.approx(0.5 * 0.7**2)


def test_attempts_are_bounded(tmp_path: Path):
    hopeless = dataclasses.replace(
        NOISY,
        method=Chase(planted=((6, "energy_data", "nan"),)),
        divergence=GoBack(FreshNoise(), every=2, attempts=3),
    )
    with pytest.raises(Diverged, match="update 6 after 3 further attempts: energy_data is nan"):
        Store(tmp_path).get(hopeless)


def test_what_settles_for_the_best_model_ends_with_that_of_a_run_that_never_diverged(tmp_path: Path):
    """Two runs are the same until one diverges in update 25: both keep the best model of the looks before."""
    rule = Selection(Offset(9.0), Direct(), every=4, count=16)

    def examine(model: Model, step: int) -> Look:
        [by] = model.decoder.parameters()
        return Look({"valid": abs(step - 14) + float(by.detach().norm())}, {})

    def run(name: str, steps: int, *planted: tuple[int, str, str]) -> tuple[Tensor, Progress]:
        torch.manual_seed(0)
        learner = Chase(dropout=0.5, planted=planted).learner(Chase().model((2,), None))
        batches, checkpoint = Batches(PLANE.load("train"), None, 16, generator(0)), tmp_path / name
        policy, referee = SettleForBest(Stop()), Referee(rule, examine)
        done = fit(learner, batches, steps, generator(1), checkpoint, policy=policy, referee=referee)
        return next(learner.model.decoder.parameters()).detach(), done

    calm, undisturbed = run("calm", 24)
    settled, done = run("shaky", 60, (25, "energy_gap", "1e9"))
    assert torch.equal(settled, calm)
    assert done.selection["step"] == undisturbed.selection["step"] == 12
    assert done.selection["diverged"] == {"step": 25, "saw": "energy_gap is 1e+09, beyond 10000"}
    assert done.selection["scores"] == undisturbed.selection["scores"]
    assert done.step == 25
    assert done.attempts == []


def test_settling_comes_after_the_attempts_and_needs_a_model(tmp_path: Path):
    selection = Selection(Offset(9.0), Direct(), every=8, count=16)
    method = Chase(planted=((6, "energy_data", "nan"), (10, "energy_data", "nan")))
    policy = SettleForBest(GoBack(FreshNoise(), every=2, attempts=3))
    none_yet = dataclasses.replace(NOISY, method=method, selection=selection, divergence=policy)
    with pytest.raises(Diverged, match="update 6 after 3 further attempts: energy_data is nan"):
        Store(tmp_path).get(none_yet)
    later = dataclasses.replace(none_yet, method=Chase(planted=method.planted[1:]), steps=20)
    Store(tmp_path).get(later)
    record = Store(tmp_path).run(later)
    assert len(record["attempts"]) == 3
    assert record["selection"]["step"] == 8
    assert record["selection"]["diverged"]["step"] == 10
    [result] = measure(
        [Cell("a", "x", Score(Samples(later, Direct(), 16), Offset()))], Store(tmp_path)
    ).results
    assert result.error is None
    assert result.choice is not None
    assert result.choice.diverged == 1


def test_settling_for_the_best_needs_a_rule_that_says_which_it_is():
    with pytest.raises(ValueError, match="SettleForBest"):
        dataclasses.replace(NOISY, divergence=SettleForBest())


def test_fresh_noise_is_fresh_each_time(tmp_path: Path):
    """Chains differ from attempt to attempt and from the first run, and nothing but noise does."""
    seen: list[Tensor] = []

    class Watched(Learner):
        def __init__(self) -> None:
            super().__init__(Chase().model((2,), None), {})

        def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
            data = batches.draw().data[:, 0]
            seen.append(torch.cat([data, torch.randn(3, generator=rng, dtype=data.dtype)]))
            return {"loss": torch.tensor(math.nan if len(seen) % 3 == 0 else 0.0)}

    policy = GoBack(FreshNoise(), every=100, attempts=4)
    with pytest.raises(Diverged):
        fit(Watched(), batches_of(4, 2), 9, generator(0), tmp_path / "checkpoint", policy=policy)
    runs = torch.stack(seen).view(5, 3, 5)
    assert torch.equal(runs[..., :2], runs[:1, :, :2].expand(5, 3, 2))
    noise = [tuple(run[:, 2:].flatten().tolist()) for run in runs]
    assert len(set(noise)) == 5


def test_fresh_noise_survives_bad_luck(tmp_path: Path):
    """A run whose noise goes wrong somewhere goes on from a point before it with noise that does not."""

    class Unlucky(Learner):
        def __init__(self) -> None:
            super().__init__(Chase().model((2,), None), {})

        def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
            batches.draw()
            worst = torch.randn(100, generator=rng).abs().max()
            return {"loss": torch.where(worst > 3.6, math.nan, worst)}

    policy = GoBack(FreshNoise(), every=10, attempts=3)
    done = fit(Unlucky(), batches_of(4, 2), 60, generator(1), tmp_path / "checkpoint", policy=policy)
    assert done.step == 60
    assert [attempt["saw"] for attempt in done.attempts] == ["loss is nan"]
    assert done.attempts[0]["changed"] == "random numbers of attempt 2"


def test_a_limit_on_what_nobody_reports_is_told(tmp_path: Path):
    watched = dataclasses.replace(NOISY, divergence=Stop((Limit("energy_gp", 10.0),)))
    with pytest.raises(
        ValueError, match=r"nothing called 'energy_gp' is reported .*; there are .*gradient_norm, loss"
    ):
        Store(tmp_path).get(watched)


def test_attempts_are_shown_with_the_cell(tmp_path: Path):
    once = dataclasses.replace(STEEP, divergence=dataclasses.replace(BACK, change=LowerLearningRate(0.3)))
    score = Score(Samples(once, Direct(), 16), Offset(0.5))
    calm = Score(Samples(NOISY, Direct(), 16), Offset(0.5))
    measured = measure([Cell("a", "x", score), Cell("b", "x", calm)], Store(tmp_path))
    assert [result.error for result in measured.results] == [None, None]
    assert [result.attempts for result in measured.results] == [2, 1]


def test_all_attempts_of_what_failed_are_shown(tmp_path: Path):
    hopeless = dataclasses.replace(
        STEEP, divergence=dataclasses.replace(BACK, change=FreshNoise(), attempts=2)
    )
    [result] = measure(
        [Cell("a", "x", Score(Samples(hopeless, Direct(), 16), Offset()))], Store(tmp_path)
    ).results
    assert result.attempts == 3
    assert result.error is not None
    assert "after 2 further attempts" in result.error
    assert "declare a policy" not in result.error


def test_a_cell_shows_what_diverged_and_the_others_are_made(tmp_path: Path):
    bad = dataclasses.replace(NOISY, method=Chase(planted=((2, "energy_gap", "nan"),)))
    cells = [Cell(n, "x", Score(Samples(t, Direct(), 16), Offset())) for n, t in [("a", bad), ("b", NOISY)]]
    bad_result, good_result = measure(cells, Store(tmp_path)).results
    assert bad_result.error is not None
    assert "diverged at update 2: energy_gap is nan" in bad_result.error
    assert good_result.error is None
    assert len(good_result.values) == 1


def test_provenance_that_is_gone_does_not_take_the_table_with_it(tmp_path: Path):
    """A base that was pruned, or whose run.json is damaged, behind a score that is kept."""
    store, cell = Store(tmp_path), Cell("a", "x", Score(Samples(NOISY, Direct(), 16), Offset()))
    [before] = measure([cell], store).results
    (store.folder(NOISY) / "run.json").unlink()
    [damaged] = measure([cell], Store(tmp_path)).results
    assert damaged.values == before.values
    assert str(store.folder(NOISY)) in str(damaged.error)
    [found] = [kept for kept in store.contents() if kept.state == "damaged"]
    store.remove(found)
    [after] = measure([cell], Store(tmp_path)).results
    assert after.values == before.values
    assert after.error is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limit("energy_gap", 0.0),
        lambda: LowerLearningRate(1.5),
        lambda: LowerLearningRate(0.0),
        lambda: GoBack(every=0),
        lambda: GoBack(attempts=0),
        lambda: Adam(learning_rate=0.0),
        lambda: Adam(weight_decay=-1.0),
        lambda: Selection(Offset(), Direct(), 1, 1, split="test"),
        lambda: Selection(Offset(), Direct(), 1, 1, split="hold-out"),
        lambda: Selection(Offset(), Direct(), 0, 1),
        lambda: Selection(Offset(), Direct(), 1, 1, patience=0),
        lambda: Trained(Chase(), PLANE, steps=0, batch_size=1),
        lambda: Trained(Chase(), PLANE, steps=1, batch_size=0),
        lambda: Trained(Chase(), PLANE, steps=1, batch_size=1, seed=-1),
        lambda: Samples(NOISY, Direct(), count=0),
        lambda: Score(NOISY, Offset(), split="hold-out"),
    ],
)
def test_settings_without_sense_are_refused(make: Callable[[], object]):
    with pytest.raises(FieldError, match="should be"):
        make()


# Selection


@dataclass(frozen=True)
class Blurred:
    """A decoder with dropout, which a frozen base must never use."""

    def build(self, latent: int, shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Linear(latent, 8), nn.Dropout(0.5), nn.Linear(8, shape[0]))


BLURRED = Trained(VAE(2, Blurred(), MLPEncoder(8, 1), Gaussian(0.5)), PLANE, 6, 16)
SELECTING = {
    "a tilt of a base with dropout": Trained(
        Tilting(MLPEnergy(8, 1), (Stage(Langevin(0.05), 2),), optimizer=Adam(1e-2)), PLANE, 9, 16, BLURRED
    ),
    "a model with dropout": dataclasses.replace(BLURRED, steps=9),
    "global randomness": NOISY,
}


@pytest.mark.parametrize("name", SELECTING)
def test_selecting_does_not_disturb_training(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the same random numbers, the model kept is that of a run that ends where it was selected."""
    monkeypatch.setattr(Trained, "rng", lambda self, purpose, device="cpu": generator(len(purpose)))
    trained = SELECTING[name]
    for best in range(3, 10, 3):
        expected = weights(Store(tmp_path).get(dataclasses.replace(trained, steps=best)))
        monkeypatch.setattr(Offset, "value", liking(best))
        selection = Selection(Offset(best), Direct(), every=1, count=8)
        selected = Store(tmp_path).get(dataclasses.replace(trained, selection=selection))
        assert equal(weights(selected), expected), best


def liking(best: int) -> Callable[..., float]:
    """A metric that likes one of the models that it is shown best, and uses torch's global generator."""
    distances = (abs(shown - best) for shown in itertools.count(1))
    return lambda *given: float(next(distances)) + 0.0 * torch.randn(()).item()


def run_with_scores(
    scores: list[float], root: Path, patience: int | None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    left = iter(scores)
    monkeypatch.setattr(Offset, "value", lambda *given: next(left))
    selection = Selection(Offset(), Direct(), every=2, count=8, patience=patience)
    trained = dataclasses.replace(NOISY, steps=2 * len(scores) + 1, selection=selection)
    Store(root).get(trained)
    return Store(root).run(trained)


def test_the_best_score_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = run_with_scores([3.0, 1.0, 2.0, 1.0, 5.0], tmp_path, None, monkeypatch)
    assert run["updates"] == 11
    assert run["selection"]["step"] == 4
    assert run["selection"]["value"] == 1.0
    assert run["selection"]["scores"] == [[2, 3.0], [4, 1.0], [6, 2.0], [8, 1.0], [10, 5.0]]


def test_the_best_score_may_be_the_highest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Offset, "lower_is_better", False)
    run = run_with_scores([3.0, 1.0, 4.0, 2.0], tmp_path, None, monkeypatch)
    assert (run["selection"]["step"], run["selection"]["value"]) == (6, 4.0)


def test_patience_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = run_with_scores([3.0, 2.0, 2.5, 1.0, 1.5, 1.2, 0.0], tmp_path, 2, monkeypatch)
    assert run["updates"] == 12
    assert run["selection"]["step"] == 8


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="offset of these samples is nan"):
        run_with_scores([math.nan, 1.0], tmp_path, None, monkeypatch)


def test_the_best_model_is_chosen_on_data_that_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    splits: list[str] = []

    def noted(self: Offset, samples: Tensor, data: Blob, split: str, *rest: Any) -> float:
        splits.append(split)
        return 1.0

    monkeypatch.setattr(Offset, "value", noted)
    Store(tmp_path).get(dataclasses.replace(NOISY, selection=Selection(Offset(), Direct(), 3, 8)))
    assert splits == ["valid"] * 3


# The log


def reports(step: int) -> dict[str, Tensor]:
    return {
        "energies": torch.arange(5.0) + step,
        "picture": torch.zeros(3, 1, 4, 4),
        "plane": torch.zeros(3, 2),
        "tokens": torch.zeros(3, 5),
    }


def test_the_log_has_scalars_histograms_and_pictures(tmp_path: Path):
    log = Log(tmp_path, steps=400)
    due = [step for step in range(1, 401) if log.wants(step)]
    for step in due:
        log.write(step, {"loss": step / 2}, reports(step))
    log.close()
    seen = EventAccumulator(str(tmp_path), {"scalars": 0, "histograms": 0, "images": 0}).Reload()
    scalars = [(event.step, event.value) for event in seen.Scalars("loss")]
    assert scalars == [(step, step / 2) for step in range(2, 401, 2)]
    assert [event.step for event in seen.Histograms("energies")] == [80, 160, 240, 320, 400]
    assert seen.Histograms("energies")[0].histogram_value.min == 80.0
    tags = seen.Tags()["images"]
    assert {tag.partition("/")[0] for tag in tags} == {"picture", "plane"}
    assert all([event.step for event in seen.Images(tag)] == [80, 160, 240, 320, 400] for tag in tags)


def test_a_run_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    learner = Chase().learner(Chase().model((2,), None))
    batches = Batches(PLANE.load("train"), None, 8, generator(0))
    fit(learner, batches, 5, generator(1), tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []
    assert not any(Log(None, 5).wants(step) for step in range(6))


def test_a_trained_model_has_its_log(tmp_path: Path):
    Store(tmp_path).get(NOISY)
    seen = EventAccumulator(str(Store(tmp_path).folder(NOISY) / "log")).Reload()
    assert {"loss", "gradient_norm", "learning_rate/optimizer"} <= set(seen.Tags()["scalars"])
    assert [event.step for event in seen.Scalars("loss")] == list(range(1, 10))


# Optimizers


def test_adam_has_the_settings_it_was_given():
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Adam(0.3, 0.5, 0.7, 0.01).over([weight])
    assert isinstance(optimizer, torch.optim.Adam)
    [group] = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.3, (0.5, 0.7), 0.01)
    assert group["params"] == [weight]


def test_descending_lowers_the_loss_and_returns_the_gradients_norm():
    """The gradient of 3a + 4b is (3, 4), whatever gradient was left over from before."""
    one, other = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor([[1.0]]))
    idle = nn.Parameter(torch.tensor(1.0))
    one.grad = torch.tensor(100.0)
    optimizer = SGD(0.1).over([one, other, idle])
    norm = descend(optimizer, 3 * one + 4 * other.sum())
    assert norm.shape == ()
    assert not norm.requires_grad
    assert norm.item() == pytest.approx(5.0)
    assert [one.item(), other.item(), idle.item()] == pytest.approx([0.7, 0.6, 1.0])


def test_only_what_learns_has_a_gradient_afterwards():
    learning, frozen, point = (nn.Parameter(torch.tensor(value)) for value in (1.0, 2.0, 3.0))
    frozen.requires_grad_(False)
    differentiate(learning * frozen * point, [learning, frozen])
    assert learning.grad == 6.0
    assert frozen.grad is None
    assert point.grad is None


def test_a_policy_that_stops_amends_nothing():
    assert Stop().attempts == 0
    assert Stop().every is None
    with pytest.raises(AssertionError):
        Stop().amend(NOISY.method.learner(Chase().model((2,), None)), generator(0), 1)


def test_it_learns_from_the_split_that_is_named(tmp_path: Path):
    method, store = Chase(), Store(tmp_path)
    train, valid = (Trained(method, Blob(), 3, 16, split=split) for split in ("train", "valid"))
    assert train.key == Trained(method, Blob(), 3, 16).key != valid.key
    for recipe in (train, valid):
        store.get(recipe)
        seen = store.run(recipe)["data"][f"{recipe.split}_sha256"]
        assert seen == fingerprint(Blob().load(recipe.split))
    with pytest.raises(FieldError, match=r"Trained\.split"):
        Trained(method, Blob(), 3, 16, split="tests")
