r"""Flows, trained by maximum likelihood.

.. math:: \max_\theta \; \mathbb{E}_p \log b_\theta(x)

with the density :math:`b_\theta` of :class:`~ebmzoo.flows.Flow`.

References:
    | Density estimation using Real NVP (Dinh, Sohl-Dickstein & Bengio, 2017)
    | https://arxiv.org/abs/1605.08803
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Generator as RandomGenerator
from torch import Tensor

from ebmzoo.fields import added, not_negative
from ebmzoo.flows import Flow
from ebmzoo.generators import Generator
from ebmzoo.models import Inverse, Model, NoEnergy, StandardNormal, dequantised
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend


@dataclass(frozen=True)
class FlowLikelihood(Method):
    """Trains a flow by maximum likelihood.

    Arguments:
        flow: The architecture of the flow.
        optimizer: The optimizer.
        dequantisation: The width :math:`w` of noise, uniform on [-w/2, w/2), that is added to data: the
            distance between two values where data are discrete, such as 2 / 255 of images of bytes in
            [-1, 1].
    """

    flow: Generator
    optimizer: Optimizer = Adam(1e-4)
    dequantisation: float = added(0.0)

    def __post_init__(self) -> None:
        not_negative(self, "dequantisation")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the flow under a standard normal prior, without an energy.

        Raises:
            ValueError: If the architecture is not that of a flow.
        """
        del base
        flow = built_flow(self, self.flow, shape)
        return Model(StandardNormal((math.prod(shape),)), flow, NoEnergy(), posterior=Inverse(flow))

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the flow."""
        return FlowLearner(model, self)


def built_flow(owner: object, architecture: Generator, shape: tuple[int, ...]) -> Flow:
    """Returns a flow with fresh weights, or raises ValueError in the name of ``owner`` if it is none."""
    flow = architecture.build(math.prod(shape), shape)
    if not isinstance(flow, Flow):
        name = type(architecture).__name__
        raise ValueError(f"{type(owner).__name__} needs a flow, such as RealNVP, not {name}")
    return flow


class FlowLearner(Learner):
    """Raises the likelihood of data."""

    def __init__(self, model: Model, method: FlowLikelihood):
        self.optimizer = method.optimizer.over(model.decoder.parameters())
        super().__init__(model, {"optimizer": self.optimizer})
        self.dequantisation = method.dequantisation

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update."""
        flow, x = self.model.decoder, batches.draw().data
        assert isinstance(flow, Flow)
        if self.dequantisation:
            x = dequantised(x, self.dequantisation, rng)
        loss = -flow.log_prob(x).mean()
        norm = descend(self.optimizer, loss)
        return {"negative_log_likelihood": loss.detach(), "gradient_norm": norm}
