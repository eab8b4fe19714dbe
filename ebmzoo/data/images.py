"""Images, as tensors (N, channels, height, width) in [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ebmzoo.data.dataset import Dataset, check_split

_DIGITS_SPLITS = {"train": slice(0, 1097), "valid": slice(1097, 1297), "test": slice(1297, 1797)}


@dataclass(frozen=True)
class Digits(Dataset):
    """The 8 × 8 digits that come with scikit-learn: 1097 to learn from, 200 to choose by, 500 to report on.

    Grey levels 0 to 16 become -1 to 1. These 1797 images are the test set of the UCI archive's set, whose own
    training set scikit-learn leaves out; the split is ours. It is fixed, and any run of images from the
    beginning of a split holds every class in proportion, up to one or two images.

    References:
        | Optical Recognition of Handwritten Digits (Alpaydin & Kaynak, 1998), https://doi.org/10.24432/C50P49
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (1, 8, 8)

    def load(self, split: str) -> Tensor:
        """Returns the images of a split, of shape (N, 1, 8, 8).

        Every call returns a view of the same tensor, which belongs to all callers: change a copy of it.
        """
        check_split(split)
        return _digits()[0][_DIGITS_SPLITS[split]]

    def labels(self, split: str) -> Tensor:
        """Returns which digit each image shows, of shape (N,)."""
        check_split(split)
        return _digits()[1][_DIGITS_SPLITS[split]]


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits().images, load_digits().target
    order = stratified(labels, seed=0)
    pixels = torch.from_numpy(images[order]).float() / 8 - 1
    return pixels[:, None], torch.from_numpy(labels[order]).long()


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns a random order in which the classes are spread evenly.

    The r-th of the n data of a class comes at (r + 1/2) / n of the way.

    Arguments:
        labels: The class of each datum, of shape (N,).
        seed: What the order within each class is drawn from.

    Returns:
        The indices of the data in their new order, of shape (N,).
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(place, kind="stable")
