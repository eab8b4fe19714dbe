"""What every method promises, and what each of them must find where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import assert_mean, assert_sample_mean, generator
from torch import Tensor, distributions, nn
from toys import METHODS, VAES, Blob

from ebmzoo.config.registry import classes
from ebmzoo.energies import MLPEnergy
from ebmzoo.models import Model, NoEnergy, StandardNormal, evaluating
from ebmzoo.recipes import Samples, Trained
from ebmzoo.samplers import HMC, Chains, Direct, FromNoise, Langevin, Stage
from ebmzoo.store import Store
from ebmzoo.training import SGD, Adam, Batches, fit
from ebmzoo.training.checkpoint import Progress, Run
from ebmzoo.training.learner import state_of
from ebmzoo_bases.vae import Bernoulli, Gaussian, NormalPosterior, VAELearner, kl_to_standard_normal
from ebmzoo_tilting.tilting import Tilting

every_method = pytest.mark.parametrize("trained", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def same(one: Any, other: Any) -> bool:
    """Whether two nests of dictionaries, lists and tensors hold the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def begun(trained: Trained, store: Store) -> Run:
    """A run of a recipe before its first update."""
    torch.manual_seed(0)
    base = None if trained.base is None else store.get(trained.base)
    learner = trained.method.learner(trained.method.model(trained.data.shape, base))
    labels = trained.data.labels("train")
    batches = Batches(trained.data.load("train"), labels, trained.batch_size, generator(1))
    return Run(learner, batches, generator(2), Progress())


def test_every_method_is_tried():
    ours = {cls for cls in classes()["methods"].values() if cls.__module__.startswith("ebmzoo")}
    assert {type(trained.method) for trained in METHODS.values()} == ours


@every_method
def test_a_method_builds_a_model_of_the_data(trained: Trained, store: Store):
    model = begun(trained, store).learner.model
    u = model.prior.draw(3, generator(0))
    x = model.decoder(u)
    assert x.shape == (3, *trained.data.shape)
    assert model.energy(x).shape == (3,)
    assert model.target()(u).shape == (3,)


@every_method
def test_a_step_reports_what_it_should(trained: Trained, store: Store):
    run = begun(trained, store)
    before = weights(run.learner.model)
    for _ in range(3):
        report = run.learner.step(run.batches, run.rng)
        trains = any(isinstance(part, torch.optim.Optimizer) for part in run.learner.parts.values())
        assert ("gradient_norm" in report) == trains
        for name, value in report.items():
            assert value.isfinite().all(), name
            assert not value.requires_grad, name
            assert value.ndim == 0 or value.shape[0] % trained.batch_size == 0, name
            assert tuple(value.shape[1:]) in {(), trained.data.shape}, name
        assert not trains or report["gradient_norm"] > 0
    after = weights(run.learner.model)
    assert any(not torch.equal(after[name], before[name]) for name in before), "nothing was learnt"


@every_method
def test_a_checkpoint_holds_all_of_a_run(trained: Trained, store: Store, tmp_path: Path):
    run, other = begun(trained, store), begun(trained, store)
    for _ in range(2):
        run.learner.step(run.batches, run.rng)
    run.save(tmp_path / "checkpoint")
    other.load(tmp_path / "checkpoint")
    assert_equal(weights(other.learner.model), weights(run.learner.model))
    for name, part in run.learner.parts.items():
        assert same(state_of(other.learner.parts[name]), state_of(part)), name
    for _ in range(2):
        rngs = torch.get_rng_state()
        report = run.learner.step(run.batches, run.rng)
        torch.set_rng_state(rngs)
        assert_equal(other.learner.step(other.batches, other.rng), report)
    assert_equal(weights(other.learner.model), weights(run.learner.model))


@pytest.mark.parametrize("name", [name for name, trained in METHODS.items() if trained.base])
def test_training_leaves_the_base_alone(name: str, store: Store):
    trained = METHODS[name]
    assert trained.base is not None
    base = store.get(trained.base)
    before = weights(base)
    torch.manual_seed(0)
    model = trained.method.model(trained.data.shape, base)
    shared = {id(p) for p in base.parameters()} & {id(p) for p in model.parameters()}
    assert not shared
    learner = trained.method.learner(model)
    batches = Batches(trained.data.load("train"), None, trained.batch_size, generator(1))
    for _ in range(3):
        learner.step(batches, generator(2))
    assert_equal(weights(base), before)
    assert not any(module.training for module in base.modules())
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())


@every_method
def test_sampling_changes_nothing(trained: Trained, store: Store):
    for model in (store.get(trained), begun(trained, store).learner.model):
        before = weights(model)
        flags = [p.requires_grad for p in model.parameters()]
        schedule = (Stage(Langevin(0.01), 3), Stage(HMC(0.1, 2), 2))
        for sampler in (Direct(), Chains(schedule), Chains(schedule, FromNoise(0.5), beta=0.5)):
            with evaluating(model):
                drawn = sampler.draw(model, 4, generator(0))
            assert drawn.shape == (4, *trained.data.shape)
            assert not drawn.requires_grad
        assert_equal(weights(model), before)
        assert all(p.grad is None for p in model.parameters())
        assert [p.requires_grad for p in model.parameters()] == flags


@every_method
def test_what_is_kept_is_frozen_and_what_was_trained(trained: Trained, store: Store):
    model = store.get(trained)
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert_equal(weights(store.get(trained)), weights(model))
    torch.manual_seed(123)
    assert_equal(weights(Store(store.root).get(trained)), weights(model))


@every_method
def test_samples_do_not_depend_on_what_was_drawn_before(trained: Trained, store: Store):
    """Three shards of four are the first three of any larger number."""
    model = store.get(trained)
    samples = Samples(trained, Chains((Stage(Langevin(0.01), 2),)), count=10, shard=4)
    drawn = store.get(samples)
    assert drawn.shape == (10, *trained.data.shape)
    assert drawn.isfinite().all()
    third = samples.sampler.draw(model, 2, samples.rng("shard 2"))
    assert torch.equal(third, drawn[8:])


def test_a_tilt_freezes_its_decoder_whatever_the_base():
    base = Model(StandardNormal((2,)), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), NoEnergy())
    model = METHODS["Tilting of VAE"].method.model((2,), base)
    assert not any(module.training for module in model.decoder.modules())
    assert not any(p.requires_grad for p in model.decoder.parameters())
    assert all(module.training for module in base.decoder.modules())
    assert all(p.requires_grad for p in base.decoder.parameters())


def test_methods_refuse_what_they_cannot_do(store: Store):
    tilting = METHODS["Tilting of VAE"].method
    with pytest.raises(ValueError, match=r"Tilting needs a trained base generator; bind Trained\.base"):
        tilting.model((2,), None)
    base = Model(StandardNormal((2,)), nn.Linear(2, 3), nn.Flatten(0))
    for name in ("Tilting of VAE", "DDLS", "GEBM"):
        with pytest.raises(ValueError, match=r"given data of shape \(2,\), and a base that makes .* \(3,\)"):
            METHODS[name].method.model((2,), base)
    run = begun(METHODS["Classifier"], store)
    with pytest.raises(ValueError, match="a classifier needs data with classes"):
        run.learner.step(Batches(run.batches.data, None, 4, generator(0)), generator(0))
    with pytest.raises(ValueError, match=r"not for data of shape \(2,\)"):
        METHODS["Classifier"].method.model((2,), None)


def test_tilting_without_chains_learns_from_the_base_itself(store: Store):
    trained = METHODS["Tilting of VAE"]
    bare = Tilting(MLPEnergy(8, 1), schedule=())
    learner = bare.learner(bare.model((2,), store.get(VAES["VAE"])))
    report = learner.step(Batches(trained.data.load("train"), None, 8, generator(0)), generator(1))
    assert torch.equal(report["samples"], learner.model.decoder(torch.randn(8, 2, generator=generator(1))))


# The variational autoencoder


def test_the_divergence_from_the_standard_normal_is_that_of_monte_carlo():
    rng = generator(0)
    mu, log_sigma = torch.randn(5, 3, generator=rng), 0.5 * torch.randn(5, 3, generator=rng)
    q = distributions.Normal(mu, log_sigma.exp())
    kl = kl_to_standard_normal(mu, log_sigma)
    exact = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl, exact)
    z = mu + log_sigma.exp() * torch.randn(40_000, 5, 3, generator=rng)
    ratio = (q.log_prob(z) - distributions.Normal(0.0, 1.0).log_prob(z)).sum(2)
    assert_sample_mean(ratio, kl.double())
    assert torch.equal(kl_to_standard_normal(torch.zeros(2, 3), torch.zeros(2, 3)), torch.zeros(2))


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
def test_likelihoods_are_those_of_torch(shape: tuple[int, ...]):
    rng = generator(0)
    x, mean = (torch.rand(6, *shape, generator=rng) * 1.8 - 0.9 for _ in range(2))
    normal = distributions.Normal(mean, 0.3).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(0.3).log_prob(x, mean), normal)
    black_and_white = x.sign()
    rates = distributions.Bernoulli((mean + 1) / 2)
    coins = rates.log_prob((black_and_white + 1) / 2).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(black_and_white, mean), coins)


class Exact(nn.Module):
    r"""The exact posterior of :math:`x = W z + \sigma \epsilon` where the columns of W are orthogonal."""

    def __init__(self, w: Tensor, sigma: float):
        super().__init__()
        self.precision = 1 + w.square().sum(0) / sigma**2
        self.w, self.sigma = w, sigma

    def forward(self, x: Tensor) -> Tensor:
        mu = x @ self.w / self.sigma**2 / self.precision
        return torch.cat([mu, (-0.5 * self.precision.log()).expand_as(mu)], 1)


def test_the_bound_is_the_evidence_at_the_exact_posterior():
    r"""The evidence of :math:`x = W z + \sigma \epsilon` is that of :math:`N(0, W W^T + \sigma^2 I)`.

    Only the bound's reconstruction is random, a quadratic in the noise; its mean is judged by the spread of
    single data, every one with noise of its own.
    """
    w, sigma = torch.tensor([[1.0, 0.4], [0.5, -0.8], [0.0, 0.3]]), 0.6
    assert (w[:, 0] @ w[:, 1]).abs() < 1e-6
    x = torch.tensor([[0.7, -1.1, 0.2]])
    evidence = distributions.MultivariateNormal(torch.zeros(3), w @ w.T + sigma**2 * torch.eye(3)).log_prob(x)
    decoder = nn.Linear(2, 3, bias=False)
    decoder.weight = nn.Parameter(w)
    posterior = NormalPosterior(Exact(w, sigma))
    model = Model(StandardNormal((2,)), decoder, NoEnergy(), posterior=posterior)
    count = 40_000
    learner = VAELearner(model, Gaussian(sigma), SGD(1e-12).over(decoder.parameters()))
    batches = Batches(x.expand(count, 3), None, count, generator(0))
    report = learner.step(batches, generator(1))
    rest = evidence.item() + report["kl"].item()
    reconstructions = Gaussian(sigma).log_prob(x, report["decoded"])
    assert_sample_mean(reconstructions, rest)
    torch.testing.assert_close(report["reconstruction"], reconstructions.mean())
    torch.testing.assert_close(report["loss"], report["kl"] - report["reconstruction"])


def test_a_worse_posterior_gives_a_lower_bound():
    """By the divergence from the exact one, which for a shift by one standard deviation is one half."""
    w, sigma, count = torch.tensor([[1.0], [0.5]]), 0.6, 40_000
    decoder = nn.Linear(1, 2, bias=False)
    decoder.weight = nn.Parameter(w)
    exact = Exact(w, sigma)

    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mu, log_sigma = exact(x).chunk(2, 1)
            return torch.cat([mu + log_sigma.exp(), log_sigma], 1)

    x = torch.tensor([[0.7, -1.1]])
    bounds = []
    for encoder in (exact, Shifted()):
        model = Model(StandardNormal((1,)), decoder, NoEnergy(), posterior=NormalPosterior(encoder))
        learner = VAELearner(model, Gaussian(sigma), SGD(1e-12).over(decoder.parameters()))
        report = learner.step(Batches(x.expand(count, 2), None, count, generator(0)), generator(1))
        bounds.append(report["kl"] - Gaussian(sigma).log_prob(x, report["decoded"]))
    assert_sample_mean(bounds[1] - bounds[0], 0.5)


# Tilting


@dataclass(frozen=True)
class Quadratic:
    r"""The energy :math:`a x + b x^2 / 2` of points on a line: every normal distribution is a tilt by one."""

    def energy(self, shape: tuple[int, ...]) -> nn.Module:
        return Polynomial()


class Polynomial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.square() / 2], 1) @ self.coefficients


def standard_normal_base() -> Model:
    return Model(StandardNormal((1,)), nn.Identity(), NoEnergy())


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_tilting_learns_the_logarithm_of_the_ratio(beta: float, tmp_path: Path):
    r"""From N(0, 1) to N(m, s²), :math:`-\beta E = \log N(m, s^2) - \log N(0, 1) + c`; a and b are known.

    The family is exponential, so gradient descent at the rate :math:`\lambda` with :math:`B` independent
    samples an update ends with parameters spread by :math:`\sqrt{\lambda / (2 B \beta)}` about those of the
    data, in every direction: the noise of the gradient has covariance :math:`F / B` and the loss has the
    curvature :math:`\beta F`, with the same F, that of :math:`(x, x^2 / 2)`. Each batch is all of the data,
    so nothing else is random. The slowest direction of F decays as :math:`(1 - 0.08 \lambda \beta)^{600}`,
    below 1e-4; HMC over a quarter of a period forgets where it began.
    """
    m, s, rate, count = 0.5, 0.7, 0.2, 1000
    x = torch.randn(count, 1, generator=generator(0))
    x = m + s * (x - x.mean()) / x.std(correction=0)
    schedule = (Stage(HMC(s * math.pi / 2 / 4, 4), 3),)
    method = Tilting(Quadratic(), schedule, l2=0.0, beta=beta, optimizer=SGD(rate))
    model = method.model((1,), standard_normal_base())
    batches = Batches(x, None, count, generator(1))
    fit(method.learner(model), batches, 600, generator(2), tmp_path / "checkpoint")
    [coefficients] = model.energy.parameters()
    learnt = beta * coefficients.detach()
    expected = torch.tensor([-m / s**2, 1 / s**2 - 1])
    assert_mean(learnt[None], expected.double(), beta * math.sqrt(rate / (2 * count * beta)), "log-ratio")


def test_data_have_a_lower_energy_than_what_the_base_makes(tmp_path: Path):
    data = Blob(256, mean=0.6, std=0.1)
    base = Model(StandardNormal((2,)), nn.Identity(), NoEnergy())
    method = Tilting(MLPEnergy(16, 2), (Stage(Langevin(0.1), 20),), optimizer=Adam(1e-2))
    torch.manual_seed(0)
    model = method.model((2,), base)
    batches = Batches(data.load("train"), None, 64, generator(0))
    fit(method.learner(model), batches, 60, generator(1), tmp_path / "checkpoint")
    held_out, samples = data.load("test"), model.prior.draw(256, generator(2))
    assert model.energy(held_out).max() < model.energy(samples).median()
    tilted = Chains(method.schedule).draw(model, 256, generator(3))
    centre = torch.tensor([0.6, 0.6])
    assert (tilted.mean(0) - centre).norm() < 0.5 * (samples.mean(0) - centre).norm()


def test_the_gap_is_that_of_the_energies(store: Store):
    run = begun(METHODS["Tilting of VAE"], store)
    report = run.learner.step(run.batches, run.rng)
    gap = report["energies/samples"].mean() - report["energies/data"].mean()
    torch.testing.assert_close(report["energy_gap"], gap)
    torch.testing.assert_close(report["energy_data"], report["energies/data"].mean())
    torch.testing.assert_close(report["energy_samples"], report["energies/samples"].mean())


def test_the_penalty_pulls_energies_to_zero(tmp_path: Path):
    """With data that are the base's samples, only the penalty learns: energies shrink towards zero."""
    x = torch.randn(1000, 1, generator=generator(0))
    sizes = []
    for l2 in (0.0, 1.0):
        method = Tilting(MLPEnergy(16, 2), (), l2=l2, optimizer=SGD(0.05))
        torch.manual_seed(0)
        model = method.model((1,), standard_normal_base())
        nn.init.constant_(list(model.energy.parameters())[-1], 3.0)
        fit(method.learner(model), Batches(x, None, 500, generator(1)), 50, generator(2), tmp_path / str(l2))
        sizes.append(model.energy(x).abs().mean().item())
    assert sizes[0] > 2.0
    assert sizes[1] < 0.1
