"""A classifier, whose features stand in for Inception's where Inception makes no sense."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from ebmzoo.blocks import image_shape
from ebmzoo.fields import positive
from ebmzoo.models import Box, Model
from ebmzoo.training import Adam, Batches, Learner, Method, Optimizer, descend


class ClassifierEnergy(nn.Module):
    r"""The energy that a classifier has by the way: :math:`E(x) = -\log \sum_y e^{f_y(x)}`.

    References:
        | Your classifier is secretly an energy based model and you should treat it like one (Grathwohl et
          al., 2020), Section 3
        | https://arxiv.org/abs/1912.03263

    Arguments:
        body: The network from data (B, *) to features (B, D).
        width: The number D of features.
        classes: The number of classes.
    """

    def __init__(self, body: nn.Module, width: int, classes: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Returns features of shape (B, D)."""
        return self.body(x)

    def logits(self, x: Tensor) -> Tensor:
        """Returns one logit a class, of shape (B, K)."""
        return self.head(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """Returns energies of shape (B,)."""
        return -torch.logsumexp(self.logits(x), 1)


@dataclass(frozen=True)
class Classifier(Method):
    """Trains a small convolutional classifier by cross-entropy.

    Two 3×3 convolutions, each followed by a rectifier and, after the first, by averaging of 2×2 pixels; then
    a linear layer to the features.

    Arguments:
        classes: The number of classes.
        channels: The number of channels of the first convolution; the second has twice as many.
        features: The number of features.
        optimizer: The optimizer.
    """

    classes: int = 10
    channels: int = 32
    features: int = 32
    optimizer: Optimizer = Adam()

    def __post_init__(self) -> None:
        positive(self, "classes", "channels", "features")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the classifier as the energy of a model of images."""
        del base
        colours, height, width = image_shape(self, shape)
        body = nn.Sequential(
            nn.Conv2d(colours, self.channels, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(self.channels, 2 * self.channels, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * self.channels * (height // 2) * (width // 2), self.features),
            nn.ReLU(),
        )
        return Model(Box(shape), nn.Identity(), ClassifierEnergy(body, self.features, self.classes))

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the classifier."""
        return ClassifierLearner(model, self.optimizer.over(model.energy.parameters()))


class ClassifierLearner(Learner):
    """Lowers the cross-entropy."""

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer):
        super().__init__(model, {"optimizer": optimizer})
        self.optimizer = optimizer

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update.

        Raises:
            ValueError: If the data have no classes.
        """
        del rng
        batch = batches.draw()
        if batch.labels is None:
            raise ValueError("a classifier needs data with classes, and these have none")
        energy = self.model.energy
        assert isinstance(energy, ClassifierEnergy)
        logits = energy.logits(batch.data)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        norm = descend(self.optimizer, loss)
        accuracy = (logits.detach().argmax(1) == batch.labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy, "gradient_norm": norm}
