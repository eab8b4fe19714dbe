"""The average is the moving average of what is learnt, and does not touch the learning."""

from __future__ import annotations

import copy

import pytest
import torch
from toys import METHODS

from ebmzoo.fields import FieldError
from ebmzoo.training import Averaged, Batches

RECIPE = METHODS["Classifier"]


def trained(method, steps):
    """The learner after some updates, and the weights that were learnt at each of them."""
    torch.manual_seed(0)
    learner = method.learner(method.model(RECIPE.data.shape, None))
    rng = torch.Generator().manual_seed(1)
    batches = Batches(RECIPE.data.load("train"), RECIPE.data.labels("train"), 16, rng)
    seen = []
    for _ in range(steps):
        learner.step(batches, torch.Generator().manual_seed(2))
        inner = learner.parts.get("learning", learner.model)
        seen.append(copy.deepcopy(inner.state_dict()))
    return learner, seen


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_is_its_formula(decay):
    method = Averaged(RECIPE.method, decay)
    torch.manual_seed(0)
    expected = copy.deepcopy(method.model(RECIPE.data.shape, None).state_dict())
    learner, seen = trained(method, 12)
    for t, weights in enumerate(seen, start=1):
        now = min(decay, t / (t + 9))
        expected = {name: now * old + (1 - now) * weights[name] for name, old in expected.items()}
    for name, value in learner.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_learning_goes_on_as_without_an_average():
    _, alone = trained(RECIPE.method, 5)
    _, followed = trained(Averaged(RECIPE.method, 0.9), 5)
    for plain, other in zip(alone, followed, strict=True):
        assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_the_average_of_weights_that_stand_still_is_they():
    learner, _ = trained(Averaged(RECIPE.method, 0.9), 3)
    for _ in range(400):
        learner._follow(0.9)
    learnt = learner.parts["learning"].state_dict()
    for name, value in learner.model.state_dict().items():
        torch.testing.assert_close(value, learnt[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_is_a_share(decay):
    with pytest.raises(FieldError, match=r"Averaged\.decay"):
        Averaged(RECIPE.method, decay)


def test_buffers_are_those_of_the_last_update():
    method = Averaged(RECIPE.method, 0.9)
    model = method.model(RECIPE.data.shape, None)
    model.register_buffer("statistics", torch.zeros(2))
    learner = method.learner(model)
    learner.parts["learning"].statistics.fill_(3.0)
    learner._follow(0.9)
    assert learner.model.statistics.tolist() == [3.0, 3.0]
