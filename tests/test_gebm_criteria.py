"""The criteria of generalized energy-based models, and the base's gradient, against closed forms."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
import torch
from laws import Z, generator
from torch import Tensor, nn

from ebmzoo.energies import MLPEnergy
from ebmzoo.flows import RealNVP
from ebmzoo.generators import MLPGenerator
from ebmzoo.losses import donsker_varadhan, kale, log_mean_exp
from ebmzoo.models import Model, NoEnergy, StandardNormal
from ebmzoo.training import SGD, Batches
from ebmzoo_gebm.criteria import Criterion, DonskerVaradhan, FenchelKALE, PreconditionedPartition
from ebmzoo_gebm.gebm import GEBM, base_surrogate, value_and_slope
from ebmzoo_gebm.ratio import DensityRatio, ParameterOffset

COUNT = 200_000


class Shifted(nn.Module):
    """The energy -log dp/db of p = N(m, I) over b = N(0, I): |m|²/2 - m x, off by a constant."""

    def __init__(self, mean: float, constant: float = 0.0):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x.shape[1] * self.mean**2 - self.mean * x.sum(1) + self.constant


def normal(count: int, mean: float, seed: int) -> Tensor:
    return mean + torch.randn(count, 2, generator=generator(seed), dtype=torch.float64)


# The criteria at normal laws, where KL(p || b) = m² in two dimensions


@pytest.mark.parametrize("mean", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("constant", [0.0, -1.5])
def test_both_criteria_find_the_divergence_of_normal_laws(mean: float, constant: float):
    energy = Shifted(mean, constant)
    data, base = energy(normal(COUNT, mean, 1)).detach(), energy(normal(COUNT, 0.0, 2)).detach()
    log_z = torch.tensor(-constant, dtype=torch.float64)
    error = Z * math.sqrt((data.var() + torch.exp(-base - log_z).var()) / COUNT) + 1e-12
    assert float(-kale(data, base, log_z)) == pytest.approx(mean**2, abs=float(error))
    assert float(-donsker_varadhan(data, base)) == pytest.approx(mean**2, abs=float(error))


# The criteria at flows. E = log b - log p₂ - o on data of p₂ is optimal: KALE is KL(p₂ || b), and log Z = o

BASE_MEAN, BASE_STD = torch.tensor([[0.2, -1.0, 0.5], [1.5, 0.6, 1.0]]).double()
SHIFT, NARROWER = torch.tensor([[0.3, -0.4, 0.2], [0.7, 0.9, 0.8]]).double()  # of p₂, in those of the base
KL = float((0.5 * (NARROWER**2 + SHIFT**2 - 1) - NARROWER.log()).sum())


def chi_squared() -> float:
    """The variance of p₂ / b under b, a product over the coordinates."""
    rest = 2 - NARROWER**2
    return float(((SHIFT**2 / rest).exp() / (NARROWER * rest.sqrt())).prod()) - 1


def variance_of_log_ratio() -> float:
    """That of log p₂ / b under p₂: of each coordinate's square x² + linear x, x normal."""
    square, linear = 0.5 / NARROWER**2 - 0.5, -SHIFT / NARROWER**2
    return float((2 * square**2 * NARROWER**4 + (2 * square * SHIFT + linear) ** 2 * NARROWER**2).sum())


def become_normal(flow: nn.Module, mean: Tensor, std: Tensor) -> None:
    """Makes the networks of both layers of a flow constant, such that its law has a mean and a width."""
    with torch.no_grad():
        for index, coupling in enumerate(flow.couplings):
            for network, constant in ((coupling.scale, -std.log()), (coupling.shift, -mean / std)):
                network[-1].weight.zero_()
                network[-1].bias.copy_(constant[index::2])


def flow_over_flow(method: GEBM) -> Model:
    """A model of the two normal laws, each as a flow."""
    torch.manual_seed(0)
    begun = Model(StandardNormal((3,)), RealNVP(2, 16, 1).build(3, (3,)), NoEnergy())
    model = method.model((3,), begun).double()
    become_normal(model.decoder, BASE_MEAN, BASE_STD)
    become_normal(model.energy.flow, BASE_MEAN + BASE_STD * SHIFT, BASE_STD * NARROWER)
    return model


@torch.no_grad()
def from_flow(flow: nn.Module, count: int, seed: int) -> Tensor:
    return flow(torch.randn(count, 3, generator=generator(seed), dtype=torch.float64))


def test_flow_against_flow_gives_the_divergence_of_normal_laws_and_the_partition():
    model = flow_over_flow(GEBM(DensityRatio(RealNVP(2, 16, 1), ParameterOffset()), base_steps=0))
    with torch.no_grad():
        log_z = model.energy.log_partition()
        data = model.energy(from_flow(model.energy.flow, COUNT, 1))
        base = model.energy(from_flow(model.decoder, COUNT, 2))
        fenchel, dv = FenchelKALE().loss(data, base, log_z), DonskerVaradhan().loss(data, base, log_z)
    of_partition = Z * math.sqrt(chi_squared() / COUNT)
    of_divergence = Z * math.sqrt((variance_of_log_ratio() + chi_squared()) / COUNT)
    assert of_divergence < KL / 20
    assert float(log_z) > 0.1
    assert float(log_mean_exp(-base)) == pytest.approx(float(log_z), abs=of_partition)
    assert float(-dv) == pytest.approx(KL, abs=of_divergence)
    assert float(-fenchel) == pytest.approx(KL, abs=of_divergence)


@dataclass(frozen=True)
class Still:
    """Nothing of the energy learns."""

    def apply(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.zero_()


@pytest.mark.parametrize(
    "criterion",
    [FenchelKALE(), FenchelKALE(PreconditionedPartition()), DonskerVaradhan()],
    ids=["Fenchel", "preconditioned", "Donsker-Varadhan"],
)
def test_the_amortised_partition_comes_to_the_partition_of_an_energy_that_is_still(criterion: Criterion):
    r"""From where it is off by one, and then about it, by the noise of each update's samples.

    That noise is :math:`\chi^2` over their number, and the mean over updates has that over the number of all
    samples. The rate has no part in it: an error of one update is taken back in those that follow. What a
    logarithm of a mean is off by is below :math:`\chi^2` over the samples of an update.
    """
    batch, per_datum, begun, updates = 100, 10, 100, 300
    method = GEBM(
        DensityRatio(RealNVP(2, 16, 1), ParameterOffset()), criterion=criterion, base_steps=0, energy_steps=1,
        samples_per_datum=per_datum, gradients=Still(), energy_optimizer=SGD(0.1),
    )  # fmt: skip
    model = flow_over_flow(method)
    learner, rng = method.learner(model), generator(2)
    batches = Batches(from_flow(model.energy.flow, 10_000, 0), None, batch, generator(1))
    learner.step(batches, rng)
    with torch.no_grad():
        learner.log_z.add_(1.0)
        exact = float(model.energy.log_partition())
    path = [float(learner.step(batches, rng)["log_partition"]) for _ in range(begun + updates)]
    error = math.sqrt(chi_squared() / (batch * per_datum * updates))
    bias = chi_squared() / (batch * per_datum)
    assert sum(path[begun:]) / updates == pytest.approx(exact, abs=Z * error + bias)
    assert float(model.energy.log_partition().detach()) == exact


def test_other_flows_give_their_divergence_and_partition():
    """The divergence is that of samples which the criteria do not see."""
    torch.manual_seed(0)
    base = spread(RealNVP(2, 16, 1).build(3, (3,))).double()
    energy = DensityRatio(RealNVP(2, 16, 1), ParameterOffset()).over((3,), base).double()
    spread(energy.flow)
    x, others, y = (from_flow(flow, COUNT, i) for i, flow in enumerate((energy.flow, energy.flow, base)))
    with torch.no_grad():
        ratio = energy.flow.log_prob(others) - base.log_prob(others)
        data, samples, offset = energy(x), energy(y), energy.log_partition()
    chi = float(torch.exp(-samples - offset).var())
    error = Z * math.sqrt((2 * float(ratio.var()) + chi) / COUNT)
    assert float(log_mean_exp(-samples)) == pytest.approx(float(offset), abs=Z * math.sqrt(chi / COUNT))
    assert float(-kale(data, samples, offset)) == pytest.approx(float(ratio.mean()), abs=error)
    assert float(-donsker_varadhan(data, samples)) == pytest.approx(float(ratio.mean()), abs=error)
    assert float(ratio.mean()) > 5 * error


def spread(flow: nn.Module) -> nn.Module:
    """Moves a flow's weights away from their start, so that its law is none of the normal ones."""
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator(parameter.numel()))
    return flow


# The base's gradient


def test_the_base_gradient_is_that_of_finite_differences():
    r"""Of :math:`-\log \hat Z` in each of the base's parameters, at fixed latents and a fixed energy."""
    torch.manual_seed(1)
    decoder = MLPGenerator(5, 1).build(2, (2,)).double()
    energy = MLPEnergy(8, 2).energy((2,)).double().requires_grad_(False)
    z = torch.randn(40, 2, generator=generator(0), dtype=torch.float64)

    def loss() -> float:
        with torch.no_grad():
            return -float(log_mean_exp(-energy(decoder(z))))

    samples = decoder(z)
    base_surrogate(samples, *value_and_slope(energy, samples)).backward()
    for parameter in decoder.parameters():
        for index in range(min(5, parameter.numel())):
            before, step = float(parameter.data.view(-1)[index]), 1e-6
            values = []
            for sign in (1, -1):
                parameter.data.view(-1)[index] = before + sign * step
                values.append(loss())
            parameter.data.view(-1)[index] = before
            assert float(parameter.grad.view(-1)[index]) == pytest.approx(
                (values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8
            )


def test_the_energy_is_a_fixed_function_to_the_base_also_where_it_depends_on_it():
    """For E = log b₀ - log p₂ the gradient is the same whether b₀ is the base itself or a copy of it."""
    torch.manual_seed(0)
    base, flow = (spread(RealNVP(2, 8, 1).build(2, (2,))) for _ in range(2))
    z = torch.randn(30, 2, generator=generator(0))
    gradients = []
    for within in (base, copy.deepcopy(base)):
        energy = DensityRatio(RealNVP(2, 8, 1)).over((2,), within)
        energy.flow.load_state_dict(flow.state_dict())
        base.zero_grad()
        samples = base(z)
        base_surrogate(samples, *value_and_slope(energy, samples)).backward()
        gradients.append([parameter.grad.clone() for parameter in base.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)
