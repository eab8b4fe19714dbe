"""Classifiers learn what they are shown, and augmentation leaves images what they are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from laws import generator
from torch import Tensor, nn
from toys import PICTURES, PLANE

from ebmzoo.classifiers import RandomMirror, RandomShift, ResNetClassifier
from ebmzoo.data.dataset import Dataset, check_split
from ebmzoo.fields import FieldError
from ebmzoo.metrics import Accuracy
from ebmzoo.models import Box, Model, evaluating
from ebmzoo.training import Adam, Batches


@dataclass(frozen=True)
class Bars(Dataset):
    """Pictures with a bright row or a bright column, and noise."""

    count: int = 200
    shape: tuple[int, ...] = (1, 8, 8)

    def load(self, split: str) -> Tensor:
        check_split(split)
        rng = generator({"train": 1, "valid": 2, "test": 3}[split])
        images = 0.1 * torch.randn(self.count, 1, 8, 8, generator=rng)
        for index, place in enumerate(torch.randint(8, (self.count,), generator=rng).tolist()):
            if index % 2:
                images[index, 0, place] += 0.9
            else:
                images[index, 0, :, place] += 0.9
        return images.clamp(-1, 1)

    def labels(self, split: str) -> Tensor:
        check_split(split)
        return torch.arange(self.count) % 2


def test_a_residual_classifier_learns_bars() -> None:
    torch.manual_seed(0)
    data, method = Bars(), ResNetClassifier(2, (8, 16), 1, (RandomShift(1),), Adam(1e-2))
    model = method.model(data.shape, None)
    learner = method.learner(model)
    batches = Batches(data.load("train"), data.labels("train"), 50, generator(4))
    for _ in range(40):
        learner.step(batches, generator(5))
    with evaluating(model):
        score = Accuracy().value(model, data, "test", lambda recipe: None, generator(0))
    assert score > 95


def test_accuracy_counts() -> None:
    """A classifier that says one class is right as often as there is that class."""

    class Always(nn.Module):
        def logits(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0]).expand(len(x), 2)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).sum(1)

    model = Model(Box((1, 8, 8)), nn.Identity(), Always())
    assert Accuracy().value(model, PICTURES, "test", lambda recipe: None, generator(0)) == 50
    with pytest.raises(ValueError, match="accuracy is that of a classifier"):
        Accuracy().value(
            Model(Box((2,)), nn.Identity(), nn.Flatten(0)), PLANE, "test", lambda recipe: None, generator(0)
        )


def test_a_shift_moves_images_whole() -> None:
    images = torch.zeros(300, 2, 7, 7)
    images[:, :, 3, 3] = 1
    moved = RandomShift(2).apply(images, generator(0))
    assert torch.equal(moved.flatten(2).sum(2), torch.ones(300, 2))
    places = {divmod(int(image[0].argmax()), 7) for image in moved}
    assert places == {(row, column) for row in range(1, 6) for column in range(1, 6)}
    assert torch.equal(moved[:, 0], moved[:, 1])


def test_a_shift_fills_up_with_the_edge() -> None:
    images = torch.arange(5.0).view(1, 1, 1, 5).expand(50, 1, 4, 5)
    for row in RandomShift(1).apply(images, generator(0))[:, 0, 0].tolist():
        assert row in ([0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 4])


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(400, 1, 3, 3, generator=generator(1))
    found = RandomMirror().apply(images, generator(0))
    same = (found == images).flatten(1).all(1)
    assert torch.equal(found[~same], images[~same].flip(3))
    assert 120 < int(same.sum()) < 280


def test_wrong_settings_are_named() -> None:
    with pytest.raises(FieldError, match=r"ResNetClassifier\.channels"):
        ResNetClassifier(channels=())
    with pytest.raises(FieldError, match=r"RandomShift\.pixels"):
        RandomShift(0)
