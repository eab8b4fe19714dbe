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
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch
from laws import generator
from torch import Generator, Tensor, nn

from ebmzoo.energies import ConvEnergy, MLPEnergy
from ebmzoo.generators import MLPGenerator
from ebmzoo.models import (
    Box,
    Model,
    NoEnergy,
    Prior,
    StandardNormal,
    Target,
    Tilted,
    as_graphs,
    counting_evaluations,
    frozen,
    value_and_grad,
)
from ebmzoo.samplers import (
    BAOAB,
    HMC,
    MALA,
    SGLD,
    Chains,
    Decay,
    Info,
    Kernel,
    KineticLangevin,
    Langevin,
    Stage,
    State,
    chain,
    evolve,
    recording_chains,
    settle,
    settle_with_report,
)
from ebmzoo.samplers.graphs import LONGEST
from ebmzoo.training import Adam, Batches
from ebmzoo_pixel.igebm import IGEBMEnergy
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
    as_graphs.cache_clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield made
    as_graphs.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def code() -> Iterator[None]:
    """Generates code, with no graph left from other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def planar(seed: int = 0, prior: Prior | None = None) -> Model:
    torch.manual_seed(seed)
    model = Model(prior or StandardNormal((2,)), nn.Identity(), MLPEnergy(8, 2).energy((2,)))
    model.compiled = True
    return model


def assert_as_eager(model: Model, u: Tensor, beta: float = 1.0) -> None:
    found = value_and_grad(model.target(beta), u)
    expected = value_and_grad(Tilted(model, beta), u)
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
        expected = value_and_grad(Tilted(model, 1.1), u)
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


def test_training_and_sampling_make_a_graph_for_each_kernel(graphs: Graphs):
    assert_trains_as_eager()
    assert len(graphs) == 2


KERNELS = [
    Langevin(0.1),
    SGLD(0.2, 0.3, clip=0.5, box=(-2.0, 2.0)),
    MALA(0.3),
    HMC(0.3, 4),
    KineticLangevin(0.3, 1.0),
    BAOAB(0.3, 1.0),
]


@pytest.mark.parametrize("steps", [1, 4, 13, 24])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_steps_in_graphs_are_those_of_a_chain(graphs: Graphs, kernel: Kernel, steps: int):
    model = planar().double()
    u = model.prior.draw(7, generator(12))
    expected = list(islice(chain(kernel, Tilted(model, 1.5), u, generator(13)), steps))
    with frozen(model), counting_evaluations() as counted:
        found = list(evolve((Stage(kernel, steps),), model.target(1.5), u, generator(13)))
    assert len(found) == steps
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert type(found[0][0]) is type(expected[0][0])
    assert len(graphs) == 1
    assert counted.gradients == 7 * (1 + steps * getattr(kernel, "leapfrog_steps", 1))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_chains_that_nobody_records_end_the_same(graphs: Graphs, kernel: Kernel):
    model = planar().double()
    u = model.prior.draw(7, generator(12))
    schedule = (Stage(kernel, 24), Stage(kernel, 5))
    with frozen(model):
        *_, (state, _) = evolve(schedule, model.target(), u, generator(13))
        end, report = settle_with_report(schedule, model.target(), u, generator(13))
    torch.testing.assert_close(end, state.position, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(report["chain_gradient"], state.score.abs().mean(), rtol=1e-9, atol=0)
    with frozen(model), recording_chains() as record:
        settle(schedule, model.target(), u, generator(13))
    assert len(record.log_prob) == 29
    assert len(graphs) == 4


def test_states_go_on_from_graph_to_graph(graphs: Graphs):
    model, schedule = planar().double(), (Decay(KineticLangevin(0.3, 0.04), 6, 4, 0.5),)
    u = model.prior.draw(7, generator(12))
    expected = settle(schedule, Tilted(model, 1.0), u, generator(13))
    with frozen(model), counting_evaluations() as counted:
        found = settle(schedule, model.target(), u, generator(13))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert counted.gradients == 7 * (1 + 6)
    assert len(graphs) == 2


def test_a_step_of_many_gradients_is_a_graph_for_each(graphs: Graphs):
    """The graph is that of a gradient, so that a long trajectory does not take minutes to compile."""
    model, kernel = planar(), HMC(0.1, LONGEST + 1)
    u = model.prior.draw(3, generator(12))
    with frozen(model):
        value_and_grad(model.target(), u)
        settle((Stage(kernel, 2),), model.target(), u, generator(13))
    assert len(graphs) == 1


def test_the_noise_of_a_graph_is_that_of_single_steps(graphs: Graphs):
    """Whoever goes on with the generator finds it where single steps leave it."""
    model, one, other = planar(), generator(14), generator(14)
    u = model.prior.draw(3, generator(15))
    with frozen(model):
        settle((Stage(MALA(0.1), 16),), model.target(), u, one)
    settle((Stage(MALA(0.1), 16),), Tilted(model, 1.0), u, other)
    assert torch.equal(one.get_state(), other.get_state())


@dataclass(frozen=True)
class Lame(Langevin):
    """Stands still at every step: what it adds to the step is no move."""

    def step(self, state: State, target: Target, rng: Generator) -> tuple[State, Info]:
        _, info = super().step(state, target, rng)
        return state, info


def test_a_step_that_does_more_than_move_is_not_passed_over(graphs: Graphs):
    model = planar()
    u = model.prior.draw(3, generator(16))
    with frozen(model):
        assert torch.equal(settle((Stage(Lame(0.1), 8),), model.target(), u, generator(17)), u)


def test_one_graph_of_steps_serves_all_weights_and_temperatures(graphs: Graphs):
    for seed, beta in enumerate([1.0, 2.5, 100.0]):
        model = planar(seed)
        u = model.prior.draw(3, generator(18))
        with frozen(model):
            found = settle((Stage(Langevin(0.01), 8),), model.target(beta), u, generator(19))
        expected = settle((Stage(Langevin(0.01), 8),), Tilted(model, beta), u, generator(19))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


def test_chains_of_images_need_one_graph(graphs: Graphs):
    """Whatever layouts their positions and scores come to have."""
    torch.manual_seed(20)
    model = Model(Box((3, 8, 8)), nn.Identity(), ConvEnergy(4).energy((3, 8, 8)))
    model.compiled = True
    u = model.prior.draw(3, generator(21))
    with frozen(model):
        for _ in range(3):
            u = settle((Stage(Langevin(0.01), 16),), model.target(), u, generator(22))
    assert len(graphs) == 1


def test_spectral_norms_in_graphs_are_those_of_single_steps(graphs: Graphs):
    """One power iteration for a run of chains, however many steps it has."""
    torch.manual_seed(23)
    energy = IGEBMEnergy(2, 1).energy((1, 8, 8)).train()
    ends, norms = [], []
    for compiled in (False, True):
        model = Model(Box((1, 8, 8)), nn.Identity(), copy.deepcopy(energy))
        model.compiled = compiled
        u = model.prior.draw(3, generator(24))
        with frozen(model):
            ends.append(settle((Stage(Langevin(0.01), 9),), model.target(), u, generator(25)))
        norms.append({key: value for key, value in model.energy.state_dict().items() if "_u" in key})
        assert all(module.training for module in model.energy.modules())
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*norms)
    assert graphs


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
