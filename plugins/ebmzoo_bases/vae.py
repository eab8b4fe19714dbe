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
from ebmzoo.models import Model, NoEnergy, StandardNormal
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
        """Builds the decoder under a standard normal prior, without an energy."""
        del base
        return Model(StandardNormal((self.latent,)), self.generator.build(self.latent, shape), NoEnergy())

    def learner(self, model: Model) -> Learner:
        """Returns the learner, which has the encoder."""
        with torch.no_grad():
            shape = model.decoder(torch.zeros(1, self.latent, device=model.prior.anchor.device)).shape[1:]
        encoder = self.encoder.encoder(tuple(shape), 2 * self.latent).to(model.prior.anchor.device)
        optimizer = self.optimizer.over([*model.decoder.parameters(), *encoder.parameters()])
        return VAELearner(model, encoder, self.likelihood, optimizer)


class VAELearner(Learner):
    """Raises the evidence lower bound."""

    def __init__(
        self, model: Model, encoder: nn.Module, likelihood: Likelihood, optimizer: torch.optim.Optimizer
    ):
        super().__init__(model, {"encoder": encoder, "optimizer": optimizer})
        self.encoder, self.likelihood, self.optimizer = encoder, likelihood, optimizer

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update."""
        x = batches.draw().data
        mu, log_sigma = self.encoder(x).chunk(2, 1)
        z = mu + log_sigma.exp() * noise_like(mu, rng)
        decoded = self.model.decoder(z)
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
