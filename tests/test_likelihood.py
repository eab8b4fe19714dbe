"""Models chosen by their likelihood, and what is seen on a split that does not choose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from laws import generator
from toys import PLANE, Offset, kept, make_in_pieces

from ebmzoo.fields import FieldError
from ebmzoo.flows import RealNVP
from ebmzoo.metrics import NegativeLogLikelihood
from ebmzoo.recipes import BestSeen, Samples, Score, Trained
from ebmzoo.samplers import Direct
from ebmzoo.store import Store
from ebmzoo.tables import Cell
from ebmzoo.training import Adam, ModelSelection, Selection
from ebmzoo_bases.flow import FlowLikelihood

NLL = NegativeLogLikelihood()
FLOW = Trained(
    FlowLikelihood(RealNVP(2, 16, 1), Adam(0.02)),
    PLANE,
    40,
    16,
    selection=ModelSelection(NLL, every=4, watch=("test",)),
)


def test_the_model_with_the_best_likelihood_is_kept(tmp_path: Path):
    store = Store(tmp_path)
    store.get(FLOW)
    seen = store.run(FLOW)["selection"]
    assert [step for step, _ in seen["scores"]] == list(range(4, 41, 4))
    assert seen["value"] == min(value for _, value in seen["scores"])
    assert store.get(Score(FLOW, NLL, "valid")) == pytest.approx(seen["value"], abs=1e-6)
    last = dict(map(tuple, seen["watched"]["test"]))[seen["step"]]
    assert store.get(Score(FLOW, NLL)) == pytest.approx(last, abs=1e-6)


def test_watching_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the same random numbers, as recipes that differ do not have."""
    monkeypatch.setattr(Trained, "rng", lambda self, purpose, device="cpu": generator(len(purpose)))
    store = Store(tmp_path)
    blind = dataclasses.replace(FLOW, selection=ModelSelection(NLL, every=4))
    store.get(FLOW)
    store.get(blind)
    assert kept(tmp_path, FLOW) == kept(tmp_path, blind)


def test_best_seen_is_the_smallest_watched(tmp_path: Path):
    store = Store(tmp_path)
    best = BestSeen(FLOW, NLL, "test")
    value = store.get(best)
    watched = store.run(FLOW)["selection"]["watched"]["test"]
    assert value == min(value for _, value in watched)
    assert value <= store.get(Score(FLOW, NLL))
    assert best.label == "best NLL seen"
    assert Cell("a", "b", best).metric == "best NLL seen"
    assert best.protocol()["id"] != Score(FLOW, NLL).protocol()["id"]
    assert best.reseeded(2).subject.seed == 2


def test_a_cut_run_has_seen_the_same(tmp_path: Path):
    Store(tmp_path / "uncut").get(FLOW)
    make_in_pieces(FLOW, tmp_path / "cut", updates=7)
    assert kept(tmp_path / "cut", FLOW) == kept(tmp_path / "uncut", FLOW)
    runs = [Store(tmp_path / each).run(FLOW)["selection"] for each in ("cut", "uncut")]
    assert runs[0] == runs[1]


def test_what_was_not_watched_cannot_be_best_seen():
    for trained in (
        dataclasses.replace(FLOW, selection=None),
        dataclasses.replace(FLOW, selection=ModelSelection(NLL, every=4)),
    ):
        with pytest.raises(FieldError, match="selection watches 'test'"):
            BestSeen(trained, NLL, "test")
    short = dataclasses.replace(FLOW, steps=3)
    with pytest.raises(FieldError, match=r"ModelSelection\.every should be at most Trained\.steps, 3"):
        BestSeen(short, NLL, "test")


def test_samples_and_models_are_not_mistaken_for_one_another():
    samples = Samples(FLOW, Direct(), 10)
    with pytest.raises(FieldError, match="a trained model, since NLL does not score samples"):
        Score(samples, NLL)
    with pytest.raises(FieldError, match="samples, since offset does not score a trained model"):
        Score(FLOW, Offset())
    with pytest.raises(FieldError, match="ModelSelection takes those of models"):
        Selection(NLL, Direct(), every=1, count=1)
    with pytest.raises(FieldError, match="Selection takes those of samples"):
        ModelSelection(Offset(), every=1)


def test_wrong_settings_are_named():
    for wrong in (
        lambda: ModelSelection(NLL, every=0),
        lambda: ModelSelection(NLL, every=1, patience=0),
        lambda: ModelSelection(NLL, every=1, split="test"),
        lambda: ModelSelection(NLL, every=1, watch=("valid",)),
        lambda: ModelSelection(NLL, every=1, watch=("dev",)),
    ):
        with pytest.raises(FieldError):
            wrong()
