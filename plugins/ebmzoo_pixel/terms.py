r"""What is added to the contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.fields import positive
from ebmzoo.models import Model
from ebmzoo.samplers.kernel import noise_like
from ebmzoo.training import Batch


@runtime_checkable
class Term(Protocol):
    """A term of the loss of an energy."""

    def value(self, model: Model, batch: Batch, samples: Tensor, rng: Generator) -> Tensor:
        """Returns the term, of shape (), with its graph.

        Arguments:
            model: The model.
            batch: The data of the update, as they are.
            samples: Where the chains of the update ended, of shape (N, *).
            rng: The generator of all that is random.
        """
        ...


@dataclass(frozen=True)
class Classification:
    r"""The cross-entropy of the classes, so that one network is a classifier and an energy.

    .. math:: - \lambda \, \mathbb{E} \log \frac{e^{f_y(x)}}{\sum_k e^{f_k(x)}}, \qquad
        E(x) = - \log \sum_k e^{f_k(x)}

    The sum with the contrastive loss is the negative log-likelihood of :math:`(x, y)`, up to its constant.

    References:
        | Your classifier is secretly an energy based model and you should treat it like one (Grathwohl et
          al., 2020), Section 3
        | https://arxiv.org/abs/1912.03263

    Arguments:
        weight: The weight :math:`\lambda`.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        positive(self, "weight")

    def value(self, model: Model, batch: Batch, samples: Tensor, rng: Generator) -> Tensor:
        """Returns the cross-entropy.

        Raises:
            ValueError: If the energy is no classifier, or the data have no classes.
        """
        if not isinstance(model.energy, ClassifierEnergy) or batch.labels is None:
            raise ValueError(
                "Classification needs an energy with classes, such as JEMEnergy, and data with classes"
            )
        return self.weight * nn.functional.cross_entropy(model.energy.logits(batch.data), batch.labels)


@dataclass(frozen=True)
class LastStep:
    r"""The part of the gradient that contrastive divergence leaves out: chains should end at low energies.

    .. math:: \lambda \, \mathbb{E} \, E_{\bar\theta}(x'), \qquad
        x' = x - a \nabla E_\theta(x) + s \, \xi

    One more step is taken from where each chain ended, and only through it the parameters :math:`\theta` are
    moved; in :math:`E_{\bar\theta}` they are held still. The published loss has the entropy of the samples
    besides, estimated from nearest neighbours; it is left out here.

    References:
        | Improved Contrastive Divergence Training of Energy Based Models (Du et al., 2021), Section 3
        | https://arxiv.org/abs/2012.01316

    Arguments:
        weight: The weight :math:`\lambda`.
        gradient: The coefficient :math:`a` of the gradient.
        noise: The standard deviation :math:`s` of the noise.
    """

    weight: float = 1.0
    gradient: float = 1.0
    noise: float = 0.005

    def __post_init__(self) -> None:
        positive(self, "weight", "gradient", "noise")

    def value(self, model: Model, batch: Batch, samples: Tensor, rng: Generator) -> Tensor:
        """Returns the mean energy after one more step."""
        x = samples.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=True)
        moved = x.detach() - self.gradient * slope + self.noise * noise_like(samples, rng)
        still = {name: parameter.detach() for name, parameter in model.energy.named_parameters()}
        return self.weight * functional_call(model.energy, still, (moved,)).mean()
