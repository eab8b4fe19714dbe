"""Every shipped table can be read at every scale, and runs from end to end at the smallest."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ebmzoo import config
from ebmzoo.builtin import ebmzoo_reproductions
from ebmzoo.cli import main
from ebmzoo.config import SCALES, load
from ebmzoo.config.bindings import Reader
from ebmzoo.data.dataset import DataError, Dataset
from ebmzoo.recipes import Trained
from ebmzoo.store import everything_behind
from ebmzoo.tables import Table

ROOT = ebmzoo_reproductions()

TABLES = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in ROOT.glob("*/*.gin")
    if path.parent.name != "bases" and "." not in path.stem
)

COMPUTE = {
    "Snapshots.every": "how many updates lie between two states that are kept",
    "at": "when learning rates fall, in a training that has fewer updates",
    "width": "the size of a network",
    "Decay.every": "for how many moves of a chain a step size is kept, in a chain that has fewer",
    "ModelSelection.every": "how often the best model is looked for, in a training that has fewer updates",
    "Selection.every": "how often the best model is looked for, in a training that has fewer updates",
    "batch": "how many are drawn at once",
    "batch_size": "data in a minibatch",
    "blocks": "the size of a network",
    "capacity": "how many chains are kept",
    "channels": "the size of a network",
    "count": "how many are drawn or compared",
    "couplings": "the size of a network",
    "depth": "the size of a network",
    "energy_steps": "updates of the energy in one of a training",
    "groups": "the size of a network",
    "hidden": "the size of a network",
    "initial_samples": "how many are drawn before training",
    "models": "how many models the samplings are of",
    "points": "how finely a curve is drawn",
    "samples_per_datum": "how many are drawn at once",
    "shots": "when a picture is taken",
    "burn_in": "how many are drawn before any is kept",
    "proposals": "how many a sample is chosen from",
    "seeds": "how often all is repeated",
    "shard": "how many are drawn at once",
    "steps": "updates of a training, or moves of a chain",
    "subset_size": "how many are compared at once",
    "subsets": "how often they are compared",
    "updates": "how long learning rates rise or fall, in a training that has fewer updates",
}
"""The fields that an overlay may bind: what takes time, and nothing that makes another method of it."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without reproductions of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EBMZOO_STORE", raising=False)


def test_there_are_tables():
    assert {"tilting/toy", "tilting/digits"} <= set(TABLES)
    assert set(TABLES) <= set(config.tables())
    assert all(config.tables()[name].is_relative_to(ROOT) for name in TABLES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_read(name, scale):
    made = load(name, scale)
    assert isinstance(made.table, Table)
    assert bool(made.overrides) == (scale != "paper")
    assert made.table.source
    recipes = everything_behind([score for cell in made.table.flat() for score in cell.scores()])
    assert len({recipe.key for recipe in recipes}) == len(recipes)


@pytest.mark.parametrize("name", TABLES)
def test_scales_have_the_same_cells_and_claims(name):
    paper, *others = (load(name, scale).table for scale in SCALES)
    for other in others:
        assert _places(other) == _places(paper)
        assert other.claims == paper.claims
        assert [cell.published for cell in other.flat()] == [cell.published for cell in paper.flat()]
        assert other.tolerance == paper.tolerance


def _places(table: Table) -> list[tuple[str, str, str]]:
    return [(cell.row, cell.column, cell.metric) for cell in table.flat()]


@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("name", TABLES)
def test_overlays_change_compute_only(name, scale):
    known = {each: cls for kind in config.classes().values() for each, cls in kind.items()}
    for binding in Reader(known).file(ROOT / f"{name}.{scale}.gin").values():
        field = binding.key.field
        named = {field, f"{binding.key.owner}.{field}"} & COMPUTE.keys()
        assert named, f"{binding} ({binding.where})"


def test_every_binding_of_an_included_file_is_read_by_some_table():
    """Reading one table cannot ask for that; and a reference with a scope leaves narrower bindings unread."""
    read = {binding for name in TABLES for binding in load(name, "paper").bindings}
    known = {each: cls for kind in config.classes().values() for each, cls in kind.items()}
    included = [each for path in ROOT.glob("bases/*.gin") for each in Reader(known).file(path).values()]
    assert [f"{each} ({each.where})" for each in included if str(each) not in read] == []


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.gin")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_files_begin_with_what_they_are(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# \S.{10,118}", first)


@pytest.mark.parametrize("name", TABLES)
def test_published_numbers_say_where_they_stand(name):
    table = load(name, "paper").table
    assert re.search(r"\(.*\d{4}\)|ours", table.source)
    for cell in table.flat():
        if cell.published:
            assert len(cell.published.source) > 5, cell


@pytest.mark.parametrize("name", TABLES)
def test_smoke(name, tmp_path):
    configured = load(name, "smoke")
    _skip_without_data(configured.table)
    words = ["reproduce", name, "--scale", "smoke", "--device", "cpu", "--json"]
    made = CliRunner().invoke(main, words, prog_name="ebmzoo")
    document = json.loads(made.stdout)
    excused = [cell for cell in document["cells"] if _lacks_inception(cell) or _lacks_data(cell)]
    assert made.exit_code == bool(excused), made.output
    assert [cell["error"] for cell in document["cells"] if cell["error"] and cell not in excused] == []
    made_of = [(cell["row"], cell["column"], cell["metric"]) for cell in document["cells"]]
    assert made_of == [(cell.row, cell.column, cell.metric) for cell in configured.table.flat()]
    for cell, planned in zip(document["cells"], configured.table.flat(), strict=True):
        assert cell["n"] == (0 if cell in excused else planned.seeds)
    assert len(document["claims"]) == len(configured.table.claims)
    pictures = sorted(path.stem for path in tmp_path.glob("artifacts/tables/*/*.png"))
    assert pictures == sorted(figure.name for figure in configured.table.figures)
    again = CliRunner().invoke(main, words, prog_name="ebmzoo")
    assert json.loads(again.stdout) == document
    said_again = [line for line in again.stderr.splitlines() if line.startswith("seed 1/")]
    assert len(said_again) == len(excused)


def _lacks_inception(cell: dict[str, Any]) -> bool:
    """Whether a cell lacks Inception's weights and nothing else, where nobody said that they are there."""
    absent = "EBMZOO_INCEPTION" not in os.environ
    return absent and f"{cell['metric']} needs the weights of torch-fidelity's Inception" in (
        cell["error"] or ""
    )


def _lacks_data(cell: dict[str, Any]) -> bool:
    """Whether a metric lacks a data set that it compares with, as those of the OOD table may."""
    return "cannot be read from" in (cell["error"] or "")


def _skip_without_data(table: Table) -> None:
    """Skips the test, with the reason, if a data set of the table is not on this machine."""
    scores = [score for cell in table.flat() for score in cell.scores()]
    trained = [recipe for recipe in everything_behind(scores) if isinstance(recipe, Trained)]
    data: set[Dataset] = {recipe.data for recipe in trained}
    for each in data:
        try:
            each.load("test")
        except DataError as error:
            pytest.skip(f"{type(each).__name__}: {error}")
