"""Classifiers, whose features stand in for Inception's where Inception makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from ebmzoo.blocks import image_shape
from ebmzoo.fields import FieldError, positive
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

    @property
    def classes(self) -> int:
        """The number K of classes."""
        return self.head.out_features

    def given(self, x: Tensor, labels: Tensor) -> Tensor:
        """Returns the energies (B,) of data (B, *) as members of the classes that labels (B,) name."""
        return -self.logits(x).gather(1, labels[:, None])[:, 0]

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


@runtime_checkable
class Augmentation(Protocol):
    """A random change of images that leaves their classes as they are."""

    def apply(self, images: Tensor, rng: Generator) -> Tensor:
        """Returns the images changed, of the same shape (B, C, H, W)."""
        ...


@dataclass(frozen=True)
class RandomShift(Augmentation):
    """Moves each image by up to so many pixels in both directions; its edge fills what comes free.

    Arguments:
        pixels: The largest shift.
    """

    pixels: int = 2

    def __post_init__(self) -> None:
        positive(self, "pixels")

    def apply(self, images: Tensor, rng: Generator) -> Tensor:
        """Returns the images moved."""
        count, _, height, width = images.shape
        padded = nn.functional.pad(images, [self.pixels] * 4, mode="replicate")
        corner = torch.randint(2 * self.pixels + 1, (2, count, 1), generator=rng, device=images.device)
        rows = corner[0] + torch.arange(height, device=images.device)
        columns = corner[1] + torch.arange(width, device=images.device)
        index = torch.arange(count, device=images.device)
        moved = padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class RandomMirror(Augmentation):
    """Mirrors every second image, on average, left to right."""

    def apply(self, images: Tensor, rng: Generator) -> Tensor:
        """Returns the images, some of them mirrored."""
        mirrored = torch.rand(len(images), 1, 1, 1, generator=rng, device=images.device) < 0.5
        return torch.where(mirrored, images.flip(3), images)


@dataclass(frozen=True)
class ResNetClassifier(Method):
    """Trains a residual classifier with batch normalisation by cross-entropy.

    A 3×3 convolution, then stages of residual blocks, each stage but the first halving the resolution. The
    features are the means over pixels of the last stage, as many as it has channels.

    References:
        | Deep Residual Learning for Image Recognition (He et al., 2016), Section 4.2
        | https://arxiv.org/abs/1512.03385

    Arguments:
        classes: The number of classes.
        channels: The number of channels of each stage.
        blocks: The number of blocks in a stage.
        augmentations: Random changes of the images that are learnt from.
        optimizer: The optimizer.
    """

    classes: int = 10
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    augmentations: tuple[Augmentation, ...] = ()
    optimizer: Optimizer = Adam()

    def __post_init__(self) -> None:
        positive(self, "classes", "blocks")
        if not self.channels or min(self.channels) < 1:
            raise FieldError(self, "channels", "at least one number of channels")

    def model(self, shape: tuple[int, ...], base: Model | None) -> Model:
        """Builds the classifier as the energy of a model of images."""
        del base
        colours, _, _ = image_shape(self, shape)
        first = self.channels[0]
        layers: list[nn.Module] = [*_normalised(colours, first, 1), nn.ReLU()]
        inputs = first
        for stage, outputs in enumerate(self.channels):
            for index in range(self.blocks):
                layers.append(NormalisedBlock(inputs, outputs, 2 if stage and not index else 1))
                inputs = outputs
        body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Model(Box(shape), nn.Identity(), ClassifierEnergy(body, inputs, self.classes))

    def learner(self, model: Model) -> Learner:
        """Returns the learner of the classifier."""
        optimizer = self.optimizer.over(model.energy.parameters())
        return ClassifierLearner(model, optimizer, self.augmentations)


class NormalisedBlock(nn.Module):
    """A residual block of two 3×3 convolutions, each with batch normalisation.

    Arguments:
        inputs: The number of input channels.
        outputs: The number of output channels.
        stride: Two to halve the resolution, else one.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *_normalised(inputs, outputs, stride), nn.ReLU(), *_normalised(outputs, outputs, 1)
        )
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return (self.skip(x) + self.residual(x)).relu()


def _normalised(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


class ClassifierLearner(Learner):
    """Lowers the cross-entropy."""

    def __init__(
        self, model: Model, optimizer: torch.optim.Optimizer, augmentations: tuple[Augmentation, ...] = ()
    ):
        super().__init__(model, {"optimizer": optimizer})
        self.optimizer, self.augmentations = optimizer, augmentations

    def step(self, batches: Batches, rng: Generator) -> dict[str, Tensor]:
        """Makes one update.

        Raises:
            ValueError: If the data have no classes.
        """
        batch = batches.draw()
        if batch.labels is None:
            raise ValueError("a classifier needs data with classes, and these have none")
        energy, images = self.model.energy, batch.data
        assert isinstance(energy, ClassifierEnergy)
        for augmentation in self.augmentations:
            images = augmentation.apply(images, rng)
        logits = energy.logits(images)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        norm = descend(self.optimizer, loss)
        accuracy = (logits.detach().argmax(1) == batch.labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy, "gradient_norm": norm}
