"""Compiled gradients: when a graph is made anew, and that none holds on to what has changed since.

The default tests give the compiler a backend that runs what it traced as it is, so that they see which graphs
are made without waiting for code; the slow ones generate code.
"""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from laws import generator
from torch import Tensor, nn

from ebmzoo.energies import ConvEnergy, MLPEnergy
from ebmzoo.generators import MLPGenerator
from ebmzoo.models import Box, Model, NoEnergy, Prior, StandardNormal, frozen, value_and_grad
from ebmzoo.models import model as targets
from ebmzoo.samplers import MALA, Chains, Langevin, Stage
from ebmzoo.training import Adam, Batches
from ebmzoo_tilting.tilting import Tilting

Graphs = list[torch.fx.GraphModule]


@pytest.fixture
def graphs(monkeypatch) -> Iterator[Graphs]:
    """The graphs made since the test began."""
    made: Graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        del inputs
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    monkeypatch.setattr(targets, "_compiled", {})
    yield made
    torch._dynamo.reset()


@pytest.fixture
def code(monkeypatch) -> Iterator[None]:
    """Generates code, with no graph left from other tests."""
    torch._dynamo.reset()
    monkeypatch.setattr(targets, "_compiled", {})
    yield
    torch._dynamo.reset()


def planar(seed: int = 0, prior: Prior | None = None) -> Model:
    torch.manual_seed(seed)
    model = Model(prior or StandardNormal((2,)), nn.Identity(), MLPEnergy(8, 2).energy((2,)))
    model.compiled = True
    return model


def assert_as_eager(model: Model, u: Tensor, beta: float = 1.0) -> None:
    found = value_and_grad(model.target(beta), u)
    expected = value_and_grad(targets.Tilted(model, beta), u)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert not ours.requires_grad


def test_one_graph_serves_models_of_one_architecture(graphs: Graphs):
    model = planar()
    u = model.prior.draw(5, generator(0))
    for other in [model, planar(seed=1), copy.deepcopy(model), planar(seed=2).requires_grad_(False).eval()]:
        for beta, mode in [(1.0, nullcontext), (2.5, torch.no_grad), (0.0, torch.enable_grad)]:
            with frozen(other), mode():
                assert_as_eager(other, u, beta)
    assert len(graphs) == 1


def test_a_graph_sees_the_weights_of_now(graphs: Graphs):
    model, other = planar(), planar(seed=1)
    u = model.prior.draw(5, generator(1))
    optimizer = torch.optim.Adam(model.energy.parameters(), 0.1)
    for _ in range(3):
        with frozen(model):
            assert_as_eager(model, u)
        optimizer.zero_grad()
        model.energy(u).sum().backward()
        optimizer.step()
    model.load_state_dict(other.state_dict())
    first = next(m for m in model.energy.modules() if isinstance(m, nn.Linear))
    first.weight = nn.Parameter(2 * first.weight.detach())
    with frozen(model):
        assert_as_eager(model, u)
        assert_as_eager(model.eval(), u)
    assert len(graphs) == 1


def test_thawed_weights_cost_at_most_one_graph_however_often_they_freeze(graphs: Graphs):
    model = planar()
    u = model.prior.draw(5, generator(2))
    for _ in range(3):
        assert_as_eager(model, u)
        with frozen(model):
            assert_as_eager(model, u)
    assert len(graphs) <= 2
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_shape_and_prior_has_a_graph_of_its_own(graphs: Graphs):
    """More of them than the compiler would make by default."""
    sizes = range(1, 11)
    with frozen(model := planar()):
        for size in sizes:
            assert_as_eager(model, model.prior.draw(size, generator(3)))
    for prior in [Box((2,)), Box((2,), low=0.0)]:
        with frozen(model := planar(prior=prior)):
            assert_as_eager(model, 2 * model.prior.draw(1, generator(4)))
    assert len(graphs) == len(sizes) + 2


def test_precision(graphs: Graphs):
    with frozen(model := planar().double()):
        u = model.prior.draw(5, generator(5))
        value, gradient = value_and_grad(model.target(1.1), u)
        expected = value_and_grad(targets.Tilted(model, 1.1), u)
    assert value.dtype == gradient.dtype == torch.float64
    torch.testing.assert_close((value, gradient), expected, rtol=1e-14, atol=1e-14)


def trained(compiled: bool, updates: int) -> tuple[Model, Tensor]:
    """A tilt after some updates, and samples of it."""
    torch.manual_seed(6)
    base = Model(StandardNormal((2,)), MLPGenerator(8, 1).build(2, (2,)), NoEnergy())
    method = Tilting(MLPEnergy(8, 2), (Stage(Langevin(0.01), 3),), optimizer=Adam(0.01))
    model = method.model((2,), base)
    model.compiled = compiled
    learner, rng = method.learner(model), generator(7)
    batches = Batches(torch.randn(64, 2, generator=generator(8)), None, 16, generator(9))
    for _ in range(updates):
        learner.step(batches, rng)
    return model, Chains((Stage(MALA(0.1), 3),)).draw(model, 16, rng)


def assert_trains_as_eager() -> None:
    model, samples = trained(compiled=True, updates=6)
    expected_model, expected = trained(compiled=False, updates=6)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.state_dict(), expected_model.state_dict(), rtol=1e-4, atol=1e-4)


def test_training_and_sampling_share_a_graph(graphs: Graphs):
    assert_trains_as_eager()
    assert len(graphs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("code")
def test_training_with_generated_code():
    assert_trains_as_eager()


@pytest.mark.slow
@pytest.mark.usefixtures("code")
def test_generated_code_of_convolutions():
    torch.manual_seed(10)
    model = Model(Box((1, 8, 8)), nn.Identity(), ConvEnergy(4).energy((1, 8, 8)))
    model.compiled = True
    u = model.prior.draw(3, generator(11))
    with frozen(model):
        assert_as_eager(model, u, 2.0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        assert_as_eager(model, u, 0.5)
        assert_as_eager(model, u.to(memory_format=torch.channels_last))


ANOTHER_PROCESS = """
import torch
from test_compile import planar
from torch._dynamo.utils import counters
from ebmzoo.models import frozen, value_and_grad
model = planar()
with frozen(model):
    value_and_grad(model.target(), torch.zeros(5, 2))
print(counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"])
"""


@pytest.mark.slow
def test_generated_code_outlives_the_process(tmp_path: Path):
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", ANOTHER_PROCESS]
    first, second = (
        int(subprocess.check_output(command, cwd=Path(__file__).parent, env=environment)) for _ in range(2)
    )
    assert first == 0
    assert second >= 1
