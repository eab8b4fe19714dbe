"""Updates of a generalized energy-based model, one by one, against the same ones by hand, and cut in pieces.

By hand the energy is :math:`\\theta x`, all data are at one point of the line, and so are all samples of the
base: every expectation is one number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from laws import Z, generator
from torch import Tensor, nn
from toys import METHODS, kept, make_in_pieces

from ebmzoo.energies import MLPEnergy
from ebmzoo.generators import MLPGenerator
from ebmzoo.metrics import SampledPartition
from ebmzoo.models import Model, StandardNormal
from ebmzoo.store import Store
from ebmzoo.training import SGD, Averaged, Batches, Milestones, ModelSelection, Scheduled
from ebmzoo_gebm.gebm import GEBM, GEBMLearner, PlainGradients, Squashed
from ebmzoo_gebm.measures import KALE
from ebmzoo_gebm.penalties import GradientPenalty, ParameterPenalty, Penalty

DATUM, SAMPLE, SLOPE, RATE = 1.5, -0.5, 0.8, 0.1


class Linear(nn.Module):
    """The energy of slope theta."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([SLOPE]))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x[:, 0]


class Spot(nn.Module):
    """The decoder that puts every latent at one point."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(SAMPLE))

    def forward(self, u: Tensor) -> Tensor:
        return self.place.expand(len(u), 1)


@dataclass
class ByHand:
    """The numbers that a learner moves, and how it should."""

    theta: float = SLOPE
    place: float = SAMPLE
    log_z: float = -SLOPE * SAMPLE  # exact, as it is set in the beginning

    def energy_learns(self, pull: float, squashed: bool) -> None:
        """``pull`` times theta is the gradient of the penalties."""
        weight = math.exp(-self.theta * self.place - self.log_z)
        slope = DATUM - self.place * weight + pull * self.theta
        self.theta -= RATE * (2 * slope / (1 + slope**2) if squashed else slope)
        self.log_z -= RATE * (1 - weight)

    def base_learns(self) -> None:
        self.place -= RATE * self.theta


# The penalties are λ theta², one slope and one parameter of one side
PENALTIES: dict[str, tuple[tuple[Penalty, ...], float]] = {
    "no penalty": ((), 0.0),
    "slopes": ((GradientPenalty(0.7),), 1.4),
    "parameters": ((ParameterPenalty(0.3),), 0.6),
    "slopes and parameters": ((GradientPenalty(0.7), ParameterPenalty(0.3)), 2.0),
}


@pytest.mark.parametrize("penalties", PENALTIES)
@pytest.mark.parametrize("squashed", [False, True], ids=["plain", "squashed"])
@pytest.mark.parametrize(("energy_steps", "base_steps"), [(1, 0), (3, 0), (0, 1), (0, 3), (1, 1), (2, 3)])
def test_updates_are_those_of_gradient_descent_by_hand(
    penalties: str, squashed: bool, energy_steps: int, base_steps: int
):
    """The log-partition is never squashed: only the gradients of the energy's parameters are."""
    added, pull = PENALTIES[penalties]
    method = GEBM(
        penalties=added, energy_steps=energy_steps, base_steps=base_steps, initial_samples=10,
        gradients=Squashed() if squashed else PlainGradients(),
        energy_optimizer=SGD(RATE), base_optimizer=SGD(RATE),
    )  # fmt: skip
    learner = method.learner(method.model((1,), Model(StandardNormal((3,)), Spot(), Linear())))
    batches, rng = Batches(torch.full((20, 1), DATUM), None, 4, generator(0)), generator(1)
    expected = ByHand()
    for _ in range(3):
        report = learner.step(batches, rng)
        for _ in range(energy_steps):
            penalty = 0.5 * pull * expected.theta**2
            expected.energy_learns(pull, squashed)
        if energy_steps:
            assert float(report["energy_penalty"]) == pytest.approx(penalty, rel=1e-5, abs=1e-6)
        for _ in range(base_steps):
            expected.base_learns()
        found = ByHand(*(float(p.detach()) for p in numbers(learner)))
        assert vars(found) == pytest.approx(vars(expected), rel=1e-5, abs=1e-6)


def numbers(learner: GEBMLearner) -> tuple[Tensor, Tensor, Tensor]:
    return learner.model.energy.theta, learner.model.decoder.place, learner.log_z


@pytest.mark.parametrize(("per_datum", "count"), [(1, 16), (3, 48)])
def test_both_parts_learn_from_as_many_samples_as_there_should_be_for_a_datum(per_datum: int, count: int):
    """And each is another one, also the next time."""
    torch.manual_seed(0)
    method = GEBM(MLPEnergy(4, 1), MLPGenerator(4, 1), 2, energy_steps=1, samples_per_datum=per_datum)
    learner = method.learner(method.model((2,), None))
    batches, rng = Batches(torch.randn(64, 2, generator=generator(0)), None, 16, generator(1)), generator(2)
    seen = []
    for _ in range(2):
        report = learner.step(batches, rng)
        assert len(report["energies/data"]) == 16
        assert len(report["energies/samples"].unique()) == count
        assert report["samples"].shape == (count, 2)
        seen.append(report["samples"])
    assert len(torch.cat(seen).unique(dim=0)) == 2 * count


# The gradient penalty


class Bowl(nn.Module):
    """The energy |x|² / 2, whose slope at x is x."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)


class Valley(nn.Module):
    """The energy (x₁ - x₂)² / 2, flat along the diagonal and nowhere else."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (x[:, 0] - x[:, 1]).square()


def test_the_gradient_penalty_is_the_mean_over_uniform_places_between_datum_and_sample():
    """From -1 to 1 the mean of x² is 1/3, of variance 1/5 - 1/9; at both ends it is one, half way zero."""
    count = 100_000
    data, samples = torch.ones(count, 1).double(), -torch.ones(count, 1).double()
    error = Z * math.sqrt((1 / 5 - 1 / 9) / count)
    for one, other in ((data, samples), (samples, data)):
        found = GradientPenalty(2.0).value(Bowl(), one, other, generator(0)).detach()
        assert float(found) == pytest.approx(2 / 3, abs=2 * error)
    # from 0 to 1 a mean of 1/3 too, and from 0 to -2 one of 4/3: neither end counts more than the other
    for far in (1.0, -2.0):
        for one, other in ((0 * data, far * data), (far * data, 0 * data)):
            found = GradientPenalty(1.0).value(Bowl(), one, other, generator(1)).detach()
            assert float(found) == pytest.approx(far**2 / 3, abs=far**2 * error)


def test_the_gradient_penalty_is_on_lines():
    """Every coordinate is equally far between the two ends, also where there are more samples than data."""
    diagonal = torch.linspace(-1, 1, 60)[:, None].expand(60, 2).double()
    found = GradientPenalty().value(Valley(), diagonal[:10], diagonal.flip(0), generator(0)).detach()
    assert float(found) == pytest.approx(0, abs=1e-20)


# Cut in pieces

FLOWS = METHODS["GEBM of flows"]  # the energy warms up in every second update
SELECTED = {
    "both": FLOWS,
    "averaged": replace(FLOWS, method=Averaged(FLOWS.method, decay=0.5)),
    "scheduled": replace(FLOWS, method=Scheduled(FLOWS.method, Milestones((2, 5), 0.5))),
    "scheduled and averaged": replace(
        FLOWS, method=Averaged(Scheduled(FLOWS.method, Milestones((2, 5), 0.5)), decay=0.5)
    ),
    "energy only": replace(FLOWS, method=replace(FLOWS.method, base_steps=0), base=METHODS["Real NVP"]),
    "base only": replace(FLOWS, method=GEBM(energy_steps=0), base=FLOWS),
}


@pytest.mark.parametrize("updates", [1, 3])
@pytest.mark.parametrize("name", SELECTED)
def test_a_run_with_a_selection_ends_the_same_cut_after_any_update(name: str, updates: int, tmp_path: Path):
    """The same model, chosen at the same time for the same scores, which take random numbers of their own."""
    rule = ModelSelection(KALE(SampledPartition(100)), every=2, watch=("test",))
    trained = replace(SELECTED[name], steps=7, selection=rule)
    Store(tmp_path / "uncut").get(trained)
    assert make_in_pieces(trained, tmp_path / "cut", updates) == math.ceil(7 / updates)
    assert kept(tmp_path / "cut", trained) == kept(tmp_path / "uncut", trained)
    seen, expected = (Store(tmp_path / each).run(trained)["selection"] for each in ("cut", "uncut"))
    assert seen == expected
    assert len({value for _, value in seen["scores"]}) == 3
