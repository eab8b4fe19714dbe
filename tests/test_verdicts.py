"""Verdicts and claims, on measurements made by hand and in planted studies."""

from __future__ import annotations

import math
import random

import pytest
from planted import Planted, PlantedLikelihood, cell, published, result
from scipy.stats import binom

from ebmzoo.tables import Better, Fraction, Reaches, Table
from ebmzoo.verdicts import Judgement, MeasuredTable, Result, half_width, judge, verdict

T2 = 0.95 / math.sqrt(2 * 0.975 * 0.025)
"""The 97.5 % quantile of Student's t with two degrees of freedom: (2 p - 1) / sqrt(2 p (1 - p)), 4.3027."""

HIGHER = Planted("share", higher=True)


def test_the_interval_of_a_mean():
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(T2 / math.sqrt(3))
    assert half_width([2.0, 2.0]) == 0.0
    assert half_width([2.0]) == math.inf


def judged(values: tuple[float, ...], value: float, **settings) -> str | None:
    """Returns the verdict on values beside a published one, at the paper's scale: within 5 %, or by 0.1."""
    higher, missing = settings.pop("higher", False), settings.pop("missing", 0)
    comparable = settings.pop("comparable", True)
    metric = settings.pop("metric", HIGHER if higher else Planted())
    of = cell(metric=metric, published=published(value, **settings))
    allowed = Table("ours", (of,), tolerance=0.05, absolute_tolerance=0.1).allowed(of)
    return verdict(result(values, of, missing), comparable, allowed)


VERDICTS = [
    # one seed: the tolerance alone
    (((10.0,), 10.0), {}, "reproduced"),
    (((10.5,), 10.0), {}, "reproduced"),
    (((10.51,), 10.0), {}, "not reproduced"),
    (((9.49,), 10.0), {}, "better"),
    (((9.49,), 10.0), {"higher": True}, "not reproduced"),
    (((10.51,), 10.0), {"higher": True}, "better"),
    (((-10.4,), -10.0), {}, "reproduced"),
    (((-9.4,), -10.0), {}, "not reproduced"),
    # on no ratio scale: a difference, wherever zero is
    (((10.09,), 10.0), {"metric": PlantedLikelihood()}, "reproduced"),
    (((10.11,), 10.0), {"metric": PlantedLikelihood()}, "not reproduced"),
    (((0.09,), 0.0), {"metric": PlantedLikelihood()}, "reproduced"),
    (((-10.11,), -10.0), {"metric": PlantedLikelihood()}, "better"),
    # three seeds, of mean 11 and standard deviation 0.2: an interval of ± 0.4968, and 0.5 of tolerance
    (((10.8, 11.0, 11.2), 10.0), {}, "not reproduced"),
    (((10.79, 10.99, 11.19), 10.0), {}, "reproduced"),
    (((8.8, 9.0, 9.2), 10.0), {}, "better"),
    # a wide interval tells little, and that little fits
    (((5.0, 15.0, 25.0), 10.0), {}, "reproduced"),
    # what cannot be compared
    (((10.0,), 10.0), {"comparable": False}, "not comparable"),
    (((10.0, 10.1), 10.0), {"missing": 1}, "not comparable"),
    (((10.0,), 10.0), {"status": "secondary"}, "reproduced"),
    (((10.0,), 10.0), {"status": "unverified"}, None),
    (((99.0,), 10.0), {"status": "unverified"}, None),
    (((), 10.0), {"missing": 3}, None),
    # what the paper omits excuses a difference, and only that
    (((12.0,), 10.0), {"omits": "the learning rate; 1e-3 here"}, "underspecified"),
    (((10.0,), 10.0), {"omits": "the learning rate; 1e-3 here"}, "reproduced"),
    (((8.0,), 10.0), {"omits": "the learning rate; 1e-3 here"}, "better"),
    (((12.0,), 10.0), {"omits": "the learning rate", "comparable": False}, "not comparable"),
]


@pytest.mark.parametrize(("case", "settings", "expected"), VERDICTS)
def test_verdicts(case, settings, expected):
    assert judged(*case, **settings) == expected


def test_the_worked_boundary_is_where_it_should_be():
    """The rows on three seeds above lie on both sides of this distance."""
    reach = T2 * 0.2 / math.sqrt(3) + 0.5
    assert 0.99 < reach < 1.0


def test_without_a_published_number_there_is_no_verdict():
    assert verdict(result((1.0,)), True, 0.05) is None


def outcome(scale: str = "paper", overrides: tuple[str, ...] = ()) -> MeasuredTable:
    of = cell(published=published(1.0))
    return MeasuredTable("toy", scale, Table("ours", (of,)), (result((1.0,), of),), overrides)


def test_only_the_paper_scale_without_overrides_is_comparable():
    assert outcome().verdicts() == ("reproduced",)
    assert outcome("laptop").verdicts() == ("not comparable",)
    assert outcome("paper", ("Trained.steps = 3",)).verdicts() == ("not comparable",)


BETTER = Better("a beats b", "a", "b", "toy", "EMD")


def study(
    a: tuple[float, ...], b: tuple[float, ...], higher: bool = False, kind: type = Planted, **settings: int
) -> Judgement:
    """Returns what becomes of the claim that row a beats row b."""
    metric = kind(higher=higher)
    rows = {
        ("a", "toy", "EMD"): result(a, cell("a", metric=metric), **settings),
        ("b", "toy", "EMD"): result(b, cell("b", metric=metric)),
    }
    return judge(BETTER, rows)


def test_a_paired_interval_by_hand():
    """Ratios 0.5 exp(0, 0.1, -0.1): logarithms of mean log 0.5 and standard deviation 0.1."""
    b = (1.0, 10.0, 100.0)
    a = tuple(0.5 * math.exp(shift) * value for shift, value in zip((0.0, 0.1, -0.1), b, strict=True))
    half = T2 * 0.1 / math.sqrt(3)
    made = study(a, b)
    assert made.ratio == pytest.approx(0.5)
    assert made.low == pytest.approx(0.5 * math.exp(-half))
    assert made.high == pytest.approx(0.5 * math.exp(half))
    assert made.holds is True
    assert study(b, a).holds is False
    assert study(a, b, higher=True).holds is False
    assert study(b, a, higher=True).holds is True


def test_a_paired_interval_of_differences_by_hand():
    """Differences -0.5, -0.4 and -0.6, on both sides of a zero that means nothing."""
    b = (-1.0, 0.0, 10.0)
    a = (-1.5, -0.4, 9.4)
    half = T2 * 0.1 / math.sqrt(3)
    made = study(a, b, kind=PlantedLikelihood)
    assert made.ratio is None
    assert made.difference == pytest.approx(-0.5)
    assert (made.low, made.high) == pytest.approx((-0.5 - half, -0.5 + half))
    assert made.holds is True
    assert study(b, a, kind=PlantedLikelihood).holds is False
    assert study(b, a, higher=True, kind=PlantedLikelihood).holds is True


def test_differences_do_not_depend_on_where_zero_is():
    """In other units of the data, log-densities are moved by a constant. Ratios would change."""
    a, b = (1.0, 2.0, 4.0), (1.5, 2.4, 4.6)
    moved = study(tuple(x + 8 for x in a), tuple(x + 8 for x in b), kind=PlantedLikelihood)
    made = study(a, b, kind=PlantedLikelihood)
    assert (moved.low, moved.high) == pytest.approx((made.low, made.high))


def test_pairs_see_through_what_seeds_have_in_common():
    """Each seed moves both rows a hundredfold, and a is one percent better every time."""
    b = (1.0, 100.0, 0.01, 7.0, 30.0)
    assert study(tuple(0.99 * value for value in b), b).holds is True


def test_an_interval_that_holds_one_shows_nothing():
    made = study((0.5, 2.0, 1.0), (1.0, 1.0, 1.0))
    assert made.holds is False
    assert made.low < 1 < made.high


def test_planted_studies():
    """In a good study a is 20 % better under 5 % of noise; in a broken one the rows are alike.

    Over 1000 broken studies the claim holds in one of 40, as a 95 % interval has it.
    """
    rng = random.Random(0)

    def draw(scale: float) -> tuple[float, ...]:
        return tuple(scale * math.exp(rng.gauss(0, 0.05)) for _ in range(8))

    assert study(draw(0.8), draw(1.0)).holds is True
    assert study(draw(1.0), draw(0.8)).holds is False
    shown = sum(bool(study(draw(1.0), draw(1.0)).holds) for _ in range(1000))
    low, high = binom.ppf([1e-6, 1 - 1e-6], 1000, 0.025)
    assert low <= shown <= high


def spent(a: tuple[float, ...], b: tuple[float, ...]) -> Judgement:
    """Returns what becomes of the claim that row a has at most half the value of row b."""
    claim = Fraction("a takes at most half of b", "a", "b", "toy", "EMD", 0.5)
    return judge(claim, {(row, "toy", "EMD"): result(v, cell(row)) for row, v in (("a", a), ("b", b))})


def test_a_fraction_is_judged_with_every_seed():
    made = spent((1.0, 2.0), (2.0, 8.0))
    assert (made.ratio, made.low, made.high, made.holds) == (0.375, 0.25, 0.5, True)
    assert spent((1.0, 2.1), (8.0, 4.0)).holds is False
    assert spent((1.0,), (4.0,)).holds is True


OPEN = [
    (study((0.5,), (1.0,)), "one seed has no interval"),
    (study((0.5, 0.5), (1.0, 1.0), missing=1), "not enough cells were made to tell"),
    (study((), (1.0, 1.0), missing=2), "not enough cells were made to tell"),
    (study((0.0, 0.5), (1.0, 1.0)), "not all values are above zero, so they have no ratios"),
    (study((0.5, 0.5), (1.0, -1.0)), "not all values are above zero, so they have no ratios"),
    (judge(BETTER, {}), "not all cells that it is about were asked for"),
    (study((0.5,), (-1.0,), kind=PlantedLikelihood), "one seed has no interval"),
    (spent((0.5,), (0.0,)), "not all values are above zero, so they have no ratios"),
]


@pytest.mark.parametrize(("made", "reason"), OPEN, ids=[str(index) for index in range(len(OPEN))])
def test_what_cannot_be_told_is_open(made, reason):
    assert made.holds is None
    assert made.open == reason


def test_one_seed_still_has_a_ratio():
    assert study((0.5,), (1.0,)).ratio == pytest.approx(0.5)


def test_rows_of_other_protocols_are_not_compared():
    rows = {
        ("a", "toy", "EMD"): result((0.5, 0.5), cell("a"), protocol="one"),
        ("b", "toy", "EMD"): result((1.0, 1.0), cell("b"), protocol="two"),
    }
    fraction = Fraction("a costs less", "a", "b", "toy", "EMD", 0.5)
    for claim in (BETTER, fraction):
        assert judge(claim, rows).open == "the rows were scored by different protocols"


def test_an_interval_that_no_number_can_hold():
    made = study((1.0, 1e-60), (1.0, 1.0))
    assert (made.holds, made.low) == (False, 0.0)
    assert made.high > 1e300


def test_seeds_that_only_one_row_has_are_in_no_pair():
    assert study((0.5, 0.5, 9.0), (1.0, 1.0)) == study((0.5, 0.5), (1.0, 1.0))


def reaches(
    values: tuple[float, ...], value: float, higher: bool, missing: int = 0, kind: type = Planted
) -> Judgement:
    claim = Reaches("a finds them all", "a", "toy", "EMD", value)
    measured: Result = result(values, cell("a", metric=kind(higher=higher)), missing)
    return judge(claim, {("a", "toy", "EMD"): measured})


def test_values_that_are_reached():
    assert reaches((25.0, 25.0), 25.0, higher=True).holds is True
    assert reaches((25.0, 24.0), 25.0, higher=True).holds is False
    assert reaches((0.1, 0.2), 0.2, higher=False).holds is True
    assert reaches((0.1, 0.3), 0.2, higher=False).holds is False
    assert reaches((25.0,), 25.0, higher=True, missing=1).holds is None
    made = reaches((20.0, 25.0), 25.0, higher=True)
    assert (made.ratio, made.low, made.high) == pytest.approx((0.9, 0.8, 1.0))


def test_a_log_density_is_so_far_from_what_it_should_reach():
    made = reaches((-1.0, 1.5), 2.0, higher=False, kind=PlantedLikelihood)
    assert made == Judgement("a finds them all", None, -3.0, -0.5, True, difference=-1.75)
    assert reaches((0.5,), 0.0, higher=False, kind=PlantedLikelihood).holds is False


def test_zero_has_no_ratio_but_can_be_reached():
    assert reaches((0.0, 1.0), 0.0, higher=True) == Judgement("a finds them all", holds=True)
    assert reaches((0.0, 1.0), 0.0, higher=False) == Judgement("a finds them all", holds=False)


def test_spreads():
    made = result((1.0, 2.0, 3.0))
    assert (made.mean, made.std, made.complete) == (2.0, 1.0, True)
    assert result((1.0,)).std is None
    assert (result((), missing=1).mean, result((1.0,), missing=1).complete) == (None, False)
