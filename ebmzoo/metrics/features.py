"""Features of images, each image looked at once for all metrics that compare them.

Images are compared as 8-bit RGB, as files would hold them. Those of the data are an artifact of the store for
each split and extractor; those of samples are kept in memory for the next metric, under the digest of the
images.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ebmzoo.data.dataset import Dataset, check_split
from ebmzoo.metrics import extraction
from ebmzoo.metrics.extraction import LOGITS, POOLING
from ebmzoo.metrics.metric import check_finite
from ebmzoo.models import Model, evaluating, in_chunks
from ebmzoo.store import Recipe, Store, load_tensors, save_tensors, unfinished

BATCH = 256
"""How many images pass a classifier at once, which moves no value beyond float rounding."""

INCEPTION_BATCH = {"cpu": 16, "cuda": 64}
"""How many images pass Inception at once, each blown up to 299×299 pixels; more leave a CPU's cache."""

Get = Callable[[Recipe], Any]
"""Opens an artifact of the store."""


class Extractor(ABC):
    """What makes features of images. A frozen dataclass, so that a recipe can name it."""

    layer: ClassVar[str]
    """The name of the features in which images are compared."""

    def check_ready(self, metric: str) -> None:
        """Raises DataError, in the name of a metric, if a file that it needs is absent."""
        return

    @abstractmethod
    def identity(self, get: Get) -> str:
        """Returns what all that the features depend on, besides the images, hashes to."""

    @abstractmethod
    def features(self, images: Tensor, get: Get) -> dict[str, Tensor]:
        """Returns features (N, D) by name, on the CPU, of 8-bit images (N, channels, H, W)."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """Returns what moves all numbers that are computed of the features."""


@dataclass(frozen=True)
class ClassifierFeatures(Extractor):
    """The features of a classifier of the store, in double precision.

    Arguments:
        classifier: The recipe of the classifier. The energy of the model that it makes must have a method
            ``features`` from images (B, *shape) to vectors (B, D).
    """

    layer: ClassVar[str] = "features"
    classifier: Recipe

    def identity(self, get: Get) -> str:
        """Returns the digest of the weights."""
        return fingerprint(get(self.classifier).energy.state_dict())

    def features(self, images: Tensor, get: Get) -> dict[str, Tensor]:
        """Returns the features.

        Raises:
            ValueError: If they are not finite.
        """
        model: Model = get(self.classifier)
        network: Any = model.energy
        with torch.no_grad(), evaluating(model):
            features = in_chunks(lambda part: network.features(part.float() / 127.5 - 1), images, BATCH)
        features = features.double().cpu()
        if not features.isfinite().all():
            raise ValueError("the features are not finite; the classifier that makes them is broken")
        return {"features": features}

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the numbers."""
        return _protocol(self.classifier.key, "size as it is")


def extractor_of(features: Recipe | Extractor) -> Extractor:
    """Returns an extractor as it is, and for the recipe of a classifier what makes features with that."""
    return features if isinstance(features, Extractor) else ClassifierFeatures(features)


@dataclass(frozen=True)
class InceptionFeatures(Extractor):
    """The pooled features of Inception, and its logits."""

    layer: ClassVar[str] = POOLING

    def check_ready(self, metric: str) -> None:
        """Raises DataError unless Inception's weights are here."""
        extraction.inception_weights(metric)

    def identity(self, get: Get) -> str:
        """Returns the digest of the file of weights."""
        return extraction.INCEPTION_SHA256

    @torch.no_grad()
    def features(self, images: Tensor, get: Get) -> dict[str, Tensor]:
        """Returns the features, in single precision."""
        network = extraction.inception("Inception", images.device)
        batch = INCEPTION_BATCH[images.device.type]
        parts = [network(part.expand(-1, 3, -1, -1)) for part in images.split(batch)]
        return {
            name: torch.cat([part[index] for part in parts]).cpu()
            for index, name in enumerate((POOLING, LOGITS))
        }

    def protocol(self) -> dict[str, Any]:
        """Returns what moves the numbers."""
        size = "299×299 as TensorFlow 1 interpolates"
        return {**_protocol("inception-v3-compat", size), "weights": extraction.INCEPTION_SHA256}


def _protocol(extractor: str, size: str) -> dict[str, Any]:
    return {
        "extractor": extractor,
        "images": f"clipped to [-1, 1], rounded to 8 bits, {size}, grey as RGB",
        "torch-fidelity": extraction.version(),
    }


@dataclass(frozen=True)
class DataFeatures(Recipe):
    """The features of one split of a data set.

    Arguments:
        data: The data set, of images.
        split: The split.
        extractor: What makes the features.
        count: How many images are looked at, the first of the split; None for all.
    """

    artifact: ClassVar[str] = "artifact.safetensors"

    data: Dataset
    split: str
    extractor: Extractor
    count: int | None = None

    def __post_init__(self) -> None:
        check_split(self.split)

    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Makes the features."""
        for need in self.needs():
            store.get(need)  # so that its time does not count here
        began = time.monotonic()
        features = self.computed(store.get, store.runtime.torch_device())
        save_tensors(unfinished(folder, self), features)
        return {"seconds": round(time.monotonic() - began, 3)}

    def computed(self, get: Get, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Returns the features by name, on the CPU, made on a device.

        Raises:
            ValueError: If there are fewer images than ``count``.
        """
        images = eight_bit(self.data.load(self.split)).to(device)
        if self.count is not None and self.count > len(images):
            raise ValueError(
                f"count is {self.count}, but there are {len(images)} data of the split {self.split!r}"
            )
        return self.extractor.features(images[: self.count], get)

    def open(self, store: Store, kept: Path) -> dict[str, Tensor]:
        """Returns the features by name, on the CPU."""
        return load_tensors(kept)


class Compared(NamedTuple):
    """Features by which samples and data are compared, both of shape (*, D) and on the CPU.

    Arguments:
        samples: Those of the samples.
        data: Those of the data.
    """

    samples: Tensor
    data: Tensor


def compared(
    samples: Tensor,
    data: DataFeatures,
    get: Get,
    name: str,
    at_least: int,
    needs: str,
) -> Compared:
    """Returns the features of samples and of the data that they are compared with.

    Arguments:
        samples: The samples, images (N, *).
        data: The recipe of the data's features.
        get: Opens an artifact of the store.
        name: The name of the features.
        at_least: How many samples and data there must be.
        needs: What asks for so many, for the message.

    Raises:
        ValueError: If samples or data are too few, or no finite images of one shape.
    """
    check_images(samples, data.data)
    real = get(data)[name]
    if min(len(samples), len(real)) < at_least:
        raise ValueError(
            f"{needs} asks for {at_least} samples and data or more; there are {len(samples)} samples and "
            f"{len(real)} data of the split {data.split!r}"
        )
    return Compared(sample_features(samples, data.extractor, get)[name], real)


def sample_features(samples: Tensor, extractor: Extractor, get: Get) -> dict[str, Tensor]:
    """Returns the features of samples (N, *) by name; those of the last samples are remembered."""
    images = eight_bit(samples)
    key = (hashlib.sha256(images.cpu().numpy().tobytes()).hexdigest(), extractor.identity(get))
    if key not in _remembered:
        while len(_remembered) >= 2:
            _remembered.popitem(last=False)
        _remembered[key] = extractor.features(images, get)
    return _remembered[key]


_remembered: OrderedDict[tuple[str, str], dict[str, Tensor]] = OrderedDict()


def eight_bit(images: Tensor) -> Tensor:
    """Returns images as files hold them.

    Arguments:
        images: Images in [-1, 1], of shape (N, C, H, W); what lies outside is clipped.

    Returns:
        The images as integers 0 to 255, rounded to the nearest, of the same shape.
    """
    return ((images.detach().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def check_images(samples: Tensor, data: Dataset) -> None:
    """Raises ValueError unless samples (N, *) are finite images of the shape of the data."""
    check_finite(samples)
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise ValueError(f"images (1 or 3, H, W) are needed; {type(data).__name__} holds {data.shape}")
    if samples.shape[1:] != data.shape:
        raise ValueError(f"samples are {tuple(samples.shape[1:])}, but the data are {data.shape}")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
