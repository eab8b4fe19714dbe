"""Which model a selection keeps, what it says of it, and what a training took."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from planted import cell
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Generator, Tensor, nn
from toys import Blob, Chase, Offset, make_in_pieces

from ebmzoo.energies import MLPEnergy
from ebmzoo.execution import measure
from ebmzoo.fields import FieldError
from ebmzoo.metrics import TrainingCost
from ebmzoo.models import Flat, Model, Normal
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.rendering import choice_text
from ebmzoo.samplers import Direct, Langevin, Stage
from ebmzoo.store import Store
from ebmzoo.training import SGD, GoBack, Selection
from ebmzoo.verdicts import Choice
from ebmzoo_tilting.tilting import Tilting

LOOKS = Selection(Offset(0.5), Direct(), every=3, count=40, watch=("test",))
RUN = Trained(Chase(), Blob(), steps=12, batch_size=16, selection=LOOKS)


def test_a_result_says_what_was_kept_and_what_came_last(tmp_path: Path):
    store = Store(tmp_path)
    of = dataclasses.replace(cell(metric=Offset()), score=Score(Samples(RUN, Direct(), 8), Offset()))
    choice = measure([of], store).results[0].choice
    seen = store.run(RUN)["selection"]
    steps, values = zip(*seen["scores"], strict=True)
    best = values.index(min(values))
    watched = [value for _, value in seen["watched"]["test"]]
    assert steps == (3, 6, 9, 12)
    assert choice is not None
    assert (choice.metric, choice.split) == ("offset of 40 samples", "valid")
    assert (choice.kept, choice.last) == (steps[best], 12)
    assert choice.scores == {
        "valid": (values[best], values[-1]),
        "test": (watched[best], watched[-1]),
    }


def test_without_a_selection_nothing_was_chosen(tmp_path: Path):
    of = cell(metric=Offset())
    assert measure([of], Store(tmp_path)).results[0].choice is None


def test_all_splits_are_compared_with_the_same_samples(tmp_path: Path):
    """The metric looks at samples only, so that its values are equal."""
    store = Store(tmp_path)
    store.get(RUN)
    seen = store.run(RUN)["selection"]
    assert seen["watched"]["test"] == seen["scores"]


def test_a_choice_in_words():
    choice = Choice("EMD of 9 samples", "valid", 200.0, 250.0, {"valid": (0.5, 0.75), "test": (1.0, 2.0)})
    assert choice_text(choice) == (
        "update 200 of 250, chosen on valid; EMD of 9 samples on valid 0.5, last 0.75; "
        "EMD of 9 samples on test 1, last 2"
    )
    assert choice_text(dataclasses.replace(choice, diverged=2)) == (
        f"{choice_text(choice)}; runs that ended since they diverged: 2"
    )


class First(nn.Module):
    """An energy that is the first coordinate."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def test_energy_gaps_by_hand():
    """Samples at 3, so that the gaps are three less the mean first coordinate of each split."""
    data = Blob()
    model = Model(Flat(Normal((2,))), nn.Identity(), First())
    gaps = dataclasses.replace(LOOKS, count=50).remarks(model, torch.full((5, 2), 3.0), data)
    assert list(gaps) == ["energy_gap/train", "energy_gap/valid"]
    for split in ("train", "valid"):
        expected = 3 - float(data.load(split)[:50, 0].mean())
        assert gaps[f"energy_gap/{split}"] == pytest.approx(expected, abs=1e-5)


TILTED = Trained(
    Tilting(MLPEnergy(hidden=8), (Stage(Langevin(0.01), 2),)),
    Blob(),
    steps=4,
    batch_size=16,
    base=Trained(Chase(), Blob(), steps=2, batch_size=16),
    selection=dataclasses.replace(LOOKS, every=2),
)


def test_looks_are_in_tensorboard(tmp_path: Path):
    store = Store(tmp_path)
    store.get(TILTED)
    log = EventAccumulator(str(store.folder(TILTED) / "log")).Reload()
    seen = store.run(TILTED)["selection"]
    for name, looks in (("valid", seen["scores"]), ("test", seen["watched"]["test"])):
        logged = [(event.step, event.value) for event in log.Scalars(f"offset/{name}")]
        assert logged == [(step, pytest.approx(value)) for step, value in looks]
    for split in ("train", "valid"):
        assert [event.step for event in log.Scalars(f"energy_gap/{split}")] == [2, 4]


class InParts:
    """A sampler that notes how many samples were asked for."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def draw(self, model: Model, count: int, rng: Generator) -> Tensor:
        self.sizes.append(count)
        return torch.full((count, 2), float(len(self.sizes)))


def test_samples_are_drawn_in_shards():
    sampler = InParts()
    model = Model(Flat(Normal((2,))), nn.Identity(), First())
    samples = Selection(Offset(), sampler, every=1, count=7, shard=3).subject(model, Generator())
    assert sampler.sizes == [3, 3, 1]
    assert samples[:, 0].tolist() == [1, 1, 1, 2, 2, 2, 3]
    with pytest.raises(FieldError, match="shard"):
        Selection(Offset(), sampler, every=1, count=7, shard=0)


def cost(store: Store, trained: Trained, unit: str) -> float:
    return float(store.get(Score(trained, TrainingCost(unit))))


def test_what_a_training_took_by_hand(tmp_path: Path):
    """Four updates of 16 data each; in each, 16 chains take two steps and evaluate their start."""
    store = Store(tmp_path)
    assert cost(store, TILTED, "updates") == 4
    chains = store.run(TILTED)["gradient_evaluations"]
    assert chains >= 4 * 16 * 2
    assert cost(store, TILTED, "gradients") == 4 * 16 + chains
    assert cost(store, TILTED, "seconds") == store.run(TILTED)["seconds"] > 0
    assert Score(TILTED, TrainingCost("updates")).label == "training updates"


def test_a_cut_training_counts_its_data_once(tmp_path: Path):
    make_in_pieces(TILTED, tmp_path, updates=3)
    assert Store(tmp_path).run(TILTED)["data_drawn"] == 4 * 16


def test_going_back_is_counted_too(tmp_path: Path):
    """It blows up soon after the milestone; what was drawn until then has been drawn."""
    wild = Trained(Chase(SGD(3.0)), Blob(), steps=40, batch_size=16, divergence=GoBack(every=10, attempts=8))
    store = Store(tmp_path)
    store.get(wild)
    run = store.run(wild)
    lost = sum(attempt["step"] - attempt["went_back_to"] for attempt in run["attempts"])
    assert lost > 0
    assert run["data_drawn"] == 16 * (40 + lost)


def test_units_and_old_records_are_named(tmp_path: Path):
    with pytest.raises(FieldError, match="updates, gradients, seconds"):
        TrainingCost("hours")
    with pytest.raises(ValueError, match="did not record its data_drawn"):
        TrainingCost("gradients").value({"updates": 3}, Blob(), "test", lambda _: None, Generator())
