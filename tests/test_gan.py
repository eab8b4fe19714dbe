"""Adversarial losses, penalties, and who is updated when."""

from __future__ import annotations

import math

import pytest
import torch
from laws import generator
from torch import Tensor, nn
from toys import Blob

from ebmzoo.energies import MLPEnergy
from ebmzoo.fields import FieldError
from ebmzoo.generators import MLPGenerator
from ebmzoo.losses import gradient_penalty
from ebmzoo.training import Adam, Batches
from ebmzoo_bases.gan import GAN, BetweenPenalty, DataPenalty, Hinge, NonSaturating, Wasserstein

REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([0.0, -3.0])


def test_losses_by_hand():
    e = math.exp
    assert float(NonSaturating().critic(REAL, FAKE)) == pytest.approx(
        (math.log1p(e(-2)) + math.log1p(e(0.5))) / 2 + (math.log(2) + math.log1p(e(-3))) / 2
    )
    assert float(NonSaturating().generator(FAKE)) == pytest.approx((math.log(2) + math.log1p(e(3))) / 2)
    assert float(Hinge().critic(REAL, FAKE)) == pytest.approx((0 + 1.5) / 2 + (1 + 0) / 2)
    assert float(Wasserstein().critic(REAL, FAKE)) == pytest.approx(-1.5 - 0.75)
    assert float(Hinge().generator(FAKE)) == float(Wasserstein().generator(FAKE)) == 1.5


def test_the_optimal_critic_of_the_logistic_loss_is_the_log_ratio():
    """On two points, of data 0.8 and 0.2 and samples 0.3 and 0.7: the derivative vanishes at log p / q."""
    p, q = torch.tensor([0.8, 0.2]), torch.tensor([0.3, 0.7])
    logit = (p / q).log().requires_grad_()
    values = [NonSaturating().critic(logit[i : i + 1], logit.new_full((1,), -1e9)) for i in range(2)]
    others = [NonSaturating().critic(logit.new_full((1,), 1e9), logit[i : i + 1]) for i in range(2)]
    loss = sum(p[i] * values[i] + q[i] * others[i] for i in range(2))
    (slope,) = torch.autograd.grad(loss, logit)
    torch.testing.assert_close(slope, torch.zeros(2), atol=1e-6, rtol=0)


class Plane(nn.Module):
    """The energy w·x, whose gradient is w everywhere."""

    def __init__(self, *w: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w


@pytest.mark.parametrize(("norm", "expected"), [(0.0, 25.0), (1.0, 16.0)])
def test_gradient_penalty_of_a_plane(norm, expected):
    energy, x = Plane(3.0, 4.0), torch.randn(5, 2)
    value = gradient_penalty(energy, x, norm)
    assert float(value.detach()) == pytest.approx(expected)
    (slope,) = torch.autograd.grad(value, energy.w)
    factor = 2.0 if norm == 0 else 2 * (5 - norm) / 5
    torch.testing.assert_close(slope, factor * energy.w.detach())


def test_a_flat_energy_has_a_finite_penalty():
    energy = Plane(0.0, 0.0)
    for norm in (0.0, 1.0):
        value = gradient_penalty(energy, torch.randn(4, 2), norm)
        (slope,) = torch.autograd.grad(value, energy.w)
        assert slope.isfinite().all()


def test_penalties_are_taken_where_they_say():
    seen = []

    class Watching(Plane):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach().clone())
            return super().forward(x)

    energy, real, fake = Watching(3.0, 4.0), torch.ones(400, 2), torch.zeros(400, 2)
    assert float(DataPenalty(2.0).value(energy, real, fake, generator(0)).detach()) == pytest.approx(25.0)
    assert float(BetweenPenalty(2.0).value(energy, real, fake, generator(0)).detach()) == pytest.approx(32.0)
    at_data, between = seen
    assert torch.equal(at_data, real)
    assert torch.equal(between[:, 0], between[:, 1])
    assert 0 <= float(between.min()) < 0.05
    assert 0.95 < float(between.max()) <= 1


def begun(**settings):
    torch.manual_seed(0)
    method = GAN(2, MLPGenerator(16, 2), MLPEnergy(16, 2), **settings)
    model = method.model((2,), None)
    batches = Batches(Blob(256).load("train"), None, 32, generator(1))
    return model, method.learner(model), batches


def test_the_critic_sees_a_batch_for_each_of_its_updates():
    _, learner, batches = begun(critic_steps=3)
    learner.step(batches, generator(2))
    assert batches.cursor == 3 * 32
    assert int(learner.critic_updates) == 3


def test_the_generator_does_not_move_the_critic_nor_the_critic_the_generator():
    model, learner, batches = begun()
    decoder = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    learner._update_critic(batches.draw().data, generator(3))
    assert all(torch.equal(value, decoder[name]) for name, value in model.decoder.state_dict().items())

    class Deaf(NonSaturating):
        def critic(self, real: Tensor, fake: Tensor) -> Tensor:
            return 0 * real.sum()

    model, learner, batches = begun(loss=Deaf(), critic_optimizer=Adam(1.0))
    energy = {name: value.clone() for name, value in model.energy.state_dict().items()}
    learner.step(batches, generator(3))
    assert all(torch.equal(value, energy[name]) for name, value in model.energy.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_lazy_penalty_comes_rarely_and_as_much_stronger():
    _, learner, batches = begun(penalty=DataPenalty(1.0, every=3), critic_optimizer=Adam(1e-30))
    _, full, same = begun(penalty=DataPenalty(1.0), critic_optimizer=Adam(1e-30))
    lazy = [float(learner.step(batches, generator(4))["critic_penalty"]) for _ in range(6)]
    always = [float(full.step(same, generator(4))["critic_penalty"]) for _ in range(6)]
    assert [value > 0 for value in lazy] == [True, False, False, True, False, False]
    assert lazy[0] == pytest.approx(3 * always[0])
    assert lazy[3] == pytest.approx(3 * always[3])


@pytest.mark.parametrize(
    "loss", [NonSaturating(), Hinge(), Wasserstein()], ids=lambda loss: type(loss).__name__
)
def test_it_learns_where_the_data_are(loss):
    optimizer = Adam(1e-3, 0.5, 0.9)
    model, learner, batches = begun(
        loss=loss,
        penalty=DataPenalty(1.0),
        critic_steps=2,
        generator_optimizer=optimizer,
        critic_optimizer=optimizer,
    )
    rng = generator(5)
    z = model.prior.draw(500, generator(6))
    centre = torch.tensor([0.5, 0.5])
    before = (model.decoder(z).mean(0) - centre).norm()
    for _ in range(300):
        learner.step(batches, rng)
    assert (model.decoder(z).mean(0) - centre).norm() < 0.3 * before


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: GAN(0, MLPGenerator(), MLPEnergy()), "GAN.latent"),
        (lambda: GAN(2, MLPGenerator(), MLPEnergy(), critic_steps=0), "GAN.critic_steps"),
        (lambda: BetweenPenalty(0.0), "BetweenPenalty.weight"),
        (lambda: DataPenalty(every=0), "DataPenalty.every"),
    ],
)
def test_ranges(wrong, named):
    with pytest.raises(FieldError, match=named):
        wrong()
