"""Tables as a person and as a program reads them."""

from __future__ import annotations

import dataclasses
import json

import pytest
from planted import SUBJECT, Planted, cell, published, result

from ebmzoo.rendering import (
    as_json,
    claim_text,
    cost_text,
    difference,
    number,
    ours_text,
    published_text,
    text,
)
from ebmzoo.tables import Better, Reaches, Table
from ebmzoo.verdicts import Choice, Judgement, MeasuredTable

FD, SHARE = Planted("FD"), Planted("share", higher=True)

VAE_FD = cell("VAE", "digits", FD, published(10.0, std=0.25))
VAE_SHARE = cell("VAE", "digits", SHARE, published(0.9, "unverified", 0.05))
EBM_FD = cell("VAE + EBM", "digits", FD, published(4.0, omits="the step size; 0.005 here"))
EBM_SHARE = cell("VAE + EBM", "digits", SHARE)
ROLL = cell("VAE", "roll", FD, published(2.0, "secondary"))

TABLE = Table(
    "A paper (Somebody, 2020), Table 1",
    (VAE_FD, VAE_SHARE, EBM_FD, EBM_SHARE, ROLL),
    (
        Better("the tilt is closer", "VAE + EBM", "VAE", "digits", "FD"),
        Better("the tilt has more", "VAE + EBM", "VAE", "digits", "share"),
        Reaches("the VAE reaches one half", "VAE", "digits", "share", 0.5),
    ),
)

COST = {"gradients": 100.0, "energies": 0.0, "decodings": 1.0}

NOTED = {"acceptance": 0.5, "never_moved": 0.0}

RESULTS = (
    result((10.0, 10.5, 11.0), VAE_FD),
    dataclasses.replace(
        result((0.25, 0.5, 0.75), VAE_SHARE),
        attempts=2,
        seconds=12.4,
        cost=COST,
        diagnostics=NOTED,
        choice=Choice("FD of 9 samples", "valid", 2.0, 3.0, {"valid": (4.0, 5.0)}),
    ),
    result((5.0, 5.25, 5.5), EBM_FD),
    dataclasses.replace(result((0.5,), EBM_SHARE, missing=2), error="the disk is full"),
    dataclasses.replace(result((), ROLL, missing=3), error="it diverged at update 3"),
)

GOLDEN = """\
tilting/toy · paper scale · 3 seeds
A paper (Somebody, 2020), Table 1

column  metric  row            published                ours  difference  verdict           per sample  attempts  seconds  artifact
──────  ──────  ─────────  ─────────────  ──────────────────  ──────────  ──────────────  ────────────  ────────  ───────  ─────────────────────
digits  FD      VAE            10 ± 0.25          10.5 ± 0.5         0.5  reproduced                 –         1        2  score-000000000000 +2
                VAE + EBM              4         5.25 ± 0.25        1.25  underspecified             –         1        2  score-000000000000 +2
        share   VAE        (0.9 ± 0.05)†          0.5 ± 0.25           –  –               100 ∇E + 1 g         2       12  score-000000000000 +2
                VAE + EBM              –  0.5 (1 of 3 seeds)           –  –                          –         1        2  score-000000000000
roll    FD      VAE                   2‡              failed           –  –                          –         1        –  –

ours: mean ± standard deviation over seeds; seconds: all that is behind the cell, when made
per sample: evaluations of the gradient of E(g(u)), of E(g(u)), and of the decoder g alone
† quoted from memory by somebody, seen in no source; never compared
‡ at second hand: Table 1
underspecified: VAE + EBM · digits: the step size; 0.005 here

claims (ratio or difference, with its 95 % interval over pairs of seeds; or its range over seeds)
  ✓ holds      the tilt is closer (ratio 0.5, 0.5 to 0.5)
  ? open       the tilt has more (not enough cells were made to tell)
  ✗ not shown  the VAE reaches one half (ratio 1, 0.5 to 1.5)

samplers, in their own words (of the first shard, mean over seeds)
  VAE · digits: acceptance 0.5, never_moved 0

models kept by a selection, and the last ones (mean over seeds)
  VAE · digits: update 2 of 3, chosen on valid; FD of 9 samples on valid 4, last 5

failed
  VAE + EBM · digits: the disk is full
  VAE · roll: it diverged at update 3"""  # noqa: E501


def outcome(scale: str = "paper", overrides: tuple[str, ...] = ()) -> MeasuredTable:
    return MeasuredTable("tilting/toy", scale, TABLE, RESULTS, overrides)


def test_text():
    assert text(outcome()) == GOLDEN


def test_text_says_what_differs_from_the_paper():
    lines = text(outcome("laptop", ("Trained.steps = 3", "Samples.count = 9"))).splitlines()
    assert lines[0] == "tilting/toy · laptop scale · 3 seeds"
    assert lines[-3:] == ["differs from the paper scale in", "  Trained.steps = 3", "  Samples.count = 9"]
    assert not [line for line in lines if line.startswith("underspecified")]
    assert "reproduced" not in "".join(lines)
    assert "".join(lines).count("not comparable") == 2


def test_numbers_that_are_reproduced_thanks_to_their_spread():
    wide, near = (cell(row, published=published(10.0)) for row in ("wide", "near"))
    results = (result((5.0, 15.0, 25.0), wide), result((10.0, 10.1, 10.2), near))
    shown = text(MeasuredTable("t", "paper", Table("ours", (wide, near)), results)).splitlines()
    [said] = [line for line in shown if line.startswith("reproduced: ")]
    allowed = "the tolerance allows 0.5, and the interval over seeds 24.84"
    assert said == f"reproduced: wide · toy · EMD: 5 apart, of which {allowed}"


def test_no_line_ends_in_blanks():
    assert not [line for line in text(outcome()).splitlines() if line != line.rstrip()]


def test_seeds_in_the_heading():
    one = MeasuredTable("t", "paper", Table("ours", (cell(),)), (result((1.0,)),))
    assert text(one).splitlines()[0] == "t · paper scale · 1 seed"
    a, b = cell("a"), cell("b")
    two = MeasuredTable("t", "paper", Table("ours", (a, b)), (result((1.0,), a), result((1.0, 2.0), b)))
    assert text(two).splitlines()[0] == "t · paper scale · 1/2 seeds"


def test_numbers_of_different_protocols_are_marked():
    a, b, c = cell("a"), cell("b"), cell("a", "roll")
    results = (result((1.0,), a), result((2.0,), b, protocol="q"), result((3.0,), c))
    shown = text(MeasuredTable("t", "paper", Table("ours", (a, b, c)), results))
    assert "EMD [p]  a" in shown
    assert "EMD [q]  b" in shown
    assert "roll    EMD " in shown
    assert "numbers of different protocols must not be compared" in shown
    assert "[…]" not in text(outcome())


def test_unverified_numbers_stand_in_parentheses_and_are_never_compared():
    of = cell(published=published(1.0, "unverified", 0.5))
    assert published_text(of) == "(1 ± 0.5)†"
    assert difference(result((3.0,), of)) is None
    document = as_json(MeasuredTable("t", "paper", Table("ours", (of,)), (result((1.0,), of),)))
    assert document["cells"][0]["verdict"] is None
    assert document["cells"][0]["published"]["status"] == "unverified"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (25.0, "25"),
        (1234567.0, "1.235e+06"),
        (0.000123456, "0.0001235"),
        (-1.0, "-1"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_what_was_not_made_is_no_failure():
    assert ours_text(result((), missing=2)) == "–"


CLAIMS = [
    (Judgement("so", 0.5, 0.25, 0.75, True), "  ✓ holds      so (ratio 0.5, 0.25 to 0.75)"),
    (Judgement("so", 2.0, 1.5, 2.5, False), "  ✗ not shown  so (ratio 2, 1.5 to 2.5)"),
    (Judgement("so", 0.5, open="one seed"), "  ? open       so (ratio 0.5, one seed)"),
    (Judgement("so", holds=True), "  ✓ holds      so"),
    (
        Judgement("so", None, -0.5, -0.1, True, difference=-0.3),
        "  ✓ holds      so (difference -0.3, -0.5 to -0.1)",
    ),
]


@pytest.mark.parametrize(("judgement", "line"), CLAIMS)
def test_claims(judgement, line):
    assert claim_text(judgement) == line


CELL_KEYS = [
    "row",
    "column",
    "metric",
    "value",
    "std",
    "n",
    "published",
    "seconds",
    "gradient_evaluations",
    "verdict",
    "protocol",
    "artifact",
    "overrides",
    "attempts",
    "error",
]


LATER_KEYS = ["values", "artifacts", "evaluations", "diagnostics", "selection"]


def test_json_keeps_its_contract():
    document = as_json(outcome("laptop", ("Trained.steps = 3",)))
    assert list(document) == ["table", "source", "scale", "cells", "claims"]
    for made in document["cells"]:
        assert list(made) == [*CELL_KEYS, *LATER_KEYS]
        assert made["published"] is None or list(made["published"]) == ["value", "std", "source", "status"]
        assert made["overrides"] == ["Trained.steps = 3"]
    for claim in document["claims"]:
        assert list(claim) == ["claim", "ratio", "low", "high", "holds", "difference"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_json_keeps_the_order_of_the_table():
    rows = [(made["row"], made["column"], made["metric"]) for made in as_json(outcome())["cells"]]
    assert rows == [(each.row, each.column, each.metric) for each in TABLE.flat()]


def test_json_by_hand():
    made = as_json(outcome())
    assert made["cells"][1] == {
        "row": "VAE",
        "column": "digits",
        "metric": "share",
        "value": 0.5,
        "std": 0.25,
        "n": 3,
        "published": {"value": 0.9, "std": 0.05, "source": "Table 1", "status": "unverified"},
        "seconds": 12.4,
        "gradient_evaluations": 100,
        "verdict": None,
        "protocol": "p",
        "artifact": "score-000000000000",
        "overrides": [],
        "attempts": 2,
        "error": None,
        "values": [0.25, 0.5, 0.75],
        "artifacts": ["score-000000000000", "score-000000000001", "score-000000000002"],
        "evaluations": {"gradients": 100.0, "energies": 0.0, "decodings": 1.0},
        "diagnostics": {"acceptance": 0.5, "never_moved": 0.0},
        "selection": {
            "metric": "FD of 9 samples",
            "split": "valid",
            "kept": 2.0,
            "last": 3.0,
            "scores": {"valid": {"kept": 4.0, "last": 5.0}},
            "diverged": 0,
        },
    }
    assert made["cells"][4]["value"] is None
    assert made["cells"][4]["artifact"] is None
    assert made["cells"][4]["error"] == "it diverged at update 3"
    assert made["claims"][1] == {
        "claim": "the tilt has more",
        "ratio": None,
        "low": None,
        "high": None,
        "holds": None,
        "difference": None,
    }


def test_json_has_no_number_that_is_none():
    """A value of zero to be reached has no ratio, which must not become a NaN."""
    of = cell(metric=SHARE)
    table = Table("ours", (of,), (Reaches("so", "ours", "toy", "share", 0.0),))
    document = as_json(MeasuredTable("t", "paper", table, (result((0.0,), of),)))
    assert json.loads(json.dumps(document, allow_nan=False))["claims"][0]["ratio"] is None


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ((0.0, 0.0, 1.0), "1 g"),
        ((101.0, 0.0, 1.0), "101 ∇E + 1 g"),
        ((0.0, 12.345, 0.0), "12.3 E"),
        ((0.0, 0.0, 0.0), "0"),
    ],
)
def test_costs(cost, shown):
    assert cost_text(dict(zip(("gradients", "energies", "decodings"), cost, strict=True))) == shown
    assert cost_text(None) == "–"


def test_one_cause_is_told_once():
    cells = [cell(row, column) for row in ("a", "b") for column in ("x", "y")]
    results = [dataclasses.replace(result((), each, missing=1), error="no weights") for each in cells]
    lines = text(MeasuredTable("t", "paper", Table("ours", tuple(cells)), tuple(results))).splitlines()
    assert [line for line in lines if "no weights" in line] == ["  a · x, b · x, a · y, b · y: no weights"]


def test_samplings_of_one_model_are_told_from_seeds() -> None:
    plain = cell(seeds=3)
    score = dataclasses.replace(plain.score, subject=dataclasses.replace(SUBJECT, models=1))
    one = dataclasses.replace(plain, score=score)
    assert (one.models, plain.models) == (1, 3)
    for each, told in ((one, True), (plain, False)):
        outcome = MeasuredTable("toy", "laptop", Table("ours", (each,)), (result((1.0, 2.0, 3.0), each),))
        assert ("samplings of fewer models" in text(outcome)) == told
