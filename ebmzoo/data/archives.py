"""Image sets of public archives, as tensors (N, channels, height, width) in [-1, 1].

The files lie where torchvision's own classes put them and look for them, below the data folder.

The test split is the archive's. Its training set has no part to choose by, so its last images, in the
archive's order, are the valid split: 10 000 of MNIST, Fashion-MNIST and ImageNet, 5 000 of CIFAR and SVHN.
Within a split the images are in a random order, fixed once and for all, in which any run from the beginning
holds every class in proportion, up to one or two images. (In MNIST's own order the first half of the test set
is by other writers than the second.)
"""

from __future__ import annotations

import zipfile
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ebmzoo.data.dataset import DataError, check_split
from ebmzoo.data.files import ImageFiles
from ebmzoo.data.images import stratified


class Archive(ImageFiles):
    """Images of a public archive, which torchvision knows by the name of the class.

    Brightness 0 to 255 becomes -1 to 1.
    """

    held_out: ClassVar[int]
    """How many images of the archive's training set are the valid split."""

    def stored(self, split: str) -> Tensor:
        """Returns the images as bytes, of shape (N, *shape).

        Every call returns a view of the same tensor, which belongs to all callers: change a copy of it.
        """
        return self._split(split)[0]

    def labels(self, split: str) -> Tensor:
        """Returns the class of each image, of shape (N,).

        Every call returns a view of the same tensor, which belongs to all callers: change a copy of it.
        """
        return self._split(split)[1]

    def fetch(self, folder: Path) -> None:
        """Downloads the files, by torchvision."""
        for file, state in self.states(folder).items():
            if state == "damaged":
                (folder / file).unlink()
        for training in (True, False):
            self._archived(folder, training, download=True)

    def _archived(self, folder: Path, training: bool, download: bool = False) -> tuple[Any, Any]:
        """Returns the archive's images, bytes (N, H, W) or (N, H, W, 3), and labels, (N,), by torchvision."""
        from torchvision import datasets

        found = getattr(datasets, type(self).__name__)(folder, train=training, download=download)
        return found.data, found.targets

    def _split(self, split: str) -> tuple[Tensor, Tensor]:
        check_split(split)
        images, labels = _read(self, self.folder(), split != "test")
        begin = len(images) - self.held_out
        part = {"train": slice(0, begin), "valid": slice(begin, None), "test": slice(None)}[split]
        return images[part], labels[part]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""


@dataclass(frozen=True)
class MNIST(Archive):
    """Handwritten digits of 28×28 pixels: 50 000 to learn from, 10 000 to choose by, 10 000 to report on.

    References:
        | Gradient-based learning applied to document recognition (LeCun et al., 1998), Section III.A
        | https://doi.org/10.1109/5.726791
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    held_out: ClassVar[int] = 10_000

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (1, 28, 28)


@dataclass(frozen=True)
class FashionMNIST(Archive):
    """Articles of clothing of 28×28 pixels: 50 000 to learn from, 10 000 to choose by, 10 000 to report on.

    The classes are T-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker, bag and ankle boot.

    References:
        | Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms
        | (Xiao et al., 2017), https://arxiv.org/abs/1708.07747
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "FashionMNIST/raw/train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "FashionMNIST/raw/train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "FashionMNIST/raw/t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "FashionMNIST/raw/t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    held_out: ClassVar[int] = 10_000

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (1, 28, 28)


@dataclass(frozen=True)
class CIFAR10(Archive):
    """Photographs of 32×32 pixels: 45 000 to learn from, 5 000 to choose by, 10 000 to report on.

    The classes are airplane, automobile, bird, cat, deer, dog, frog, horse, ship and truck.

    References:
        | Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009), Chapter 3
        | https://www.cs.toronto.edu/~kriz/cifar.html
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    }
    held_out: ClassVar[int] = 5_000

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (3, 32, 32)


@dataclass(frozen=True)
class CIFAR100(Archive):
    """Photographs of a hundred classes: 45 000 to learn from, 5 000 to choose by, 10 000 to report on.

    An image has 32×32 pixels.

    References:
        | Learning Multiple Layers of Features from Tiny Images (Krizhevsky, 2009), Chapter 3
        | https://www.cs.toronto.edu/~kriz/cifar.html
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
        "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
        "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }
    held_out: ClassVar[int] = 5_000

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (3, 32, 32)


@dataclass(frozen=True)
class SVHN(Archive):
    """House numbers, a digit in 32×32 pixels: 68 257 to learn from, 5 000 to choose by, 26 032 to report on.

    The easier images that the archive calls extra are left out.

    References:
        | Reading Digits in Natural Images with Unsupervised Feature Learning (Netzer et al., 2011)
        | http://ufldl.stanford.edu/housenumbers/
    """

    files: ClassVar[Mapping[str, str | None]] = {
        "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
        "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
    }
    held_out: ClassVar[int] = 5_000

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (3, 32, 32)

    def _archived(self, folder: Path, training: bool, download: bool = False) -> tuple[Any, Any]:
        from torchvision import datasets

        found = datasets.SVHN(folder, "train" if training else "test", download=download)
        return found.data.transpose(0, 2, 3, 1), found.labels


@dataclass(frozen=True)
class ImageNet32(Archive):
    """Photographs of a thousand classes: 1 271 167 to learn from, 10 000 to choose by, 50 000 to report on.

    ImageNet of 2012, shrunk to 32×32 pixels by box sampling. It takes 4 GB of memory. The files are behind a
    login, so there is no download, and no checksum to compare them with.

    References:
        | A Downsampled Variant of ImageNet as an Alternative to the CIFAR datasets (Chrabaszcz et al., 2017)
        | https://arxiv.org/abs/1707.08819
    """

    files: ClassVar[Mapping[str, str | None]] = {
        **{f"imagenet32/train_data_batch_{number}.npz": None for number in range(1, 11)},
        "imagenet32/val_data.npz": None,
    }
    held_out: ClassVar[int] = 10_000

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (3, 32, 32)

    def fetch(self, folder: Path) -> None:
        """Says where the files are.

        Raises:
            DataError: If a file is absent.
        """
        if absent := [file for file, state in self.states(folder).items() if state == "absent"]:
            raise DataError(
                "ImageNet32 may not be passed on: log in at https://image-net.org/download-images, take the "
                "32×32 images in NumPy's format, training and validation set, and put them below "
                f"{folder / 'imagenet32'}. Absent: {', '.join(Path(file).name for file in absent)}"
            )

    def _archived(self, folder: Path, training: bool, download: bool = False) -> tuple[Any, Any]:
        names = [file for file in self.files if ("train" in Path(file).name) == training]
        batches = [_npz(folder / name) for name in names]
        images = np.concatenate([data for data, _ in batches]).reshape(-1, 3, 32, 32)
        return images.transpose(0, 2, 3, 1), np.concatenate([labels for _, labels in batches]) - 1


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a file, as bytes (N, 3072), channel by channel, and their labels from 1, (N,)."""
    try:
        with np.load(path) as content:  # which unpickles nothing
            return content["data"], content["labels"].astype(np.int64)
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is damaged, or not what the archive has: {error}") from error


@lru_cache(maxsize=6)
def _read(data: Archive, folder: Path, training: bool) -> tuple[Tensor, Tensor]:
    """Returns the training or test images of an archive, as bytes, and their labels, as splits order them."""
    found = data._archived(folder, training)
    images, labels = torch.as_tensor(found[0]), torch.as_tensor(found[1]).long()
    begin = len(labels) - data.held_out if training else 0
    parts = [np.arange(begin), np.arange(begin, len(labels))]
    order = np.concatenate([part[stratified(labels.numpy()[part], seed=0)] for part in parts])
    channels_first = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return channels_first[order].contiguous(), labels[order]
