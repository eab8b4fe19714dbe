"""Every cell is made that can be made, and what cannot is told."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from planted import SUBJECT, Planted, cell
from toys import Blob, Chase, Countdown, Offset

from ebmzoo.execution import device_named, measure, selected
from ebmzoo.executors import InProcess
from ebmzoo.recipes import Samples, Score, Trained
from ebmzoo.runtime import Runtime, UnknownDevice
from ebmzoo.samplers import Chains, Direct, Langevin, Stage
from ebmzoo.store import Recipe, Store, everything_behind
from ebmzoo.tables import Cell, Table
from ebmzoo.training import SGD, GoBack


def files(root: Path) -> dict[str, int]:
    """Returns when each file of a store was written; logs and locks aside."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in paths}


def test_values_are_the_scores_of_the_seeds(tmp_path):
    of = cell(metric=Offset(), seeds=3)
    [made] = measure([of], Store(tmp_path)).results
    assert made.values == tuple(Store(tmp_path).get(score) for score in of.scores())
    assert len(set(made.values)) == 3
    assert made.complete
    assert made.error is None
    assert made.protocol == of.score.protocol()["id"]
    assert made.artifacts == tuple(Store(tmp_path).folder(score).name for score in of.scores())


def test_said_again_it_makes_nothing(tmp_path):
    cells = [cell(metric=Offset(), seeds=2), cell("b", metric=Offset(1.0), seeds=2)]
    first = measure(cells, Store(tmp_path))
    before = files(tmp_path)
    assert measure(cells, Store(tmp_path)) == first
    assert files(tmp_path) == before


def test_what_rows_share_is_made_once(tmp_path):
    measure([cell("a", metric=Offset()), cell("b", metric=Planted())], Store(tmp_path))
    kinds = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert kinds == ["samples", "score", "score", "trained"]


def test_all_cells_of_one_seed_come_before_the_next(tmp_path, capsys):
    cells = [cell("a", seeds=2), cell("b", metric=Planted("FD"), seeds=3)]
    measure(cells, Store(tmp_path))
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seed")]
    assert told == [
        "seed 1/2 · a · toy · EMD",
        "seed 1/3 · b · toy · FD",
        "seed 2/2 · a · toy · EMD",
        "seed 2/3 · b · toy · FD",
        "seed 3/3 · b · toy · FD",
    ]


FAULTS = {
    "value": "the metric makes no sense here",
    "type": "TypeError: this is no number",
    "silent": "AssertionError",
    "exit": "SystemExit: 0",
    "disk": "No space left on device: somewhere/artifact.part. What was made is kept; mend the cause and say "
    "the command again.",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cell_that_fails_is_told_at_once_and_does_not_stop_the_others(tmp_path, fault, capsys):
    cells = [cell("a"), cell("b", metric=Planted("bad", fault=fault), seeds=2), cell("c", seeds=2)]
    made = measure(cells, Store(tmp_path))
    assert [result.values for result in made.results] == [(1.0,), (), (1.0, 1.0)]
    assert [result.error for result in made.results] == [None, FAULTS[fault], None]
    assert made.failed
    assert not made.out_of_time
    assert made.results[1].mean is None
    told = capsys.readouterr().err.splitlines()
    place = told.index(f"failed: {FAULTS[fault]}")
    assert told[place - 1].startswith("seed 1/2 · b")
    assert sum(line.startswith("failed") for line in told) == 1


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_an_error(tmp_path, value):
    [made] = measure([cell(metric=Planted(fault=value))], Store(tmp_path)).results
    assert made.values == ()
    assert made.error == f"EMD of these samples is {value}"


def test_a_training_that_diverges_fails_every_metric_of_it_once(tmp_path):
    broken = Trained(Chase(SGD(3.0), planted=((2, "energy_gap", 1e9),)), Blob(), 5, 16)
    metrics = (Planted("EMD"), Planted("FD"))
    cells = [Cell("a", "toy", Score(Samples(broken, Direct(), 8), metric)) for metric in metrics]
    made = measure(cells, Store(tmp_path)).results
    assert all("training diverged at update 2: energy_gap is 1e+09" in str(result.error) for result in made)


def test_debug_lets_the_error_through(tmp_path):
    with pytest.raises(ValueError, match="makes no sense"):
        measure([cell(metric=Planted(fault="value"))], Store(tmp_path), InProcess(debug=True))


def test_the_deadline_leaves_what_was_made(tmp_path):
    cells = [cell("a", metric=Offset(), seeds=3), cell("b", metric=Offset(1.0), seeds=3)]
    whole = measure(cells, Store(tmp_path / "whole"))
    sessions, made = 0, measure([], Store(tmp_path / "cut"))
    counts = []
    while sessions == 0 or made.out_of_time:
        made = measure(cells, Store(tmp_path / "cut", Runtime(deadline=Countdown(5))))
        counts.append(sum(len(result.values) for result in made.results))
        sessions += 1
        assert sessions < 100
        assert not made.failed
    assert sessions > 2
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 6
    assert [result.values for result in made.results] == [result.values for result in whole.results]


def test_what_stands_behind_a_cell_is_added_up(tmp_path):
    schedule = (Stage(Langevin(0.01), 3),)
    samples = dataclasses.replace(SUBJECT, sampler=Chains(schedule))
    [made] = measure([Cell("a", "toy", Score(samples, Offset()), seeds=2)], Store(tmp_path)).results
    # of each seed's 8 chains: one gradient where they start and one for each of 3 steps
    assert made.gradient_evaluations == 2 * 8 * 4
    assert made.cost == {"gradients": 4.0, "energies": 0.0, "decodings": 1.0}
    assert made.diagnostics["acceptance"] == 1.0
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/run.json")]
    assert len(runs) == 6
    assert made.seconds == pytest.approx(sum(run["seconds"] for run in runs))


def test_attempts_are_counted(tmp_path):
    """The learning rate 3 on a curvature of 1 diverges; half of it does not."""
    method = Chase(SGD(3.0))
    shaky = Trained(method, Blob(), 60, 16, divergence=GoBack(attempts=3))
    [made] = measure(
        [Cell("a", "toy", Score(Samples(shaky, Direct(), 8), Offset()))], Store(tmp_path)
    ).results
    assert made.error is None
    assert made.attempts == 2
    [calm] = measure([cell()], Store(tmp_path)).results
    assert calm.attempts == 1


def test_a_base_that_was_removed_leaves_the_score(tmp_path):
    of = cell(metric=Offset())
    [first] = measure([of], Store(tmp_path)).results
    shutil.rmtree(Store(tmp_path).folder(SUBJECT.model))
    [again] = measure([of], Store(tmp_path)).results
    assert again.values == first.values
    assert again.error is None


def test_damage_behind_a_score_is_told(tmp_path):
    of = cell(metric=Offset())
    measure([of], Store(tmp_path))
    (Store(tmp_path).folder(SUBJECT) / "run.json").write_text("{")
    [again] = measure([of], Store(tmp_path)).results
    assert "run.json is missing or cannot be read" in str(again.error)


WITHOUT = {"seconds": SUBJECT.model, "evaluations": SUBJECT}


@pytest.mark.parametrize("name", [*WITHOUT, "all"])
def test_a_record_that_lacks_something_takes_no_value_away(tmp_path, name):
    of = cell(metric=Offset())
    [first] = measure([of], Store(tmp_path)).results
    path = Store(tmp_path).folder(WITHOUT.get(name, SUBJECT)) / "run.json"
    record = json.loads(path.read_text())
    record[name] = {}
    path.write_text("[]" if name == "all" else json.dumps(record))
    [again] = measure([of], Store(tmp_path)).results
    assert again.values == first.values
    assert "run.json" in str(again.error)


def recorded_protocol(store: Store, of: Cell, seed: int, name: str) -> str:
    """Lets the record of a score name another protocol, and returns the name of its folder."""
    folder = store.folder(of.scores()[seed])
    record = json.loads((folder / "run.json").read_text())
    record["protocol"]["id"] = name
    (folder / "run.json").write_text(json.dumps(record))
    return folder.name


def test_a_value_has_the_protocol_that_it_was_scored_by(tmp_path):
    store, of = Store(tmp_path), cell(metric=Offset(), seeds=2)
    measure([of], store)
    one = recorded_protocol(store, of, 0, "older")
    [mixed] = measure([of], store).results
    assert "scored by different protocols" in str(mixed.error)
    assert f"older: {one}" in str(mixed.error)
    recorded_protocol(store, of, 1, "older")
    [alike] = measure([of], store).results
    assert (alike.protocol, alike.error) == ("older", None)


TABLE = Table(
    "ours", tuple(cell(row, column) for row in ("VAE", "VAE + EBM", "GAN [b]") for column in ("a1", "b2"))
)


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ([], [], 6),
        (["VAE"], [], 2),
        (["VAE*"], [], 4),
        (["*EBM", "GAN*"], [], 4),
        (["GAN [b]"], [], 2),
        (["GAN [[]b]"], ["?2"], 1),
        ([], ["[ab]?"], 6),
        (["vae"], [], 2),
        (["van"], [], 0),
        (["VAE"], ["c"], 0),
        ([""], [], 0),
    ],
)
def test_selection(rows, columns, expected):
    assert len(selected(TABLE, rows, columns)) == expected


def test_everything_behind_is_in_the_order_of_making():
    base = SUBJECT.model
    further = dataclasses.replace(base, base=base, seed=9)
    scores = [Score(dataclasses.replace(SUBJECT, model=model), Offset()) for model in (further, base)]
    behind = everything_behind(scores)
    assert len(behind) == len({recipe.key for recipe in behind}) == 6
    order: list[Recipe] = []
    for recipe in behind:
        assert all(need in order for need in recipe.needs())
        order.append(recipe)
    assert everything_behind([*scores, *scores]) == behind


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_named("auto") == device_named("cpu") == "cpu"
    for name, reason in (
        ("cuda", "0 CUDA devices"),
        ("cuda:1", "0 CUDA devices"),
        ("gpu", "say auto, cpu, cuda or cuda:<i>"),
        ("cuda:x", "say auto"),
        ("", "say auto"),
        ("meta", "not on 'meta'"),
    ):
        with pytest.raises(UnknownDevice, match=reason):
            device_named(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("auto") == "cuda"
    assert device_named("cuda:1") == "cuda:1"
