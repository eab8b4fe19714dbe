"""What a paper adds: a method, and the learner that updates what the method builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.fields import not_negative, positive, share
from ebmzoo.models import Model
from ebmzoo.training.batches import Batches

Part = nn.Module | torch.optim.Optimizer | Tensor
"""What a learner may change: restored from a checkpoint in place."""


class Learner(ABC):
    """A training run in progress. Mutable and short-lived; the only home of optimizers.

    Arguments:
        model: What is kept in the end.
        parts: Everything else that a resumed run needs, by name: networks that are not the model's,
            optimizers, running chains.
    """

    def __init__(self, model: Model, parts: dict[str, Part]):
        self.model = model
        self.parts = parts

    @abstractmethod
    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update, as the paper counts them.

        Arguments:
            batches: Minibatches of the training data; the update takes as many as it wants.
            rng: The generator of all noise.

        Returns:
            What there is to say of the update, detached: scalars of shape () are logged and watched for
            divergence, values of shape (B,) are logged as histograms, and points of shape (B, *) as pictures.
        """


class Method(ABC):
    """What a paper adds to the shared parts. A frozen dataclass, so that a recipe can name it."""

    @abstractmethod
    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the model with fresh weights, drawn from torch's global generator.

        Arguments:
            shape: The shape of one datum.
            base: The trained model that this one starts from, or None. It must not be changed: whoever goes
                on training it copies it first.
        """

    @abstractmethod
    def learner(self, model: Model) -> Learner:
        """Returns the learner that trains ``model``."""


@runtime_checkable
class Optimizer(Protocol):
    """Settings of an optimizer."""

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns an optimizer of the parameters."""
        ...


@dataclass(frozen=True)
class Adam:
    r"""Creates Adam.

    References:
        | Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015)

    Arguments:
        learning_rate: The learning rate.
        beta1: The decay of the mean of gradients.
        beta2: The decay of the mean of squared gradients.
        weight_decay: The coefficient of an L2 penalty on the parameters.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "learning_rate")
        share(self, "beta1", "beta2")
        not_negative(self, "weight_decay")

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns an optimizer of the parameters."""
        betas = (self.beta1, self.beta2)
        return torch.optim.Adam(parameters, self.learning_rate, betas, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class SGD:
    """Creates gradient descent.

    Arguments:
        learning_rate: The learning rate.
        momentum: The share of the last move that is made again.
    """

    learning_rate: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "learning_rate")
        share(self, "momentum")

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns an optimizer of the parameters."""
        return torch.optim.SGD(parameters, self.learning_rate, self.momentum)


@dataclass(frozen=True)
class Clipped:
    """Creates an optimizer that first shortens the gradient of all its parameters together.

    Arguments:
        optimizer: The optimizer.
        norm: The largest norm that the gradient keeps.
    """

    optimizer: Optimizer
    norm: float

    def __post_init__(self) -> None:
        positive(self, "norm")

    def over(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Returns an optimizer of the parameters."""
        optimizer = self.optimizer.over(parameters)
        optimizer.register_step_pre_hook(self._shorten)
        return optimizer

    def _shorten(self, optimizer: torch.optim.Optimizer, *unused: object) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, self.norm)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Makes one update that lowers ``loss``, and returns the norm of its gradient, of shape ()."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    differentiate(loss, parameters)
    norm = gradient_norm(parameters)
    optimizer.step()
    return norm


def differentiate(loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Gives parameters that learn their gradients of ``loss``, instead of those that they have.

    Nothing else has any. The points of a gradient penalty would get theirs, through all that the penalty
    looks at: a twentieth of an update where the energy knows a base.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.grad = None
    loss.backward(inputs=learning)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Returns the norm of the gradients that parameters have, of shape ()."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def scale_learning_rates(learner: Learner, factor: float) -> None:
    """Multiplies the learning rate of each of a learner's optimizers."""
    for part in learner.parts.values():
        if isinstance(part, torch.optim.Optimizer):
            for group in part.param_groups:
                group["lr"] *= factor


def state_of(part: Part) -> Any:
    """Returns what a checkpoint keeps of a part."""
    return part.detach() if isinstance(part, Tensor) else part.state_dict()


def restore(part: Part, state: Any) -> None:
    """Puts a part back into a state that :func:`state_of` returned."""
    if isinstance(part, Tensor):
        part.detach().copy_(state)
    else:
        part.load_state_dict(state)
