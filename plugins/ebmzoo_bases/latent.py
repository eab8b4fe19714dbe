r"""Bases whose decoder is two maps: from normal noise to the codes of an autoencoder, and on to data.

References:
    | Generative Latent Flow (Xiao, Yan & Amit, 2019), https://arxiv.org/abs/1905.10485
    | Diagnosing and Enhancing VAE Models (Dai & Wipf, 2019), https://arxiv.org/abs/1903.05789
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Generator as RandomGenerator
from torch import Tensor, nn

from ebmzoo.fields import positive
from ebmzoo.flows import Flow
from ebmzoo.generators import Generator
from ebmzoo.models import Chained, Inverse, Model, NoEnergy, Posterior, StandardNormal
from ebmzoo.training import Adam, Batches, Learner, Mapped, Method, Optimizer, descend
from ebmzoo_bases.encoders import Encoder
from ebmzoo_bases.flow import built_flow
from ebmzoo_bases.vae import Likelihood


@dataclass(frozen=True)
class GLF(Method):
    r"""Trains a generative latent flow: an autoencoder, and at the same time a flow of its codes.

    .. math:: \min \; -\mathbb{E}_p \left[ \log p(x \mid d(e(x))) + \log b(\mathrm{sg}[e(x)]) \right]

    The gradient stops (sg) between the two, so that codes are not moved to where they would be likely.

    Arguments:
        latent: The dimension of the codes.
        generator: The architecture of the decoder :math:`d`.
        encoder: The architecture of the encoder :math:`e`.
        flow: The architecture of the flow :math:`b` of codes.
        likelihood: The distribution of data given their decoded mean.
        optimizer: The optimizer of all three networks.
    """

    latent: int
    generator: Generator
    encoder: Encoder
    flow: Generator
    likelihood: Likelihood
    optimizer: Optimizer = Adam()

    def __post_init__(self) -> None:
        positive(self, "latent")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds flow, decoder and encoder under a standard normal prior, without an energy.

        Raises:
            ValueError: If the architecture of the flow is not that of a flow.
        """
        del base
        flow = built_flow(self, self.flow, (self.latent,))
        decoder = nn.Sequential(flow, self.generator.build(self.latent, shape))
        posterior = Chained(Point(self.encoder.encoder(shape, self.latent)), Inverse(flow))
        return Model(StandardNormal((self.latent,)), decoder, NoEnergy(), posterior=posterior)

    def learner(self, model: Model) -> Learner:
        """Returns the learner."""
        return GLFLearner(model, self)


class Point(Posterior):
    """The one point that an encoder gives for a datum.

    Arguments:
        encoder: The network from data (B, *) to points (B, D).
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def draw(self, x: Tensor, rng: RandomGenerator) -> Tensor:
        """Returns the points."""
        del rng
        code: Tensor = self.encoder(x)
        return code


class GLFLearner(Learner):
    """Lowers the reconstruction error, and raises the likelihood of codes."""

    def __init__(self, model: Model, method: GLF):
        self.optimizer = method.optimizer.over(model.parameters())
        super().__init__(model, {"optimizer": self.optimizer})
        self.likelihood = method.likelihood

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update."""
        posterior, decoder = self.model.posterior, self.model.decoder
        assert isinstance(posterior, Chained)
        assert isinstance(decoder, nn.Sequential)
        flow, generator = decoder
        assert isinstance(flow, Flow)
        x = batches.draw().data
        code = posterior.first.draw(x, rng)
        decoded = generator(code)
        reconstruction = self.likelihood.log_prob(x, decoded).mean()
        likelihood = flow.log_prob(code.detach()).mean()
        norm = descend(self.optimizer, -reconstruction - likelihood)
        return {
            "reconstruction": reconstruction.detach(),
            "code_likelihood": likelihood.detach(),
            "gradient_norm": norm,
            "decoded": decoded.detach(),
        }


@dataclass(frozen=True)
class SecondStage(Method):
    """Trains another method on the latent variables that a trained autoencoder infers from data.

    With :class:`~ebmzoo_bases.vae.VAE` it is the two-stage autoencoder, with
    :class:`~ebmzoo_bases.flow.FlowLikelihood` an autoencoder whose prior is a flow. The first stage does not
    change. Each time that a datum comes up, its latent variable is drawn anew.

    Arguments:
        method: The method.
    """

    method: Method

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the method's model of latent variables, with the base's decoder behind its own.

        Raises:
            ValueError: If there is no base, or base or method does not infer latent variables.
        """
        del shape
        if base is None:
            raise ValueError("SecondStage needs a trained autoencoder; bind Trained.base to one")
        inner = self.method.model(base.prior.shape, None)
        for who, posterior in (("Trained.base", base.posterior), ("SecondStage.method", inner.posterior)):
            if posterior is None:
                raise ValueError(
                    f"SecondStage needs models that infer latent variables, such as VAE, and {who} does not"
                )
        assert base.posterior is not None
        assert inner.posterior is not None
        decoder = nn.Sequential(inner.decoder, copy.deepcopy(base.decoder).requires_grad_(False).eval())
        first = copy.deepcopy(base.posterior).requires_grad_(False).eval()
        return Model(inner.prior, decoder, NoEnergy(), posterior=Chained(first, inner.posterior))

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the second stage."""
        posterior, decoder = model.posterior, model.decoder
        assert isinstance(posterior, Chained)
        assert isinstance(decoder, nn.Sequential)
        inner = Model(model.prior, decoder[0], model.energy, posterior=posterior.second)
        return SecondStageLearner(model, self.method.learner(inner), posterior.first)


class SecondStageLearner(Learner):
    """Lets another learner learn from inferred latent variables."""

    def __init__(self, model: Model, learner: Learner, posterior: Posterior):
        super().__init__(model, learner.parts)
        self.learner, self.posterior = learner, posterior

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update."""
        inferred = Mapped(batches, lambda x: self.posterior.draw(x, rng))
        report = self.learner.step(inferred, rng)
        return {name: value for name, value in report.items() if value.ndim < 2}
