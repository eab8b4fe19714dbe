r"""Generative adversarial networks.

A generator :math:`g` and a critic learn against each other. What is kept is the whole pair, as the model
:math:`p(z) \, e^{-E(g(z))}` with :math:`E = -D` for the critic's output :math:`D`: sampled from the prior it
is the GAN itself, sampled by chains it is DDLS without calibration.

What the critic's output means depends on the loss it learnt from:

======================  =========================================================================
loss                    the output of an optimal critic
======================  =========================================================================
:class:`NonSaturating`  the logit :math:`\log p(x) / p_g(x)`: the energy makes the model the data's law
:class:`Hinge`          -1 to 1, a sign of which law is denser: monotone in the ratio at best
:class:`Wasserstein`    a 1-Lipschitz function, up to a constant: no ratio at all
======================  =========================================================================

DDLS asks for the logit; for the two others a calibration (``ebmzoo_ddls``) turns the output into one as far
as that can be done.

References:
    | Generative Adversarial Nets (Goodfellow et al., 2014), https://arxiv.org/abs/1406.2661
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator as RandomGenerator
from torch import Tensor, nn
from torch.nn.functional import softplus

from ebmzoo.energies import Energy
from ebmzoo.fields import positive
from ebmzoo.generators import Generator
from ebmzoo.losses import gradient_penalty
from ebmzoo.models import Model, StandardNormal, frozen
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend


@runtime_checkable
class AdversarialLoss(Protocol):
    """What critic and generator minimise, from the critic's outputs, of shape (N,)."""

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the critic's loss, of shape ()."""
        ...

    def generator(self, fake: Tensor) -> Tensor:
        """Returns the generator's loss, of shape ()."""
        ...


@dataclass(frozen=True)
class NonSaturating:
    r"""The cross-entropy of real against fake; the generator's is non-saturating.

    .. math:: \mathbb{E}_p \log(1 + e^{-D}) + \mathbb{E}_g \log(1 + e^{D}), \qquad
        \mathbb{E}_g \log(1 + e^{-D})

    References:
        | Generative Adversarial Nets (Goodfellow et al., 2014), Section 3
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the critic's loss, of shape ()."""
        return softplus(-real).mean() + softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Returns the generator's loss, of shape ()."""
        return softplus(-fake).mean()


@dataclass(frozen=True)
class Hinge:
    r"""The hinge loss.

    .. math:: \mathbb{E}_p \max(0, 1 - D) + \mathbb{E}_g \max(0, 1 + D), \qquad -\mathbb{E}_g D

    References:
        | Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), Equations 16-17
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the critic's loss, of shape ()."""
        return (1 - real).relu().mean() + (1 + fake).relu().mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Returns the generator's loss, of shape ()."""
        return -fake.mean()


@dataclass(frozen=True)
class Wasserstein:
    r"""The dual of the Wasserstein distance; the critic has to be held Lipschitz by a penalty.

    .. math:: \mathbb{E}_g D - \mathbb{E}_p D, \qquad -\mathbb{E}_g D

    References:
        | Wasserstein GAN (Arjovsky et al., 2017), Section 3
    """

    def critic(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the critic's loss, of shape ()."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Returns the generator's loss, of shape ()."""
        return -fake.mean()


@runtime_checkable
class Penalty(Protocol):
    """What is added to the critic's loss.

    ``every`` says at which of the critic's updates: the penalty is then that many times as large, so that a
    lazy one has the weight of a full one.
    """

    every: int

    def value(self, energy: nn.Module, real: Tensor, fake: Tensor, rng: RandomGenerator) -> Tensor:
        """Returns the penalty, of shape (), for data and samples of shape (B, *)."""
        ...


@dataclass(frozen=True)
class BetweenPenalty:
    r"""Holds the critic's slope near one between data and samples.

    .. math:: \lambda \, \mathbb{E} \left( \| \nabla D(x) \| - 1 \right)^2

    at points drawn uniformly on lines from a datum to a sample.

    References:
        | Improved Training of Wasserstein GANs (Gulrajani et al., 2017), Section 4

    Arguments:
        weight: The weight :math:`\lambda`.
        every: At which of the critic's updates the penalty is added.
    """

    weight: float = 10.0
    every: int = 1

    def __post_init__(self) -> None:
        positive(self, "weight", "every")

    def value(self, energy: nn.Module, real: Tensor, fake: Tensor, rng: RandomGenerator) -> Tensor:
        """Returns the penalty, of shape ()."""
        size = (len(real), *(1,) * (real.ndim - 1))
        place = torch.rand(size, generator=rng, device=real.device, dtype=real.dtype)
        return self.weight * gradient_penalty(energy, fake + place * (real - fake), 1.0)


@dataclass(frozen=True)
class DataPenalty:
    r"""Holds the critic's slope near zero at data, as :math:`R_1` does.

    .. math:: \frac{\gamma}{2} \, \mathbb{E}_p \| \nabla D(x) \|^2

    References:
        | Which Training Methods for GANs do actually Converge? (Mescheder et al., 2018), Section 4.1

    Arguments:
        weight: The weight :math:`\gamma`.
        every: At which of the critic's updates the penalty is added.
    """

    weight: float = 10.0
    every: int = 1

    def __post_init__(self) -> None:
        positive(self, "weight", "every")

    def value(self, energy: nn.Module, real: Tensor, fake: Tensor, rng: RandomGenerator) -> Tensor:
        """Returns the penalty, of shape ()."""
        del fake, rng
        return 0.5 * self.weight * gradient_penalty(energy, real, 0.0)


@dataclass(frozen=True)
class GAN(Method):
    """Trains a generator and a critic against each other.

    An update is one of the generator, after ``critic_steps`` of the critic, each on a minibatch of its own.

    Arguments:
        latent: The dimension of the latent variable, which is standard normal.
        generator: The architecture of the generator.
        critic: The architecture of the critic, as an energy: its output is minus the network's.
        loss: What they minimise.
        penalty: What is added to the critic's loss, or None.
        critic_steps: How many updates the critic makes for one of the generator.
        generator_optimizer: The optimizer of the generator.
        critic_optimizer: The optimizer of the critic.
    """

    latent: int
    generator: Generator
    critic: Energy
    loss: AdversarialLoss = NonSaturating()
    penalty: Penalty | None = None
    critic_steps: int = 1
    generator_optimizer: Optimizer = Adam(1e-4, 0.5, 0.9)
    critic_optimizer: Optimizer = Adam(1e-4, 0.5, 0.9)

    def __post_init__(self) -> None:
        positive(self, "latent", "critic_steps")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the generator under a standard normal prior, with the critic as its energy."""
        del base
        decoder, energy = self.generator.build(self.latent, shape), self.critic.energy(shape)
        return Model(StandardNormal((self.latent,)), decoder, energy)

    def learner(self, model: Model) -> Learner:
        """Returns the learner of both networks."""
        return GANLearner(model, self)


class GANLearner(Learner):
    """Lets the critic tell data from samples, and the generator deceive it."""

    def __init__(self, model: Model, method: GAN):
        self.generator_optimizer = method.generator_optimizer.over(model.decoder.parameters())
        self.critic_optimizer = method.critic_optimizer.over(model.energy.parameters())
        self.critic_updates = torch.zeros((), dtype=torch.long)
        super().__init__(
            model,
            {
                "generator_optimizer": self.generator_optimizer,
                "critic_optimizer": self.critic_optimizer,
                "critic_updates": self.critic_updates,
            },
        )
        self.method = method

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update of the generator, after those of the critic."""
        for _ in range(self.method.critic_steps):
            report = self._update_critic(batches.draw().data, rng)
        with frozen(self.model.energy):
            samples = self.model.decoder(self.model.prior.draw(batches.batch_size, rng))
            loss = self.method.loss.generator(-self.model.energy(samples))
            norm = descend(self.generator_optimizer, loss)
        return report | {
            "generator_loss": loss.detach(),
            "generator_gradient_norm": norm,
            "samples": samples.detach(),
        }

    def _update_critic(self, real: Tensor, rng: RandomGenerator) -> dict[str, Tensor]:
        energy, penalty = self.model.energy, self.method.penalty
        with torch.no_grad():
            fake = self.model.decoder(self.model.prior.draw(len(real), rng))
        data_energy, sample_energy = energy(real), energy(fake)
        loss = self.method.loss.critic(-data_energy, -sample_energy)
        held = torch.zeros_like(loss)
        if penalty is not None and int(self.critic_updates) % penalty.every == 0:
            held = penalty.every * penalty.value(energy, real, fake, rng)
        norm = descend(self.critic_optimizer, loss + held)
        self.critic_updates += 1
        data_energy, sample_energy = data_energy.detach(), sample_energy.detach()
        return {
            "critic_loss": loss.detach(),
            "critic_penalty": held.detach(),
            "gradient_norm": norm,
            "energy_data": data_energy.mean(),
            "energy_samples": sample_energy.mean(),
            "energy_gap": sample_energy.mean() - data_energy.mean(),
            "energies/data": data_energy,
            "energies/samples": sample_energy,
        }
