r"""The variational autoencoder.

.. math::
    \log p(x) \ge \mathbb{E}_{q(z \mid x)} \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \| \mathcal{N}(0, I))

with :math:`q(z \mid x) = \mathcal{N}(\mu(x), \mathrm{diag}\, \sigma^2(x))`. Samples of the trained model are
the means of :math:`p(x \mid z)`, as papers show them.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014)
    | https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator as RandomGenerator
from torch import Tensor, nn

from ebmzoo.fields import positive
from ebmzoo.generators import Generator
from ebmzoo.models import Model, NoEnergy, Posterior, StandardNormal
from ebmzoo.samplers.kernel import noise_like
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend
from ebmzoo_bases.encoders import Encoder


@runtime_checkable
class Likelihood(Protocol):
    """The distribution of data given their decoded mean."""

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        r"""Returns :math:`\log p(x \mid z)`, of shape (B,), for data and means of shape (B, *)."""
        ...


@dataclass(frozen=True)
class Gaussian:
    r"""The likelihood :math:`\mathcal{N}(x \mid g(z), \sigma^2 I)`.

    A mean squared error with a weight :math:`w` on the KL term is this likelihood with
    :math:`\sigma^2 = w / 2`, up to constants.

    Arguments:
        sigma: The standard deviation :math:`\sigma`.
    """

    sigma: float

    def __post_init__(self) -> None:
        positive(self, "sigma")

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Returns the log-densities, of shape (B,)."""
        distance = (x - mean).flatten(1)
        constant = distance.shape[1] * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))
        return -0.5 * distance.square().sum(1) / self.sigma**2 - constant


@dataclass(frozen=True)
class Bernoulli:
    r"""The likelihood of pixels in [-1, 1] as probabilities :math:`(x + 1) / 2`.

    As usual, gray values are put in although the distribution is one over black and white; then it is no
    density, but a loss.
    """

    def log_prob(self, x: Tensor, mean: Tensor) -> Tensor:
        """Returns the log-probabilities, of shape (B,)."""
        pixels, rates = ((value.flatten(1) + 1) / 2 for value in (x, mean))
        return -nn.functional.binary_cross_entropy(rates, pixels, reduction="none").sum(1)


@dataclass(frozen=True)
class VAE(Method):
    """Trains a variational autoencoder.

    Arguments:
        latent: The dimension of the latent variable.
        generator: The architecture of the decoder.
        encoder: The architecture of the encoder.
        likelihood: The distribution of data given their decoded mean.
        optimizer: The optimizer of both networks.
    """

    latent: int
    generator: Generator
    encoder: Encoder
    likelihood: Likelihood
    optimizer: Optimizer = Adam()

    def __post_init__(self) -> None:
        positive(self, "latent")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds decoder and encoder under a standard normal prior, without an energy."""
        del base
        decoder = self.generator.build(self.latent, shape)
        posterior = NormalPosterior(self.encoder.encoder(shape, 2 * self.latent))
        return Model(StandardNormal((self.latent,)), decoder, NoEnergy(), posterior=posterior)

    def learner(self, model: Model) -> Learner:
        """Returns the learner."""
        return VAELearner(model, self.likelihood, self.optimizer.over(model.parameters()))


class NormalPosterior(Posterior):
    r"""The posterior :math:`\mathcal{N}(\mu(x), \mathrm{diag}\, \sigma^2(x))`.

    Arguments:
        encoder: The network from data (B, *) to :math:`\mu` and :math:`\log \sigma`, (B, 2 D).
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`\mu` and :math:`\log \sigma`, both of shape (B, D)."""
        mu, log_sigma = self.encoder(x).chunk(2, 1)
        return mu, log_sigma

    def draw(self, x: Tensor, rng: RandomGenerator) -> Tensor:
        """Returns one draw for each datum, of shape (B, D)."""
        mu, log_sigma = self(x)
        return drawn(mu, log_sigma, rng)


def drawn(mu: Tensor, log_sigma: Tensor, rng: RandomGenerator) -> Tensor:
    r"""Returns a draw of :math:`\mathcal{N}(\mu, \sigma^2)`, differentiable in both, of the shape of both."""
    return mu + log_sigma.exp() * noise_like(mu, rng)


class VAELearner(Learner):
    """Raises the evidence lower bound."""

    def __init__(self, model: Model, likelihood: Likelihood, optimizer: torch.optim.Optimizer):
        super().__init__(model, {"optimizer": optimizer})
        self.likelihood, self.optimizer = likelihood, optimizer

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update."""
        x = batches.draw().data
        assert self.model.posterior is not None
        mu, log_sigma = self.model.posterior(x)
        decoded = self.model.decoder(drawn(mu, log_sigma, rng))
        reconstruction = self.likelihood.log_prob(x, decoded).mean()
        divergence = kl_to_standard_normal(mu, log_sigma).mean()
        loss = divergence - reconstruction
        norm = descend(self.optimizer, loss)
        return {
            "loss": loss.detach(),
            "reconstruction": reconstruction.detach(),
            "kl": divergence.detach(),
            "gradient_norm": norm,
            "decoded": decoded.detach(),
        }


def kl_to_standard_normal(mu: Tensor, log_sigma: Tensor) -> Tensor:
    r"""Returns :math:`\mathrm{KL}(\mathcal{N}(\mu, \sigma^2) \| \mathcal{N}(0, I))` in nats, of shape (B,).

    .. math:: \tfrac{1}{2} \sum_i \left( \mu_i^2 + \sigma_i^2 - 1 \right) - \log \sigma_i

    Arguments:
        mu: The means, of shape (B, D).
        log_sigma: The logarithms of the standard deviations, of shape (B, D).
    """
    return (0.5 * (mu.square() + (2 * log_sigma).exp() - 1) - log_sigma).sum(1)
