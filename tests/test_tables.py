"""Tables refuse what would make no sense once it is printed."""

from __future__ import annotations

import dataclasses

import pytest
from planted import SUBJECT, Planted, PlantedLikelihood, cell
from toys import PLANE

from ebmzoo.fields import FieldError
from ebmzoo.figures import Comparison
from ebmzoo.metrics import TrainingCost
from ebmzoo.recipes import Score
from ebmzoo.tables import STATUSES, Better, Cell, Cells, Fraction, Published, Reaches, Table

EMD, FD = Planted("EMD"), Planted("FD", 2.0)
PAPER = Published(1.5, "Table 1", "verified", 0.1)


def better(row: str = "a", than: str = "b", column: str = "toy", metric: str = "EMD") -> Better:
    return Better(f"{row} beats {than}", row, than, column, metric)


WRONG = [
    (lambda: Published(1.0, "Table 1", "seen"), "Published.status should be one of verified, secondary"),
    (lambda: Published(1.0, "", "verified"), "Published.source should be a paper, table or page, not ''"),
    (lambda: Published(1.0, "Table 1", "verified", -0.1), "Published.std should be zero or a number above"),
    (lambda: cell(seeds=0), "Cell.seeds should be a number above zero, not 0"),
    (lambda: Cells("a", "toy", SUBJECT, (EMD,), seeds=0), "Cells.seeds should be a number above zero, not 0"),
    (lambda: Cells("a", "toy", SUBJECT, (EMD, FD), (PAPER,)), "published should be empty or of the length"),
    (lambda: Table("ours", ()), "Table.cells should be one cell or more"),
    (lambda: Table("ours", (cell(), cell())), "one cell for each place, but ours · toy · EMD comes twice"),
    (
        lambda: Table("ours", (cell("a"), Cells("a", "toy", SUBJECT, (FD, EMD)))),
        "but a · toy · EMD comes twice",
    ),
    (
        lambda: Table("ours", (cell(),), figures=(Comparison("../mine", "", PLANE, (), ()),)),
        "Comparison.name should be of letters, digits, '-' and '.', not '../mine'",
    ),
    (lambda: Table("ours", (cell(),), tolerance=-0.1), "Table.tolerance should be zero or a number above it"),
    (
        lambda: Table(
            "ours",
            tuple(cell(row, metric=PlantedLikelihood("NLL")) for row in "ab"),
            (Fraction("half", "a", "b", "toy", "NLL", 0.5),),
        ),
        "Better, not Fraction: no NLL has a ratio",
    ),
    (lambda: Table("ours", (cell("a"), cell("b")), (better("c"),)), "and c · toy · EMD is none"),
    (lambda: Table("ours", (cell("a"), cell("b")), (better(than="c"),)), "and c · toy · EMD is none"),
    (lambda: Table("ours", (cell("a"), cell("b")), (better(metric="FD"),)), "and a · toy · FD is none"),
    (lambda: Table("ours", (cell(),), (Reaches("so", "ours", "toys", "EMD", 1.0),)), "ours · toys · EMD"),
    (lambda: better(than="a"), "Better.than should be another row, not 'a'"),
    (lambda: Score(SUBJECT, EMD, "tset"), "Score.split should be one of train, valid, test, not 'tset'"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(FieldError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_one(status):
    assert Published(1.0, "Table 1", status).status == status


def test_cells_are_one_cell_for_each_metric():
    cells = Cells("a", "toy", SUBJECT, (EMD, FD), (None, PAPER), seeds=3, split="valid")
    assert cells.cells() == (
        Cell("a", "toy", Score(SUBJECT, EMD, "valid"), None, 3),
        Cell("a", "toy", Score(SUBJECT, FD, "valid"), PAPER, 3),
    )
    assert [each.published for each in Cells("a", "toy", SUBJECT, (EMD, FD)).cells()] == [None, None]


def test_a_table_is_flat_in_its_order():
    table = Table("ours", (cell("b"), Cells("a", "toy", SUBJECT, (FD, EMD)), cell("a", "roll")))
    places = [(each.row, each.column, each.metric) for each in table.flat()]
    assert places == [("b", "toy", "EMD"), ("a", "toy", "FD"), ("a", "toy", "EMD"), ("a", "roll", "EMD")]


def test_seeds_differ_in_nothing_else():
    scores = cell(seeds=3).scores()
    assert len({score.key for score in scores}) == 3
    assert scores[0] == cell().score
    for index, score in enumerate(scores):
        model = dataclasses.replace(SUBJECT.model, seed=index)
        assert score.subject == dataclasses.replace(SUBJECT, model=model, seed=index)
    assert cell(seeds=5).scores()[:3] == scores


def test_another_number_of_seeds():
    table = Table("ours", (cell("b"), Cells("a", "toy", SUBJECT, (FD, EMD), seeds=2)))
    assert [each.seeds for each in table.with_seeds(4).flat()] == [4, 4, 4]
    assert table.with_seeds(1).with_seeds(4) == table.with_seeds(4)


def test_models_are_no_more_than_samples_are_drawn_of():
    samples, cost = dataclasses.replace(SUBJECT, models=1), TrainingCost("updates")
    table = Table("ours", (Cells("a", "toy", samples, (FD,)), Cells("b", "toy", SUBJECT.model, (cost,))))
    assert [each.seeds for each in table.with_seeds(4).flat()] == [4, 1]


def test_claims_say_what_they_are_about():
    assert better().mentions() == (("a", "toy", "EMD"), ("b", "toy", "EMD"))
    assert Reaches("so", "a", "toy", "EMD", 1.0).mentions() == (("a", "toy", "EMD"),)


def test_seeds_go_round_the_models() -> None:
    """One model and several samplings of it, or as many models as seeds."""
    one, two = dataclasses.replace(SUBJECT, models=1), dataclasses.replace(SUBJECT, models=2)
    assert [SUBJECT.reseeded(index).model.seed for index in range(4)] == [0, 1, 2, 3]
    assert [one.reseeded(index).model.seed for index in range(4)] == [0, 0, 0, 0]
    assert [two.reseeded(index).model.seed for index in range(4)] == [0, 1, 0, 1]
    assert len({one.reseeded(index).key for index in range(4)}) == 4
    with pytest.raises(FieldError, match=r"Samples\.models"):
        dataclasses.replace(SUBJECT, models=0)
