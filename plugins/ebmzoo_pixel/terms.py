r"""What is added to the contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from ebmzoo.classifiers import ClassifierEnergy
from ebmzoo.fields import added, not_negative, positive
from ebmzoo.models import Model, as_points
from ebmzoo.samplers.kernel import noise_like
from ebmzoo.training import Batch
from ebmzoo_pixel.conditional import Given


class Moved(NamedTuple):
    """The chains that an update moved.

    Arguments:
        ends: Where they ended, of shape (N, *).
        places: Which of the model's kept chains they are, of shape (N,), or None.
    """

    ends: Tensor
    places: Tensor | None = None


@runtime_checkable
class Term(Protocol):
    """A term of the loss of an energy."""

    def value(self, model: Model, batch: Batch, moved: Moved, rng: Generator) -> Tensor:
        """Returns the term, of shape (), with its graph.

        Arguments:
            model: The model.
            batch: The data of the update, as they are.
            moved: The chains of the update.
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

    def value(self, model: Model, batch: Batch, moved: Moved, rng: Generator) -> Tensor:
        """Returns the cross-entropy.

        Raises:
            ValueError: If the energy is no classifier, or the data have no classes.
        """
        energy = model.energy.energy if isinstance(model.energy, Given) else model.energy
        if not isinstance(energy, ClassifierEnergy) or batch.labels is None:
            raise ValueError(
                "Classification needs an energy with classes, such as JEMEnergy, and data with classes"
            )
        return self.weight * nn.functional.cross_entropy(energy.logits(batch.data), batch.labels)


@dataclass(frozen=True)
class LastStep:
    r"""The part of the gradient that contrastive divergence leaves out: how the samples' law moves.

    Chains should end at low energies, and far from one another,

    .. math:: \lambda \, \mathbb{E} \, E_{\bar\theta}(x') - \mu \, \mathbb{E} \log \min_j \| x' - y_j \|,
        \qquad x' = x - a \nabla E_\theta(x) + s \, \xi

    One more step is taken from where each chain ended, and only through it the parameters :math:`\theta` are
    moved; in :math:`E_{\bar\theta}` they are held still. The second term is the entropy of the samples up to
    a constant, estimated from nearest neighbours among other kept chains :math:`y`; in :math:`d` dimensions
    its weight would be :math:`\lambda d`, and the code has 0.3.

    References:
        | Improved Contrastive Divergence Training of Energy Based Models (Du et al., 2021), Section 3
        | https://arxiv.org/abs/2012.01316
        | https://github.com/yilundu/improved_contrastive_divergence, ``train.py``: the entropy's weight, and
          the number of neighbours
        | A statistical estimate for the entropy of a random vector (Kozachenko & Leonenko, 1987)

    Arguments:
        weight: The weight :math:`\lambda`.
        gradient: The coefficient :math:`a` of the gradient.
        noise: The standard deviation :math:`s` of the noise.
        entropy: The weight :math:`\mu` of the entropy; with zero it is left out.
        neighbours: Among how many kept chains the nearest is sought.
    """

    weight: float = 1.0
    gradient: float = 1.0
    noise: float = 0.005
    entropy: float = added(0.0)
    neighbours: int = added(100)

    def __post_init__(self) -> None:
        positive(self, "weight", "gradient", "noise", "neighbours")
        not_negative(self, "entropy")

    def value(self, model: Model, batch: Batch, moved: Moved, rng: Generator) -> Tensor:
        """Returns the mean energy after one more step, less the weighted entropy.

        Raises:
            ValueError: If there is an entropy to estimate and the model keeps no chains, or too few.
        """
        x = moved.ends.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model.energy(x).sum(), x, create_graph=True)
        last = x.detach() - self.gradient * slope + self.noise * noise_like(x, rng)
        still = {name: parameter.detach() for name, parameter in model.energy.named_parameters()}
        value = self.weight * functional_call(model.energy, still, (last,)).mean()
        if self.entropy:
            value = value - self.entropy * log_distances(last, self._others(model, moved.places, rng)).mean()
        return value

    def _others(self, model: Model, places: Tensor | None, rng: Generator) -> Tensor:
        """Returns kept chains in other places, of shape (neighbours, *), as points.

        A sample's own kept copy is no neighbour: it lies a last step away, whatever the law.
        """
        own = 0 if places is None else len(places)
        others = 0 if model.chains is None else len(model.chains) - own
        if model.chains is None or others < self.neighbours:
            raise ValueError(
                f"LastStep seeks neighbours among {self.neighbours} kept chains, and besides the {own} of an "
                f"update {others} are kept; give the method a Replay memory of {own + self.neighbours} or "
                "more, or let LastStep.entropy be 0"
            )
        order = torch.rand(len(model.chains), generator=rng, device=model.chains.device)
        if places is not None:
            order[places] = 1.0  # above all that is drawn, hence last
        return as_points(model.chains[order.argsort()[: self.neighbours]], model.prior, rng)


def log_distances(points: Tensor, others: Tensor) -> Tensor:
    """Returns the logarithms of the distances from points (N, *) to the nearest of others (M, *), (N,)."""
    return torch.cdist(points.flatten(1), others.flatten(1)).amin(1).log()
