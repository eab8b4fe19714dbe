"""The test with three samples is a test, and learning rates fall when nothing comes of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Generator, Tensor
from toys import METHODS, Blob, Chase, kept, make_in_pieces

from ebmzoo.fields import FieldError
from ebmzoo.metrics.similarity import kernel_contributions, p_of_progress
from ebmzoo.samplers import Direct
from ebmzoo.store import Store
from ebmzoo.training import SGD, Log, Plateau, Team, Watch
from ebmzoo.training.checkpoint import Progress


def normal(n: int, mean: float, rng: Generator) -> Tensor:
    return mean + torch.randn(n, 3, generator=rng)


def kernel(a: Tensor, b: Tensor) -> float:
    return float((a @ b / 3 + 1) ** 3)


def test_contributions_are_their_double_sum():
    rng = Generator().manual_seed(0)
    x, y = normal(5, 0.3, rng).double(), normal(5, 0.0, rng).double()
    expected = [
        sum(kernel(x[i], x[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i]) for j in range(5) if j != i) / 4
        for i in range(5)
    ]
    assert kernel_contributions(x, y).tolist() == pytest.approx(expected)


def test_their_mean_is_the_distance_less_a_term_of_the_data():
    """For normal laws the kernel is a sum over moments; that of the data alone is Σ binomials ⟨M, M⟩."""
    rng = Generator().manual_seed(1)
    found = [
        float(kernel_contributions(normal(40, 0.5, rng), normal(40, 0.0, rng)).mean()) for _ in range(400)
    ]
    exact = moments(0.5, 0.5) - 2 * moments(0.5, 0.0)
    assert abs(np.mean(found) - exact) < 5 * np.std(found) / math.sqrt(len(found))


def moments(a: float, b: float) -> float:
    """The kernel's mean over independent x and y, normal around a and b in all three coordinates."""
    first = 3 * a * b
    second = 3 * (a**2 + 1) * (b**2 + 1) + 6 * (a * b) ** 2
    third = (
        3 * (a**3 + 3 * a) * (b**3 + 3 * b)  # x₁³
        + 18 * (a**2 + 1) * (b**2 + 1) * a * b  # x₁² x₂, in three permutations of six pairs
        + 6 * (a * b) ** 3  # x₁ x₂ x₃
    )
    return 1 + 3 * first / 3 + 3 * second / 9 + third / 27


def p_value(new: float, old: float, seed: int) -> float:
    rng = Generator().manual_seed(seed)
    data = normal(100, 0.0, rng)
    contributions = [kernel_contributions(normal(100, mean, rng), data) for mean in (new, old)]
    return p_of_progress(*contributions)


def test_samples_that_are_as_near_count_as_nearer_as_often_as_the_level_says():
    found = np.array([p_value(0.3, 0.3, seed) for seed in range(600)])
    for level in (0.1, 0.5, 0.9):
        assert abs(np.mean(found <= level) - level) < 5 * math.sqrt(level * (1 - level) / len(found))


def test_nearer_samples_are_told_from_farther_ones():
    assert max(p_value(0.0, 0.8, seed) for seed in range(20)) < 0.05
    assert min(p_value(0.8, 0.0, seed) for seed in range(20)) > 0.95


def test_the_same_samples_are_no_progress():
    assert p_of_progress(torch.ones(4), torch.ones(4)) == 0.5


# The rule.


RULE = Plateau(METHODS["Classifier"], Direct(), every=2, back=4, count=6, chances=2, by=0.5)


def lowered(means: list[float], rule: Plateau = RULE, team: Team | None = None) -> list[int]:
    """Returns at which updates rates fall if the contributions of the looks have these means."""
    noise = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.25, -0.25])
    model = Chase(SGD(0.1)).model((2,), None)
    learner, progress = Chase(SGD(0.1)).learner(model), Progress()
    watch = Watch(rule, lambda model, step: means[step // rule.every - 1] + step * noise)
    rates = []
    for step in range(1, rule.every * len(means) + 1):
        progress.step = step
        watch.look(learner, progress, Log(None, 1), team or Team())
        rates.append(learner.optimizer.param_groups[0]["lr"])
    falls = [step + 1 for step in range(1, len(rates)) if rates[step] < rates[step - 1]]
    assert falls == progress.plateau.get("lowered", [])
    assert rates[-1] == pytest.approx(0.1 * rule.by ** len(falls))
    return falls


def test_rates_fall_after_so_many_tests_in_a_row_and_then_wait():
    """Looks at 2, 4 are kept, those at 6 and 8 tested and failed; 10 and 12 wait, 14 and 16 fail again."""
    assert lowered([0.0] * 9) == [8, 16]


def test_progress_lets_the_count_begin_again():
    assert lowered([0.0, 0.0, 0.0, -1e3, 0.0, -2e3, -2e3]) == []
    assert lowered([-1e3 * look for look in range(20)]) == []
    assert lowered([0.0, 0.0, 0.0, -1e3, 0.0, 0.0, 0.0]) == [12]


def test_with_one_chance_every_failure_counts():
    assert lowered([0.0] * 6, dataclasses.replace(RULE, chances=1)) == [6, 10]


@pytest.mark.parametrize(
    ("field", "value"),
    [("every", 0), ("back", 3), ("count", 2), ("level", 1.5), ("chances", 0), ("by", 2.0), ("shard", 0)],
)
def test_wrong_fields_are_named(field: str, value: float):
    with pytest.raises(FieldError, match=f"Plateau.{field}"):
        dataclasses.replace(RULE, **{field: value})


BASE = METHODS["VAE, Gaussian pictures"]
STUCK = dataclasses.replace(BASE, steps=12, plateau=dataclasses.replace(RULE, level=0.0, shard=4))
"""A run in which nothing counts as progress."""


def test_a_run_says_when_its_rates_fell_and_goes_on_to_the_same_bits(tmp_path: Path):
    store = Store(tmp_path / "whole")
    store.get(STUCK)
    assert store.run(STUCK)["learning_rates_lowered_at"] == [8]
    log = EventAccumulator(str(store.folder(STUCK) / "log")).Reload()
    assert [event.step for event in log.Scalars("plateau/p")] == [6, 8, 10, 12]
    make_in_pieces(STUCK, tmp_path / "cut")
    assert kept(tmp_path / "cut", STUCK) == kept(tmp_path / "whole", STUCK)
    assert Store(tmp_path / "cut").run(STUCK)["learning_rates_lowered_at"] == [8]


def test_it_is_part_of_the_recipe_with_what_it_compares_with():
    assert STUCK.key != dataclasses.replace(STUCK, plateau=None).key
    assert RULE.compared_with(STUCK.data) in STUCK.needs()


def test_images_are_needed():
    with pytest.raises(ValueError, match="images"):
        RULE.look(Chase().model((2,), None), Blob(), lambda recipe: None, Generator())
