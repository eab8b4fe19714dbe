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

from ebmzoo.flows import Flow
from ebmzoo.generators import Generator
from ebmzoo.models import Model, NoEnergy, StandardNormal
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend


@dataclass(frozen=True)
class FlowLikelihood(Method):
    """Trains a flow by maximum likelihood.

    Arguments:
        flow: The architecture of the flow.
        optimizer: The optimizer.
    """

    flow: Generator
    optimizer: Optimizer = Adam(1e-4)

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the flow under a standard normal prior, without an energy.

        Raises:
            ValueError: If the architecture is not that of a flow.
        """
        del base
        flow = self.flow.build(math.prod(shape), shape)
        if not isinstance(flow, Flow):
            raise ValueError(f"FlowLikelihood needs a flow, such as RealNVP, not {type(self.flow).__name__}")
        return Model(StandardNormal((math.prod(shape),)), flow, NoEnergy())

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the flow."""
        return FlowLearner(model, self)


class FlowLearner(Learner):
    """Raises the likelihood of data."""

    def __init__(self, model: Model, method: FlowLikelihood):
        self.optimizer = method.optimizer.over(model.decoder.parameters())
        super().__init__(model, {"optimizer": self.optimizer})

    def step(self, batches: Batches, rng: RandomGenerator) -> dict[str, Tensor]:
        """Makes one update."""
        del rng
        flow = self.model.decoder
        assert isinstance(flow, Flow)
        loss = -flow.log_prob(batches.draw().data).mean()
        norm = descend(self.optimizer, loss)
        return {"negative_log_likelihood": loss.detach(), "gradient_norm": norm}
